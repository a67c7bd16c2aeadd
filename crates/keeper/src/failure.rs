//! What went wrong, for the person in front of the terminal: the message, the field, the next step, the exit code.

use job_server::client::ClientError;
use operations_contract::{ApiError, ErrorCode};
use std::fmt;

/// Exit codes, as `rbee --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was tried and did not work.
    Failed = 1,
    /// What was asked for is wrong; nothing was started.
    Usage = 2,
    /// No queen answers, and none could be started.
    Unavailable = 3,
    /// Ctrl-C.
    Interrupted = 130,
}

/// An error that ends the command.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The code on the wire, or a word of ours where the error never was there.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    pub(crate) hint: Option<String>,
    /// An event of the job has told it already, where events are printed.
    pub(crate) told: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        let code = match exit {
            Exit::Failed => "failed",
            Exit::Usage => "invalid_request",
            Exit::Unavailable => "unavailable",
            Exit::Interrupted => "cancelled",
        };
        Self { exit, code, message: message.into(), param: None, hint: None, told: false }
    }

    /// The next step.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As `--json` prints it.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut error = serde_json::json!({"code": self.code, "message": self.message});
        if let Some(param) = &self.param {
            error["param"] = param.as_str().into();
        }
        if let Some(hint) = &self.hint {
            error["hint"] = hint.as_str().into();
        }
        serde_json::json!({ "error": error })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(param) = &self.param {
            write!(f, "\n  field: {param} (--{})", param.replace('_', "-"))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  next: {hint}")?;
        }
        Ok(())
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let hint = next_step(&error);
        let exit = match error.status() {
            400 | 404 | 409 | 413 | 415 | 422 => Exit::Usage,
            503 => Exit::Unavailable,
            499 => Exit::Interrupted,
            _ => Exit::Failed,
        };
        Self { exit, code: error.code.as_str(), message: error.message, param: error.param, hint, told: false }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(error) => error.into(),
            ClientError::Address { .. } => {
                Self::new(Exit::Usage, error.to_string()).hint("give it as --queen http://127.0.0.1:7833")
            }
            ClientError::Unreachable { .. } => Self::new(Exit::Unavailable, error.to_string())
                .hint("see whether it runs: rbee status; without --queen, rbee starts one"),
            ClientError::Nonsense { .. } => Self::new(Exit::Unavailable, error.to_string())
                .hint("another program seems to listen there; choose another address with --queen"),
        }
    }
}

/// What to do about an error, where its message does not say so already.
fn next_step(error: &ApiError) -> Option<String> {
    let step = match error.code {
        ErrorCode::QueueFull => "wait until jobs are done (rbee job list), and ask again",
        ErrorCode::WorkerCrashed => "its log lies in logs/workers in the data folder, which rbee status names",
        ErrorCode::OutOfMemory => "ask for a smaller picture (--width, --height) or fewer pictures (--count)",
        ErrorCode::Expired => "rbee job list shows the jobs that are still kept",
        ErrorCode::Unauthorized => "this queen wants an API key",
        ErrorCode::ShuttingDown => "ask again: rbee starts a new queen",
        ErrorCode::Unavailable => "ask again in a moment, or look at rbee status",
        _ => return side_hint(error),
    };
    Some(step.to_owned())
}

/// A side that is no multiple of eight lies between two that are.
fn side_hint(error: &ApiError) -> Option<String> {
    let side = error.param.as_deref().filter(|param| matches!(*param, "width" | "height"))?;
    let (_, got) = error.message.rsplit_once("multiple of 8, got ")?;
    let got: u32 = got.parse().ok()?;
    Some(format!("try --{side} {} or --{side} {}", got / 8 * 8, got.div_ceil(8) * 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_field_and_next_step_are_told() {
        let error = ApiError::invalid("width", "width must be a multiple of 8, got 500");
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(
            failure.to_string(),
            "width must be a multiple of 8, got 500\n  field: width (--width)\n  next: try --width 496 or --width 504"
        );
        let expected = serde_json::json!({"error": {
            "code": "invalid_request", "message": "width must be a multiple of 8, got 500", "param": "width",
            "hint": "try --width 496 or --width 504",
        }});
        assert_eq!(failure.to_json(), expected);
    }

    #[test]
    fn errors_as_they_are_printed() {
        let errors = [
            ApiError::invalid("width", "width must be a multiple of 8, got 500"),
            ApiError::new(ErrorCode::ModelNotFound, "there is no model \"x\"").with_param("model"),
            ApiError::new(ErrorCode::QueueFull, "10000 jobs are waiting or running already; try again later"),
            ApiError::new(ErrorCode::WorkerCrashed, "given up after 3 attempts; it was killed by signal 11"),
            ApiError::new(ErrorCode::OutOfMemory, "2048 x 2048 needs 9.1 GiB and 4.0 GiB are free"),
            ApiError::new(ErrorCode::ShuttingDown, "the server was stopped while the job ran"),
        ];
        let printed = errors.map(|error| {
            let failure = Failure::from(error);
            format!("error: {failure}\nexit code {}", failure.exit as u8)
        });
        insta::assert_snapshot!(printed.join("\n\n"));
    }
}
