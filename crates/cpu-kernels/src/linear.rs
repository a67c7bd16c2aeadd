use crate::buffer::{Buffer, Shared, scratch};
use crate::gemm::{Blocks, Output, Strided, Strip, share, share_out, split};
use crate::matrix::Matrix;
use crate::pack::Packed;
use crate::simd::{Geglu, Kernels};
use crate::split::{Finish, product};
use crate::{Activation, Precision, Weight, isa};
use rayon::prelude::*;

/// A linear layer whose weights are packed once.
pub struct Linear {
    kernels: &'static Kernels,
    weights: Matrix,
    bias: Buffer,
}

impl Linear {
    /// Packs a weight of shape `(out_features, in_features)`, in its stored type, for the instruction set in use.
    ///
    /// # Panics
    /// Where lengths do not fit.
    pub fn new(
        weight: Weight<'_>,
        bias: Option<&[f32]>,
        out_features: usize,
        in_features: usize,
        precision: Precision,
    ) -> Self {
        assert_eq!(
            weight.len(),
            out_features * in_features,
            "a linear layer of {out_features} x {in_features} has a weight of {}",
            weight.len()
        );
        let kernels = isa::kernels();
        let weights = Matrix::new(kernels, precision, weight, out_features, in_features, 1);
        Self { kernels, weights, bias: padded_bias(bias, out_features, kernels) }
    }

    /// Number of inputs.
    pub fn in_features(&self) -> usize {
        self.weights.k()
    }

    /// Number of outputs.
    pub fn out_features(&self) -> usize {
        self.weights.n()
    }

    /// Bytes that the packed weight and bias take.
    pub fn bytes(&self) -> usize {
        self.weights.bytes() + size_of_val(&*self.bias)
    }

    /// `y = act(x W^T + b) + residual` for `rows` rows.
    ///
    /// # Panics
    /// Where lengths do not fit.
    pub fn forward(&self, x: &[f32], rows: usize, act: Activation, residual: Option<&[f32]>, y: &mut [f32]) {
        self.check(x, rows);
        let source = Strided { data: x, stride: self.weights.k() };
        self.weights.multiply(&source, 1, rows, &Output { bias: &self.bias, act, residual }, y);
    }

    /// For a layer with `2 * inner` outputs: `y = a * gelu(gate)`, `a` being the first half and `gate` the second, as the GEGLU of
    /// diffusers (Shazeer, arXiv:2002.05202). `y` is `rows x inner`.
    ///
    /// # Panics
    /// Where lengths do not fit or the number of outputs is odd.
    pub fn forward_geglu(&self, x: &[f32], rows: usize, y: &mut [f32]) {
        self.check(x, rows);
        let n = self.weights.n();
        assert!(n.is_multiple_of(2), "GEGLU halves {n} outputs");
        let inner = n / 2;
        assert_eq!(y.len(), rows * inner, "an output of {rows} x {inner}");
        if y.is_empty() {
            return;
        }
        let kernels = self.kernels;
        if !inner.is_multiple_of(kernels.panel()) || self.weights.k() == 0 {
            // The halves do not begin at a panel: multiply first, then combine.
            let mut both = scratch(rows * n);
            self.forward(x, rows, Activation::None, None, &mut both);
            y.par_chunks_mut(inner).enumerate().for_each(|(i, y)| {
                let (a, gate) = both[i * n..(i + 1) * n].split_at(inner);
                // SAFETY: all three have `inner` floats.
                unsafe {
                    (kernels.geglu)(&Geglu {
                        a: a.as_ptr(),
                        gate: gate.as_ptr(),
                        ld: n,
                        bias: None,
                        rows: 1,
                        columns: inner,
                        y: y.as_mut_ptr(),
                        ldy: inner,
                    });
                };
            });
            return;
        }
        let packed = match &self.weights {
            Matrix::Packed(packed) => packed,
            Matrix::Split(kernels, weights) => {
                let source = Strided { data: x, stride: weights.k };
                product(kernels, &source, weights, 1, rows, &Finish::Geglu(&self.bias), y);
                return;
            }
        };
        let blocks = Blocks::new(rows, kernels.blocking.rows);
        let pairs = inner / kernels.panel();
        let (row_tasks, pair_tasks) = split(blocks.count, pairs, rows * n * packed.k);
        let y = Shared::new(y);
        share_out(row_tasks * pair_tasks, |task| {
            let pairs = share(pairs, pair_tasks, task % pair_tasks);
            let blocks_here = share(blocks.count, row_tasks, task / pair_tasks);
            // SAFETY: tasks write different rows or columns of y, which has rows x inner floats.
            unsafe { self.geglu_part(packed, x, blocks, blocks_here, pairs, y) };
        });
    }

    /// # Safety
    /// `x` has all rows, and nobody else touches these rows and columns of `y`.
    unsafe fn geglu_part(
        &self,
        packed: &Packed,
        x: &[f32],
        blocks: Blocks,
        blocks_here: std::ops::Range<usize>,
        pairs: std::ops::Range<usize>,
        y: Shared,
    ) {
        let (kernels, width) = (packed.kernels, packed.kernels.panel());
        let (k, inner) = (packed.k, packed.n / 2);
        let blocking = kernels.blocking;
        // Pairs of panels whose weights stay in the second cache together.
        let group_len = (blocking.panels * blocking.inputs / (2 * k).max(1)).clamp(3, blocking.panels);
        let half = inner / width;
        let rows = blocks.largest();
        let inputs = Blocks::new(k, blocking.inputs);
        let mut wide = scratch(if packed.is_narrow() { 2 * group_len.min(pairs.len()) * k * width } else { 0 });
        let mut tiles = scratch(2 * rows * width);
        let (tile_a, tile_gate) = tiles.split_at_mut(rows * width);
        for first in pairs.clone().step_by(group_len) {
            let group = first..pairs.end.min(first + group_len);
            if packed.is_narrow() {
                for (i, p) in group.clone().enumerate() {
                    // SAFETY: there is room for a group.
                    unsafe {
                        packed.widen(p, 0, k, wide[2 * i * k * width..].as_mut_ptr());
                        packed.widen(half + p, 0, k, wide[(2 * i + 1) * k * width..].as_mut_ptr());
                    }
                }
            }
            for block in blocks_here.clone() {
                let range = blocks.range(block);
                for (i, p) in group.clone().enumerate() {
                    for (which, c) in [(0, &mut *tile_a), (1, &mut *tile_gate)] {
                        let panel = p + which * half;
                        let b = if packed.is_narrow() {
                            wide[(2 * i + which) * k * width..].as_ptr()
                        } else {
                            packed.panel(panel, 0)
                        };
                        for step in 0..inputs.count {
                            let part = inputs.range(step);
                            let first = step == 0;
                            let null = std::ptr::null();
                            let strip = Strip {
                                rows: range.len(),
                                cols: width,
                                k: part.len(),
                                a: x[range.start * k + part.start..range.end * k].as_ptr(),
                                lda: k,
                                b: b.wrapping_add(part.start * width),
                                ldb: width,
                                bias: if first { self.bias[panel * width..].as_ptr() } else { null },
                                addend: if first { null } else { c.as_ptr() },
                                ld_addend: width,
                                c: c.as_mut_ptr(),
                                ldc: width,
                                ahead: None,
                            };
                            // SAFETY: the rows of x are there, the tile has room for a block of rows.
                            unsafe { strip.multiply(kernels) };
                        }
                    }
                    // SAFETY: rows `range` and columns of panel p of y are ours.
                    unsafe {
                        (kernels.geglu)(&Geglu {
                            a: tile_a.as_ptr(),
                            gate: tile_gate.as_ptr(),
                            ld: width,
                            bias: None,
                            rows: range.len(),
                            columns: width,
                            y: y.get().add(range.start * inner + p * width),
                            ldy: inner,
                        });
                    }
                }
            }
        }
    }

    fn check(&self, x: &[f32], rows: usize) {
        let k = self.weights.k();
        assert_eq!(x.len(), rows * k, "an input of {rows} x {k} has {} floats", x.len());
    }
}

/// The bias, or zeros, filled up to whole panels.
pub(crate) fn padded_bias(bias: Option<&[f32]>, outputs: usize, kernels: &Kernels) -> Buffer {
    let mut padded = Buffer::zeroed(outputs.next_multiple_of(kernels.panel()));
    if let Some(bias) = bias {
        assert_eq!(bias.len(), outputs, "a bias for {outputs} outputs has {} floats", bias.len());
        padded[..bias.len()].copy_from_slice(bias);
    }
    padded
}

impl std::fmt::Debug for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linear({} -> {})", self.weights.k(), self.weights.n())
    }
}
