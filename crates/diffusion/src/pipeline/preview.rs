//! Previews: latents to colours by one small matrix, fitted once to the loaded autoencoder.
//!
//! Known models have such a matrix in the literature; fitting it works for every autoencoder and costs one encoding of a
//! 128 × 128 picture, done when the first preview is asked for.

use crate::Result;
use crate::image::Pixels;
use crate::linear::solve;
use crate::models::{Autoencoder, Encoded};

/// Side of the patches of the fitted picture in latent pixels; the middle ones are free of the neighbours' colours.
const PATCH: usize = 4;
/// Patches on a side.
const PATCHES: usize = 4;

/// An affine map from a latent pixel to red, green and blue.
#[derive(Clone, Debug)]
pub(super) struct LatentColours {
    /// Three rows: a weight for each latent channel, and a constant. Colours from -1 to 1.
    rows: [Vec<f64>; 3],
    channels: usize,
}

impl LatentColours {
    /// Fits the map by least squares to what `autoencoder` makes of a patchwork of colours.
    pub(super) fn fit(autoencoder: &Autoencoder) -> Result<Self> {
        let space = autoencoder.latent_space();
        let (factor, channels) = (space.factor, space.channels);
        let side = PATCH * PATCHES;
        let pixels = side * factor;
        let colour = |patch: usize, channel: usize| patch_colour(patch)[channel];
        let mut picture = vec![0f32; 3 * pixels * pixels];
        for channel in 0..3 {
            for y in 0..pixels {
                for x in 0..pixels {
                    let patch = y / (PATCH * factor) * PATCHES + x / (PATCH * factor);
                    picture[(channel * pixels + y) * pixels + x] = colour(patch, channel);
                }
            }
        }
        let latents = match autoencoder.encode(&picture, 1, pixels, pixels)? {
            Encoded::Gaussian { mean, .. } => mean,
            Encoded::Latents(latents) => latents,
        };
        let mut normal = vec![vec![0f64; channels + 1]; channels + 1];
        let mut right: [Vec<f64>; 3] = std::array::from_fn(|_| vec![0f64; channels + 1]);
        for y in 0..side {
            for x in 0..side {
                if [x % PATCH, y % PATCH].iter().any(|at| *at == 0 || *at == PATCH - 1) {
                    continue;
                }
                let row: Vec<f64> = (0..channels)
                    .map(|c| f64::from(latents[(c * side + y) * side + x] * space.scaling_factor))
                    .chain([1.0])
                    .collect();
                for i in 0..=channels {
                    for j in 0..=channels {
                        normal[i][j] += row[i] * row[j];
                    }
                    for (channel, right) in right.iter_mut().enumerate() {
                        right[i] += row[i] * f64::from(colour(y / PATCH * PATCHES + x / PATCH, channel));
                    }
                }
            }
        }
        // A ridge keeps the fit finite where an autoencoder ignores a channel.
        for (i, row) in normal.iter_mut().enumerate() {
            row[i] += 1e-3;
        }
        Ok(Self { rows: right.map(|right| solve(normal.clone(), right)), channels })
    }

    /// The picture of scaled latents (channels, h, w), one pixel for each latent pixel.
    pub(super) fn picture(&self, latents: &[f32], h: usize, w: usize) -> Pixels {
        let mut data = Vec::with_capacity(3 * h * w);
        for at in 0..h * w {
            for row in &self.rows {
                let value: f64 = (0..self.channels).map(|c| row[c] * f64::from(latents[c * h * w + at])).sum();
                let value = value + row[self.channels];
                data.push(((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8);
            }
        }
        Pixels::new(w, h, 3, data)
    }
}

/// Colours that span the cube: its corners, then paler ones.
fn patch_colour(patch: usize) -> [f32; 3] {
    let bit = |n: usize| if patch >> n & 1 == 1 { 0.9 } else { -0.9 };
    let depth = if patch < 8 { 1.0 } else { 0.4 };
    [bit(0) * depth, bit(1) * depth, bit(2) * depth]
}
