//! Group and layer normalisation.
use rayon::prelude::*;

use crate::buffer::{Shared, scratch};
use crate::{Activation, isa};

/// Rows of a map whose sums are taken in f32 before they are joined in f64; the cut depends on the shape alone, so that the
/// result does not depend on the number of threads.
const SUM_ROWS: usize = 256;
/// Floats that one task of an elementwise pass handles.
pub(crate) const PASS: usize = 1 << 15;

/// GroupNorm (Wu and He, arXiv:1803.08494) over channels-last maps `(n, hw, c)`, then `act`: one read for the statistics, one
/// read and write for the result. `weight` and `bias` are by channel.
///
/// # Panics
/// Where lengths do not fit, or `groups` does not divide `c`.
pub fn group_norm(
    x: &[f32],
    n: usize,
    hw: usize,
    c: usize,
    groups: usize,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    act: Activation,
    y: &mut [f32],
) {
    assert!(groups > 0 && c.is_multiple_of(groups), "{groups} groups of {c} channels");
    assert_eq!(x.len(), n * hw * c, "an input of {n} x {hw} x {c} has {} floats", x.len());
    assert_eq!(y.len(), x.len(), "an output of {n} x {hw} x {c} has {} floats", y.len());
    check_affine(weight, bias, c);
    if x.is_empty() {
        return;
    }
    let kernels = isa::kernels();
    let chunks = hw.div_ceil(SUM_ROWS);
    let mut sums = scratch(n * chunks * 2 * c);
    sums.par_chunks_mut(2 * c).enumerate().for_each(|(i, sums)| {
        let (image, chunk) = (i / chunks, i % chunks);
        let rows = SUM_ROWS.min(hw - chunk * SUM_ROWS);
        let x = &x[(image * hw + chunk * SUM_ROWS) * c..][..rows * c];
        let (sums, squares) = sums.split_at_mut(c);
        // SAFETY: x has rows x c floats and rows is not 0, the sums have c each.
        unsafe {
            (kernels.channel_sums)(x.as_ptr(), rows, c, sums.as_mut_ptr(), squares.as_mut_ptr());
        };
    });
    // y = a x + b by channel, for each map.
    let mut ab = scratch(n * 2 * c);
    for (image, ab) in ab.chunks_exact_mut(2 * c).enumerate() {
        let (a, b) = ab.split_at_mut(c);
        let per_group = c / groups;
        for g in 0..groups {
            let channels = g * per_group..(g + 1) * per_group;
            let count = (hw * per_group) as f64;
            // Parts of a sum over parts of the rows, each about its own first row: mean first, then squares about the mean.
            let parts = || {
                let (sums, channels) = (&sums, channels.clone());
                (0..chunks).flat_map(move |chunk| {
                    let rows = SUM_ROWS.min(hw - chunk * SUM_ROWS) as f64;
                    let part = &sums[(image * chunks + chunk) * 2 * c..][..2 * c];
                    let first = &x[(image * hw + chunk * SUM_ROWS) * c..][..c];
                    channels
                        .clone()
                        .map(move |j| (rows, f64::from(first[j]), f64::from(part[j]), f64::from(part[c + j])))
                })
            };
            let mean = parts().map(|(rows, first, sum, _)| rows * first + sum).sum::<f64>() / count;
            let squares = parts().map(|(rows, first, sum, square)| {
                let shift = first - mean;
                square + 2.0 * shift * sum + rows * shift * shift
            });
            let variance = (squares.sum::<f64>() / count).max(0.0);
            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
            for j in channels.clone() {
                let factor = f64::from(weight[j]) * scale;
                a[j] = factor as f32;
                b[j] = (f64::from(bias[j]) - mean * factor) as f32;
            }
        }
    }
    let rows = (PASS / c).max(1);
    let per_image = hw.div_ceil(rows);
    let y = Shared::new(y);
    (0..n * per_image).into_par_iter().for_each(|task| {
        let (image, first) = (task / per_image, task % per_image * rows);
        let rows = rows.min(hw - first);
        let at = (image * hw + first) * c;
        let x = &x[at..at + rows * c];
        let (a, b) = ab[image * 2 * c..][..2 * c].split_at(c);
        // SAFETY: tasks write different rows of y, which is as long as x.
        unsafe {
            (kernels.affine)(x.as_ptr(), rows, c, a.as_ptr(), b.as_ptr(), act, y.get().add(at));
        };
    });
}

/// LayerNorm (Ba et al., arXiv:1607.06450) of each of `rows` rows of `c`.
///
/// # Panics
/// Where lengths do not fit.
pub fn layer_norm(x: &[f32], rows: usize, c: usize, weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    assert_eq!(x.len(), rows * c, "an input of {rows} x {c} has {} floats", x.len());
    assert_eq!(y.len(), x.len(), "an output of {rows} x {c} has {} floats", y.len());
    check_affine(weight, bias, c);
    if x.is_empty() {
        return;
    }
    let kernels = isa::kernels();
    let chunk = (PASS / c).max(1) * c;
    x.par_chunks(chunk).zip(y.par_chunks_mut(chunk)).for_each(|(x, y)| {
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            // SAFETY: every slice has c floats, and c is not 0.
            unsafe {
                (kernels.layer_norm)(x.as_ptr(), c, weight.as_ptr(), bias.as_ptr(), eps, y.as_mut_ptr());
            };
        }
    });
}

fn check_affine(weight: &[f32], bias: &[f32], c: usize) {
    assert_eq!(weight.len(), c, "a norm's weight for {c} channels has {} floats", weight.len());
    assert_eq!(bias.len(), c, "a norm's bias for {c} channels has {} floats", bias.len());
}
