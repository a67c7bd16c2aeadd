use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(super) struct Zmm(pub(super) __m512);

// SAFETY, for every block below: the caller promises AVX-512F and good pointers, as `Vector` asks.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Zmm {
    const LANES: usize = 16;
    const PANEL: usize = 2;
    const ROWS: [usize; 5] = [0, 14, 14, 9, 6];
    const UNROLL: usize = 1;
    const BLOCKING: super::Blocking = super::Blocking::LARGE;
    const SQUARE: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        Self(unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))
        })
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    unsafe fn scale(self, exponent: Self) -> Self {
        Self(unsafe { _mm512_scalef_ps(self.0, exponent.0) })
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        Self(unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, from) })
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as u16, self.0) }
    }
    #[inline(always)]
    unsafe fn transpose_square(x: *const f32, ldx: usize, rows: usize, cols: usize, y: *mut f32, ldy: usize) {
        unsafe {
            let (row_mask, col_mask) = (((1u32 << rows) - 1) as u16, ((1u32 << cols) - 1) as u16);
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, r) in r.iter_mut().enumerate() {
                let mask = if i < rows { col_mask } else { 0 };
                *r = _mm512_maskz_loadu_ps(mask, x.wrapping_add(i * ldx));
            }
            // Within squares of four, each a quarter of four registers.
            for i in (0..16).step_by(4) {
                let a = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
                let b = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2], r[i + 3]));
                let c = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
                let d = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2], r[i + 3]));
                r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
                r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
            }
            // The squares: quarters 0 and 2 of the first and the second eight rows, then 1 and 3.
            let mut t = r;
            for j in 0..4 {
                let a = _mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]);
                let b = _mm512_shuffle_f32x4::<0x88>(r[8 + j], r[12 + j]);
                let c = _mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]);
                let d = _mm512_shuffle_f32x4::<0xdd>(r[8 + j], r[12 + j]);
                t[j] = _mm512_shuffle_f32x4::<0x88>(a, b);
                t[4 + j] = _mm512_shuffle_f32x4::<0x88>(c, d);
                t[8 + j] = _mm512_shuffle_f32x4::<0xdd>(a, b);
                t[12 + j] = _mm512_shuffle_f32x4::<0xdd>(c, d);
            }
            for (j, t) in t.iter().enumerate() {
                if j < cols {
                    _mm512_mask_storeu_ps(y.add(j * ldy), row_mask, *t);
                }
            }
        }
    }
}

super::instantiate!(
    #[target_feature(enable = "avx512f")]
    Zmm
);
