//! [DDIM](https://arxiv.org/abs/2010.02502), equation 12, without noise (eta = 0, which the pipelines pass).

use super::betas::Alphas;
use super::config::SchedulerConfig;
use super::prediction::{Limit, Prediction, combine};
use super::schedule::{check_steps_of, whole_timesteps};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

struct Ddim {
    alphas: Alphas,
    prediction: Prediction,
    limit: Limit,
    /// Training timesteps a step.
    stride: f64,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let train = config.train_timesteps()?;
    check_steps_of(steps, train)?;
    let alphas = Alphas::of(config)?;
    let timesteps = whole_timesteps(config, steps)?;
    let mixes = timesteps.iter().map(|&t| alphas.mix(t)).collect();
    let solver =
        Ddim { alphas, prediction: Prediction::of(config)?, limit: Limit::of(config)?, stride: (train / steps) as f64 };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

impl Solver for Ddim {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        for call in walk.calls() {
            let t = walk.timesteps[call];
            let (alpha, sigma) = self.alphas.mix(t);
            // The next level is a whole stride on, also where linspace or trailing timesteps lie elsewhere.
            let (alpha_prev, sigma_prev) = self.alphas.mix(t - self.stride);
            let output = walk.output(call, &x)?;
            // The direction keeps the noise that belongs to the picture before it is limited.
            let epsilon = self.prediction.noise(&x, &output, alpha, sigma);
            let x0 = self.limit.apply(self.prediction.picture(&x, &output, alpha, sigma));
            x = combine(&[(alpha_prev, &x0), (sigma_prev, &epsilon)]);
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
