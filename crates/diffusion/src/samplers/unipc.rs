//! [UniPC](https://arxiv.org/abs/2302.04867): a predictor, and a corrector that takes the next call's output into account.

use super::betas::alphas_cumprod;
use super::config::SchedulerConfig;
use super::dpm_solver::Level;
use super::prediction::{Limit, Prediction, combine, zip};
use super::schedule::{Levels, levels};
use super::walk::{Plan, Solver, Walk};
use crate::Result;
use crate::linear::solve;

/// The highest order that is of use; the equations grow ill-conditioned.
const MAX_ORDER: usize = 8;

struct UniPc {
    levels: Vec<Level>,
    prediction: Prediction,
    limit: Limit,
    order: usize,
    predict_x0: bool,
    /// `solver_type` bh1: the function B(h) is h itself.
    bh1: bool,
    lower_order_final: bool,
    /// Calls before which the corrector is left out.
    uncorrected: Vec<usize>,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let Levels { timesteps, sigmas } = levels(config, &alphas_cumprod(config)?, steps)?;
    for key in ["use_flow_sigmas", "shift_terminal", "use_dynamic_shifting"] {
        config.refuse(key, "flow matching is not supported")?;
    }
    config.refuse("solver_p", "only UniPC's own predictor is supported")?;
    let predict_x0 = config.flag("predict_x0", true)?;
    if !predict_x0 && sigmas.last() == Some(&0.0) {
        let hint = "predict_x0 = false needs sigma_min: at 0 diffusers divides by it";
        return Err(config.unsupported("final_sigmas_type", &"zero", hint));
    }
    let levels: Vec<Level> = sigmas.into_iter().map(Level::of).collect();
    let uncorrected = config.numbers("disable_corrector")?.unwrap_or_default();
    let mixes = levels.iter().map(|level| level.mix()).collect();
    let solver = UniPc {
        levels,
        prediction: Prediction::of(config)?,
        limit: Limit::of(config)?,
        order: config.count("solver_order", 2, 1, MAX_ORDER)?,
        predict_x0,
        bh1: config.choice("solver_type", "bh2", &[("bh2", false), ("bh1", true)])?,
        lower_order_final: config.flag("lower_order_final", true)?,
        uncorrected: uncorrected.into_iter().map(|call| (call as usize).saturating_add(1)).collect(),
    };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

impl UniPc {
    /// One step from level `i` to the next, by the latest outputs (`outputs[0]` is that of level `i`) and, for the
    /// corrector, that of the next level. The order is the number of outputs.
    fn step(&self, i: usize, x: &[f32], outputs: &[Vec<f32>], next: Option<&[f32]>) -> Vec<f32> {
        let (to, s0) = (self.levels[i + 1], self.levels[i]);
        let h = to.lambda - s0.lambda;
        let hh = if self.predict_x0 { -h } else { h };
        let phi_1 = hh.exp_m1();
        let b_h = if self.bh1 { hh } else { phi_1 };
        let order = outputs.len();

        let m0 = &outputs[0];
        let mut ratios = Vec::new();
        let mut differences = Vec::new();
        for (k, m) in outputs.iter().enumerate().skip(1) {
            let ratio = (self.levels[i - k].lambda - s0.lambda) / h;
            differences.push(zip(m, m0, |m, m0| (m - m0) / ratio));
            ratios.push(ratio);
        }
        if let Some(next) = next {
            differences.push(zip(next, m0, |next, m0| next - m0));
            ratios.push(1.0);
        }
        let rhos = match (order, next) {
            (1, Some(_)) | (2, None) => vec![0.5],
            _ => self.coefficients(&ratios, hh, phi_1, b_h),
        };

        let (keep, scale) = match self.predict_x0 {
            true => (to.sigma / s0.sigma, to.alpha),
            false => (to.alpha / s0.alpha, to.sigma),
        };
        let base = combine(&[(keep, x), (-(scale * phi_1), m0)]);
        if differences.is_empty() {
            return base;
        }
        let terms: Vec<_> = rhos.iter().copied().zip(differences.iter().map(Vec::as_slice)).collect();
        zip(&base, &combine(&terms), |base, residual| base - scale * b_h * residual)
    }

    /// The rhos that make the step exact for polynomials: equation 9 of the paper.
    fn coefficients(&self, ratios: &[f32], hh: f32, phi_1: f32, b_h: f32) -> Vec<f32> {
        let mut phi_k = phi_1 / hh - 1.0;
        let mut factorial = 1.0;
        let (mut matrix, mut right) = (Vec::new(), Vec::new());
        for power in 0..ratios.len() as i32 {
            matrix.push(ratios.iter().map(|ratio| f64::from(ratio.powi(power))).collect());
            right.push(f64::from(phi_k * factorial / b_h));
            factorial *= (power + 2) as f32;
            phi_k = phi_k / hh - 1.0 / factorial;
        }
        solve(matrix, right).into_iter().map(|rho| rho as f32).collect()
    }
}

impl Solver for UniPc {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        let end = walk.calls().end;
        // The outputs of the steps before, the latest first, and the latents that the last step started from.
        let mut outputs: Vec<Vec<f32>> = Vec::new();
        let mut last: Option<(Vec<f32>, usize)> = None;
        for call in walk.calls() {
            let output = walk.output(call, &x)?;
            let (alpha, sigma) = self.levels[call].mix();
            let picture = self.prediction.picture(&x, &output, alpha, sigma);
            let (x0, m) = match self.predict_x0 {
                true => {
                    let x0 = self.limit.apply(picture);
                    (x0.clone(), x0)
                }
                false => (picture, self.prediction.noise(&x, &output, alpha, sigma)),
            };
            if let Some((last_x, order)) = last.take()
                && !self.uncorrected.contains(&call)
            {
                x = self.step(call - 1, &last_x, &outputs[..order], Some(&m));
            }
            outputs.insert(0, m);
            outputs.truncate(self.order);
            let mut order = outputs.len();
            if self.lower_order_final {
                order = order.min(end - call);
            }
            let next = self.step(call, &x, &outputs[..order], None);
            last = Some((std::mem::replace(&mut x, next), order));
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
