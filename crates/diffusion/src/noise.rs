//! Torch's random numbers on a CPU: the Mersenne Twister and torch's two ways from it to normal numbers.
//!
//! A picture is defined by the noise that it starts from, so this is the only source of randomness of the crate. The
//! generator is `at::CPUGeneratorImpl`, the distributions are those of
//! [`DistributionTemplates.h`](https://github.com/pytorch/pytorch/blob/v2.9.0/aten/src/ATen/native/cpu/DistributionTemplates.h)
//! and [`DistributionsHelper.h`](https://github.com/pytorch/pytorch/blob/v2.9.0/aten/src/ATen/core/DistributionsHelper.h).

use std::f64::consts::TAU;

const STATE: usize = 624;
const MIDDLE: usize = 397;
/// Torch fills tensors of at least so many normals by blocks of this size.
const BLOCK: usize = 16;

/// A torch CPU generator: `torch.Generator("cpu").manual_seed(seed)`.
#[derive(Debug, Clone)]
pub struct Noise {
    state: [u32; STATE],
    next: usize,
    /// The second normal of a pair that the scalar way drew and has not handed out. It survives draws of whole blocks.
    spare: Option<f64>,
}

impl Noise {
    /// Seeds the generator. As in torch, only the low 32 bits of `seed` matter.
    pub fn new(seed: u64) -> Self {
        let mut state = [0u32; STATE];
        state[0] = seed as u32;
        for i in 1..STATE {
            let previous = state[i - 1];
            state[i] = (previous ^ (previous >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: STATE, spare: None }
    }

    /// `torch.rand(count, generator=self)`: uniform numbers in [0, 1), bit for bit.
    pub fn uniform(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.uniform24()).collect()
    }

    /// `torch.randn(count, generator=self)`: standard normal numbers.
    ///
    /// From 16 numbers on torch fills the whole tensor with uniforms and turns each block of 16 into normals; where the
    /// count is no multiple of 16, the last 16 are drawn again. Fewer are drawn in pairs in double precision. Torch's
    /// vectorised logarithm and cosine err by an ulp or two, these do not, so the two agree to 1e-6.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.scalar_normal() as f32).collect();
        }
        let mut numbers = self.uniform(count);
        let (blocks, rest) = numbers.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller);
        if !rest.is_empty()
            && let Some(tail) = numbers.last_chunk_mut::<BLOCK>()
        {
            tail.fill_with(|| self.uniform24());
            box_muller(tail);
        }
        numbers
    }

    /// `at::normal_distribution<double>`: one of a pair now, the other on the next call.
    fn scalar_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (angle, length) = (self.uniform53(), self.uniform53());
        let radius = (-2.0 * (-length).ln_1p()).sqrt();
        let (sin, cos) = (TAU * angle).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    fn uniform24(&mut self) -> f32 {
        (self.random() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    fn uniform53(&mut self) -> f64 {
        let (high, low) = (self.random(), self.random());
        let bits = (u64::from(high) << 32 | u64::from(low)) & ((1 << 53) - 1);
        bits as f64 / (1u64 << 53) as f64
    }

    /// The next 32 bits of MT19937 (Matsumoto and Nishimura, <https://doi.org/10.1145/272991.272995>).
    fn random(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + MIDDLE) % STATE] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

/// `normal_fill_16`: the first eight uniforms are the lengths and the last eight the angles.
fn box_muller(block: &mut [f32; BLOCK]) {
    for j in 0..BLOCK / 2 {
        let length = 1.0 - block[j];
        let radius = (-2.0 * f64::from(length).ln()).sqrt();
        let (sin, cos) = (TAU * f64::from(block[j + BLOCK / 2])).sin_cos();
        block[j] = (radius * cos) as f32;
        block[j + BLOCK / 2] = (radius * sin) as f32;
    }
}
