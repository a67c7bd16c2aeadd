//! What a unit that multiplies `bf16` has to offer: products of small tiles of `bf16`, summed in `f32`.
use super::SoftmaxBlock;
use crate::split::Terms;

/// The functions of one unit. `# Safety` of each: the machine has it, and pointers are good for what is said below.
pub(crate) struct Unit {
    /// Whether three of its products, which make one of `f32`, are faster than a product of `f32` on registers.
    pub(crate) multiplies_f32: bool,
    /// Whether a product of `bf16` is faster on this unit than one of `f32` on registers.
    pub(crate) pays: fn() -> bool,
    /// Called on a thread before its first product.
    pub(crate) configure: unsafe fn(),
    /// Called on it after its last.
    pub(crate) release: unsafe fn(),
    pub(crate) split: unsafe fn(&Split),
    pub(crate) narrow: unsafe fn(&Narrow),
    pub(crate) pair: unsafe fn(&Pair),
    /// The softmax of a block as [`Kernels::softmax_block`](super::Kernels) makes it, but for the powers: they go to the terms of a
    /// panel, as by `pair`, and are as exact as those terms. The block's rows are whole steps. What is held as the largest score may
    /// be larger by a few.
    pub(crate) softmax: unsafe fn(&SoftmaxBlock, Terms, *mut u16),
    /// Where there is something faster than [`Unit::multiply`] for it.
    pub(crate) scores: Option<unsafe fn(&Scores)>,
    /// Steps of one panel, stored in half precision, to its terms.
    pub(crate) widen_f16: unsafe fn(*const u16, usize, Terms, *mut u16),
    pub(crate) multiply: unsafe fn(&Multiply),
}

/// Rows of `f32` to tiles of terms.
pub(crate) struct Split {
    pub(crate) x: *const f32,
    pub(crate) ldx: usize,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    /// How many rows of tiles to write; zeros behind the last row.
    pub(crate) tile_rows: usize,
    /// From one row of tiles to the next, in tiles; those behind `k` are not written.
    pub(crate) steps: usize,
    pub(crate) terms: Terms,
    pub(crate) to: *mut u16,
}

/// Floats to terms, in the order in which they stand.
pub(crate) struct Narrow {
    pub(crate) x: *const f32,
    /// A multiple of 32.
    pub(crate) len: usize,
    pub(crate) terms: Terms,
    pub(crate) high: *mut u16,
    /// Written where there is more than one term.
    pub(crate) low: *mut u16,
}

/// Rows of 32 floats to a panel: what a right matrix that was computed is multiplied from.
pub(crate) struct Pair {
    /// One behind the other.
    pub(crate) x: *const f32,
    pub(crate) rows: usize,
    /// Steps to write; zeros behind the last row.
    pub(crate) steps: usize,
    pub(crate) terms: Terms,
    pub(crate) to: *mut u16,
}

/// Scores of keys by a panel of queries, of two steps and high terms alone.
pub(crate) struct Scores {
    /// Rows of tiles, each of two.
    pub(crate) keys: *const u16,
    /// How many keys, a multiple of 16.
    pub(crate) rows: usize,
    /// A panel.
    pub(crate) queries: *const u16,
    /// Rows of 32.
    pub(crate) to: *mut f32,
}

/// `c += a b` for 16 or 32 rows and 32 columns.
pub(crate) struct Multiply {
    /// Rows of tiles, 1 or 2.
    pub(crate) row_tiles: usize,
    /// Rows of those that are wanted, and inputs of the steps that are no padding. A unit whose products are smaller than tiles
    /// leaves the others out.
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    /// The tiles of the first 16 rows, high terms.
    pub(crate) a: *const u16,
    /// In bytes: from there to the tiles of the second 16 rows, to the low terms, and to the next row.
    pub(crate) a_second: usize,
    pub(crate) a_low: usize,
    pub(crate) a_row: usize,
    /// In bytes, for each step: from there to its tile.
    pub(crate) a_steps: *const usize,
    /// A panel's steps, each 2 KiB a term: 16 pairs of inputs, of each 32 columns.
    pub(crate) b: *const u16,
    pub(crate) steps: usize,
    pub(crate) terms: Terms,
    /// Rows of 32.
    pub(crate) c: *mut f32,
    /// Whether to add to what c holds.
    pub(crate) accumulate: bool,
}
