//! One tensor as it lies in its file.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The types of number that weights may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Dtype {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Bits of one number of each type that a safetensors file may have; a type that nobody knows is refused when its tensor is asked for.
pub(super) fn bits_of(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Numbers as they are stored: borrowed from the file where their place in it is aligned, else copied.
#[derive(Clone, Debug)]
pub enum Floats<'a> {
    /// Single precision.
    F32(Cow<'a, [f32]>),
    /// Half precision.
    F16(Cow<'a, [f16]>),
    /// The upper half of a single.
    Bf16(Cow<'a, [bf16]>),
}

/// A tensor in its file, row-major, in little-endian order.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Its sides, the outermost first, as they were asked for.
    pub shape: Vec<usize>,
    /// Its bytes: the product of `shape` times the size of `dtype`. Borrowed from the file but where it stores the tensor in another order.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> TensorView<'a> {
    pub(super) fn new(dtype: Dtype, shape: Vec<usize>, bytes: Cow<'a, [u8]>) -> Self {
        debug_assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.size());
        Self { dtype, shape, bytes }
    }

    /// The numbers as they are stored.
    pub fn floats(&self) -> Floats<'a> {
        self.part(0..self.bytes.len() / self.dtype.size())
    }

    /// Some of the numbers as they are stored.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn part(&self, numbers: Range<usize>) -> Floats<'a> {
        let range = numbers.start * self.dtype.size()..numbers.end * self.dtype.size();
        let bytes = match &self.bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
            Cow::Owned(bytes) => Cow::Owned(bytes[range].to_vec()),
        };
        match self.dtype {
            Dtype::F32 => Floats::F32(read(bytes, f32::from_le_bytes)),
            Dtype::F16 => Floats::F16(read(bytes, f16::from_le_bytes)),
            Dtype::Bf16 => Floats::Bf16(read(bytes, bf16::from_le_bytes)),
        }
    }

    /// The numbers in single precision, which holds each exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.floats() {
            Floats::F32(values) => values.into_owned(),
            Floats::F16(values) => values.to_f32_vec(),
            Floats::Bf16(values) => values.to_f32_vec(),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what is borrowed stays so")]
fn read<'a, T: bytemuck::Pod, const N: usize>(bytes: Cow<'a, [u8]>, number: impl Fn([u8; N]) -> T) -> Cow<'a, [T]> {
    if let Cow::Borrowed(bytes) = bytes
        && cfg!(target_endian = "little")
        && let Ok(values) = bytemuck::try_cast_slice(bytes)
    {
        return Cow::Borrowed(values);
    }
    let (chunks, rest) = bytes.as_chunks::<N>();
    debug_assert!(rest.is_empty(), "the header's sizes were checked");
    Cow::Owned(chunks.iter().map(|&chunk| number(chunk)).collect())
}
