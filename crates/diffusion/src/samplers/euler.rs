//! Euler's method as in [EDM](https://arxiv.org/abs/2206.00364), plain and with ancestral noise.

use super::config::SchedulerConfig;
use super::edm::{self, Network, ancestral_step};
use super::prediction::combine;
use super::walk::{Plan, Solver, Walk};
use crate::Result;

struct Euler {
    sigmas: Vec<f32>,
    network: Network,
    ancestral: bool,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    edm::plan(config, steps, |sigmas, network| Euler { sigmas, network, ancestral: false })
}

pub(super) fn plan_ancestral(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    edm::plan(config, steps, |sigmas, network| Euler { sigmas, network, ancestral: true })
}

impl Solver for Euler {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        for call in walk.calls() {
            let (sigma, sigma_next) = (self.sigmas[call], self.sigmas[call + 1]);
            let (x0, d) = self.network.look(walk, call, &x, sigma)?;
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
