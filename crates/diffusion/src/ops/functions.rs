//! Operations without weights.

use std::sync::Arc;

#[cfg(feature = "candle")]
use super::candle;
use super::cpu;
use super::layers::Activation;
use super::tensor::{Storage, Tensor};
use crate::Result;

/// Multi-head attention `softmax(q kᵀ / sqrt(d)) v` (<https://arxiv.org/abs/1706.03762>, section 3.2) over hidden states
/// `q (n, l, c)`, `k` and `v (n, s, c)`; head `i` has the channels `i * c / heads ..`. `causal`: a token sees none after it.
/// No matrix of scores is ever built, so that an autoencoder may attend over every pixel of its latents.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (n, l, c) = q.tokens_shape();
    let (_, s, _) = k.tokens_shape();
    assert_eq!(k.shape(), [n, s, c], "keys");
    assert_eq!(v.shape(), [n, s, c], "values");
    assert_eq!(c % heads, 0, "{c} channels in {heads} heads");
    let head_dim = c / heads;
    let scale = (head_dim as f32).powf(-0.5);
    match q.storage() {
        Storage::Cpu(cpu, q) => {
            let rows = |data| cpu_kernels::Rows { data, stride: c };
            let (q, k, v) = (rows(q), rows(cpu::data(k)), rows(cpu::data(v)));
            let mut out = cpu.buffer(n * l * c)?;
            if cpu.computes() {
                cpu_kernels::attention(q, k, v, n, heads, l, s, head_dim, scale, causal, cpu.precision(), &mut out);
            } else {
                // Keys and values in the order in which they are read.
                cpu.works_with(2 * n * s * c * size_of::<f32>(), 0);
            }
            Ok(Tensor::on_cpu(cpu, &[n, l, c], out))
        }
        #[cfg(feature = "candle")]
        Storage::Candle(..) => candle::attention(q, k, v, heads, causal),
    }
}

/// The channels of `a`, then those of `b`, of two feature maps of one size.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
pub fn concat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (n, c_a, h, w) = a.feature_map_shape();
    let (_, c_b, ..) = b.feature_map_shape();
    assert_eq!(b.shape(), [n, c_b, h, w], "feature maps of one size");
    match a.storage() {
        Storage::Cpu(cpu, a) => {
            let b = cpu::data(b);
            let mut out = cpu.buffer(n * (c_a + c_b) * h * w)?;
            if cpu.computes() {
                cpu_kernels::concat_channels(&[(a, c_a), (b, c_b)], n * h * w, &mut out);
            }
            Ok(Tensor::on_cpu(cpu, &[n, c_a + c_b, h, w], out))
        }
        #[cfg(feature = "candle")]
        Storage::Candle(..) => candle::concat_channels(a, b),
    }
}

/// A feature map at another size, by nearest neighbour as torch's `interpolate(mode="nearest")` picks it.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
pub(super) fn upsample_nearest(x: &Tensor, out_h: usize, out_w: usize) -> Result<Tensor> {
    let (n, c, h, w) = x.feature_map_shape();
    match x.storage() {
        Storage::Cpu(cpu, x) => {
            let mut out = cpu.buffer(n * out_h * out_w * c)?;
            if cpu.computes() {
                cpu_kernels::upsample_nearest(x, n, h, w, c, out_h, out_w, &mut out);
            }
            Ok(Tensor::on_cpu(cpu, &[n, c, out_h, out_w], out))
        }
        #[cfg(feature = "candle")]
        Storage::Candle(..) => candle::upsample_nearest(x, out_h, out_w),
    }
}

/// The activation of every number, in place where nobody else holds the tensor.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
pub fn activate(x: Tensor, activation: Activation) -> Result<Tensor> {
    let (shape, storage) = x.into_storage();
    match storage {
        Storage::Cpu(cpu, data) => {
            let mut buffer = match Arc::try_unwrap(data) {
                Ok(own) => own,
                Err(shared) => {
                    let mut copy = cpu.buffer(shared.floats())?;
                    copy.copy_from_slice(&shared);
                    copy
                }
            };
            cpu_kernels::activate(activation.into(), &mut buffer);
            Ok(Tensor::on_cpu(&cpu, &shape, buffer))
        }
        #[cfg(feature = "candle")]
        Storage::Candle(device, array) => candle::activate(&device, &array, activation),
    }
}
