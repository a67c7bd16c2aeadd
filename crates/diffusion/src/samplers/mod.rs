//! Schedules and samplers, equal to diffusers' schedulers.
//!
//! A [`SchedulerConfig`] is a model's `scheduler_config.json`; a [`Sampler`] is that config for a number of steps. It is a
//! function over a denoiser: [`Sampler::run`] calls the network as often as the method needs, and a listener after each
//! call. Every solver is a module of its own in the notation of its paper; what the network predicts is turned into a
//! picture or a noise by one adapter, and where the noise levels lie is a pure function of the config.
//!
//! Latents are a flat slice, one picture's (channels, height, width). The arithmetic is float32 in diffusers' order, so that
//! pictures agree; what is odd in diffusers is kept and said at its place.

mod betas;
mod config;
mod consistency;
mod ddim;
mod ddpm;
mod deis;
mod dpm2;
mod dpm_solver;
mod edm;
mod euler;
mod heun;
mod kind;
mod lms;
mod numeric;
mod pndm;
mod prediction;
mod python_json;
mod schedule;
mod singlestep;
mod unipc;
mod walk;

use crate::noise::Noise;
use crate::{Error, Result};
use kind::Class;
use walk::{Plan, Walk};

pub use config::SchedulerConfig;
pub use kind::{SamplerKind, Schedule};
pub use walk::{Denoise, Listen};

/// What a listener sees after each network call.
#[derive(Debug)]
pub struct AfterCall<'a> {
    /// The index of the call in [`Sampler::timesteps`].
    pub call: usize,
    /// Steps that are complete in this run, at most [`Sampler::steps_from`] its first call.
    pub step: usize,
    /// Whether this call completed one: not the first of the two calls of a second-order method.
    pub step_done: bool,
    /// The latents after the call; the next call sees what is left in them. Inpainting with an ordinary network puts the
    /// known part back here, at the noise level of `call + 1`.
    pub latents: &'a mut Vec<f32>,
    /// The picture that the network saw in the latents before the call, in latent space, for previews.
    pub denoised: &'a [f32],
}

/// A sampler for a number of steps.
pub struct Sampler {
    steps: usize,
    plan: Plan,
}

impl Sampler {
    /// Lays out `steps` steps: `scheduler.set_timesteps(steps)`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the field `steps` when the model cannot run so many,
    /// [`Error::Unsupported`] with the key for settings of the config that are not known.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        schedule::check_steps(steps)?;
        let plan = match config.class() {
            Class::Ddim => ddim::plan(config, steps),
            Class::Ddpm => ddpm::plan(config, steps),
            Class::Pndm => pndm::plan(config, steps),
            Class::Lms => lms::plan(config, steps),
            Class::Euler => euler::plan(config, steps),
            Class::EulerAncestral => euler::plan_ancestral(config, steps),
            Class::Heun => heun::plan(config, steps),
            Class::Kdpm2 => dpm2::plan(config, steps),
            Class::Kdpm2Ancestral => dpm2::plan_ancestral(config, steps),
            Class::DpmMultistep => dpm_solver::plan(config, steps),
            Class::DpmSinglestep => singlestep::plan(config, steps),
            Class::UniPc => unipc::plan(config, steps),
            Class::Deis => deis::plan(config, steps),
            Class::Lcm => consistency::plan_lcm(config, steps),
            Class::Tcd => consistency::plan_tcd(config, steps),
        }?;
        Ok(Self { steps, plan })
    }

    /// The timestep of each network call, as `scheduler.timesteps`.
    pub fn timesteps(&self) -> &[f64] {
        &self.plan.timesteps
    }

    /// Network calls a step, `scheduler.order`: a run from step n on starts with the call n · order.
    pub fn order(&self) -> usize {
        self.plan.order
    }

    /// What standard normal numbers are multiplied by to start from nothing.
    pub fn init_noise_sigma(&self) -> f32 {
        self.plan.init_noise_sigma
    }

    /// The denoising steps of a run that starts with a call.
    pub fn steps_from(&self, first_call: usize) -> usize {
        self.steps.saturating_sub(first_call / self.plan.order)
    }

    /// `scheduler.add_noise`: a picture's latents at the noise level of a call.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the field `strength` when there is no such call.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn add_noise(&self, original: &[f32], noise: &[f32], call: usize) -> Result<Vec<f32>> {
        assert_eq!(original.len(), noise.len(), "one number of noise for each of the latents");
        let &(picture, sigma) = self.plan.mixes.get(call).ok_or_else(|| self.no_such_call(call))?;
        Ok(prediction::zip(original, noise, |x, n| picture * x + sigma * n))
    }

    /// Denoises latents from a call on, which is at their noise level.
    ///
    /// `denoise` takes the latents as the network wants them and the timestep, and gives the network's output, guidance
    /// included. `noise` goes on where the pipeline left it; methods that draw take one tensor a step. `after_call` may
    /// rewrite the latents; `Break` stops.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when stopped, [`Error::NotFinite`] when the latents stop being numbers,
    /// [`Error::InvalidArgument`] for a first call that is none or not the first of its step, and what `denoise` returns.
    pub fn run(
        &self,
        first_call: usize,
        latents: Vec<f32>,
        denoise: &mut Denoise<'_>,
        noise: &mut Noise,
        after_call: &mut Listen<'_>,
    ) -> Result<Vec<f32>> {
        if first_call >= self.plan.timesteps.len() || !first_call.is_multiple_of(self.plan.order) {
            return Err(self.no_such_call(first_call));
        }
        let mut walk = Walk {
            first: first_call,
            timesteps: &self.plan.timesteps,
            steps: self.steps_from(first_call),
            denoise,
            noise,
            listen: after_call,
        };
        self.plan.solver.run(&mut walk, latents)
    }

    fn no_such_call(&self, call: usize) -> Error {
        let calls = self.plan.timesteps.len();
        let reason = format!("leaves nothing to do: call {call} of {calls} in {} steps", self.steps);
        Error::InvalidArgument { field: "strength", reason }
    }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("steps", &self.steps)
            .field("order", &self.plan.order)
            .field("timesteps", &self.plan.timesteps)
            .finish_non_exhaustive()
    }
}
