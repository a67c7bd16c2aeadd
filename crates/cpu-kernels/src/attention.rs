//! Scaled dot-product attention without a score matrix in memory (Dao et al., arXiv:2205.14135).
use rayon::prelude::*;

use crate::buffer::{Shared, scratch};
use crate::gemm::{Blocks, Strip, padded};
use crate::isa;
use crate::simd::{Kernels, SoftmaxBlock};

/// Keys whose scores are held at once.
const KEY_BLOCK: usize = 256;
/// Queries that go through the keys together.
const QUERY_BLOCK: usize = 56;

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

    fn row(&self, r: usize, offset: usize, len: usize) -> &'a [f32] {
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
    let shape = Shape { kernels, q_len, kv_len, head_dim, causal };
    // Powers of two instead of e: the change of base goes into the scale.
    let scale = scale * std::f32::consts::LOG2_E;

    let mut packed = scratch(batch * heads * shape.packed_len());
    packed.par_chunks_mut(shape.packed_len()).enumerate().for_each(|(i, packed)| {
        shape.pack(k, v, i / heads, i % heads, packed);
    });
    let blocks = Blocks::new(q_len, QUERY_BLOCK);
    let y = Shared::new(out);
    (0..batch * heads * blocks.count).into_par_iter().for_each(|task| {
        let (pair, block) = (task / blocks.count, blocks.range(task % blocks.count));
        let packed = &packed[pair * shape.packed_len()..][..shape.packed_len()];
        let (batch, head) = (pair / heads, pair % heads);
        let mut work = scratch(shape.work_len(block.len()));
        let out = shape.query_block(q, batch, head, block.clone(), scale, packed, &mut work);
        let ld = shape.value_width();
        for (i, row) in block.enumerate() {
            // SAFETY: each task writes the columns of its head in rows of its own.
            let to = unsafe {
                std::slice::from_raw_parts_mut(y.get().add((batch * q_len + row) * width + head * head_dim), head_dim)
            };
            to.copy_from_slice(&out[i * ld..][..head_dim]);
        }
    });
}

#[derive(Clone, Copy)]
struct Shape {
    kernels: &'static Kernels,
    q_len: usize,
    kv_len: usize,
    head_dim: usize,
    causal: bool,
}

impl Shape {
    /// Floats in a row of packed values: whole registers.
    fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(self.kernels.lanes)
    }

    fn keys_len(&self) -> usize {
        self.kv_len.next_multiple_of(self.kernels.panel()) * self.head_dim
    }

    fn packed_len(&self) -> usize {
        // Whole cache lines, so that every head's part starts on one.
        (self.keys_len().next_multiple_of(16) + self.kv_len * self.value_width()).next_multiple_of(16)
    }

    /// Keys into panels of `head_dim x panel`, values into rows of whole registers.
    fn pack(&self, k: Rows<'_>, v: Rows<'_>, batch: usize, head: usize, packed: &mut [f32]) {
        let (panel, d, offset) = (self.kernels.panel(), self.head_dim, head * self.head_dim);
        let (keys, values) = packed.split_at_mut(self.keys_len().next_multiple_of(16));
        for (p, block) in keys.chunks_exact_mut((d * panel).max(1)).enumerate().take(self.kv_len.div_ceil(panel)) {
            let rows = panel.min(self.kv_len - p * panel);
            if rows < panel {
                block.fill(0.0);
            }
            for j in 0..rows {
                let row = k.row(batch * self.kv_len + p * panel + j, offset, d);
                for (i, x) in row.iter().enumerate() {
                    block[i * panel + j] = *x;
                }
            }
        }
        let ld = self.value_width();
        for (r, to) in values.chunks_exact_mut(ld.max(1)).enumerate().take(self.kv_len) {
            to[..d].copy_from_slice(v.row(batch * self.kv_len + r, offset, d));
            to[d..].fill(0.0);
        }
    }

    fn work_len(&self, rows: usize) -> usize {
        rows * (padded(self.head_dim) + self.value_width() + padded(KEY_BLOCK) + 2)
    }

    /// One block of queries of one head against all keys; gives rows of `value_width`.
    fn query_block<'w>(
        &self,
        q: Rows<'_>,
        batch: usize,
        head: usize,
        block: std::ops::Range<usize>,
        scale: f32,
        packed: &[f32],
        work: &'w mut [f32],
    ) -> &'w [f32] {
        let (kernels, d, m) = (self.kernels, self.head_dim, block.len());
        let (panel, ldq, ldv, lds) = (kernels.panel(), padded(d), self.value_width(), padded(KEY_BLOCK));
        let (keys, values) = packed.split_at(self.keys_len().next_multiple_of(16));
        let (queries, work) = work.split_at_mut(m * ldq);
        let (scores, work) = work.split_at_mut(m * lds);
        let (out, work) = work.split_at_mut(m * ldv);
        let (largest, sums) = work.split_at_mut(m);
        for (i, row) in block.clone().enumerate() {
            let from = q.row(batch * self.q_len + row, head * d, d);
            // SAFETY: both have d floats.
            unsafe {
                (kernels.scale)(from.as_ptr(), scale, queries[i * ldq..][..d].as_mut_ptr(), d);
            };
        }
        largest.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        out.fill(0.0);
        let seen = if self.causal { self.kv_len.min(block.end) } else { self.kv_len };
        for first in (0..seen).step_by(KEY_BLOCK) {
            let count = KEY_BLOCK.min(seen - first);
            for p in 0..count.div_ceil(panel) {
                // All columns of a panel are computed, beyond the last key from zeros; the scores have room for whole panels.
                let strip = Strip {
                    rows: m,
                    cols: panel,
                    k: d,
                    a: queries.as_ptr(),
                    lda: ldq,
                    b: keys[(first / panel + p) * d * panel..].as_ptr(),
                    ldb: panel,
                    bias: std::ptr::null(),
                    addend: std::ptr::null(),
                    ld_addend: 0,
                    c: scores[p * panel..].as_mut_ptr(),
                    ldc: lds,
                };
                // SAFETY: KEY_BLOCK is a multiple of every panel width, so all panels lie within keys and scores.
                unsafe { strip.multiply(kernels) };
            }
            if self.causal {
                for (i, row) in block.clone().enumerate() {
                    let visible = (row + 1).saturating_sub(first).min(count);
                    scores[i * lds + visible..i * lds + count].fill(f32::NEG_INFINITY);
                }
            }
            let softmax = SoftmaxBlock {
                scores: scores.as_mut_ptr(),
                ld: lds,
                rows: m,
                cols: count,
                largest: largest.as_mut_ptr(),
                sums: sums.as_mut_ptr(),
                out: out.as_mut_ptr(),
                ld_out: ldv,
                out_cols: ldv,
            };
            // SAFETY: count is at least 1, and the parts of work have these shapes.
            unsafe { (kernels.softmax_block)(&softmax) };
            for (column, cols) in column_chunks(kernels, ldv) {
                let c = out[column..].as_mut_ptr();
                let strip = Strip {
                    rows: m,
                    cols,
                    k: count,
                    a: scores.as_ptr(),
                    lda: lds,
                    b: values[first * ldv + column..].as_ptr(),
                    ldb: ldv,
                    bias: std::ptr::null(),
                    addend: c,
                    ld_addend: ldv,
                    c,
                    ldc: ldv,
                };
                // SAFETY: values has `first + count` rows of ldv or more, out m rows.
                unsafe { strip.multiply(kernels) };
            }
        }
        for i in 0..m {
            let row = &mut out[i * ldv..][..ldv];
            // SAFETY: row has ldv floats.
            unsafe { (kernels.scale)(row.as_ptr(), 1.0 / sums[i], row.as_mut_ptr(), ldv) };
        }
        out
    }
}

/// Cuts `width` floats, whole registers, into tiles: as wide as a panel, the last one register wider rather than one alone.
fn column_chunks(kernels: &Kernels, width: usize) -> impl Iterator<Item = (usize, usize)> {
    let (panel, lanes) = (kernels.panel(), kernels.lanes);
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = width - at;
        let cols = match left {
            0 => return None,
            _ if left == panel + lanes && left <= 4 * lanes => left,
            _ => left.min(panel),
        };
        at += cols;
        Some((at - cols, cols))
    })
}
