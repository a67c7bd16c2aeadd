//! The command line as types: the doc comments are its manual.

mod image;
#[cfg(test)]
mod tests;

pub(crate) use image::{ImageCommand, ImageSource, JsonOutput, Paint, ShowArgs};

use clap::{Args, Parser, Subcommand};
use queen_rbee::QueenArgs;
use rbee_hive::HiveArgs;
use std::ffi::OsString;
use std::path::PathBuf;

/// Paints pictures on your own machines. Nothing leaves the house.
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
    /// See what was asked for, and cancel it.
    #[command(subcommand)]
    Job(JobCommand),
    /// Start the queen in the background, where none answers.
    Up(Client),
    /// Stop the queen that runs in the background, and her workers.
    Down(DownArgs),
    /// Show queen, hives, workers and queue.
    Status(StatusArgs),
    /// Run a queen in the foreground: the one API that clients talk to.
    Queen(QueenArgs),
    /// Run a hive in the foreground: it starts and watches the workers of this machine.
    Hive(HiveArgs),
    /// Run one worker in the foreground.
    #[command(subcommand)]
    Worker(WorkerCommand),
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
}

#[derive(Debug, Args)]
pub(crate) struct JobListArgs {
    /// Only jobs in this state.
    #[arg(long, value_parser = ["queued", "running", "complete", "error", "cancelled"])]
    pub(crate) state: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pub(crate) limit: u32,
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
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Run an image worker on the CPU.
    Sd(Box<sd_worker_rbee::Args>),
    /// Run a language worker on the CPU: starts llm-worker-cpu from beside rbee or from PATH.
    #[command(disable_help_flag = true)]
    Llm {
        /// Flags of llm-worker-cpu.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        arguments: Vec<OsString>,
    },
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
            Command::Job(JobCommand::List(args)) => args.json,
            Command::Job(JobCommand::Show(args) | JobCommand::Watch(args) | JobCommand::Cancel(args)) => args.json,
            Command::Status(args) => args.json,
            Command::Up(_) | Command::Down(_) | Command::Queen(_) | Command::Hive(_) | Command::Worker(_) => false,
        }
    }
}
