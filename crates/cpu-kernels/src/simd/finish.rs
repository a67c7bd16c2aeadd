//! What is done to a tile of a product while it is still in the cache.
use super::rows::sweep;
use super::{Vector, math};
use crate::Activation;

/// Applies `act` to `rows x cols` of `c`, then adds the residual (null for none).
///
/// # Safety
/// As [`Vector`]; pointers are good for `rows` rows of `cols` floats at their strides.
#[inline(always)]
pub(super) unsafe fn finish<V: Vector>(
    act: Activation,
    c: *mut f32,
    ldc: usize,
    rows: usize,
    cols: usize,
    residual: *const f32,
    ld_residual: usize,
) {
    for i in 0..rows {
        // SAFETY: the caller's promise; the residual is read only where there is one.
        unsafe {
            let c = c.add(i * ldc);
            let r = residual.wrapping_add(i * ld_residual);
            sweep!(
                V,
                cols,
                |j| {
                    let mut x = math::act(act, V::load(c.add(j)));
                    if !residual.is_null() {
                        x = x.add(V::load(r.add(j)));
                    }
                    x.store(c.add(j));
                },
                |rest| {
                    let mut x = math::act(act, V::load_partial(c.add(j), rest));
                    if !residual.is_null() {
                        x = x.add(V::load_partial(r.add(j), rest));
                    }
                    x.store_partial(c.add(j), rest);
                }
            );
        }
    }
}

/// `y = (a + bias) * gelu(gate + bias)`, from the sums of two strips to their place in the result.
pub(crate) struct Geglu {
    pub(crate) a: *const f32,
    pub(crate) gate: *const f32,
    /// Floats from a row of `a` to the next, and so of `gate`.
    pub(crate) ld: usize,
    /// Of `a` and of `gate`; `None` where the sums have them already.
    pub(crate) bias: Option<[*const f32; 2]>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) y: *mut f32,
    pub(crate) ldy: usize,
}

/// # Safety
/// As [`Vector`]; the pointers are good for the rows and columns that [`Geglu`] gives.
#[inline(always)]
pub(super) unsafe fn geglu<V: Vector>(g: &Geglu) {
    for i in 0..g.rows {
        // SAFETY: the caller's promise; a bias is read only where there is one.
        unsafe {
            let (a, gate, y) = (g.a.add(i * g.ld), g.gate.add(i * g.ld), g.y.add(i * g.ldy));
            sweep!(
                V,
                g.columns,
                |j| {
                    let (mut a, mut gate) = (V::load(a.add(j)), V::load(gate.add(j)));
                    if let Some([of_a, of_gate]) = g.bias {
                        (a, gate) = (a.add(V::load(of_a.add(j))), gate.add(V::load(of_gate.add(j))));
                    }
                    a.mul(math::gelu(gate)).store(y.add(j));
                },
                |rest| {
                    let (mut a, mut gate) = (V::load_partial(a.add(j), rest), V::load_partial(gate.add(j), rest));
                    if let Some([of_a, of_gate]) = g.bias {
                        a = a.add(V::load_partial(of_a.add(j), rest));
                        gate = gate.add(V::load_partial(of_gate.add(j), rest));
                    }
                    a.mul(math::gelu(gate)).store_partial(y.add(j), rest);
                }
            );
        }
    }
}

/// `y = act(sums + bias) + residual`, from the sums of a strip to its place in the result.
pub(crate) struct Emit {
    pub(crate) sums: *const f32,
    pub(crate) ld_sums: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bias: *const f32,
    pub(crate) act: Activation,
    /// Null for none; laid out as `y`.
    pub(crate) residual: *const f32,
    pub(crate) y: *mut f32,
    pub(crate) ldy: usize,
}

/// # Safety
/// As [`Vector`]; the pointers are good for the rows and columns that [`Emit`] gives.
#[inline(always)]
pub(super) unsafe fn emit<V: Vector>(e: &Emit) {
    for i in 0..e.rows {
        // SAFETY: the caller's promise; the residual is read only where there is one.
        unsafe {
            let (sums, y) = (e.sums.add(i * e.ld_sums), e.y.add(i * e.ldy));
            let r = e.residual.wrapping_add(i * e.ldy);
            sweep!(
                V,
                e.columns,
                |j| {
                    let mut x = math::act(e.act, V::load(sums.add(j)).add(V::load(e.bias.add(j))));
                    if !e.residual.is_null() {
                        x = x.add(V::load(r.add(j)));
                    }
                    x.store(y.add(j));
                },
                |rest| {
                    let sum = V::load_partial(sums.add(j), rest).add(V::load_partial(e.bias.add(j), rest));
                    let mut x = math::act(e.act, sum);
                    if !e.residual.is_null() {
                        x = x.add(V::load_partial(r.add(j), rest));
                    }
                    x.store_partial(y.add(j), rest);
                }
            );
        }
    }
}
