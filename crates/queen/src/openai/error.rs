use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use job_server::Failure;
use operations_contract::ApiError;
use serde_json::{Value, json};

/// An error in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug)]
pub(crate) struct OpenAiError(pub(crate) ApiError);

impl OpenAiError {
    /// The body, also of the last event of a stream that failed.
    pub(crate) fn body(&self) -> Value {
        let error = &self.0;
        json!({"error": {
            "message": error.message, "type": kind(self.status()), "param": error.param, "code": error.code.as_str(),
        }})
    }

    /// OpenAI answers a value outside its limits like one that cannot be read.
    fn status(&self) -> u16 {
        match self.0.status() {
            422 => 400,
            status => status,
        }
    }
}

fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let body = Json(self.body());
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // The headers that belong to an error (Retry-After) are those of every other route.
        let mut like_ours = Failure(self.0).into_response();
        like_ours.headers_mut().remove(axum::http::header::CONTENT_LENGTH);
        let mut response = (status, body).into_response();
        for (name, value) in like_ours.headers() {
            if !response.headers().contains_key(name) {
                response.headers_mut().insert(name.clone(), value.clone());
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use operations_contract::ErrorCode;

    #[test]
    fn errors_have_openais_form_and_statuses() {
        let check = |error: ApiError, status: u16, kind: &str, code: &str| {
            let error = OpenAiError(error);
            let body = error.body();
            assert_eq!((&body["error"]["type"], &body["error"]["code"]), (&json!(kind), &json!(code)));
            assert_eq!(error.into_response().status().as_u16(), status);
        };
        check(ApiError::invalid("n", "x"), 400, "invalid_request_error", "invalid_request");
        check(ApiError::new(ErrorCode::ModelNotFound, "x"), 404, "invalid_request_error", "model_not_found");
        check(ApiError::new(ErrorCode::Unauthorized, "x"), 401, "authentication_error", "unauthorized");
        check(ApiError::internal("x"), 500, "server_error", "internal");
        let full = OpenAiError(ApiError::new(ErrorCode::QueueFull, "x")).into_response();
        assert!(full.status() == 429 && full.headers().contains_key("retry-after"));
    }
}
