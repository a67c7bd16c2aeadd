//! Every word that rbee's programs speak on the wire.
//!
//! [`Operation`] is the single source of truth for what can be asked. Its way through a server is one of types:
//! bytes become an [`Operation`] by [`Operation::from_json`], [`Operation::validate`] is the only way to a
//! [`Validated`] one, and `TryFrom` splits that into what the server serves ([`SdWorkerOperation`] and its kin), so
//! that an unchecked request or a forgotten operation does not compile. Answers are [`JobEvent`]s, a [`Job`] as it
//! stands, and [`ApiError`]s.

mod base64_bytes;
mod catalogue;
mod error;
mod event;
mod info;
mod job;
mod limits;
mod models;
mod operation;
mod parse;
mod request;
mod scheduler;
mod split;
mod validated;

pub use base64_bytes::Base64Bytes;
pub use catalogue::{ModelEntry, ModelFile, ModelKind};
pub use error::{ApiError, ErrorBody, ErrorCode};
pub use event::{
    Completion, FinishReason, ImageCompletion, ImageFormat, ImageLink, JobEvent, Level, Phase, TextCompletion, Usage,
};
pub use info::{DeviceInfo, Info, MemoryInfo, ModelInfo, Readiness, WorkerReady};
pub use job::{Job, JobError, JobList, JobProgress, JobResponse, JobState};
pub use limits::*;
pub use models::{WELL_KNOWN_MODELS, WellKnownModel, repository_of, same_model, well_known};
pub use operation::{Operation, OperationKind, TargetServer};
pub use request::{
    FunctionCall, FunctionName, FunctionTool, HiveCheckRequest, ImageGenerationRequest, ImageInpaintRequest,
    ImageSettings, ImageTransformRequest, InferRequest, Message, ModelDeleteRequest, ModelDownloadRequest,
    ModelGetRequest, ModelListRequest, Priority, QueenCheckRequest, Role, StatusRequest, Tool, ToolCall, ToolChoice,
    ToolChoiceMode, ToolKind, WorkerKind, WorkerProcessDeleteRequest, WorkerProcessGetRequest,
    WorkerProcessListRequest, WorkerSpawnRequest,
};
pub use scheduler::{SCHEDULERS, SCHEDULES, scheduler_has_schedules};
pub use split::{HiveOperation, LlmWorkerOperation, QueenOperation, SdWorkerOperation};
pub use validated::{Request, Validated};
