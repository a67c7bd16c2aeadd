//! Between the autoencoder's latents and those that the U-Net sees.

use crate::Result;
use crate::models::{Autoencoder, Encoded, LatentSpace};
use crate::noise::Noise;

/// Encodes an image (3, height, width) and draws from the posterior, scaled for the U-Net. A deterministic autoencoder
/// draws nothing.
pub(super) fn draw(
    autoencoder: &Autoencoder,
    image: &[f32],
    height: usize,
    width: usize,
    inpaint: bool,
    noise: &mut Noise,
) -> Result<Vec<f32>> {
    let mut latents = match autoencoder.encode(image, 1, height, width)? {
        Encoded::Latents(latents) => latents,
        Encoded::Gaussian { mean, std } => {
            let drawn = noise.normal(mean.len());
            mean.iter().zip(&std).zip(drawn).map(|((mean, std), drawn)| mean + std * drawn).collect()
        }
    };
    let space = autoencoder.latent_space();
    // diffusers' inpainting pipelines know no mean and deviation when they encode, only when they decode.
    let statistics = if inpaint { None } else { statistics(space) };
    each_channel(space, &mut latents, |channel, value| match statistics {
        Some((mean, std)) => (value - mean[channel]) * space.scaling_factor / std[channel],
        None => value * space.scaling_factor,
    });
    Ok(latents)
}

/// What the decoder takes of the U-Net's latents.
pub(super) fn unscale(space: &LatentSpace, mut latents: Vec<f32>) -> Vec<f32> {
    let statistics = statistics(space);
    each_channel(space, &mut latents, |channel, value| match statistics {
        Some((mean, std)) => value * std[channel] / space.scaling_factor + mean[channel],
        None => value / space.scaling_factor,
    });
    latents
}

fn statistics(space: &LatentSpace) -> Option<(&[f32], &[f32])> {
    space.latents_mean.as_deref().zip(space.latents_std.as_deref())
}

fn each_channel(space: &LatentSpace, latents: &mut [f32], f: impl Fn(usize, f32) -> f32) {
    let pixels = latents.len() / space.channels;
    for (channel, values) in latents.chunks_exact_mut(pixels.max(1)).enumerate() {
        for value in values {
            *value = f(channel, *value);
        }
    }
}
