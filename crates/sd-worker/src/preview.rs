//! Previews as files.

use diffusion::image::Pixels;

/// A small JPEG.
pub(crate) fn jpeg(image: &Pixels) -> Result<Vec<u8>, image::ImageError> {
    let mut file = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 85);
    let (width, height) = (image.width() as u32, image.height() as u32);
    image::ImageEncoder::write_image(encoder, image.data(), width, height, image::ExtendedColorType::Rgb8)?;
    Ok(file)
}
