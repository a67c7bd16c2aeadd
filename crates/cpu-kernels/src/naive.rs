//! The same functions as formulas, in f64 and without blocking: what tests compare against.
use crate::{Activation, Weight};

/// The error function by its series, and by the continued fraction of `erfc` where that converges better.
pub fn erf(x: f64) -> f64 {
    let z = x.abs();
    let value = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=80).rev().fold(z, |f, n| z + f64::from(n) / 2.0 / f);
        1.0 - (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

/// One activated element.
pub fn act(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// `act(x W^T + bias) + residual`.
pub fn linear(
    x: &[f32],
    rows: usize,
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    out_features: usize,
    in_features: usize,
    activation: Activation,
    residual: Option<&[f32]>,
) -> Vec<f64> {
    let weight = wide(weight);
    let mut y = Vec::with_capacity(rows * out_features);
    for r in 0..rows {
        for o in 0..out_features {
            let mut sum = bias.map_or(0.0, |b| f64::from(b[o]));
            for i in 0..in_features {
                sum += f64::from(x[r * in_features + i]) * weight[o * in_features + i];
            }
            let residual = residual.map_or(0.0, |r| f64::from(r[y.len()]));
            y.push(act(activation, sum) + residual);
        }
    }
    y
}

fn wide(weight: Weight<'_>) -> Vec<f64> {
    (0..weight.len()).map(|i| f64::from(weight.at(i))).collect()
}

/// `a * gelu(gate)` of the halves of each row of `2 * inner`.
pub fn geglu(x: &[f64], inner: usize) -> Vec<f64> {
    let halves = x.chunks_exact(2 * inner).map(|row| row.split_at(inner));
    halves.flat_map(|(a, gate)| a.iter().zip(gate).map(|(a, g)| a * act(Activation::Gelu, *g))).collect()
}

/// A convolution over channels-last maps; see [`crate::Conv2d`] for the arguments.
pub fn conv2d(
    x: &[f32],
    n: usize,
    h: usize,
    w: usize,
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    out_channels: usize,
    in_channels: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: [usize; 4],
) -> Vec<f64> {
    let weight = wide(weight);
    let [top, left, bottom, right] = padding;
    let along = |len: usize, kernel: usize| {
        if len < kernel { 0 } else { (len - kernel) / stride + 1 }
    };
    let (out_h, out_w) = (along(h + top + bottom, kernel.0), along(w + left + right, kernel.1));
    let mut y = Vec::with_capacity(n * out_h * out_w * out_channels);
    for image in 0..n {
        for oy in 0..out_h {
            for ox in 0..out_w {
                for o in 0..out_channels {
                    let mut sum = bias.map_or(0.0, |b| f64::from(b[o]));
                    for ky in 0..kernel.0 {
                        for kx in 0..kernel.1 {
                            let (py, px) = (oy * stride + ky, ox * stride + kx);
                            if py < top || px < left || py - top >= h || px - left >= w {
                                continue;
                            }
                            let pixel = (image * h + py - top) * w + px - left;
                            for i in 0..in_channels {
                                let tap = ((o * in_channels + i) * kernel.0 + ky) * kernel.1 + kx;
                                sum += f64::from(x[pixel * in_channels + i]) * weight[tap];
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    y
}

/// See [`crate::attention`].
pub fn attention(
    q: crate::Rows<'_>,
    k: crate::Rows<'_>,
    v: crate::Rows<'_>,
    batch: usize,
    heads: usize,
    q_len: usize,
    kv_len: usize,
    head_dim: usize,
    scale: f32,
    causal: bool,
) -> Vec<f64> {
    let at = |rows: &crate::Rows<'_>, r: usize, c: usize| f64::from(rows.data[r * rows.stride + c]);
    let mut y = vec![0.0; batch * q_len * heads * head_dim];
    for b in 0..batch {
        for i in 0..q_len {
            for h in 0..heads {
                let seen = if causal { kv_len.min(i + 1) } else { kv_len };
                let score = |j: usize| {
                    let products = (h * head_dim..(h + 1) * head_dim)
                        .map(|c| at(&q, b * q_len + i, c) * at(&k, b * kv_len + j, c));
                    products.sum::<f64>() * f64::from(scale)
                };
                let scores: Vec<f64> = (0..seen).map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                for c in h * head_dim..(h + 1) * head_dim {
                    let weighted: f64 = powers.iter().enumerate().map(|(j, p)| p * at(&v, b * kv_len + j, c)).sum();
                    y[(b * q_len + i) * heads * head_dim + c] = if seen == 0 { 0.0 } else { weighted / sum };
                }
            }
        }
    }
    y
}

/// See [`crate::group_norm`].
pub fn group_norm(
    x: &[f32],
    n: usize,
    hw: usize,
    c: usize,
    groups: usize,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    activation: Activation,
) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    let per_group = c / groups;
    for image in 0..n {
        for g in 0..groups {
            let places =
                || (0..hw).flat_map(move |p| (0..per_group).map(move |j| (image * hw + p) * c + g * per_group + j));
            let count = (hw * per_group) as f64;
            let mean = places().map(|i| f64::from(x[i])).sum::<f64>() / count;
            let variance = places().map(|i| (f64::from(x[i]) - mean).powi(2)).sum::<f64>() / count;
            for i in places() {
                let normal = (f64::from(x[i]) - mean) / (variance + f64::from(eps)).sqrt();
                y[i] = act(activation, normal * f64::from(weight[i % c]) + f64::from(bias[i % c]));
            }
        }
    }
    y
}

/// See [`crate::layer_norm`].
pub fn layer_norm(x: &[f32], rows: usize, c: usize, weight: &[f32], bias: &[f32], eps: f32) -> Vec<f64> {
    group_norm(x, rows, 1, c, 1, weight, bias, eps, Activation::None)
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_meets_tabulated_values() {
        // Abramowitz and Stegun, table 7.1; 1 - erf(4) from scipy.special.erfc.
        for (x, want) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((super::erf(x) - want).abs() < 1e-10, "{x}");
            assert!((super::erf(-x) + want).abs() < 1e-10, "{x}");
        }
        assert!((1.0 - super::erf(4.0) - 1.541_725_79e-8).abs() < 1e-14);
        assert!((super::erf(2.999_999) - super::erf(3.000_001)).abs() < 1e-8);
    }
}
