//! What moves or maps elements one by one.
use rayon::prelude::*;

use crate::norm::PASS;
use crate::{Activation, Weight, isa};

/// Applies `act` in place.
pub fn activate(act: Activation, x: &mut [f32]) {
    if act == Activation::None {
        return;
    }
    let kernels = isa::kernels();
    x.par_chunks_mut(PASS).for_each(|x| {
        // SAFETY: the length is the slice's.
        unsafe { (kernels.activate)(act, x.as_mut_ptr(), x.len()) };
    });
}

/// `y += x`.
///
/// # Panics
/// Where the lengths differ.
pub fn add(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "adding {} floats to {}", x.len(), y.len());
    let kernels = isa::kernels();
    x.par_chunks(PASS).zip(y.par_chunks_mut(PASS)).for_each(|(x, y)| {
        // SAFETY: both slices have this length.
        unsafe { (kernels.add)(x.as_ptr(), y.as_mut_ptr(), y.len()) };
    });
}

/// Softmax of each row of `c`, in place.
///
/// # Panics
/// Where `c` does not divide the length.
pub fn softmax(x: &mut [f32], c: usize) {
    if x.is_empty() {
        return;
    }
    assert!(c > 0 && x.len().is_multiple_of(c), "{} floats in rows of {c}", x.len());
    let kernels = isa::kernels();
    x.par_chunks_mut((PASS / c).max(1) * c).for_each(|rows| {
        for row in rows.chunks_exact_mut(c) {
            // SAFETY: the row has c floats, and c is not 0.
            unsafe { (kernels.softmax_row)(row.as_mut_ptr(), c) };
        }
    });
}

/// Widens a weight to `f32`.
///
/// # Panics
/// Where the lengths differ.
pub fn widen(weight: Weight<'_>, y: &mut [f32]) {
    assert_eq!(weight.len(), y.len(), "widening {} elements into {}", weight.len(), y.len());
    let kernels = isa::kernels();
    match weight {
        Weight::F32(w) => y.copy_from_slice(w),
        Weight::F16(w) => w.par_chunks(PASS).zip(y.par_chunks_mut(PASS)).for_each(|(w, y)| {
            // SAFETY: both have this length, and f16 is laid out as u16.
            unsafe { (kernels.widen_f16)(w.as_ptr().cast(), y.as_mut_ptr(), y.len()) };
        }),
        Weight::Bf16(w) => w.par_chunks(PASS).zip(y.par_chunks_mut(PASS)).for_each(|(w, y)| {
            // SAFETY: both have this length, and bf16 is laid out as u16.
            unsafe { (kernels.widen_bf16)(w.as_ptr().cast(), y.as_mut_ptr(), y.len()) };
        }),
    }
}

/// Joins rows along channels: each part is its data and its number of channels.
///
/// # Panics
/// Where lengths do not fit.
pub fn concat_channels(parts: &[(&[f32], usize)], rows: usize, y: &mut [f32]) {
    let width: usize = parts.iter().map(|(_, c)| c).sum();
    assert_eq!(y.len(), rows * width, "an output of {rows} x {width} has {} floats", y.len());
    for (data, c) in parts {
        assert_eq!(data.len(), rows * c, "a part of {rows} x {c} has {} floats", data.len());
    }
    if y.is_empty() {
        return;
    }
    let rows_in_pass = (PASS / width).max(1);
    y.par_chunks_mut(rows_in_pass * width).enumerate().for_each(|(chunk, y)| {
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            let row = chunk * rows_in_pass + i;
            let mut at = 0;
            for (data, c) in parts {
                y[at..at + c].copy_from_slice(&data[row * c..(row + 1) * c]);
                at += c;
            }
        }
    });
}

/// Resizes channels-last maps by taking the nearest pixel, as torch's `interpolate(mode="nearest")`: source index
/// `floor(i * (in / out))`, in single precision.
///
/// # Panics
/// Where lengths do not fit.
pub fn upsample_nearest(x: &[f32], n: usize, h: usize, w: usize, c: usize, out_h: usize, out_w: usize, y: &mut [f32]) {
    assert_eq!(x.len(), n * h * w * c, "an input of {n} x {h} x {w} x {c} has {} floats", x.len());
    assert_eq!(y.len(), n * out_h * out_w * c, "an output of {n} x {out_h} x {out_w} x {c} has {} floats", y.len());
    if y.is_empty() {
        return;
    }
    assert!(h > 0 && w > 0, "no pixels to take from");
    let nearest = |i: usize, len: usize, out: usize| ((i as f32 * (len as f32 / out as f32)) as usize).min(len - 1);
    y.par_chunks_exact_mut(out_w * c).enumerate().for_each(|(row, y)| {
        let (image, oy) = (row / out_h, row % out_h);
        let from = &x[(image * h + nearest(oy, h, out_h)) * w * c..][..w * c];
        for (ox, y) in y.chunks_exact_mut(c).enumerate() {
            y.copy_from_slice(&from[nearest(ox, w, out_w) * c..][..c]);
        }
    });
}

/// `(n, c, hw)` to `(n, hw, c)`.
///
/// # Panics
/// Where lengths do not fit.
pub fn nchw_to_nhwc(x: &[f32], n: usize, c: usize, hw: usize, y: &mut [f32]) {
    transpose(x, n, c, hw, y);
}

/// `(n, hw, c)` to `(n, c, hw)`.
///
/// # Panics
/// Where lengths do not fit.
pub fn nhwc_to_nchw(x: &[f32], n: usize, c: usize, hw: usize, y: &mut [f32]) {
    transpose(x, n, hw, c, y);
}

/// `(n, rows, cols)` to `(n, cols, rows)`, in squares that stay in the cache.
fn transpose(x: &[f32], n: usize, rows: usize, cols: usize, y: &mut [f32]) {
    const SIDE: usize = 32;
    assert_eq!(x.len(), n * rows * cols, "an input of {n} x {rows} x {cols} has {} floats", x.len());
    assert_eq!(y.len(), x.len(), "an output of {n} x {cols} x {rows} has {} floats", y.len());
    if x.is_empty() {
        return;
    }
    let bands = cols.div_ceil(SIDE);
    let mut parts: Vec<&mut [f32]> = Vec::with_capacity(n * bands);
    for image in y.chunks_exact_mut(rows * cols) {
        parts.extend(image.chunks_mut(SIDE * rows));
    }
    parts.into_par_iter().enumerate().for_each(|(part, y)| {
        let (image, band) = (part / bands, part % bands);
        let x = &x[image * rows * cols..][..rows * cols];
        for first in (0..rows).step_by(SIDE) {
            for (j, y) in y.chunks_exact_mut(rows).enumerate() {
                for i in first..rows.min(first + SIDE) {
                    y[i] = x[i * cols + band * SIDE + j];
                }
            }
        }
    });
}
