//! Layers that normalize.

use std::ops::Range;

use cpu_kernels::Moments;

#[cfg(feature = "candle")]
use super::candle;
use super::cpu;
use super::device::Device;
use super::layers::Activation;
use super::tensor::Tensor;
use crate::weights::Weights;
use crate::{Error, Result};

/// Normalizes groups of channels of each picture (<https://arxiv.org/abs/1803.08494>).
#[derive(Debug)]
pub struct GroupNorm {
    groups: usize,
    eps: f64,
    affine: Affine,
}

/// Normalizes each token (<https://arxiv.org/abs/1607.06450>).
#[derive(Debug)]
pub struct LayerNorm {
    eps: f64,
    affine: Affine,
}

/// The factor and the offset of each channel.
#[derive(Debug)]
enum Affine {
    Cpu {
        weight: Vec<f32>,
        bias: Vec<f32>,
    },
    #[cfg(feature = "candle")]
    Candle(candle::Affine),
}

impl GroupNorm {
    /// Reads `weight` and `bias` (channels).
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`]; [`crate::Error::BadFile`] when the channels do not
    /// divide into the groups.
    pub fn load(weights: &Weights, groups: usize, channels: usize, eps: f64, device: &Device) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            let reason = format!("{}: {channels} channels do not divide into {groups} groups", weights.path("weight"));
            return Err(Error::BadFile { path: weights.label().into(), reason });
        }
        Ok(Self { groups, eps, affine: Affine::load(weights, channels, device)? })
    }

    /// The moments of each group over some rows of one feature map.
    ///
    /// # Errors
    /// [`crate::Error::Device`] elsewhere than on a CPU.
    pub fn moments(&self, x: &Tensor, rows: Range<usize>) -> Result<Vec<Moments>> {
        let (n, c, _, w) = x.feature_map_shape();
        assert_eq!(n, 1, "rows of one feature map");
        let (cpu, data) = x.on_processor()?;
        if !cpu.computes() {
            return Ok(vec![Moments::default(); self.groups]);
        }
        let data = &data[rows.start * w * c..rows.end * w * c];
        Ok(cpu_kernels::group_moments(data, 1, rows.len() * w, c, self.groups))
    }

    /// `activation(norm(x))` of a part of a feature map whose moments are known.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], or [`crate::Error::Device`] elsewhere than on a CPU.
    pub fn forward_with(&self, x: &Tensor, moments: &[Moments], activation: Activation) -> Result<Tensor> {
        let (cpu, data) = x.on_processor()?;
        let mut out = cpu.buffer(x.len())?;
        if let (true, Affine::Cpu { weight, bias }) = (cpu.computes(), &self.affine) {
            let (n, c, h, w) = x.feature_map_shape();
            let eps = self.eps as f32;
            let activation = activation.into();
            cpu_kernels::group_norm_with(data, n, h * w, c, moments, weight, bias, eps, activation, &mut out);
        }
        Ok(Tensor::on_cpu(cpu, x.shape(), out))
    }

    /// `activation(norm(x))` of a feature map.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match &self.affine {
            Affine::Cpu { weight, bias } => {
                let (n, c, h, w) = x.feature_map_shape();
                let (cpu, data) = cpu::parts(x);
                let mut out = cpu.buffer(x.len())?;
                if cpu.computes() {
                    cpu_kernels::group_norm(
                        data,
                        n,
                        h * w,
                        c,
                        self.groups,
                        weight,
                        bias,
                        self.eps as f32,
                        activation.into(),
                        &mut out,
                    );
                }
                Ok(Tensor::on_cpu(cpu, x.shape(), out))
            }
            #[cfg(feature = "candle")]
            Affine::Candle(affine) => candle::group_norm(x, self.groups, affine, self.eps, activation),
        }
    }
}

impl LayerNorm {
    /// Reads `weight` and `bias` (channels).
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load(weights: &Weights, channels: usize, eps: f64, device: &Device) -> Result<Self> {
        Ok(Self { eps, affine: Affine::load(weights, channels, device)? })
    }

    /// The norm of each token of hidden states `(n, l, c)`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.affine {
            Affine::Cpu { weight, bias } => {
                let (n, l, c) = x.tokens_shape();
                let (cpu, data) = cpu::parts(x);
                let mut out = cpu.buffer(x.len())?;
                if cpu.computes() {
                    cpu_kernels::layer_norm(data, n * l, c, weight, bias, self.eps as f32, &mut out);
                }
                Ok(Tensor::on_cpu(cpu, x.shape(), out))
            }
            #[cfg(feature = "candle")]
            Affine::Candle(affine) => candle::layer_norm(x, affine, self.eps),
        }
    }
}

impl Affine {
    fn load(weights: &Weights, channels: usize, device: &Device) -> Result<Self> {
        let (weight, bias) = (weights.get("weight", &[channels])?, weights.get("bias", &[channels])?);
        match device {
            Device::Cpu(cpu) if !cpu.computes() => Ok(Self::Cpu { weight: Vec::new(), bias: Vec::new() }),
            Device::Cpu(_) => Ok(Self::Cpu { weight: weight.to_f32(), bias: bias.to_f32() }),
            #[cfg(feature = "candle")]
            Device::Candle(device) => Ok(Self::Candle(candle::Affine::new(device, &weight.to_f32(), &bias.to_f32())?)),
        }
    }
}
