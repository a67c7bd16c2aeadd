use std::cell::Cell;
use std::sync::OnceLock;

use crate::simd::{self, Kernels};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX-512 and AMX: matrix products on tiles of `bf16`, three of them for one of `f32`.
    Amx,
    /// x86-64 with AVX-512 and its BF16: as [`Isa::Avx512`], and dot products of `bf16` where that precision is asked for.
    Avx512Bf16,
    /// x86-64 with AVX-512F: 16 lanes, 32 registers.
    Avx512,
    /// x86-64 with AVX2, FMA and F16C: 8 lanes, 16 registers.
    Avx2,
    /// aarch64: 4 lanes, 32 registers.
    Neon,
    /// Plain Rust, vectorised as far as the compiler finds it.
    Scalar,
    /// What [`Isa::Amx`] computes, in plain Rust: for tests.
    ScalarAmx,
    /// What [`Isa::Avx512Bf16`] computes, in plain Rust: for tests.
    ScalarBf16,
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// Every set that this machine has, best first, and behind [`Isa::Scalar`] those for tests.
    pub fn available() -> Vec<Isa> {
        use Isa::{Amx, Avx2, Avx512, Avx512Bf16, Neon, Scalar, ScalarAmx, ScalarBf16};
        [Amx, Avx512Bf16, Avx512, Avx2, Neon, Scalar, ScalarAmx, ScalarBf16]
            .into_iter()
            .filter(|isa| isa.kernels().is_some())
            .collect()
    }

    /// The set in use on this thread: the best one, unless [`Isa::with`] says otherwise.
    pub fn current() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        FORCED.get().unwrap_or_else(|| *BEST.get_or_init(|| Isa::available()[0]))
    }

    /// Runs `f` with this set for every kernel that is called, and every weight that is packed, on this thread: for tests and
    /// benches. Packed weights keep the set that they were packed for.
    ///
    /// # Panics
    /// Where the machine lacks it.
    pub fn with<R>(self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        assert!(self.kernels().is_some(), "this machine has no {}; available: {:?}", self.name(), Isa::available());
        let _restore = Restore(FORCED.replace(Some(self)));
        f()
    }

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Scalar => "scalar",
            Isa::ScalarAmx => "scalar-amx",
            Isa::ScalarBf16 => "scalar-bf16",
        }
    }

    /// The set of this name, where the machine has it.
    pub fn named(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    fn kernels(self) -> Option<&'static Kernels> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if simd::amx::available() => Some(&simd::amx::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if simd::avx512_bf16::available() => Some(&simd::avx512_bf16::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if std::is_x86_feature_detected!("avx512f") => Some(&simd::avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2
                if std::is_x86_feature_detected!("avx2")
                    && std::is_x86_feature_detected!("fma")
                    && std::is_x86_feature_detected!("f16c") =>
            {
                Some(&simd::avx2::KERNELS)
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon if std::arch::is_aarch64_feature_detected!("neon") => Some(&simd::neon::KERNELS),
            Isa::Scalar => Some(&simd::scalar::KERNELS),
            Isa::ScalarAmx => Some(&simd::scalar_units::AMX),
            Isa::ScalarBf16 => Some(&simd::scalar_units::DOTS),
            _ => None,
        }
    }
}

/// Name of the instruction set in use: see [`Isa::name`].
pub fn isa() -> &'static str {
    Isa::current().name()
}

/// The functions of the set in use on this thread. Taken before work is shared out, so that every task uses the same.
pub(crate) fn kernels() -> &'static Kernels {
    Isa::current().kernels().expect("only sets that the machine has become current")
}
