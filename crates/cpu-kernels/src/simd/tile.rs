use super::Vector;

/// One tile of a matrix product: `c = bias + addend + a b`, `a` being `rows x k`, `b` `k x (vectors * LANES)`.
pub(crate) struct Tile {
    /// Registers in a row of the tile, 1 to 4.
    pub(crate) vectors: usize,
    /// At most `Vector::ROWS[vectors]`.
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) lda: usize,
    pub(crate) b: *const f32,
    pub(crate) ldb: usize,
    /// One row for all, or null for zeros.
    pub(crate) bias: *const f32,
    /// A row for each, or null for zeros; may be `c`.
    pub(crate) addend: *const f32,
    pub(crate) ld_addend: usize,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
}

/// How many rows of the panel are fetched ahead: far enough for the third cache.
const PREFETCH_ROWS: usize = 24;

/// # Safety
/// As [`Vector`]; `vectors` and `rows` are within their bounds and every pointer is good for the shape that [`Tile`] gives it.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)] // said once, inside the macro
pub(super) unsafe fn tile<V: Vector>(t: &Tile) {
    macro_rules! arms {
        ($($rows:literal)*) => {
            match (t.vectors, t.rows) {
                // SAFETY: the caller's promise.
                $((1, $rows) => unsafe { fixed::<V, $rows, 1>(t) },
                  (2, $rows) => unsafe { fixed::<V, $rows, 2>(t) },
                  (3, $rows) => unsafe { fixed::<V, $rows, 3>(t) },
                  (4, $rows) => unsafe { fixed::<V, $rows, 4>(t) },)*
                _ => unreachable!("a tile of {} rows of {} registers", t.rows, t.vectors),
            }
        };
    }
    arms!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// # Safety
/// As [`tile`], whose shape is `M` rows of `N` registers.
#[inline(always)]
unsafe fn fixed<V: Vector, const M: usize, const N: usize>(t: &Tile) {
    if M > V::ROWS[N] {
        // Decided as this is compiled: tiles that do not fit in the registers do not exist.
        unreachable!("a tile of {M} rows of {N} registers");
    }
    // SAFETY: offsets stay within rows * ld, k * ldb and vectors * LANES.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; M];
        if !t.bias.is_null() {
            for j in 0..N {
                let bias = V::load(t.bias.add(j * V::LANES));
                for row in &mut sums {
                    row[j] = bias;
                }
            }
        }
        if !t.addend.is_null() {
            for i in 0..M {
                for j in 0..N {
                    sums[i][j] = sums[i][j].add(V::load(t.addend.add(i * t.ld_addend + j * V::LANES)));
                }
            }
        }
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.k {
            let mut row = [V::splat(0.0); N];
            for j in 0..N {
                row[j] = V::load(b.add(j * V::LANES));
                // Beyond the end of b this is harmless, and mostly the next panel.
                V::prefetch(b.wrapping_add(PREFETCH_ROWS * t.ldb + j * V::LANES));
            }
            for i in 0..M {
                let x = V::splat(a.add(i * t.lda).read());
                for j in 0..N {
                    sums[i][j] = x.mul_add(row[j], sums[i][j]);
                }
            }
            a = a.wrapping_add(1);
            b = b.wrapping_add(t.ldb);
        }
        for i in 0..M {
            for j in 0..N {
                sums[i][j].store(t.c.add(i * t.ldc + j * V::LANES));
            }
        }
    }
}
