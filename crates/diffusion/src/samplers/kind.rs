//! The names of samplers and schedules.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A sampler as a user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SamplerKind {
    /// [DDIM](https://arxiv.org/abs/2010.02502), deterministic.
    Ddim,
    /// [DDPM](https://arxiv.org/abs/2006.11239): ancestral sampling.
    Ddpm,
    /// [PNDM](https://arxiv.org/abs/2202.09778) by linear multistep, without the Runge-Kutta start.
    Pndm,
    /// Katherine Crowson's linear multistep method, of order 4.
    Lms,
    /// Euler's method as in [EDM](https://arxiv.org/abs/2206.00364), algorithm 2 without churn.
    Euler,
    /// Euler's method with ancestral noise.
    EulerA,
    /// Heun's method as in [EDM](https://arxiv.org/abs/2206.00364): two network calls a step.
    Heun,
    /// The midpoint method in log sigma, after [DPM-Solver-2](https://arxiv.org/abs/2206.00927): two calls a step.
    Dpm2,
    /// The same with ancestral noise.
    Dpm2A,
    /// [DPM-Solver++](https://arxiv.org/abs/2211.01095), multistep.
    Dpmpp2m,
    /// DPM-Solver++ of the stochastic differential equation, multistep.
    Dpmpp2mSde,
    /// DPM-Solver++, singlestep.
    Dpmpp2s,
    /// [UniPC](https://arxiv.org/abs/2302.04867).
    Unipc,
    /// [DEIS](https://arxiv.org/abs/2204.13902), multistep in log rho.
    Deis,
    /// [Latent consistency models](https://arxiv.org/abs/2310.04378).
    Lcm,
    /// [Trajectory consistency distillation](https://arxiv.org/abs/2402.19159).
    Tcd,
}

impl SamplerKind {
    /// Every sampler, in the order of the documentation.
    pub const ALL: [Self; 16] = [
        Self::Ddim,
        Self::Ddpm,
        Self::Pndm,
        Self::Lms,
        Self::Euler,
        Self::EulerA,
        Self::Heun,
        Self::Dpm2,
        Self::Dpm2A,
        Self::Dpmpp2m,
        Self::Dpmpp2mSde,
        Self::Dpmpp2s,
        Self::Unipc,
        Self::Deis,
        Self::Lcm,
        Self::Tcd,
    ];

    /// The name on the wire, for example `dpmpp_2m_sde`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Ddpm => "ddpm",
            Self::Pndm => "pndm",
            Self::Lms => "lms",
            Self::Euler => "euler",
            Self::EulerA => "euler_a",
            Self::Heun => "heun",
            Self::Dpm2 => "dpm2",
            Self::Dpm2A => "dpm2_a",
            Self::Dpmpp2m => "dpmpp_2m",
            Self::Dpmpp2mSde => "dpmpp_2m_sde",
            Self::Dpmpp2s => "dpmpp_2s",
            Self::Unipc => "unipc",
            Self::Deis => "deis",
            Self::Lcm => "lcm",
            Self::Tcd => "tcd",
        }
    }

    /// Whether diffusers gives the sampler the schedules of [`Schedule`].
    pub fn has_schedules(self) -> bool {
        Class::from(self).has_schedules()
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::InvalidArgument { field: "scheduler", reason: format!("must be one of {names}, got {name:?}") }
        })
    }
}

/// How the noise levels are spread between the largest and the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Evenly in the seventh root of sigma ([EDM](https://arxiv.org/abs/2206.00364), equation 5).
    Karras,
    /// Evenly in the logarithm of sigma.
    Exponential,
}

impl Schedule {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Karras => "karras",
            Self::Exponential => "exponential",
        }
    }

    /// The key of a scheduler's config that switches the schedule on.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Karras => "use_karras_sigmas",
            Self::Exponential => "use_exponential_sigmas",
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "karras" => Ok(Self::Karras),
            "exponential" => Ok(Self::Exponential),
            _ => Err(Error::InvalidArgument {
                field: "schedule",
                reason: format!("must be karras or exponential, got {name:?}"),
            }),
        }
    }
}

/// A scheduler class of diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Ddim,
    Ddpm,
    Pndm,
    Lms,
    Euler,
    EulerAncestral,
    Heun,
    Kdpm2,
    Kdpm2Ancestral,
    DpmMultistep,
    DpmSinglestep,
    UniPc,
    Deis,
    Lcm,
    Tcd,
}

impl Class {
    pub(super) const ALL: [Self; 15] = [
        Self::Ddim,
        Self::Ddpm,
        Self::Pndm,
        Self::Lms,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::Kdpm2,
        Self::Kdpm2Ancestral,
        Self::DpmMultistep,
        Self::DpmSinglestep,
        Self::UniPc,
        Self::Deis,
        Self::Lcm,
        Self::Tcd,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ddim => "DDIMScheduler",
            Self::Ddpm => "DDPMScheduler",
            Self::Pndm => "PNDMScheduler",
            Self::Lms => "LMSDiscreteScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::Heun => "HeunDiscreteScheduler",
            Self::Kdpm2 => "KDPM2DiscreteScheduler",
            Self::Kdpm2Ancestral => "KDPM2AncestralDiscreteScheduler",
            Self::DpmMultistep => "DPMSolverMultistepScheduler",
            Self::DpmSinglestep => "DPMSolverSinglestepScheduler",
            Self::UniPc => "UniPCMultistepScheduler",
            Self::Deis => "DEISMultistepScheduler",
            Self::Lcm => "LCMScheduler",
            Self::Tcd => "TCDScheduler",
        }
    }

    /// Whether the class has the keys `use_karras_sigmas`, `use_exponential_sigmas` and `use_beta_sigmas`.
    pub(super) fn has_schedules(self) -> bool {
        match self {
            Self::Lms
            | Self::Euler
            | Self::Heun
            | Self::Kdpm2
            | Self::Kdpm2Ancestral
            | Self::DpmMultistep
            | Self::DpmSinglestep
            | Self::UniPc
            | Self::Deis => true,
            Self::Ddim | Self::Ddpm | Self::Pndm | Self::EulerAncestral | Self::Lcm | Self::Tcd => false,
        }
    }
}

impl From<SamplerKind> for Class {
    fn from(kind: SamplerKind) -> Self {
        match kind {
            SamplerKind::Ddim => Self::Ddim,
            SamplerKind::Ddpm => Self::Ddpm,
            SamplerKind::Pndm => Self::Pndm,
            SamplerKind::Lms => Self::Lms,
            SamplerKind::Euler => Self::Euler,
            SamplerKind::EulerA => Self::EulerAncestral,
            SamplerKind::Heun => Self::Heun,
            SamplerKind::Dpm2 => Self::Kdpm2,
            SamplerKind::Dpm2A => Self::Kdpm2Ancestral,
            SamplerKind::Dpmpp2m | SamplerKind::Dpmpp2mSde => Self::DpmMultistep,
            SamplerKind::Dpmpp2s => Self::DpmSinglestep,
            SamplerKind::Unipc => Self::UniPc,
            SamplerKind::Deis => Self::Deis,
            SamplerKind::Lcm => Self::Lcm,
            SamplerKind::Tcd => Self::Tcd,
        }
    }
}
