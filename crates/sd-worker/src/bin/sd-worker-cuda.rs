//! An image worker on an NVIDIA GPU.

use clap::Parser;
use sd_worker_rbee::{Args, DeviceKind};

/// Paints pictures on an NVIDIA GPU.
#[derive(Parser)]
#[command(name = "sd-worker-cuda", version)]
struct Program {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Program { args } = Program::parse();
    worker_engine::init_tracing("info");
    sd_worker_rbee::run(DeviceKind::Cuda, args).await
}
