//! Timesteps and sigmas: pure functions of a config and a number of steps.

use super::betas;
use super::config::SchedulerConfig;
use super::kind::Class;
use super::numeric::{arange, interp, linspace, log_f32};
use crate::{Error, Result};

/// More steps than anybody has reason to ask for; a bound on what is allocated.
const MAX_STEPS: usize = 10_000;

/// The noise levels of a run.
pub(super) struct Levels {
    /// One for each step, falling; whole numbers for most classes.
    pub(super) timesteps: Vec<f64>,
    /// One for each step, and the last one that the run ends at.
    pub(super) sigmas: Vec<f32>,
}

/// How a class picks steps out of the training timesteps.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Grid {
    /// Whole timesteps, from 0 or up to the last (DDIM, DDPM, PNDM).
    Whole,
    /// The same, not rounded (Euler and its kin).
    Real,
    /// One step more is laid out and the last one, at timestep 0, left to the final sigma (the DPM-Solver family).
    Solver,
}

#[derive(Clone, Copy)]
pub(super) enum Spacing {
    Linspace,
    Leading,
    Trailing,
}

const SPACINGS: [(&str, Spacing); 3] =
    [("linspace", Spacing::Linspace), ("leading", Spacing::Leading), ("trailing", Spacing::Trailing)];

/// `timestep_spacing`, with the class's default.
pub(super) fn spacing(config: &SchedulerConfig) -> Result<Spacing> {
    let default = match config.class() {
        Class::Ddim | Class::Ddpm | Class::Pndm | Class::Lcm | Class::Tcd => "leading",
        _ => "linspace",
    };
    config.choice("timestep_spacing", default, &SPACINGS)
}

/// The timesteps of `steps` steps, falling, out of `last` of the training's `train`.
///
/// Trailing: for some numbers of steps (61, 103, 121, 122, …) NumPy's `arange` runs one step too far by a rounding error,
/// and diffusers then asks the network for timestep −1 at the end; that step is left out here.
pub(super) fn timesteps(
    grid: Grid,
    spacing: Spacing,
    steps: usize,
    train: usize,
    last: usize,
    offset: usize,
) -> Vec<f64> {
    let extra = usize::from(grid == Grid::Solver);
    let mut timesteps = match spacing {
        Spacing::Linspace => {
            let mut points = linspace(0.0, last as f64 - 1.0, steps + extra);
            points.drain(..extra);
            match grid {
                Grid::Real => points.iter_mut().for_each(|t| *t = f64::from(*t as f32)),
                Grid::Whole | Grid::Solver => {
                    points.iter_mut().for_each(|t| *t = t.round_ties_even());
                }
            }
            points
        }
        Spacing::Leading => {
            let stride = last / (steps + extra);
            (extra..steps + extra).map(|i| (i * stride + offset) as f64).collect()
        }
        Spacing::Trailing => {
            let points = arange(last as f64, 0.0, -(train as f64 / steps as f64));
            let points = points.into_iter().map(|t| t.round_ties_even() - 1.0);
            return points.filter(|&t| t >= 0.0).collect();
        }
    };
    timesteps.reverse();
    timesteps
}

/// Refuses a number of steps that no run can have.
pub(super) fn check_steps(steps: usize) -> Result<()> {
    if (1..=MAX_STEPS).contains(&steps) {
        return Ok(());
    }
    let reason = format!("must be from 1 to {MAX_STEPS}, got {steps}");
    Err(Error::InvalidArgument { field: "steps", reason })
}

/// Refuses more steps than the model has timesteps.
pub(super) fn check_steps_of(steps: usize, train: usize) -> Result<()> {
    if steps <= train {
        return Ok(());
    }
    let reason = format!("must be at most {train}, the model's training timesteps, got {steps}");
    Err(Error::InvalidArgument { field: "steps", reason })
}

/// The timesteps of DDIM, DDPM and PNDM.
pub(super) fn whole_timesteps(config: &SchedulerConfig, steps: usize) -> Result<Vec<f64>> {
    let train = config.train_timesteps()?;
    let offset = config.count("steps_offset", 0, 0, train)?;
    let timesteps = timesteps(Grid::Whole, spacing(config)?, steps, train, train, offset);
    match timesteps.first() {
        Some(&first) if first >= train as f64 => {
            let hint = format!("{steps} steps would start at {first} of {train} timesteps");
            Err(config.unsupported("steps_offset", &offset, &hint))
        }
        _ => Ok(timesteps),
    }
}

/// The levels of Euler, Heun, LMS, DPM2 and of the DPM-Solver family.
pub(super) fn levels(config: &SchedulerConfig, alphas: &[f32], steps: usize) -> Result<Levels> {
    use Class::{Deis, DpmMultistep, DpmSinglestep, Euler, Heun, Kdpm2, Kdpm2Ancestral, Lms, UniPc};

    let class = config.class();
    let solver = matches!(class, DpmMultistep | DpmSinglestep | UniPc | Deis);
    let table = betas::sigmas(alphas);
    let mut timesteps = plain_timesteps(config, alphas, steps, solver)?;
    let mut sigmas: Vec<f64> = if class == Euler && log_linear(config)? {
        let (low, high) = (f64::from(log_f32(table[0])), f64::from(log_f32(table[table.len() - 1])));
        let logs = super::numeric::linspace_f32(high, low, steps + 1);
        logs.into_iter().map(|log| f64::from(log.exp())).collect()
    } else {
        timesteps.iter().map(|&t| interp(t, &table)).collect()
    };
    let warp = warp(config)?;
    if let Some(warp) = warp {
        let (high, low) = match solver {
            true => (f64::from(table[table.len() - 1]), f64::from(table[0])),
            false => (sigmas[0], sigmas[sigmas.len() - 1]),
        };
        sigmas = warped(config, warp, high, low, steps)?;
        let logs: Vec<f32> = table.iter().map(|&sigma| log_f32(sigma)).collect();
        timesteps = sigmas.iter().map(|&sigma| timestep_of(sigma, &logs)).collect();
        let cosine = class == DpmMultistep && config.says("beta_schedule", "squaredcos_cap_v2");
        let whole = matches!(class, Kdpm2 | Kdpm2Ancestral) || solver && !cosine;
        if whole && !matches!(warp, Warp::Exponential) {
            timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
    }
    match class {
        // These hold their timesteps as int64, which cuts what the exponential schedule leaves behind the point.
        DpmMultistep | DpmSinglestep | UniPc | Deis => {
            timesteps.iter_mut().for_each(|t| *t = t.trunc());
        }
        Euler | Heun | Lms => timesteps.iter_mut().for_each(|t| *t = f64::from(*t as f32)),
        _ => {}
    }
    let last = match class {
        // DEIS takes the logarithm of its last sigma: it cannot be 0.
        Deis => Final::SigmaMin,
        Euler | DpmMultistep | DpmSinglestep | UniPc => config.choice("final_sigmas_type", "zero", &FINALS)?,
        _ => Final::Zero,
    };
    let repeated = warp.is_some() && matches!(class, UniPc | Deis);
    sigmas.push(match last {
        Final::Zero => 0.0,
        Final::SigmaMin if repeated => sigmas[sigmas.len() - 1],
        Final::SigmaMin => f64::from(table[0]),
    });
    let mut sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
    if class == Euler && continuous(config)? {
        timesteps = sigmas[..sigmas.len() - 1].iter().map(|s| f64::from(0.25 * s.ln())).collect();
    }
    // The log-linear interpolation brings one sigma more than there are timesteps, and diffusers never reaches it.
    sigmas.truncate(timesteps.len() + 1);
    Ok(Levels { timesteps, sigmas })
}

#[derive(Clone, Copy)]
enum Final {
    Zero,
    SigmaMin,
}

const FINALS: [(&str, Final); 2] = [("zero", Final::Zero), ("sigma_min", Final::SigmaMin)];

#[derive(Clone, Copy)]
enum Warp {
    Karras,
    Exponential,
    /// DPM-Solver's uniform lambdas: the exponential schedule with whole timesteps.
    Lu,
}

fn warp(config: &SchedulerConfig) -> Result<Option<Warp>> {
    let keys = config.schedule_keys()?;
    if keys.len() > 1 {
        let hint = format!("only one of {} can be set", keys.join(", "));
        return Err(config.unsupported(keys[1], &true, &hint));
    }
    match keys.first() {
        Some(&"use_karras_sigmas") => Ok(Some(Warp::Karras)),
        _ if config.class() == Class::DpmMultistep && config.flag("use_lu_lambdas", false)? => Ok(Some(Warp::Lu)),
        Some(&"use_exponential_sigmas") => Ok(Some(Warp::Exponential)),
        Some(key) => Err(config.unsupported(key, &true, "use the karras or exponential schedule")),
        None => Ok(None),
    }
}

fn warped(config: &SchedulerConfig, warp: Warp, high: f64, low: f64, steps: usize) -> Result<Vec<f64>> {
    let bounds = match (warp, config.class()) {
        (Warp::Lu, _) | (Warp::Karras, Class::Lms) => (high, low),
        // Also a class that has no such parameters reads them from the file.
        _ => (config.number("sigma_max", high)?, config.number("sigma_min", low)?),
    };
    let (high, low) = bounds;
    Ok(match warp {
        Warp::Karras => {
            const RHO: f64 = 7.0;
            let (from, to) = (high.powf(1.0 / RHO), low.powf(1.0 / RHO));
            let ramp = linspace(0.0, 1.0, steps).into_iter();
            ramp.map(|r| (from + r * (to - from)).powf(RHO)).collect()
        }
        Warp::Exponential => linspace(high.ln(), low.ln(), steps).into_iter().map(f64::exp).collect(),
        Warp::Lu => {
            let (from, to) = (log_f32(high as f32), log_f32(low as f32));
            let ramp = linspace(0.0, 1.0, steps).into_iter();
            ramp.map(|r| (f64::from(from) + r * (f64::from(to) - f64::from(from))).exp()).collect()
        }
    })
}

/// `_sigma_to_t`: the timestep of a sigma, between the training's timesteps by the logarithm.
pub(super) fn timestep_of(sigma: f64, log_sigmas: &[f32]) -> f64 {
    let log = sigma.max(1e-10).ln();
    let below = log_sigmas.iter().rposition(|&l| log - f64::from(l) >= 0.0).unwrap_or(0);
    let below = below.min(log_sigmas.len().saturating_sub(2));
    let (low, high) = (log_sigmas[below], log_sigmas[(below + 1).min(log_sigmas.len() - 1)]);
    let weight = ((f64::from(low) - log) / f64::from(low - high)).clamp(0.0, 1.0);
    (1.0 - weight) * below as f64 + weight * (below + 1) as f64
}

fn plain_timesteps(config: &SchedulerConfig, alphas: &[f32], steps: usize, solver: bool) -> Result<Vec<f64>> {
    let train = config.train_timesteps()?;
    let last = match config.class() {
        Class::DpmMultistep | Class::DpmSinglestep => train - clipped(config, alphas)?.min(train - 1),
        _ => train,
    };
    if config.class() == Class::DpmSinglestep {
        return Ok(timesteps(Grid::Solver, Spacing::Linspace, steps, train, last, 0));
    }
    let grid = if solver { Grid::Solver } else { Grid::Real };
    let offset = config.count("steps_offset", 0, 0, train)?;
    let timesteps = timesteps(grid, spacing(config)?, steps, train, last, offset);
    if timesteps.is_empty() {
        let reason = format!("{steps} leave no timestep of the {last} that the model can start from");
        return Err(Error::InvalidArgument { field: "steps", reason });
    }
    Ok(timesteps)
}

/// How many of the noisiest timesteps lie below `lambda_min_clipped` in the logarithm of alpha over sigma.
fn clipped(config: &SchedulerConfig, alphas: &[f32]) -> Result<usize> {
    let bound = config.number("lambda_min_clipped", f64::NEG_INFINITY)? as f32;
    let lambda = |a: &f32| a.sqrt().ln() - (1.0 - a).sqrt().ln();
    Ok(alphas.iter().rev().take_while(|a| lambda(a) < bound).count())
}

fn log_linear(config: &SchedulerConfig) -> Result<bool> {
    config.choice("interpolation_type", "linear", &[("linear", false), ("log_linear", true)])
}

fn continuous(config: &SchedulerConfig) -> Result<bool> {
    let kinds = [("discrete", false), ("continuous", true)];
    let continuous = config.choice("timestep_type", "discrete", &kinds)?;
    Ok(continuous && config.says("prediction_type", "v_prediction"))
}
