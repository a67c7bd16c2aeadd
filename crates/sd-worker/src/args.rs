//! The flags of an image worker.

use clap::builder::BoolishValueParser;
use model_store::StoreArgs;
use worker_engine::WorkerArgs;

use crate::backend::SDVersion;

/// An image worker: one Stable Diffusion model on one device, served over HTTP.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the manual of the whole program")]
    pub worker: WorkerArgs,
    /// Family of models; without --model its usual model is served, beside one it must agree with the files.
    #[arg(long, env = "RBEE_SD_VERSION", value_enum)]
    pub sd_version: Option<SDVersion>,
    /// Compute in 16 bits: the same as --precision f16.
    #[arg(long, env = "RBEE_USE_F16", value_parser = BoolishValueParser::new())]
    pub use_f16: bool,
    /// Fused attention, on cuda and metal; on a CPU it always is so.
    #[arg(long, env = "RBEE_USE_FLASH_ATTN", value_parser = BoolishValueParser::new())]
    pub use_flash_attn: bool,
    /// Let the autoencoder decode in tiles: the same picture in a fraction of the memory and in more time. Without the flag it
    /// does so where memory is short. On a CPU.
    #[arg(long, env = "RBEE_VAE_TILING", value_parser = BoolishValueParser::new())]
    pub vae_tiling: bool,
    /// Print what the model will take of memory, as JSON, and serve nothing. On a CPU.
    #[arg(long, env = "RBEE_ESTIMATE", value_parser = BoolishValueParser::new())]
    pub estimate: bool,
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
