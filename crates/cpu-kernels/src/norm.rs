//! Group and layer normalisation.
use rayon::prelude::*;

use crate::buffer::{Shared, scratch};
use crate::{Activation, isa};

/// Rows of a map whose sums are taken in f32 before they are joined in f64; the cut depends on the shape alone, so that the
/// result does not depend on the number of threads.
const SUM_ROWS: usize = 256;
/// Floats that one task of an elementwise pass handles.
pub(crate) const PASS: usize = 1 << 15;

/// The moments of one group of channels over some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// How many floats they are of.
    pub count: f64,
    /// Their mean.
    pub mean: f64,
    /// The sum of their squared distances from it.
    pub squares: f64,
}

impl Moments {
    /// The moments of these floats and the others together (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm
    /// for computing sample variances", 1979).
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let apart = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares + other.squares + apart * apart * self.count * other.count / count,
        }
    }
}

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
    let moments = group_moments(x, n, hw, c, groups);
    group_norm_with(x, n, hw, c, &moments, weight, bias, eps, act, y);
}

/// The moments of each group of channels of each map, `(n, groups)`: what [`group_norm`] normalizes by.
///
/// # Panics
/// Where lengths do not fit, or `groups` does not divide `c`.
pub fn group_moments(x: &[f32], n: usize, hw: usize, c: usize, groups: usize) -> Vec<Moments> {
    assert!(groups > 0 && c.is_multiple_of(groups), "{groups} groups of {c} channels");
    assert_eq!(x.len(), n * hw * c, "an input of {n} x {hw} x {c} has {} floats", x.len());
    if x.is_empty() {
        return vec![Moments::default(); n * groups];
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
    let per_group = c / groups;
    let one = |i: usize| {
        let (image, channels) = (i / groups, i % groups * per_group..(i % groups + 1) * per_group);
        let count = (hw * per_group) as f64;
        // Parts of a sum over parts of the rows, each about its own first row: mean first, then squares about the mean.
        let parts = || {
            let (sums, channels) = (&sums, channels.clone());
            (0..chunks).flat_map(move |chunk| {
                let rows = SUM_ROWS.min(hw - chunk * SUM_ROWS) as f64;
                let part = &sums[(image * chunks + chunk) * 2 * c..][..2 * c];
                let first = &x[(image * hw + chunk * SUM_ROWS) * c..][..c];
                channels.clone().map(move |j| (rows, f64::from(first[j]), f64::from(part[j]), f64::from(part[c + j])))
            })
        };
        let mean = parts().map(|(rows, first, sum, _)| rows * first + sum).sum::<f64>() / count;
        let squares = parts().map(|(rows, first, sum, square)| {
            let shift = first - mean;
            square + 2.0 * shift * sum + rows * shift * shift
        });
        Moments { count, mean, squares: squares.sum::<f64>().max(0.0) }
    };
    (0..n * groups).map(one).collect()
}

/// [`group_norm`] by moments that are known, `(n, groups)`, which may be those of larger maps that these are parts of.
///
/// # Panics
/// Where lengths do not fit.
pub fn group_norm_with(
    x: &[f32],
    n: usize,
    hw: usize,
    c: usize,
    moments: &[Moments],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    act: Activation,
    y: &mut [f32],
) {
    assert_eq!(x.len(), n * hw * c, "an input of {n} x {hw} x {c} has {} floats", x.len());
    assert_eq!(y.len(), x.len(), "an output of {n} x {hw} x {c} has {} floats", y.len());
    check_affine(weight, bias, c);
    if x.is_empty() {
        return;
    }
    let groups = moments.len() / n;
    assert!(groups > 0 && moments.len() == n * groups && c.is_multiple_of(groups), "{} moments", moments.len());
    let kernels = isa::kernels();
    // y = a x + b by channel, for each map.
    let mut ab = scratch(n * 2 * c);
    for (ab, moments) in ab.chunks_exact_mut(2 * c).zip(moments.chunks_exact(groups)) {
        let (a, b) = ab.split_at_mut(c);
        for (g, &Moments { count, mean, squares }) in moments.iter().enumerate() {
            let scale = 1.0 / (squares / count + f64::from(eps)).sqrt();
            for j in g * (c / groups)..(g + 1) * (c / groups) {
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
