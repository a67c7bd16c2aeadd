use super::Vector;

/// A column of tiles of a matrix product: `c = bias + addend + a b`, `a` being `rows x k`, `b` `k x (vectors * LANES)`.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Registers in a row of the tile, 1 to 4.
    pub(crate) vectors: usize,
    /// Any number.
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
    pub(crate) ahead: Ahead,
}

/// What is fetched into the cache while a tile is multiplied: for each input as many lines as a row of the panel has. Memory that
/// is not there is not fetched.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) from: *const u8,
    /// Bytes from one input to the next.
    pub(crate) input: usize,
    /// Bytes from one line of an input to the next.
    pub(crate) line: usize,
    /// Bytes from one tile to the next.
    pub(crate) tile: usize,
}

impl Ahead {
    /// How many rows of a panel it is ahead: far enough for the third cache.
    const ROWS: usize = 24;

    /// The rows of the panel that are multiplied soon.
    pub(crate) fn panel(b: *const f32, ldb: usize) -> Self {
        Self { from: b.wrapping_add(Self::ROWS * ldb).cast(), input: size_of::<f32>() * ldb, line: LINE, tile: 0 }
    }

    /// `len` bytes that are wanted behind a strip of so many tiles of `inputs`, a part of them in each tile.
    pub(crate) fn next(from: *const u8, len: usize, inputs: usize, tiles: usize) -> Self {
        let (inputs, tile) = (inputs.max(1), len.div_ceil(tiles.max(1)));
        Self { from, input: tile.div_ceil(inputs), line: 0, tile }
    }
}

/// Bytes in a cache line.
const LINE: usize = 64;

/// Any number of tiles below each other, as equal as can be.
///
/// # Safety
/// As [`Vector`]; `vectors` is within its bounds and every pointer is good for the shape that [`Tile`] gives it.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)] // said once, inside the macro
pub(super) unsafe fn tiles<V: Vector>(t: &Tile) {
    let count = t.rows.div_ceil(V::ROWS[t.vectors]).max(1);
    let (rows, larger) = (t.rows / count, t.rows % count);
    macro_rules! arms {
        ($rows:expr, $from:expr, $to:expr; $($M:literal)*) => {
            match (t.vectors, $rows) {
                (_, 0) => {}
                // SAFETY: the caller's promise; these tiles lie within the strip.
                $((1, $M) => unsafe { column::<V, $M, 1>(t, $from, $to) },
                  (2, $M) => unsafe { column::<V, $M, 2>(t, $from, $to) },
                  (3, $M) => unsafe { column::<V, $M, 3>(t, $from, $to) },
                  (4, $M) => unsafe { column::<V, $M, 4>(t, $from, $to) },)*
                _ => unreachable!("tiles of {} rows of {} registers", $rows, t.vectors),
            }
        };
    }
    let middle = larger * (rows + 1);
    // First those with one row more. An instance of its own for each would double the code.
    for (rows, from, to) in [(rows + 1, 0, middle), (rows, middle, t.rows)] {
        if from < to {
            arms!(rows, from, to; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        }
    }
}

/// Tiles of `M` rows from row `from` to row `to`.
///
/// # Safety
/// As [`tiles`]; the rows lie within the strip.
#[inline(always)]
unsafe fn column<V: Vector, const M: usize, const N: usize>(t: &Tile, from: usize, to: usize) {
    for row in (from..to).step_by(M) {
        // SAFETY: the caller's promise; a null addend is not read.
        unsafe {
            let tile = Tile {
                a: t.a.add(row * t.lda),
                addend: t.addend.wrapping_add(if t.addend.is_null() { 0 } else { row * t.ld_addend }),
                c: t.c.add(row * t.ldc),
                ahead: Ahead { from: t.ahead.from.wrapping_add(row / M * t.ahead.tile), ..t.ahead },
                ..*t
            };
            fixed::<V, M, N>(&tile);
        }
    }
}

/// # Safety
/// As [`tiles`], whose shape is `M` rows of `N` registers.
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
        let (mut a, mut b, mut ahead) = (t.a, t.b, t.ahead.from);
        for _ in 0..t.k / V::UNROLL {
            for u in 0..V::UNROLL {
                add_input::<V, M, N>(t, a.add(u), b.add(u * t.ldb), ahead.wrapping_add(u * t.ahead.input), &mut sums);
            }
            a = a.wrapping_add(V::UNROLL);
            b = b.wrapping_add(V::UNROLL * t.ldb);
            ahead = ahead.wrapping_add(V::UNROLL * t.ahead.input);
        }
        for _ in 0..t.k % V::UNROLL {
            add_input::<V, M, N>(t, a, b, ahead, &mut sums);
            a = a.wrapping_add(1);
            b = b.wrapping_add(t.ldb);
            ahead = ahead.wrapping_add(t.ahead.input);
        }
        for i in 0..M {
            for j in 0..N {
                sums[i][j].store(t.c.add(i * t.ldc + j * V::LANES));
            }
        }
    }
}

/// The products of one input of `M` rows, the first at `a`, and one row of the panel, at `b`.
///
/// # Safety
/// As [`fixed`].
#[inline(always)]
unsafe fn add_input<V: Vector, const M: usize, const N: usize>(
    t: &Tile,
    a: *const f32,
    b: *const f32,
    ahead: *const u8,
    sums: &mut [[V; N]; M],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut row = [V::splat(0.0); N];
        for j in 0..N {
            row[j] = V::load(b.add(j * V::LANES));
            let floats = j * V::LANES;
            if floats.is_multiple_of(LINE / size_of::<f32>()) {
                V::prefetch(ahead.wrapping_add(floats * size_of::<f32>() / LINE * t.ahead.line).cast());
            }
        }
        for i in 0..M {
            let x = V::splat(a.add(i * t.lda).read());
            for j in 0..N {
                sums[i][j] = x.mul_add(row[j], sums[i][j]);
            }
        }
    }
}
