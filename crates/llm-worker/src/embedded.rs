//! The default model, compiled into the program: `models/tiny-words`.

/// The embedded model's name, as `model` fields and `--model` take it.
pub const NAME: &str = "tiny-words";

/// The embedded model's file.
pub const FILE: &[u8] = include_bytes!("../../../models/tiny-words/tiny-words.gguf");
