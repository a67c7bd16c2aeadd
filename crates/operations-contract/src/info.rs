use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// The program: `queen-rbee`, `rbee-hive`, `sd-worker-cpu`, …
    pub server: String,
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// A worker's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// What it computes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceInfo>,
    /// Threads that compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The loaded model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelInfo>,
    /// Memory used and foreseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryInfo>,
    /// The operations that are served here, by name.
    pub operations: Vec<String>,
}

/// A device that computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceInfo {
    /// `cpu`, `cuda` or `metal`.
    pub kind: String,
    /// Which of that kind.
    pub index: u32,
    /// What its maker calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A loaded model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelInfo {
    /// Its name, or what `--model` was given.
    pub name: String,
    /// Its hub repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// What kind of model it is, as its own files say: `StableDiffusionPipeline`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its own width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Its own height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Numbers in its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Bytes of its weights on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bytes: Option<u64>,
    /// In which precision it computes: `f32`, `f16` or `bf16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// The operations that it can do, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
}

/// Memory of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryInfo {
    /// Bytes that it holds now.
    pub used_bytes: u64,
    /// Bytes that it will hold at the peak of a job of the model's own size, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreseen_bytes: Option<u64>,
}

/// The answer to `GET /ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether jobs are served now.
    pub ready: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a worker tells its hive when it can serve: `POST {callback-url}/v1/workers/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerReady {
    /// Its id.
    pub worker_id: String,
    /// The model that it loaded.
    pub model: String,
    /// Where it listens.
    pub url: String,
    /// Its process id.
    pub pid: u32,
    /// What it computes with: `cpu`, `cuda:0`, …
    pub device: String,
}
