//! The one API that clients talk to: admits jobs, routes them, streams their events.
//!
//! [`QueenServer`] puts job-server's routes before a broker, which keeps the jobs: she checks what is asked, finds out who
//! could do it, draws its seed, and answers when it is on disk. From there on it is the hives' to claim; what they tell
//! comes back through the broker. [`run`] is the daemon `queen-rbee` around her and a hive inside her.

mod admit;
mod check;
mod daemon;
mod explain;
mod jobs;
mod keys;
mod logs;
mod models;
mod ollama;
mod openai;
mod operator;
mod record;
mod running;
mod server;
mod settings;
mod status;
mod sweep;

pub use daemon::{QueenArgs, run};
pub use jobs::QueenJobs;
pub use record::{QueenRecord, running};
pub use server::{Addresses, QueenServer};
