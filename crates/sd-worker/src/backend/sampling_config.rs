//! The settings of a picture, with the model's own values where the request has none.

use diffusion::pipeline::{ModelInfo, Sampling};
use diffusion::samplers::{SamplerKind, Schedule};
use operations_contract::{ApiError, ImageSettings, SdWorkerOperation};

/// What a request comes to on the loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingConfig {
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance scale.
    pub guidance_scale: f64,
    /// The sampler, where one is named.
    pub scheduler: Option<SamplerKind>,
    /// The schedule, where one is named.
    pub schedule: Option<Schedule>,
    /// The share of the steps that is run, where the picture starts from an image.
    pub strength: Option<f64>,
    /// Whether there is a mask.
    pub masked: bool,
    /// How many of CLIP's last layers to leave out.
    pub clip_skip: Option<usize>,
}

impl SamplingConfig {
    /// The settings of a checked operation on the model `info`.
    ///
    /// # Errors
    /// `invalid_request` for a scheduler or schedule that is not known.
    pub fn new(operation: &SdWorkerOperation, info: &ModelInfo) -> Result<Self, ApiError> {
        let (settings, strength, masked) = parts(operation);
        let own_steps = info.own_steps.map(|steps| match strength {
            // One step of a distilled model is spread over the part of the schedule that is run.
            Some(strength) => (steps as f64 / strength).ceil() as u32,
            None => steps as u32,
        });
        Ok(Self {
            steps: settings.steps_or(own_steps) as usize,
            guidance_scale: settings.guidance_scale_or(info.own_guidance_scale),
            scheduler: parse("scheduler", settings.scheduler.as_deref())?,
            schedule: parse("schedule", settings.schedule.as_deref())?,
            strength,
            masked,
            clip_skip: settings.clip_skip.filter(|skip| *skip > 0).map(|skip| skip as usize),
        })
    }

    /// What the pipeline can check of it before a job exists.
    #[must_use]
    pub fn sampling(&self) -> Sampling {
        Sampling {
            steps: self.steps,
            scheduler: self.scheduler,
            schedule: self.schedule,
            strength: self.strength,
            masked: self.masked,
            clip_skip: self.clip_skip,
        }
    }
}

/// What the three operations have in common, the strength, and whether there is a mask.
pub(crate) fn parts(operation: &SdWorkerOperation) -> (ImageSettings, Option<f64>, bool) {
    match operation {
        SdWorkerOperation::ImageGeneration(request) => (request.settings(), None, false),
        SdWorkerOperation::ImageTransform(request) => (request.settings(), Some(request.strength), false),
        SdWorkerOperation::ImageInpaint(request) => (request.settings(), Some(request.strength), true),
    }
}

fn parse<T: std::str::FromStr<Err = diffusion::Error>>(field: &str, name: Option<&str>) -> Result<Option<T>, ApiError> {
    let parse = |name: &str| name.parse().map_err(|error: T::Err| ApiError::invalid(field, error.to_string()));
    name.map(parse).transpose()
}
