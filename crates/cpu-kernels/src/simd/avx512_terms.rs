//! Numbers to the `bf16` terms that a unit multiplies, by AVX-512: what AMX and the dot products of AVX-512 have in common.
use std::arch::x86_64::*;

use super::avx512::Zmm;
use super::units::{Narrow, Pair, Split};
use super::{SoftmaxBlock, Vector, math, rows};
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
const TERM: usize = PANEL_COLUMNS * STEP;

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
unsafe fn write_pair(a: __m512, b: __m512, pair: usize, column: usize, kept: Terms, to: *mut u16) {
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

/// # Safety
/// The machine has AVX-512 with BW and BF16, the pointers are good for what [`SoftmaxBlock`] says, and `to` has room for every step
/// of its rows.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn softmax(b: &SoftmaxBlock, kept: Terms, to: *mut u16) {
    if kept == Terms::One {
        // SAFETY: the caller's promise.
        return unsafe { short_softmax(b, to) };
    }
    for column in (0..PANEL_COLUMNS).step_by(16) {
        // SAFETY: rows beyond the last are not read, and there is room for every step's terms.
        unsafe {
            let largest = rows::raise::<Zmm>(b, column, |x| x);
            let mut sums = [_mm512_setzero_ps(); 2];
            for pair in 0..b.rows.div_ceil(STEP) * STEP / 2 {
                let mut powers = [_mm512_setzero_ps(); 2];
                for (i, power) in powers.iter_mut().enumerate() {
                    let row = 2 * pair + i;
                    if row < b.rows {
                        *power = math::exp2(Zmm::load(b.scores.add(row * PANEL_COLUMNS + column)).sub(largest)).0;
                        sums[i] = _mm512_add_ps(sums[i], *power);
                    }
                }
                write_pair(powers[0], powers[1], pair, column, kept, to);
            }
            let at = b.sums.add(column);
            let sum = _mm512_add_ps(sums[0], sums[1]);
            _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), sum));
        }
    }
}

/// [`softmax`] for the high terms alone, 32 powers at a time in integers of 16 bits: `256 (x + 127)` is the number of `bf16` that is
/// nearest to 2^x, with one bit more, but that its fraction f stands for 1 + f instead of 2^f (Schraudolph, "A fast, compact
/// approximation of the exponential function", Neural Computation 11, 1999). The difference is f (1 - f) (0.305 + 0.082 f).
/// The relative error is 1.9e-3 in the mean square, where rounding alone makes 1.7e-3, and the sums are of what is multiplied.
///
/// # Safety
/// As [`softmax`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn short_softmax(b: &SoftmaxBlock, to: *mut u16) {
    /// 1.5 times 2^23: a sum with it is rounded to a whole number, whose lower 16 bits are those of the float.
    const WHOLE: f32 = 12_582_912.0;
    let unit = _mm512_set1_ps(256.0);
    let fraction = _mm512_set1_epi16(255);
    // SAFETY: 32 ones of `bf16`, and any bits are a vector of it.
    let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(0x3f80)) };
    for column in (0..PANEL_COLUMNS).step_by(16) {
        // SAFETY: rows beyond the last are not read, and there is room for every step's terms.
        unsafe {
            // A multiple of 1/256, so that the offset is exact and blocks of keys agree.
            let largest = rows::raise::<Zmm>(b, column, |x| Zmm(_mm512_roundscale_ps::<{ 8 << 4 }>(x.0))).0;
            let offset = _mm512_fnmadd_ps(unit, largest, _mm512_set1_ps(WHOLE + 256.0 * 127.0));
            let at = b.sums.add(column);
            let mut sums = _mm512_loadu_ps(at);
            for pair in 0..b.rows.div_ceil(STEP) * STEP / 2 {
                // What is smaller than any power becomes 0, as rows beyond the last.
                let whole = |row: usize| {
                    let none = _mm512_set1_ps(WHOLE);
                    _mm512_castps_si512(if row < b.rows {
                        let score = _mm512_loadu_ps(b.scores.add(row * PANEL_COLUMNS + column));
                        _mm512_max_ps(_mm512_fmadd_ps(score, unit, offset), none)
                    } else {
                        none
                    })
                };
                let (first, second) = (whole(2 * pair), _mm512_slli_epi32::<16>(whole(2 * pair + 1)));
                let power = _mm512_mask_blend_epi16(0xaaaa_aaaa, first, second);
                let f = _mm512_and_si512(power, fraction);
                // f (1 - f), of 2^16; f 0.082, of 2^8.
                let parabola = _mm512_mullo_epi16(f, _mm512_sub_epi16(_mm512_set1_epi16(256), f));
                let slope = _mm512_mulhi_epu16(f, _mm512_set1_epi16(5400));
                let factor = _mm512_add_epi16(slope, _mm512_set1_epi16(78));
                let power = _mm512_sub_epi16(power, _mm512_mulhi_epu16(parabola, factor));
                let power = _mm512_srli_epi16::<1>(power);
                sums = _mm512_dpbf16_ps(sums, std::mem::transmute::<__m512i, __m512bh>(power), ones);
                _mm512_storeu_si512(place_of_pair(to, pair, column, Terms::One).cast(), power);
            }
            _mm512_storeu_ps(at, sums);
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

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn short_powers_are_as_exact_as_their_terms() {
        if !crate::simd::avx512_bf16::available() {
            return;
        }
        const ROWS: usize = 2 * STEP - 3;
        let mut scores: Vec<f32> = (0..ROWS * PANEL_COLUMNS)
            .map(|i| -20.0 * ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0)
            .collect();
        scores[..PANEL_COLUMNS].fill(0.0);
        scores[PANEL_COLUMNS..2 * PANEL_COLUMNS].fill(-1e30);
        let (mut largest, mut sums) = ([f32::NEG_INFINITY; PANEL_COLUMNS], [0.0; PANEL_COLUMNS]);
        let mut terms = vec![u16::MAX; 2 * TERM];
        let block = SoftmaxBlock {
            scores: scores.as_mut_ptr(),
            rows: ROWS,
            largest: largest.as_mut_ptr(),
            sums: sums.as_mut_ptr(),
            out: std::ptr::null_mut(),
            out_rows: 0,
        };
        // SAFETY: the machine has the instructions, and there is room for two steps.
        unsafe { softmax(&block, Terms::One, terms.as_mut_ptr()) };
        assert_eq!(largest, [0.0; PANEL_COLUMNS]);
        let (mut squares, mut count) = (0.0, 0);
        for column in 0..PANEL_COLUMNS {
            let power = |row: usize| {
                let at = row / STEP * TERM + (row % STEP / 2 * PANEL_COLUMNS + column) * 2 + row % 2;
                bf16::from_bits(terms[at]).to_f32()
            };
            assert_eq!((power(0), power(1)), (1.0, 0.0), "column {column}");
            for row in 2..ROWS {
                let exact = f64::from(scores[row * PANEL_COLUMNS + column]).exp2();
                let error = f64::from(power(row)) / exact - 1.0;
                assert!(error.abs() < 5.3e-3, "2^{} is {}", exact.log2(), power(row));
                (squares, count) = (squares + error * error, count + 1);
            }
            assert!((ROWS..2 * STEP).all(|row| power(row) == 0.0), "rows beyond the last of column {column}");
            let sum: f32 = (0..ROWS).map(power).sum();
            assert!((sums[column] / sum - 1.0).abs() < 1e-5, "a sum of {} instead of {sum}", sums[column]);
        }
        assert!((squares / f64::from(count)).sqrt() < 2.0e-3);
    }
}
