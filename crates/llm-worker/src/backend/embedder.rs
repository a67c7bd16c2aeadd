//! Texts as vectors: how near two of them are in meaning.

use std::num::NonZeroU32;

use job_server::{CancellationToken, Outcome};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use operations_contract::{ApiError, ErrorCode};
use serde_json::json;
use worker_engine::PipelineError;

use super::inference_pipeline::RunOptions;
use super::request_queue::Embedding;

/// Pooling wants a whole text in one piece, and a piece of this many tokens costs memory.
pub const LONGEST: usize = 2048;

/// A second context on the model, made when it is first asked for.
pub(super) struct Embedder<'model> {
    llama: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
}

impl<'model> Embedder<'model> {
    pub(super) fn new(
        backend: &LlamaBackend,
        model: &'model LlamaModel,
        options: RunOptions,
    ) -> Result<Self, ApiError> {
        let tokens = options.context.min(LONGEST);
        let threads = i32::try_from(options.threads).unwrap_or(i32::MAX);
        // A model made for it says how it pools. One made to write does not: then it is the mean.
        let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
        let says = model.meta_val_str(&format!("{architecture}.pooling_type")).is_ok();
        let pooling = if says { LlamaPoolingType::Unspecified } else { LlamaPoolingType::Mean };
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(tokens as u32))
            .with_n_batch(tokens as u32)
            .with_n_ubatch(tokens as u32)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_embeddings(true)
            .with_pooling_type(pooling)
            .with_no_perf(true);
        let llama = model.new_context(backend, params).map_err(|error| {
            ApiError::new(ErrorCode::OutOfMemory, format!("llama.cpp could not make a context for embeddings: {error}"))
        })?;
        Ok(Self { llama, batch: LlamaBatch::new(tokens, 1) })
    }

    /// The vectors of all texts, each of length 1.
    pub(super) fn embed(
        &mut self,
        embedding: &Embedding,
        cancel: &CancellationToken,
    ) -> Result<Outcome, PipelineError> {
        let mut vectors = Vec::new();
        for tokens in &embedding.texts {
            if cancel.is_cancelled() {
                return Err(PipelineError::Cancelled);
            }
            let failed = |error: &dyn std::fmt::Display| {
                PipelineError::from(ApiError::internal(format!("llama.cpp could not embed the text: {error}")))
            };
            self.llama.clear_kv_cache();
            self.batch.clear();
            self.batch.add_sequence(tokens, 0, true).map_err(|error| failed(&error))?;
            self.llama.decode(&mut self.batch).map_err(|error| failed(&error))?;
            let vector = self.llama.embeddings_seq_ith(0).map_err(|error| failed(&error))?;
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            vectors.push(vector.iter().map(|value| value / length).collect::<Vec<f32>>());
        }
        Ok(Outcome::Result(json!(vectors)))
    }
}
