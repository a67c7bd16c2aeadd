//! Timesteps, and other numbers, as vectors.

use crate::Result;
use crate::ops::{Activation, Device, Epilogue, Linear, Tensor};
use crate::weights::Weights;

/// Sines and cosines of a number at falling frequencies (<https://arxiv.org/abs/2006.11239>, after
/// <https://arxiv.org/abs/1706.03762>, section 3.5); diffusers' `Timesteps`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timesteps {
    pub(super) channels: usize,
    /// Cosines first.
    pub(super) flip_sin_to_cos: bool,
    pub(super) freq_shift: f64,
}

/// Two linear layers around an activation.
#[derive(Debug)]
pub(super) struct TimestepEmbedding {
    cond_proj: Option<Linear>,
    linear_1: Linear,
    linear_2: Linear,
    act: Activation,
}

impl Timesteps {
    /// Appends the vector of `value` to `out`. In single precision like torch, so that a timestep of 999.0 has the very
    /// phases that the network was trained on.
    pub(super) fn embed(&self, value: f64, out: &mut Vec<f32>) {
        let half = self.channels / 2;
        let value = value as f32;
        let phases = (0..half).map(|i| {
            let exponent = -(10000f64.ln() as f32) * i as f32 / (half as f64 - self.freq_shift) as f32;
            f64::from(value * exponent.exp())
        });
        let sines = phases.clone().map(|phase| phase.sin() as f32);
        let cosines = phases.map(|phase| phase.cos() as f32);
        if self.flip_sin_to_cos {
            out.extend(cosines.chain(sines));
        } else {
            out.extend(sines.chain(cosines));
        }
        if self.channels % 2 == 1 {
            out.push(0.0);
        }
    }
}

impl TimestepEmbedding {
    /// `cond_proj_dim`: the width of a second vector that [`Self::forward`] can add to the first, projected.
    pub(super) fn load(
        weights: &Weights,
        in_channels: usize,
        time_embed_dim: usize,
        act: Activation,
        cond_proj_dim: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            cond_proj: cond_proj_dim
                .map(|dim| Linear::load_without_bias(&weights.pp("cond_proj"), dim, in_channels, device))
                .transpose()?,
            linear_1: Linear::load(&weights.pp("linear_1"), in_channels, time_embed_dim, device)?,
            linear_2: Linear::load(&weights.pp("linear_2"), time_embed_dim, time_embed_dim, device)?,
            act,
        })
    }

    /// The embedding `(n, time_embed_dim)` of `sample (n, in_channels)`, plus `added`.
    pub(super) fn forward(
        &self,
        sample: &Tensor,
        condition: Option<&Tensor>,
        added: Option<&Tensor>,
    ) -> Result<Tensor> {
        let hidden = match (&self.cond_proj, condition) {
            (Some(cond_proj), Some(condition)) => {
                let sample = cond_proj.forward_with(condition, Epilogue::residual(sample))?;
                self.linear_1.forward_with(&sample, Epilogue::activation(self.act))?
            }
            _ => self.linear_1.forward_with(sample, Epilogue::activation(self.act))?,
        };
        self.linear_2.forward_with(&hidden, Epilogue { residual: added, ..Epilogue::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From diffusers 0.42.1: `get_timestep_embedding(torch.tensor([t], dtype=torch.float64), channels, flip, shift)`.
    #[test]
    fn embeddings_are_those_of_diffusers() {
        let check = |value, flip_sin_to_cos, freq_shift, expected: &[f32]| {
            let mut out = Vec::new();
            Timesteps { channels: expected.len(), flip_sin_to_cos, freq_shift }.embed(value, &mut out);
            for (i, (found, expected)) in out.iter().zip(expected).enumerate() {
                assert!((found - expected).abs() < 1e-5, "{value} at {i}: {found}, expected {expected}");
            }
            assert_eq!(out.len(), expected.len());
        };
        check(
            999.0,
            true,
            0.0,
            &[0.9996498, 0.8074551, -0.8444698, 0.5411435, -0.02646075, -0.5899291, -0.5356032, 0.8409302],
        );
        check(
            340.7234,
            true,
            0.0,
            &[0.1389631, -0.8845905, -0.9649244, 0.9425132, 0.9902976, 0.4663686, -0.2625279, 0.334169],
        );
        check(
            1.0,
            false,
            1.0,
            &[0.841471, 0.04639923, 0.002154433, 9.999999e-05, 0.5403023, 0.9989229, 0.9999977, 1.0],
        );
        check(500.0, true, 0.0, &[-0.8838493, -0.3466526, 0.4737807, -0.4677718, -0.9379936, 0.8806428, 0.0]);
    }
}
