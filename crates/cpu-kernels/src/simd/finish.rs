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

/// `y = a * gelu(gate)` for `rows x cols`.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
pub(super) unsafe fn geglu<V: Vector>(
    a: *const f32,
    gate: *const f32,
    ld: usize,
    rows: usize,
    cols: usize,
    y: *mut f32,
    ldy: usize,
) {
    for i in 0..rows {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, gate, y) = (a.add(i * ld), gate.add(i * ld), y.add(i * ldy));
            sweep!(V, cols, |j| V::load(a.add(j)).mul(math::gelu(V::load(gate.add(j)))).store(y.add(j)), |rest| {
                let product = V::load_partial(a.add(j), rest).mul(math::gelu(V::load_partial(gate.add(j), rest)));
                product.store_partial(y.add(j), rest);
            });
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
