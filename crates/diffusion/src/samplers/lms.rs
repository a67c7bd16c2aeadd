//! Katherine Crowson's linear multistep method for the probability flow of
//! [EDM](https://arxiv.org/abs/2206.00364): Adams-Bashforth over uneven sigmas.

use super::config::SchedulerConfig;
use super::edm::{self, Network};
use super::prediction::{combine, zip};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

const ORDER: usize = 4;

struct Lms {
    sigmas: Vec<f32>,
    network: Network,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    edm::plan(config, steps, |sigmas, network| Lms { sigmas, network })
}

/// The integral over step `i` of the Lagrange polynomial that is 1 at sigma `i - which` and 0 at the other latest ones.
///
/// Gauss's rule with two points is exact for the cubic that it is at most.
fn coefficient(sigmas: &[f32], order: usize, i: usize, which: usize) -> f32 {
    let at = |k: usize| f64::from(sigmas[i - k]);
    let lagrange = |tau: f64| -> f64 {
        let others = (0..order).filter(|&k| k != which);
        others.map(|k| (tau - at(k)) / (at(which) - at(k))).product()
    };
    let (from, to) = (f64::from(sigmas[i]), f64::from(sigmas[i + 1]));
    let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
    let point = half / 3f64.sqrt();
    (half * (lagrange(middle - point) + lagrange(middle + point))) as f32
}

impl Solver for Lms {
    /// A run that starts in the middle has no slopes of the steps before, but diffusers weighs those that it has as if it
    /// had: the first three steps of such a run are of the wrong length, here as there.
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        let mut slopes: Vec<Vec<f32>> = Vec::new();
        for call in walk.calls() {
            let (x0, d) = self.network.look(walk, call, &x, self.sigmas[call])?;
            slopes.insert(0, d);
            slopes.truncate(ORDER);
            let order = ORDER.min(call + 1);
            let weighed = slopes.iter().take(order).enumerate();
            let terms: Vec<(f32, &[f32])> =
                weighed.map(|(k, d)| (coefficient(&self.sigmas, order, call, k), d.as_slice())).collect();
            x = zip(&x, &combine(&terms), |x, change| x + change);
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
