//! One on each machine: spawns and watches worker processes.
//!
//! [`Hive`] is the supervisor, which the queen takes as a library. An [`agent::Agent`] claims jobs for its workers from a
//! broker and tells what came of them. [`HiveServer`] puts the hive behind the routes that every server has, and [`run`]
//! is the daemon `rbee-hive` around all of it.

pub mod agent;
mod backoff;
mod check;
mod data_dir;
mod devices;
mod error;
mod hive;
mod job_router;
mod ledger;
mod logs;
mod memory;
mod model;
mod process;
mod program;
mod register;
mod relay;
mod room;
mod server;
mod spawner;
mod worker;

pub use data_dir::DataDir;
pub use devices::{Device, devices};
pub use error::HiveError;
pub use hive::{Callback, Hive, HiveConfig};
pub use job_router::Admitted;
pub use logs::log_routes;
pub use model::Model;
pub use process::{PARENT_VARIABLE, last_words};
pub use program::{Programs, WorkerProgram, find_program, own_executable};
pub use server::{HiveArgs, HiveOptions, HiveServer, info, local_url, run};
pub use worker::{End, InUse, WorkerHandle, WorkerSpec, WorkerStatus};

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Sends what a daemon has to say to standard error; `RBEE_LOG` says how much (`debug`,
/// `info,rbee_hive=trace`).
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("RBEE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, as tests make, changes nothing.
    let _ = subscriber.with_ansi(std::io::stderr().is_terminal()).try_init();
}
