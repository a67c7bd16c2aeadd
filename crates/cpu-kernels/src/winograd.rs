//! 3 x 3 convolutions at stride 1 with fewer multiplications: F(4 x 4) needs a quarter of them, F(2 x 2) four ninths.
//!
//! Tiles of the input are transformed into the rows of one matrix for each element of a tile; these are multiplied by the
//! transformed weights, and rows of the products are transformed back. Blocks of tiles are taken through all three steps at
//! once, so that what lies between stays in the cache.
use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::Weight;
use crate::buffer::{Buffer, Scratch, Shared, scratch};
use crate::conv::Maps;
use crate::gemm::{Blocks, Output, SMALL_WORK, Strip, padded, share, share_out};
use crate::simd::{Ahead, InputTile, Kernels, OutputTile};

/// Outputs whose products are held before they are transformed back.
const GROUP: usize = 160;
/// Tiles of a block where there are few channels: then the transformed weights nearly fit in the second cache beside it.
const SMALL_BLOCK: usize = 56;
/// Input channels up to which blocks of tiles are small.
const SMALL_CHANNELS: usize = 160;

/// Whether transformed weights are kept in half precision: where they are many, because reading them takes longer than
/// multiplying. F(2 x 2) keeps 69 dB so; F(4 x 4), whose transforms cancel more, would keep 46.
fn is_narrow(co: usize, ci: usize, tile: usize) -> bool {
    tile == 4 && co * ci > MANY_PAIRS
}

/// The largest of the weights that are finite.
fn largest(weight: Weight<'_>) -> f32 {
    let one = |i: usize| Some(weight.at(i).abs()).filter(|x| x.is_finite()).unwrap_or(0.0);
    (0..weight.len()).into_par_iter().with_min_len(1 << 16).map(one).reduce(|| 0.0, f32::max)
}

/// The least n with `x < 2^n`, for numbers that are not subnormal; 0 for those that are.
fn exponent(x: f32) -> i32 {
    if x.is_normal() { (x.to_bits() >> 23) as i32 - 126 } else { 0 }
}

/// Pairs of channels above which a layer has many weights: at 144 bytes each, those of F(4 x 4) would take more than 177 MB.
pub(crate) const MANY_PAIRS: usize = 640 * 1920;

/// A 3 x 3 kernel's transformed weights.
pub(crate) struct Winograd {
    pub(crate) kernels: &'static Kernels,
    /// Side of an input tile; two more than that of an output tile.
    tile: usize,
    ci: usize,
    co: usize,
    /// For each element of a tile, panels of `ci x width`.
    u: Stored,
    /// What pixels in the padding are read from.
    zeros: Buffer,
}

/// Transformed weights.
enum Stored {
    F32(Buffer),
    /// Two in the place of a float, times `2^exponent` so that the least of them are no subnormal numbers.
    F16(Buffer, i32),
}

impl Winograd {
    /// `weight` is `(co, ci, 3, 3)`, `tile` 4 or 6.
    pub(crate) fn new(kernels: &'static Kernels, weight: Weight<'_>, co: usize, ci: usize, tile: usize) -> Self {
        let (width, elements) = (kernels.panel(), tile * tile);
        let panels = co.div_ceil(width);
        let narrow = is_narrow(co, ci, tile);
        let len = elements * panels * ci * width;
        let mut u = Buffer::zeroed(if narrow { len / 2 } else { len });
        // No transformed weight is larger than the largest weight: both sums of G's rows are at most 1.
        let exponent = if narrow { (14 - exponent(largest(weight))).clamp(-100, 100) } else { 0 };
        let factor = 2f32.powi(exponent);
        let to = Shared::new(&mut u);
        (0..panels).into_par_iter().for_each(|p| {
            let mut side_by_side = scratch(9 * width);
            side_by_side.fill(0.0);
            let mut transformed = scratch(elements * width);
            for i in 0..ci {
                for j in 0..width.min(co - p * width) {
                    let from = ((p * width + j) * ci + i) * 9;
                    for tap in 0..9 {
                        side_by_side[tap * width + j] = weight.at(from + tap) * factor;
                    }
                }
                let (row, stride) = ((p * ci + i) * width, panels * ci * width);
                // SAFETY: row i of panel p of every element is ours alone and within u, a float for one or for two numbers.
                unsafe {
                    if narrow {
                        (kernels.winograd_weight)(tile, side_by_side.as_ptr(), width, transformed.as_mut_ptr(), width);
                        for (e, from) in transformed.chunks_exact(width).enumerate() {
                            let to = to.get().cast::<f16>().add(row + e * stride);
                            std::slice::from_raw_parts_mut(to, width).convert_from_f32_slice(from);
                        }
                    } else {
                        (kernels.winograd_weight)(tile, side_by_side.as_ptr(), width, to.get().add(row), stride);
                    }
                }
            }
        });
        let u = if narrow { Stored::F16(u, exponent) } else { Stored::F32(u) };
        Self { kernels, tile, ci, co, u, zeros: Buffer::zeroed(ci) }
    }

    pub(crate) fn bytes(&self) -> usize {
        let (Stored::F32(u) | Stored::F16(u, _)) = &self.u;
        size_of_val(&**u) + size_of_val(&*self.zeros)
    }

    /// What [`Winograd::bytes`] will be.
    pub(crate) fn packed_bytes(kernels: &Kernels, co: usize, ci: usize, tile: usize) -> usize {
        let number = if is_narrow(co, ci, tile) { size_of::<f16>() } else { size_of::<f32>() };
        tile * tile * co.next_multiple_of(kernels.panel()) * ci * number + ci * size_of::<f32>()
    }

    /// What takes the products back to their own scale.
    fn factor(&self) -> f32 {
        match &self.u {
            Stored::F32(_) => 1.0,
            Stored::F16(_, exponent) => 2f32.powi(-exponent),
        }
    }

    /// See `Conv2d::forward`; lengths of x, y and what is in `out` were checked there.
    pub(crate) fn forward(&self, x: &[f32], maps: Maps, out: &Output<'_>, y: &mut [f32]) {
        assert_eq!(x.len(), maps.n * maps.h * maps.w * self.ci);
        assert_eq!(y.len(), maps.n * maps.out_h * maps.out_w * self.co);
        if y.is_empty() {
            return;
        }
        let side = self.tile - 2;
        let grid = Grid { rows: maps.out_h.div_ceil(side), cols: maps.out_w.div_ceil(side) };
        let tiles = maps.n * grid.rows * grid.cols;
        let panels = self.co.div_ceil(self.kernels.panel());
        let small = tiles * self.tile * self.tile * self.ci * self.co < SMALL_WORK;
        let threads = if small { 1 } else { rayon::current_num_threads() };
        let (blocks, panel_tasks) = self.plan(tiles, threads);
        let tiles = Blocks::new(tiles, tiles.div_ceil(blocks));
        let row_tasks = if threads == 1 { 1 } else { tiles.count.min(4 * threads) };
        let call = Call { layer: self, x, maps, grid, out, y: Shared::new(y) };
        share_out(row_tasks * panel_tasks, |task| {
            let panels = share(panels, panel_tasks, task % panel_tasks);
            let largest = tiles.largest();
            let rows = |width: usize| self.tile * self.tile * largest * padded(width);
            let mut v = scratch(rows(self.ci));
            let mut m = scratch(rows((GROUP / self.kernels.panel()).min(panels.len()) * self.kernels.panel()));
            let mut wide = scratch(match &self.u {
                Stored::F32(_) => 0,
                Stored::F16(..) => self.inputs().largest() * self.kernels.panel(),
            });
            for block in share(tiles.count, row_tasks, task / panel_tasks) {
                // SAFETY: tasks have different tiles or different panels, so different parts of y.
                unsafe { call.block(tiles.range(block), panels.clone(), &mut v, &mut m, &mut wide) };
            }
        });
    }

    /// Inputs that are multiplied in one go.
    fn inputs(&self) -> Blocks {
        Blocks::new(self.ci, self.kernels.blocking.inputs)
    }

    /// How many blocks to make of the tiles, and how many parts of the panels. The weights are read once for each block, so
    /// blocks are large; each part of the panels transforms the input again, which costs a few hundredths.
    fn plan(&self, tiles: usize, threads: usize) -> (usize, usize) {
        let rows = self.kernels.rows[self.kernels.panel_vectors];
        let at_most = if self.ci <= SMALL_CHANNELS { SMALL_BLOCK } else { 16 * rows };
        let blocks = tiles.div_ceil(at_most);
        let wanted = if threads <= 1 { 1 } else { 4 * threads };
        if blocks >= wanted {
            return (blocks, 1);
        }
        let most = (tiles / (8 * rows)).max(1);
        let blocks = blocks.next_multiple_of(threads).min(most).max(blocks);
        (blocks, wanted.div_ceil(blocks).min(self.co.div_ceil(self.kernels.panel())))
    }
}

#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    cols: usize,
}

struct Call<'a> {
    layer: &'a Winograd,
    x: &'a [f32],
    maps: Maps,
    grid: Grid,
    out: &'a Output<'a>,
    y: Shared,
}

impl Call<'_> {
    /// # Safety
    /// Nobody else touches the channels of these panels in these tiles of y.
    unsafe fn block(
        &self,
        tiles: Range<usize>,
        panels: Range<usize>,
        v: &mut Scratch,
        m: &mut Scratch,
        wide: &mut Scratch,
    ) {
        let layer = self.layer;
        let (kernels, width, elements) = (layer.kernels, layer.kernels.panel(), layer.tile * layer.tile);
        let all_panels = layer.co.div_ceil(width);
        let ldv = padded(layer.ci);
        let v_stride = tiles.len() * ldv;
        let inputs = layer.inputs();
        for (i, tile) in tiles.clone().enumerate() {
            let input = InputTile {
                tile: layer.tile,
                pixels: self.pixels(tile),
                channels: layer.ci,
                v: v[i * ldv..].as_mut_ptr(),
                stride: v_stride,
            };
            // SAFETY: every pixel has ci floats, and v a row of ldv for each tile and element.
            unsafe { (kernels.winograd_input)(&input) };
        }
        for first in panels.clone().step_by(GROUP / width) {
            let group = first..panels.end.min(first + GROUP / width);
            let ldm = padded(group.len() * width);
            let m_stride = tiles.len() * ldm;
            let of_element = |e: usize| group.clone().map(move |p| (e, p));
            // Without inputs the products are still written, as zeros.
            let of_panel = |(e, p): (usize, usize)| (0..inputs.count.max(1)).map(move |step| (e, p, step));
            let inputs_of = |step: usize| if layer.ci == 0 { 0..0 } else { inputs.range(step) };
            let place = |&(e, p, step): &(usize, usize, usize)| {
                ((e * all_panels + p) * layer.ci + inputs_of(step).start) * width
            };
            let mut strips = (0..elements).flat_map(of_element).flat_map(of_panel).peekable();
            while let Some((e, p, step)) = strips.next() {
                let (at, part) = (place(&(e, p, step)), inputs_of(step));
                let len = part.len() * width;
                let (stored, number, b) = match &layer.u {
                    Stored::F32(u) => (u, size_of::<f32>(), u[at..at + len].as_ptr()),
                    Stored::F16(u, _) => {
                        let from = u[at / 2..(at + len) / 2].as_ptr();
                        // SAFETY: both have the part's numbers, a panel being an even number of them.
                        unsafe { (kernels.widen_f16)(from.cast(), wide.as_mut_ptr(), len) };
                        (u, size_of::<f16>(), wide.as_ptr())
                    }
                };
                let tiles_high = tiles.len().div_ceil(kernels.rows[kernels.panel_vectors]);
                let ahead = strips.peek().map(|following| {
                    let from = stored.as_ptr().cast::<u8>().wrapping_add(place(following) * number);
                    Ahead::next(from, len * number, part.len(), tiles_high)
                });
                let c = m[e * m_stride + (p - group.start) * width..].as_mut_ptr();
                let strip = Strip {
                    rows: tiles.len(),
                    cols: width,
                    k: part.len(),
                    a: v[e * v_stride + part.start..].as_ptr(),
                    lda: ldv,
                    b,
                    ldb: width,
                    bias: std::ptr::null(),
                    addend: if step == 0 { std::ptr::null() } else { c },
                    ld_addend: ldm,
                    c,
                    ldc: ldm,
                    ahead,
                };
                // SAFETY: v has a row of ci for each tile, b the panel's part, m room for a row of the group.
                unsafe { strip.multiply(kernels) };
            }
            for (i, tile) in tiles.clone().enumerate() {
                // SAFETY: the tile's part of y is ours.
                unsafe { self.write(tile, &group, m[i * ldm..].as_ptr(), m_stride) };
            }
        }
    }

    /// Image, row and column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let per_image = self.grid.rows * self.grid.cols;
        let within = tile % per_image;
        (tile / per_image, within / self.grid.cols, within % self.grid.cols)
    }

    fn pixels(&self, tile: usize) -> [[*const f32; 6]; 6] {
        let (image, ty, tx) = self.place(tile);
        let (maps, ci, side) = (self.maps, self.layer.ci, self.layer.tile - 2);
        let mut pixels = [[self.layer.zeros.as_ptr(); 6]; 6];
        for i in 0..self.layer.tile {
            // Coordinates in the padded map.
            let py = ty * side + i;
            if py < maps.top || py >= maps.top + maps.h {
                continue;
            }
            for j in 0..self.layer.tile {
                let px = tx * side + j;
                if px >= maps.left && px < maps.left + maps.w {
                    let pixel = (image * maps.h + py - maps.top) * maps.w + px - maps.left;
                    pixels[i][j] = self.x[pixel * ci..(pixel + 1) * ci].as_ptr();
                }
            }
        }
        pixels
    }

    /// # Safety
    /// `m` has a row of the group's channels for each element, and nobody else touches them in this tile of y.
    unsafe fn write(&self, tile: usize, group: &Range<usize>, m: *const f32, stride: usize) {
        let (image, ty, tx) = self.place(tile);
        let (layer, maps, side) = (self.layer, self.maps, self.layer.tile - 2);
        let width = layer.kernels.panel();
        let channel = group.start * width;
        let (row, col) = (ty * side, tx * side);
        let at = ((image * maps.out_h + row) * maps.out_w + col) * layer.co + channel;
        let padded_co = layer.co.div_ceil(width) * width;
        let bias = if self.out.bias.len() == padded_co { 0 } else { image * padded_co };
        let output = OutputTile {
            tile: layer.tile,
            m,
            stride,
            channels: (group.end * width).min(layer.co) - channel,
            bias: self.out.bias[bias + channel..].as_ptr(),
            factor: layer.factor(),
            act: self.out.act,
            // SAFETY: the tile's first pixel lies within y.
            y: unsafe { self.y.get().add(at) },
            residual: self.out.residual.map_or(std::ptr::null(), |r| r[at..].as_ptr()),
            ld_row: maps.out_w * layer.co,
            ld_pixel: layer.co,
            rows: maps.out_h - row,
            cols: maps.out_w - col,
        };
        // SAFETY: only pixels within the map are written, of which this tile's are ours.
        unsafe { (layer.kernels.winograd_output)(&output) };
    }
}
