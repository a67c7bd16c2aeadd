//! Samplers of distilled models: [LCM](https://arxiv.org/abs/2310.04378) and [TCD](https://arxiv.org/abs/2402.19159).

use super::betas::Alphas;
use super::config::SchedulerConfig;
use super::numeric::linspace;
use super::prediction::{Limit, Prediction, combine};
use super::schedule::check_steps_of;
use super::walk::{Plan, Solver, Walk};
use crate::{Error, Result};

struct Lcm {
    alphas: Alphas,
    prediction: Prediction,
    limit: Limit,
    timestep_scaling: f32,
}

struct Tcd {
    alphas: Alphas,
    prediction: Prediction,
}

pub(super) fn plan_lcm(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let timesteps = distilled_timesteps(config, steps)?;
    let alphas = Alphas::of(config)?;
    let mixes = timesteps.iter().map(|&t| alphas.mix(t)).collect();
    let solver = Lcm {
        alphas,
        prediction: Prediction::of(config)?,
        limit: Limit::of(config)?,
        timestep_scaling: config.number("timestep_scaling", 10.0)? as f32,
    };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

pub(super) fn plan_tcd(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let timesteps = distilled_timesteps(config, steps)?;
    let alphas = Alphas::of(config)?;
    let mixes = timesteps.iter().map(|&t| alphas.mix(t)).collect();
    let solver = Tcd { alphas, prediction: Prediction::of(config)? };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

/// Steps spread over those that the model was distilled with; `timestep_spacing` and `steps_offset` play no part.
fn distilled_timesteps(config: &SchedulerConfig, steps: usize) -> Result<Vec<f64>> {
    let train = config.train_timesteps()?;
    check_steps_of(steps, train)?;
    let origin = config.count("original_inference_steps", 50, 1, train)?;
    if steps > origin {
        let reason = format!(
            "must be at most {origin} for this scheduler, the original_inference_steps of its config, got {steps}"
        );
        return Err(Error::InvalidArgument { field: "steps", reason });
    }
    let stride = train / origin;
    let fractions = linspace(0.0, origin as f64, steps + 1).into_iter().take(steps);
    Ok(fractions.map(|i| ((origin - i.floor() as usize) * stride - 1) as f64).collect())
}

impl Solver for Lcm {
    /// Algorithm 2 of the paper: each step predicts the picture and puts noise back on it.
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        const DATA: f32 = 0.5;
        for call in walk.calls() {
            let t = walk.timesteps[call];
            let (alpha, sigma) = self.alphas.mix(t);
            let output = walk.output(call, &x)?;
            let x0 = self.limit.apply(self.prediction.picture(&x, &output, alpha, sigma));
            // The boundary condition of consistency models: at timestep 0 the latents are the picture.
            let scaled = t as f32 * self.timestep_scaling;
            let norm = scaled * scaled + DATA * DATA;
            let denoised = combine(&[(scaled / norm.sqrt(), &x0), (DATA * DATA / norm, &x)]);
            x = match walk.is_last(call) {
                true => denoised.clone(),
                false => {
                    let (alpha, sigma) = self.alphas.mix(walk.timesteps[call + 1]);
                    let noise = walk.normal(x.len());
                    combine(&[(alpha, &denoised), (sigma, &noise)])
                }
            };
            walk.done(call, &mut x, &denoised)?;
        }
        Ok(x)
    }
}

impl Solver for Tcd {
    /// Strategic stochastic sampling of the paper with gamma = 0: the pipelines pass their eta = 0 for it, so that no noise
    /// is added and the last step ends at timestep 0.
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        for call in walk.calls() {
            let (alpha, sigma) = self.alphas.mix(walk.timesteps[call]);
            let next = walk.timesteps.get(call + 1).copied().unwrap_or(0.0);
            let (alpha_next, sigma_next) = self.alphas.mix(next);
            let output = walk.output(call, &x)?;
            let epsilon = self.prediction.noise(&x, &output, alpha, sigma);
            let x0 = self.prediction.picture(&x, &output, alpha, sigma);
            x = combine(&[(alpha_next, &x0), (sigma_next, &epsilon)]);
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
