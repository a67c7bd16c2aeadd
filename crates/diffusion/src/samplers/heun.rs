//! Heun's method as in [EDM](https://arxiv.org/abs/2206.00364), algorithm 1 without churn: two network calls a step, one
//! for the last.

use super::betas::alphas_cumprod;
use super::config::SchedulerConfig;
use super::edm::{Network, init_noise_sigma, mixes};
use super::prediction::{combine, zip};
use super::schedule::{Levels, levels};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

struct Heun {
    sigmas: Vec<f32>,
    network: Network,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let Levels { timesteps, sigmas } = levels(config, &alphas_cumprod(config)?, steps)?;
    Ok(Plan {
        order: 2,
        init_noise_sigma: init_noise_sigma(config, &sigmas)?,
        // The call at a step's end and the call at the next one's start are at the same level.
        mixes: mixes(&twice_but_the_first(&sigmas[..timesteps.len()])),
        timesteps: twice_but_the_first(&timesteps),
        solver: Box::new(Heun { sigmas, network: Network::of(config)? }),
    })
}

fn twice_but_the_first<T: Copy>(values: &[T]) -> Vec<T> {
    values.iter().flat_map(|&value| [value; 2]).skip(1).collect()
}

impl Solver for Heun {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        for call in walk.calls().step_by(2) {
            let (sigma, sigma_next) = (self.sigmas[call / 2], self.sigmas[call / 2 + 1]);
            let dt = sigma_next - sigma;
            let (x0, d) = self.network.look(walk, call, &x, sigma)?;
            let mut x_euler = combine(&[(1.0, &x), (dt, &d)]);
            walk.done(call, &mut x_euler, &x0)?;
            if walk.is_last(call) {
                return Ok(x_euler);
            }
            let (x0, d_next) = self.network.look(walk, call + 1, &x_euler, sigma_next)?;
            let mean = zip(&d, &d_next, |d, d_next| (d + d_next) / 2.0);
            x = combine(&[(1.0, &x), (dt, &mean)]);
            walk.done(call + 1, &mut x, &x0)?;
        }
        Ok(x)
    }
}
