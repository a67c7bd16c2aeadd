//! [PNDM](https://arxiv.org/abs/2202.09778): pseudo linear multistep, started by pseudo Runge-Kutta or by one Euler step
//! done twice.

use super::betas::Alphas;
use super::config::SchedulerConfig;
use super::prediction::{Prediction, combine, zip};
use super::schedule::whole_timesteps;
use super::walk::{Plan, Solver, Walk};
use crate::{Error, Result};

/// Network calls of the Runge-Kutta start: three steps of four.
const RUNGE_KUTTA_CALLS: usize = 12;

struct Pndm {
    alphas: Alphas,
    prediction: Prediction,
    /// Calls of the Runge-Kutta start.
    runge_kutta: usize,
    /// Training timesteps a step.
    stride: f64,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let alphas = Alphas::of(config)?;
    let train = config.train_timesteps()?;
    let stride = (train / steps) as f64;
    let plain = whole_timesteps(config, steps)?;
    let skip = config.flag("skip_prk_steps", false)?;
    let timesteps = match skip {
        true => {
            let second = plain.get(1).copied();
            let (first, rest) = plain.split_at(1.min(plain.len()));
            first.iter().copied().chain(second).chain(rest.iter().copied()).collect()
        }
        false if steps < 4 => {
            let reason = format!("must be at least 4 for PNDM with its Runge-Kutta start, got {steps}");
            return Err(Error::InvalidArgument { field: "steps", reason });
        }
        false => with_runge_kutta(&plain, (train / steps / 2) as f64),
    };
    let mixes = timesteps.iter().map(|&t| alphas.mix(t)).collect();
    let solver = Pndm {
        alphas,
        prediction: Prediction::of(config)?,
        runge_kutta: if skip { 0 } else { RUNGE_KUTTA_CALLS },
        stride,
    };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

/// The first four timesteps and those between them, each inner one twice; then the rest.
fn with_runge_kutta(plain: &[f64], half: f64) -> Vec<f64> {
    let (start, rest) = plain.split_at(3);
    let mut timesteps = vec![start[0]];
    for &t in start[1..].iter().chain(rest.first()) {
        timesteps.extend([t + half, t + half, t, t]);
    }
    timesteps.truncate(RUNGE_KUTTA_CALLS);
    timesteps.extend(rest);
    timesteps
}

impl Pndm {
    /// Equation 11 of the paper: `x` from the level of `t` to that of `prev`.
    fn transfer(&self, x: &[f32], t: f64, prev: f64, output: &[f32]) -> Vec<f32> {
        let (alpha, alpha_prev) = (self.alphas.at(t), self.alphas.at(prev));
        let (beta, beta_prev) = (1.0 - alpha, 1.0 - alpha_prev);
        let epsilon = self.prediction.noise(x, output, alpha.sqrt(), beta.sqrt());
        let keep = (alpha_prev / alpha).sqrt();
        let denominator = alpha * beta_prev.sqrt() + (alpha * beta * alpha_prev).sqrt();
        zip(x, &epsilon, |x, e| keep * x - (alpha_prev - alpha) * e / denominator)
    }
}

impl Solver for Pndm {
    /// The counter of calls starts anew in the middle, as in diffusers, where the second call is the repeated one whatever
    /// its timestep: from the third step on, runs that start in the middle look one timestep ahead of their latents.
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        let mut outputs: Vec<Vec<f32>> = Vec::new();
        let mut start = x.clone();
        let mut sum = vec![0.0; x.len()];
        for (counter, call) in walk.calls().enumerate() {
            let t = walk.timesteps[call];
            let output = walk.output(call, &x)?;
            let (alpha, sigma) = self.alphas.mix(t);
            let x0 = self.prediction.picture(&x, &output, alpha, sigma);
            if counter < self.runge_kutta {
                let stage = counter % 4;
                let weight = if stage % 3 == 0 { 1.0 / 6.0 } else { 1.0 / 3.0 };
                sum = combine(&[(1.0, &sum), (weight, &output)]);
                if stage == 0 {
                    start = x;
                    outputs.push(output.clone());
                }
                let slope = if stage == 3 { std::mem::replace(&mut sum, vec![0.0; start.len()]) } else { output };
                let half = if counter % 2 == 0 { (self.stride / 2.0).floor() } else { 0.0 };
                x = self.transfer(&start, walk.timesteps[counter - stage], t - half, &slope);
            } else if counter == 1 {
                // The first step once more, with the mean slope.
                let slope = combine(&[(0.5, &output), (0.5, &outputs[0])]);
                x = self.transfer(&start, t + self.stride, t, &slope);
            } else {
                outputs.push(output);
                let recent = &outputs[outputs.len().saturating_sub(4)..];
                let slope = match recent {
                    [e] => e.clone(),
                    [e1, e] => combine(&[(1.5, e), (-0.5, e1)]),
                    [e2, e1, e] => combine(&[(23.0 / 12.0, e), (-16.0 / 12.0, e1), (5.0 / 12.0, e2)]),
                    [.., e3, e2, e1, e] => {
                        combine(&[(55.0 / 24.0, e), (-59.0 / 24.0, e1), (37.0 / 24.0, e2), (-9.0 / 24.0, e3)])
                    }
                    [] => Vec::new(),
                };
                let next = self.transfer(&x, t, t - self.stride, &slope);
                start = std::mem::replace(&mut x, next);
                outputs.drain(..outputs.len().saturating_sub(4));
            }
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
