//! The queue of this worker's requests.

use llama_cpp_2::token::LlamaToken;
use operations_contract::{InferRequest, Validated};

use super::prompt::Prompt;

/// What a language worker can be asked.
#[derive(Debug)]
pub enum LlmRequest {
    /// To write.
    Infer(Box<Inference>),
    /// For vectors.
    Embed(Embedding),
}

/// A text that is wanted.
#[derive(Debug)]
pub struct Inference {
    /// What was asked.
    pub request: Validated<InferRequest>,
    /// What it comes to for the model; a request from before that was loaded is read by the engine.
    pub prompt: Option<Prompt>,
}

/// Texts whose vectors are wanted.
#[derive(Debug)]
pub struct Embedding {
    /// The tokens of each.
    pub texts: Vec<Vec<LlamaToken>>,
}

/// The way in; see [`worker_engine::RequestQueue`].
pub type RequestQueue = worker_engine::RequestQueue<LlmRequest>;
/// The way out, owned by the engine.
pub type RequestReceiver = worker_engine::RequestReceiver<LlmRequest>;
/// One request and where its answers go.
pub type GenerationRequest = worker_engine::GenerationRequest<LlmRequest>;
