//! What is logged while a request about a job is answered says which job.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use operations_contract::Level;
use tracing::{Instrument as _, Span};

/// The id under which whoever asks knows the job that he asks for: a hive hands on the queen's, so that the log of a worker
/// and the log of the queen say the same.
pub(crate) const JOB_HEADER: HeaderName = HeaderName::from_static("x-rbee-job");

/// The span of a job. It is of the highest level, so that a log that shows only warnings says whose they are.
pub fn job_span(id: &str) -> Span {
    tracing::error_span!("job", id)
}

/// Writes into the log what is narrated to a job.
pub fn log(level: Level, message: &str) {
    match level {
        Level::Debug => tracing::debug!("{message}"),
        Level::Info => tracing::info!("{message}"),
        Level::Warn => tracing::warn!("{message}"),
        Level::Error => tracing::error!("{message}"),
    }
}

pub(crate) async fn in_span(request: Request, next: Next) -> Response {
    let span = match job_of(&request) {
        Some(id) => job_span(id),
        None => Span::none(),
    };
    next.run(request).instrument(span).await
}

fn job_of(request: &Request) -> Option<&str> {
    let named = request.headers().get(JOB_HEADER).and_then(|id| id.to_str().ok());
    let id = named.or_else(|| request.uri().path().strip_prefix("/v1/jobs/")?.split('/').next())?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (id.starts_with("job-") && id.len() <= 64 && id.bytes().all(plain)).then_some(id)
}

/// As a header.
pub(crate) fn header_of(id: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn a_request_says_which_job_it_is_about() {
        let job = |path: &str, named: Option<&str>| {
            let request = Request::builder().uri(path);
            let request = match named {
                Some(id) => request.header(JOB_HEADER, id),
                None => request,
            };
            job_of(&request.body(Body::empty()).unwrap()).map(str::to_owned)
        };
        assert_eq!(job("/v1/jobs/job-1/stream", None).as_deref(), Some("job-1"));
        assert_eq!(job("/v1/jobs", Some("job-2")).as_deref(), Some("job-2"));
        for (path, named) in [("/v1/jobs", None), ("/v1/jobs/x%0A", None), ("/v1/jobs", Some("job-a job-b"))] {
            assert_eq!(job(path, named), None, "{path}");
        }
    }
}
