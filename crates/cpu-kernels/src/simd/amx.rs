//! Intel's Advanced Matrix Extensions: tiles of 16 rows by 64 bytes, and their products of `bf16` summed in `f32`.
//!
//! The instructions are written out, because the language has no stable intrinsics for them yet. Everything else that a kernel
//! needs is AVX-512's. (Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20.)
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::Kernels;
use super::avx512_softmax::softmax;
use super::avx512_terms::{narrow, pair, split, widen_f16};
use super::units::{Multiply, Scores, Unit};
use crate::split::{ROW_TILE, TILE_BYTES, Terms};

/// AVX-512's kernels beside the matrix unit.
pub(crate) static KERNELS: Kernels = Kernels { unit: Some(&UNIT), ..super::avx512::KERNELS };

static UNIT: Unit = Unit {
    multiplies_f32: true,
    pays: || true,
    configure,
    release,
    split,
    narrow,
    pair,
    softmax,
    scores: Some(scores),
    widen_f16,
    multiply,
};

/// Whether the processor has tiles and the system lets this process use them.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && permitted())
}

fn processor_has_tiles() -> bool {
    /// In EDX of leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    // Leaf 7 is there where AVX-512 is.
    super::avx512_bf16::available() && __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
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
                "test {at}, {at}",
                "jnz 3f",
                $($zero,)*
                "jmp 2f",
                "3:",
                $($load,)*
                "2:",
                "mov {at}, [{a_steps}]",
                "add {a_steps}, 8",
                $($body,)*
                "dec {steps}",
                "jnz 2b",
                $($store,)*
                // At first whether to accumulate, then where the step's tile begins.
                at = inout(reg) usize::from(m.accumulate) => _,
                a_steps = inout(reg) m.a_steps => _,
                a0 = in(reg) m.a,
                a1 = in(reg) m.a.wrapping_byte_add(m.a_second),
                low = in(reg) m.a_low,
                a_stride = in(reg) m.a_row,
                tile = out(reg) _,
                b = inout(reg) m.b => _,
                b_stride = in(reg) 128usize,
                steps = inout(reg) m.steps => _,
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
                "lea {tile}, [{a0} + {at}]",
                "tileloadd tmm4, [{tile} + {a_stride}]",
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "lea {tile}, [{a1} + {at}]",
                "tileloadd tmm5, [{tile} + {a_stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {b}, 2048",
                "/* {low} */",
            ),
            (Terms::One, _) => product!(one row:
                "lea {tile}, [{a0} + {at}]",
                "tileloadd tmm4, [{tile} + {a_stride}]",
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {b}, 2048",
                "/* {low} */",
            ),
            // The small products first: low by high, high by high, high by low.
            (Terms::Three, 2) => product!(two rows:
                "lea {tile}, [{a0} + {at}]",
                "add {tile}, {low}",
                "tileloadd tmm4, [{tile} + {a_stride}]",
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "lea {tile}, [{a1} + {at}]",
                "add {tile}, {low}",
                "tileloadd tmm5, [{tile} + {a_stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "lea {tile}, [{a0} + {at}]",
                "tileloadd tmm4, [{tile} + {a_stride}]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "lea {tile}, [{a1} + {at}]",
                "tileloadd tmm5, [{tile} + {a_stride}]",
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
                "add {b}, 4096",
            ),
            (Terms::Three, _) => product!(one row:
                "tileloadd tmm6, [{b} + {b_stride}]",
                "tileloadd tmm7, [{b} + {b_stride} + 64]",
                "lea {tile}, [{a0} + {at}]",
                "tileloadd tmm5, [{tile} + {a_stride}]",
                "add {tile}, {low}",
                "tileloadd tmm4, [{tile} + {a_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {b_stride} + 2048]",
                "tileloadd tmm7, [{b} + {b_stride} + 2112]",
                "tdpbf16ps tmm0, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "add {b}, 4096",
            ),
        }
    }
}

/// The queries stay in four tiles, so that of the keys alone two are read for four products.
///
/// # Safety
/// [`available`], [`configure`] was called on this thread, and the pointers are good for what [`Scores`] says, whose rows are not 0.
unsafe fn scores(s: &Scores) {
    // SAFETY: the caller's promise; the tiles are clobbered, nothing else is kept in them.
    unsafe {
        asm!(
            "tileloadd tmm4, [{b} + {c_stride}]",
            "tileloadd tmm5, [{b} + {c_stride} + 64]",
            "tileloadd tmm6, [{b} + {c_stride} + 2048]",
            "tileloadd tmm7, [{b} + {c_stride} + 2112]",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tileloadd tmm2, [{a} + {a_stride}]",
            "tdpbf16ps tmm0, tmm2, tmm4",
            "tileloadd tmm3, [{a} + {a_stride} + 1024]",
            "tdpbf16ps tmm1, tmm2, tmm5",
            "tdpbf16ps tmm0, tmm3, tmm6",
            "tdpbf16ps tmm1, tmm3, tmm7",
            "tilestored [{c} + {c_stride}], tmm0",
            "tilestored [{c} + {c_stride} + 64], tmm1",
            "add {a}, 2048",
            "add {c}, 2048",
            "dec {tiles}",
            "jnz 2b",
            a = inout(reg) s.keys => _,
            a_stride = in(reg) 64usize,
            b = in(reg) s.queries,
            c = inout(reg) s.to => _,
            c_stride = in(reg) 128usize,
            tiles = inout(reg) s.rows / ROW_TILE => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
