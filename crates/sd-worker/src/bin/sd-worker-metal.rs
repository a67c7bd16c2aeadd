//! An image worker on an Apple GPU.

use clap::Parser;
use sd_worker_rbee::{Args, DeviceKind};

/// Paints pictures on an Apple GPU.
#[derive(Parser)]
#[command(name = "sd-worker-metal", version)]
struct Program {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Program { args } = Program::parse();
    worker_engine::init_tracing("info");
    sd_worker_rbee::run(DeviceKind::Metal, args).await
}
