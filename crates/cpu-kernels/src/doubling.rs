//! A 3 x 3 convolution of a map that nearest neighbours have doubled in height and width, without the doubled map.
//!
//! Each pixel stands there twice along an axis, so that the three taps under an output fall on two pixels of the map as it was:
//! on an even row the first is alone and the other two add up, on an odd row the first two do. So each of four neighbouring
//! outputs is a 2 x 2 convolution with weights that are sums, four products instead of nine. In `bf16` alone: in `f32` a unit keeps
//! the sums in four bytes instead of the two in which they are stored, and there are transforms that save more. (The other way
//! round it is known as sub-pixel convolution: Shi et al., "Is the deconvolution layer the same as a convolutional layer?",
//! arXiv:1609.07009.)
use rayon::prelude::*;

use crate::conv::Maps;
use crate::gemm::Output;
use crate::simd::{Kernels, Unit};
use crate::split::{Grid, STEP, SplitWeights, Terms, convolve};
use crate::{Precision, Weight};

/// Row and column of an output among its neighbours, in the order of the kernels.
const PHASES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// The weights of four 2 x 2 convolutions.
pub(crate) struct Doubling {
    kernels: &'static Kernels,
    phases: [SplitWeights; 4],
}

impl Doubling {
    /// The unit for it, where there is one and the channels are such as its convolutions read.
    pub(crate) fn unit(kernels: &Kernels, inner: usize) -> Option<&'static Unit> {
        kernels.unit(Precision::Bf16).filter(|_| inner > 0 && inner.is_multiple_of(STEP))
    }

    /// Sums up and packs a weight of shape `(n, inner, 3, 3)`.
    pub(crate) fn new(kernels: &'static Kernels, weight: Weight<'_>, n: usize, inner: usize) -> Self {
        assert_eq!(weight.len(), n * inner * 9, "a weight of {n} x {inner} x 3 x 3");
        let Some(unit) = Self::unit(kernels, inner) else { panic!("no unit doubles maps of {inner} channels") };
        let phases = PHASES.map(|phase| {
            let summed = summed(&weight, phase);
            SplitWeights::new(kernels, unit, Terms::One, Weight::F32(&summed), n, inner, 4)
        });
        Self { kernels, phases }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.phases.iter().map(SplitWeights::bytes).sum()
    }

    /// What [`Doubling::bytes`] will be.
    pub(crate) fn packed_bytes(n: usize, inner: usize) -> usize {
        4 * SplitWeights::packed_bytes(Terms::One, size_of::<f32>(), n, 4 * inner)
    }

    /// `n` maps of `h x w x c` to `2 h x 2 w`.
    pub(crate) fn forward(&self, x: &[f32], [n, h, w, c]: [usize; 4], out: &Output<'_>, y: &mut [f32]) {
        for (first, weights) in PHASES.into_iter().zip(&self.phases) {
            // An even output begins a pixel before the one it stands on.
            let (top, left) = (1 - first.0, 1 - first.1);
            let maps = Maps { n, h, w, c, kernel: (2, 2), stride: 1, top, left, out_h: h, out_w: w };
            convolve(self.kernels, x, maps, weights, out, Grid { step: 2, first }, y);
        }
    }
}

/// The 2 x 2 kernels of one phase, of 3 x 3 ones.
fn summed(weight: &Weight<'_>, phase: (usize, usize)) -> Vec<f32> {
    /// Which of three taps fall on each of two pixels.
    const TAPS: [[std::ops::Range<usize>; 2]; 2] = [[0..1, 1..3], [0..2, 2..3]];
    let mut summed = vec![0.0; weight.len() / 9 * 4];
    summed.par_chunks_mut(4).enumerate().for_each(|(i, to)| {
        for (at, to) in to.iter_mut().enumerate() {
            let (rows, cols) = (TAPS[phase.0][at / 2].clone(), TAPS[phase.1][at % 2].clone());
            let taps = rows.flat_map(|row| cols.clone().map(move |col| 3 * row + col));
            *to = taps.map(|tap| weight.at(9 * i + tap)).sum();
        }
    });
    summed
}
