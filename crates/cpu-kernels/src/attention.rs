//! Scaled dot-product attention without a score matrix in memory (Dao et al., arXiv:2205.14135).
//!
//! Everything is computed transposed, queries across the lanes: scores are `K Q^T`, so that keys are read where they lie and the
//! softmax over keys needs no sums across lanes, and the result is `V^T P`, whose tiles are full for every head dimension.
use std::ops::Range;

use rayon::prelude::*;

use crate::buffer::{Shared, scratch};
use crate::gemm::{SMALL_WORK, Strip, share_out};
use crate::simd::{Kernels, SoftmaxBlock};
use crate::split::{self, Terms};
use crate::{Precision, isa};

/// Queries that go through the keys together.
const QUERY_BLOCK: usize = 64;

/// Rows of a matrix that may lie apart: row r begins at `data[r * stride]`. Queries, keys and values that were projected by one
/// product share its rows, each at an offset of its own.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// From the first element of the first row on.
    pub data: &'a [f32],
    /// Floats from one row to the next.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows without gaps.
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    pub(crate) fn row(&self, r: usize, offset: usize, len: usize) -> &'a [f32] {
        &self.data[r * self.stride + offset..][..len]
    }

    fn check(&self, name: &str, rows: usize, width: usize) {
        assert!(self.stride >= width, "{name} rows of {width} at a stride of {}", self.stride);
        assert!(
            rows == 0 || self.data.len() >= (rows - 1) * self.stride + width,
            "{name} of {rows} rows at a stride of {} has {} floats",
            self.stride,
            self.data.len()
        );
    }
}

/// `softmax(q k^T * scale) v` for each head; head h is columns `h * head_dim ..` of every row. Query i of a batch is row
/// `batch * q_len + i`, keys and values likewise with `kv_len`. With `causal`, query i sees keys 0 to i. `out` is
/// `(batch, q_len, heads * head_dim)`; where there are no keys it is filled with zeros.
///
/// # Panics
/// Where lengths do not fit.
pub fn attention(
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    batch: usize,
    heads: usize,
    q_len: usize,
    kv_len: usize,
    head_dim: usize,
    scale: f32,
    causal: bool,
    precision: Precision,
    out: &mut [f32],
) {
    let width = heads * head_dim;
    assert_eq!(out.len(), batch * q_len * width, "an output of {batch} x {q_len} x {width} has {} floats", out.len());
    if out.is_empty() {
        return;
    }
    if kv_len == 0 {
        out.fill(0.0);
        return;
    }
    q.check("query", batch * q_len, width);
    k.check("key", batch * kv_len, width);
    v.check("value", batch * kv_len, width);
    let kernels = isa::kernels();
    // Powers of two instead of e: the change of base goes into the scale.
    let scale = scale * std::f32::consts::LOG2_E;
    let call = Call { kernels, q, k, v, heads, q_len, kv_len, head_dim, scale, causal };
    match kernels.unit(precision) {
        Some(unit) => split::attention(unit, Terms::of(precision), &call, batch, out),
        None => call.run(batch, out),
    }
}

/// What a call asks for, its lengths checked; head by head.
pub(crate) struct Call<'a> {
    pub(crate) kernels: &'static Kernels,
    pub(crate) q: Rows<'a>,
    pub(crate) k: Rows<'a>,
    pub(crate) v: Rows<'a>,
    pub(crate) heads: usize,
    pub(crate) q_len: usize,
    pub(crate) kv_len: usize,
    pub(crate) head_dim: usize,
    /// For powers of two.
    pub(crate) scale: f32,
    pub(crate) causal: bool,
}

impl Call<'_> {
    /// Hides the keys from `key` on from the queries from `query` on that come before them. A row of scores is a panel of queries.
    pub(crate) fn hide(&self, key: usize, query: usize, scores: &mut [f32]) {
        let width = self.kernels.panel();
        for (j, row) in scores.chunks_exact_mut(width).enumerate() {
            row[..(key + j).saturating_sub(query).min(width)].fill(f32::NEG_INFINITY);
        }
    }

    fn run(&self, batch: usize, out: &mut [f32]) {
        let (heads, q_len, kv_len) = (self.heads, self.q_len, self.kv_len);
        let width = heads * self.head_dim;
        let shape = Shape { kernels: self.kernels, q_len, kv_len, head_dim: self.head_dim, causal: self.causal };
        let mut packed = scratch(batch * heads * shape.packed_len());
        packed.par_chunks_mut(shape.packed_len()).enumerate().for_each(|(i, packed)| {
            shape.pack(self.k, self.v, i / heads, i % heads, packed);
        });
        let blocks = q_len.div_ceil(QUERY_BLOCK);
        let y = Shared::new(out);
        let tasks = batch * heads * blocks;
        let one = |task: usize| {
            let (pair, first) = (task / blocks, task % blocks * QUERY_BLOCK);
            let block = first..q_len.min(first + QUERY_BLOCK);
            let packed = &packed[pair * shape.packed_len()..][..shape.packed_len()];
            let (batch, head) = (pair / heads, pair % heads);
            let mut work = scratch(shape.work_len());
            shape.query_block(self, batch, head, block.clone(), packed, &mut work);
            let at = (batch * q_len + block.start) * width + head * self.head_dim;
            // SAFETY: each task writes the columns of its head in rows of its own.
            unsafe { shape.write(&work, block.len(), y.get().add(at), width) };
        };
        if batch * q_len * kv_len * width < SMALL_WORK {
            (0..tasks).for_each(one);
        } else {
            share_out(tasks, one);
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    kernels: &'static Kernels,
    q_len: usize,
    kv_len: usize,
    head_dim: usize,
    causal: bool,
}

/// What one panel of queries has in the working memory, each a number of rows of `panel` floats.
struct Panel<'w> {
    /// `head_dim` rows.
    queries: &'w mut [f32],
    /// `head_dim` rows, and one of the sums of the weights.
    out: &'w mut [f32],
    /// One row.
    largest: &'w mut [f32],
}

impl Shape {
    fn keys_len(&self) -> usize {
        (self.kv_len * self.head_dim).next_multiple_of(16)
    }

    /// Floats between two rows of transposed values: an odd number of cache lines, lest they fall into the same sets.
    fn ld_values(&self) -> usize {
        crate::gemm::padded(self.kv_len)
    }

    fn packed_len(&self) -> usize {
        self.keys_len() + (self.head_dim + 1) * self.ld_values()
    }

    /// The head's keys row by row without gaps, and its values transposed, with a row of ones behind them: their weighted sum is
    /// that of the weights.
    fn pack(&self, k: Rows<'_>, v: Rows<'_>, batch: usize, head: usize, packed: &mut [f32]) {
        let (d, offset) = (self.head_dim, head * self.head_dim);
        let (keys, values) = packed.split_at_mut(self.keys_len());
        for (r, to) in keys.chunks_exact_mut(d).enumerate().take(self.kv_len) {
            to.copy_from_slice(k.row(batch * self.kv_len + r, offset, d));
        }
        let from = &v.data[batch * self.kv_len * v.stride + offset..];
        assert!(from.len() >= (self.kv_len - 1) * v.stride + d && values.len() >= d * self.ld_values());
        // SAFETY: the lengths were just checked.
        unsafe {
            let to = values.as_mut_ptr();
            (self.kernels.transpose)(from.as_ptr(), v.stride, self.kv_len, d, to, self.ld_values());
        }
        values[d * self.ld_values()..].fill(1.0);
    }

    fn panel_len(&self) -> usize {
        (2 * self.head_dim + 2) * self.kernels.panel()
    }

    fn work_len(&self) -> usize {
        QUERY_BLOCK.div_ceil(self.kernels.panel()) * self.panel_len()
            + self.kernels.blocking.keys * self.kernels.panel()
    }

    fn panel<'w>(&self, work: &'w mut [f32], i: usize) -> Panel<'w> {
        let (width, len) = (self.kernels.panel(), self.panel_len());
        let (queries, rest) = work[i * len..(i + 1) * len].split_at_mut(self.head_dim * width);
        let (out, largest) = rest.split_at_mut((self.head_dim + 1) * width);
        Panel { queries, out, largest }
    }

    /// One block of queries of one head against all keys; leaves weighted sums and their weights in `work`.
    fn query_block(
        &self,
        call: &Call<'_>,
        batch: usize,
        head: usize,
        block: Range<usize>,
        packed: &[f32],
        work: &mut [f32],
    ) {
        let (kernels, d, width) = (self.kernels, self.head_dim, self.kernels.panel());
        let (keys, values) = packed.split_at(self.keys_len());
        let panels = block.len().div_ceil(width);
        let (work, scores) = work.split_at_mut(QUERY_BLOCK.div_ceil(width) * self.panel_len());
        for i in 0..panels {
            let panel = self.panel(work, i);
            let rows = width.min(block.len() - i * width);
            if rows < width {
                panel.queries.fill(0.0);
            }
            let q = call.q;
            let first = (batch * self.q_len + block.start + i * width) * q.stride + head * d;
            let from = &q.data[first..first + (rows - 1) * q.stride + d];
            let queries = panel.queries.as_mut_ptr();
            // SAFETY: `from` has rows of d floats, `queries` d rows of `width`.
            unsafe {
                (kernels.transpose)(from.as_ptr(), q.stride, rows, d, queries, width);
                (kernels.scale)(queries, call.scale, queries, d * width);
            }
            panel.largest.fill(f32::NEG_INFINITY);
            panel.out.fill(0.0);
        }
        let seen = if self.causal { self.kv_len.min(block.end) } else { self.kv_len };
        for first in (0..seen).step_by(kernels.blocking.keys) {
            let count = kernels.blocking.keys.min(seen - first);
            for i in 0..panels {
                let panel = self.panel(work, i);
                let product = |rows, k, a: &[f32], lda, b: &[f32], c: &mut [f32], add: bool| {
                    let c = c.as_mut_ptr();
                    let addend = if add { c.cast_const() } else { std::ptr::null() };
                    let bias = std::ptr::null();
                    let (a, b) = (a.as_ptr(), b.as_ptr());
                    let strip = Strip {
                        rows,
                        cols: width,
                        k,
                        a,
                        lda,
                        b,
                        ldb: width,
                        bias,
                        addend,
                        ld_addend: width,
                        c,
                        ldc: width,
                        ahead: None,
                    };
                    // SAFETY: below, a has `rows` rows of k floats, b k rows of `width`, c `rows` rows of `width`.
                    unsafe { strip.multiply(kernels) };
                };
                product(count, d, &keys[first * d..(first + count) * d], d, panel.queries, scores, false);
                if self.causal {
                    call.hide(first, block.start + i * width, &mut scores[..count * width]);
                }
                let softmax = SoftmaxBlock {
                    scores: scores.as_mut_ptr(),
                    rows: count,
                    largest: panel.largest.as_mut_ptr(),
                    out: panel.out.as_mut_ptr(),
                    out_rows: d + 1,
                };
                // SAFETY: all have rows of `width` floats.
                unsafe { (kernels.softmax_block)(&softmax) };
                product(d + 1, count, &values[first..], self.ld_values(), scores, panel.out, true);
            }
        }
    }

    /// Divides by the weights and writes `rows` rows of `head_dim`.
    ///
    /// # Safety
    /// There is room for them at `to` with stride `ld`.
    unsafe fn write(&self, work: &[f32], rows: usize, to: *mut f32, ld: usize) {
        let (d, width) = (self.head_dim, self.kernels.panel());
        for (i, panel) in work.chunks_exact(self.panel_len()).enumerate().take(rows.div_ceil(width)) {
            let (out, sums) = panel[d * width..].split_at(d * width);
            let rows = width.min(rows - i * width);
            // SAFETY: out has d rows of `width`, of which `rows` columns are taken; the caller gave room.
            unsafe {
                let to = to.add(i * width * ld);
                (self.kernels.transpose)(out.as_ptr(), width, d, rows, to, ld);
                for (r, sum) in sums[..rows].iter().enumerate() {
                    let row = to.add(r * ld);
                    (self.kernels.scale)(row, 1.0 / sum, row, d);
                }
            }
        }
    }
}
