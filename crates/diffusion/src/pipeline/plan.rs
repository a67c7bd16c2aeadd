//! Which sampler runs, and from where: what can be refused before any work.

use super::{ModelInfo, Request, Task};
use crate::samplers::{Sampler, SamplerKind, Schedule, SchedulerConfig};
use crate::{Error, Result};

/// The part of a [`Request`] that decides what the sampler does.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Steps of the whole schedule.
    pub steps: usize,
    /// As in [`Request`].
    pub scheduler: Option<SamplerKind>,
    /// As in [`Request`].
    pub schedule: Option<Schedule>,
    /// The share of the steps that is run, where the picture starts from an image.
    pub strength: Option<f64>,
    /// Whether there is a mask.
    pub masked: bool,
    /// As in [`Request`].
    pub clip_skip: Option<usize>,
}

impl Sampling {
    pub(super) fn of(request: &Request) -> Self {
        let (strength, masked) = match request.task {
            Task::Generate => (None, false),
            Task::Transform { strength, .. } => (Some(strength), false),
            Task::Inpaint { strength, .. } => (Some(strength), true),
        };
        let Request { steps, scheduler, schedule, clip_skip, .. } = *request;
        Self { steps, scheduler, schedule, strength, masked, clip_skip }
    }
}

/// A sampler and the call of the U-Net that it starts with.
#[derive(Debug)]
pub(super) struct Plan {
    pub config: SchedulerConfig,
    pub sampler: Sampler,
    pub first_call: usize,
}

impl ModelInfo {
    /// Refuses what [`super::Pipeline::paint`] would refuse of these settings, without painting.
    ///
    /// # Errors
    /// [`Error::UnsupportedByModel`], or [`Error::InvalidArgument`] with the field.
    pub fn check(&self, sampling: &Sampling) -> Result<()> {
        self.plan(sampling).map(drop)
    }

    pub(super) fn plan(&self, sampling: &Sampling) -> Result<Plan> {
        if self.paints_only_through_a_mask() && !sampling.masked {
            let channels = self.unet_in_channels;
            return Err(Error::UnsupportedByModel(format!(
                "{} has a U-Net of {channels} input channels and paints only through a mask; use image_inpaint, or a model that is not made for inpainting",
                self.name
            )));
        }
        let deepest = self.deepest_clip_skip;
        if let Some(skip) = sampling.clip_skip.filter(|skip| *skip > deepest) {
            return Err(Error::InvalidArgument {
                field: "clip_skip",
                reason: format!("must be at most {deepest} for the text encoder of {}, got {skip}", self.name),
            });
        }
        let loaded = if self.class.starts_with("StableDiffusion") && !self.xl {
            self.scheduler.clone().loaded_by_stable_diffusion(sampling.masked)
        } else {
            self.scheduler.clone()
        };
        let config = loaded.with(sampling.scheduler, sampling.schedule)?;
        let sampler = Sampler::new(&config, sampling.steps)?;
        let strength = sampling.strength.unwrap_or(1.0);
        let run = ((sampling.steps as f64 * strength) as usize).min(sampling.steps);
        if run == 0 {
            return Err(Error::InvalidArgument {
                field: "strength",
                reason: format!(
                    "{strength} of {} steps leaves no step to run; raise strength or steps so that their product is at least 1",
                    sampling.steps
                ),
            });
        }
        let first_call = (sampling.steps - run) * sampler.order();
        Ok(Plan { config, sampler, first_call })
    }

    /// Whether the U-Net also takes the mask and the masked image.
    #[must_use]
    pub fn paints_only_through_a_mask(&self) -> bool {
        self.unet_in_channels != self.latent_channels
    }
}
