//! Elementary functions on registers, to a few units in the last place.
use super::Vector;
use crate::Activation;

/// What one round of [`multiply_adds`] is made of.
pub(crate) const MULTIPLY_ADDS: usize = 12;

/// `2^x` for x up to 0, as softmax needs it; below -126 the result stays 2^-126. Relative error 2e-7.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
#[allow(clippy::approx_constant)] // the minimax coefficient is near ln 2, not equal to it
pub(super) unsafe fn exp2<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = V::splat(-126.0).max(x);
        let n = x.round();
        let f = x.sub(n);
        // Minimax for the relative error on [-1/2, 1/2] with the constant term held at 1: 9.1e-8.
        let p = V::splat(1.326_472_7e-3);
        let p = p.mul_add(f, V::splat(9.671_513e-3));
        let p = p.mul_add(f, V::splat(5.550_733_6e-2));
        let p = p.mul_add(f, V::splat(2.402_224_2e-1));
        let p = p.mul_add(f, V::splat(6.931_47e-1));
        let p = p.mul_add(f, V::splat(1.0));
        p.scale(n)
    }
}

/// `e^x`, held between the smallest normal number and the largest power of two below infinity.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = V::splat(88.0).min(V::splat(-87.0).max(x));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts, the first exact in few bits (Cody and Waite).
        let r = n.mul_add(V::splat(-0.693_359_4), x);
        let r = n.mul_add(V::splat(2.121_944_4e-4), r);
        // Minimax for the relative error on [-ln 2 / 2, ln 2 / 2], both first terms held at 1: 3.1e-9.
        let p = V::splat(1.381_461_3e-3);
        let p = p.mul_add(r, V::splat(8.368_71e-3));
        let p = p.mul_add(r, V::splat(4.166_839e-2));
        let p = p.mul_add(r, V::splat(1.666_652_1e-1));
        let p = p.mul_add(r, V::splat(4.999_999_4e-1));
        let p = p.mul_add(r, V::splat(1.0));
        let p = p.mul_add(r, V::splat(1.0));
        p.scale(n)
    }
}

/// `1 / (1 + e^-x)` times `factor`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn times_sigmoid<V: Vector>(factor: V, x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe { factor.div(V::splat(1.0).add(exp(V::splat(0.0).sub(x)))) }
}

/// The error function: a rational minimax approximation on [-4, 4], beyond which it is 1 to f32 precision
/// (coefficients of Eigen's `generic_fast_erf_float`).
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn erf<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = V::splat(4.0).min(V::splat(-4.0).max(x));
        let z = x.mul(x);
        let p = V::splat(-2.726_142_3e-10);
        let p = p.mul_add(z, V::splat(2.770_681_4e-8));
        let p = p.mul_add(z, V::splat(-2.101_024e-6));
        let p = p.mul_add(z, V::splat(-5.692_506_5e-5));
        let p = p.mul_add(z, V::splat(-7.349_906_3e-4));
        let p = p.mul_add(z, V::splat(-2.954_6e-3));
        let p = p.mul_add(z, V::splat(-1.609_603_3e-2));
        let q = V::splat(-1.456_607_2e-5);
        let q = q.mul_add(z, V::splat(-2.133_740_6e-4));
        let q = q.mul_add(z, V::splat(-1.682_827e-3));
        let q = q.mul_add(z, V::splat(-7.373_329e-3));
        let q = q.mul_add(z, V::splat(-1.426_473_9e-2));
        x.mul(p).div(q)
    }
}

/// `x * Phi(x)`.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn gelu<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let phi = erf(x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2))).add(V::splat(1.0));
        x.mul(V::splat(0.5)).mul(phi)
    }
}

/// # Safety
/// As [`Vector`].
#[inline(always)]
pub(super) unsafe fn act<V: Vector>(act: Activation, x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        match act {
            Activation::None => x,
            Activation::Relu => V::splat(0.0).max(x),
            Activation::Silu => times_sigmoid(x, x),
            Activation::Gelu => gelu(x),
            Activation::QuickGelu => times_sigmoid(x, x.mul(V::splat(1.702))),
        }
    }
}

/// # Safety
/// As [`Vector`]; `x` is good for `len` floats.
#[inline(always)]
pub(super) unsafe fn activate<V: Vector>(activation: Activation, x: *mut f32, len: usize) {
    // SAFETY: every access lies below `len`.
    unsafe {
        let mut i = 0;
        while i + V::LANES <= len {
            act(activation, V::load(x.add(i))).store(x.add(i));
            i += V::LANES;
        }
        if i < len {
            act(activation, V::load_partial(x.add(i), len - i)).store_partial(x.add(i), len - i);
        }
    }
}

/// `rounds` times twelve multiply-adds that wait for nobody, in registers: more than two units of four cycles'
/// latency can have in flight.
///
/// # Safety
/// As [`Vector`]; `x` is good for LANES floats.
#[inline(always)]
pub(super) unsafe fn multiply_adds<V: Vector>(rounds: usize, x: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (factor, addend) = (V::load(x), V::splat(1e-3));
        let mut chains = [addend; MULTIPLY_ADDS];
        for _ in 0..rounds {
            for i in 0..MULTIPLY_ADDS {
                chains[i] = chains[i].mul_add(factor, addend);
            }
        }
        let mut sum = chains[0];
        for i in 1..MULTIPLY_ADDS {
            sum = sum.add(chains[i]);
        }
        sum.store(x);
    }
}
