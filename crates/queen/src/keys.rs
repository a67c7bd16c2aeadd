//! API keys: made, listed and revoked by an administrator; and who brings one.

use crate::server::QueenServer;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, post};
use axum::{Json, Router};
use broker::{Broker, NewKey, Role};
use bytes::Bytes;
use job_server::{Caller, Failure, Keys, Looking};
use operations_contract::{ApiError, ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// The routes that hives on other machines ask.
const HIVE_ROUTES: &str = "/v1/hive/";

/// The broker's keys, as the rules of access ask for them.
#[derive(Debug)]
pub(crate) struct BrokerKeys(pub(crate) Arc<dyn Broker>);

impl Keys for BrokerKeys {
    /// A hive's token opens the routes of hives and nothing else.
    fn caller<'a>(&'a self, secret: &'a str, path: &'a str) -> Looking<'a, Option<Caller>> {
        Box::pin(async move {
            let Some((id, role)) = self.0.check_key(secret).await? else { return Ok(None) };
            let opens = role != Role::Hive || path.starts_with(HIVE_ROUTES);
            Ok(opens.then(|| Caller::key(id.0, role == Role::Admin)))
        })
    }

    fn any(&self) -> Looking<'_, bool> {
        Box::pin(async { Ok(any_client_key(&*self.0).await?) })
    }
}

/// Whether there is a key that clients can bring.
pub(crate) async fn any_client_key(broker: &dyn Broker) -> Result<bool, broker::BrokerError> {
    Ok(broker.keys().await?.iter().any(|key| key.role != Role::Hive))
}

pub(crate) fn routes(queen: QueenServer) -> Router {
    Router::new()
        .route("/v1/keys", post(create).get(list))
        .route("/v1/keys/{name}", delete(revoke))
        .route("/v1/hives/invite", post(invite))
        .with_state(queen)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateKey {
    name: String,
    #[serde(default)]
    admin: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Invite {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Debug, Serialize)]
struct Created {
    id: String,
    name: String,
    role: Role,
    /// Shown this once.
    key: String,
}

async fn create(
    State(queen): State<QueenServer>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<Created>), Failure> {
    caller.require_admin("making keys")?;
    let CreateKey { name, admin } = read(&body)?;
    let role = if admin { Role::Admin } else { Role::User };
    make(&queen, name, role).await
}

/// A token with which a hive on another machine joins.
async fn invite(
    State(queen): State<QueenServer>,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<Created>), Failure> {
    caller.require_admin("inviting a hive")?;
    let Invite { name } = if body.is_empty() { Invite { name: None } } else { read(&body)? };
    let drawn = || format!("hive-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    make(&queen, name.unwrap_or_else(drawn), Role::Hive).await
}

async fn make(queen: &QueenServer, name: String, role: Role) -> Result<(StatusCode, Json<Created>), Failure> {
    let NewKey { id, secret } = queen.broker().create_key(&name, role).await.map_err(ApiError::from)?;
    tracing::info!("made the {} key {name} ({id})", role.as_str());
    Ok((StatusCode::CREATED, Json(Created { id: id.0, name, role, key: secret })))
}

async fn list(State(queen): State<QueenServer>, caller: Caller) -> Result<Json<Value>, Failure> {
    caller.require_admin("listing keys")?;
    let keys = queen.broker().keys().await.map_err(ApiError::from)?;
    Ok(Json(json!({ "keys": keys })))
}

async fn revoke(
    State(queen): State<QueenServer>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failure> {
    caller.require_admin("revoking keys")?;
    if queen.broker().revoke_key(&name).await.map_err(ApiError::from)? {
        tracing::info!("revoked the key {name}");
        return Ok(StatusCode::NO_CONTENT);
    }
    let shown: String = name.chars().take(64).collect();
    Err(ApiError::new(ErrorCode::NotFound, format!("there is no key {shown:?}; see them with: rbee key list")).into())
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::malformed(error.to_string()))
}
