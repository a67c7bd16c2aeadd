use super::wire::{Append, AskCancelled, Enlist, Finish, IsCancelled, LONGEST_POLL, Refusal, Retire, Return};
use crate::{AttemptId, BlobId, Broker, BrokerError, ClaimRequest, KeyId, Role};
use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use operations_contract::ApiError;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Bytes of a call: the largest is an `append` with a preview in base64.
const BODY_BYTES: usize = 16 * 1024 * 1024;
/// Hives that may be kept waiting at the same time.
const POLLS: usize = 1024;

#[derive(Clone)]
struct Queen(Arc<Inner>);

struct Inner {
    broker: Arc<dyn Broker>,
    /// Ids that no hive from outside may take.
    reserved: Vec<String>,
    polls: Semaphore,
}

/// The queen's routes for hives on other machines. Each needs the token of a hive, or an admin's key. `reserved` are
/// ids that none of them may take: those of the queen's own hive.
pub fn hive_routes(broker: Arc<dyn Broker>, reserved: Vec<String>) -> Router {
    let queen = Queen(Arc::new(Inner { broker, reserved, polls: Semaphore::new(POLLS) }));
    Router::new()
        .route("/v1/hive/enlist", post(enlist))
        .route("/v1/hive/retire", post(retire))
        .route("/v1/hive/claim", post(claim))
        .route("/v1/hive/renew", post(renew))
        .route("/v1/hive/cancelled", post(cancelled))
        .route("/v1/hive/append", post(append))
        .route("/v1/hive/finish", post(finish))
        .route("/v1/hive/give_back", post(give_back))
        .route("/v1/hive/blobs/{id}", get(blob).put(put_blob))
        .layer(from_fn_with_state(queen.clone(), guard))
        .with_state(queen)
}

struct Refused(BrokerError);

impl From<BrokerError> for Refused {
    fn from(error: BrokerError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let error = ApiError::from(self.0.clone());
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(Refusal { error, broker: self.0 })).into_response()
    }
}

/// A JSON body of bounded size.
struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Queen> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &Queen) -> Result<Self, Refused> {
        let body = read(request, BODY_BYTES).await?;
        let value = serde_json::from_slice(&body);
        value.map(Body).map_err(|error| BrokerError::invalid(format!("the body cannot be read: {error}")).into())
    }
}

async fn read(request: Request, most: usize) -> Result<Bytes, Refused> {
    let body = to_bytes(request.into_body(), most).await;
    body.map_err(|error| BrokerError::invalid(format!("the body is no more than {most} bytes: {error}")).into())
}

/// Who has no token is not listened to.
async fn guard(State(queen): State<Queen>, mut request: Request, next: Next) -> Response {
    match queen.who(request.headers()).await {
        Ok(key) => {
            request.extensions_mut().insert(key);
            next.run(request).await
        }
        Err(error) => Refused(error).into_response(),
    }
}

impl Queen {
    async fn who(&self, headers: &HeaderMap) -> Result<KeyId, BrokerError> {
        let unauthorized = |message: &str| BrokerError::Unauthorized { message: message.to_owned() };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, token) = given.split_once(' ').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(unauthorized("a hive needs a token: `rbee hive invite` at the queen makes one"));
        }
        match self.0.broker.check_key(token.trim()).await? {
            Some((key, Role::Hive | Role::Admin)) => Ok(key),
            Some((_, Role::User)) => Err(unauthorized("this key is a user's; a hive needs a token of its own")),
            None => Err(unauthorized("the token is not known here; `rbee hive invite` at the queen makes another")),
        }
    }

    /// A hive is who it says if its token is the one that came with that name first. Whether one has come yet.
    async fn is_its_own(&self, key: &KeyId, hive_id: &str) -> Result<bool, BrokerError> {
        let reserved = self.0.reserved.iter().any(|id| id == hive_id);
        let owner = self.0.broker.hive_owner(hive_id).await?;
        if reserved || owner.as_ref().is_some_and(|owner| owner != key) {
            return Err(BrokerError::NotIts { hive_id: hive_id.to_owned() });
        }
        Ok(owner.is_some())
    }
}

type Key = Extension<KeyId>;

async fn enlist(State(queen): State<Queen>, key: Key, Body(call): Body<Enlist>) -> Result<StatusCode, Refused> {
    let hive_id = call.hive.hive_id.clone();
    check_id(&hive_id)?;
    // A hive enlists every few seconds, and binding is synced.
    if !queen.is_its_own(&key, &hive_id).await? {
        queen.0.broker.bind_hive(&hive_id, &key).await?;
    }
    queen.0.broker.enlist(call.hive, Duration::from_millis(call.ttl_ms)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn retire(State(queen): State<Queen>, key: Key, Body(call): Body<Retire>) -> Result<StatusCode, Refused> {
    queen.is_its_own(&key, &call.hive_id).await?;
    queen.0.broker.retire(&call.hive_id, call.incarnation).await?;
    queen.0.broker.release_hive(&call.hive_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn claim(State(queen): State<Queen>, key: Key, Body(call): Body<ClaimRequest>) -> Result<Response, Refused> {
    queen.is_its_own(&key, &call.hive_id).await?;
    let _poll = queen.poll()?;
    let call = ClaimRequest { patience: call.patience.min(LONGEST_POLL), ..call };
    Ok(match queen.0.broker.claim(call).await? {
        Some(claim) => Json(claim).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn renew(State(queen): State<Queen>, Body(attempt): Body<AttemptId>) -> Result<Response, Refused> {
    Ok(Json(queen.0.broker.renew(&attempt).await?).into_response())
}

async fn cancelled(State(queen): State<Queen>, Body(call): Body<AskCancelled>) -> Result<Response, Refused> {
    let _poll = queen.poll()?;
    let patience = Duration::from_millis(call.patience_ms).min(LONGEST_POLL);
    let cancelled = queen.0.broker.cancelled(&call.attempt, patience).await?;
    Ok(Json(IsCancelled { cancelled }).into_response())
}

async fn append(State(queen): State<Queen>, Body(call): Body<Append>) -> Result<Response, Refused> {
    Ok(Json(queen.0.broker.append(&call.attempt, call.sequence, call.events).await?).into_response())
}

async fn finish(State(queen): State<Queen>, Body(call): Body<Finish>) -> Result<StatusCode, Refused> {
    queen.0.broker.finish(&call.attempt, call.ending).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn give_back(State(queen): State<Queen>, Body(call): Body<Return>) -> Result<StatusCode, Refused> {
    queen.0.broker.give_back(&call.attempt, call.why).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn blob(State(queen): State<Queen>, Path(id): Path<String>) -> Result<Response, Refused> {
    let bytes = queen.0.broker.blob(&blob_id(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

async fn put_blob(State(queen): State<Queen>, Path(id): Path<String>, request: Request) -> Result<StatusCode, Refused> {
    let named = blob_id(&id)?;
    let bytes = read(request, BlobId::MAX_BYTES).await?;
    let hashed = bytes.clone();
    let id = tokio::task::spawn_blocking(move || BlobId::of(&hashed)).await.map_err(|_| BrokerError::Stopping)?;
    if id != named {
        return Err(BrokerError::invalid(format!("the bytes of {named} were changed on their way")).into());
    }
    queen.0.broker.put_blob(bytes).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Queen {
    fn poll(&self) -> Result<tokio::sync::SemaphorePermit<'_>, BrokerError> {
        self.0.polls.try_acquire().map_err(|_| BrokerError::Full { limit: POLLS })
    }
}

fn blob_id(text: &str) -> Result<BlobId, BrokerError> {
    text.parse().map_err(BrokerError::invalid)
}

/// Ids are shown, logged and compared; they are plain and short.
fn check_id(hive_id: &str) -> Result<(), BrokerError> {
    let plain = |char: char| !char.is_control() && !matches!(char, '/' | '\\' | ':');
    if hive_id.is_empty() || hive_id.len() > operations_contract::ID_BYTES || !hive_id.chars().all(plain) {
        return Err(BrokerError::invalid(format!("a hive's id is a plain name, got {hive_id:?}")));
    }
    Ok(())
}
