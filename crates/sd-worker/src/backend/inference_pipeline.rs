//! From a checked operation to pictures.

use std::ops::ControlFlow;

use diffusion::image::decode;
use diffusion::pipeline::{Event, Pipeline, Request, Task};
use job_server::{CancellationToken, Outcome, Picture};
use operations_contract::{ApiError, ImageFormat, Level, Phase, SdWorkerOperation};
use worker_engine::{Events, PipelineError};

use super::error::api_error;
use super::sampling_config::{SamplingConfig, parts};
use crate::png_info::{self, Settings};
use crate::preview::jpeg;

/// A loaded model and what its pictures say of it.
pub struct InferencePipeline {
    pipeline: Pipeline,
    model: String,
    precision: &'static str,
}

impl InferencePipeline {
    /// A worker's pipeline over a loaded model; `model` and `precision` are the names that its pictures carry.
    #[must_use]
    pub fn new(pipeline: Pipeline, model: String, precision: &'static str) -> Self {
        Self { pipeline, model, precision }
    }

    fn paint(
        &mut self,
        operation: &SdWorkerOperation,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<Outcome, ApiError> {
        let config = SamplingConfig::new(operation, self.pipeline.info())?;
        let (settings, ..) = parts(operation);
        let first_seed = settings.seed.unwrap_or_default();
        let mut request = Request {
            prompt: settings.prompt.clone(),
            negative_prompt: settings.negative_prompt.clone(),
            steps: config.steps,
            guidance_scale: config.guidance_scale,
            width: settings.width.map(|side| side as usize),
            height: settings.height.map(|side| side as usize),
            seed: first_seed,
            scheduler: config.scheduler,
            schedule: config.schedule,
            clip_skip: config.clip_skip,
            preview_every: settings.preview_every.map(|every| every as usize),
            task: task(operation).map_err(|error| api_error(&error))?,
        };
        let count = u64::from(settings.count);
        let mut pictures = Vec::new();
        let mut size = (0, 0);
        for index in 0..count {
            request.seed = first_seed.wrapping_add(index);
            let mut observer = |event| {
                if cancel.is_cancelled() {
                    return ControlFlow::Break(());
                }
                tell(events, event, index, count);
                ControlFlow::Continue(())
            };
            let picture = self.pipeline.paint(&request, &mut observer).map_err(|error| api_error(&error))?;
            size = (picture.image.width(), picture.image.height());
            let written = Settings {
                prompt: &request.prompt,
                negative_prompt: request.negative_prompt.as_deref(),
                steps: request.steps,
                scheduler: picture.scheduler,
                schedule: picture.schedule,
                guidance_scale: request.guidance_scale,
                seed: request.seed,
                size,
                model: &self.model,
                strength: config.strength,
                mask_blur: match operation {
                    SdWorkerOperation::ImageInpaint(request) => Some(request.mask_blur),
                    SdWorkerOperation::ImageGeneration(_) | SdWorkerOperation::ImageTransform(_) => None,
                },
                clip_skip: request.clip_skip,
                precision: self.precision,
            };
            let file = png_info::encode(&picture.image, &written.parameters())
                .map_err(|error| ApiError::internal(format!("the picture could not be written as PNG: {error}")))?;
            pictures.push(Picture { file: file.into(), seed: request.seed });
        }
        Ok(Outcome::Images {
            pictures,
            format: ImageFormat::Png,
            width: Some(size.0 as u32),
            height: Some(size.1 as u32),
            model: Some(self.model.clone()),
        })
    }
}

impl worker_engine::InferencePipeline for InferencePipeline {
    type Request = SdWorkerOperation;

    fn run(
        &mut self,
        request: SdWorkerOperation,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<Outcome, PipelineError> {
        match self.paint(&request, events, cancel) {
            Err(_) if cancel.is_cancelled() => Err(PipelineError::Cancelled),
            outcome => outcome.map_err(PipelineError::from),
        }
    }

    fn prepare(&mut self) -> bool {
        self.pipeline.prepare()
    }

    fn rest(&mut self) {
        self.pipeline.device().trim();
    }
}

/// What the pictures start from.
fn task(operation: &SdWorkerOperation) -> diffusion::Result<Task> {
    Ok(match operation {
        SdWorkerOperation::ImageGeneration(_) => Task::Generate,
        SdWorkerOperation::ImageTransform(request) => Task::Transform {
            init_image: decode("init_image", &request.init_image)?.into_rgb(),
            strength: request.strength,
        },
        SdWorkerOperation::ImageInpaint(request) => Task::Inpaint {
            init_image: decode("init_image", &request.init_image)?.into_rgb(),
            mask: decode("mask_image", &request.mask_image)?.mask(),
            strength: request.strength,
            mask_blur: request.mask_blur as f32,
            composite: request.composite,
        },
    })
}

/// Tells a listener of the picture `index` of `count`.
fn tell(events: &Events, event: Event, index: u64, count: u64) {
    match event {
        Event::Loaded(part) => events.narrate(Level::Debug, format!("{part} loaded")),
        Event::Encoding => {
            if index == 0 {
                events.progress(0, 1, Phase::Encoding);
            }
        }
        Event::Denoised { step, total } => {
            let (step, total) = (step as u64, total as u64);
            // The zeroth step of a later picture is the last one of the picture before.
            if step > 0 || index == 0 {
                events.progress(index * total + step, count * total, Phase::Denoising);
            }
        }
        Event::Preview { step, image } => match jpeg(&image) {
            Ok(image) => {
                events.preview(step as u64, image, ImageFormat::Jpeg);
            }
            Err(error) => tracing::warn!("no preview of step {step}: {error}"),
        },
        Event::Decoding => {
            if index + 1 == count {
                events.progress(0, 1, Phase::Decoding);
            }
        }
        Event::Note(message) => events.narrate(Level::Info, message),
    }
}
