//! Masks: where a picture is painted, and how the painted part goes over into the rest.

use crate::image::{Pixels, resize};

/// A mask of any size as diffusers' mask processor makes it for a picture of `width` × `height`: 1 where it is to be painted, else 0. The
/// mask is resized as a gray picture and then cut at one half.
///
/// # Panics
/// Where `mask` has more than one channel.
pub fn process_mask(mask: &Pixels, width: usize, height: usize) -> Vec<f32> {
    assert_eq!(mask.channels, 1, "channels of a mask");
    resize(mask, width, height).data.iter().map(|&byte| if byte >= 128 { 1.0 } else { 0.0 }).collect()
}

/// A mask of `width` × `height` in a size `factor` times smaller, each value that of its upper left pixel, as torch's `interpolate` does.
pub fn downsample(mask: &[f32], width: usize, height: usize, factor: usize) -> Vec<f32> {
    let (columns, rows) = (width / factor, height / factor);
    (0..rows).flat_map(|y| (0..columns).map(move |x| mask[y * factor * width + x * factor])).collect()
}

/// A Gaussian blur of `sigma` pixels, of which [`reach`] pixels are looked at to each side; at the edges the outermost value goes on.
pub fn blur(mask: &[f32], width: usize, height: usize, sigma: f32) -> Vec<f32> {
    let reach = reach(sigma);
    if reach == 0 {
        return mask.to_vec();
    }
    let weights: Vec<f32> =
        (0..=2 * reach).map(|i| (-0.5 * ((i as f32 - reach as f32) / sigma).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let weights: Vec<f32> = weights.into_iter().map(|weight| weight / sum).collect();
    let near = |at: usize, step: usize, length: usize| (at + step).saturating_sub(reach).min(length - 1);
    let mut across = vec![0.0; mask.len()];
    for (from, to) in mask.chunks_exact(width).zip(across.chunks_exact_mut(width)) {
        for x in 0..width {
            to[x] = weights.iter().enumerate().map(|(i, weight)| weight * from[near(x, i, width)]).sum();
        }
    }
    let mut down = vec![0.0; mask.len()];
    for (y, to) in down.chunks_exact_mut(width).enumerate() {
        for (i, weight) in weights.iter().enumerate() {
            let from = &across[near(y, i, height) * width..][..width];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
        }
    }
    down
}

/// How much of the painted picture shows at each pixel: all of it inside the mask, less and less over the [`reach`] pixels around it, and
/// beyond them exactly nothing. `mask` has ones and zeros.
pub fn feather(mask: &[f32], width: usize, height: usize, sigma: f32) -> Vec<f32> {
    // At a straight edge the blurred mask has one half, so that twice the blurred mask goes on where the mask ends.
    let blurred = blur(mask, width, height, sigma);
    mask.iter().zip(blurred).map(|(&mask, blurred)| if mask > 0.0 { 1.0 } else { (2.0 * blurred).min(1.0) }).collect()
}

/// Lays the painted picture over the first one, each pixel as much as `alpha` says; where that is 0, the first one's bytes come back.
///
/// # Panics
/// Where the sizes differ.
pub fn composite(first: &Pixels, painted: &Pixels, alpha: &[f32]) -> Pixels {
    assert_eq!(
        (first.width, first.height, first.channels),
        (painted.width, painted.height, painted.channels),
        "sizes of two pictures"
    );
    assert_eq!(alpha.len(), first.width * first.height, "values of a feathered mask");
    let channels = first.channels;
    let mix = |(at, (&first, &painted)): (usize, (&u8, &u8))| {
        let alpha = alpha[at / channels];
        if alpha <= 0.0 { first } else { (f32::from(first) * (1.0 - alpha) + f32::from(painted) * alpha).round() as u8 }
    };
    let data = first.data.iter().zip(&painted.data).enumerate().map(mix).collect();
    Pixels::new(first.width, first.height, channels, data)
}

/// Beyond three standard deviations a Gaussian is below one part in eighty.
fn reach(sigma: f32) -> usize {
    (3.0 * sigma).ceil().max(0.0) as usize
}
