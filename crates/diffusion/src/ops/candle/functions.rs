//! Operations without weights.

use candle_core::{D, DType, Tensor as Array};

use super::{CandleDevice, parts};
use crate::Result;
use crate::ops::layers::Activation;
use crate::ops::tensor::Tensor;

/// The most scores that attention holds at a time: 256 MiB in single precision.
const SCORES: usize = 1 << 26;

/// See [`crate::ops::attention`].
pub(in crate::ops) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (n, l, c) = q.tokens_shape();
    let ((device, q), (_, k), (_, v)) = (parts(q), parts(k), parts(v));
    let scale = ((c / heads) as f64).powf(-0.5);
    device.run(|| {
        let (q, k, v) = (split_heads(q, heads)?, split_heads(k, heads)?, split_heads(v, heads)?);
        let out = match fused_attention(device, &q, &k, &v, scale, causal)? {
            Some(out) => out,
            // Scaling the queries rather than the scores keeps these in the range of 16 bits.
            None => sliced_attention(&(q * scale)?, &k, &v, causal, SCORES)?,
        };
        out.transpose(1, 2)?.reshape((n, l, c))
    })
}

/// See [`crate::ops::concat_channels`].
pub(in crate::ops) fn concat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((device, a), (_, b)) = (parts(a), parts(b));
    device.run(|| Array::cat(&[a, b], 1))
}

/// See `functions::upsample_nearest` beside this.
pub(in crate::ops) fn upsample_nearest(x: &Tensor, out_h: usize, out_w: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.feature_map_shape();
    let (device, x) = parts(x);
    // Not candle's own operation: it computes the place in other numbers than torch, and on CUDA it takes height for width.
    let nearest = |len: usize, out: usize| -> candle_core::Result<Array> {
        let scale = len as f32 / out as f32;
        let places = (0..out).map(|i| ((i as f32 * scale) as usize).min(len - 1) as u32);
        Array::from_iter(places, x.device())
    };
    device.run(|| x.index_select(&nearest(h, out_h)?, 2)?.index_select(&nearest(w, out_w)?, 3))
}

/// See [`crate::ops::activate`].
pub(in crate::ops) fn activate(device: &CandleDevice, x: &Array, activation: Activation) -> Result<Tensor> {
    device.run(|| apply(activation, x.clone()))
}

/// See [`Tensor::to_tokens`].
pub(in crate::ops) fn to_tokens(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.feature_map_shape();
    let (device, x) = parts(x);
    device.run(|| x.reshape((n, c, h * w))?.transpose(1, 2)?.contiguous())
}

/// See [`Tensor::to_feature_map`].
pub(in crate::ops) fn to_feature_map(x: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let (n, _, c) = x.tokens_shape();
    let (device, x) = parts(x);
    device.run(|| x.transpose(1, 2)?.reshape((n, c, h, w)))
}

pub(super) fn apply(activation: Activation, x: Array) -> candle_core::Result<Array> {
    match activation {
        Activation::None => Ok(x),
        Activation::Relu => x.relu(),
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::QuickGelu => (x * 1.702)?.silu()? / 1.702,
    }
}

/// Hidden states `(n, l, c)` as `(n, heads, l, c / heads)`.
fn split_heads(x: &Array, heads: usize) -> candle_core::Result<Array> {
    let (n, l, c) = x.dims3()?;
    x.reshape((n, l, heads, c / heads))?.transpose(1, 2)?.contiguous()
}

/// Softmax of `q kᵀ`, times `v`, for so many queries at a time that no more than `limit` scores are held.
fn sliced_attention(q: &Array, k: &Array, v: &Array, causal: bool, limit: usize) -> candle_core::Result<Array> {
    let (n, heads, l, _) = q.dims4()?;
    let s = k.dim(2)?;
    let rows = (limit / (n * heads * s)).max(1);
    let keys = k.t()?;
    let slices = (0..l).step_by(rows).map(|start| {
        let rows = rows.min(l - start);
        let queries = q.narrow(2, start, rows)?.contiguous()?;
        let mut scores = queries.matmul(&keys)?.to_dtype(DType::F32)?;
        if causal {
            scores = scores.broadcast_add(&causal_mask(start, rows, s, q.device())?)?;
        }
        let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
        weights.to_dtype(v.dtype())?.matmul(v)
    });
    let slices = slices.collect::<candle_core::Result<Vec<_>>>()?;
    if let [whole] = &slices[..] { Ok(whole.clone()) } else { Array::cat(&slices, 2) }
}

/// Minus infinity where a token would see one after it, else 0.
fn causal_mask(start: usize, rows: usize, s: usize, device: &candle_core::Device) -> candle_core::Result<Array> {
    let hidden = |row: usize, column: usize| if column > start + row { f32::NEG_INFINITY } else { 0.0 };
    let mask = (0..rows).flat_map(|row| (0..s).map(move |column| hidden(row, column)));
    Array::from_iter(mask, device)?.reshape((rows, s))
}

/// The sizes of heads that Metal's kernel takes in every precision:
/// <https://github.com/huggingface/candle/blob/0.11.1/candle-nn/src/ops.rs>, `Sdpa::metal_fwd`.
#[cfg(all(feature = "metal", target_os = "macos"))]
const FUSED_HEAD_SIZES: [usize; 7] = [32, 64, 72, 80, 96, 128, 256];

/// Metal's one kernel for all of attention, where it was asked for and takes heads of this size.
#[cfg(all(feature = "metal", target_os = "macos"))]
fn fused_attention(
    device: &CandleDevice,
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f64,
    causal: bool,
) -> candle_core::Result<Option<Array>> {
    let fits = device.fused_attention && FUSED_HEAD_SIZES.contains(&q.dim(3)?);
    fits.then(|| candle_nn::ops::sdpa(q, k, v, None, causal, scale as f32, 1.0)).transpose()
}

#[cfg(not(all(feature = "metal", target_os = "macos")))]
fn fused_attention(
    _: &CandleDevice,
    _: &Array,
    _: &Array,
    _: &Array,
    _: f64,
    _: bool,
) -> candle_core::Result<Option<Array>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn attention_in_slices_is_attention() {
        let cpu = &candle_core::Device::Cpu;
        let (q, k, v) = (wave(2 * 3 * 7 * 4, 0.7), wave(2 * 3 * 9 * 4, 1.3), wave(2 * 3 * 9 * 4, 2.1));
        let q = Array::from_vec(q, (2, 3, 7, 4), cpu).unwrap();
        let (k, v) = (Array::from_vec(k, (2, 3, 9, 4), cpu).unwrap(), Array::from_vec(v, (2, 3, 9, 4), cpu).unwrap());
        for causal in [false, true] {
            let run = |limit| sliced_attention(&q, &k, &v, causal, limit).unwrap().flatten_all().unwrap();
            let whole = run(SCORES).to_vec1::<f32>().unwrap();
            for limit in [1, 2 * 3 * 9 * 2, 2 * 3 * 9 * 3] {
                let sliced = run(limit).to_vec1::<f32>().unwrap();
                assert!(whole.iter().zip(&sliced).all(|(a, b)| (a - b).abs() < 1e-6), "{causal} {limit}");
            }
        }
    }
}
