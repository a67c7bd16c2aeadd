//! The durable middle of rbee: jobs, their events, blobs, keys and the registry of hives.
//!
//! Two traits say what there is. [`WorkSource`] is what a hive asks: claim work, tell what came of it. [`Broker`] is
//! that and what a queen asks: submit, look, watch, cancel, keys. No call of either assumes that the two sides are one
//! process.
//!
//! ```text
//! queen:  submit ──> queued ──claim──> running ──finish──> complete | error | cancelled
//!                      ^                  │
//!                      └── given back, or the lease ran out
//! ```
//!
//! What is promised:
//! - A job is on disk before `submit` returns, and ends exactly once.
//! - Every claim of a job has a higher attempt number than the one before; what comes from an older one is refused
//!   ([`BrokerError::Stale`]).
//! - Event ids of a job rise by one from 1. A listener sees an event only after it was written, so that no restart
//!   gives its id to another.
//! - Every call may be repeated after a broken connection without a double effect; each says how.

mod attempt;
mod blob;
mod broker;
mod clock;
mod error;
mod hive;
mod http;
mod job;
mod key;
mod keyring;
mod queue;
mod sqlite;
mod stored;

pub use attempt::{
    Appended, AttemptId, Claim, ClaimRequest, Ending, GiveBack, Lease, Offer, Outcome, PictureRef, WorkKind,
};
pub use blob::BlobId;
pub use broker::{Broker, EventStream, WorkSource};
pub use clock::Clock;
pub use error::BrokerError;
pub use hive::{HiveRecord, WorkerRecord, WorkerState};
pub use http::{HttpBroker, hive_routes};
pub use job::{Idempotency, JobCounts, JobFilter, JobRecord, NewJob, Submitted, Waiting, Want};
pub use key::{KeyId, KeyRecord, NewKey, Role};
pub use sqlite::{SqliteBroker, SqliteOptions};
pub use stored::StoredOperation;
