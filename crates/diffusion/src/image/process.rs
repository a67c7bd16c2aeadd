//! Between pixels and what the autoencoder takes and gives, as diffusers' `VaeImageProcessor`:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/image_processor.py>.

use crate::image::Pixels;

/// The size in which a picture is painted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Pixels in a row, a multiple of 8.
    pub width: usize,
    /// Rows, a multiple of 8.
    pub height: usize,
    /// Whether the picture was too large for the model, so that more than a few pixels at its edges differ.
    pub scaled: bool,
}

/// The size for a picture of `width` × `height` pixels: sides rounded down to multiples of 8; a picture of more than four times the model's own
/// area is first scaled down to four times that area. A side shorter than 8 counts as 8.
pub fn fit(width: usize, height: usize, model_area: usize) -> Fit {
    let (area, most) = (width as f64 * height as f64, 4.0 * model_area as f64);
    let scaled = area > most;
    let scale = if scaled { (most / area).sqrt() } else { 1.0 };
    // A hair more, so that 2048 x 2048 becomes 1024 and not 1023.99… of the wanted side.
    let side = |side: usize| ((side as f64 * scale + 1e-6) as usize / 8 * 8).max(8);
    Fit { width: side(width), height: side(height), scaled }
}

/// RGB pixels as the autoencoder takes them: channels first, from -1 to 1.
pub fn preprocess(picture: &Pixels) -> Vec<f32> {
    planes(picture).map(|byte| 2.0 * (f32::from(byte) / 255.0) - 1.0).collect()
}

/// What the autoencoder gave, as pixels: rounded to the nearest, halves to even.
///
/// # Panics
/// Where `image` has not 3 × `height` × `width` values.
pub fn postprocess(image: &[f32], width: usize, height: usize) -> Pixels {
    let size = width * height;
    assert_eq!(image.len(), 3 * size, "values of a picture of {width} x {height}");
    let byte = |value: f32| ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let data = (0..size).flat_map(|at| [0, 1, 2].map(|channel| byte(image[channel * size + at])));
    Pixels::new(width, height, 3, data.collect())
}

fn planes(picture: &Pixels) -> impl Iterator<Item = u8> {
    (0..picture.channels).flat_map(move |channel| picture.data[channel..].iter().step_by(picture.channels).copied())
}
