//! The program `llm-worker-cpu`, built again for the tests beside it.

use clap::Parser;
use llm_worker_rbee::{Args, DeviceKind};

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Program { args } = Program::parse();
    worker_engine::init_tracing("info,llama_cpp_2=warn,llama-cpp-2=warn");
    llm_worker_rbee::run(DeviceKind::Cpu, args).await
}
