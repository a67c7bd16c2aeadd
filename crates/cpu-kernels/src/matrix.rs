use crate::gemm::{Output, RowSource, gemm};
use crate::pack::Packed;
use crate::simd::Kernels;
use crate::split::{Finish, SplitWeights, Terms, product};
use crate::{Precision, Weight};

/// The right side of a product, packed for the unit that will multiply it.
pub(crate) enum Matrix {
    /// For multiply-adds on registers.
    Packed(Packed),
    /// For a unit that multiplies `bf16`.
    Split(&'static Kernels, SplitWeights),
}

impl Matrix {
    /// Packs a weight of shape `(n, inner, taps)`; input number `tap * inner + i` of output `o` is element `(o, i, tap)`.
    pub(crate) fn new(
        kernels: &'static Kernels,
        precision: Precision,
        weight: Weight<'_>,
        n: usize,
        inner: usize,
        taps: usize,
    ) -> Self {
        match kernels.unit(precision) {
            Some(unit) => {
                let weights = SplitWeights::new(kernels, unit, Terms::of(precision), weight, n, inner, taps);
                Matrix::Split(kernels, weights)
            }
            None => Matrix::Packed(Packed::new(kernels, weight, n, inner, taps)),
        }
    }

    /// Number of outputs.
    pub(crate) fn n(&self) -> usize {
        match self {
            Matrix::Packed(b) => b.n,
            Matrix::Split(_, b) => b.n,
        }
    }

    /// Number of inputs.
    pub(crate) fn k(&self) -> usize {
        match self {
            Matrix::Packed(b) => b.k,
            Matrix::Split(_, b) => b.k,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Matrix::Packed(b) => b.bytes(),
            Matrix::Split(_, b) => b.bytes(),
        }
    }

    /// What [`Matrix::bytes`] will be for a weight of `stored_bytes` an element.
    pub(crate) fn packed_bytes(
        kernels: &Kernels,
        precision: Precision,
        stored_bytes: usize,
        n: usize,
        k: usize,
    ) -> usize {
        match kernels.unit(precision) {
            Some(_) => SplitWeights::packed_bytes(Terms::of(precision), stored_bytes, n, k),
            None => (n.next_multiple_of(kernels.panel()) * k * stored_bytes).next_multiple_of(size_of::<f32>()),
        }
    }

    /// `groups * group_rows` rows of the source against this. With more than one bias, group g takes bias g.
    pub(crate) fn multiply<S: RowSource>(
        &self,
        source: &S,
        groups: usize,
        group_rows: usize,
        out: &Output<'_>,
        y: &mut [f32],
    ) {
        match self {
            Matrix::Packed(b) => gemm(source, b, groups, group_rows, out, y),
            Matrix::Split(kernels, b) => product(kernels, source, b, groups, group_rows, &Finish::Output(out), y),
        }
    }
}
