//! The matrix product `y = act(x W^T + bias) + residual` over packed weights.
//!
//! Blocks as in GotoBLAS (Goto and van de Geijn, 2008): a block of the weights' inputs stays in the second cache while the rows
//! go by, one panel of it in the first; see also BLIS. Rows are read where they stand, since broadcasts need no packing, or are
//! gathered into a block by the source (convolutions).
use std::ops::Range;

use rayon::prelude::*;

use crate::Activation;
use crate::buffer::{Shared, scratch};
use crate::pack::Packed;
use crate::simd::{Ahead, Kernels, MAX_LANES, MAX_ROWS, Tile};

/// Multiplications below which waking another thread costs more than it saves: some microseconds' worth.
pub(crate) const SMALL_WORK: usize = 1 << 18;
/// The widest tile, in floats.
const MAX_PANEL: usize = 4 * MAX_LANES;

/// Where the rows of the left matrix come from.
///
/// # Safety
/// What `block` returns is good for reading `rows` rows of `kc` floats at the stride.
pub(crate) unsafe trait RowSource: Sync {
    /// Floats of working memory that a block of `rows` by `kc` needs.
    fn scratch_len(&self, rows: usize, kc: usize) -> usize;

    /// Inputs `k0 .. k0 + kc` of rows `row .. row + rows`, and the stride between rows.
    ///
    /// # Safety
    /// The ranges lie within the matrix, and `scratch` has `scratch_len(rows, kc)` floats.
    unsafe fn block(&self, row: usize, rows: usize, k0: usize, kc: usize, scratch: *mut f32) -> (*const f32, usize);
}

/// Rows that lie in memory one behind the other.
pub(crate) struct Strided<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

impl Strided<'_> {
    /// Rows a multiple of 4 KiB apart fall into the same lines of the first cache, and throw each other out.
    fn collides(&self) -> bool {
        self.stride.is_multiple_of(1024)
    }
}

// SAFETY: slices are indexed with their bounds checked; the last row may be shorter than the stride.
unsafe impl RowSource for Strided<'_> {
    fn scratch_len(&self, rows: usize, kc: usize) -> usize {
        if self.collides() { rows * padded(kc) } else { 0 }
    }

    unsafe fn block(&self, row: usize, rows: usize, k0: usize, kc: usize, scratch: *mut f32) -> (*const f32, usize) {
        let from = &self.data[row * self.stride + k0..(row + rows - 1) * self.stride + k0 + kc];
        if !self.collides() {
            return (from.as_ptr(), self.stride);
        }
        let ld = padded(kc);
        for i in 0..rows {
            let line = &from[i * self.stride..][..kc];
            // SAFETY: the caller gave room for `rows` lines of `ld`.
            unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), scratch.add(i * ld), kc) };
        }
        (scratch, ld)
    }
}

/// A stride for rows of `kc` floats that does not collide.
pub(crate) fn padded(kc: usize) -> usize {
    let lines = kc.div_ceil(16);
    16 * (lines | 1)
}

/// What becomes of the sums.
pub(crate) struct Output<'a> {
    /// A bias of `panels * width` floats, one for each group of rows or one for all.
    pub(crate) bias: &'a [f32],
    pub(crate) act: Activation,
    /// Of the same shape as the result, added last.
    pub(crate) residual: Option<&'a [f32]>,
}

/// `groups * group_rows` rows against `b`. With more than one bias, group g takes bias g.
pub(crate) fn gemm<S: RowSource>(
    source: &S,
    b: &Packed,
    groups: usize,
    group_rows: usize,
    out: &Output<'_>,
    y: &mut [f32],
) {
    let (m, width) = (groups * group_rows, b.kernels.panel());
    assert_eq!(y.len(), m * b.n, "an output of {m} x {}", b.n);
    if m == 0 || b.n == 0 {
        return;
    }
    let padded_n = b.panels() * width;
    assert!(out.bias.len() == padded_n || out.bias.len() == groups * padded_n, "a bias of {padded_n}");
    if let Some(residual) = out.residual {
        assert_eq!(residual.len(), y.len(), "a residual of {m} x {}", b.n);
    }
    // Blocks never straddle two groups where those differ in their bias.
    let (groups, group_rows) = if out.bias.len() == padded_n { (1, m) } else { (groups, group_rows) };
    let rows = Blocks::new(group_rows, b.kernels.blocking.rows);
    let blocks = groups * rows.count;
    let (row_tasks, panel_tasks) = split(blocks, b.panels(), m * b.n * b.k);
    let product = Product { source, b, rows, y: Shared::new(y), out };
    share_out(row_tasks * panel_tasks, |task| {
        let panels = share(b.panels(), panel_tasks, task % panel_tasks);
        let blocks = share(blocks, row_tasks, task / panel_tasks);
        // SAFETY: the ranges of different tasks are different parts of y, whose size is checked above.
        unsafe { product.part(blocks, panels) };
    });
}

/// How many parts to make of the rows' blocks and of the panels. Several for each thread, so that one that is held up does not
/// hold up all; by panels where there are few rows, so that weights are read once.
/// `work` is the number of multiplications.
pub(crate) fn split(blocks: usize, panels: usize, work: usize) -> (usize, usize) {
    let threads = rayon::current_num_threads();
    if threads <= 1 || work < SMALL_WORK {
        return (1, 1);
    }
    let wanted = 4 * threads;
    if blocks >= 2 * wanted {
        (wanted, 1)
    } else if panels >= wanted {
        (1, wanted)
    } else {
        let rows = blocks.min(wanted);
        (rows, wanted.div_ceil(rows).min(panels))
    }
}

/// Runs tasks `0 .. count`, in parallel where there are several.
pub(crate) fn share_out(count: usize, task: impl Fn(usize) + Send + Sync) {
    if count == 1 {
        task(0);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// Part `i` of so many, as equal as can be, of `0 .. len`.
pub(crate) fn share(len: usize, parts: usize, i: usize) -> Range<usize> {
    len * i / parts..len * (i + 1) / parts
}

/// A range cut into parts of `len`, the last of them shorter.
fn parts(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(len).map(move |first| first..end.min(first + len))
}

/// A range cut into blocks of nearly equal size.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    len: usize,
    pub(crate) count: usize,
}

impl Blocks {
    pub(crate) fn new(len: usize, at_most: usize) -> Self {
        Self { len, count: len.div_ceil(at_most) }
    }

    pub(crate) fn range(self, i: usize) -> Range<usize> {
        share(self.len, self.count, i)
    }

    pub(crate) fn largest(self) -> usize {
        self.len.div_ceil(self.count.max(1))
    }
}

struct Product<'a, S> {
    source: &'a S,
    b: &'a Packed,
    rows: Blocks,
    y: Shared,
    out: &'a Output<'a>,
}

impl<S: RowSource> Product<'_, S> {
    /// # Safety
    /// Nobody else touches these rows and columns of `y`.
    unsafe fn part(&self, blocks: Range<usize>, panels: Range<usize>) {
        let (b, kernels, width) = (self.b, self.b.kernels, self.b.kernels.panel());
        let blocking = kernels.blocking;
        let inputs = Blocks::new(b.k.max(1), blocking.inputs);
        let kc_most = inputs.largest();
        let mut wide = scratch(if b.is_narrow() { blocking.panels.min(panels.len()) * kc_most * width } else { 0 });
        let mut gathered = scratch(self.source.scratch_len(self.rows.largest(), kc_most));
        let padded_n = b.panels() * width;
        let groups = parts(panels, blocking.panels);
        let held = (blocking.held_rows / blocking.rows).max(1);
        for (group, blocks) in
            groups.flat_map(|group| parts(blocks.clone(), held).map(move |held| (group.clone(), held)))
        {
            for step in 0..inputs.count {
                let k = inputs.range(step);
                let (k0, kc) = if b.k == 0 { (0, 0) } else { (k.start, k.len()) };
                if b.is_narrow() {
                    for (i, p) in group.clone().enumerate() {
                        // SAFETY: there is room for a group's blocks.
                        unsafe { b.widen(p, k0, kc, wide[i * kc * width..].as_mut_ptr()) };
                    }
                }
                for block in blocks.clone() {
                    let (image, part) = (block / self.rows.count, self.rows.range(block % self.rows.count));
                    let bias = if self.out.bias.len() == padded_n {
                        self.out.bias
                    } else {
                        &self.out.bias[image * padded_n..]
                    };
                    let row = image * self.rows.len + part.start;
                    // SAFETY: the block lies within the source, whose size the caller of `gemm` made sure of.
                    let (a, lda) = unsafe { self.source.block(row, part.len(), k0, kc, gathered.as_mut_ptr()) };
                    for (i, p) in group.clone().enumerate() {
                        let panel = if b.is_narrow() { wide[i * kc * width..].as_ptr() } else { b.panel(p, k0) };
                        let cols = width.min(b.n - p * width);
                        let at = row * b.n + p * width;
                        let (first, last) = (step == 0, step + 1 == inputs.count);
                        let linear = self.out.act == Activation::None;
                        let residual = self.out.residual.map_or(std::ptr::null(), |r| r[at..].as_ptr());
                        // SAFETY: part.len() rows of cols floats of y start at `at`, and are ours.
                        unsafe {
                            let c = self.y.get().add(at);
                            let strip = Strip {
                                rows: part.len(),
                                cols,
                                k: kc,
                                a,
                                lda,
                                b: panel,
                                ldb: width,
                                bias: if first { bias[p * width..].as_ptr() } else { std::ptr::null() },
                                addend: if !first {
                                    c
                                } else if linear {
                                    residual
                                } else {
                                    std::ptr::null()
                                },
                                ld_addend: b.n,
                                c,
                                ldc: b.n,
                                ahead: None,
                            };
                            strip.multiply(kernels);
                            if last && !linear {
                                (kernels.finish)(self.out.act, c, b.n, part.len(), cols, residual, b.n);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A product one panel wide and any number of rows high; the fields are those of [`Tile`].
pub(crate) struct Strip {
    pub(crate) rows: usize,
    /// Valid columns: at most four registers; `b` and `bias` are padded to whole registers.
    pub(crate) cols: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) lda: usize,
    pub(crate) b: *const f32,
    pub(crate) ldb: usize,
    pub(crate) bias: *const f32,
    pub(crate) addend: *const f32,
    pub(crate) ld_addend: usize,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    /// What is fetched meanwhile; the panel itself where nothing is said.
    pub(crate) ahead: Option<Ahead>,
}

impl Strip {
    /// # Safety
    /// The pointers are good for the shape: `a` for rows x k, `b` for k x cols and `bias` for cols, both rounded up to whole
    /// registers, `addend` and `c` for rows x cols.
    pub(crate) unsafe fn multiply(&self, kernels: &Kernels) {
        let vectors = self.cols.div_ceil(kernels.lanes);
        let tile = Tile {
            vectors,
            rows: self.rows,
            k: self.k,
            a: self.a,
            lda: self.lda,
            b: self.b,
            ldb: self.ldb,
            bias: self.bias,
            addend: self.addend,
            ld_addend: self.ld_addend,
            c: self.c,
            ldc: self.ldc,
            ahead: self.ahead.unwrap_or_else(|| Ahead::panel(self.b, self.ldb)),
        };
        if self.cols == vectors * kernels.lanes {
            // SAFETY: the caller's promise.
            unsafe { (kernels.tiles)(&tile) };
            return;
        }
        for first in (0..self.rows).step_by(kernels.rows[vectors]) {
            let mut tile = tile;
            tile.rows = kernels.rows[vectors].min(self.rows - first);
            // SAFETY: the tile lies within the strip; a null addend is not read.
            unsafe {
                tile.a = self.a.add(first * self.lda);
                tile.addend = self.addend.wrapping_add(if self.addend.is_null() { 0 } else { first * self.ld_addend });
                tile.c = self.c.add(first * self.ldc);
                tile.ahead.from = tile.ahead.from.wrapping_add(first / kernels.rows[vectors] * tile.ahead.tile);
                self.multiply_ragged(kernels, tile);
            }
        }
    }

    /// A tile whose last register is not full goes by way of a copy.
    ///
    /// # Safety
    /// As [`Strip::multiply`].
    unsafe fn multiply_ragged(&self, kernels: &Kernels, mut tile: Tile) {
        let mut copy = [0.0f32; MAX_ROWS * MAX_PANEL];
        let ld = tile.vectors * kernels.lanes;
        let (c, ldc) = (tile.c, tile.ldc);
        // SAFETY: the copy has room for any tile; only valid columns of c and the addend are touched.
        unsafe {
            if !tile.addend.is_null() {
                for i in 0..tile.rows {
                    let from = tile.addend.add(i * tile.ld_addend);
                    std::ptr::copy_nonoverlapping(from, copy.as_mut_ptr().add(i * ld), self.cols);
                }
                tile.addend = copy.as_ptr();
                tile.ld_addend = ld;
            }
            tile.c = copy.as_mut_ptr();
            tile.ldc = ld;
            (kernels.tiles)(&tile);
            for i in 0..tile.rows {
                std::ptr::copy_nonoverlapping(copy.as_ptr().add(i * ld), c.add(i * ldc), self.cols);
            }
        }
    }
}
