//! Stable Diffusion: tokenizer, CLIP, U-Net, autoencoder, samplers, noise and weight files.
//!
//! Functions of their arguments: no network, no async, no JSON but the models' own configs.

pub mod error;
pub mod image;
mod linear;
pub mod models;
pub mod noise;
pub mod ops;
pub mod pipeline;
pub mod samplers;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
