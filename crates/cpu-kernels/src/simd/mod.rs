//! Everything that is compiled once for each instruction set.
//!
//! [`Vector`] is what the algorithms are written over; [`Kernels`] is the table of their instances. An algorithm is an
//! `#[inline(always)]` function over `V: Vector`; its instance is a function with `#[target_feature]` into which all of it is
//! inlined (as in memchr). Nothing in here knows of threads.

#[cfg(target_arch = "x86_64")]
mod avx512_softmax;
#[cfg(target_arch = "x86_64")]
mod avx512_terms;
mod finish;
mod math;
mod rows;
mod tile;
mod units;
mod winograd;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_bf16;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;
pub(crate) mod scalar_units;

pub(crate) use finish::{Emit, Geglu};
pub(crate) use tile::{Ahead, Tile};
pub(crate) use units::{Multiply, Narrow, Pair, Scores, Split, Unit};

use crate::{Activation, Precision};

/// The largest [`Vector::LANES`].
pub(crate) const MAX_LANES: usize = 16;
/// The most rows that one tile of any instruction set has.
pub(crate) const MAX_ROWS: usize = 14;

/// A register of `f32`.
///
/// # Safety
/// Every function may only be called where the instruction set of the type is there; pointers must be good for `LANES` floats
/// (or for `count` in the partial ones) and need no alignment.
pub(crate) trait Vector: Copy {
    /// Floats in a register.
    const LANES: usize;
    /// Registers in a row of a packed panel.
    const PANEL: usize;
    /// How many rows a tile of 1, 2, 3 or 4 registers has at most, so that all of its sums stay in registers.
    const ROWS: [usize; 5];
    /// Inputs in one round of a product's loop. Counting them takes instructions, for which there is no room where registers are
    /// narrow; where tiles are large, unrolled loops keep so many addresses that they are read back from memory for each input.
    const UNROLL: usize;
    /// What of a product is held in which cache.
    const BLOCKING: Blocking;
    /// The side of what [`Vector::transpose_square`] takes.
    const SQUARE: usize = 4;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn load_f16(from: *const u16) -> Self;
    unsafe fn load_bf16(from: *const u16) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, in one rounding where the machine can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The larger; `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller; `other` where either is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// To the nearest integer, ties to even.
    unsafe fn round(self) -> Self;
    /// `self * 2^exponent` for whole exponents from -126 to 127.
    unsafe fn scale(self, exponent: Self) -> Self;
    unsafe fn sum(self) -> f32;
    unsafe fn largest(self) -> f32;

    #[inline(always)]
    unsafe fn prefetch(_at: *const f32) {}

    /// The first `count` floats, zeros behind them.
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: the caller promises `count` < LANES readable floats.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    /// The first `count` lanes.
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: the caller promises room for `count` < LANES floats.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }

    /// `y` of `cols x rows` from `x` of `rows x cols`, neither more than [`Vector::SQUARE`].
    unsafe fn transpose_square(x: *const f32, ldx: usize, rows: usize, cols: usize, y: *mut f32, ldy: usize) {
        for r in 0..rows {
            for c in 0..cols {
                // SAFETY: the pointers are good for the shapes at their strides.
                unsafe { y.add(c * ldy + r).write(x.add(r * ldx + c).read()) };
            }
        }
    }
}

/// How a matrix product is cut into blocks.
#[derive(Clone, Copy)]
pub(crate) struct Blocking {
    /// Inputs that are multiplied in one go: a tile's rows and a panel of that many lie in the first cache.
    pub(crate) inputs: usize,
    /// Rows of a block that is used against a group of panels while it is in the second cache.
    pub(crate) rows: usize,
    /// Panels whose blocks lie in the second cache together.
    pub(crate) panels: usize,
    /// Rows whose sums are held until all inputs have gone by.
    pub(crate) held_rows: usize,
    /// Keys whose scores are held at once: with a panel of queries they lie in the first cache.
    pub(crate) keys: usize,
}

impl Blocking {
    /// For a second cache of a megabyte or more.
    pub(crate) const LARGE: Self = Self { inputs: 384, rows: 56, panels: 16, held_rows: usize::MAX, keys: 128 };
}

/// The kernels of one instruction set. `# Safety` of each: see the function in `tile`, `finish`, `rows` or `math` that it is made of; the
/// machine must have the set, which whoever hands out the table has checked.
pub(crate) struct Kernels {
    pub(crate) lanes: usize,
    /// Registers in a row of a packed panel.
    pub(crate) panel_vectors: usize,
    /// `Vector::ROWS`.
    pub(crate) rows: [usize; 5],
    pub(crate) blocking: Blocking,
    /// What multiplies `bf16`, where there is such a thing; see [`Kernels::unit`].
    pub(crate) unit: Option<&'static Unit>,
    pub(crate) tiles: unsafe fn(&Tile),
    pub(crate) emit: unsafe fn(&Emit),
    pub(crate) finish: unsafe fn(Activation, *mut f32, usize, usize, usize, *const f32, usize),
    pub(crate) geglu: unsafe fn(&Geglu),
    pub(crate) multiply_adds: unsafe fn(usize, *mut f32),
    pub(crate) activate: unsafe fn(Activation, *mut f32, usize),
    pub(crate) add: unsafe fn(*const f32, *mut f32, usize),
    pub(crate) widen_f16: unsafe fn(*const u16, *mut f32, usize),
    pub(crate) widen_bf16: unsafe fn(*const u16, *mut f32, usize),
    pub(crate) softmax_block: unsafe fn(&rows::SoftmaxBlock),
    pub(crate) softmax_row: unsafe fn(*mut f32, usize),
    pub(crate) transpose: unsafe fn(*const f32, usize, usize, usize, *mut f32, usize),
    pub(crate) scale: unsafe fn(*const f32, f32, *mut f32, usize),
    pub(crate) layer_norm: unsafe fn(*const f32, usize, *const f32, *const f32, f32, *mut f32),
    pub(crate) channel_sums: unsafe fn(*const f32, usize, usize, *mut f32, *mut f32),
    pub(crate) winograd_weight: unsafe fn(usize, *const f32, usize, *mut f32, usize),
    pub(crate) winograd_input: unsafe fn(&InputTile),
    pub(crate) winograd_output: unsafe fn(&OutputTile),
    pub(crate) affine: unsafe fn(*const f32, usize, usize, *const f32, *const f32, Activation, *mut f32),
}

/// Asks for a panel's columns of `rows` rows to be brought to this core, to be written soon, while something else is computed: a
/// result that is larger than the second cache takes as long to come as a product of a few hundred inputs takes to be made. The
/// memory may be anything.
#[inline]
pub(crate) fn claim(y: *const f32, ldy: usize, rows: usize) {
    #[cfg(target_arch = "x86_64")]
    for row in 0..rows {
        for column in (0..crate::split::PANEL_COLUMNS).step_by(LINE) {
            let line = y.wrapping_add(row * ldy + column);
            // SAFETY: every x86-64 passes the instruction, which changes nothing and never faults.
            unsafe { std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (y, ldy, rows);
}

/// Floats of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 16;

pub(crate) use math::MULTIPLY_ADDS;
pub(crate) use rows::SoftmaxBlock;
pub(crate) use winograd::{InputTile, OutputTile};

impl Kernels {
    /// Floats in a row of a packed panel.
    pub(crate) fn panel(&self) -> usize {
        self.panel_vectors * self.lanes
    }

    /// The unit that products of this precision are made on; `None` for registers of `f32`.
    pub(crate) fn unit(&self, precision: Precision) -> Option<&'static Unit> {
        self.unit.filter(|unit| precision == Precision::Bf16 || unit.multiplies_f32)
    }
}

/// Instantiates every algorithm for one vector type; the attributes carry the target features.
macro_rules! instantiate {
    ($(#[$features:meta])* $vector:ty) => {
        use $crate::Activation;
        use $crate::simd::{Emit, InputTile, Kernels, OutputTile, SoftmaxBlock, Tile, Vector};
        use $crate::simd::{finish, math, rows, tile, winograd};

        $crate::simd::instantiate!(@functions [$(#[$features])*] $vector;
            fn tiles(t: &Tile) = tile::tiles;
            fn emit(e: &Emit) = finish::emit;
            fn finish(act: Activation, c: *mut f32, ldc: usize, m: usize, n: usize, residual: *const f32, ld: usize) = finish::finish;
            fn geglu(g: &$crate::simd::Geglu) = finish::geglu;
            fn multiply_adds(rounds: usize, x: *mut f32) = math::multiply_adds;
            fn activate(act: Activation, x: *mut f32, len: usize) = math::activate;
            fn add(x: *const f32, y: *mut f32, len: usize) = rows::add;
            fn widen_f16(x: *const u16, y: *mut f32, len: usize) = rows::widen_f16;
            fn widen_bf16(x: *const u16, y: *mut f32, len: usize) = rows::widen_bf16;
            fn softmax_block(b: &SoftmaxBlock) = rows::softmax_block;
            fn softmax_row(x: *mut f32, len: usize) = rows::softmax_row;
            fn transpose(x: *const f32, ldx: usize, m: usize, n: usize, y: *mut f32, ldy: usize) = rows::transpose;
            fn scale(x: *const f32, factor: f32, y: *mut f32, len: usize) = rows::scale;
            fn layer_norm(x: *const f32, c: usize, weight: *const f32, bias: *const f32, eps: f32, y: *mut f32) = rows::layer_norm;
            fn channel_sums(x: *const f32, m: usize, c: usize, sums: *mut f32, squares: *mut f32) = rows::channel_sums;
            fn winograd_weight(tile: usize, g: *const f32, width: usize, u: *mut f32, stride: usize) = winograd::winograd_weight;
            fn winograd_input(t: &InputTile) = winograd::winograd_input;
            fn winograd_output(t: &OutputTile) = winograd::winograd_output;
            fn affine(x: *const f32, m: usize, c: usize, a: *const f32, b: *const f32, act: Activation, y: *mut f32) = rows::affine;
        );
    };
    (@functions $features:tt $vector:ty; $(fn $name:ident($($arg:ident: $type:ty),*) = $module:ident::$function:ident;)*) => {
        $($crate::simd::instantiate!(@function $features $vector; fn $name($($arg: $type),*) = $module::$function);)*

        pub(crate) static KERNELS: Kernels = Kernels {
            lanes: <$vector>::LANES,
            panel_vectors: <$vector>::PANEL,
            rows: <$vector>::ROWS,
            blocking: <$vector>::BLOCKING,
            unit: None,
            $($name,)*
        };
    };
    (@function [$(#[$features:meta])*] $vector:ty; fn $name:ident($($arg:ident: $type:ty),*) = $module:ident::$function:ident) => {
        $(#[$features])*
        unsafe fn $name($($arg: $type),*) {
            // SAFETY: what the caller promises is what the function asks for.
            unsafe { $module::$function::<$vector>($($arg),*) }
        }
    };
}
pub(crate) use instantiate;
