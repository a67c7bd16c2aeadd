use crate::{ApiError, Base64Bytes, ErrorCode, ToolCall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What happens to a job, in the order in which it happens. `type` repeats the name of the server-sent event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobEvent {
    /// It waits.
    Queued {
        /// How many are to run before it, itself counted: 1 is the next one.
        position: u64,
    },
    /// It runs.
    Started {
        /// The model that does it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// The worker that does it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker_id: Option<String>,
        /// 1, and one more whenever a worker was lost.
        attempt: u32,
    },
    /// It got further.
    Progress {
        /// Steps done (bytes, while downloading).
        step: u64,
        /// Of so many that are really run.
        total: u64,
        /// What is being done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
        /// How long the rest takes, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        eta_ms: Option<u64>,
        /// How fast it comes, in bytes a second (while downloading).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes_per_second: Option<u64>,
    },
    /// What the picture looks like so far.
    Preview {
        /// Steps done.
        step: u64,
        /// The picture's file.
        image: Base64Bytes,
        /// Its format.
        format: ImageFormat,
    },
    /// A piece of text.
    Token {
        /// The text.
        t: String,
        /// Its index from 0.
        i: u64,
    },
    /// Something worth telling.
    Narration {
        /// How much it matters.
        level: Level,
        /// Who tells it.
        target: String,
        /// What it is.
        message: String,
    },
    /// The end: it worked.
    Complete(Completion),
    /// The end: it did not work.
    Error {
        /// What kind of error it is.
        code: ErrorCode,
        /// What is wrong.
        message: String,
        /// The field that is meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        param: Option<String>,
    },
    /// The end: somebody cancelled it.
    Cancelled {},
}

impl JobEvent {
    /// The name of the server-sent event.
    pub const fn name(&self) -> &'static str {
        match self {
            JobEvent::Queued { .. } => "queued",
            JobEvent::Started { .. } => "started",
            JobEvent::Progress { .. } => "progress",
            JobEvent::Preview { .. } => "preview",
            JobEvent::Token { .. } => "token",
            JobEvent::Narration { .. } => "narration",
            JobEvent::Complete(_) => "complete",
            JobEvent::Error { .. } => "error",
            JobEvent::Cancelled {} => "cancelled",
        }
    }

    /// Whether nothing comes after it.
    pub const fn is_terminal(&self) -> bool {
        match self {
            JobEvent::Complete(_) | JobEvent::Error { .. } | JobEvent::Cancelled {} => true,
            JobEvent::Queued { .. }
            | JobEvent::Started { .. }
            | JobEvent::Progress { .. }
            | JobEvent::Preview { .. }
            | JobEvent::Token { .. }
            | JobEvent::Narration { .. } => false,
        }
    }
}

impl From<ApiError> for JobEvent {
    fn from(ApiError { code, message, param }: ApiError) -> Self {
        JobEvent::Error { code, message, param }
    }
}

/// What a `progress` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The model comes from the hub; counted in bytes.
    Downloading,
    /// The model comes from disk.
    Loading,
    /// Prompt and image go through their encoders.
    Encoding,
    /// The sampler runs.
    Denoising,
    /// Latents become pixels.
    Decoding,
}

/// How much a narration matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For those who look for a fault.
    Debug,
    /// Good to know.
    Info,
    /// Not as asked for, but it goes on.
    Warn,
    /// Something failed.
    Error,
}

/// The format of a picture's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// Lossless: results.
    Png,
    /// Small: previews.
    Jpeg,
}

impl ImageFormat {
    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            ImageFormat::Png => "image/png",
            ImageFormat::Jpeg => "image/jpeg",
        }
    }
}

/// What a job that worked came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Completion {
    /// Of the image operations.
    Image(ImageCompletion),
    /// Of `infer`.
    Text(TextCompletion),
    /// Of the others.
    Result {
        /// What was asked for.
        result: Value,
    },
}

/// Pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImageCompletion {
    /// The first picture's file.
    pub image: Base64Bytes,
    /// Its format.
    pub format: ImageFormat,
    /// Its seed.
    pub seed: u64,
    /// Width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// The model that painted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How long it took, without waiting, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// All pictures, where there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageLink>,
}

/// Where one of several pictures is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageLink {
    /// Its index from 0.
    pub index: u32,
    /// Its seed: the job's plus the index.
    pub seed: u64,
    /// Its path on the server that was asked.
    pub url: String,
}

/// Text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TextCompletion {
    /// The whole text; what the model wrote to call functions is not in it.
    pub text: String,
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// Functions that the model calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// What it cost.
    pub usage: Usage,
}

/// Why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop word.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
    /// The model waits for what the functions that it calls return.
    ToolCalls,
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// Tokens of the prompt that were known from an earlier text, so that they were not computed again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
