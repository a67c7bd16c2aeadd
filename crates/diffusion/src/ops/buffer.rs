//! Memory of activations: blocks of one arena, so that a denoising loop asks the system for no page after its first step.

use std::sync::Arc;

use cpu_kernels::{Arena, Block};

use super::memory;
use crate::{Error, Result};

/// What the activations of a device take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Held by living tensors.
    pub in_use: u64,
    /// Kept for the next tensors.
    pub idle: u64,
    /// The most that was ever held or kept.
    pub peak: u64,
}

/// From this size on the system is asked first whether it has the memory.
const LARGE: u64 = 16 << 20;

/// `len` floats of unspecified value.
///
/// # Errors
/// [`Error::OutOfMemory`] where the system has not as much.
pub(super) fn take(arena: &Arc<Arena>, len: usize) -> Result<Block> {
    let admit = |more| if more >= LARGE && arena.has_memory() { memory::ensure(more) } else { Ok(()) };
    arena.take(len, admit)?.ok_or_else(|| Error::OutOfMemory {
        needed: (len as u64).saturating_mul(size_of::<f32>() as u64),
        available: memory::available().unwrap_or(0),
    })
}

/// What is taken of `arena`.
pub(super) fn memory(arena: &Arena) -> Memory {
    let usage = arena.usage();
    Memory { in_use: usage.in_use, idle: usage.extent - usage.in_use, peak: usage.peak }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_an_error_and_leaves_the_books_in_order() {
        let arena = Arc::new(Arena::reserve(1 << 30).expect("addresses"));
        for len in [1 << 29, usize::MAX / 8, usize::MAX] {
            let error = take(&arena, len).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory { needed, .. } if needed >= 1 << 31), "{error}");
        }
        assert_eq!(memory(&arena), Memory::default());
    }
}
