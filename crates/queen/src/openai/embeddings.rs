use super::{OpenAiError, read, unserved};
use crate::running::{Models, Running};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use job_server::Caller;
use job_server::client::{Client, ClientError};
use operations_contract::{ApiError, ErrorCode, InferRequest, Operation};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
struct EmbeddingRequest {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    dimensions: Option<u32>,
}

/// `POST /v1/embeddings`: answered by a worker that has the model loaded, to which the request goes as it came.
pub(super) async fn create<S: Models>(
    State(server): State<S>,
    caller: Caller,
    body: Bytes,
) -> Result<Json<Value>, OpenAiError> {
    let request: EmbeddingRequest = read(&body)?;
    unserved("dimensions", request.dimensions.is_some(), "embeddings have the model's own width")?;
    let model = request.model.as_deref();
    let url = match server.language_worker(model).await? {
        Some(url) => url,
        None => {
            load(&server, &caller, model).await?;
            let gone = || ApiError::new(ErrorCode::Unavailable, "the worker with the model has gone; ask again");
            server.language_worker(model).await?.ok_or_else(gone)?
        }
    };
    let unreachable = |error: ClientError| match error {
        ClientError::Refused(error) => error,
        other => ApiError::new(ErrorCode::Unavailable, other.to_string()),
    };
    let client = Client::new(&url).map_err(unreachable)?;
    let body: Value = read(&body)?;
    Ok(Json(client.post(&["v1", "embeddings"], &body).await.map_err(unreachable)?))
}

/// The shortest job there is brings a worker with the model up, where jobs queue for it like all others.
async fn load<S: Models>(server: &S, caller: &Caller, model: Option<&str>) -> Result<(), ApiError> {
    let request = InferRequest {
        model: model.map(str::to_owned),
        prompt: Some(" ".to_owned()),
        max_tokens: 1,
        stream: false,
        ..InferRequest::default()
    };
    Running::start(server, caller, Operation::Infer(request)).await?.completion(|_| {}).await.map(drop)
}
