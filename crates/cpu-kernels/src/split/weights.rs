use half::bf16;
use rayon::prelude::*;

use super::{PANEL_COLUMNS, STEP, Terms};
use crate::Weight;
use crate::buffer::Buffer;
use crate::simd::Unit;

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
        unit: &'static Unit,
        terms: Terms,
        weight: Weight<'_>,
        n: usize,
        inner: usize,
        taps: usize,
    ) -> Self {
        assert_eq!(weight.len(), n * inner * taps, "a weight of {n} x {inner} x {taps} elements");
        let shape = [n, inner, taps];
        let (stored, data) = match (weight, terms) {
            (Weight::F16(w), Terms::Three) => (Stored::Half, pack(w, shape, 1, |w, [to, _]| *to = w.to_bits())),
            (Weight::Bf16(w), Terms::Three) => (Stored::High, pack(w, shape, 1, |w, [to, _]| *to = w.to_bits())),
            (Weight::F16(w), Terms::One) => (Stored::Terms, pack(w, shape, 1, |w, [to, _]| *to = high(w.to_f32()))),
            (Weight::Bf16(w), Terms::One) => (Stored::Terms, pack(w, shape, 1, |w, [to, _]| *to = w.to_bits())),
            (Weight::F32(w), Terms::One) => (Stored::Terms, pack(w, shape, 1, |w, [to, _]| *to = high(w))),
            (Weight::F32(w), Terms::Three) => {
                let both = |w, [to, low]: [&mut u16; 2]| {
                    *to = high(w);
                    *low = high(w - bf16::from_bits(*to).to_f32());
                };
                (Stored::Terms, pack(w, shape, 2, both))
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

fn high(x: f32) -> u16 {
    bf16::from_f32(x).to_bits()
}

/// `write` sets the terms of one element, which are all zero before.
fn pack<T: Copy + Sync>(
    w: &[T],
    [n, inner, taps]: [usize; 3],
    terms: usize,
    write: impl Fn(T, [&mut u16; 2]) + Sync,
) -> Buffer {
    let k = inner * taps;
    let panel = k.div_ceil(STEP) * STEP_ELEMENTS * terms;
    let shared = inner.is_multiple_of(STEP);
    let input = |i: usize, tap: usize| if shared { (i / STEP * taps + tap) * STEP + i % STEP } else { tap * inner + i };
    let mut data = Buffer::zeroed(n.div_ceil(PANEL_COLUMNS) * panel / 2);
    if panel == 0 {
        return data;
    }
    data.par_chunks_mut(panel / 2).enumerate().for_each(|(p, to)| {
        let to: &mut [u16] = bytemuck::cast_slice_mut(to);
        for j in 0..PANEL_COLUMNS.min(n - p * PANEL_COLUMNS) {
            let row = &w[(p * PANEL_COLUMNS + j) * k..][..k];
            for tap in 0..taps {
                for i in 0..inner {
                    let input = input(i, tap);
                    let (step, within) = (input / STEP, input % STEP);
                    let at = within / 2 * 2 * PANEL_COLUMNS + 2 * j + within % 2;
                    let step = &mut to[step * STEP_ELEMENTS * terms..][..STEP_ELEMENTS * terms];
                    let (first, second) = step.split_at_mut(STEP_ELEMENTS);
                    let mut none = 0;
                    let low = if terms == 2 { &mut second[at] } else { &mut none };
                    write(row[i * taps + tap], [&mut first[at], low]);
                }
            }
        }
    });
    data
}
