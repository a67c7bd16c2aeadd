//! Resizing with a Lanczos window, bit for bit as Pillow does it.
//!
//! <https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c>: two passes, each rounded to 8 bits; weights
//! in fixed point of 22 bits.

use std::f64::consts::PI;

use crate::image::Pixels;

const PRECISION: u32 = 32 - 8 - 2;

/// The window's half width in source pixels, where nothing shrinks.
const SUPPORT: f64 = 3.0;

/// Resizes to `width` × `height`; a picture of that size is returned as it is.
///
/// # Panics
/// Where a side is zero.
pub fn resize(picture: &Pixels, width: usize, height: usize) -> Pixels {
    // Rounding between the passes makes their order visible. As Pillow 13 has it, rows go first where they shrink much more than columns:
    // <https://github.com/python-pillow/Pillow/pull/9549>.
    let (fewer_columns, fewer_rows) = (picture.width as i64 - width as i64, picture.height as i64 - height as i64);
    if fewer_rows > 0 && fewer_rows > 2 * fewer_columns {
        columns(rows(picture.clone(), height), width)
    } else {
        rows(columns(picture.clone(), width), height)
    }
}

/// The source pixels that make one pixel of the result, from `first` on.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = SUPPORT * stretch;
    let window = |at: usize| {
        let center = (at as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..end).map(|x| lanczos((x as f64 - center + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = weights.iter().sum();
        let weights = weights.into_iter().map(|weight| {
            let fixed = (if sum == 0.0 { weight } else { weight / sum }) * f64::from(1u32 << PRECISION);
            (fixed + if fixed < 0.0 { -0.5 } else { 0.5 }) as i32
        });
        Window { first, weights: weights.collect() }
    };
    (0..to).map(window).collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
    };
    if (-SUPPORT..SUPPORT).contains(&x) { sinc(x) * sinc(x / SUPPORT) } else { 0.0 }
}

fn columns(picture: Pixels, width: usize) -> Pixels {
    if picture.width == width {
        return picture;
    }
    let Pixels { channels, height, .. } = picture;
    let windows = windows(picture.width, width);
    let mut data = Vec::with_capacity(width * height * channels);
    for row in picture.data.chunks_exact(picture.width * channels) {
        for window in &windows {
            for channel in 0..channels {
                let samples = row[window.first * channels + channel..].iter().step_by(channels);
                data.push(round(samples.zip(&window.weights).map(|(&sample, &weight)| i32::from(sample) * weight)));
            }
        }
    }
    Pixels::new(width, height, channels, data)
}

fn rows(picture: Pixels, height: usize) -> Pixels {
    if picture.height == height {
        return picture;
    }
    let row = picture.width * picture.channels;
    let mut data = Vec::with_capacity(row * height);
    let mut sums = vec![0i32; row];
    for window in windows(picture.height, height) {
        sums.fill(0);
        for (samples, weight) in picture.data[window.first * row..].chunks_exact(row).zip(window.weights) {
            for (sum, &sample) in sums.iter_mut().zip(samples) {
                *sum += i32::from(sample) * weight;
            }
        }
        data.extend(sums.iter().map(|&sum| round(std::iter::once(sum))));
    }
    Pixels::new(picture.width, height, picture.channels, data)
}

fn round(terms: impl Iterator<Item = i32>) -> u8 {
    ((terms.sum::<i32>() + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}
