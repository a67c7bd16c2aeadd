use crate::WorkKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A hive as it tells of itself when it enlists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HiveRecord {
    /// Its id.
    pub hive_id: String,
    /// Which start of it: milliseconds since 1970 when it started, so that it rises.
    pub incarnation: u64,
    /// Where it listens, if the queen can reach it.
    #[serde(default)]
    pub url: Option<String>,
    /// Its program's version.
    pub version: String,
    /// Its workers.
    #[serde(default)]
    pub workers: Vec<WorkerRecord>,
    /// The models that it has on disk.
    #[serde(default)]
    pub models: Vec<String>,
    /// The kinds of workers that it can start.
    #[serde(default)]
    pub kinds: Vec<WorkKind>,
    /// Its devices, as its own report has them.
    #[serde(default)]
    pub devices: Value,
}

/// A worker as its hive tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Its id.
    pub worker_id: String,
    /// What it serves.
    pub kind: WorkKind,
    /// The model that it loaded, or loads.
    pub model: String,
    /// What it computes with: `cpu`, `cuda:0`, …
    pub device: String,
    /// Its process id.
    pub pid: u32,
    /// Where it listens.
    #[serde(default)]
    pub url: Option<String>,
    /// What it does.
    pub state: WorkerState,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It loads its model.
    Starting,
    /// It has nothing to do.
    Idle,
    /// It runs a job.
    Busy,
    /// It stops.
    Stopping,
}
