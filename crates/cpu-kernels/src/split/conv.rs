//! Convolutions on a matrix unit. A tile of the left matrix is sixteen pixels' channels, which are read where they stand in a
//! map of terms, so that no patch is ever gathered: the nine tiles of a 3 x 3 kernel are mostly the same lines of the first
//! cache.
use std::ops::Range;

use super::{Configured, PANEL_COLUMNS, ROW_TILE, STEP, SUMS, SplitWeights, panel_parts};
use crate::buffer::{Scratch, Shared, scratch};
use crate::conv::Maps;
use crate::gemm::{Blocks, Output, SMALL_WORK, share, share_out};
use crate::simd::{Emit, Kernels, Multiply, Narrow, claim};

/// Bytes of the map that a block of pixels is computed from: it stays in the second cache while the panels go by.
const MAP_BYTES: usize = 896 << 10;
/// Bytes of a panel that are multiplied by all tiles of a block before the next come.
const PANEL_BYTES: usize = 256 << 10;

/// Where the pixels of an output stand in y.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    /// From one pixel to the next, along both axes.
    pub(crate) step: usize,
    /// Row and column of the first.
    pub(crate) first: (usize, usize),
}

impl Grid {
    /// All of y.
    pub(crate) const WHOLE: Self = Self { step: 1, first: (0, 0) };
}

/// As [`Conv2d::forward`](crate::Conv2d::forward), which has checked every length, for weights that
/// [read maps](SplitWeights::reads_maps), to the pixels of y that `grid` names.
pub(crate) fn convolve(
    kernels: &'static Kernels,
    x: &[f32],
    maps: Maps,
    b: &SplitWeights,
    out: &Output<'_>,
    grid: Grid,
    y: &mut [f32],
) {
    assert_eq!(y.len(), maps.n * maps.out_h * maps.out_w * grid.step.pow(2) * b.n, "an output with room for the grid");
    if y.is_empty() {
        return;
    }
    let threads = if y.len() * b.k < SMALL_WORK { 1 } else { rayon::current_num_threads() };
    let pixel = ((maps.c / STEP) | 1) * STEP;
    let pixels = MAP_BYTES / (pixel * b.terms.count() * size_of::<u16>());
    let (images, rows, cols) = block_shape(&maps, pixels);
    let pitch = (cols.largest() - 1) * maps.stride + maps.kernel.1;
    let blocks = images.count * rows.count * cols.count;
    let parts = panel_parts(blocks, b.panels(), threads);
    let steps = Blocks::new(b.k / STEP, (PANEL_BYTES / (b.terms.count() * STEP * PANEL_COLUMNS * 2)).max(1));
    // A tile at the end of a row reads on behind it.
    let map_len = ((rows.largest() - 1) * maps.stride + maps.kernel.0) * pitch * pixel;
    let plane = images.largest() * map_len + ROW_TILE * maps.stride * pixel;
    let call = Call {
        kernels,
        x,
        maps,
        b,
        out,
        grid,
        y: Shared::new(y),
        pitch,
        pixel,
        map_len,
        plane,
        steps,
        offsets: Vec::new(),
    };
    let call = Call { offsets: call.offsets(), ..call };
    share_out(blocks * parts, |task| {
        let (block, part) = (task / parts, task % parts);
        let (band, col) = (block / cols.count, block % cols.count);
        let block = Block {
            images: images.range(band / rows.count),
            rows: rows.range(band % rows.count),
            cols: cols.range(col),
        };
        // SAFETY: tasks have different pixels or different panels, so different parts of y.
        unsafe { call.block(&block, share(b.panels(), parts, part)) };
    });
}

/// How the output is cut: whole images where a map of so many pixels holds them, else the shape that reads the fewest pixels twice.
fn block_shape(maps: &Maps, pixels: usize) -> (Blocks, Blocks, Blocks) {
    let along = |len: usize, kernel: usize| (len - 1) * maps.stride + kernel;
    let whole = along(maps.out_h, maps.kernel.0) * along(maps.out_w, maps.kernel.1);
    if whole <= pixels {
        let images = (pixels / whole).min(maps.n);
        return (Blocks::new(maps.n, images), Blocks::new(maps.out_h, maps.out_h), Blocks::new(maps.out_w, maps.out_w));
    }
    // As many parts of a row as make no more tiles than the whole row.
    let tiles = |cols: usize| cols.div_ceil(ROW_TILE);
    let cuts = (1..=8).filter(|parts| parts * tiles(maps.out_w.div_ceil(*parts)) <= tiles(maps.out_w));
    let widths = cuts.map(|parts| maps.out_w.div_ceil(parts));
    let shape = |cols: usize| {
        let rows_in = pixels / along(cols, maps.kernel.1);
        let rows = (rows_in.saturating_sub(maps.kernel.0) / maps.stride + 1).min(maps.out_h);
        (rows, cols)
    };
    let cost = |&(rows, cols): &(usize, usize)| {
        let read = along(rows, maps.kernel.0) * along(cols, maps.kernel.1);
        (read * 1000 / (rows * cols), usize::MAX - cols)
    };
    let (rows, cols) = widths.map(shape).min_by_key(cost).unwrap_or((1, maps.out_w));
    (Blocks::new(maps.n, 1), Blocks::new(maps.out_h, rows), Blocks::new(maps.out_w, cols))
}

/// What one map is written for.
struct Block {
    images: Range<usize>,
    rows: Range<usize>,
    cols: Range<usize>,
}

struct Call<'a> {
    kernels: &'static Kernels,
    x: &'a [f32],
    maps: Maps,
    b: &'a SplitWeights,
    out: &'a Output<'a>,
    grid: Grid,
    y: Shared,
    /// Pixels from one row of a block's map to the next; what surrounds the block is written out.
    pitch: usize,
    /// Elements from one pixel to the next: an odd number of cache lines, so that neighbours do not fall into the same few lines of
    /// the first cache.
    pixel: usize,
    /// Elements of one image's map, and of one term of all images' maps.
    map_len: usize,
    plane: usize,
    steps: Blocks,
    /// In bytes: from the first pixel under a kernel to what each step multiplies.
    offsets: Vec<usize>,
}

/// Sixteen pixels of the output.
struct PixelTile {
    image: usize,
    /// Of the first of them, in the block. Those behind a row's end are dropped.
    row: usize,
    col: usize,
}

impl Call<'_> {
    /// The steps' order is the one in which [`SplitWeights`] are packed.
    fn offsets(&self) -> Vec<usize> {
        let Maps { c, kernel, .. } = self.maps;
        let mut offsets = Vec::with_capacity(self.b.k / STEP);
        for channel in (0..c).step_by(STEP) {
            for (row, col) in (0..kernel.0).flat_map(|row| (0..kernel.1).map(move |col| (row, col))) {
                offsets.push(((row * self.pitch + col) * self.pixel + channel) * size_of::<u16>());
            }
        }
        offsets
    }

    /// # Safety
    /// Nobody else touches the channels of these panels in the block's pixels of y.
    unsafe fn block(&self, block: &Block, panels: Range<usize>) {
        let (maps, b) = (self.maps, self.b);
        let terms = b.terms.count();
        let mut map = scratch(self.plane * terms / 2);
        self.write_map(block, &mut map);
        let (tiles, linear) = self.tiles(block);
        let place = |tile: &PixelTile| {
            let pixel = tile.row * maps.stride * self.pitch + tile.col * maps.stride;
            (tile.image * self.map_len + pixel * self.pixel) * size_of::<u16>()
        };
        let mut panel = scratch(b.scratch_len(self.steps.largest()));
        let strips = tiles.len().div_ceil(2);
        let held = if self.steps.count > 1 { strips } else { 1 };
        let mut sums = scratch(held * SUMS);
        let _tiles = Configured::new(b.unit);
        for p in panels {
            for part in 0..self.steps.count {
                let (steps, last) = (self.steps.range(part), part + 1 == self.steps.count);
                // SAFETY: there is room for these steps.
                let right = unsafe { b.panel(p, steps.start, steps.len(), panel.as_mut_ptr()) };
                for (i, pair) in tiles.chunks(2).enumerate() {
                    let sums = &mut sums[i % held * SUMS..][..SUMS];
                    if last {
                        for tile in pair {
                            let at = self.place_in_y(block, tile.image, tile.row, tile.col, p);
                            claim(self.y.get().wrapping_add(at), self.grid.step * b.n, ROW_TILE);
                        }
                    }
                    let first = place(&pair[0]);
                    let multiply = Multiply {
                        row_tiles: pair.len(),
                        rows: pair.len() * ROW_TILE,
                        inputs: steps.len() * STEP,
                        a: map.as_ptr().cast::<u16>().wrapping_byte_add(first),
                        a_second: pair.get(1).map_or(0, |second| place(second) - first),
                        a_low: self.plane * size_of::<u16>(),
                        a_row: maps.stride * self.pixel * size_of::<u16>(),
                        a_steps: self.offsets[steps.clone()].as_ptr(),
                        b: right,
                        steps: steps.len(),
                        terms: b.terms,
                        c: sums.as_mut_ptr(),
                        accumulate: part > 0,
                    };
                    // SAFETY: the map has every tile's pixels and sixteen more, the panel these steps, and the tiles are
                    // configured.
                    unsafe { (b.unit.multiply)(&multiply) };
                    if last {
                        for (tile, sums) in pair.iter().zip(sums.chunks_exact(SUMS / 2)) {
                            // SAFETY: these pixels and channels of y are ours.
                            unsafe { self.finish(block, tile, linear, p, sums) };
                        }
                    }
                }
            }
        }
    }

    /// The block's pixels in tiles, and whether those go on from a row to the next (over the padding between), which wastes less
    /// where rows are no multiple of sixteen.
    fn tiles(&self, block: &Block) -> (Vec<PixelTile>, bool) {
        let (images, rows, cols) = (block.images.len(), block.rows.len(), block.cols.len());
        let positions = (rows - 1) * self.pitch + cols;
        let linear = self.maps.stride == 1 && positions.div_ceil(ROW_TILE) < rows * cols.div_ceil(ROW_TILE);
        let mut tiles = Vec::new();
        for image in 0..images {
            if linear {
                let firsts = (0..positions).step_by(ROW_TILE);
                tiles.extend(firsts.map(|at| PixelTile { image, row: at / self.pitch, col: at % self.pitch }));
            } else {
                for row in 0..rows {
                    tiles.extend((0..cols).step_by(ROW_TILE).map(|col| PixelTile { image, row, col }));
                }
            }
        }
        (tiles, linear)
    }

    /// The part of the padded map that the block is computed from, as terms.
    fn write_map(&self, block: &Block, map: &mut Scratch) {
        let Maps { h, w, c, kernel, stride, top, left, .. } = self.maps;
        let plane = self.plane;
        let (high, low) = bytemuck::cast_slice_mut::<f32, u16>(map).split_at_mut(plane);
        let rows_in = (block.rows.len() - 1) * stride + kernel.0;
        // Columns of the block that lie in the picture, and not in the padding at its sides.
        let first = block.cols.start * stride;
        let inside = left.saturating_sub(first).min(self.pitch)..(left + w).saturating_sub(first).min(self.pitch);
        for (i, image) in block.images.clone().enumerate() {
            for row in 0..rows_in {
                let y = block.rows.start * stride + row;
                let inside = if y >= top && y < top + h { inside.clone() } else { 0..0 };
                for col in 0..self.pitch {
                    let at = i * self.map_len + (row * self.pitch + col) * self.pixel;
                    let (high, low) = (&mut high[at..at + c], low.get_mut(at..at + c));
                    if !inside.contains(&col) {
                        high.fill(0);
                        low.into_iter().for_each(|low| low.fill(0));
                        continue;
                    }
                    let from = ((image * h + y - top) * w + first + col - left) * c;
                    let narrow = Narrow {
                        x: self.x[from..from + c].as_ptr(),
                        len: c,
                        terms: self.b.terms,
                        high: high.as_mut_ptr(),
                        low: low.map_or(std::ptr::null_mut(), |low| low.as_mut_ptr()),
                    };
                    // SAFETY: each has c elements, a multiple of a step's.
                    unsafe { (self.b.unit.narrow)(&narrow) };
                }
            }
        }
    }

    /// Where in y a panel's channels of a pixel are.
    fn place_in_y(&self, block: &Block, image: usize, row: usize, col: usize, p: usize) -> usize {
        let Grid { step, first } = self.grid;
        let row = (block.images.start + image) * self.maps.out_h * step + (block.rows.start + row) * step + first.0;
        let col = (block.cols.start + col) * step + first.1;
        (row * self.maps.out_w * step + col) * self.b.n + p * PANEL_COLUMNS
    }

    /// Sixteen rows of sums to their pixels.
    ///
    /// # Safety
    /// Nobody else touches this panel's channels in the block's pixels of y.
    unsafe fn finish(&self, block: &Block, tile: &PixelTile, linear: bool, p: usize, sums: &[f32]) {
        let n = self.b.n;
        let channel = p * PANEL_COLUMNS;
        let image = block.images.start + tile.image;
        let padded = self.b.panels() * PANEL_COLUMNS;
        let bias = if self.out.bias.len() == padded { 0 } else { image * padded };
        let (mut row, mut col, mut done) = (tile.row, tile.col, 0);
        while done < ROW_TILE && row < block.rows.len() {
            let count = block.cols.len().saturating_sub(col).min(ROW_TILE - done);
            let at = self.place_in_y(block, tile.image, row, col, p);
            if count > 0 {
                // SAFETY: these pixels lie within y.
                unsafe {
                    (self.kernels.emit)(&Emit {
                        sums: sums[done * PANEL_COLUMNS..].as_ptr(),
                        ld_sums: PANEL_COLUMNS,
                        rows: count,
                        columns: PANEL_COLUMNS.min(n - channel),
                        bias: self.out.bias[bias + channel..].as_ptr(),
                        act: self.out.act,
                        residual: self.out.residual.map_or(std::ptr::null(), |r| r[at..].as_ptr()),
                        y: self.y.get().add(at),
                        ldy: self.grid.step * n,
                    });
                }
            }
            if !linear {
                return;
            }
            done += self.pitch - col;
            (row, col) = (row + 1, 0);
        }
    }
}
