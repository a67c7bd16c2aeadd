//! DPM-Solver and DPM-Solver++, singlestep: groups of network calls, each from the latents that the group began with
//! ([algorithms 1 and 2](https://arxiv.org/abs/2206.00927)).

use super::betas::alphas_cumprod;
use super::config::SchedulerConfig;
use super::dpm_solver::DpmSolver;
use super::prediction::zip;
use super::schedule::{Levels, levels};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

struct Singlestep {
    solver: DpmSolver,
    /// The order of each call: its place in its group, from 1.
    orders: Vec<usize>,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let Levels { timesteps, sigmas } = levels(config, &alphas_cumprod(config)?, steps)?;
    let solver = DpmSolver::of(config, &sigmas)?;
    let to_zero = sigmas.last() == Some(&0.0);
    // diffusers switches it on where the steps do not fall into whole groups, or end at 0.
    let lower_order_final = config.flag("lower_order_final", false)? || to_zero || !steps.is_multiple_of(solver.order);
    let mut orders = orders(solver.order, steps, lower_order_final);
    if to_zero && let Some(last) = orders.last_mut() {
        *last = 1;
    }
    let mixes = solver.levels.iter().map(|level| level.mix()).collect();
    let solver = Singlestep { solver, orders };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

/// Whole groups, and at the end a shorter one and a step of first order.
fn orders(order: usize, steps: usize, lower_order_final: bool) -> Vec<usize> {
    let mut orders: Vec<usize> = (0..steps).map(|i| i % order + 1).collect();
    if lower_order_final && order > 1 && steps.is_multiple_of(order) {
        // The last whole group gives up its last order for a new group of one.
        orders[steps - 1] = 1;
    }
    orders
}

impl Solver for Singlestep {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        let levels = &self.solver.levels;
        let mut start = x.clone();
        // What was integrated in the calls before, the latest first.
        let mut history: Vec<Vec<f32>> = Vec::new();
        for call in walk.calls() {
            let output = walk.output(call, &x)?;
            let (x0, m0) = self.solver.convert(&x, &output, call);
            let noise = self.solver.draw(walk, x.len());
            // A run that starts within a group begins one there.
            let order = self.orders[call].min(history.len() + 1);
            if order == 1 {
                start = x;
            }
            let to = levels[call + 1];
            let from = levels[call + 1 - order];
            let w = self.solver.weights(from, to);
            let h = to.lambda - from.lambda;
            let since = |k: usize| (levels[call - k].lambda - from.lambda) / h;
            x = match (order, history.as_slice()) {
                (2, [m1, ..]) => {
                    let r0 = since(0);
                    let d1 = zip(&m0, m1, |m0, m1| 1.0 / r0 * (m0 - m1));
                    let terms = [(w.x, &start[..]), (w.d0, m1), (w.d1_second, &d1)];
                    w.sum(&terms, noise.as_deref())
                }
                (3, [m1, m2, ..]) => {
                    let (r0, r1) = (since(0), since(1));
                    let d1_0 = zip(m1, m2, |m1, m2| 1.0 / r1 * (m1 - m2));
                    let d1_1 = zip(&m0, m2, |m0, m2| 1.0 / r0 * (m0 - m2));
                    if self.solver.heun {
                        let d1 = zip(&d1_0, &d1_1, |a, b| (r0 * a - r1 * b) / (r0 - r1));
                        let d2 = zip(&d1_0, &d1_1, |a, b| 2.0 * (b - a) / (r0 - r1));
                        let terms = [(w.x, &start[..]), (w.d0, m2), (w.d1_third, &d1), (w.d2, &d2)];
                        w.sum(&terms, noise.as_deref())
                    } else {
                        let terms = [(w.x, &start[..]), (w.d0, m2), (w.d1_third, &d1_1)];
                        w.sum(&terms, noise.as_deref())
                    }
                }
                _ => w.sum(&[(w.x, &start[..]), (w.d0, &m0)], noise.as_deref()),
            };
            history.insert(0, m0);
            history.truncate(2);
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::orders;

    /// What `DPMSolverSinglestepScheduler.get_order_list` gives.
    #[test]
    fn orders_are_those_of_diffusers() {
        assert_eq!(orders(2, 6, true), [1, 2, 1, 2, 1, 1]);
        assert_eq!(orders(2, 5, true), [1, 2, 1, 2, 1]);
        assert_eq!(orders(3, 6, true), [1, 2, 3, 1, 2, 1]);
        assert_eq!(orders(3, 7, true), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(orders(3, 8, true), [1, 2, 3, 1, 2, 3, 1, 2]);
        assert_eq!(orders(2, 6, false), [1, 2, 1, 2, 1, 2]);
        assert_eq!(orders(1, 3, true), [1, 1, 1]);
    }
}
