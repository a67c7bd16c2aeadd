//! Activations on a device.

use std::ops::Range;
use std::sync::Arc;

use cpu_kernels::Block;

#[cfg(feature = "candle")]
use super::candle::{self, CandleDevice};
use super::device::{CpuDevice, Device};
use crate::Result;

/// Activations on a device: a feature map `(n, c, h, w)`, hidden states `(n, l, c)` or vectors `(n, c)`. Cheap to clone;
/// never changes.
#[derive(Debug, Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

#[derive(Debug, Clone)]
pub(super) enum Storage {
    /// Row-major; a feature map channels-last, that is `(n, h, w, c)`.
    Cpu(CpuDevice, Arc<Block>),
    /// Row-major.
    #[cfg(feature = "candle")]
    Candle(CandleDevice, candle_core::Tensor),
}

impl Tensor {
    /// Uploads numbers in the row-major order of `shape` (a feature map as `(n, c, h, w)`).
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    ///
    /// # Panics
    /// When `data` is not as long as the shape says.
    pub fn from_host(device: &Device, data: &[f32], shape: &[usize]) -> Result<Self> {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "numbers for shape {shape:?}");
        match device {
            Device::Cpu(cpu) => {
                let mut buffer = cpu.buffer(data.len())?;
                match *shape {
                    _ if !cpu.computes() => {}
                    [n, c, h, w] => cpu_kernels::nchw_to_nhwc(data, n, c, h * w, &mut buffer),
                    _ => buffer.copy_from_slice(data),
                }
                Ok(Self::on_cpu(cpu, shape, buffer))
            }
            #[cfg(feature = "candle")]
            Device::Candle(device) => device.upload(data, shape),
        }
    }

    /// Downloads the numbers in the row-major order of the shape (a feature map as `(n, c, h, w)`).
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device failed.
    pub fn to_host(&self) -> Result<Vec<f32>> {
        match &self.storage {
            Storage::Cpu(cpu, data) => Ok(match *self.shape {
                _ if !cpu.computes() => vec![0.0; self.len()],
                [n, c, h, w] => {
                    let mut out = vec![0.0; data.len()];
                    cpu_kernels::nhwc_to_nchw(data, n, c, h * w, &mut out);
                    out
                }
                _ => data.to_vec(),
            }),
            #[cfg(feature = "candle")]
            Storage::Candle(device, array) => candle::download(device, array),
        }
    }

    /// The logical shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cpu(cpu, _) => Device::Cpu(cpu.clone()),
            #[cfg(feature = "candle")]
            Storage::Candle(device, _) => Device::Candle(device.clone()),
        }
    }

    /// A feature map `(n, c, h, w)` as hidden states `(n, h * w, c)`: free on a CPU.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device failed.
    pub fn to_tokens(&self) -> Result<Self> {
        let (n, c, h, w) = self.feature_map_shape();
        match &self.storage {
            Storage::Cpu(..) => Ok(Self { shape: vec![n, h * w, c], storage: self.storage.clone() }),
            #[cfg(feature = "candle")]
            Storage::Candle(..) => candle::to_tokens(self),
        }
    }

    /// Hidden states `(n, h * w, c)` as a feature map `(n, c, h, w)`: free on a CPU.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device failed.
    pub fn to_feature_map(&self, h: usize, w: usize) -> Result<Self> {
        let (n, l, c) = self.tokens_shape();
        assert_eq!(l, h * w, "tokens of a {h} x {w} feature map");
        match &self.storage {
            Storage::Cpu(..) => Ok(Self { shape: vec![n, c, h, w], storage: self.storage.clone() }),
            #[cfg(feature = "candle")]
            Storage::Candle(..) => candle::to_feature_map(self, h, w),
        }
    }

    /// One token of each sequence: row `positions[i]` of sequence `i` of hidden states `(n, l, c)`, as `(n, c)`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn select_tokens(&self, positions: &[usize]) -> Result<Self> {
        let (n, l, c) = self.tokens_shape();
        assert_eq!(positions.len(), n, "one position for each sequence");
        match &self.storage {
            Storage::Cpu(cpu, data) => {
                let mut out = cpu.buffer(n * c)?;
                for (i, &position) in positions.iter().enumerate().filter(|_| cpu.computes()) {
                    let row = i * l + position;
                    out[i * c..][..c].copy_from_slice(&data[row * c..][..c]);
                }
                Ok(Self::on_cpu(cpu, &[n, c], out))
            }
            #[cfg(feature = "candle")]
            Storage::Candle(..) => candle::select_tokens(self, positions),
        }
    }

    /// Rows `rows` of one feature map.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], or [`crate::Error::Device`] elsewhere than on a CPU.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let (n, c, _, w) = self.feature_map_shape();
        assert_eq!(n, 1, "rows of one feature map");
        let (cpu, data) = self.on_processor()?;
        let mut out = cpu.buffer(rows.len() * w * c)?;
        if cpu.computes() {
            out.copy_from_slice(&data[rows.start * w * c..rows.end * w * c]);
        }
        Ok(Self::on_cpu(cpu, &[1, c, rows.len(), w], out))
    }

    /// The device and the numbers of a tensor that must be on a processor.
    pub(super) fn on_processor(&self) -> Result<(&CpuDevice, &[f32])> {
        match &self.storage {
            Storage::Cpu(cpu, data) => Ok((cpu, data)),
            #[cfg(feature = "candle")]
            Storage::Candle(device, _) => Err(crate::Error::Device {
                device: device.name().into(),
                reason: "networks are computed in parts on a processor only".into(),
            }),
        }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn on_cpu(cpu: &CpuDevice, shape: &[usize], data: Block) -> Self {
        debug_assert_eq!(data.floats(), shape.iter().product::<usize>());
        Self { shape: shape.to_vec(), storage: Storage::Cpu(cpu.clone(), Arc::new(data)) }
    }

    #[cfg(feature = "candle")]
    pub(super) fn on_candle(device: &CandleDevice, array: candle_core::Tensor) -> Self {
        Self { shape: array.dims().to_vec(), storage: Storage::Candle(device.clone(), array) }
    }

    pub(super) fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(super) fn into_storage(self) -> (Vec<usize>, Storage) {
        (self.shape, self.storage)
    }

    /// `(n, c, h, w)` of a feature map.
    pub(crate) fn feature_map_shape(&self) -> (usize, usize, usize, usize) {
        match *self.shape {
            [n, c, h, w] => (n, c, h, w),
            ref other => panic!("{other:?} is not a feature map (n, c, h, w)"),
        }
    }

    /// `(n, l, c)` of hidden states.
    pub(crate) fn tokens_shape(&self) -> (usize, usize, usize) {
        match *self.shape {
            [n, l, c] => (n, l, c),
            ref other => panic!("{other:?} are not hidden states (n, l, c)"),
        }
    }
}

/// A feature map that is written some rows after the other.
#[derive(Debug)]
pub struct RowsWriter {
    device: CpuDevice,
    shape: [usize; 4],
    block: Block,
    written: usize,
}

impl RowsWriter {
    /// A map with the channels, width and device of `like` and `height` rows.
    ///
    /// # Errors
    /// As [`Tensor::rows`].
    pub fn like(like: &Tensor, height: usize) -> Result<Self> {
        let (_, c, _, w) = like.feature_map_shape();
        let (cpu, _) = like.on_processor()?;
        Ok(Self { device: cpu.clone(), shape: [1, c, height, w], block: cpu.buffer(c * height * w)?, written: 0 })
    }

    /// Adds the rows `rows` of `part` below those that were written.
    ///
    /// # Errors
    /// As [`Tensor::rows`].
    ///
    /// # Panics
    /// Where they are too many or not as wide.
    pub fn write(&mut self, part: &Tensor, rows: Range<usize>) -> Result<()> {
        let [_, c, _, w] = self.shape;
        assert!(matches!(*part.shape(), [1, c_part, _, w_part] if c_part == c && w_part == w), "rows of one size");
        let (cpu, data) = part.on_processor()?;
        if cpu.computes() {
            let at = self.written * w * c;
            self.block[at..at + rows.len() * w * c].copy_from_slice(&data[rows.start * w * c..rows.end * w * c]);
        }
        self.written += rows.len();
        Ok(())
    }

    /// The whole map.
    ///
    /// # Panics
    /// Where rows are missing.
    pub fn finish(self) -> Tensor {
        assert_eq!(self.written, self.shape[2], "rows of a feature map");
        Tensor::on_cpu(&self.device, &self.shape, self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::super::CpuOptions;
    use super::*;

    fn counting(len: usize) -> Vec<f32> {
        (0..len).map(|i| i as f32).collect()
    }

    #[test]
    fn what_goes_up_comes_down() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        for shape in [&[2, 3, 5, 7][..], &[1, 40, 3, 2], &[2, 6, 4], &[3, 5], &[1, 4, 0, 3]] {
            let data = counting(shape.iter().product());
            let tensor = Tensor::from_host(&device, &data, shape).unwrap();
            assert_eq!(tensor.shape(), shape);
            assert_eq!(tensor.to_host().unwrap(), data, "{shape:?}");
        }
    }

    #[test]
    fn tokens_of_a_feature_map_are_its_pixels_in_reading_order() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let x = Tensor::from_host(&device, &counting(12), &[1, 2, 2, 3]).unwrap();
        let tokens = x.to_tokens().unwrap();
        assert_eq!(tokens.shape(), [1, 6, 2]);
        assert_eq!(tokens.to_host().unwrap(), [0., 6., 1., 7., 2., 8., 3., 9., 4., 10., 5., 11.]);
        assert_eq!(tokens.to_feature_map(2, 3).unwrap().to_host().unwrap(), counting(12));
    }

    #[test]
    fn selecting_takes_one_row_of_each_sequence() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let x = Tensor::from_host(&device, &counting(12), &[2, 3, 2]).unwrap();
        assert_eq!(x.select_tokens(&[2, 0]).unwrap().to_host().unwrap(), [4., 5., 6., 7.]);
    }
}
