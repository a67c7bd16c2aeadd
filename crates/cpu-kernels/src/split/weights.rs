use rayon::prelude::*;

use super::{PANEL_COLUMNS, STEP, Terms};
use crate::Weight;
use crate::buffer::{Buffer, scratch};
use crate::simd::{Kernels, Narrow, Unit};

/// A matrix of `n` outputs by `k` inputs, split into terms, in the order in which a matrix unit reads it; what was stored in half
/// precision stays so, and is split as it is read.
pub(crate) struct SplitWeights {
    pub(crate) unit: &'static Unit,
    pub(crate) terms: Terms,
    pub(crate) n: usize,
    pub(crate) k: usize,
    reads_maps: bool,
    stored: Stored,
    data: Buffer,
}

/// What is kept of a weight.
#[derive(Clone, Copy, PartialEq)]
enum Stored {
    /// All its terms.
    Terms,
    /// The number itself, in half precision.
    Half,
    /// The high term, since the low one is zero.
    High,
}

/// Elements of one term of one step of a panel.
const STEP_ELEMENTS: usize = PANEL_COLUMNS * STEP;

impl SplitWeights {
    /// Packs a weight of shape `(n, inner, taps)`; element `(o, i, tap)` becomes input number `tap * inner + i` of output `o`, or,
    /// where [maps are read](SplitWeights::reads_maps), one of a step of 32 that the taps share: `(i / 32 * taps + tap) * 32 + i % 32`.
    /// For a plain matrix `taps` is 1.
    pub(crate) fn new(
        kernels: &Kernels,
        unit: &'static Unit,
        terms: Terms,
        weight: Weight<'_>,
        n: usize,
        inner: usize,
        taps: usize,
    ) -> Self {
        assert_eq!(weight.len(), n * inner * taps, "a weight of {n} x {inner} x {taps} elements");
        let packing = Packing { kernels, n, inner, taps };
        let narrow = |terms, x: &[f32], [high, low]: [&mut [u16]; 2]| {
            let narrow = Narrow { x: x.as_ptr(), len: x.len(), terms, high: high.as_mut_ptr(), low: low.as_mut_ptr() };
            assert!(high.len() == x.len() && (terms == Terms::One || low.len() == x.len()));
            // SAFETY: every line has as many elements, whole steps, and the machine has the unit.
            unsafe { (unit.narrow)(&narrow) };
        };
        let (stored, data) = match (weight, terms) {
            (Weight::F16(w), Terms::Three) => {
                let bits: &[u16] = bytemuck::cast_slice(w);
                (Stored::Half, packing.pack(bits, 1, |line, [to, _]| to.copy_from_slice(line)))
            }
            (Weight::Bf16(w), _) => {
                let stored = if terms == Terms::One { Stored::Terms } else { Stored::High };
                let bits: &[u16] = bytemuck::cast_slice(w);
                (stored, packing.pack(bits, 1, |line, [to, _]| to.copy_from_slice(line)))
            }
            (Weight::F16(w), Terms::One) => {
                let widened = |line: &[u16], to: [&mut [u16]; 2]| {
                    let mut x = scratch(line.len());
                    // SAFETY: both have as many elements.
                    unsafe { (kernels.widen_f16)(line.as_ptr(), x.as_mut_ptr(), line.len()) };
                    narrow(Terms::One, &x, to);
                };
                (Stored::Terms, packing.pack(bytemuck::cast_slice(w), 1, widened))
            }
            (Weight::F32(w), terms) => {
                (Stored::Terms, packing.pack(w, terms.count(), |line, to| narrow(terms, line, to)))
            }
        };
        Self { unit, terms, n, k: inner * taps, reads_maps: taps > 1 && inner.is_multiple_of(STEP), stored, data }
    }

    /// Whether these are for [`convolve`](super::convolve): those of a kernel of more than one pixel, over channels that fill steps.
    pub(crate) fn reads_maps(&self) -> bool {
        self.reads_maps
    }

    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL_COLUMNS)
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.data)
    }

    /// What [`SplitWeights::bytes`] will be for a weight of `stored_bytes` an element.
    pub(crate) fn packed_bytes(terms: Terms, stored_bytes: usize, n: usize, k: usize) -> usize {
        let kept = stored_bytes.min(terms.count() * size_of::<u16>());
        n.next_multiple_of(PANEL_COLUMNS) * k.next_multiple_of(STEP) * kept
    }

    /// Elements that `steps` steps of a panel take after [`SplitWeights::panel`].
    fn len(&self, steps: usize) -> usize {
        steps * STEP_ELEMENTS * self.terms.count()
    }

    /// Floats of working memory that [`SplitWeights::panel`] needs for `steps` steps.
    pub(crate) fn scratch_len(&self, steps: usize) -> usize {
        if self.stored == Stored::Terms { 0 } else { self.len(steps) / 2 }
    }

    /// Steps `step .. step + steps` of panel `p`: where they stand, or in `scratch`.
    ///
    /// # Safety
    /// `scratch` has room for [`SplitWeights::scratch_len`].
    pub(crate) unsafe fn panel(&self, p: usize, step: usize, steps: usize, scratch: *mut f32) -> *const u16 {
        let all = self.k.div_ceil(STEP);
        assert!(p < self.panels() && step + steps <= all, "steps {step} + {steps} of panel {p}");
        let stored = if self.stored == Stored::Terms { self.len(1) } else { STEP_ELEMENTS };
        let scratch = scratch.cast::<u16>();
        // SAFETY: the panel's steps lie within the data, and there is room at `scratch`.
        unsafe {
            let from = self.data.as_ptr().cast::<u16>().add((p * all + step) * stored);
            match self.stored {
                Stored::Terms => return from,
                Stored::Half => (self.unit.widen_f16)(from, steps, self.terms, scratch),
                Stored::High => {
                    for i in 0..steps {
                        let to = scratch.add(2 * i * STEP_ELEMENTS);
                        to.copy_from_nonoverlapping(from.add(i * STEP_ELEMENTS), STEP_ELEMENTS);
                        to.add(STEP_ELEMENTS).write_bytes(0, STEP_ELEMENTS);
                    }
                }
            }
            scratch
        }
    }
}

/// A weight `(n, inner, taps)` on its way into panels.
struct Packing<'a> {
    kernels: &'a Kernels,
    n: usize,
    inner: usize,
    taps: usize,
}

impl Packing<'_> {
    /// `split` makes the terms of one output's inputs, which fill up whole steps with zeros.
    fn pack<T: bytemuck::Pod + Sync>(
        &self,
        w: &[T],
        terms: usize,
        split: impl Fn(&[T], [&mut [u16]; 2]) + Sync,
    ) -> Buffer {
        let k = self.inner * self.taps;
        let steps = k.div_ceil(STEP);
        let mut data = Buffer::zeroed(self.n.div_ceil(PANEL_COLUMNS) * steps * STEP_ELEMENTS * terms / 2);
        if data.is_empty() {
            return data;
        }
        // The columns of a panel as lines, each a pair of inputs after the other, and then all pairs of columns side by side.
        let len = steps * STEP;
        data.par_chunks_mut(steps * STEP_ELEMENTS * terms / 2).zip(w.par_chunks(PANEL_COLUMNS * k)).for_each(
            |(to, w)| {
                let mut ordered = vec![T::zeroed(); len];
                let mut lines = scratch(terms * PANEL_COLUMNS * len / 2);
                for (j, row) in w.chunks_exact(k).enumerate() {
                    self.order(row, &mut ordered);
                    let lines: &mut [u16] = bytemuck::cast_slice_mut(&mut lines);
                    let (high, low) = lines.split_at_mut(PANEL_COLUMNS * len);
                    let low = if terms == 2 { &mut low[j * len..(j + 1) * len] } else { &mut [] };
                    split(&ordered, [&mut high[j * len..(j + 1) * len], low]);
                }
                let (columns, pairs) = (w.len() / k, STEP / 2);
                for (i, to) in to.chunks_exact_mut(STEP_ELEMENTS / 2).enumerate() {
                    let (step, term) = (i / terms, i % terms);
                    let from = &lines[(term * PANEL_COLUMNS * len + step * STEP) / 2..];
                    assert!(from.len() >= (columns - 1) * len / 2 + pairs);
                    // SAFETY: there are so many lines of so many pairs, and rows of a panel for the pairs.
                    unsafe {
                        let to = to.as_mut_ptr();
                        (self.kernels.transpose)(from.as_ptr(), len / 2, columns, pairs, to, PANEL_COLUMNS);
                    }
                }
            },
        );
        data
    }

    /// One output's inputs in the order in which they are multiplied.
    fn order<T: Copy>(&self, row: &[T], ordered: &mut [T]) {
        let Self { inner, taps, .. } = *self;
        if taps == 1 {
            ordered[..inner].copy_from_slice(row);
            return;
        }
        let shared = if inner.is_multiple_of(STEP) { STEP } else { inner };
        for (channels, ordered) in row.chunks_exact(shared * taps).zip(ordered.chunks_mut(shared * taps)) {
            for (tap, ordered) in ordered.chunks_exact_mut(shared).enumerate() {
                for (to, channel) in ordered.iter_mut().zip(channels.chunks_exact(taps)) {
                    *to = channel[tap];
                }
            }
        }
    }
}
