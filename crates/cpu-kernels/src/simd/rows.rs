//! Passes over rows: softmax and norms.
use super::{Vector, math};
use crate::Activation;

/// Calls `$full` at each whole register of `0..$len` and `$partial` with what is left.
macro_rules! sweep {
    ($vector:ty, $len:expr, |$at:ident| $full:expr, |$rest:ident| $partial:expr) => {{
        let len = $len;
        let mut $at = 0;
        while $at + <$vector>::LANES <= len {
            $full;
            $at += <$vector>::LANES;
        }
        if $at < len {
            let $rest = len - $at;
            $partial;
        }
    }};
}
pub(super) use sweep;

/// `y += x`.
///
/// # Safety
/// As [`Vector`]; both are good for `len` floats.
#[inline(always)]
pub(super) unsafe fn add<V: Vector>(x: *const f32, y: *mut f32, len: usize) {
    // SAFETY: every access lies below `len`.
    unsafe {
        sweep!(V, len, |j| V::load(y.add(j)).add(V::load(x.add(j))).store(y.add(j)), |rest| {
            V::load_partial(y.add(j), rest).add(V::load_partial(x.add(j), rest)).store_partial(y.add(j), rest);
        });
    }
}

/// `y = factor * x`.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(super) unsafe fn scale<V: Vector>(x: *const f32, factor: f32, y: *mut f32, len: usize) {
    // SAFETY: every access lies below `len`.
    unsafe {
        let f = V::splat(factor);
        sweep!(V, len, |j| V::load(x.add(j)).mul(f).store(y.add(j)), |rest| {
            V::load_partial(x.add(j), rest).mul(f).store_partial(y.add(j), rest);
        });
    }
}

/// # Safety
/// As [`add`], in elements.
#[inline(always)]
pub(super) unsafe fn widen_f16<V: Vector>(x: *const u16, y: *mut f32, len: usize) {
    // SAFETY: every access lies below `len`.
    unsafe {
        sweep!(V, len, |j| V::load_f16(x.add(j)).store(y.add(j)), |rest| {
            for i in j..j + rest {
                y.add(i).write(half::f16::from_bits(x.add(i).read()).to_f32());
            }
        });
    }
}

/// # Safety
/// As [`add`], in elements.
#[inline(always)]
pub(super) unsafe fn widen_bf16<V: Vector>(x: *const u16, y: *mut f32, len: usize) {
    // SAFETY: every access lies below `len`.
    unsafe {
        sweep!(V, len, |j| V::load_bf16(x.add(j)).store(y.add(j)), |rest| {
            for i in j..j + rest {
                y.add(i).write(f32::from_bits(u32::from(x.add(i).read()) << 16));
            }
        });
    }
}

/// One block of keys in the online softmax of flash attention (Milakov and Gimelshein, arXiv:1805.02867), to the base 2.
/// Every pointer is to rows of one panel: queries lie across, keys go down.
pub(crate) struct SoftmaxBlock {
    /// Scores, which become `2^(score - largest so far)`.
    pub(crate) scores: *mut f32,
    pub(crate) rows: usize,
    /// One row: the largest score of each query so far.
    pub(crate) largest: *mut f32,
    /// The weighted sums of values so far, rescaled where a larger score appears.
    pub(crate) out: *mut f32,
    pub(crate) out_rows: usize,
}

/// # Safety
/// As [`Vector`]; `rows` is not 0 and the pointers are good for the shapes that [`SoftmaxBlock`] gives.
#[inline(always)]
pub(super) unsafe fn softmax_block<V: Vector>(b: &SoftmaxBlock) {
    let width = V::PANEL * V::LANES;
    for column in (0..width).step_by(V::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let scores = b.scores.add(column);
            let largest = raise::<V>(b, column, |x| x);
            for i in 0..b.rows {
                math::exp2(V::load(scores.add(i * width)).sub(largest)).store(scores.add(i * width));
            }
        }
    }
}

/// Finds the largest scores so far of one register of queries, those of this block as `held` says, and scales what was summed
/// before down to them.
///
/// # Safety
/// As [`softmax_block`]; `column` is the first of the register's queries.
#[inline(always)]
pub(super) unsafe fn raise<V: Vector>(b: &SoftmaxBlock, column: usize, held: impl Fn(V) -> V) -> V {
    let width = V::PANEL * V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let scores = b.scores.add(column);
        let before = V::load(b.largest.add(column));
        // Four at a time, since each has to wait for the one before.
        let mut four = [V::splat(f32::NEG_INFINITY); 4];
        let mut i = 0;
        while i + 4 <= b.rows {
            for n in 0..4 {
                four[n] = four[n].max(V::load(scores.add((i + n) * width)));
            }
            i += 4;
        }
        while i < b.rows {
            four[0] = four[0].max(V::load(scores.add(i * width)));
            i += 1;
        }
        let largest = before.max(held(four[0].max(four[1]).max(four[2].max(four[3]))));
        if largest.sub(before).largest() > 0.0 {
            largest.store(b.largest.add(column));
            let shrink = math::exp2(before.sub(largest));
            for i in 0..b.out_rows {
                let out = b.out.add(i * width + column);
                V::load(out).mul(shrink).store(out);
            }
        }
        largest
    }
}

/// `y` of `cols x rows` from `x` of `rows x cols`, square by square.
///
/// # Safety
/// As [`Vector`]; the pointers are good for the shapes at their strides.
#[inline(always)]
pub(super) unsafe fn transpose<V: Vector>(
    x: *const f32,
    ldx: usize,
    rows: usize,
    cols: usize,
    y: *mut f32,
    ldy: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for i in (0..rows).step_by(V::SQUARE) {
            for j in (0..cols).step_by(V::SQUARE) {
                let (x, y) = (x.add(i * ldx + j), y.add(j * ldy + i));
                V::transpose_square(x, ldx, V::SQUARE.min(rows - i), V::SQUARE.min(cols - j), y, ldy);
            }
        }
    }
}

/// Softmax of one row in place.
///
/// # Safety
/// As [`add`]; `len` is not 0.
#[inline(always)]
pub(super) unsafe fn softmax_row<V: Vector>(x: *mut f32, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        scale::<V>(x, std::f32::consts::LOG2_E, x, len);
        let largest = largest::<V>(x, len);
        let sum = powers::<V>(x, len, largest);
        scale::<V>(x, 1.0 / sum, x, len);
    }
}

/// # Safety
/// As [`add`]; `len` is not 0.
#[inline(always)]
unsafe fn largest<V: Vector>(x: *const f32, len: usize) -> f32 {
    // SAFETY: every access lies below `len`; the last register overlaps the one before.
    unsafe {
        if len < V::LANES {
            return (0..len).map(|j| x.add(j).read()).fold(f32::NEG_INFINITY, f32::max);
        }
        let mut m = V::load(x.add(len - V::LANES));
        let mut j = 0;
        while j + V::LANES <= len {
            m = m.max(V::load(x.add(j)));
            j += V::LANES;
        }
        m.largest()
    }
}

/// `x = 2^(x - largest)`, and their sum.
///
/// # Safety
/// As [`add`].
#[inline(always)]
unsafe fn powers<V: Vector>(x: *mut f32, len: usize, largest: f32) -> f32 {
    // SAFETY: every access lies below `len`.
    unsafe {
        let m = V::splat(largest);
        let mut sum = V::splat(0.0);
        let mut tail = 0.0;
        sweep!(
            V,
            len,
            |j| {
                let p = math::exp2(V::load(x.add(j)).sub(m));
                p.store(x.add(j));
                sum = sum.add(p);
            },
            |rest| {
                math::exp2(V::load_partial(x.add(j), rest).sub(m)).store_partial(x.add(j), rest);
                tail = (j..j + rest).map(|i| x.add(i).read()).sum();
            }
        );
        sum.sum() + tail
    }
}

/// LayerNorm of one row.
///
/// # Safety
/// As [`add`] with `c` floats each; `c` is not 0.
#[inline(always)]
pub(super) unsafe fn layer_norm<V: Vector>(
    x: *const f32,
    c: usize,
    weight: *const f32,
    bias: *const f32,
    eps: f32,
    y: *mut f32,
) {
    // SAFETY: every access lies below `c`.
    unsafe {
        let mut sum = V::splat(0.0);
        let mut tail = 0.0;
        sweep!(V, c, |j| sum = sum.add(V::load(x.add(j))), |rest| {
            tail = V::load_partial(x.add(j), rest).sum();
        });
        let mean = (sum.sum() + tail) / c as f32;
        // The second pass over a row in the first cache costs little, and nothing cancels.
        let m = V::splat(mean);
        let mut squares = V::splat(0.0);
        let mut tail = 0.0;
        sweep!(
            V,
            c,
            |j| {
                let d = V::load(x.add(j)).sub(m);
                squares = d.mul_add(d, squares);
            },
            |rest| tail = (j..j + rest).map(|i| (x.add(i).read() - mean).powi(2)).sum()
        );
        let scale = 1.0 / ((squares.sum() + tail) / c as f32 + eps).sqrt();
        let s = V::splat(scale);
        sweep!(
            V,
            c,
            |j| {
                let v = V::load(x.add(j)).sub(m).mul(s);
                v.mul_add(V::load(weight.add(j)), V::load(bias.add(j))).store(y.add(j));
            },
            |rest| {
                let v = V::load_partial(x.add(j), rest).sub(m).mul(s);
                let v = v.mul_add(V::load_partial(weight.add(j), rest), V::load_partial(bias.add(j), rest));
                v.store_partial(y.add(j), rest);
            }
        );
    }
}

/// For each channel, over `rows` rows of `c`: the sums of `x - x0` and of its square, `x0` being the first row. Shifted like
/// this, a large mean costs no digits of the variance.
///
/// # Safety
/// As [`Vector`]; `rows` is not 0, `x` is good for `rows * c` floats, the others for `c`.
#[inline(always)]
pub(super) unsafe fn channel_sums<V: Vector>(x: *const f32, rows: usize, c: usize, sums: *mut f32, squares: *mut f32) {
    // SAFETY: offsets stay below `rows * c`.
    unsafe {
        // Four registers of channels at a time: a whole cache line or more of each row.
        let mut j = 0;
        while j + 4 * V::LANES <= c {
            let mut first = [V::splat(0.0); 4];
            for v in 0..4 {
                first[v] = V::load(x.add(j + v * V::LANES));
            }
            let mut s = [V::splat(0.0); 4];
            let mut q = [V::splat(0.0); 4];
            for i in 0..rows {
                let row = x.add(i * c + j);
                for v in 0..4 {
                    let d = V::load(row.add(v * V::LANES)).sub(first[v]);
                    s[v] = s[v].add(d);
                    q[v] = d.mul_add(d, q[v]);
                }
            }
            for v in 0..4 {
                s[v].store(sums.add(j + v * V::LANES));
                q[v].store(squares.add(j + v * V::LANES));
            }
            j += 4 * V::LANES;
        }
        while j < c {
            let count = V::LANES.min(c - j);
            let whole = count == V::LANES;
            let first = load_up_to::<V>(x.add(j), count);
            let (mut s, mut q) = (V::splat(0.0), V::splat(0.0));
            for i in 0..rows {
                let d = load_up_to::<V>(x.add(i * c + j), count).sub(first);
                s = s.add(d);
                q = d.mul_add(d, q);
            }
            if whole {
                s.store(sums.add(j));
                q.store(squares.add(j));
            } else {
                s.store_partial(sums.add(j), count);
                q.store_partial(squares.add(j), count);
            }
            j += count;
        }
    }
}

/// # Safety
/// As [`Vector`]; `from` is good for `count` floats, at most LANES.
#[inline(always)]
pub(super) unsafe fn load_up_to<V: Vector>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe { if count == V::LANES { V::load(from) } else { V::load_partial(from, count) } }
}

/// `y = act(a * x + b)` for `rows` rows of `c`, `a` and `b` by channel.
///
/// # Safety
/// As [`channel_sums`].
#[inline(always)]
pub(super) unsafe fn affine<V: Vector>(
    x: *const f32,
    rows: usize,
    c: usize,
    a: *const f32,
    b: *const f32,
    act: Activation,
    y: *mut f32,
) {
    for i in 0..rows {
        // SAFETY: offsets stay below `rows * c`.
        unsafe {
            let (x, y) = (x.add(i * c), y.add(i * c));
            sweep!(
                V,
                c,
                |j| math::act(act, V::load(x.add(j)).mul_add(V::load(a.add(j)), V::load(b.add(j)))).store(y.add(j)),
                |rest| {
                    let v = V::load_partial(x.add(j), rest);
                    let v = v.mul_add(V::load_partial(a.add(j), rest), V::load_partial(b.add(j), rest));
                    math::act(act, v).store_partial(y.add(j), rest);
                }
            );
        }
    }
}
