//! The one API that clients talk to: admits jobs, routes them, streams their events.
//!
//! [`QueenServer`] puts job-server's routes before a hive that it takes as a library; [`run`] is the daemon
//! `queen-rbee` around both. An image job is admitted with its seed drawn, waits in [`queue`] for a worker that has its
//! model, which the hive starts where there is none, and is relayed event by event; a worker that dies on the way costs
//! the job an attempt, of which it has three.

mod check;
mod daemon;
mod dispatcher;
mod paint;
mod queue;
mod record;
mod relay;
mod server;
mod status;

pub use daemon::{QueenArgs, run};
pub use record::{QueenRecord, running};
pub use server::{Addresses, QueenServer};
