//! An image worker on the processor.

use clap::Parser;
use sd_worker_rbee::{Args, DeviceKind};

/// Paints pictures on the processor.
#[derive(Parser)]
#[command(name = "sd-worker-cpu", version)]
struct Program {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Program { args } = Program::parse();
    worker_engine::init_tracing("info");
    sd_worker_rbee::run(DeviceKind::Cpu, args).await
}
