//! Euler's method as in [EDM](https://arxiv.org/abs/2206.00364), plain and with ancestral noise.

use super::betas::alphas_cumprod;
use super::config::SchedulerConfig;
use super::prediction::{Prediction, combine, zip};
use super::schedule::{Levels, Spacing, levels, spacing};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

struct Euler {
    sigmas: Vec<f32>,
    prediction: Prediction,
    ancestral: bool,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    make(config, steps, false)
}

pub(super) fn plan_ancestral(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    make(config, steps, true)
}

fn make(config: &SchedulerConfig, steps: usize, ancestral: bool) -> Result<Plan> {
    let Levels { timesteps, sigmas } = levels(config, &alphas_cumprod(config)?, steps)?;
    Ok(Plan {
        order: 1,
        init_noise_sigma: init_noise_sigma(config, &sigmas)?,
        mixes: unscaled(&sigmas[..timesteps.len()]),
        timesteps,
        solver: Box::new(Euler { sigmas, prediction: Prediction::of(config)?, ancestral }),
    })
}

/// The scale of the first noise of the samplers whose latents are `picture + sigma · noise`.
pub(super) fn init_noise_sigma(config: &SchedulerConfig, sigmas: &[f32]) -> Result<f32> {
    let largest = sigmas.iter().copied().fold(0.0, f32::max);
    Ok(match spacing(config)? {
        Spacing::Linspace | Spacing::Trailing => largest,
        Spacing::Leading => (largest * largest + 1.0).sqrt(),
    })
}

/// The factors of picture and noise in latents `picture + sigma · noise`.
pub(super) fn unscaled(sigmas: &[f32]) -> Vec<(f32, f32)> {
    sigmas.iter().map(|&sigma| (1.0, sigma)).collect()
}

/// The noise to add, and the sigma to go down to before, for a step between two sigmas that keeps the variance.
pub(super) fn ancestral_step(from: f32, to: f32) -> (f32, f32) {
    let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
    (up, (to * to - up * up).sqrt())
}

impl Solver for Euler {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        for call in walk.calls() {
            let (sigma, sigma_next) = (self.sigmas[call], self.sigmas[call + 1]);
            let output = walk.output_at(call, &x, sigma)?;
            let x0 = self.prediction.picture_of_unscaled(&x, &output, sigma);
            let d = zip(&x, &x0, |x, x0| (x - x0) / sigma);
            x = if self.ancestral {
                let (up, down) = ancestral_step(sigma, sigma_next);
                // Also the last step draws, for a factor of 0.
                let noise = walk.normal(x.len());
                combine(&[(1.0, &x), (down - sigma, &d), (up, &noise)])
            } else {
                combine(&[(1.0, &x), (sigma_next - sigma, &d)])
            };
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
