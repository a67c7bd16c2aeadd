//! `POST /v1/embeddings` in OpenAI's form: texts as vectors. It is no operation: it has no events and its answer is at once.

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router, body::Bytes};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use job_server::{CancellationToken, Failure, Outcome};
use operations_contract::{ApiError, ErrorCode, Priority};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use worker_engine::GenerationResponse;

use crate::backend::{Embedding, GenerationRequest, LONGEST_EMBEDDED, LlmRequest};
use crate::job_router::AppState;

/// Texts in one request, as at OpenAI.
const TEXTS: usize = 2048;
const BODY_BYTES: usize = 16 << 20;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    input: Input,
    model: Option<String>,
    #[serde(default)]
    encoding_format: Format,
    /// Whose request it is; nobody here minds.
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a text or a list of texts")]
enum Input {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Float,
    Base64,
}

pub(crate) fn routes(state: AppState) -> Router {
    Router::new().route("/v1/embeddings", post(embeddings)).layer(DefaultBodyLimit::max(BODY_BYTES)).with_state(state)
}

async fn embeddings(State(state): State<AppState>, body: Bytes) -> Result<Json<Value>, Failure> {
    Ok(Json(answer(&state, &body).await?))
}

async fn answer(state: &AppState, body: &[u8]) -> Result<Value, ApiError> {
    let asked: Asked = serde_json::from_slice(body)
        .map_err(|error| ApiError::malformed(format!("the body cannot be read: {error}")))?;
    state.check_model(asked.model.as_deref())?;
    let texts = match asked.input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    if texts.is_empty() || texts.len() > TEXTS {
        let message = format!("input may hold 1 to {TEXTS} texts, got {}", texts.len());
        return Err(ApiError::invalid("input", message));
    }
    state.queue.admits()?;
    let Some(reader) = state.reader() else {
        return Err(ApiError::new(ErrorCode::Unavailable, "the model still loads; ask again in a moment"));
    };
    let reading = tokio::task::spawn_blocking(move || {
        let longest = reader.context().min(LONGEST_EMBEDDED);
        texts
            .iter()
            .map(|text| {
                let tokens = reader.tokens("input", text)?;
                if tokens.len() > longest {
                    let message =
                        format!("a text of input has {} tokens, and at most {longest} become one vector", tokens.len());
                    return Err(ApiError::invalid("input", message));
                }
                Ok(tokens)
            })
            .collect::<Result<Vec<_>, ApiError>>()
    });
    let texts =
        reading.await.map_err(|_| ApiError::internal("reading the texts failed; the worker's log says why"))??;
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let vectors = compute(state, Embedding { texts }).await?;
    let data: Vec<Value> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = match asked.encoding_format {
                Format::Float => json!(vector),
                Format::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                    json!(BASE64_STANDARD.encode(bytes))
                }
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(json!({"object": "list", "data": data, "model": state.model(), "usage": usage}))
}

/// Through the same queue as every text, so that the engine's thread computes it.
async fn compute(state: &AppState, embedding: Embedding) -> Result<Vec<Vec<f32>>, ApiError> {
    let (response_tx, mut responses) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    // Whoever goes away drops this, and with it the wish.
    let _gone = cancel.clone().drop_guard();
    let request = LlmRequest::Embed(embedding);
    state.queue.add_request(GenerationRequest {
        request,
        priority: Priority::default(),
        span: tracing::Span::current(),
        cancel,
        response_tx,
    })?;
    loop {
        match responses.recv().await {
            Some(GenerationResponse::Complete(Outcome::Result(vectors))) => {
                return serde_json::from_value(vectors).map_err(|error| ApiError::internal(error.to_string()));
            }
            Some(GenerationResponse::Error(error)) => return Err(error),
            None | Some(GenerationResponse::Complete(_) | GenerationResponse::Cancelled) => {
                return Err(ApiError::internal("the worker's engine stopped before it answered"));
            }
            Some(_) => {}
        }
    }
}
