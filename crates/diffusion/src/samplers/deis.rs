//! [DEIS](https://arxiv.org/abs/2204.13902), multistep: the noise is extrapolated by a polynomial in log rho, where rho is
//! sigma over alpha.

use super::betas::alphas_cumprod;
use super::config::SchedulerConfig;
use super::dpm_solver::Level;
use super::numeric::log_f32;
use super::prediction::{Limit, Prediction, combine, zip};
use super::schedule::{Levels, levels};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

struct Deis {
    levels: Vec<Level>,
    prediction: Prediction,
    limit: Limit,
    order: usize,
    lower_order_final: bool,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let Levels { timesteps, sigmas } = levels(config, &alphas_cumprod(config)?, steps)?;
    config.refuse("use_flow_sigmas", "flow matching is not supported")?;
    config.choice("algorithm_type", "deis", &[("deis", ())])?;
    config.choice("solver_type", "logrho", &[("logrho", ())])?;
    let levels: Vec<Level> = sigmas.into_iter().map(Level::of).collect();
    let mixes = levels.iter().map(|level| level.mix()).collect();
    let solver = Deis {
        levels,
        prediction: Prediction::of(config)?,
        limit: Limit::of(config)?,
        order: config.count("solver_order", 2, 1, 3)?,
        lower_order_final: timesteps.len() < 15 && config.flag("lower_order_final", true)?,
    };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

/// The integral from `from` to `to` of the Lagrange polynomial in log rho that is 1 at `b` and 0 at `others`.
fn coefficient(from: f32, to: f32, b: f32, others: &[f32]) -> f32 {
    let (log_b, logs) = (log_f32(b), others.iter().map(|&rho| log_f32(rho)).collect::<Vec<_>>());
    let antiderivative = |t: f32| {
        let log_t = log_f32(t);
        match logs.as_slice() {
            [c] => t * (-c + log_t - 1.0) / (log_b - c),
            [c, d] => {
                let numerator = c * (d - log_t + 1.0) - d * log_t + d + log_t * log_t - 2.0 * log_t + 2.0;
                t * numerator / ((log_b - c) * (log_b - d))
            }
            _ => t,
        }
    };
    antiderivative(to) - antiderivative(from)
}

impl Solver for Deis {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        let end = walk.calls().end;
        // The noises predicted in the steps before, the latest first.
        let mut history: Vec<Vec<f32>> = Vec::new();
        for call in walk.calls() {
            let (to, s0) = (self.levels[call + 1], self.levels[call]);
            let output = walk.output(call, &x)?;
            let picture = self.prediction.picture(&x, &output, s0.alpha, s0.sigma);
            let x0 = self.limit.apply(picture);
            history.insert(0, Prediction::Sample.noise(&x, &x0, s0.alpha, s0.sigma));
            history.truncate(self.order);
            let mut order = history.len();
            if self.lower_order_final {
                order = order.min(end - call);
            }
            x = if order == 1 {
                let h = to.lambda - s0.lambda;
                let terms = [(to.alpha / s0.alpha, &x[..]), (-(to.sigma * (h.exp() - 1.0)), &history[0])];
                combine(&terms)
            } else {
                let rho = |level: Level| level.sigma / level.alpha;
                let rhos: Vec<f32> = (0..order).map(|k| rho(self.levels[call - k])).collect();
                let scaled: Vec<f32> = x.iter().map(|x| x / s0.alpha).collect();
                let mut terms = vec![(1.0, &scaled[..])];
                for k in 0..order {
                    // In the cyclic order of diffusers, which rounding can tell from another.
                    let others: Vec<f32> = (1..order).map(|j| rhos[(k + j) % order]).collect();
                    terms.push((coefficient(rhos[0], rho(to), rhos[k], &others), &history[k]));
                }
                zip(&combine(&terms), &x, |sum, _| to.alpha * sum)
            };
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
