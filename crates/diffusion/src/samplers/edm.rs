//! What Euler, Heun, DPM2 and LMS have in common: latents that are `picture + sigma · noise`, in the terms of
//! [EDM](https://arxiv.org/abs/2206.00364).

use super::betas::alphas_cumprod;
use super::config::SchedulerConfig;
use super::prediction::{Limit, Prediction, zip};
use super::schedule::{Levels, Spacing, levels, spacing};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

/// The network behind its prediction type.
pub(super) struct Network {
    prediction: Prediction,
    limit: Limit,
}

impl Network {
    pub(super) fn of(config: &SchedulerConfig) -> Result<Self> {
        Ok(Self { prediction: Prediction::of(config)?, limit: Limit::of(config)? })
    }

    /// The picture that the network sees in latents at a sigma, and the slope of the latents over sigma.
    pub(super) fn look(&self, walk: &mut Walk<'_>, call: usize, x: &[f32], sigma: f32) -> Result<(Vec<f32>, Vec<f32>)> {
        // It takes them at unit variance.
        let scale = (sigma * sigma + 1.0).sqrt();
        let scaled: Vec<f32> = x.iter().map(|x| x / scale).collect();
        let output = walk.output(call, &scaled)?;
        let x0 = self.limit.apply(self.prediction.picture_of_unscaled(x, &output, sigma));
        let d = zip(x, &x0, |x, x0| (x - x0) / sigma);
        Ok((x0, d))
    }
}

/// A plan of one call a step, for a solver made of the sigmas.
pub(super) fn plan<S: Solver + 'static>(
    config: &SchedulerConfig,
    steps: usize,
    solver: impl FnOnce(Vec<f32>, Network) -> S,
) -> Result<Plan> {
    let Levels { timesteps, sigmas } = levels(config, &alphas_cumprod(config)?, steps)?;
    Ok(Plan {
        order: 1,
        init_noise_sigma: init_noise_sigma(config, &sigmas)?,
        mixes: mixes(&sigmas[..timesteps.len()]),
        timesteps,
        solver: Box::new(solver(sigmas, Network::of(config)?)),
    })
}

/// The scale of the first noise.
pub(super) fn init_noise_sigma(config: &SchedulerConfig, sigmas: &[f32]) -> Result<f32> {
    let largest = sigmas.iter().copied().fold(0.0, f32::max);
    Ok(match spacing(config)? {
        Spacing::Linspace | Spacing::Trailing => largest,
        Spacing::Leading => (largest * largest + 1.0).sqrt(),
    })
}

/// The factors of picture and noise in the latents.
pub(super) fn mixes(sigmas: &[f32]) -> Vec<(f32, f32)> {
    sigmas.iter().map(|&sigma| (1.0, sigma)).collect()
}

/// The noise to add, and the sigma to go down to before, for a step between two sigmas that keeps the variance.
pub(super) fn ancestral_step(from: f32, to: f32) -> (f32, f32) {
    let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
    (up, (to * to - up * up).sqrt())
}
