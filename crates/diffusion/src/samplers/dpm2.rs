//! The midpoint method in log sigma, after [DPM-Solver-2](https://arxiv.org/abs/2206.00927) and k-diffusion, plain and with
//! ancestral noise: two network calls a step, one for the last.

use super::betas::{alphas_cumprod, sigmas as training_sigmas};
use super::config::SchedulerConfig;
use super::edm::{Network, ancestral_step, init_noise_sigma, mixes};
use super::numeric::log_f32;
use super::prediction::combine;
use super::schedule::{Levels, levels, timestep_of};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

struct Dpm2 {
    steps: Vec<Step>,
    network: Network,
}

/// A step from one sigma by a middle one down to another, and the noise then added.
struct Step {
    sigma: f32,
    middle: f32,
    down: f32,
    up: Option<f32>,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    make(config, steps, false)
}

pub(super) fn plan_ancestral(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    make(config, steps, true)
}

fn make(config: &SchedulerConfig, steps: usize, ancestral: bool) -> Result<Plan> {
    let alphas = alphas_cumprod(config)?;
    let logs: Vec<f32> = training_sigmas(&alphas).into_iter().map(log_f32).collect();
    let Levels { timesteps: plain, sigmas } = levels(config, &alphas, steps)?;
    let steps: Vec<Step> = sigmas
        .windows(2)
        .map(|pair| {
            let (sigma, next) = (pair[0], pair[1]);
            let (up, down) = match ancestral {
                true => ancestral_step(sigma, next),
                false => (0.0, next),
            };
            // The last step goes straight down to 0.
            let middle = match down > 0.0 {
                true => (sigma.ln() - (sigma.ln() - down.ln()) * 0.5).exp(),
                false => 0.0,
            };
            Step { sigma, middle, down, up: ancestral.then_some(up) }
        })
        .collect();
    let (mut timesteps, mut levels) = (Vec::new(), Vec::new());
    for (i, step) in steps.iter().enumerate() {
        timesteps.push(plain[i]);
        levels.push(step.sigma);
        if i + 1 < steps.len() {
            timesteps.push(f64::from(timestep_of(f64::from(step.middle), &logs) as f32));
            // diffusers adds noise in the middle of a step as if it stood at its end.
            levels.push(steps[i + 1].sigma);
        }
    }
    Ok(Plan {
        order: 2,
        init_noise_sigma: init_noise_sigma(config, &sigmas)?,
        mixes: mixes(&levels),
        timesteps,
        solver: Box::new(Dpm2 { steps, network: Network::of(config)? }),
    })
}

impl Solver for Dpm2 {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        for call in walk.calls().step_by(2) {
            let Step { sigma, middle, down, up } = self.steps[call / 2];
            let (x0, d) = self.network.look(walk, call, &x, sigma)?;
            let mut x_middle = combine(&[(1.0, &x), (middle - sigma, &d)]);
            walk.done(call, &mut x_middle, &x0)?;
            if walk.is_last(call) {
                return Ok(x_middle);
            }
            let (x0, d) = self.network.look(walk, call + 1, &x_middle, middle)?;
            x = combine(&[(1.0, &x), (down - sigma, &d)]);
            if let Some(up) = up {
                let noise = walk.normal(x.len());
                x = combine(&[(1.0, &x), (up, &noise)]);
            }
            walk.done(call + 1, &mut x, &x0)?;
        }
        Ok(x)
    }
}
