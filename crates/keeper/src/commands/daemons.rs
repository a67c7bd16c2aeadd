use super::daemon_failed;
use crate::cli::{Client, DownArgs};
use crate::daemon::{self, Stopped};
use crate::failure::{Exit, Failure};
use crate::print;
use std::ffi::OsString;
use std::process::Command;

pub(super) async fn up(args: &Client) -> Result<(), Failure> {
    let client = daemon::connect(args, &|text| eprintln!("{text}")).await?;
    print::line(client.url())
}

pub(super) async fn down(args: &DownArgs) -> Result<(), Failure> {
    match daemon::stop(args.data_dir.as_deref(), &|text| eprintln!("{text}")).await? {
        Stopped::Stopped(record) => print::line(format!("stopped the queen at {}", record.url)),
        Stopped::NoneRuns(folder) => print::line(format!("no queen runs in {}", folder.display())),
    }
}

pub(super) async fn worker_sd(args: sd_worker_rbee::Args) -> Result<(), Failure> {
    rbee_hive::log_to_stderr();
    sd_worker_rbee::run(sd_worker_rbee::DeviceKind::Cpu, args).await.map_err(daemon_failed)
}

/// The language worker needs a C++ build and so is a program of its own.
pub(super) fn worker_llm(arguments: &[OsString]) -> Result<(), Failure> {
    const HOW: &str = "build it: cargo build --release -p llm-worker-rbee --features cpu, and put llm-worker-cpu beside rbee or on PATH";
    let missing = |error: rbee_hive::HiveError| Failure::new(Exit::Failed, error.to_string());
    let found = rbee_hive::find_program("llm-worker-cpu", HOW).map_err(missing)?;
    let mut command = Command::new(&found.program);
    command.args(arguments);
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("cannot start {}: {error}", found.program.display()))
    };
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        Err(cannot(command.exec()))
    }
    #[cfg(not(unix))]
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => Err(cannot(error)),
    }
}
