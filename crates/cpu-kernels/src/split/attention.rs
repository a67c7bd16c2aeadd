//! Flash attention on a matrix unit, transposed as in [`crate::attention()`]: scores are `K Q^T`, the result is `V^T P`.
use std::ops::Range;

use super::{Configured, PANEL_COLUMNS, ROW_TILE, STEP, STRIP_ROWS, TILE_BYTES, Terms, one_behind_the_other};
use crate::attention::Call;
use crate::buffer::{Scratch, Shared, scratch};
use crate::gemm::{SMALL_WORK, share_out};
use crate::simd::{Multiply, Pair, Scores, SoftmaxBlock, Split, Unit};

impl Terms {
    /// Keys whose scores are held at once: with those, their values and a panel of queries they lie in the first cache.
    fn key_block(self) -> usize {
        match self {
            Terms::One => 64,
            Terms::Three => 128,
        }
    }

    /// Panels of queries that go through a head's keys and values together, which come from the second cache. With one term
    /// panels that take turns would cost more.
    fn panels(self) -> usize {
        match self {
            Terms::One => 1,
            Terms::Three => 8,
        }
    }
}

/// `u16` elements of a tile.
const TILE: usize = TILE_BYTES / size_of::<u16>();

/// As [`crate::attention()`], which has checked every length.
pub(crate) fn attention(unit: &'static Unit, terms: Terms, call: &Call<'_>, batch: usize, out: &mut [f32]) {
    let pairs = batch * call.heads;
    let work = pairs * call.q_len * call.kv_len * call.head_dim;
    let threads = if work < SMALL_WORK { 1 } else { rayon::current_num_threads() };
    // A thread packs the keys and values of a head by itself, unless there are fewer heads than threads.
    let blocks = call.q_len.div_ceil(terms.panels() * PANEL_COLUMNS);
    let parts = threads.div_ceil(pairs).min(blocks);
    let y = Shared::new(out);
    let mut head = Head { unit, terms, call, key_places: Vec::new(), value_places: Vec::new() };
    head.key_places = one_behind_the_other(Terms::One, head.steps());
    head.value_places = one_behind_the_other(terms, terms.key_block() / STEP);
    let one = |task: usize| {
        let (pair, part) = (task / parts, task % parts);
        let blocks = part * blocks / parts..(part + 1) * blocks / parts;
        // SAFETY: each task writes the columns of its head in rows of its own, and `out` has all of them.
        unsafe { head.attend(pair / call.heads, pair % call.heads, blocks, y) };
    };
    if threads == 1 { (0..pairs * parts).for_each(one) } else { share_out(pairs * parts, one) }
}

struct Head<'a> {
    unit: &'static Unit,
    terms: Terms,
    call: &'a Call<'a>,
    /// Where the steps of a strip of keys begin, and those of a block of values.
    key_places: Vec<usize>,
    value_places: Vec<usize>,
}

/// A panel of queries and what becomes of it.
struct Panel {
    queries: Range<usize>,
    /// Those as a right matrix.
    right: Scratch,
    /// Weighted sums of the values: `out_rows` rows of a panel, of which row `head_dim` is the sum of the weights.
    out: Scratch,
    largest: [f32; PANEL_COLUMNS],
}

impl Head<'_> {
    /// Inputs of the scores' product. Heads are narrow, so that all terms lie side by side and fill the steps: keys as (low, high,
    /// high), queries as (high, high, low).
    fn inputs(&self) -> usize {
        match self.terms {
            Terms::One => self.call.head_dim,
            Terms::Three => 3 * self.call.head_dim,
        }
    }

    /// Steps of the scores' product.
    fn steps(&self) -> usize {
        self.inputs().div_ceil(STEP)
    }

    /// Rows of `V^T`, the last of them ones: their weighted sum is that of the weights.
    fn value_rows(&self) -> usize {
        self.call.head_dim + 1
    }

    /// Those rows in tiles.
    fn value_tiles(&self) -> usize {
        self.value_rows().div_ceil(ROW_TILE)
    }

    /// Steps of the product with the values.
    fn value_steps(&self) -> usize {
        self.call.kv_len.div_ceil(STEP)
    }

    fn keys_len(&self) -> usize {
        self.call.kv_len.div_ceil(STRIP_ROWS) * 2 * self.steps() * TILE / 2
    }

    fn values_len(&self) -> usize {
        self.value_tiles() * self.value_steps() * self.terms.count() * TILE / 2
    }

    fn out_rows(&self) -> usize {
        self.value_tiles() * ROW_TILE
    }

    /// # Safety
    /// Nobody else touches the columns of this head in the rows of these blocks of queries, and `y` has them.
    unsafe fn attend(&self, batch: usize, head: usize, blocks: Range<usize>, y: Shared) {
        let (call, d) = (self.call, self.call.head_dim);
        let mut keys = scratch(self.keys_len());
        let mut values = scratch(self.values_len());
        self.pack_keys(batch, head, &mut keys);
        self.pack_values(batch, head, &mut values);
        let key_block = self.terms.key_block();
        let new_panel = || Panel {
            queries: 0..0,
            right: scratch(self.steps() * TILE),
            out: scratch(self.out_rows() * PANEL_COLUMNS),
            largest: [0.0; PANEL_COLUMNS],
        };
        let mut panels: Vec<Panel> = (0..self.terms.panels()).map(|_| new_panel()).collect();
        let mut scores = scratch(key_block * PANEL_COLUMNS);
        let mut weights = scratch(key_block * PANEL_COLUMNS * self.terms.count() / 2);
        let _tiles = Configured::new(self.unit);
        for block in blocks {
            let len = panels.len() * PANEL_COLUMNS;
            let queries = block * len..call.q_len.min((block + 1) * len);
            let panels = &mut panels[..queries.len().div_ceil(PANEL_COLUMNS)];
            for (panel, first) in panels.iter_mut().zip(queries.clone().step_by(PANEL_COLUMNS)) {
                panel.queries = first..queries.end.min(first + PANEL_COLUMNS);
                self.pack_queries(batch, head, panel);
                panel.out.fill(0.0);
                panel.largest.fill(f32::NEG_INFINITY);
            }
            let seen = if call.causal { call.kv_len.min(queries.end) } else { call.kv_len };
            for first in (0..seen).step_by(key_block) {
                let keys_seen = first..seen.min(first + key_block);
                for panel in &mut *panels {
                    self.score(&keys, &keys_seen, panel, &mut scores);
                    self.weigh(keys_seen.len(), panel, &mut scores, &mut weights);
                    self.sum(&values, &keys_seen, panel, &weights);
                }
            }
            for panel in panels {
                let (rows, ld) = (panel.queries.len(), call.heads * d);
                // SAFETY: out has d rows of a panel, of which `rows` columns are taken; the caller gave room.
                unsafe {
                    let to = y.get().add((batch * call.q_len + panel.queries.start) * ld + head * d);
                    (call.kernels.transpose)(panel.out.as_ptr(), PANEL_COLUMNS, d, rows, to, ld);
                    for (r, sum) in panel.out[d * PANEL_COLUMNS..][..rows].iter().enumerate() {
                        let row = to.add(r * ld);
                        (call.kernels.scale)(row, 1.0 / sum, row, d);
                    }
                }
            }
        }
    }

    fn pack_keys(&self, batch: usize, head: usize, keys: &mut [f32]) {
        let (call, d) = (self.call, self.call.head_dim);
        let strip_len = 2 * self.steps() * TILE / 2;
        let mut side_by_side = scratch(STRIP_ROWS * self.inputs());
        for (strip, to) in keys.chunks_exact_mut(strip_len).enumerate() {
            let first = strip * STRIP_ROWS;
            let rows = STRIP_ROWS.min(call.kv_len - first);
            let (x, ldx) = match self.terms {
                Terms::One => {
                    let at = (batch * call.kv_len + first) * call.k.stride + head * d;
                    (call.k.data[at..at + (rows - 1) * call.k.stride + d].as_ptr(), call.k.stride)
                }
                Terms::Three => {
                    for (r, line) in side_by_side.chunks_exact_mut(3 * d).enumerate().take(rows) {
                        let row = call.k.row(batch * call.kv_len + first + r, head * d, d);
                        let (low, high) = line.split_at_mut(d);
                        let (high, again) = high.split_at_mut(d);
                        for i in 0..d {
                            high[i] = rounded(row[i]);
                            low[i] = row[i] - high[i];
                        }
                        again.copy_from_slice(high);
                    }
                    (side_by_side.as_ptr(), 3 * d)
                }
            };
            self.split_tiles(x, ldx, rows, self.inputs(), STRIP_ROWS, Terms::One, to);
        }
    }

    /// Step by step, so that what is transposed stays in the first cache.
    fn pack_values(&self, batch: usize, head: usize, values: &mut [f32]) {
        let (call, d) = (self.call, self.call.head_dim);
        let mut transposed = scratch(self.value_rows() * STEP);
        transposed[d * STEP..].fill(1.0);
        let tile = self.terms.count() * TILE / 2;
        for step in 0..self.value_steps() {
            let first = step * STEP;
            let keys = STEP.min(call.kv_len - first);
            let at = (batch * call.kv_len + first) * call.v.stride + head * d;
            let from = &call.v.data[at..at + (keys - 1) * call.v.stride + d];
            let to = &mut values[step * tile..];
            assert!(to.len() >= ((self.value_tiles() - 1) * self.value_steps() + 1) * tile);
            let split = Split {
                x: transposed.as_ptr(),
                ldx: STEP,
                rows: self.value_rows(),
                k: keys,
                tile_rows: self.out_rows(),
                steps: self.value_steps(),
                terms: self.terms,
                to: to.as_mut_ptr().cast(),
            };
            // SAFETY: `from` has rows of d floats for these keys, `transposed` rows of a step, and there is room for each of its
            // tiles.
            unsafe {
                (call.kernels.transpose)(from.as_ptr(), call.v.stride, keys, d, transposed.as_mut_ptr(), STEP);
                (self.unit.split)(&split);
            }
        }
    }

    /// The queries of a panel, scaled, as a right matrix.
    fn pack_queries(&self, batch: usize, head: usize, panel: &mut Panel) {
        let (call, d) = (self.call, self.call.head_dim);
        let queries = &panel.queries;
        let mut columns = scratch(self.inputs() * PANEL_COLUMNS);
        if queries.len() < PANEL_COLUMNS {
            columns.fill(0.0);
        }
        let at = (batch * call.q_len + queries.start) * call.q.stride + head * d;
        let from = &call.q.data[at..at + (queries.len() - 1) * call.q.stride + d];
        let high = columns.as_mut_ptr();
        // SAFETY: `from` has rows of d floats, `columns` rows of a panel for every input.
        unsafe {
            (call.kernels.transpose)(from.as_ptr(), call.q.stride, queries.len(), d, high, PANEL_COLUMNS);
            (call.kernels.scale)(high, call.scale, high, d * PANEL_COLUMNS);
        }
        if self.terms == Terms::Three {
            let (high, rest) = columns.split_at_mut(d * PANEL_COLUMNS);
            let (again, low) = rest.split_at_mut(d * PANEL_COLUMNS);
            for i in 0..high.len() {
                again[i] = rounded(high[i]);
                low[i] = high[i] - again[i];
            }
            high.copy_from_slice(again);
        }
        self.pair(&columns, self.inputs(), self.steps(), Terms::One, &mut panel.right);
    }

    /// The scores of a block of keys, in whole strips. What only fills up the last, and what must not be seen, is no score.
    fn score(&self, packed: &[f32], keys: &Range<usize>, panel: &Panel, scores: &mut [f32]) {
        let steps = self.steps();
        let strips = keys.len().div_ceil(STRIP_ROWS);
        let packed = &packed[keys.start / STRIP_ROWS * steps * TILE..][..strips * steps * TILE];
        assert!(scores.len() >= strips * STRIP_ROWS * PANEL_COLUMNS);
        match self.unit.scores {
            Some(unit) if steps == 2 => {
                let (keys, queries) = (packed.as_ptr().cast(), panel.right.as_ptr().cast());
                let scores = Scores { keys, rows: strips * STRIP_ROWS, queries, to: scores.as_mut_ptr() };
                // SAFETY: keys and queries have two steps, and the tiles are configured.
                unsafe { unit(&scores) };
            }
            _ => {
                let strips = packed.chunks_exact(steps * TILE).zip(scores.chunks_exact_mut(STRIP_ROWS * PANEL_COLUMNS));
                for (strip, (packed, scores)) in strips.enumerate() {
                    let multiply = Multiply {
                        row_tiles: 2,
                        rows: STRIP_ROWS.min(keys.len() - strip * STRIP_ROWS),
                        inputs: self.inputs(),
                        a: packed.as_ptr().cast(),
                        a_second: steps * TILE_BYTES,
                        a_low: 0,
                        a_row: TILE_BYTES / ROW_TILE,
                        a_steps: self.key_places.as_ptr(),
                        b: panel.right.as_ptr().cast(),
                        steps,
                        terms: Terms::One,
                        c: scores.as_mut_ptr(),
                        accumulate: false,
                    };
                    // SAFETY: keys and queries have these steps, and the tiles are configured.
                    unsafe { (self.unit.multiply)(&multiply) };
                }
            }
        }
        scores[keys.len() * PANEL_COLUMNS..].fill(f32::NEG_INFINITY);
        if self.call.causal {
            self.call.hide(keys.start, panel.queries.start, scores);
        }
    }

    /// Softmax of so many scores, as a right matrix.
    fn weigh(&self, count: usize, panel: &mut Panel, scores: &mut [f32], weights: &mut [f32]) {
        let rows = count.next_multiple_of(STEP);
        assert!(scores.len() >= rows * PANEL_COLUMNS && weights.len() >= rows / STEP * self.terms.count() * TILE);
        let softmax = SoftmaxBlock {
            scores: scores.as_mut_ptr(),
            rows,
            largest: panel.largest.as_mut_ptr(),
            out: panel.out.as_mut_ptr(),
            out_rows: self.value_rows(),
        };
        // SAFETY: all have rows of a panel, and there is room for the weights.
        unsafe { (self.unit.softmax)(&softmax, self.terms, weights.as_mut_ptr().cast()) };
    }

    /// Adds the values of a block of keys with these weights.
    fn sum(&self, packed: &[f32], keys: &Range<usize>, panel: &mut Panel, weights: &[f32]) {
        let (steps, terms) = (keys.len().div_ceil(STEP), self.terms.count());
        assert!(weights.len() >= steps * terms * TILE);
        let row = self.value_steps() * terms * TILE;
        for tile in (0..self.value_tiles()).step_by(2) {
            let row_tiles = 2.min(self.value_tiles() - tile);
            let packed = &packed[(tile * row + keys.start / STEP * terms * TILE) / 2..];
            let multiply = Multiply {
                row_tiles,
                rows: (self.value_rows() - tile * ROW_TILE).min(row_tiles * ROW_TILE),
                inputs: keys.len(),
                a: packed.as_ptr().cast(),
                a_second: row * size_of::<u16>(),
                a_low: TILE_BYTES,
                a_row: TILE_BYTES / ROW_TILE,
                a_steps: self.value_places.as_ptr(),
                b: weights.as_ptr().cast(),
                steps,
                terms: self.terms,
                c: panel.out[tile * ROW_TILE * PANEL_COLUMNS..][..row_tiles * ROW_TILE * PANEL_COLUMNS].as_mut_ptr(),
                accumulate: true,
            };
            // SAFETY: values and weights have these steps, and the tiles are configured.
            unsafe { (self.unit.multiply)(&multiply) };
        }
    }

    fn split_tiles(
        &self,
        x: *const f32,
        ldx: usize,
        rows: usize,
        k: usize,
        tile_rows: usize,
        terms: Terms,
        to: &mut [f32],
    ) {
        let steps = k.div_ceil(STEP);
        assert!(to.len() >= tile_rows / ROW_TILE * steps * terms.count() * TILE / 2, "room for {tile_rows} rows");
        let split = Split { x, ldx, rows, k, tile_rows, steps, terms, to: to.as_mut_ptr().cast() };
        // SAFETY: x has `rows` rows of k floats, and there is room for the tiles.
        unsafe { (self.unit.split)(&split) };
    }

    fn pair(&self, x: &[f32], rows: usize, steps: usize, terms: Terms, to: &mut [f32]) {
        assert!(x.len() >= rows * PANEL_COLUMNS && to.len() >= steps * terms.count() * TILE);
        let pair = Pair { x: x.as_ptr(), rows, steps, terms, to: to.as_mut_ptr().cast() };
        // SAFETY: the lengths were just checked.
        unsafe { (self.unit.pair)(&pair) };
    }
}

/// The nearest number of `bf16`, ties to even. Written so that the compiler vectorises it.
fn rounded(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}
