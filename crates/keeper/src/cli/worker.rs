use super::Client;
use super::model::OnHive;
use clap::{Args, Subcommand};
use operations_contract::WorkerKind;
use std::ffi::OsString;

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
    /// Let a hive start a worker and keep it; otherwise one is started when a job needs it.
    Spawn(SpawnArgs),
    /// List the worker processes of a hive.
    List(WorkerListArgs),
    /// Show one worker process.
    Show(WorkerPidArgs),
    /// Stop a worker process that the hive has started.
    Stop(WorkerPidArgs),
    /// Print what a worker of the queen's own machine has written; of another, name its hive with --queen.
    Logs(LogsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SpawnArgs {
    /// The model that it loads.
    pub(crate) model: String,
    /// What it computes with.
    #[arg(long, default_value = "cpu", value_parser = kind, value_name = "cpu|cuda|metal")]
    pub(crate) worker: WorkerKind,
    /// Which device of that kind.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) device: u32,
    /// Port on which it listens (default: the first free one).
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// A flag of the worker by its name, like -o threads=2 or -o low-memory; may be given several times.
    #[arg(long = "option", short = 'o', value_name = "NAME[=VALUE]")]
    pub(crate) options: Vec<String>,
    #[command(flatten)]
    pub(crate) on: OnHive,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerListArgs {
    #[command(flatten)]
    pub(crate) on: OnHive,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerPidArgs {
    /// Its process id, or its worker id.
    #[arg(value_name = "PID|ID")]
    pub(crate) worker: String,
    #[command(flatten)]
    pub(crate) on: OnHive,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The worker's id, as rbee worker list shows it.
    pub(crate) id: String,
    /// Stay, and print what comes, until Ctrl-C or the worker's end.
    #[arg(long, short)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

impl WorkerCommand {
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Sd(_) | Self::Llm { .. } | Self::Logs(_) => false,
            Self::Spawn(args) => args.on.json,
            Self::List(args) => args.on.json,
            Self::Show(args) | Self::Stop(args) => args.on.json,
        }
    }
}

fn kind(text: &str) -> Result<WorkerKind, String> {
    [WorkerKind::Cpu, WorkerKind::Cuda, WorkerKind::Metal]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| "it is cpu, cuda or metal".to_owned())
}
