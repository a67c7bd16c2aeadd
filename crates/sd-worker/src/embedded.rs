//! The default model, compiled into the program: `models/tiny-scenes`.

use diffusion::pipeline::{EmbeddedFile, ModelSource};

/// The embedded model's name, as `model` fields and `--model` take it.
pub const NAME: &str = "tiny-scenes";

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(EmbeddedFile { path: $path, bytes: include_bytes!(concat!("../../../models/tiny-scenes/", $path)) }),*]
    };
}

const FILES: &[EmbeddedFile] = files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// The embedded model.
#[must_use]
pub fn tiny_scenes() -> ModelSource {
    ModelSource::Embedded { name: NAME, files: FILES }
}
