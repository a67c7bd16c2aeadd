//! The dot products of AVX-512: sixteen times two products of `bf16`, summed in `f32`, in one instruction. With it a register
//! multiplies twice as many numbers as in `f32`; three such products for one of `f32` would not pay.
use std::arch::x86_64::*;

use super::Kernels;
use super::avx512_softmax::softmax;
use super::avx512_terms::{narrow, pair, split, widen_f16};
use super::units::{Multiply, Unit};
use crate::split::{PANEL_COLUMNS, ROW_TILE, STEP, Terms};

/// AVX-512's kernels, and products of `bf16` for whoever asks for that precision.
pub(crate) static KERNELS: Kernels = Kernels { unit: Some(&UNIT), ..super::avx512::KERNELS };

static UNIT: Unit = Unit {
    multiplies_f32: false,
    pays,
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

/// Whether the processor has them, and what rounding to `bf16` and softmax need beside.
pub(crate) fn available() -> bool {
    std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vbmi")
        && std::is_x86_feature_detected!("avx512bf16")
}

/// Not on Intel's processors, whose own unit for `bf16` is AMX: these products reach 0.42 of the rate of those of `f32` on Emerald
/// Rapids. On AMD's Zen 4 they reach nearly twice that rate.
fn pays() -> bool {
    let name = __cpuid(0);
    [name.ebx, name.edx, name.ecx].map(u32::to_le_bytes).concat() != b"GenuineIntel"
}

fn nothing() {}

/// Rows whose sums are in registers at once: with 32 columns sixteen chains, more than any processor has in flight.
const ROWS: usize = 8;
/// Steps in one go: 32 rows and the panel of that many lie in the first cache.
const STEPS: usize = 8;

/// # Safety
/// [`available`], and the pointers are good for what [`Multiply`] says.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply(m: &Multiply) {
    assert!(m.terms == Terms::One, "three products are no gain here, and nobody asks for them");
    let rows = m.rows.next_multiple_of(ROWS);
    debug_assert!(m.rows <= m.row_tiles * ROW_TILE && m.inputs.div_ceil(STEP) == m.steps);
    if m.steps == 0 && !m.accumulate {
        // SAFETY: c has these rows.
        unsafe { m.c.write_bytes(0, rows * PANEL_COLUMNS) };
    }
    for first in (0..m.steps).step_by(STEPS) {
        let inputs = (m.inputs - first * STEP).min(STEPS * STEP);
        for row in (0..rows).step_by(ROWS) {
            let tile = row / ROW_TILE * m.a_second + row % ROW_TILE * m.a_row;
            // SAFETY: the rows and steps lie within what the caller promises.
            unsafe {
                let (a, steps) = (m.a.byte_add(tile), m.a_steps.add(first));
                let b = m.b.add(first * PANEL_COLUMNS * STEP);
                rows_of_sums(m, a, steps, b, inputs, m.c.add(row * PANEL_COLUMNS), m.accumulate || first > 0);
            }
        }
    }
}

/// # Safety
/// As [`multiply`], for so many inputs of eight rows from `a`, `steps`, `b` and `c` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_of_sums(
    m: &Multiply,
    a: *const u16,
    steps: *const usize,
    b: *const u16,
    inputs: usize,
    c: *mut f32,
    accumulate: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: the caller's promise; a pair of inputs is two numbers of a row of `a`, and 64 of `b`.
    unsafe {
        if accumulate {
            for i in 0..ROWS {
                for j in 0..2 {
                    sums[i][j] = _mm512_loadu_ps(c.add(i * PANEL_COLUMNS + 16 * j));
                }
            }
        }
        for step in 0..inputs.div_ceil(STEP) {
            let a = a.byte_add(steps.add(step).read());
            let b = b.add(step * PANEL_COLUMNS * STEP);
            for pair in 0..STEP.min(inputs - step * STEP).div_ceil(2) {
                let load = |at: usize| bits(_mm512_loadu_si512(b.add(at).cast()));
                let columns = [load(2 * pair * PANEL_COLUMNS), load(2 * pair * PANEL_COLUMNS + STEP)];
                for i in 0..ROWS {
                    let x = a.byte_add(i * m.a_row).add(2 * pair).cast::<i32>().read_unaligned();
                    let x = bits(_mm512_set1_epi32(x));
                    for j in 0..2 {
                        sums[i][j] = _mm512_dpbf16_ps(sums[i][j], x, columns[j]);
                    }
                }
            }
        }
        for i in 0..ROWS {
            for j in 0..2 {
                _mm512_storeu_ps(c.add(i * PANEL_COLUMNS + 16 * j), sums[i][j]);
            }
        }
    }
}

/// 64 bytes as numbers of `bf16`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bits(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(x) }
}
