//! What each command does.

mod ask;
mod chat;
mod daemons;
mod doctor;
mod image;
mod image_show;
mod infer;
mod job;
mod key;
mod manual;
mod model;
mod status;
mod worker;

use crate::cli::{Cli, Command, HiveCommand, HiveTarget};
use crate::failure::{Exit, Failure};
use rbee_hive::Programs;
use std::path::Path;

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Image(command) => image::run(*command).await,
        Command::Infer(args) => infer::run(*args).await,
        Command::Chat(args) => chat::run(*args).await,
        Command::Job(command) => job::run(command).await,
        Command::Model(command) => model::run(command).await,
        Command::Worker(command) => worker::run(command).await,
        Command::Hive(command) => hive(*command).await,
        Command::Key(command) => key::run(command).await,
        Command::Up(client) => daemons::up(&client).await,
        Command::Down(args) => daemons::down(&args).await,
        Command::Status(args) => status::run(&args).await,
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Queen(args) => {
            rbee_hive::log_to_stderr();
            queen_rbee::run(args, own_programs()).await.map_err(daemon_failed)
        }
        Command::Completions { shell } => manual::completions(shell),
        Command::Man => manual::page(),
    }
}

async fn hive(command: HiveCommand) -> Result<(), Failure> {
    match command.target {
        Some(HiveTarget::List(args)) => status::hives(&args).await,
        Some(HiveTarget::Check(args)) => doctor::hive(&args).await,
        Some(HiveTarget::Invite(args)) => key::invite(&args).await,
        None => {
            rbee_hive::log_to_stderr();
            rbee_hive::run(command.run, own_programs()).await.map_err(daemon_failed)
        }
    }
}

/// A queen or a hive has another current folder than the one who names a path here.
fn model_path(given: &str) -> String {
    let path = Path::new(given);
    let is_name = operations_contract::well_known(given).is_some();
    if is_name || !path.exists() {
        return given.to_owned();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).to_string_lossy().into_owned()
}

/// This program is an image worker too.
fn own_programs() -> Programs {
    Programs { own_sd_cpu: Some(vec!["worker".to_owned(), "sd".to_owned()]) }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the function that maps an error")]
fn daemon_failed(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{error:#}"))
}
