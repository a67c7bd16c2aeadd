//! The run of a sampler as its solver sees it: network calls in, latents out.

use std::ops::{ControlFlow, Range};

use super::AfterCall;
use crate::noise::Noise;
use crate::{Error, Result};

/// The parts of a sampler that differ: made by the modules beside this one.
pub(super) struct Plan {
    /// One for each network call.
    pub(super) timesteps: Vec<f64>,
    /// Network calls a step, but for the last.
    pub(super) order: usize,
    pub(super) init_noise_sigma: f32,
    /// The factors of picture and noise in the latents, for each network call.
    pub(super) mixes: Vec<(f32, f32)>,
    pub(super) solver: Box<dyn Solver>,
}

impl Plan {
    /// One call a step, with latents at unit variance.
    pub(super) fn of_unit_variance(
        timesteps: Vec<f64>,
        mut mixes: Vec<(f32, f32)>,
        solver: impl Solver + 'static,
    ) -> Self {
        mixes.truncate(timesteps.len());
        Self { timesteps, order: 1, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) }
    }
}

/// A numerical method: it takes latents from the walk's first call to the end.
pub(super) trait Solver: Send + Sync {
    fn run(&self, walk: &mut Walk<'_>, latents: Vec<f32>) -> Result<Vec<f32>>;
}

/// A denoiser: from latents, scaled as the network wants them, and a timestep to the network's output.
pub type Denoise<'a> = dyn FnMut(&[f32], f64) -> Result<Vec<f32>> + 'a;
/// A listener to network calls; `Break` stops the run.
pub type Listen<'a> = dyn FnMut(AfterCall<'_>) -> ControlFlow<()> + 'a;

/// One run: what the solver needs of the world outside.
pub(super) struct Walk<'a> {
    pub(super) first: usize,
    pub(super) timesteps: &'a [f64],
    /// The steps of this run.
    pub(super) steps: usize,
    pub(super) denoise: &'a mut Denoise<'a>,
    pub(super) noise: &'a mut Noise,
    pub(super) listen: &'a mut Listen<'a>,
}

impl Walk<'_> {
    /// The indices of this run's network calls.
    pub(super) fn calls(&self) -> Range<usize> {
        self.first..self.timesteps.len()
    }

    pub(super) fn is_last(&self, call: usize) -> bool {
        call + 1 == self.timesteps.len()
    }

    /// The network's output for latents that it takes as they are.
    pub(super) fn output(&mut self, call: usize, x: &[f32]) -> Result<Vec<f32>> {
        let output = (self.denoise)(x, self.timesteps[call])?;
        if output.len() == x.len() {
            return Ok(output);
        }
        let sizes = format!("{} values for latents of {}", output.len(), x.len());
        Err(Error::UnsupportedByModel(format!("the denoiser gives {sizes}")))
    }

    /// Standard normal numbers, as many as there are latents.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f32> {
        self.noise.normal(count)
    }

    /// Ends a network call: the listener sees and may rewrite the latents, or stop.
    pub(super) fn done(&mut self, call: usize, latents: &mut Vec<f32>, denoised: &[f32]) -> Result<()> {
        let step = self.steps_after(call + 1);
        if let Some(value) = latents.iter().find(|value| !value.is_finite()) {
            let what = if value.is_nan() { "NaN" } else { "infinity" };
            return Err(Error::NotFinite { what, step: step.max(1) });
        }
        let step_done = step > self.steps_after(call);
        match (self.listen)(AfterCall { call, step, step_done, latents, denoised }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }

    /// Steps that are complete after the calls before `call`.
    ///
    /// In proportion: that is after every second of the 2n − 1 calls of a second-order method, and after all but the first
    /// of PNDM's n + 1.
    fn steps_after(&self, call: usize) -> usize {
        (call - self.first) * self.steps / self.calls().len().max(1)
    }
}
