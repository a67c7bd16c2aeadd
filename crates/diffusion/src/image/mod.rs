//! Pictures in and out: decoding, resizing as Pillow does, what diffusers' image processors do, masks.

mod decode;
mod mask;
mod process;
mod resize;
#[cfg(test)]
mod tests;

pub use decode::{Decoded, MAX_BYTES, MAX_SIDE, decode};
pub use mask::{blur, composite, downsample, feather, process_mask};
pub use process::{Fit, fit, postprocess, preprocess};
pub use resize::resize;

/// 8-bit pixels, rows from the top, the channels of a pixel side by side.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

impl Pixels {
    /// # Panics
    /// Where `data` has not `width` × `height` × `channels` bytes, or a side is zero.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0 && channels > 0, "a picture of {width} x {height} x {channels}");
        assert_eq!(data.len(), width * height * channels, "bytes of a picture of {width} x {height} x {channels}");
        Self { width, height, channels, data }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// 3 for RGB, 1 for a mask.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, without a copy.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The bytes of one pixel.
    pub fn pixel(&self, x: usize, y: usize) -> &[u8] {
        let at = (y * self.width + x) * self.channels;
        &self.data[at..at + self.channels]
    }
}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pixels({} x {} x {})", self.width, self.height, self.channels)
    }
}
