//! The jobs of one process: registry, event log, the `/v1/jobs` routes, Server-Sent Events with replay.
//!
//! Every server of the house (queen, hive, workers) implements [`JobServer`] and serves [`router`], which reads jobs
//! through the trait [`Jobs`]. A worker and a hive keep theirs in memory: a job is made by
//! [`JobRegistry::create_job`], which answers with its [`JobHandle`]: the one hand that writes the job's log. A handle
//! that is dropped ends its job with an error, so that a job never stays without a last event. Whoever listens reads
//! the log at his own pace and cannot hold the writer up.

mod access;
mod bounded;
mod caller;
pub mod client;
mod clock;
mod failure;
mod handle;
mod jobs;
mod listen;
mod log;
mod metrics;
mod openapi;
mod registry;
mod routes;
mod serve;
mod span;
mod stream;

pub use access::{Access, Keys, Looking};
pub use caller::Caller;
pub use failure::Failure;
pub use handle::{Ending, JobHandle, Ongoing, Outcome, Picture};
pub use jobs::{Events, Idempotency, JobTotals, Jobs, Submission};
pub use listen::{ListenArgs, ListenError, Port};
pub use metrics::record_metrics;
pub use openapi::openapi;
pub use registry::{JobRegistry, RegistryLimits};
pub use routes::{JobServer, router, router_with};
pub use serve::{DRAIN, serve, stop_signal};
pub use span::{job_span, log};
pub use stream::EventStream;
pub use tokio_util::sync::CancellationToken;
