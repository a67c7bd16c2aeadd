//! Queue, engine and pipeline of the language worker.
//!
//! The queue and the engine are `worker-engine`'s, for requests of this worker; [`InferencePipeline`] is what runs them, several
//! side by side, on llama.cpp.

mod embedder;
mod generation_engine;
mod inference_pipeline;
mod memory;
mod prompt;
mod request_queue;
mod sampling_config;
mod slot;
mod weights;

pub use embedder::LONGEST as LONGEST_EMBEDDED;
pub use generation_engine::GenerationEngine;
pub use inference_pipeline::{InferencePipeline, RunOptions, Session};
pub use memory::{Need, available_bytes};
pub use prompt::{Prompt, PromptReader};
pub use request_queue::{Embedding, GenerationRequest, Inference, LlmRequest, RequestQueue, RequestReceiver};
pub use sampling_config::SamplingConfig;
pub use weights::{LoadOptions, Loader};
