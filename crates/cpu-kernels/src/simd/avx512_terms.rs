//! Numbers to the `bf16` terms that a unit multiplies, by AVX-512: what AMX and the dot products of AVX-512 have in common.
use std::arch::x86_64::*;

use super::units::{Narrow, Pair, Split};
use crate::split::{PANEL_COLUMNS, ROW_TILE, STEP, TILE_BYTES, Terms};

/// # Safety
/// The machine has AVX-512 with BW and BF16, and the pointers are good for what [`Split`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn split(s: &Split) {
    let tile = s.terms.count() * TILE_BYTES / size_of::<u16>();
    for step in 0..s.k.div_ceil(STEP) {
        let left = s.k - step * STEP;
        let mask = |len: usize| if len >= 16 { u16::MAX } else { (1u16 << len) - 1 };
        let (first, second) = (mask(left), mask(left.saturating_sub(16)));
        for row in 0..s.tile_rows {
            // SAFETY: rows beyond the last are not read, and there is room for every row of the tiles.
            unsafe {
                let high = s.to.add((row / ROW_TILE * s.steps + step) * tile + row % ROW_TILE * STEP);
                let (a, b) = if row < s.rows {
                    let from = s.x.add(row * s.ldx + step * STEP);
                    (_mm512_maskz_loadu_ps(first, from), _mm512_maskz_loadu_ps(second, from.wrapping_add(16)))
                } else {
                    (_mm512_setzero_ps(), _mm512_setzero_ps())
                };
                write_terms(a, b, high, high.wrapping_add(TILE_BYTES / size_of::<u16>()), s.terms);
            }
        }
    }
}

/// # Safety
/// The machine has AVX-512 with BW and BF16, and the pointers are good for what [`Narrow`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn narrow(n: &Narrow) {
    for at in (0..n.len).step_by(STEP) {
        // SAFETY: a step of each lies within what the caller promises.
        unsafe {
            let (a, b) = (_mm512_loadu_ps(n.x.add(at)), _mm512_loadu_ps(n.x.add(at + STEP / 2)));
            write_terms(a, b, n.high.add(at), n.low.wrapping_add(at), n.terms);
        }
    }
}

/// # Safety
/// The machine has AVX-512 with BW and BF16, and the pointers are good for what [`Pair`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pair(p: &Pair) {
    for pair in 0..p.steps * STEP / 2 {
        for column in (0..PANEL_COLUMNS).step_by(16) {
            // SAFETY: rows beyond the last are not read, and there is room for every step's terms.
            unsafe {
                let load = |row: usize| {
                    if row < p.rows {
                        _mm512_loadu_ps(p.x.add(row * PANEL_COLUMNS + column))
                    } else {
                        _mm512_setzero_ps()
                    }
                };
                let (a, b) = (load(2 * pair), load(2 * pair + 1));
                write_pair(a, b, pair, column, p.terms, p.to);
            }
        }
    }
}

/// Elements of one term of a step.
pub(super) const TERM: usize = PANEL_COLUMNS * STEP;

/// Where the high terms of a pair of rows begin, from a column on.
///
/// # Safety
/// They lie within the panel at `to`.
#[inline]
unsafe fn place_of_pair(to: *mut u16, pair: usize, column: usize, kept: Terms) -> *mut u16 {
    // SAFETY: the caller's promise.
    unsafe { to.add(pair / (STEP / 2) * kept.count() * TERM + (pair % (STEP / 2) * PANEL_COLUMNS + column) * 2) }
}

/// Sixteen columns of two rows of a panel, to their place.
///
/// # Safety
/// As [`pair`]; `to` has every term of this pair of rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn write_pair(a: __m512, b: __m512, pair: usize, column: usize, kept: Terms, to: *mut u16) {
    /// Element 2 i is number i of the first row, 2 i + 1 that of the second.
    static INTERLEAVE: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    let (high, low) = terms(a, b, kept);
    // SAFETY: 32 elements, and the caller's promise.
    unsafe {
        let interleave = _mm512_loadu_si512(INTERLEAVE.as_ptr().cast());
        let to = place_of_pair(to, pair, column, kept);
        _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi16(interleave, high));
        if kept == Terms::Three {
            _mm512_storeu_si512(to.add(TERM).cast(), _mm512_permutexvar_epi16(interleave, low));
        }
    }
}

/// Weights of half precision to the terms of one panel; the order of the elements stays.
///
/// # Safety
/// The machine has AVX-512 with BW and BF16; `from` has `steps` times 1024 elements, `to` as many for each term.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn widen_f16(from: *const u16, steps: usize, terms: Terms, to: *mut u16) {
    const PANEL: usize = 2 * TILE_BYTES / size_of::<u16>();
    for step in 0..steps {
        for line in (0..PANEL).step_by(STEP) {
            // SAFETY: the caller's promise.
            unsafe {
                let from = from.add(step * PANEL + line);
                let a = _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()));
                let b = _mm512_cvtph_ps(_mm256_loadu_si256(from.add(16).cast()));
                let high = to.add(step * terms.count() * PANEL + line);
                write_terms(a, b, high, high.wrapping_add(PANEL), terms);
            }
        }
    }
}

/// 32 numbers rounded to `bf16`, and what the rounding left over.
///
/// # Safety
/// As [`split`]; there is room for 32 elements at `high`, and at `low` where there are three terms.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn write_terms(a: __m512, b: __m512, high: *mut u16, low: *mut u16, kept: Terms) {
    let (rounded, rest) = terms(a, b, kept);
    // SAFETY: the caller's promise.
    unsafe {
        _mm512_storeu_si512(high.cast(), rounded);
        if kept == Terms::Three {
            _mm512_storeu_si512(low.cast(), rest);
        }
    }
}

/// 32 numbers rounded to `bf16`, and, where there are three terms, what the rounding left over.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn terms(a: __m512, b: __m512, kept: Terms) -> (__m512i, __m512i) {
    let rounded = round(a, b);
    if kept == Terms::One {
        return (rounded, rounded);
    }
    let rest_a = _mm512_sub_ps(a, widen(_mm512_castsi512_si256(rounded)));
    let rest_b = _mm512_sub_ps(b, widen(_mm512_extracti64x4_epi64::<1>(rounded)));
    (rounded, round(rest_a, rest_b))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(a: __m512, b: __m512) -> __m512i {
    let rounded = _mm512_cvtne2ps_pbh(b, a);
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(rounded) }
}

/// 16 numbers of `bf16`, widened.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(x: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
}
