use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// An error as a client sees it: what is wrong, in which field, and by its code what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, JsonSchema)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// A sentence for people, with the operands in it.
    pub message: String,
    /// The field that is meant, as it is written in the request (`messages[0].role`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub param: Option<String>,
}

impl ApiError {
    /// An error about no field in particular.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None }
    }

    /// The same error about the field `param`.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// A value that lies outside its limits: 422.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message).with_param(param)
    }

    /// A request that cannot be read: 400.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Malformed, message)
    }

    /// A fault of ours: 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// The HTTP status of [`ErrorCode::status`].
    pub fn status(&self) -> u16 {
        self.code.status()
    }

    /// The body that goes over HTTP.
    pub fn into_body(self) -> ErrorBody {
        ErrorBody { error: self }
    }

    /// Reads an error that another server answered with; a body that is none of ours is quoted.
    pub fn from_response(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { mut error }) => {
                // Both are `invalid_request` on the wire; the status tells them apart.
                if error.code == ErrorCode::InvalidRequest && status == ErrorCode::Malformed.status() {
                    error.code = ErrorCode::Malformed;
                }
                error
            }
            Err(_) => {
                let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
                Self::internal(format!("unexpected answer with status {status}: {text}"))
            }
        }
    }
}

/// The body of every answer that is an error: `{"error": {"code", "message", "param"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $status:literal;)*) => {
        /// Every kind of error, with its word on the wire and its HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// All of them.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $word,)* }
            }

            /// The HTTP status that it is answered with.
            pub const fn status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* }
            }
        }
    };
}

error_codes! {
    /// A value lies outside its limits.
    InvalidRequest = "invalid_request", 422;
    /// The request cannot be read: not JSON, a field missing, unknown or of another type. The same word as
    /// [`ErrorCode::InvalidRequest`]; the status is what differs.
    Malformed = "invalid_request", 400;
    /// This server does not serve the operation.
    UnsupportedOperation = "unsupported_operation", 400;
    /// No API key, or a wrong one.
    Unauthorized = "unauthorized", 401;
    /// A foreign `Host` or `Origin`, or something that this key may not do.
    Forbidden = "forbidden", 403;
    /// No such route, picture, worker or process.
    NotFound = "not_found", 404;
    /// No such model, here or on the hub.
    ModelNotFound = "model_not_found", 404;
    /// There was such a job, or never one: finished jobs are kept for a while only.
    Expired = "expired", 404;
    /// The route exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The worker has loaded another model than the one named.
    ModelMismatch = "model_mismatch", 409;
    /// The state does not allow it yet: a picture of a job that is not complete.
    Conflict = "conflict", 409;
    /// The body, or an image in it, is too large.
    PayloadTooLarge = "payload_too_large", 413;
    /// A POST that is neither JSON nor, where it is taken, multipart.
    UnsupportedMediaType = "unsupported_media_type", 415;
    /// The loaded model cannot do this.
    UnsupportedByModel = "unsupported_by_model", 422;
    /// As many jobs as are admitted are waiting.
    QueueFull = "queue_full", 429;
    /// A client closed or cancelled before there was an answer.
    Cancelled = "cancelled", 499;
    /// A fault of ours.
    Internal = "internal", 500;
    /// The worker died while it ran the job.
    WorkerCrashed = "worker_crashed", 500;
    /// The model's files are missing, misshapen or truncated.
    ModelLoadFailed = "model_load_failed", 500;
    /// Another server of ours could not be reached or spoke nonsense.
    BadGateway = "bad_gateway", 502;
    /// Nothing can serve this now: a model still loads, no worker is there.
    Unavailable = "unavailable", 503;
    /// The server is stopping.
    ShuttingDown = "shutting_down", 503;
    /// It took longer than it may.
    Timeout = "timeout", 504;
    /// It does not fit into memory.
    OutOfMemory = "out_of_memory", 507;
    /// It does not fit onto the disk.
    InsufficientStorage = "insufficient_storage", 507;
}

impl ErrorCode {
    /// After how many seconds asking again may help; the `Retry-After` header.
    pub const fn retry_after_seconds(self) -> Option<u32> {
        match self {
            ErrorCode::QueueFull => Some(5),
            ErrorCode::Unavailable | ErrorCode::ShuttingDown => Some(10),
            _ => None,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A word that a newer server says and we do not know is an [`ErrorCode::Internal`]: its message still is readable.
impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(Self::ALL.iter().copied().find(|code| code.as_str() == word).unwrap_or(ErrorCode::Internal))
    }
}

impl JsonSchema for ErrorCode {
    fn schema_name() -> Cow<'static, str> {
        "ErrorCode".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut words: Vec<&str> = Self::ALL.iter().map(|code| code.as_str()).collect();
        words.dedup();
        schemars::json_schema!({"type": "string", "enum": words})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_one_of_the_specification() {
        let error = ApiError::invalid("width", "width must be a multiple of 8, got 500");
        assert_eq!(
            serde_json::to_string(&error.into_body()).unwrap(),
            r#"{"error":{"code":"invalid_request","message":"width must be a multiple of 8, got 500","param":"width"}}"#
        );
    }

    #[test]
    fn every_code_comes_back_from_a_response() {
        for &code in ErrorCode::ALL {
            let body = serde_json::to_vec(&ApiError::new(code, "why").into_body()).unwrap();
            assert_eq!(ApiError::from_response(code.status(), &body).code, code);
        }
        assert_eq!(ApiError::from_response(502, b"<html>").code, ErrorCode::Internal);
    }
}
