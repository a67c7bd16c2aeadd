//! The daemon `rbee-hive`: starts and watches the workers of this machine.

use clap::Parser;
use rbee_hive::{HiveArgs, Programs};

#[derive(Parser)]
#[command(name = "rbee-hive", version)]
struct Cli {
    #[command(flatten)]
    args: HiveArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    rbee_hive::log_to_stderr();
    rbee_hive::run(cli.args, Programs::default()).await
}
