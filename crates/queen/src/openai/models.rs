use super::OpenAiError;
use crate::running::{ModelCard, Models};
use axum::Json;
use axum::extract::{Path, State};
use operations_contract::{ApiError, ErrorCode, same_model};
use serde_json::{Value, json};

/// `GET /v1/models`
pub(super) async fn list<S: Models>(State(server): State<S>) -> Result<Json<Value>, OpenAiError> {
    let models: Vec<Value> = server.models().await?.iter().map(object).collect();
    Ok(Json(json!({"object": "list", "data": models})))
}

/// `GET /v1/models/{model}`
pub(super) async fn get<S: Models>(
    State(server): State<S>,
    Path(name): Path<String>,
) -> Result<Json<Value>, OpenAiError> {
    let models = server.models().await?;
    let known = models.iter().find(|model| same_model(&model.name, &name));
    let missing = || {
        let name: String = name.chars().take(100).collect();
        ApiError::new(ErrorCode::ModelNotFound, format!("there is no model {name:?}")).with_param("model")
    };
    Ok(Json(object(known.ok_or_else(missing)?)))
}

fn object(model: &ModelCard) -> Value {
    json!({"id": model.name, "object": "model", "created": model.created_s, "owned_by": "rbee"})
}
