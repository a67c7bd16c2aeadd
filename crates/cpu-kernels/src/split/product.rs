use std::ops::Range;

use super::{
    Configured, PANEL_COLUMNS, ROW_TILE, STEP, STRIP_ROWS, SUMS, SplitWeights, TILE_BYTES, one_behind_the_other,
    panel_parts,
};
use crate::buffer::{Scratch, Shared, scratch};
use crate::gemm::{Blocks, Output, RowSource, SMALL_WORK, share, share_out};
use crate::simd::{Emit, Geglu, Kernels, Multiply, Split, claim};

/// Bytes of the left matrix that are multiplied by all panels while they are in the second cache.
const BLOCK_BYTES: usize = 640 << 10;
/// Rows of a block: the more, the more often a panel is used once it has come.
const BLOCK_ROWS: usize = 256;

/// What becomes of the sums.
pub(crate) enum Finish<'a> {
    /// `act(sums + bias) + residual`.
    Output(&'a Output<'a>),
    /// `a * gelu(gate)` of the two halves of the outputs, with one bias for all rows.
    Geglu(&'a [f32]),
}

/// `groups * group_rows` rows against `b`; with more than one bias, group g takes bias g.
pub(crate) fn product<S: RowSource>(
    kernels: &'static Kernels,
    source: &S,
    b: &SplitWeights,
    groups: usize,
    group_rows: usize,
    finish: &Finish<'_>,
    y: &mut [f32],
) {
    let rows = groups * group_rows;
    let parts = finish.parts();
    let columns = b.n / parts;
    assert_eq!(y.len(), rows * columns, "an output of {rows} x {columns}");
    if y.is_empty() {
        return;
    }
    let units = columns.div_ceil(PANEL_COLUMNS);
    // Narrow terms leave room for more inputs.
    let k_most = BLOCK_BYTES / (BLOCK_ROWS * 2 * b.terms.count());
    let threads = if rows * b.n * b.k < SMALL_WORK { 1 } else { rayon::current_num_threads() };
    let strips = rows.div_ceil(STRIP_ROWS);
    let blocks = Blocks::new(strips, BLOCK_ROWS / STRIP_ROWS);
    let unit_tasks = panel_parts(blocks.count, units, threads);
    let steps = b.k.div_ceil(STEP);
    let steps = Blocks::new(steps.max(1), (k_most / STEP).max(1));
    let call = Call { kernels, source, b, group_rows, steps, rows, columns, finish, y: Shared::new(y) };
    // What several tasks multiply is split once, by all threads, before.
    let whole = 0..if b.k == 0 { 0 } else { b.k.div_ceil(STEP) };
    let strip_len = call.strip_len(whole.len());
    let mut shared = scratch(if unit_tasks > 1 { strips * strip_len } else { 0 });
    if unit_tasks > 1 {
        let to = Shared::new(&mut shared);
        share_out(strips, |strip| {
            let mut gathered = scratch(source.scratch_len(STRIP_ROWS, b.k));
            // SAFETY: each strip has a place of its own.
            unsafe { call.split(strip, &whole, &mut gathered, to.get().add(strip * strip_len).cast()) };
        });
    }
    let shared = &*shared;
    share_out(blocks.count * unit_tasks, |task| {
        let strips = blocks.range(task / unit_tasks);
        let split = (unit_tasks > 1).then(|| &shared[strips.start * strip_len..strips.end * strip_len]);
        // SAFETY: the ranges of different tasks are different parts of y, whose size is checked above.
        unsafe { call.block(strips, share(units, unit_tasks, task % unit_tasks), split) };
    });
}

impl Finish<'_> {
    /// Panels that make one panel of results.
    fn parts(&self) -> usize {
        match self {
            Finish::Output(_) => 1,
            Finish::Geglu(_) => 2,
        }
    }
}

struct Call<'a, S> {
    kernels: &'static Kernels,
    source: &'a S,
    b: &'a SplitWeights,
    group_rows: usize,
    steps: Blocks,
    rows: usize,
    columns: usize,
    finish: &'a Finish<'a>,
    y: Shared,
}

impl<S: RowSource> Call<'_, S> {
    /// Floats that so many steps of a strip take.
    fn strip_len(&self, steps: usize) -> usize {
        2 * steps * self.b.terms.count() * TILE_BYTES / size_of::<f32>()
    }

    /// The strips' rows against the panels of these units; `whole` has all steps of those rows, where they are split already.
    ///
    /// # Safety
    /// Nobody else touches these rows and columns of `y`.
    unsafe fn block(&self, strips: Range<usize>, units: Range<usize>, whole: Option<&[f32]>) {
        let (b, parts) = (self.b, self.finish.parts());
        let terms = b.terms.count();
        let steps_most = self.steps.largest();
        let own = if whole.is_some() { 0 } else { 1 };
        let mut left = scratch(own * strips.len() * self.strip_len(steps_most));
        let mut gathered = scratch(own * self.source.scratch_len(STRIP_ROWS, steps_most * STEP));
        let panel_len = b.scratch_len(steps_most);
        let mut panels = scratch(parts * panel_len);
        let held = if self.steps.count > 1 { units.len() * strips.len() } else { 1 };
        let mut sums = scratch(held * parts * SUMS);
        let a_steps = one_behind_the_other(b.terms, b.k.div_ceil(STEP));
        let _tiles = Configured::new(b.unit);
        for block in 0..self.steps.count {
            let steps = if b.k == 0 { 0..0 } else { self.steps.range(block) };
            let (first, last) = (block == 0, block + 1 == self.steps.count);
            // The strips' tiles, the steps of each of its halves, and the first of ours among those.
            let (left, steps_there, from) = match whole {
                Some(whole) => (whole, b.k.div_ceil(STEP), steps.start),
                None => {
                    for (i, strip) in strips.clone().enumerate() {
                        let to = left[i * self.strip_len(steps.len())..].as_mut_ptr().cast();
                        // SAFETY: there is room for the strip.
                        unsafe { self.split(strip, &steps, &mut gathered, to) };
                    }
                    (&*left, steps.len(), 0)
                }
            };
            for (u, unit) in units.clone().enumerate() {
                let mut right = [std::ptr::null(); 2];
                for part in 0..parts {
                    let p = unit + part * (b.panels() / 2);
                    let room = panels[part * panel_len..].as_mut_ptr();
                    // SAFETY: there is room for a panel of each part.
                    right[part] = unsafe { b.panel(p, steps.start, steps.len(), room) };
                }
                for (i, strip) in strips.clone().enumerate() {
                    let at = if held == 1 { 0 } else { u * strips.len() + i };
                    let sums = &mut sums[at * parts * SUMS..][..parts * SUMS];
                    if last {
                        let rows = strip * STRIP_ROWS..self.rows.min((strip + 1) * STRIP_ROWS);
                        let at = rows.start * self.columns + unit * PANEL_COLUMNS;
                        claim(self.y.get().wrapping_add(at), self.columns, rows.len());
                    }
                    for part in 0..parts {
                        let multiply = Multiply {
                            row_tiles: 2,
                            rows: STRIP_ROWS.min(self.rows - strip * STRIP_ROWS),
                            inputs: ((steps.end * STEP).min(b.k)).saturating_sub(steps.start * STEP),
                            a: left[i * self.strip_len(steps_there)..].as_ptr().cast(),
                            a_second: steps_there * terms * TILE_BYTES,
                            a_low: TILE_BYTES,
                            a_row: TILE_BYTES / ROW_TILE,
                            a_steps: a_steps[from..].as_ptr(),
                            b: right[part],
                            steps: steps.len(),
                            terms: b.terms,
                            c: sums[part * SUMS..].as_mut_ptr(),
                            accumulate: !first,
                        };
                        // SAFETY: the strip and the panel have these steps, and the tiles are configured.
                        unsafe { (b.unit.multiply)(&multiply) };
                    }
                    if last {
                        // SAFETY: the strip's rows and the unit's columns of y are ours.
                        unsafe { self.finish(strip, unit, sums) };
                    }
                }
            }
        }
    }

    /// # Safety
    /// There is room for the strip's tiles at `to`.
    unsafe fn split(&self, strip: usize, steps: &Range<usize>, gathered: &mut Scratch, to: *mut u16) {
        let row = strip * STRIP_ROWS;
        let rows = STRIP_ROWS.min(self.rows - row);
        let k0 = steps.start * STEP;
        let kc = (steps.end * STEP).min(self.b.k) - k0;
        // SAFETY: the block lies within the source, whose size the caller of `product` made sure of.
        unsafe {
            let (x, ldx) = if kc == 0 {
                (std::ptr::null(), 0)
            } else {
                self.source.block(row, rows, k0, kc, gathered.as_mut_ptr())
            };
            let split =
                Split { x, ldx, rows, k: kc, tile_rows: STRIP_ROWS, steps: steps.len(), terms: self.b.terms, to };
            (self.b.unit.split)(&split);
        }
    }

    /// # Safety
    /// Nobody else touches these rows and columns of `y`.
    unsafe fn finish(&self, strip: usize, unit: usize, sums: &[f32]) {
        let column = unit * PANEL_COLUMNS;
        let columns = PANEL_COLUMNS.min(self.columns - column);
        let end = self.rows.min((strip + 1) * STRIP_ROWS);
        let mut row = strip * STRIP_ROWS;
        while row < end {
            // Rows of one group share a bias.
            let group = row / self.group_rows;
            let rows = end.min((group + 1) * self.group_rows) - row;
            let from = (row - strip * STRIP_ROWS) * PANEL_COLUMNS;
            let at = row * self.columns + column;
            // SAFETY: rows and columns lie within y.
            unsafe {
                let y = self.y.get().add(at);
                match self.finish {
                    Finish::Output(out) => {
                        let padded = self.b.panels() * PANEL_COLUMNS;
                        let bias = if out.bias.len() == padded { 0 } else { group * padded };
                        (self.kernels.emit)(&Emit {
                            sums: sums[from..].as_ptr(),
                            ld_sums: PANEL_COLUMNS,
                            rows,
                            columns,
                            bias: out.bias[bias + column..].as_ptr(),
                            act: out.act,
                            residual: out.residual.map_or(std::ptr::null(), |r| r[at..].as_ptr()),
                            y,
                            ldy: self.columns,
                        });
                    }
                    Finish::Geglu(bias) => {
                        let (a, gate) = sums.split_at(SUMS);
                        (self.kernels.geglu)(&Geglu {
                            a: a[from..].as_ptr(),
                            gate: gate[from..].as_ptr(),
                            ld: PANEL_COLUMNS,
                            bias: Some([bias[column..].as_ptr(), bias[self.columns + column..].as_ptr()]),
                            rows,
                            columns,
                            y,
                            ldy: self.columns,
                        });
                    }
                }
            }
            row += rows;
        }
    }
}
