//! A language worker on an Apple GPU.

use clap::Parser;
use llm_worker_rbee::{Args, DeviceKind};

/// Writes text on an Apple GPU.
#[derive(Parser)]
#[command(name = "llm-worker-metal", version)]
struct Program {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Program { args } = Program::parse();
    worker_engine::init_tracing("info,llama_cpp_2=warn,llama-cpp-2=warn");
    llm_worker_rbee::run(DeviceKind::Metal, args).await
}
