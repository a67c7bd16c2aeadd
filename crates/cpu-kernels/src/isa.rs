use std::cell::Cell;
use std::sync::OnceLock;

use crate::simd::{self, Kernels};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX-512 and AMX: matrix products on tiles of `bf16`, three of them for one of `f32`.
    Amx,
    /// x86-64 with AVX-512F: 16 lanes, 32 registers.
    Avx512,
    /// x86-64 with AVX2, FMA and F16C: 8 lanes, 16 registers.
    Avx2,
    /// aarch64: 4 lanes, 32 registers.
    Neon,
    /// Plain Rust, vectorised as far as the compiler finds it.
    Scalar,
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// Every set that this machine has, best first; the last is always [`Isa::Scalar`].
    pub fn available() -> Vec<Isa> {
        [Isa::Amx, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Scalar]
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
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Scalar => "scalar",
        }
    }

    fn kernels(self) -> Option<&'static Kernels> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if simd::amx::available() => Some(&simd::amx::KERNELS),
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
            _ => None,
        }
    }
}

/// Name of the instruction set in use: "amx", "avx512", "avx2", "neon" or "scalar".
pub fn isa() -> &'static str {
    Isa::current().name()
}

/// The functions of the set in use on this thread. Taken before work is shared out, so that every task uses the same.
pub(crate) fn kernels() -> &'static Kernels {
    Isa::current().kernels().expect("only sets that the machine has become current")
}
