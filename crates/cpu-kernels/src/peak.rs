use std::time::Instant;

use crate::isa;
use crate::simd::{MAX_LANES, MULTIPLY_ADDS};

/// Floating-point operations a second that the machine gives the current rayon pool, all its threads at once, when it multiplies
/// and adds in registers: what the speed of a kernel is a share of. The best of some twenty tries of a millisecond.
pub fn peak() -> f64 {
    let kernels = isa::kernels();
    let rounds = 200_000;
    let one = |_: rayon::BroadcastContext<'_>| {
        let run = || {
            let mut x = [0.999; MAX_LANES];
            let start = Instant::now();
            // SAFETY: x has room for a register of any instruction set.
            unsafe { (kernels.multiply_adds)(rounds, x.as_mut_ptr()) };
            let seconds = start.elapsed().as_secs_f64();
            std::hint::black_box(x);
            seconds
        };
        let best = (0..20).map(|_| run()).fold(f64::INFINITY, f64::min);
        (2 * rounds * MULTIPLY_ADDS * kernels.lanes) as f64 / best
    };
    rayon::broadcast(one).into_iter().sum()
}
