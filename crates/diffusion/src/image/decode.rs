//! A file that somebody sent, as pixels.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::image::Pixels;
use crate::{Error, Result};

/// The largest file that is looked at.
pub const MAX_BYTES: usize = 32 << 20;

/// The longest side of a picture.
pub const MAX_SIDE: usize = 4096;

/// The most memory that decoding may take: 16-bit RGBA of the largest size, and as much again for what the decoder holds beside it.
const MAX_MEMORY: u64 = 2 * 8 * (MAX_SIDE * MAX_SIDE) as u64;

/// A decoded picture with the alpha channel that it may have. How the file wants to be turned (EXIF) is not looked at, as in diffusers.
#[derive(Clone, Debug)]
pub struct Decoded {
    rgb: Pixels,
    alpha: Option<Pixels>,
}

/// Decodes a PNG, JPEG or WebP file; `field` is what errors call it. Sizes are checked before memory is taken.
///
/// # Errors
/// Where the file is too large, of another format, broken, or a picture of more than 4096 × 4096 pixels.
pub fn decode(field: &'static str, bytes: &[u8]) -> Result<Decoded> {
    let bad = |reason: String| Error::InvalidArgument { field, reason };
    if bytes.len() > MAX_BYTES {
        return Err(bad(format!("has {} bytes, at most {MAX_BYTES} are allowed", bytes.len())));
    }
    let format = image::guess_format(bytes)
        .ok()
        .filter(|format| matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP));
    let format = format.ok_or_else(|| bad("is not a PNG, JPEG or WebP image".to_owned()))?;
    let name = format.extensions_str()[0].to_uppercase();
    let broken = |error: image::ImageError| bad(format!("is not a whole {name} image: {error}"));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if width as usize > MAX_SIDE || height as usize > MAX_SIDE {
        return Err(bad(format!("has {width} x {height} pixels, at most {MAX_SIDE} x {MAX_SIDE} are allowed")));
    }
    if width == 0 || height == 0 {
        return Err(bad("has no pixels".to_owned()));
    }
    let picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    Ok(Decoded::new(&picture))
}

impl Decoded {
    fn new(picture: &DynamicImage) -> Self {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        // Of 16 bits the upper 8 count. Pillow does so with colours; of 16-bit gray it makes white whatever is above 255, which helps nobody.
        let high = |samples: &[u16]| samples.iter().map(|&sample| (sample >> 8) as u8).collect::<Vec<u8>>();
        let (channels, samples) = match picture {
            DynamicImage::ImageLuma8(image) => (1, image.as_raw().clone()),
            DynamicImage::ImageLumaA8(image) => (2, image.as_raw().clone()),
            DynamicImage::ImageRgb8(image) => (3, image.as_raw().clone()),
            DynamicImage::ImageRgba8(image) => (4, image.as_raw().clone()),
            DynamicImage::ImageLuma16(image) => (1, high(image.as_raw())),
            DynamicImage::ImageLumaA16(image) => (2, high(image.as_raw())),
            DynamicImage::ImageRgb16(image) => (3, high(image.as_raw())),
            DynamicImage::ImageRgba16(image) => (4, high(image.as_raw())),
            other => (3, other.to_rgb8().into_raw()),
        };
        let colours = if channels < 3 { 1 } else { 3 };
        let rgb = samples
            .chunks_exact(channels)
            .flat_map(|pixel| if colours == 1 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] });
        let rgb = Pixels::new(width, height, 3, rgb.collect());
        let alpha = (channels > colours).then(|| {
            Pixels::new(width, height, 1, samples.chunks_exact(channels).map(|pixel| pixel[colours]).collect())
        });
        Self { rgb, alpha }
    }

    /// The colours, with any alpha channel left out, as Pillow's `convert("RGB")`.
    pub fn rgb(&self) -> &Pixels {
        &self.rgb
    }

    /// The colours, without a copy.
    pub fn into_rgb(self) -> Pixels {
        self.rgb
    }

    /// As a mask, white where the picture shall be painted: where there is an alpha channel, that is where it is transparent; else where
    /// the picture is white, as Pillow's `convert("L")`. An alpha channel that is opaque everywhere says nothing, since programs add one to
    /// any picture, and does not count.
    pub fn mask(&self) -> Pixels {
        let Pixels { width, height, .. } = self.rgb;
        let data = match &self.alpha {
            Some(alpha) if alpha.data.iter().any(|&alpha| alpha < 255) => {
                alpha.data.iter().map(|alpha| 255 - alpha).collect()
            }
            _ => self.rgb.data.chunks_exact(3).map(luma).collect(),
        };
        Pixels::new(width, height, 1, data)
    }
}

/// ITU-R 601 luma in 16-bit fixed point, as <https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Convert.c> `L24`.
fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}
