//! Intel's Advanced Matrix Extensions: tiles of 16 rows by 64 bytes, and their products of `bf16` summed in `f32`.
//!
//! The instructions are written out, because the language has no stable intrinsics for them yet. Everything else that a kernel
//! needs is AVX-512's. (Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20.)
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::Kernels;
use super::units::{Multiply, Pair, Split, Unit};
use crate::split::{PANEL_COLUMNS, ROW_TILE, STEP, TILE_BYTES, Terms};

/// AVX-512's kernels beside the matrix unit.
pub(crate) static KERNELS: Kernels = Kernels { unit: Some(&UNIT), ..super::avx512::KERNELS };

static UNIT: Unit = Unit { configure, release, split, pair, widen_f16, multiply };

/// Whether the processor has tiles and the system lets this process use them.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && permitted())
}

fn processor_has_tiles() -> bool {
    /// In EDX of leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let avx512 = std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512bf16");
    // Leaf 7 is there where AVX-512 is.
    avx512 && __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
}

/// Asks Linux for the tiles' state, which makes the context of every thread of this process 8 KiB larger
/// (<https://docs.kernel.org/arch/x86/xstate.html>).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers and changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight whole tiles.
static WHOLE: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// # Safety
/// [`available`].
unsafe fn configure() {
    // SAFETY: the machine has the instruction, and its operand is 64 bytes of a valid configuration.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, readonly)) };
}

/// # Safety
/// [`available`].
unsafe fn release() {
    // SAFETY: the machine has the instruction.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Four tiles of sums, two of rows, two of columns: each tile that is read is multiplied twice or more.
///
/// # Safety
/// [`available`], [`configure`] was called on this thread, and the pointers are good for what [`Multiply`] says.
unsafe fn multiply(m: &Multiply) {
    if m.steps == 0 {
        if !m.accumulate {
            // SAFETY: c has these tiles.
            unsafe { m.c.write_bytes(0, m.row_tiles * 2 * TILE_BYTES / size_of::<f32>()) };
        }
        return;
    }
    macro_rules! product {
        ([$($load:literal),*] [$($zero:literal),*] [$($store:literal),*] $($body:literal),* $(,)?) => {
            asm!(
                "test {accumulate}, {accumulate}",
                "jnz 3f",
                $($zero,)*
                "jmp 2f",
                "3:",
                $($load,)*
                "2:",
                $($body,)*
                "dec {steps}",
                "jnz 2b",
                $($store,)*
                a0 = inout(reg) m.a => _,
                a1 = inout(reg) m.a.wrapping_byte_add(m.a_second) => _,
                low = in(reg) m.a_low,
                a_stride = in(reg) m.a_row,
                a_step = in(reg) m.a_step,
                b = inout(reg) m.b => _,
                b_stride = in(reg) 128usize,
                steps = inout(reg) m.steps => _,
                accumulate = in(reg) usize::from(m.accumulate),
                c = in(reg) m.c,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
        (two rows: $($body:literal),* $(,)?) => {
            product!(
                ["tileloadd tmm0, [{c} + {b_stride}]", "tileloadd tmm1, [{c} + {b_stride} + 64]",
                 "tileloadd tmm2, [{c} + {b_stride} + 2048]", "tileloadd tmm3, [{c} + {b_stride} + 2112]"]
                ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"]
                ["tilestored [{c} + {b_stride}], tmm0", "tilestored [{c} + {b_stride} + 64], tmm1",
                 "tilestored [{c} + {b_stride} + 2048], tmm2", "tilestored [{c} + {b_stride} + 2112], tmm3"]
                $($body,)*
            )
        };
        (one row: $($body:literal),* $(,)?) => {
            product!(
                ["tileloadd tmm0, [{c} + {b_stride}]", "tileloadd tmm1, [{c} + {b_stride} + 64]"]
                ["tilezero tmm0", "tilezero tmm1"]
                ["tilestored [{c} + {b_stride}], tmm0", "tilestored [{c} + {b_stride} + 64], tmm1"]
                $($body,)*
                "/* {a1} */",
            )
        };
    }
    // SAFETY: the caller's promise; the tiles are clobbered, nothing else is kept in them.
    unsafe {
        match (m.terms, m.row_tiles) {
            (Terms::One, 2) => product!(two rows:
                "tileloadd tmm4, [{a0} + {a_stride}]",
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {a_stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, {a_step}",
                "add {a1}, {a_step}",
                "add {b}, 2048",
                "/* {low} */",
            ),
            (Terms::One, _) => product!(one row:
                "tileloadd tmm4, [{a0} + {a_stride}]",
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {a0}, {a_step}",
                "add {b}, 2048",
                "/* {low} */",
            ),
            // The small products first: low by high, high by high, high by low.
            (Terms::Three, 2) => product!(two rows:
                "add {a0}, {low}",
                "add {a1}, {low}",
                "tileloadd tmm4, [{a0} + {a_stride}]",
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {a_stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "sub {a0}, {low}",
                "sub {a1}, {low}",
                "tileloadd tmm4, [{a0} + {a_stride}]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm5, [{a1} + {a_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{b} + {b_stride} + 2048]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm7, [{b} + {b_stride} + 2112]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, {a_step}",
                "add {a1}, {a_step}",
                "add {b}, 4096",
            ),
            (Terms::Three, _) => product!(one row:
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "add {a0}, {low}",
                "tileloadd tmm4, [{a0} + {a_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "sub {a0}, {low}",
                "tileloadd tmm5, [{a0} + {a_stride}]",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {b_stride} + 2048]",
                "tileloadd tmm7, [{b} + {b_stride} + 2112]",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "add {a0}, {a_step}",
                "add {b}, 4096",
            ),
        }
    }
}

/// # Safety
/// [`available`], and the pointers are good for what [`Split`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn split(s: &Split) {
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
/// [`available`], and the pointers are good for what [`Pair`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair(p: &Pair) {
    /// Elements of one term of a step.
    const TERM: usize = PANEL_COLUMNS * STEP;
    // Element 2 i is number i of the first row, 2 i + 1 that of the second.
    let interleave: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    // SAFETY: 32 elements.
    let interleave = unsafe { _mm512_loadu_si512(interleave.as_ptr().cast()) };
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
                let step = pair / (STEP / 2) * p.terms.count() * TERM;
                let to = p.to.add(step + (pair % (STEP / 2) * PANEL_COLUMNS + column) * 2);
                let (high, low) = terms(a, b, p.terms);
                _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi16(interleave, high));
                if p.terms == Terms::Three {
                    _mm512_storeu_si512(to.add(TERM).cast(), _mm512_permutexvar_epi16(interleave, low));
                }
            }
        }
    }
}

/// Weights of half precision to the terms of one panel; the order of the elements stays.
///
/// # Safety
/// [`available`]; `from` has `steps` times 1024 elements, `to` as many for each term.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn widen_f16(from: *const u16, steps: usize, terms: Terms, to: *mut u16) {
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
