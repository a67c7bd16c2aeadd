//! How much of the picture is left at each training timestep: the cumulated alphas of
//! [DDPM](https://arxiv.org/abs/2006.11239).

use std::f64::consts::PI;

use super::config::SchedulerConfig;
use super::kind::Class;
use super::numeric::linspace_f32;
use crate::Result;

/// `alphas_cumprod` of a scheduler: one number in (0, 1] for each training timestep, falling.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for settings that are not known.
pub(super) fn alphas_cumprod(config: &SchedulerConfig) -> Result<Vec<f32>> {
    let mut betas = betas(config)?;
    // Elsewhere the key is not a parameter, and an unknown key of the file is ignored.
    let can_rescale = matches!(
        config.class(),
        Class::Ddim
            | Class::Ddpm
            | Class::Euler
            | Class::EulerAncestral
            | Class::DpmMultistep
            | Class::UniPc
            | Class::Lcm
            | Class::Tcd
    );
    let rescale = can_rescale && config.flag("rescale_betas_zero_snr", false)?;
    if rescale {
        betas = zero_terminal_snr(&betas);
    }
    let mut cumprod = cumulate(&betas);
    // Those that divide by alpha keep a little of it.
    let divides = matches!(config.class(), Class::Euler | Class::EulerAncestral | Class::DpmMultistep | Class::UniPc);
    if rescale
        && divides
        && let Some(last) = cumprod.last_mut()
    {
        *last = 2f32.powi(-24);
    }
    Ok(cumprod)
}

/// The cumulated alphas of the samplers that keep the latents at unit variance.
pub(super) struct Alphas {
    cumprod: Vec<f32>,
    /// Past the last timestep.
    end: f32,
}

impl Alphas {
    pub(super) fn of(config: &SchedulerConfig) -> Result<Self> {
        let cumprod = alphas_cumprod(config)?;
        let to_one = match config.class() {
            Class::Ddpm => true,
            class => config.flag("set_alpha_to_one", class != Class::Pndm)?,
        };
        let end = if to_one { 1.0 } else { cumprod[0] };
        Ok(Self { cumprod, end })
    }

    /// The cumulated alpha of a timestep; below 0 is past the end.
    pub(super) fn at(&self, timestep: f64) -> f32 {
        match timestep < 0.0 {
            true => self.end,
            false => self.cumprod[(timestep as usize).min(self.cumprod.len() - 1)],
        }
    }

    /// Alpha and sigma of `x = alpha · picture + sigma · noise` at a timestep.
    pub(super) fn mix(&self, timestep: f64) -> (f32, f32) {
        let alpha = self.at(timestep);
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }
}

/// `((1 - alphas_cumprod) / alphas_cumprod) ** 0.5`: the noise beside a picture of scale 1.
pub(super) fn sigmas(alphas_cumprod: &[f32]) -> Vec<f32> {
    alphas_cumprod.iter().map(|a| ((1.0 - a) / a).sqrt()).collect()
}

#[derive(Clone, Copy)]
enum Betas {
    Linear,
    ScaledLinear,
    Cosine,
    Exp,
    Laplace,
    Sigmoid,
}

fn betas(config: &SchedulerConfig) -> Result<Vec<f32>> {
    let count = config.train_timesteps()?;
    if let Some(trained) = config.numbers("trained_betas")? {
        if trained.len() != count {
            let hint = format!("num_train_timesteps = {count} needs as many");
            let found = format!("{} numbers", trained.len());
            return Err(config.unsupported("trained_betas", &found, &hint));
        }
        return Ok(trained.into_iter().map(|beta| beta as f32).collect());
    }
    let (start, end, schedule) = match config.class() {
        Class::Heun | Class::Kdpm2 | Class::Kdpm2Ancestral => (0.00085, 0.012, "linear"),
        Class::Lcm | Class::Tcd => (0.00085, 0.012, "scaled_linear"),
        _ => (0.0001, 0.02, "linear"),
    };
    let start = config.number("beta_start", start)?;
    let end = config.number("beta_end", end)?;
    let common =
        [("linear", Betas::Linear), ("scaled_linear", Betas::ScaledLinear), ("squaredcos_cap_v2", Betas::Cosine)];
    let own: &[_] = match config.class() {
        Class::Ddpm => &[("laplace", Betas::Laplace), ("sigmoid", Betas::Sigmoid)],
        Class::Heun => &[("exp", Betas::Exp)],
        _ => &[],
    };
    Ok(match config.choice("beta_schedule", schedule, &[&common, own].concat())? {
        Betas::Linear => linspace_f32(start, end, count),
        Betas::ScaledLinear => linspace_f32(start.sqrt(), end.sqrt(), count).into_iter().map(|b| b * b).collect(),
        Betas::Cosine => of_alpha_bar(count, |t| ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2)),
        Betas::Exp => of_alpha_bar(count, |t| (t * -12.0).exp()),
        Betas::Laplace => of_alpha_bar(count, |t| {
            let centred = 0.5 - t;
            let lambda = -0.5 * 1f64.copysign(centred) * (1.0 - 2.0 * centred.abs() + 1e-6).ln();
            let snr = lambda.exp();
            (snr / (1.0 + snr)).sqrt()
        }),
        Betas::Sigmoid => linspace_f32(-6.0, 6.0, count)
            .into_iter()
            .map(|x| 1.0 / (1.0 + (-x).exp()) * (end - start) as f32 + start as f32)
            .collect(),
    })
}

/// `betas_for_alpha_bar`: betas that make the cumulated alphas follow a function of the time in [0, 1].
fn of_alpha_bar(count: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f32> {
    let at = |i: usize| alpha_bar(i as f64 / count as f64);
    (0..count).map(|i| (1.0 - at(i + 1) / at(i)).min(0.999) as f32).collect()
}

/// Torch cumulates float32 in double precision and rounds each product.
fn cumulate(betas: &[f32]) -> Vec<f32> {
    let step = |product: &mut f64, beta: &f32| {
        *product *= f64::from(1.0 - beta);
        Some(*product as f32)
    };
    betas.iter().scan(1.0, step).collect()
}

/// Shifts the betas so that the last timestep is pure noise (<https://arxiv.org/abs/2305.08891>, algorithm 1).
fn zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = cumulate(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return Vec::new();
    };
    for root in &mut roots {
        *root = (*root - last) * (first / (first - last));
    }
    let bars: Vec<f32> = roots.iter().map(|root| root * root).collect();
    let rest = bars.windows(2).map(|pair| 1.0 - pair[1] / pair[0]);
    std::iter::once(1.0 - bars[0]).chain(rest).collect()
}
