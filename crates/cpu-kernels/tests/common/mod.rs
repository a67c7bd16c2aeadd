//! What the tests of the kernels share.
#![allow(unreachable_pub, missing_docs)]
use cpu_kernels::Isa;

pub fn on_every_isa(test: impl Fn(Isa)) {
    for isa in Isa::available() {
        isa.with(|| test(isa));
    }
}

/// Largest error allowed, as a share of the root mean square of what is wanted. A matrix unit's products are right to 2^-16.
pub fn tolerance(isa: Isa) -> f64 {
    if matches!(isa, Isa::Amx | Isa::ScalarAmx) { 4e-5 } else { 1e-5 }
}

/// Uniform in -1..1, from xorshift.
pub fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Compares, and gives the largest error as a share of the root mean square of what is wanted.
#[track_caller]
pub fn check(what: &str, got: &[f32], want: &[f64], tolerance: f64) -> f64 {
    assert_eq!(got.len(), want.len(), "{what}: length");
    if want.is_empty() {
        return 0.0;
    }
    let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
    let error = |(got, want): (&f32, &f64)| {
        let e = (f64::from(*got) - want).abs() / rms.max(1e-30);
        if e.is_nan() { f64::INFINITY } else { e }
    };
    let worst = got.iter().zip(want).map(error).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: error {worst:.2e} of the RMS, allowed {tolerance:.0e}");
    worst
}
