//! What each command does.

mod daemons;
mod image;
mod image_show;
mod job;
mod status;

use crate::cli::{Cli, Command, WorkerCommand};
use crate::failure::{Exit, Failure};
use rbee_hive::Programs;

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Image(command) => image::run(*command).await,
        Command::Job(command) => job::run(command).await,
        Command::Up(client) => daemons::up(&client).await,
        Command::Down(args) => daemons::down(&args).await,
        Command::Status(args) => status::run(&args).await,
        Command::Queen(args) => {
            rbee_hive::log_to_stderr();
            queen_rbee::run(args, own_programs()).await.map_err(daemon_failed)
        }
        Command::Hive(args) => {
            rbee_hive::log_to_stderr();
            rbee_hive::run(args, own_programs()).await.map_err(daemon_failed)
        }
        Command::Worker(WorkerCommand::Sd(args)) => daemons::worker_sd(*args).await,
        Command::Worker(WorkerCommand::Llm { arguments }) => daemons::worker_llm(&arguments),
    }
}

/// This program is an image worker too.
fn own_programs() -> Programs {
    Programs { own_sd_cpu: Some(vec!["worker".to_owned(), "sd".to_owned()]) }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the function that maps an error")]
fn daemon_failed(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{error:#}"))
}
