//! The three transforms of Winograd's minimal filtering for 3 x 3 kernels (Lavin and Gray, arXiv:1509.09308), channels across
//! the lanes. `T` is the side of an input tile: 6 for F(4 x 4, 3 x 3), 4 for F(2 x 2, 3 x 3).
use super::{Vector, math, rows};
use crate::Activation;

/// The side of the larger tile.
const MOST: usize = 6;

/// One tile of the input, to one row of each of the `T * T` matrices.
pub(crate) struct InputTile {
    pub(crate) tile: usize,
    /// Where each of the tile's pixels begins, `T` by `T`; those in the padding point to zeros.
    pub(crate) pixels: [[*const f32; MOST]; MOST],
    pub(crate) channels: usize,
    pub(crate) v: *mut f32,
    /// From one matrix to the next.
    pub(crate) stride: usize,
}

/// One row of each of the `T * T` products, to a tile of the output.
pub(crate) struct OutputTile {
    pub(crate) tile: usize,
    pub(crate) m: *const f32,
    /// From one matrix to the next.
    pub(crate) stride: usize,
    pub(crate) channels: usize,
    /// Of the products, before the bias is added.
    pub(crate) factor: f32,
    pub(crate) bias: *const f32,
    pub(crate) act: Activation,
    pub(crate) y: *mut f32,
    /// Null for none; laid out as `y`.
    pub(crate) residual: *const f32,
    /// From one row of pixels to the next, and from one pixel to the next.
    pub(crate) ld_row: usize,
    pub(crate) ld_pixel: usize,
    /// How many rows and columns of the tile lie within the map.
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// # Safety
/// As [`Vector`]; the pointers are good for what [`InputTile`] says.
#[inline(always)]
pub(super) unsafe fn winograd_input<V: Vector>(t: &InputTile) {
    // SAFETY: the caller's promise.
    unsafe {
        match t.tile {
            6 => input::<V, 6>(t),
            4 => input::<V, 4>(t),
            _ => unreachable!("a tile of {}", t.tile),
        }
    }
}

/// # Safety
/// As [`winograd_input`] with [`OutputTile`].
#[inline(always)]
pub(super) unsafe fn winograd_output<V: Vector>(t: &OutputTile) {
    // SAFETY: the caller's promise.
    unsafe {
        match t.tile {
            6 => output::<V, 6, 4>(t),
            4 => output::<V, 4, 2>(t),
            _ => unreachable!("a tile of {}", t.tile),
        }
    }
}

/// Transforms kernels side by side: `g` is `9 x width`, `u` gets `T * T` rows of `width`, `stride` apart.
///
/// # Safety
/// As [`Vector`]; `width` is a multiple of LANES and the pointers are good for that.
#[inline(always)]
pub(super) unsafe fn winograd_weight<V: Vector>(tile: usize, g: *const f32, width: usize, u: *mut f32, stride: usize) {
    for at in (0..width).step_by(V::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            match tile {
                6 => weight::<V, 6>(g.add(at), width, u.add(at), stride),
                4 => weight::<V, 4>(g.add(at), width, u.add(at), stride),
                _ => unreachable!("a tile of {tile}"),
            }
        }
    }
}

/// # Safety
/// As [`winograd_input`], `T` being the tile.
#[inline(always)]
unsafe fn input<V: Vector, const T: usize>(t: &InputTile) {
    let mut at = 0;
    while at < t.channels {
        let count = V::LANES.min(t.channels - at);
        // SAFETY: channels at .. at + count of every pixel, and of every row of v.
        unsafe {
            let mut half = [[V::splat(0.0); T]; T];
            for j in 0..T {
                let mut column = [V::splat(0.0); T];
                for i in 0..T {
                    column[i] = rows::load_up_to::<V>(t.pixels[i][j].add(at), count);
                }
                let column = forward(column);
                for i in 0..T {
                    half[i][j] = column[i];
                }
            }
            for i in 0..T {
                let row = forward(half[i]);
                for j in 0..T {
                    store_up_to(row[j], t.v.add((i * T + j) * t.stride + at), count);
                }
            }
        }
        at += count;
    }
}

/// # Safety
/// As [`winograd_output`], `T` being the tile and `R` two less.
#[inline(always)]
unsafe fn output<V: Vector, const T: usize, const R: usize>(t: &OutputTile) {
    let mut at = 0;
    while at < t.channels {
        let count = V::LANES.min(t.channels - at);
        // SAFETY: channels at .. at + count of every row of m and of the pixels within the map.
        unsafe {
            let mut half = [[V::splat(0.0); T]; R];
            for j in 0..T {
                let mut column = [V::splat(0.0); T];
                for i in 0..T {
                    column[i] = rows::load_up_to::<V>(t.m.add((i * T + j) * t.stride + at), count);
                }
                let column = backward::<V, T, R>(column);
                for i in 0..R {
                    half[i][j] = column[i];
                }
            }
            let (factor, bias) = (V::splat(t.factor), rows::load_up_to::<V>(t.bias.add(at), count));
            for i in 0..R.min(t.rows) {
                let row = backward::<V, T, R>(half[i]);
                for j in 0..R {
                    if j < t.cols {
                        let pixel = i * t.ld_row + j * t.ld_pixel + at;
                        let mut y = math::act(t.act, row[j].mul_add(factor, bias));
                        if !t.residual.is_null() {
                            y = y.add(rows::load_up_to::<V>(t.residual.add(pixel), count));
                        }
                        store_up_to(y, t.y.add(pixel), count);
                    }
                }
            }
        }
        at += count;
    }
}

/// # Safety
/// As [`winograd_weight`] for one register.
#[inline(always)]
unsafe fn weight<V: Vector, const T: usize>(g: *const f32, width: usize, u: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut half = [[V::splat(0.0); 3]; T];
        for j in 0..3 {
            let column = [0, 1, 2].map(|i| (i * 3 + j) * width);
            let column: [V; T] =
                kernel([V::load(g.add(column[0])), V::load(g.add(column[1])), V::load(g.add(column[2]))]);
            for i in 0..T {
                half[i][j] = column[i];
            }
        }
        for i in 0..T {
            let row: [V; T] = kernel(half[i]);
            for j in 0..T {
                row[j].store(u.add((i * T + j) * stride));
            }
        }
    }
}

/// `B^T d`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn forward<V: Vector, const T: usize>(d: [V; T]) -> [V; T] {
    let mut out = d;
    // SAFETY: the caller's promise.
    unsafe {
        if T == 6 {
            let (two, four) = (V::splat(2.0), V::splat(4.0));
            let (minus_four, minus_five) = (V::splat(-4.0), V::splat(-5.0));
            out[0] = minus_five.mul_add(d[2], four.mul_add(d[0], d[4]));
            out[1] = minus_four.mul_add(d[1].add(d[2]), d[3].add(d[4]));
            out[2] = four.mul_add(d[1].sub(d[2]), d[4].sub(d[3]));
            out[3] = two.mul_add(d[3].sub(d[1]), d[4].sub(d[2]));
            out[4] = two.mul_add(d[1].sub(d[3]), d[4].sub(d[2]));
            out[5] = minus_five.mul_add(d[3], four.mul_add(d[1], d[5]));
        } else {
            out[0] = d[0].sub(d[2]);
            out[1] = d[1].add(d[2]);
            out[2] = d[2].sub(d[1]);
            out[3] = d[1].sub(d[3]);
        }
    }
    out
}

/// `A^T m`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn backward<V: Vector, const T: usize, const R: usize>(m: [V; T]) -> [V; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = [V::splat(0.0); R];
        let (a, b) = (m[1].add(m[2]), m[1].sub(m[2]));
        if T == 6 {
            let (c, d) = (m[3].add(m[4]), m[3].sub(m[4]));
            out[0] = m[0].add(a.add(c));
            out[1] = V::splat(2.0).mul_add(d, b);
            out[2] = V::splat(4.0).mul_add(c, a);
            out[3] = V::splat(8.0).mul_add(d, b).add(m[5]);
        } else {
            out[0] = m[0].add(a);
            out[1] = b.sub(m[3]);
        }
        out
    }
}

/// `G g`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn kernel<V: Vector, const T: usize>(g: [V; 3]) -> [V; T] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = [V::splat(0.0); T];
        if T == 6 {
            let even = g[0].add(g[2]);
            out[0] = g[0].mul(V::splat(0.25));
            out[1] = even.add(g[1]).mul(V::splat(-1.0 / 6.0));
            out[2] = g[1].sub(even).mul(V::splat(1.0 / 6.0));
            let even = g[0].mul(V::splat(1.0 / 24.0)).add(g[2].mul(V::splat(1.0 / 6.0)));
            let odd = g[1].mul(V::splat(1.0 / 12.0));
            out[3] = even.add(odd);
            out[4] = even.sub(odd);
            out[5] = g[2];
        } else {
            let (half, even) = (V::splat(0.5), g[0].add(g[2]));
            out[0] = g[0];
            out[1] = even.add(g[1]).mul(half);
            out[2] = even.sub(g[1]).mul(half);
            out[3] = g[2];
        }
        out
    }
}

/// # Safety
/// As [`Vector`]; there is room for `count` floats, at most LANES.
#[inline(always)]
unsafe fn store_up_to<V: Vector>(v: V, to: *mut f32, count: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if count == V::LANES {
            v.store(to);
        } else {
            v.store_partial(to, count);
        }
    }
}
