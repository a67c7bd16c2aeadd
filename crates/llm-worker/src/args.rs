//! The flags of a language worker.

use clap::builder::RangedU64ValueParser;
use model_store::StoreArgs;
use worker_engine::WorkerArgs;

/// A language worker: one GGUF model on one device, served over HTTP.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the manual of the whole program")]
    pub worker: WorkerArgs,
    /// Texts that are written side by side; others wait.
    // llama.cpp knows 256 sequences.
    #[arg(long, env = "RBEE_SLOTS", default_value_t = 4, value_name = "N",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub slots: usize,
    /// Tokens of each text, prompt and answer together; as many as the model was trained on, at most 4096, if absent.
    #[arg(long, env = "RBEE_CONTEXT", value_name = "TOKENS",
          value_parser = RangedU64ValueParser::<usize>::new().range(8..=i32::MAX as u64))]
    pub context: Option<usize>,
    /// Layers that the GPU computes; on cuda and metal all of them if absent, on a CPU there are none.
    #[arg(long, env = "RBEE_GPU_LAYERS", value_name = "N")]
    pub gpu_layers: Option<u32>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the manual of the whole program")]
    pub store: StoreArgs,
}

/// What a worker computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// NVIDIA.
    Cuda,
    /// Apple.
    Metal,
}

impl DeviceKind {
    /// The word on the wire and in the programs' names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}
