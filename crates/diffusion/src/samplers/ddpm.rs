//! [DDPM](https://arxiv.org/abs/2006.11239), equations 6 and 7: ancestral sampling.

use super::betas::Alphas;
use super::config::SchedulerConfig;
use super::prediction::{Limit, Prediction, combine};
use super::schedule::{check_steps_of, whole_timesteps};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

struct Ddpm {
    alphas: Alphas,
    prediction: Prediction,
    limit: Limit,
    variance: Variance,
}

#[derive(Clone, Copy)]
enum Variance {
    Small,
    SmallLog,
    Large,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    check_steps_of(steps, config.train_timesteps()?)?;
    let alphas = Alphas::of(config)?;
    let timesteps = whole_timesteps(config, steps)?;
    // Of the others, fixed_large_log paints NaN in diffusers, and the learned ones need a network with more outputs.
    let variances =
        [("fixed_small", Variance::Small), ("fixed_small_log", Variance::SmallLog), ("fixed_large", Variance::Large)];
    let mixes = timesteps.iter().map(|&t| alphas.mix(t)).collect();
    let solver = Ddpm {
        alphas,
        prediction: Prediction::of(config)?,
        limit: Limit::of(config)?,
        variance: config.choice("variance_type", "fixed_small", &variances)?,
    };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

impl Ddpm {
    /// The standard deviation of the noise that is added.
    fn deviation(&self, alpha_prod: f32, alpha_prod_prev: f32) -> f32 {
        let beta = 1.0 - alpha_prod / alpha_prod_prev;
        let small = ((1.0 - alpha_prod_prev) / (1.0 - alpha_prod) * beta).max(1e-20);
        match self.variance {
            Variance::Small => small.sqrt(),
            Variance::SmallLog => (0.5 * small.ln()).exp(),
            Variance::Large => beta.sqrt(),
        }
    }
}

impl Solver for Ddpm {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        for call in walk.calls() {
            let t = walk.timesteps[call];
            let prev = walk.timesteps.get(call + 1).copied().unwrap_or(-1.0);
            let (alpha_prod, alpha_prod_prev) = (self.alphas.at(t), self.alphas.at(prev));
            let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);
            let alpha = alpha_prod / alpha_prod_prev;
            let output = walk.output(call, &x)?;
            let picture = self.prediction.picture(&x, &output, alpha_prod.sqrt(), beta_prod.sqrt());
            let x0 = self.limit.apply(picture);
            let toward = alpha_prod_prev.sqrt() * (1.0 - alpha) / beta_prod;
            let keep = alpha.sqrt() * beta_prod_prev / beta_prod;
            x = combine(&[(toward, &x0), (keep, &x)]);
            // The last step draws too, unless it is at timestep 0, and multiplies by next to nothing.
            if t > 0.0 {
                let noise = walk.normal(x.len());
                x = combine(&[(1.0, &x), (self.deviation(alpha_prod, alpha_prod_prev), &noise)]);
            }
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
