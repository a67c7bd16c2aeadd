//! Softmax to the `bf16` terms that a unit multiplies, by AVX-512.
use std::arch::x86_64::*;

use super::avx512::Zmm;
use super::avx512_terms::write_pair;
use super::{SoftmaxBlock, Vector, math, rows};
use crate::split::{PANEL_COLUMNS, Terms};

/// # Safety
/// The machine has AVX-512 with BW, VBMI and BF16, the pointers are good for what [`SoftmaxBlock`] says, whose rows are whole steps,
/// and `to` has room for every step.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
pub(super) unsafe fn softmax(b: &SoftmaxBlock, kept: Terms, to: *mut u16) {
    if kept == Terms::One {
        // SAFETY: the caller's promise.
        return unsafe { short_softmax(b, to) };
    }
    for column in (0..PANEL_COLUMNS).step_by(16) {
        // SAFETY: the caller's promise.
        unsafe {
            let largest = rows::raise::<Zmm>(b, column, |x| x);
            let power = |row: usize| math::exp2(Zmm::load(b.scores.add(row * PANEL_COLUMNS + column)).sub(largest)).0;
            for pair in 0..b.rows / 2 {
                write_pair(power(2 * pair), power(2 * pair + 1), pair, column, kept, to);
            }
        }
    }
}

/// [`softmax`] for the high terms alone. What is held as the largest score lies [`HEADROOM`] above it, so that the next blocks need
/// not look for their largest first: only a score that is still larger makes it rise.
///
/// # Safety
/// As [`softmax`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn short_softmax(b: &SoftmaxBlock, to: *mut u16) {
    // SAFETY: the caller's promise.
    unsafe {
        if !(ShortPowers::holds(b.largest) && short_powers(b, to)) {
            raise_with_headroom(b);
            short_powers(b, to);
        }
    }
}

/// The powers of a block by what is held; whether they are all that they should be, below two.
///
/// # Safety
/// As [`softmax`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn short_powers(b: &SoftmaxBlock, to: *mut u16) -> bool {
    // SAFETY: the caller's promise; sixteen rows lie within the block, and their terms one behind the other.
    unsafe {
        let mut powers = ShortPowers::new(b.largest);
        for row in (0..b.rows).step_by(16) {
            powers.sixteen_rows(b.scores.add(row * PANEL_COLUMNS), to.add(row * PANEL_COLUMNS));
        }
        powers.below_two()
    }
}

/// To the base 2; what lies 127 below what is held vanishes.
const HEADROOM: f32 = 16.0;

/// # Safety
/// As [`softmax`].
#[cold]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
unsafe fn raise_with_headroom(b: &SoftmaxBlock) {
    for column in (0..PANEL_COLUMNS).step_by(16) {
        // SAFETY: the caller's promise.
        unsafe {
            // A multiple of 1/256, so that the offset is exact and blocks of keys agree.
            rows::raise::<Zmm>(b, column, |x| {
                Zmm(_mm512_add_ps(_mm512_roundscale_ps::<{ 8 << 4 }>(x.0), _mm512_set1_ps(HEADROOM)))
            });
        }
    }
}

/// Powers of two of scores, less what is held, 32 at a time in integers of 16 bits: `256 (x + 127)` is the number of `bf16` that is
/// nearest to 2^x, with one bit more, but that its fraction f stands for 1 + f instead of 2^f (Schraudolph, "A fast, compact
/// approximation of the exponential function", Neural Computation 11, 1999); the difference comes from a table. The relative
/// error is 2.0e-3 in the mean square, where rounding alone makes 1.7e-3.
struct ShortPowers {
    /// For each half of a panel's columns.
    offsets: [__m512; 2],
    /// Of all numbers before they became powers.
    bits: __m512i,
}

impl ShortPowers {
    /// 1.5 times 2^23: a sum with it is rounded to a whole number, whose lower 16 bits are those of the float.
    const WHOLE: f32 = 12_582_912.0;

    /// Whether every query has seen a score.
    ///
    /// # Safety
    /// A row of a panel is at `largest`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
    unsafe fn holds(largest: *const f32) -> bool {
        let none = _mm512_set1_ps(f32::NEG_INFINITY);
        // SAFETY: the caller's promise.
        let least = unsafe { _mm512_min_ps(_mm512_loadu_ps(largest), _mm512_loadu_ps(largest.add(16))) };
        _mm512_cmp_ps_mask::<_CMP_GT_OQ>(least, none) == u16::MAX
    }

    /// # Safety
    /// A row of a panel is at `largest`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
    unsafe fn new(largest: *const f32) -> Self {
        let (unit, zero) = (_mm512_set1_ps(256.0), _mm512_set1_ps(Self::WHOLE + 256.0 * 127.0));
        // SAFETY: the caller's promise.
        let offsets = unsafe { [largest, largest.add(16)].map(|at| _mm512_fnmadd_ps(unit, _mm512_loadu_ps(at), zero)) };
        Self { offsets, bits: _mm512_setzero_si512() }
    }

    /// # Safety
    /// Sixteen rows of a panel are at `scores`, and there is room for as many elements at `to`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
    unsafe fn sixteen_rows(&mut self, scores: *const f32, to: *mut u16) {
        let unit = _mm512_set1_ps(256.0);
        let none = _mm512_castps_si512(_mm512_set1_ps(Self::WHOLE));
        // SAFETY: the caller's promise; the table has 64 bytes.
        unsafe {
            let table = _mm512_loadu_si512(EXCESS.as_ptr().cast());
            for pair in 0..8 {
                for half in 0..2 {
                    let scores = scores.add(2 * pair * PANEL_COLUMNS + 16 * half);
                    // What is smaller than any power becomes 0. Floats are in the order of the integers with their bits, but for
                    // negative ones, and those become 0 all the same.
                    let whole = |scores: *const f32| {
                        let whole = _mm512_fmadd_ps(_mm512_loadu_ps(scores), unit, self.offsets[half]);
                        _mm512_max_epi32(_mm512_castps_si512(whole), none)
                    };
                    let (first, second) = (whole(scores), whole(scores.add(PANEL_COLUMNS)));
                    // bits | first | second
                    self.bits = _mm512_ternarylogic_epi32::<0xfe>(self.bits, first, second);
                    let power = _mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32::<16>(second));
                    let part = _mm512_srli_epi16::<2>(power);
                    let excess = _mm512_maskz_permutexvar_epi8(0x5555_5555_5555_5555, part, table);
                    let power = _mm512_srli_epi16::<1>(_mm512_sub_epi16(power, excess));
                    _mm512_storeu_si512(to.add((2 * pair + half) * PANEL_COLUMNS).cast(), power);
                }
            }
        }
    }

    /// Whether all powers are; where not, they are not what they should be.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
    fn below_two(&self) -> bool {
        let below_two = (Self::WHOLE.to_bits() | 0x7fff) as i32;
        _mm512_test_epi32_mask(self.bits, _mm512_set1_epi32(!below_two)) == 0
    }
}

/// `256 (1 + f - 2^f)`, less a half for the bit that is cut off, where f lies in the 64 parts of the numbers from 0 to 1. Chosen
/// for the least mean square of the relative error.
static EXCESS: [u8; 64] = [
    0, 1, 2, 4, 4, 6, 7, 8, 9, 10, 10, 12, 12, 13, 14, 15, 15, 16, 17, 17, 18, 18, 19, 19, 20, 20, 20, 21, 21, 21, 21,
    21, 21, 22, 22, 21, 21, 21, 21, 21, 21, 20, 20, 19, 19, 19, 18, 17, 17, 16, 15, 15, 13, 13, 12, 11, 9, 9, 7, 6, 5,
    3, 2, 1,
];

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::simd::avx512_terms::TERM;
    use crate::split::STEP;

    const ROWS: usize = 2 * STEP;

    /// A block of scores, what is held as their largest, a row of sums, and the powers.
    struct Block {
        scores: Vec<f32>,
        largest: [f32; PANEL_COLUMNS],
        out: [f32; PANEL_COLUMNS],
        terms: Vec<u16>,
    }

    impl Block {
        fn new(scores: impl Fn(usize) -> f32) -> Self {
            Self {
                scores: (0..ROWS * PANEL_COLUMNS).map(scores).collect(),
                largest: [f32::NEG_INFINITY; PANEL_COLUMNS],
                out: [1.0; PANEL_COLUMNS],
                terms: vec![u16::MAX; 2 * TERM],
            }
        }

        fn softmax(&mut self) {
            let block = SoftmaxBlock {
                scores: self.scores.as_mut_ptr(),
                rows: ROWS,
                largest: self.largest.as_mut_ptr(),
                out: self.out.as_mut_ptr(),
                out_rows: 1,
            };
            // SAFETY: the machine has the instructions, and there is room for two steps.
            unsafe { softmax(&block, Terms::One, self.terms.as_mut_ptr()) };
        }

        fn power(&self, row: usize, column: usize) -> f32 {
            let at = row / STEP * TERM + (row % STEP / 2 * PANEL_COLUMNS + column) * 2 + row % 2;
            bf16::from_bits(self.terms[at]).to_f32()
        }
    }

    fn noise(i: usize) -> f32 {
        ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0
    }

    #[test]
    fn short_powers_are_as_exact_as_their_terms() {
        if !crate::simd::avx512_bf16::available() {
            return;
        }
        let mut block = Block::new(|i| match i / PANEL_COLUMNS {
            0 => 0.0,
            1 => -1e30,
            _ => -20.0 * noise(i),
        });
        block.softmax();
        let (mut squares, mut count) = (0.0, 0);
        for column in 0..PANEL_COLUMNS {
            let held = block.largest[column];
            assert_eq!((block.power(0, column), block.power(1, column)), ((-held).exp2(), 0.0), "column {column}");
            for row in 2..ROWS {
                let exact = f64::from(block.scores[row * PANEL_COLUMNS + column] - held).exp2();
                let error = f64::from(block.power(row, column)) / exact - 1.0;
                assert!(error.abs() < 6e-3, "2^{} is {}", exact.log2(), block.power(row, column));
                (squares, count) = (squares + error * error, count + 1);
            }
        }
        assert!((squares / f64::from(count)).sqrt() < 2.1e-3);
    }

    #[test]
    fn larger_scores_shrink_what_was_summed_before() {
        if !crate::simd::avx512_bf16::available() {
            return;
        }
        let mut block = Block::new(|_| -3.0);
        block.softmax();
        let held = block.largest;
        // By how much scores grow; the large ones come in one column, and may leave the others as they are.
        for growth in [0.0, 10.0, 18.0, 40.0, 300.0, 1e6] {
            let mut block = Block { largest: held, out: [1.0; PANEL_COLUMNS], ..Block::new(|_| -3.0) };
            block.scores[7 * PANEL_COLUMNS + 5] += growth;
            block.softmax();
            for column in 0..PANEL_COLUMNS {
                let (rise, top) = (block.largest[column] - held[column], if column == 5 { 7 } else { 0 });
                assert!(rise >= 0.0 && (growth < 17.0 || column != 5 || rise > 0.0), "{growth}: {rise}");
                let shrunk = block.out[column] * rise.min(126.0).exp2();
                assert!((shrunk - 1.0).abs() < 1e-3, "{growth}: sums of column {column} became {}", block.out[column]);
                let score = block.scores[top * PANEL_COLUMNS + column];
                let exact = (score - block.largest[column]).exp2();
                assert!((block.power(top, column) / exact - 1.0).abs() < 6e-3 && exact < 2.0, "{growth}, {column}");
            }
        }
    }
}
