//! The routes of Ollama's API that its clients need to list models, to chat and to write.
//!
//! Reference: <https://docs.ollama.com/api>

mod form;
mod write;

use crate::running::Models;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use operations_contract::{ApiError, BODY_BYTES};
use serde_json::{Value, json};

/// The routes, over a server's jobs.
pub(crate) fn router<S: Models>(server: S) -> Router {
    Router::new()
        .route("/api/tags", get(tags::<S>))
        .route("/api/version", get(version))
        .route("/api/chat", post(write::chat::<S>))
        .route("/api/generate", post(write::generate::<S>))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(server)
}

/// An error in Ollama's form: `{"error": "…"}`.
struct OllamaError(ApiError);

impl From<ApiError> for OllamaError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for OllamaError {
    fn into_response(self) -> Response {
        // Ollama knows no 422.
        let status = if self.0.status() == 422 { 400 } else { self.0.status() };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(json!({ "error": self.0.message }))).into_response()
    }
}

/// The models that write; Ollama's clients have no use for one that paints.
async fn tags<S: Models>(State(server): State<S>) -> Result<Json<Value>, OllamaError> {
    let models = server.models().await?;
    let models: Vec<Value> = models
        .iter()
        .filter(|model| model.writes)
        .map(|model| {
            json!({
                "name": model.name, "model": model.name, "modified_at": form::time(model.created_s * 1000),
                "size": model.bytes.unwrap_or(0), "digest": "",
                "details": {"format": "gguf", "family": "", "families": [], "parameter_size": "",
                            "quantization_level": "", "parent_model": ""},
            })
        })
        .collect();
    Ok(Json(json!({ "models": models })))
}

async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}
