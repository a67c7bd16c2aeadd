//! What each operation takes. Fields without a default are required, unknown ones are refused.

mod hive;
mod image;
mod infer;
mod tool;

pub use hive::{
    HiveCheckRequest, ModelDeleteRequest, ModelDownloadRequest, ModelGetRequest, ModelListRequest, QueenCheckRequest,
    StatusRequest, WorkerKind, WorkerProcessDeleteRequest, WorkerProcessGetRequest, WorkerProcessListRequest,
    WorkerSpawnRequest,
};
pub use image::{ImageGenerationRequest, ImageInpaintRequest, ImageSettings, ImageTransformRequest};
pub use infer::{InferRequest, Message, Role};
pub use tool::{FunctionCall, FunctionName, FunctionTool, Tool, ToolCall, ToolChoice, ToolChoiceMode, ToolKind};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of the waiting jobs comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After everything else.
    Low,
    /// In order of arrival.
    #[default]
    Normal,
    /// Before everything else.
    High,
}

impl Priority {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
