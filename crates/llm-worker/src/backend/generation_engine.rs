//! The thread that owns the model.

use super::InferencePipeline;

/// See [`worker_engine::BatchEngine`].
pub type GenerationEngine = worker_engine::BatchEngine<InferencePipeline>;
