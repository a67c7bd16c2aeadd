//! Layers: weights as candle's tensors.

use candle_core::{D, DType, Tensor as Array};

use super::functions::apply;
use super::{CandleDevice, parts};
use crate::Result;
use crate::ops::layers::{Activation, Epilogue};
use crate::ops::tensor::Tensor;
use crate::weights::Floats;

/// The most numbers that a convolution unfolds its input to at a time: 1 GiB in single precision, and few enough for the
/// 32 bits in which candle's kernels count.
const UNFOLDED: usize = 1 << 28;

#[derive(Debug)]
pub(in crate::ops) struct Linear {
    /// `(in, out)`, a view.
    weight: Array,
    bias: Option<Array>,
}

#[derive(Debug)]
pub(in crate::ops) struct Conv2d {
    weight: Array,
    /// `(1, out, 1, 1)`.
    bias: Option<Array>,
    stride: usize,
    /// Top, left, bottom, right.
    padding: [usize; 4],
}

/// The factor and the offset of each channel of a norm, in single precision.
#[derive(Debug)]
pub(in crate::ops) struct Affine {
    weight: Array,
    bias: Array,
}

impl Linear {
    pub(in crate::ops) fn new(
        device: &CandleDevice,
        weight: &Floats<'_>,
        bias: Option<&[f32]>,
        shape: [usize; 2],
    ) -> Result<Self> {
        let weight = device.weight(weight, &shape)?;
        let weight = device.catch(|| weight.t())?;
        Ok(Self { weight, bias: bias.map(|bias| narrow(device, bias, &[shape[0]])).transpose()? })
    }

    pub(in crate::ops) fn forward(&self, x: &Tensor, epilogue: Epilogue<'_>, shape: &[usize]) -> Result<Tensor> {
        let (device, x) = parts(x);
        device.run(|| finish(self.product(x)?.reshape(shape)?, epilogue))
    }

    pub(in crate::ops) fn forward_geglu(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let (device, x) = parts(x);
        device.run(|| {
            let halves = self.product(x)?.chunk(2, 1)?;
            (&halves[0] * halves[1].gelu_erf()?)?.reshape(shape)
        })
    }

    /// `(rows, out)`.
    fn product(&self, x: &Array) -> candle_core::Result<Array> {
        let rows = x.elem_count() / x.dim(D::Minus1)?;
        let product = x.reshape((rows, x.dim(D::Minus1)?))?.matmul(&self.weight)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

impl Conv2d {
    pub(in crate::ops) fn new(
        device: &CandleDevice,
        weight: &Floats<'_>,
        bias: Option<&[f32]>,
        shape: [usize; 4],
        stride: usize,
        padding: [usize; 4],
    ) -> Result<Self> {
        let weight = device.weight(weight, &shape)?;
        let bias = bias.map(|bias| narrow(device, bias, &[1, shape[0], 1, 1])).transpose()?;
        Ok(Self { weight, bias, stride, padding })
    }

    pub(in crate::ops) fn forward(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Tensor> {
        let (device, x) = parts(x);
        device.run(|| {
            let y = self.convolve(x, UNFOLDED)?;
            let y = match &self.bias {
                Some(bias) => y.broadcast_add(bias)?,
                None => y,
            };
            finish(y, epilogue)
        })
    }

    /// So many rows of the output at a time that the input unfolds to no more than `limit` numbers.
    fn convolve(&self, x: &Array, limit: usize) -> candle_core::Result<Array> {
        let (n, c, h, w) = x.dims4()?;
        let (_, _, kernel_h, kernel_w) = self.weight.dims4()?;
        let [top, left, bottom, right] = self.padding;
        let out_h = (h + top + bottom - kernel_h) / self.stride + 1;
        let out_w = (w + left + right - kernel_w) / self.stride + 1;
        let rows = (limit / (n * out_w * c * kernel_h * kernel_w)).max(1);
        if rows >= out_h && self.padding == [top; 4] {
            return x.conv2d(&self.weight, top, self.stride, 1, 1);
        }
        let x = x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
        let slices = (0..out_h).step_by(rows).map(|start| {
            let rows = rows.min(out_h - start);
            let rows_in = (rows - 1) * self.stride + kernel_h;
            x.narrow(2, start * self.stride, rows_in)?.conv2d(&self.weight, 0, self.stride, 1, 1)
        });
        let slices = slices.collect::<candle_core::Result<Vec<_>>>()?;
        if let [whole] = &slices[..] { Ok(whole.clone()) } else { Array::cat(&slices, 2) }
    }
}

impl Affine {
    pub(in crate::ops) fn new(device: &CandleDevice, weight: &[f32], bias: &[f32]) -> Result<Self> {
        Ok(Self { weight: device.single(weight)?, bias: device.single(bias)? })
    }
}

/// See [`crate::ops::GroupNorm`].
pub(in crate::ops) fn group_norm(
    x: &Tensor,
    groups: usize,
    affine: &Affine,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let (n, c, h, w) = x.feature_map_shape();
    let (device, array) = parts(x);
    device.run(|| {
        let normed = normalize(&array.reshape((n, groups, c / groups * h * w))?, eps)?.reshape((n, c, h * w))?;
        let (weight, bias) = (affine.weight.reshape((1, c, 1))?, affine.bias.reshape((1, c, 1))?);
        let y = normed.broadcast_mul(&weight)?.broadcast_add(&bias)?;
        apply(activation, y)?.to_dtype(array.dtype())?.reshape((n, c, h, w))
    })
}

/// See [`crate::ops::LayerNorm`].
pub(in crate::ops) fn layer_norm(x: &Tensor, affine: &Affine, eps: f64) -> Result<Tensor> {
    let (device, array) = parts(x);
    device.run(|| {
        let y = normalize(array, eps)?.broadcast_mul(&affine.weight)?.broadcast_add(&affine.bias)?;
        y.to_dtype(array.dtype())
    })
}

/// The last axis less its mean, over its standard deviation, in single precision.
fn normalize(x: &Array, eps: f64) -> candle_core::Result<Array> {
    let x = x.to_dtype(DType::F32)?;
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(variance + eps)?.sqrt()?)
}

fn finish(mut y: Array, epilogue: Epilogue<'_>) -> candle_core::Result<Array> {
    if let Some(bias) = epilogue.channel_bias {
        let (_, bias) = parts(bias);
        let (n, c) = bias.dims2()?;
        y = y.broadcast_add(&bias.reshape((n, c, 1, 1))?)?;
    }
    y = apply(epilogue.activation, y)?;
    match epilogue.residual {
        Some(residual) => y + parts(residual).1,
        None => Ok(y),
    }
}

/// Numbers in the device's type.
fn narrow(device: &CandleDevice, values: &[f32], shape: &[usize]) -> Result<Array> {
    device.weight(&Floats::F32(values.into()), shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_in_slices_is_a_convolution() {
        let cpu = &candle_core::Device::Cpu;
        let wave = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let x = Array::from_vec(wave(2 * 3 * 9 * 7, 0.7), (2, 3, 9, 7), cpu).unwrap();
        let weight = Array::from_vec(wave(4 * 3 * 3 * 3, 1.3), (4, 3, 3, 3), cpu).unwrap();
        for (stride, padding) in [(1, [1; 4]), (2, [0, 0, 1, 1]), (2, [1; 4])] {
            let conv = Conv2d { weight: weight.clone(), bias: None, stride, padding };
            let whole = conv.convolve(&x, UNFOLDED).unwrap();
            for limit in [1, 2 * 7 * 27 * 2] {
                let sliced = conv.convolve(&x, limit).unwrap();
                assert_eq!(whole.dims(), sliced.dims());
                let difference = (&whole - &sliced).unwrap().abs().unwrap().max_all().unwrap();
                assert!(difference.to_scalar::<f32>().unwrap() < 1e-5, "{stride} {padding:?} {limit}");
            }
        }
    }
}
