//! The routes of OpenAI's API, so that programs that were written for it paint and write here unchanged.
//!
//! Each route reads OpenAI's form into an [`operations_contract::Operation`], makes a job of it like any other, and
//! tells that job's events in OpenAI's words. Fields that would change the answer and are not served are refused by
//! their name; fields that only concern OpenAI's own service are passed over.
//! Reference: <https://platform.openai.com/docs/api-reference>

mod chat;
mod completions;
mod edits;
mod embeddings;
mod error;
mod images;
mod messages;
mod models;
mod sampling;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use error::OpenAiError;

use crate::running::Models;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use operations_contract::{ApiError, BODY_BYTES};
use serde::de::DeserializeOwned;
use std::time::{SystemTime, UNIX_EPOCH};

/// The routes, over a server's jobs.
pub(crate) fn router<S: Models>(server: S) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::create::<S>))
        .route("/v1/completions", post(completions::create::<S>))
        .route("/v1/embeddings", post(embeddings::create::<S>))
        .route("/v1/models", get(models::list::<S>))
        // A repository's name has a slash in it, which clients do not always escape.
        .route("/v1/models/{*model}", get(models::get::<S>))
        .route("/v1/images/generations", post(images::generate::<S>))
        .route("/v1/images/edits", post(edits::edit::<S>))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(server)
}

/// Reads a body; what is wrong is named by its path.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let refused = ApiError::malformed(error.inner().to_string());
        // A body that is cut off has no place to name.
        if matches!(&*path, "." | "?") { refused } else { refused.with_param(path) }
    })
}

/// Refuses a field that would change the answer and that nothing here serves.
pub(crate) fn unserved(param: &str, is_set: bool, instead: &str) -> Result<(), ApiError> {
    if is_set { Err(ApiError::invalid(param, format!("{param} is not served; {instead}"))) } else { Ok(()) }
}

/// Seconds since 1970 UTC.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
