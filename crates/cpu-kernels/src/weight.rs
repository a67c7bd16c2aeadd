use half::{bf16, f16};

use crate::isa;

/// Weights as they stand in a checkpoint, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// The upper half of a 32-bit float.
    Bf16(&'a [bf16]),
}

impl Weight<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Weight::F32(w) => w.len(),
            Weight::F16(w) => w.len(),
            Weight::Bf16(w) => w.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element, widened.
    pub(crate) fn at(&self, index: usize) -> f32 {
        match self {
            Weight::F32(w) => w[index],
            Weight::F16(w) => w[index].to_f32(),
            Weight::Bf16(w) => w[index].to_f32(),
        }
    }
}

/// What is applied to each element of a result before a residual is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// The element itself.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
    /// `x * Phi(x)` with the exact normal distribution function, as torch's `gelu` without approximation.
    Gelu,
    /// `x * sigmoid(1.702 x)`, the form that the first CLIP models use.
    QuickGelu,
}

/// How exact products are. Sums, norms and softmax are in `f32` with either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// To 2^-16 or better.
    #[default]
    F32,
    /// Factors are rounded to `bf16`, to 2^-8.
    Bf16,
}

impl Precision {
    /// Whether the instruction set in use has it.
    pub fn is_available(self) -> bool {
        match self {
            Precision::F32 => true,
            Precision::Bf16 => isa::kernels().unit(self).is_some(),
        }
    }

    /// The precision to compute in where this one is exact enough: single, where the processor has this one but multiplies in it
    /// more slowly.
    pub fn fastest(self) -> Precision {
        let slower = isa::kernels().unit(self).is_some_and(|unit| !(unit.pays)());
        if slower { Precision::F32 } else { self }
    }
}
