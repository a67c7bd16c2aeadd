//! From a GGUF file to a model.

use std::path::Path;
use std::sync::Arc;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use operations_contract::{ApiError, ErrorCode};

use super::inference_pipeline::{InferencePipeline, RunOptions};
use super::memory::{Need, available_bytes};
use super::prompt::PromptReader;

/// Tokens of a slot where neither a flag nor the model says fewer.
const CONTEXT: usize = 4096;
/// The four letters that a GGUF begins with.
const MAGIC: &[u8] = b"GGUF";

/// How a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Texts side by side.
    pub slots: usize,
    /// Tokens of each; the model's own, at most 4096, if absent.
    pub context: Option<usize>,
    /// Layers that a GPU computes.
    pub gpu_layers: u32,
    /// Which GPU.
    pub gpu: i32,
    /// Threads that compute.
    pub threads: usize,
}

/// Loads a model, as often as it is asked to.
pub struct Loader {
    backend: Arc<LlamaBackend>,
    /// What messages call the model.
    name: String,
    options: LoadOptions,
}

impl Loader {
    /// A loader of one model.
    ///
    /// # Errors
    /// llama.cpp is at work in this process already.
    pub fn new(name: String, options: LoadOptions) -> Result<Self, ApiError> {
        let backend = LlamaBackend::init().map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Self { backend: Arc::new(backend), name, options })
    }

    /// The model in the file `path`, and what reads requests for it.
    ///
    /// # Errors
    /// `model_load_failed` when the file is no model or a broken one; `out_of_memory` when it does not fit, with how much it needs.
    pub fn load(&self, path: &Path) -> Result<(InferencePipeline, Arc<PromptReader>), ApiError> {
        let Self { name, options, .. } = self;
        let bytes = self.check(path)?;
        let vocabulary = self.read(path, &LlamaModelParams::default().with_vocab_only(true))?;
        // Without its weights a model does not tell it but in its description.
        let architecture = vocabulary.meta_val_str("general.architecture").unwrap_or_default();
        let trained = vocabulary.meta_val_str(&format!("{architecture}.context_length")).ok();
        let trained = trained.and_then(|text| text.parse().ok()).unwrap_or(CONTEXT);
        let context = options.context.unwrap_or(trained.clamp(1, CONTEXT));
        if context > trained {
            tracing::warn!(
                "--context {context}: the model was trained on {trained} tokens and may lose the thread beyond them"
            );
        }
        if options.gpu_layers == 0 {
            let need = Need::new(bytes, &vocabulary, options.slots, context);
            if let Some(refusal) = need.refusal(name, available_bytes()) {
                return Err(ApiError::new(ErrorCode::OutOfMemory, refusal));
            }
        }
        let params = LlamaModelParams::default().with_n_gpu_layers(options.gpu_layers).with_main_gpu(options.gpu);
        let model = self.read(path, &params)?;
        let reader = Arc::new(PromptReader::new(vocabulary, context)?);
        let run = RunOptions { slots: options.slots, context, threads: options.threads };
        Ok((InferencePipeline::new(Arc::clone(&self.backend), model, Arc::clone(&reader), run), reader))
    }

    /// The file's size, if it begins as a GGUF does.
    fn check(&self, path: &Path) -> Result<u64, ApiError> {
        let name = &self.name;
        let failed = |why: String| ApiError::new(ErrorCode::ModelLoadFailed, format!("{name}: {why}"));
        let mut magic = [0; MAGIC.len()];
        let mut file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
        let read = std::io::Read::read_exact(&mut file, &mut magic);
        if read.is_err() || magic != MAGIC {
            return Err(failed("this is no GGUF file; language models are read from GGUF".to_owned()));
        }
        file.metadata().map(|metadata| metadata.len()).map_err(|error| failed(error.to_string()))
    }

    fn read(&self, path: &Path, params: &LlamaModelParams) -> Result<LlamaModel, ApiError> {
        LlamaModel::load_from_file(&self.backend, path, params).map_err(|error| {
            let message = format!("{}: llama.cpp cannot load it: {error}; the worker's log says why", self.name);
            ApiError::new(ErrorCode::ModelLoadFailed, message)
        })
    }
}
