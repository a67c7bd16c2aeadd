use crate::access::{Access, guard};
use crate::caller::Caller;
use crate::failure::{Failure, worded};
use crate::jobs::{Idempotency, Jobs, Submission};
use crate::span::in_span;
use crate::{metrics, openapi};
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream::StreamExt as _;
use operations_contract::{
    ApiError, BODY_BYTES, ErrorCode, Info, JobList, JobResponse, JobState, Operation, OperationKind, Readiness,
    Validated,
};
use serde::Deserialize;
use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;

/// What a server brings to the routes that all have.
pub trait JobServer: Clone + Send + Sync + 'static {
    /// Whether it serves operations of this kind; others are refused by their name.
    fn serves(&self, kind: OperationKind) -> bool;

    /// Where its jobs are kept.
    type Jobs: Jobs;

    /// Its jobs.
    fn jobs(&self) -> &Self::Jobs;

    /// Admits a job, which then runs whether or not anybody listens. How a route of its own uses it: [`Jobs`].
    fn create_job(&self, submission: Submission) -> impl Future<Output = Result<JobResponse, ApiError>> + Send;

    /// What it is.
    fn info(&self) -> Info;

    /// Whether it can serve now, and why not.
    fn ready(&self) -> Readiness;
}

/// A comment in a stream after this long without an event keeps connections alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Bodies up to this size are read on the thread that answers; larger ones hold images, whose decoding takes a while.
const SMALL_BODY: usize = 64 * 1024;

/// Of a body that is too large so much is still read, because many clients read no answer before they sent all.
const DISCARDED: usize = 8 * BODY_BYTES;

/// The routes that every server has.
pub fn router<S: JobServer>(server: S, access: &Access) -> Router {
    router_with(server, access, Router::new())
}

/// The routes that every server has and `more`, which one server has.
pub fn router_with<S: JobServer>(server: S, access: &Access, more: Router) -> Router {
    protect(job_routes(server).merge(more), access)
}

/// Puts what all routes have in common around them: who may ask, and errors that are JSON.
fn protect(routes: Router, access: &Access) -> Router {
    let routes = routes
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(in_span))
        .layer(from_fn_with_state(access.clone(), guard));
    let routes = match access.cors() {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes.layer(map_response(worded))
}

fn job_routes<S: JobServer>(server: S) -> Router {
    Router::new()
        .route("/v1/jobs", post(create::<S>).get(list::<S>))
        .route("/v1/jobs/{id}", get(job::<S>).delete(cancel::<S>))
        .route("/v1/jobs/{id}/stream", get(stream::<S>))
        .route("/v1/jobs/{id}/images/{n}", get(picture::<S>))
        .route("/v1/info", get(info::<S>))
        .route("/health", get(health))
        .route("/ready", get(ready::<S>))
        .route("/metrics", get(metrics_text::<S>))
        .route("/openapi.json", get(description::<S>))
        .with_state(server)
}

async fn create<S: JobServer>(State(server): State<S>, caller: Caller, request: Request) -> Result<Response, Failure> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"multipart/")) {
        let message = "multipart is not taken here; send JSON, with images in base64";
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, message).into());
    }
    let key = request.headers().get(Idempotency::HEADER).cloned();
    // A small body is read sooner than the queue is looked at; and a job that is there already is answered with even
    // when there is no room for another.
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if key.is_none() && length.is_none_or(|length: usize| length > SMALL_BODY) {
        server.jobs().admits().await?;
    }
    let body = read_body(request.into_body()).await?;
    let idempotency = key.map(|key| Idempotency::new(key.as_bytes(), &body)).transpose()?;
    let operation = if body.len() <= SMALL_BODY {
        read_operation(&server, &body)?
    } else {
        let server = server.clone();
        let reading = tokio::task::spawn_blocking(move || read_operation(&server, &body));
        reading.await.map_err(|_| ApiError::internal("reading the request failed; the server's log says why"))??
    };
    let submission = Submission { operation, caller: caller.clone(), idempotency: idempotency.clone() };
    let create = server.create_job(submission);
    let response = server.jobs().once(&caller, idempotency.as_ref(), create).await?;
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", response.job_id));
    let mut answer = (StatusCode::ACCEPTED, Json(response)).into_response();
    if let Ok(location) = location {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    Ok(answer)
}

fn read_operation<S: JobServer>(server: &S, body: &[u8]) -> Result<Validated<Operation>, ApiError> {
    Operation::from_json(body, |kind| server.serves(kind))?.validate()
}

async fn read_body(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut read = Vec::new();
    let mut size = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::malformed(format!("the body ended early: {error}")))?;
        size += chunk.len();
        if size <= BODY_BYTES {
            read.extend_from_slice(&chunk);
        } else {
            read = Vec::new();
        }
        if size > DISCARDED {
            break;
        }
    }
    if size <= BODY_BYTES {
        return Ok(read);
    }
    Err(ApiError::new(ErrorCode::PayloadTooLarge, format!("the body may have at most {BODY_BYTES} bytes")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    state: Option<String>,
    limit: Option<String>,
}

async fn list<S: JobServer>(
    State(server): State<S>,
    caller: Caller,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<JobList>, Failure> {
    const MOST: usize = 1000;
    let Query(query) = query.map_err(|error| ApiError::malformed(error.body_text()))?;
    let state = match query.state.as_deref() {
        None | Some("") => None,
        Some(word) => Some(JobState::from_word(word).ok_or_else(|| {
            let known = JobState::ALL.map(JobState::as_str).join(", ");
            ApiError::malformed(format!("state must be one of {known}, got {word:?}")).with_param("state")
        })?),
    };
    let limit = match query.limit.as_deref() {
        None | Some("") => 100,
        Some(text) => text.parse::<usize>().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or_else(|| {
            ApiError::malformed(format!("limit must be between 1 and {MOST}, got {text:?}")).with_param("limit")
        })?,
    };
    Ok(Json(JobList { jobs: server.jobs().list(&caller, state, limit).await? }))
}

async fn job<S: JobServer>(
    State(server): State<S>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    Ok(Json(server.jobs().job(&caller, &path(id)?).await?).into_response())
}

async fn cancel<S: JobServer>(
    State(server): State<S>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    Ok(Json(server.jobs().cancel(&caller, &path(id)?).await?).into_response())
}

async fn stream<S: JobServer>(
    State(server): State<S>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let after = last_event_id(&headers)?;
    let Some(events) = server.jobs().events(&caller, &path(id)?, after).await? else {
        // Whoever has read the last event and connects again, as browsers do, is told so to stop.
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let events = events.map(|(id, event)| {
        let data = serde_json::to_string(&*event).unwrap_or_else(|_| String::from("{}"));
        Ok::<_, Infallible>(Event::default().id(id.to_string()).event(event.name()).data(data))
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive"));
    // Proxies that buffer would hold the events back.
    Ok(([("x-accel-buffering", "no")], sse).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<u64, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(0) };
    let text = String::from_utf8_lossy(value.as_bytes());
    match text.trim() {
        "" => Ok(0),
        text => text.parse().map_err(|_| {
            let shown: String = text.chars().take(64).collect();
            ApiError::malformed(format!("Last-Event-ID must be the number of an event, got {shown:?}"))
                .with_param("Last-Event-ID")
        }),
    }
}

async fn picture<S: JobServer>(
    State(server): State<S>,
    caller: Caller,
    place: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Failure> {
    let (id, index) = path(place)?;
    let index = index
        .parse()
        .map_err(|_| ApiError::new(ErrorCode::NotFound, format!("pictures are numbered from 0, got {index:?}")))?;
    let (file, format) = server.jobs().picture(&caller, &id, index).await?;
    let headers = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::CACHE_CONTROL, "private, max-age=604800, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, file).into_response())
}

async fn info<S: JobServer>(State(server): State<S>) -> Json<Info> {
    Json(server.info())
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({"status": "ok"}))
}

fn readiness<S: JobServer>(server: &S) -> Readiness {
    if server.jobs().is_closed() {
        return Readiness { ready: false, reason: Some("the server is stopping".to_owned()) };
    }
    server.ready()
}

async fn ready<S: JobServer>(State(server): State<S>) -> Response {
    let readiness = readiness(&server);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics_text<S: JobServer>(State(server): State<S>) -> Response {
    let text = metrics::render(&server.jobs().totals().await, &server.info(), readiness(&server).ready);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn description<S: JobServer>(State(server): State<S>) -> Json<serde_json::Value> {
    let info = server.info();
    Json(openapi::openapi(&info.server, &info.version, |kind| server.serves(kind)))
}

async fn no_route(request: Request) -> Failure {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(ErrorCode::NotFound, format!("there is nothing at {path}; /openapi.json says what there is")).into()
}

async fn no_method(request: Request) -> Failure {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(ErrorCode::MethodNotAllowed, format!("{path} does not take {}", request.method())).into()
}

fn path<T>(place: Result<Path<T>, PathRejection>) -> Result<T, ApiError> {
    place.map(|Path(place)| place).map_err(|error| ApiError::malformed(error.body_text()))
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over so")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!("a request panicked: {}", what.unwrap_or("no message"));
    Failure(ApiError::internal("the request failed here; the server's log says why")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn only_a_number_is_an_events_id(text in "[0-9]{0,25}|[ -~]{0,12}|-[0-9]{1,3}|0x[0-9a-f]{1,4}") {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", HeaderValue::from_str(&text).unwrap());
            let word = text.trim();
            let digits = word.strip_prefix('+').unwrap_or(word);
            let is_number = word.is_empty() || (digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u64>().is_ok());
            match last_event_id(&headers) {
                Ok(id) => prop_assert!(is_number && (word.is_empty() || id == digits.parse::<u64>().unwrap())),
                Err(error) => {
                    prop_assert!(!is_number, "{}", text);
                    prop_assert_eq!(error.param.as_deref(), Some("Last-Event-ID"));
                }
            }
        }
    }
}
