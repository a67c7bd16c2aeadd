//! The daemon `queen-rbee`: takes jobs from clients, gives them to workers, and streams what happens.

use clap::Parser;
use queen_rbee::QueenArgs;
use rbee_hive::Programs;

#[derive(Parser)]
#[command(name = "queen-rbee", version)]
struct Cli {
    #[command(flatten)]
    args: QueenArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    rbee_hive::log_to_stderr();
    queen_rbee::run(cli.args, Programs::default()).await
}
