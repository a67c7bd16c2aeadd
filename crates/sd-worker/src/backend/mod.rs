//! Queue, engine and pipeline of the image worker.
//!
//! The queue and the engine are `worker-engine`'s, for requests of this worker; [`InferencePipeline`] is what runs them.

mod error;
mod generation_engine;
mod inference_pipeline;
mod request_queue;
mod sampling_config;
mod sd_version;

pub use error::api_error;
pub use generation_engine::GenerationEngine;
pub use inference_pipeline::InferencePipeline;
pub use request_queue::{GenerationRequest, RequestQueue, RequestReceiver};
pub use sampling_config::SamplingConfig;
pub(crate) use sampling_config::parts;
pub use sd_version::{SDVersion, UnknownVersion};

#[cfg(test)]
pub(crate) mod tests {
    //! What the tests of this module share.

    use std::ops::ControlFlow;

    use diffusion::ops::{CpuOptions, Device};
    use diffusion::pipeline::{LoadOptions, Pipeline};
    use job_server::CancellationToken;
    use operations_contract::{ImageGenerationRequest, Priority, Request as _, SdWorkerOperation};
    use tokio::sync::mpsc::UnboundedReceiver;
    use worker_engine::GenerationResponse;

    use super::{GenerationRequest, InferencePipeline};
    use crate::embedded;

    pub(crate) fn tiny_pipeline() -> InferencePipeline {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let mut observer = |_| ControlFlow::Continue(());
        let pipeline =
            Pipeline::load(&embedded::tiny_scenes(), &device, LoadOptions::default(), &mut observer).unwrap();
        InferencePipeline::new(pipeline, embedded::NAME.to_owned(), "f32")
    }

    /// A small picture in three steps.
    pub(crate) fn generation(prompt: &str, seed: u64) -> SdWorkerOperation {
        let request = ImageGenerationRequest {
            prompt: prompt.to_owned(),
            seed: Some(seed),
            steps: Some(3),
            width: Some(64),
            height: Some(64),
            ..ImageGenerationRequest::default()
        };
        SdWorkerOperation::ImageGeneration(request.validate().unwrap())
    }

    pub(crate) fn request(operation: SdWorkerOperation) -> (GenerationRequest, UnboundedReceiver<GenerationResponse>) {
        let (response_tx, responses) = tokio::sync::mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        (
            GenerationRequest {
                request: operation,
                priority: Priority::default(),
                span: tracing::Span::none(),
                cancel,
                response_tx,
            },
            responses,
        )
    }

    /// The denoising steps that were told, and the last answer.
    pub(crate) fn finish(mut responses: UnboundedReceiver<GenerationResponse>) -> (Vec<u64>, GenerationResponse) {
        let mut steps = Vec::new();
        loop {
            match responses.blocking_recv().expect("an engine answers") {
                GenerationResponse::Progress { step, phase: Some(operations_contract::Phase::Denoising), .. } => {
                    steps.push(step);
                }
                last @ (GenerationResponse::Complete(_)
                | GenerationResponse::Error(_)
                | GenerationResponse::Cancelled) => return (steps, last),
                _ => {}
            }
        }
    }
}
