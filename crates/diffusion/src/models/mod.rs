//! The networks: CLIP's text encoder, the U-Net and the autoencoders.
//!
//! Each reads its own `config.json` and its weights by the names of the checkpoint, and computes what transformers and
//! diffusers compute. Code reads like theirs: a field is called as the part of the weight's name that it holds.

mod attention;
mod autoencoder;
mod clip;
mod config;
mod embeddings;
mod resnet;
mod unet;

pub use autoencoder::{Autoencoder, AutoencoderKlConfig, AutoencoderTinyConfig, Encoded, LatentSpace};
pub use clip::{ClipOutput, ClipTextConfig, ClipTextModel};
pub use config::PerBlock;
pub use unet::{Conditioning, Context, TextTime, UNet2DConditionModel, UNetConfig};
