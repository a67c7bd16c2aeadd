//! The few functions of NumPy and torch whose rounding shows in a schedule.
//!
//! A schedule is cut to whole timesteps in places, so that an ulp decides which timestep a network sees: these follow the
//! originals operation by operation, not only to the same formula.

/// `np.linspace(start, stop, count)`.
pub(super) fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count.max(2) - 1) as f64;
    let mut points: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    if count > 1 {
        points[count - 1] = stop;
    }
    points
}

/// `np.arange(start, stop, step)`.
pub(super) fn arange(start: f64, stop: f64, step: f64) -> Vec<f64> {
    let count = ((stop - start) / step).ceil().max(0.0) as usize;
    let delta = (start + step) - start;
    (0..count).map(|i| start + i as f64 * delta).collect()
}

/// `torch.linspace(start, stop, count, dtype=torch.float32)` on a CPU: from both ends to the middle, with fused
/// multiply-adds.
pub(super) fn linspace_f32(start: f64, stop: f64, count: usize) -> Vec<f32> {
    let (start, stop) = (start as f32, stop as f32);
    if count < 2 {
        return vec![start; count];
    }
    let step = (stop - start) / (count - 1) as f32;
    (0..count)
        .map(|i| match i < count / 2 {
            true => step.mul_add(i as f32, start),
            false => (-step).mul_add((count - i - 1) as f32, stop),
        })
        .collect()
}

/// `np.interp(x, np.arange(len(table)), table)`.
pub(super) fn interp(x: f64, table: &[f32]) -> f64 {
    let at = |i: usize| f64::from(table[i]);
    if x >= (table.len() - 1) as f64 {
        return at(table.len() - 1);
    }
    let below = x.max(0.0).floor();
    let i = below as usize;
    (at(i + 1) - at(i)) * (x.max(0.0) - below) + at(i)
}

/// `np.log` of a float32, as NumPy computes it on any x86-64 machine with AVX2: a quotient of two polynomials, up to four
/// ulp from the logarithm
/// ([source](https://github.com/numpy/numpy/blob/v2.3.0/numpy/_core/src/umath/loops_exponent_log.dispatch.c.src)).
///
/// Only for positive normal numbers; others get the exact logarithm.
pub(super) fn log_f32(x: f32) -> f32 {
    const P: [f32; 6] = [2.589_979_2e-2, 3.808_837_7e-1, 1.480_000_6, 2.112_677_6, 1.0, 0.0];
    const Q: [f32; 6] = [5.875_095_4e-3, 1.546_476_4e-1, 9.864_943e-1, 2.453_006, 2.612_677_6, 1.0];
    if !x.is_normal() || x < 0.0 {
        return x.ln();
    }
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    let mut mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    if mantissa <= std::f32::consts::FRAC_1_SQRT_2 {
        mantissa *= 2.0;
        exponent -= 1;
    }
    let y = mantissa - 1.0;
    let polynomial = |c: &[f32; 6]| c[1..].iter().fold(c[0], |sum, &c| sum.mul_add(y, c));
    (exponent as f32).mul_add(std::f32::consts::LN_2, polynomial(&P) / polynomial(&Q))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linspace_and_arange_meet_their_ends() {
        assert_eq!(linspace(0.0, 999.0, 1), [0.0]);
        assert_eq!(linspace(0.0, 999.0, 2), [0.0, 999.0]);
        assert_eq!(linspace(3.0, 1.0, 3), [3.0, 2.0, 1.0]);
        assert!(linspace(0.0, 1.0, 0).is_empty());
        assert_eq!(arange(1000.0, 0.0, -250.0), [1000.0, 750.0, 500.0, 250.0]);
        // len(np.arange(1000, 0, -1000 / 61)) is 62: the last value is a rounding error above 0.
        assert_eq!(arange(1000.0, 0.0, -1000.0 / 61.0).len(), 62);
        assert_eq!(linspace_f32(0.1, 0.77, 1), [0.1]);
        // torch.linspace(0.00085**.5, 0.012**.5, 1000)[[123, 777]]
        let sqrt_betas = linspace_f32(0.00085f64.sqrt(), 0.012f64.sqrt(), 1000);
        assert_eq!((sqrt_betas[123], sqrt_betas[777]), (0.039_052_594, 0.091_680_12));
    }

    #[test]
    fn interp_clamps_and_hits_the_table() {
        let table = [1.0, 2.0, 4.0];
        let values: Vec<f64> = [-1.0, 0.0, 0.5, 1.0, 1.25, 2.0, 7.0].iter().map(|&x| interp(x, &table)).collect();
        assert_eq!(values, [1.0, 1.0, 1.5, 2.0, 2.5, 4.0, 4.0]);
    }

    #[test]
    fn log_is_numpys() {
        // np.log(np.array([…], np.float32)) of NumPy 2.4.6 on a machine with AVX-512.
        let logs = [
            (1e-3, -6.9077554),
            (0.02916, -3.5349574),
            (0.11, -2.207_275),
            (0.70710677, -0.3465736),
            (0.7072, -0.346_441_8),
            (0.782369, -0.24542877),
            (0.999, -0.0010004874),
            (1.0, 0.0),
            (1.5, 0.4054651),
            (14.6146, 2.6820211),
            (157.40787, 5.0588403),
            (3e-30, -67.97894),
        ];
        for (x, expected) in logs {
            assert_eq!(log_f32(x), expected, "log({x})");
        }
        assert_eq!(log_f32(0.0), f32::NEG_INFINITY);
        assert!(log_f32(-1.0).is_nan());
    }
}
