//! What every worker shares: request queue, generation engine, ready callback. It knows no model.
//!
//! A request goes [`submit`] → [`RequestQueue`] → the thread of a [`GenerationEngine`], which owns the
//! [`InferencePipeline`] (or of a [`BatchEngine`], whose [`BatchSession`] works on several requests at once), and comes back as [`GenerationResponse`]s that a task writes into the job's log. Nothing is
//! locked around a model: one thread owns it. Nobody waits for ever: whatever drops a request closes its channel,
//! and that ends its job.

mod args;
mod batch;
mod callback;
mod engine;
mod parent;
mod pipeline;
mod process;
mod queue;
mod submit;
mod telemetry;
mod worker;

pub use args::{Precision, WorkerArgs};
pub use batch::{BatchEngine, BatchModel, BatchSession, Ticket};
pub use callback::announce_ready;
pub use engine::GenerationEngine;
pub use parent::die_with_parent;
pub use pipeline::{Events, GenerationResponse, InferencePipeline, PipelineError};
pub use process::resident_memory_bytes;
pub use queue::{DownloadProgress, EngineStatus, GenerationRequest, LoadReporter, RequestQueue, RequestReceiver};
pub use submit::submit;
pub use telemetry::init_tracing;
pub use worker::{WorkerIdentity, serve_worker, serve_worker_routes};
