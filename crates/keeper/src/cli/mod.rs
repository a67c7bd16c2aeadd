//! The command line as types: the doc comments are its manual.

mod hive;
mod image;
mod infer;
mod key;
mod model;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use hive::{HiveCommand, HiveTarget, InviteArgs};
pub(crate) use image::{ImageCommand, ImageSource, JsonOutput, Paint, ShowArgs};
pub(crate) use infer::{ChatArgs, InferArgs, Sampling};
pub(crate) use key::{KeyCommand, KeyCreateArgs, KeyListArgs, KeyRevokeArgs};
pub(crate) use model::{ModelCommand, ModelDefaultArgs, ModelDownloadArgs, ModelIdArgs, ModelListArgs};
pub(crate) use worker::{LogsArgs, SpawnArgs, WorkerCommand, WorkerListArgs, WorkerPidArgs};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use queen_rbee::QueenArgs;
use std::path::PathBuf;

/// Paints pictures and writes text on your own machines. Nothing leaves the house.
#[derive(Debug, Parser)]
#[command(
    name = "rbee",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 it worked, 1 it failed, 2 the request was wrong, 3 no queen answers, 130 interrupted.\n\
                  Try: rbee image generate \"a red circle on a blue background\""
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Paint pictures, and look at them.
    #[command(subcommand)]
    Image(Box<ImageCommand>),
    /// Let a language model continue a text or answer a question.
    Infer(Box<InferArgs>),
    /// Talk with a language model: a conversation, line by line.
    Chat(Box<ChatArgs>),
    /// See what was asked for, and cancel it.
    #[command(subcommand)]
    Job(JobCommand),
    /// Download models, see which are there, and delete them.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Start, see and stop worker processes, or be one.
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Run a hive in the foreground, see the hives, or invite one of another machine.
    Hive(Box<HiveCommand>),
    /// Make, see and revoke the keys with which others may ask.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Start the queen in the background, where none answers.
    Up(Client),
    /// Stop the queen that runs in the background, and her workers.
    Down(DownArgs),
    /// Show queen, hives, workers and queue.
    Status(StatusArgs),
    /// Let queen and hives test themselves, and say what to do.
    Doctor(DoctorArgs),
    /// Run a queen in the foreground: the one API that clients talk to.
    Queen(QueenArgs),
    /// Print what completes commands in a shell: rbee completions bash > ~/.local/share/bash-completion/completions/rbee
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page: rbee man | man -l -
    Man,
}

/// Which queen is asked.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Client {
    /// Queen to ask, like http://127.0.0.1:7833; one that is named is never started.
    ///
    /// Without it, the queen of this machine is asked, and started in the background where none answers.
    #[arg(long, env = "RBEE_QUEEN", value_name = "URL", help_heading = "Queen")]
    pub(crate) queen: Option<String>,
    /// Key for a queen that wants one.
    #[arg(long, env = "RBEE_API_KEY", hide_env_values = true, value_name = "KEY", help_heading = "Queen")]
    pub(crate) api_key: Option<String>,
    /// Port on which a queen is started, and looked for (default: 7833).
    #[arg(long, env = "RBEE_QUEEN_PORT", default_value_t = operations_contract::QUEEN_PORT, value_name = "PORT",
          help_heading = "Queen", hide_default_value = true)]
    pub(crate) queen_port: u16,
    /// Folder for logs and what else outlives a process (default: rbee in the XDG data folder).
    #[arg(long, env = "RBEE_DATA_DIR", value_name = "FOLDER", help_heading = "Queen")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs, the newest first.
    List(JobListArgs),
    /// Show one job as it stands.
    Show(JobArgs),
    /// Follow a job to its end; its pictures are not saved.
    Watch(JobArgs),
    /// Cancel a job; asking twice is no error.
    Cancel(JobArgs),
    /// Say why a job waits, and for how long.
    Explain(JobArgs),
}

#[derive(Debug, Args)]
pub(crate) struct JobListArgs {
    /// Only jobs in this state.
    #[arg(long, value_parser = ["queued", "running", "complete", "error", "cancelled"])]
    pub(crate) state: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pub(crate) limit: u32,
    /// Also what queen and hives were asked about themselves: status, checks, lists.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job's id, as it was told when the job was made; its beginning is enough.
    pub(crate) id: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Folder in which the queen was started (default: rbee in the XDG data folder).
    #[arg(long, env = "RBEE_DATA_DIR", value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Stay, and show what changes, until Ctrl-C.
    #[arg(long, short, conflicts_with = "json")]
    pub(crate) watch: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Hive to test (default: the one of the queen's own machine).
    #[arg(long, default_value = operations_contract::LOCALHOST, value_name = "ID")]
    pub(crate) hive_id: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

impl Cli {
    /// Whether errors are to be told in JSON too.
    pub(crate) fn wants_json(&self) -> bool {
        match &self.command {
            Command::Image(command) => match &**command {
                ImageCommand::Generate { paint }
                | ImageCommand::Transform { paint, .. }
                | ImageCommand::Inpaint { paint, .. } => paint.json.is_some(),
                ImageCommand::Show(args) => args.json,
            },
            Command::Infer(args) => args.json.is_some(),
            Command::Job(command) => match command {
                JobCommand::List(args) => args.json,
                JobCommand::Show(args)
                | JobCommand::Watch(args)
                | JobCommand::Cancel(args)
                | JobCommand::Explain(args) => args.json,
            },
            Command::Model(command) => command.wants_json(),
            Command::Worker(command) => command.wants_json(),
            Command::Hive(command) => command.wants_json(),
            Command::Key(command) => command.wants_json(),
            Command::Status(args) => args.json,
            Command::Doctor(args) => args.json,
            Command::Chat(_)
            | Command::Up(_)
            | Command::Down(_)
            | Command::Queen(_)
            | Command::Completions { .. }
            | Command::Man => false,
        }
    }
}
