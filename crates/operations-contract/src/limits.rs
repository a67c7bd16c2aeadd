//! The limits that `validate()` holds requests to.

use std::ops::RangeInclusive;

/// Denoising steps.
pub const STEPS: RangeInclusive<u32> = 1..=150;
/// Guidance scale.
pub const GUIDANCE_SCALE: RangeInclusive<f64> = 0.0..=30.0;
/// Width and height in pixels.
pub const SIDE: RangeInclusive<u32> = 64..=2048;
/// Width and height are multiples of this: the autoencoder's factor.
pub const SIDE_MULTIPLE: u32 = 8;
/// Pictures in one job.
pub const COUNT: RangeInclusive<u32> = 1..=64;
/// How many of CLIP's last layers are skipped.
pub const CLIP_SKIP: RangeInclusive<u32> = 0..=11;
/// Sigma of the mask's Gaussian blur, in pixels.
pub const MASK_BLUR: RangeInclusive<f64> = 0.0..=64.0;
/// Softmax temperature.
pub const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;
/// Nucleus sampling and minimal probability.
pub const PROBABILITY: RangeInclusive<f64> = 0.0..=1.0;
/// The repetition penalty is above 0 and at most this.
pub const REPEAT_PENALTY_MAX: f64 = 10.0;

/// Bytes of a prompt.
pub const PROMPT_BYTES: usize = 64 * 1024;
/// Bytes of an image as it lies in a file.
pub const IMAGE_BYTES: usize = 32 * 1024 * 1024;
/// Width and height of an image.
pub const IMAGE_SIDE: u32 = 4096;
/// Bytes of a whole request: two images in base64, two prompts whose every byte is escaped, and the rest.
pub const BODY_BYTES: usize = 2 * (IMAGE_BYTES / 3 * 4 + 4) + 2 * 6 * PROMPT_BYTES + 64 * 1024;
/// Messages of a conversation.
pub const MESSAGES: usize = 1024;
/// Words that end a text, and the bytes of each.
pub const STOP_WORDS: usize = 16;
/// Bytes of one stop word.
pub const STOP_WORD_BYTES: usize = 1024;
/// Functions that a model may call.
pub const TOOLS: usize = 128;
/// Bytes of all of them as JSON.
pub const TOOLS_BYTES: usize = 256 * 1024;
/// Bytes of a function's name.
pub const FUNCTION_NAME_BYTES: usize = 64;
/// Bytes of a JSON schema.
pub const SCHEMA_BYTES: usize = 64 * 1024;
/// Bytes of an id: of a hive, a worker, a model in a catalogue.
pub const ID_BYTES: usize = 128;
/// Bytes of a model's name, which may be a path.
pub const MODEL_BYTES: usize = 4096;
/// Options of a spawned worker.
pub const OPTIONS: usize = 64;

/// Steps where neither the request nor the model says how many.
pub const DEFAULT_STEPS: u32 = 20;
/// Guidance scale where neither the request nor the model says how much.
pub const DEFAULT_GUIDANCE_SCALE: f64 = 7.5;
/// The id by which a request means the machine of the queen.
pub const LOCALHOST: &str = "localhost";
/// The model that paints where none is named.
pub const DEFAULT_IMAGE_MODEL: &str = "tiny-scenes";
/// The model that writes where none is named.
pub const DEFAULT_TEXT_MODEL: &str = "tiny-words";
/// The port of a queen.
pub const QUEEN_PORT: u16 = 7833;
/// The port of a hive.
pub const HIVE_PORT: u16 = 7835;
/// The first port of image workers.
pub const SD_WORKER_PORT: u16 = 8600;
/// The first port of language workers.
pub const LLM_WORKER_PORT: u16 = 8700;
/// Jobs that a queen admits at once.
pub const QUEEN_JOBS: usize = 10_000;
/// Jobs that a worker admits at once.
pub const WORKER_JOBS: usize = 64;
