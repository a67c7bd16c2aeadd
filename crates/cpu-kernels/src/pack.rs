//! Weights in the order in which a tile reads them.
use rayon::prelude::*;

use crate::Weight;
use crate::buffer::{Buffer, Shared};
use crate::simd::Kernels;

/// A matrix of `n` outputs by `k` inputs in panels: panel `p` holds for each input the weights of outputs
/// `p * width .. (p + 1) * width` side by side, zeros where there are fewer. Elements keep their stored type.
pub(crate) struct Packed {
    pub(crate) kernels: &'static Kernels,
    pub(crate) n: usize,
    pub(crate) k: usize,
    element: Element,
    data: Buffer,
}

#[derive(Clone, Copy, PartialEq)]
enum Element {
    F32,
    F16,
    Bf16,
}

impl Packed {
    /// Packs a weight of shape `(n, inner, taps)`; input number `tap * inner + i` of output `o` is element `(o, i, tap)`.
    /// For a plain matrix `taps` is 1.
    pub(crate) fn new(kernels: &'static Kernels, weight: Weight<'_>, n: usize, inner: usize, taps: usize) -> Self {
        let k = inner * taps;
        let width = kernels.panel();
        let elements = n.div_ceil(width) * k * width;
        let (element, mut data) = match weight {
            Weight::F32(_) => (Element::F32, Buffer::zeroed(elements)),
            Weight::F16(_) => (Element::F16, Buffer::zeroed(elements.div_ceil(2))),
            Weight::Bf16(_) => (Element::Bf16, Buffer::zeroed(elements.div_ceil(2))),
        };
        let shared = Shared::new(&mut data);
        match weight {
            // SAFETY: the buffer has room for `elements` of the type.
            Weight::F32(w) => unsafe { fill(w, shared.get(), n, inner, taps, width) },
            // SAFETY: as above; f16 and u16 have one layout.
            Weight::F16(w) => unsafe { fill(w, shared.get().cast(), n, inner, taps, width) },
            // SAFETY: as above.
            Weight::Bf16(w) => unsafe { fill(w, shared.get().cast(), n, inner, taps, width) },
        }
        Self { kernels, n, k, element, data }
    }

    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(self.kernels.panel())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }

    /// Whether elements are widened as they are read.
    pub(crate) fn is_narrow(&self) -> bool {
        self.element != Element::F32
    }

    /// Inputs `k0 .. k0 + kc` of panel `p` as `f32`, where they stand; the weights must not be narrow.
    pub(crate) fn panel(&self, p: usize, k0: usize) -> *const f32 {
        debug_assert!(!self.is_narrow());
        let width = self.kernels.panel();
        self.data[(p * self.k + k0) * width..].as_ptr()
    }

    /// Writes inputs `k0 .. k0 + kc` of panel `p` to `to`.
    ///
    /// # Safety
    /// `p` is one of the panels, `k0 + kc` at most `k`, and `to` has room for `kc` rows.
    pub(crate) unsafe fn widen(&self, p: usize, k0: usize, kc: usize, to: *mut f32) {
        let width = self.kernels.panel();
        let (at, len) = ((p * self.k + k0) * width, kc * width);
        // SAFETY: the panel's rows lie within the buffer, and there is room at `to`.
        unsafe {
            let start = self.data.as_ptr();
            match self.element {
                Element::F32 => std::ptr::copy_nonoverlapping(start.add(at), to, len),
                Element::F16 => (self.kernels.widen_f16)(start.cast::<u16>().add(at), to, len),
                Element::Bf16 => (self.kernels.widen_bf16)(start.cast::<u16>().add(at), to, len),
            }
        }
    }
}

/// # Safety
/// `to` has room for `n.div_ceil(width) * inner * taps * width` elements, all zero.
unsafe fn fill<T: Copy + Sync>(w: &[T], to: *mut T, n: usize, inner: usize, taps: usize, width: usize) {
    struct To<T>(*mut T);
    // SAFETY: each task writes one panel of its own.
    unsafe impl<T> Sync for To<T> {}
    impl<T> To<T> {
        fn get(&self) -> *mut T {
            self.0
        }
    }
    assert_eq!(w.len(), n * inner * taps, "a weight of {n} x {inner} x {taps} elements");
    let k = inner * taps;
    let to = To(to);
    (0..n.div_ceil(width)).into_par_iter().for_each(|p| {
        let rows = width.min(n - p * width);
        // SAFETY: panel p has k * width elements at this offset.
        let panel = unsafe { std::slice::from_raw_parts_mut(to.get().add(p * k * width), k * width) };
        for j in 0..rows {
            let row = &w[(p * width + j) * k..][..k];
            if taps == 1 {
                for i in 0..k {
                    panel[i * width + j] = row[i];
                }
            } else {
                for i in 0..inner {
                    for tap in 0..taps {
                        panel[(tap * inner + i) * width + j] = row[i * taps + tap];
                    }
                }
            }
        }
    });
}
