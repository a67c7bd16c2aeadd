//! Products on a matrix unit that multiplies `bf16` and sums in `f32`.
//!
//! A float is the sum of terms of `bf16`: the number rounded to eight bits, and the rest rounded to eight bits. With both terms
//! of both factors, three products out of four (low by low is left out) give a product that is right to 2^-16, which is what
//! [`Precision::F32`](crate::Precision::F32) means here; with the high terms alone it is right to 2^-8, which is
//! [`Precision::Bf16`](crate::Precision::Bf16). Sums are always of `f32`. (Henry, Tang and Heinecke, "Leveraging the bfloat16
//! artificial intelligence datatype for higher-precision computations", arXiv:1904.06376.)
//!
//! A tile is 16 rows of 32 elements. The left matrix comes in strips of two rows of tiles, each `(row of tiles, step, term, row,
//! element)`; the right one in panels of 32 columns, `(panel, step, term, pair of inputs, column, input of the pair)`.
mod attention;
mod conv;
mod product;
mod weights;

pub(crate) use attention::attention;
pub(crate) use conv::{Grid, convolve};
pub(crate) use product::{Finish, product};
pub(crate) use weights::SplitWeights;

use crate::Precision;
use crate::simd::Unit;

/// Rows of a tile.
pub(crate) const ROW_TILE: usize = 16;
/// Rows of a strip: what one call of the unit multiplies.
pub(crate) const STRIP_ROWS: usize = 2 * ROW_TILE;
/// Columns of a panel.
pub(crate) const PANEL_COLUMNS: usize = 32;
/// Floats of one strip's sums.
const SUMS: usize = STRIP_ROWS * PANEL_COLUMNS;
/// Inputs that one product of tiles takes.
pub(crate) const STEP: usize = 32;
/// Bytes of a tile.
pub(crate) const TILE_BYTES: usize = 1024;

/// Of how many products one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terms {
    /// High by high.
    One,
    /// High by high, and the two of high by low.
    Three,
}

impl Terms {
    pub(crate) fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Terms::Three,
            Precision::Bf16 => Terms::One,
        }
    }

    /// Terms that are kept of each number.
    pub(crate) fn count(self) -> usize {
        match self {
            Terms::One => 1,
            Terms::Three => 2,
        }
    }
}

/// Where the tiles of each step begin, in bytes, for tiles that lie one behind the other.
fn one_behind_the_other(terms: Terms, steps: usize) -> Vec<usize> {
    (0..steps).map(|step| step * terms.count() * TILE_BYTES).collect()
}

/// How many parts to make of the panels where there are so many blocks of rows. Several tasks for each thread: where another
/// program computes on the same core, its unit is a quarter as fast for seconds, and whoever is done takes over what is left.
fn panel_parts(blocks: usize, panels: usize, threads: usize) -> usize {
    if threads == 1 { 1 } else { (4 * threads).div_ceil(blocks).min(panels) }
}

/// A thread's tiles, given back when dropped.
pub(crate) struct Configured(&'static Unit);

impl Configured {
    pub(crate) fn new(unit: &'static Unit) -> Self {
        // SAFETY: only units that the machine has are handed out.
        unsafe { (unit.configure)() };
        Self(unit)
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { (self.0.release)() };
    }
}
