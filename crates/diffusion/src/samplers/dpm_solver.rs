//! [DPM-Solver](https://arxiv.org/abs/2206.00927) and [DPM-Solver++](https://arxiv.org/abs/2211.01095), multistep, for the
//! ordinary and the stochastic differential equation.

use super::betas::alphas_cumprod;
use super::config::SchedulerConfig;
use super::kind::Class;
use super::prediction::{Limit, Prediction, combine, zip};
use super::schedule::{Levels, levels};
use super::walk::{Plan, Solver, Walk};
use crate::Result;

/// A noise level, with alpha² + sigma² = 1 and lambda the logarithm of their quotient.
#[derive(Clone, Copy)]
pub(super) struct Level {
    pub(super) alpha: f32,
    pub(super) sigma: f32,
    pub(super) lambda: f32,
}

impl Level {
    pub(super) fn of(sigma: f32) -> Self {
        let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
        let sigma = sigma * alpha;
        Self { alpha, sigma, lambda: alpha.ln() - sigma.ln() }
    }

    pub(super) fn mix(self) -> (f32, f32) {
        (self.alpha, self.sigma)
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Algorithm {
    /// Integrates the noise.
    DpmSolver,
    /// Integrates the picture.
    DpmSolverPlusPlus,
    SdeDpmSolver,
    SdeDpmSolverPlusPlus,
}

/// What the two DPM-Solver classes have in common: the levels and how a step is weighed.
pub(super) struct DpmSolver {
    pub(super) levels: Vec<Level>,
    pub(super) prediction: Prediction,
    pub(super) limit: Limit,
    pub(super) algorithm: Algorithm,
    /// `solver_type`: heun in place of midpoint.
    pub(super) heun: bool,
    pub(super) order: usize,
}

/// The factors of a step by the level that it starts from, of the picture or noise there and of its differences.
pub(super) struct Weights {
    pub(super) x: f32,
    pub(super) d0: f32,
    /// Of the first difference in a step of second order.
    pub(super) d1_second: f32,
    /// The same, but in one of third order.
    pub(super) d1_third: f32,
    pub(super) d2: f32,
    noise: f32,
}

impl DpmSolver {
    pub(super) fn of(config: &SchedulerConfig, sigmas: &[f32]) -> Result<Self> {
        use Algorithm::{DpmSolver, DpmSolverPlusPlus, SdeDpmSolver, SdeDpmSolverPlusPlus};
        let common =
            [("dpmsolver++", DpmSolverPlusPlus), ("dpmsolver", DpmSolver), ("sde-dpmsolver++", SdeDpmSolverPlusPlus)];
        let multistep = config.class() == Class::DpmMultistep;
        let own: &[_] = if multistep { &[("sde-dpmsolver", SdeDpmSolver)] } else { &[] };
        let algorithm = config.choice("algorithm_type", "dpmsolver++", &[&common, own].concat())?;
        let noise_based = matches!(algorithm, DpmSolver | SdeDpmSolver);
        if noise_based && sigmas.last() == Some(&0.0) {
            let hint = "this algorithm_type needs final_sigmas_type = sigma_min";
            return Err(config.unsupported("final_sigmas_type", &"zero", hint));
        }
        let limit = Limit::of(config)?;
        if noise_based && !multistep && !matches!(limit, Limit::None) {
            let hint = "diffusers fails on it with this algorithm_type";
            return Err(config.unsupported("thresholding", &true, hint));
        }
        config.refuse("use_flow_sigmas", "flow matching is not supported")?;
        config.refuse("variance_type", "networks that predict a variance are not supported")?;
        let most = if algorithm == SdeDpmSolver { 2 } else { 3 };
        Ok(Self {
            levels: sigmas.iter().copied().map(Level::of).collect(),
            prediction: Prediction::of(config)?,
            limit,
            algorithm,
            heun: config.choice("solver_type", "midpoint", &[("midpoint", false), ("heun", true)])?,
            order: config.count("solver_order", 2, 1, most)?,
        })
    }

    /// The picture in the latents, and what the algorithm integrates: the picture or the noise.
    pub(super) fn convert(&self, x: &[f32], output: &[f32], call: usize) -> (Vec<f32>, Vec<f32>) {
        let (alpha, sigma) = self.levels[call].mix();
        let x0 = self.limit.apply(self.prediction.picture(x, output, alpha, sigma));
        let integrand = match (self.algorithm, self.limit) {
            (Algorithm::DpmSolverPlusPlus | Algorithm::SdeDpmSolverPlusPlus, _) => x0.clone(),
            (_, Limit::None) => self.prediction.noise(x, output, alpha, sigma),
            (_, _) => Prediction::Sample.noise(x, &x0, alpha, sigma),
        };
        (x0, integrand)
    }

    /// The noise that a step adds, drawn once for every network call.
    pub(super) fn draw(&self, walk: &mut Walk<'_>, count: usize) -> Option<Vec<f32>> {
        let sde = matches!(self.algorithm, Algorithm::SdeDpmSolver | Algorithm::SdeDpmSolverPlusPlus);
        sde.then(|| walk.normal(count))
    }

    /// The weights of a step from one level to another.
    pub(super) fn weights(&self, from: Level, to: Level) -> Weights {
        let h = to.lambda - from.lambda;
        match self.algorithm {
            Algorithm::DpmSolverPlusPlus => {
                let (a, phi) = (to.alpha, (-h).exp() - 1.0);
                let d1 = a * (phi / h + 1.0);
                Weights {
                    x: to.sigma / from.sigma,
                    d0: -(a * phi),
                    d1_second: if self.heun { d1 } else { -0.5 * (a * phi) },
                    d1_third: d1,
                    d2: -(a * ((phi + h) / (h * h) - 0.5)),
                    noise: 0.0,
                }
            }
            Algorithm::DpmSolver => {
                let (s, phi) = (to.sigma, h.exp() - 1.0);
                let d1 = -(s * (phi / h - 1.0));
                Weights {
                    x: to.alpha / from.alpha,
                    d0: -(s * phi),
                    d1_second: if self.heun { d1 } else { -0.5 * (s * phi) },
                    d1_third: d1,
                    d2: -(s * ((phi - h) / (h * h) - 0.5)),
                    noise: 0.0,
                }
            }
            Algorithm::SdeDpmSolverPlusPlus => {
                let (a, phi) = (to.alpha, 1.0 - (-2.0 * h).exp());
                let d1 = a * (phi / (-2.0 * h) + 1.0);
                Weights {
                    x: to.sigma / from.sigma * (-h).exp(),
                    d0: a * phi,
                    d1_second: if self.heun { d1 } else { 0.5 * (a * phi) },
                    d1_third: d1,
                    d2: a * ((phi - 2.0 * h) / (4.0 * h * h) - 0.5),
                    noise: to.sigma * phi.sqrt(),
                }
            }
            Algorithm::SdeDpmSolver => {
                let (s, phi) = (to.sigma, h.exp() - 1.0);
                let d1 = -2.0 * (s * (phi / h - 1.0));
                Weights {
                    x: to.alpha / from.alpha,
                    d0: -2.0 * (s * phi),
                    d1_second: if self.heun { d1 } else { -(s * phi) },
                    // diffusers has no step of third order for it.
                    d1_third: 0.0,
                    d2: 0.0,
                    noise: s * ((2.0 * h).exp() - 1.0).sqrt(),
                }
            }
        }
    }
}

impl Weights {
    /// The sum of a step: its terms and, in a stochastic one, the noise.
    pub(super) fn sum(&self, terms: &[(f32, &[f32])], noise: Option<&[f32]>) -> Vec<f32> {
        match noise {
            Some(noise) => combine(&[terms, &[(self.noise, noise)]].concat()),
            None => combine(terms),
        }
    }
}

struct Multistep {
    solver: DpmSolver,
    lower_order_final: bool,
    /// The last step is of first order.
    euler_at_final: bool,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan> {
    let Levels { timesteps, sigmas } = levels(config, &alphas_cumprod(config)?, steps)?;
    let solver = DpmSolver::of(config, &sigmas)?;
    let few = timesteps.len() < 15;
    let lower_order_final = few && config.flag("lower_order_final", true)?;
    let to_zero = sigmas.last() == Some(&0.0);
    let mixes = solver.levels.iter().map(|level| level.mix()).collect();
    let solver = Multistep {
        solver,
        lower_order_final,
        euler_at_final: lower_order_final || to_zero || config.flag("euler_at_final", false)?,
    };
    Ok(Plan::of_unit_variance(timesteps, mixes, solver))
}

impl Solver for Multistep {
    fn run(&self, walk: &mut Walk<'_>, mut x: Vec<f32>) -> Result<Vec<f32>> {
        let levels = &self.solver.levels;
        let end = walk.calls().end;
        // What was integrated in the steps before, the latest first.
        let mut history: Vec<Vec<f32>> = Vec::new();
        for call in walk.calls() {
            let output = walk.output(call, &x)?;
            let (x0, m0) = self.solver.convert(&x, &output, call);
            let noise = self.solver.draw(walk, x.len());
            let mut order = self.solver.order.min(history.len() + 1);
            if call + 1 == end && self.euler_at_final {
                order = 1;
            } else if call + 2 == end && self.lower_order_final {
                order = order.min(2);
            }
            let (to, s0) = (levels[call + 1], levels[call]);
            let w = self.solver.weights(s0, to);
            let h = to.lambda - s0.lambda;
            let start = [(w.x, x.as_slice()), (w.d0, m0.as_slice())];
            let next = match (order, history.as_slice()) {
                (2, [m1, ..]) => {
                    let r0 = (s0.lambda - levels[call - 1].lambda) / h;
                    let d1 = zip(&m0, m1, |m0, m1| 1.0 / r0 * (m0 - m1));
                    w.sum(&[start[0], start[1], (w.d1_second, &d1)], noise.as_deref())
                }
                (3, [m1, m2, ..]) => {
                    let (s1, s2) = (levels[call - 1], levels[call - 2]);
                    let r0 = (s0.lambda - s1.lambda) / h;
                    let r1 = (s1.lambda - s2.lambda) / h;
                    let d1_0 = zip(&m0, m1, |m0, m1| 1.0 / r0 * (m0 - m1));
                    let d1_1 = zip(m1, m2, |m1, m2| 1.0 / r1 * (m1 - m2));
                    let d1 = zip(&d1_0, &d1_1, |a, b| a + r0 / (r0 + r1) * (a - b));
                    let d2 = zip(&d1_0, &d1_1, |a, b| 1.0 / (r0 + r1) * (a - b));
                    let terms = [start[0], start[1], (w.d1_third, &d1), (w.d2, &d2)];
                    w.sum(&terms, noise.as_deref())
                }
                _ => w.sum(&start, noise.as_deref()),
            };
            x = next;
            history.insert(0, m0);
            history.truncate(2);
            walk.done(call, &mut x, &x0)?;
        }
        Ok(x)
    }
}
