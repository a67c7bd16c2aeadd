//! The units' arithmetic in plain Rust: the twins that AMX and the dot products of AVX-512 are tested against, and by which the
//! error of a whole network can be measured on a machine that has neither.
use half::bf16;

use super::units::{Multiply, Narrow, Pair, Split, Unit};
use super::{Kernels, SoftmaxBlock, scalar};
use crate::split::{PANEL_COLUMNS, ROW_TILE, STEP, TILE_BYTES, Terms};

/// As AMX: all products on the unit.
pub(crate) static AMX: Kernels = Kernels { unit: Some(&TILES), ..scalar::wide::KERNELS };
/// As AVX-512 with BF16: the unit is for the lower precision alone.
pub(crate) static DOTS: Kernels = Kernels { unit: Some(&PAIRS), ..scalar::wide::KERNELS };

static TILES: Unit = Unit {
    multiplies_f32: true,
    pays: || true,
    configure: nothing,
    release: nothing,
    split,
    narrow,
    pair,
    softmax,
    scores: None,
    widen_f16,
    multiply,
};
static PAIRS: Unit = Unit { multiplies_f32: false, ..TILES };

/// Elements of one term of a tile, and of a panel.
const TILE: usize = TILE_BYTES / size_of::<u16>();
const PANEL: usize = PANEL_COLUMNS * STEP;

fn nothing() {}

/// The number rounded to `bf16`, and the rest rounded.
fn terms(x: f32) -> [u16; 2] {
    let high = bf16::from_f32(x);
    [high.to_bits(), bf16::from_f32(x - high.to_f32()).to_bits()]
}

/// # Safety
/// The pointers are good for what [`Split`] says.
unsafe fn split(s: &Split) {
    for step in 0..s.k.div_ceil(STEP) {
        for row in 0..s.tile_rows {
            for column in 0..STEP {
                let k = step * STEP + column;
                // SAFETY: rows and inputs beyond the last are not read, and there is room for every row of the tiles.
                unsafe {
                    let x = if row < s.rows && k < s.k { s.x.add(row * s.ldx + k).read() } else { 0.0 };
                    let tile = (row / ROW_TILE * s.steps + step) * s.terms.count() * TILE;
                    let to = s.to.add(tile + row % ROW_TILE * STEP + column);
                    for (i, term) in terms(x).into_iter().enumerate().take(s.terms.count()) {
                        to.add(i * TILE).write(term);
                    }
                }
            }
        }
    }
}

/// # Safety
/// The pointers are good for what [`Narrow`] says.
unsafe fn narrow(n: &Narrow) {
    for i in 0..n.len {
        // SAFETY: the caller's promise; low terms are written only where they are kept.
        unsafe {
            let [high, low] = terms(n.x.add(i).read());
            n.high.add(i).write(high);
            if n.terms == Terms::Three {
                n.low.add(i).write(low);
            }
        }
    }
}

/// # Safety
/// The pointers are good for what [`Pair`] says.
unsafe fn pair(p: &Pair) {
    for k in 0..p.steps * STEP {
        for column in 0..PANEL_COLUMNS {
            // SAFETY: rows beyond the last are not read, and there is room for every step's terms.
            unsafe {
                let x = if k < p.rows { p.x.add(k * PANEL_COLUMNS + column).read() } else { 0.0 };
                let within = (k % STEP / 2 * PANEL_COLUMNS + column) * 2 + k % 2;
                let to = p.to.add(k / STEP * p.terms.count() * PANEL + within);
                for (i, term) in terms(x).into_iter().enumerate().take(p.terms.count()) {
                    to.add(i * PANEL).write(term);
                }
            }
        }
    }
}

/// # Safety
/// The pointers are good for what [`SoftmaxBlock`] says, and there is room for its rows' steps.
unsafe fn softmax(b: &SoftmaxBlock, terms: Terms, to: *mut u16) {
    // SAFETY: the caller's promise.
    unsafe {
        (scalar::wide::KERNELS.softmax_block)(b);
        pair(&Pair { x: b.scores, rows: b.rows, steps: b.rows.div_ceil(STEP), terms, to });
    }
}

/// # Safety
/// `from` has `steps` times 1024 elements, `to` as many for each term.
unsafe fn widen_f16(from: *const u16, steps: usize, kept: Terms, to: *mut u16) {
    for i in 0..steps * PANEL {
        // SAFETY: the caller's promise.
        unsafe {
            let to = to.add(i / PANEL * kept.count() * PANEL + i % PANEL);
            for (t, term) in
                terms(half::f16::from_bits(from.add(i).read()).to_f32()).into_iter().enumerate().take(kept.count())
            {
                to.add(t * PANEL).write(term);
            }
        }
    }
}

/// # Safety
/// The pointers are good for what [`Multiply`] says.
unsafe fn multiply(m: &Multiply) {
    // High by high, low by high, high by low.
    let products: &[(usize, usize)] = match m.terms {
        Terms::One => &[(0, 0)],
        Terms::Three => &[(1, 0), (0, 0), (0, 1)],
    };
    for row in 0..m.row_tiles * ROW_TILE {
        // SAFETY: the rows, steps and terms lie within what the caller promises.
        unsafe {
            let line = m.c.add(row * PANEL_COLUMNS).cast::<[f32; PANEL_COLUMNS]>();
            let mut sums = if m.accumulate { line.read_unaligned() } else { [0.0; PANEL_COLUMNS] };
            let a = m.a.byte_add(row / ROW_TILE * m.a_second + row % ROW_TILE * m.a_row);
            for step in 0..m.steps {
                for &(left, right) in products {
                    let a = a.byte_add(m.a_steps.add(step).read() + left * m.a_low);
                    let b = m.b.add((step * m.terms.count() + right) * PANEL);
                    for pair in 0..STEP / 2 {
                        let [x0, x1] = a.add(2 * pair).cast::<[u16; 2]>().read_unaligned().map(widened);
                        let columns = b.add(2 * pair * PANEL_COLUMNS).cast::<[[u16; 2]; PANEL_COLUMNS]>();
                        for (sum, [b0, b1]) in sums.iter_mut().zip(columns.read_unaligned()) {
                            *sum += x0 * widened(b0) + x1 * widened(b1);
                        }
                    }
                }
            }
            line.write_unaligned(sums);
        }
    }
}

fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
