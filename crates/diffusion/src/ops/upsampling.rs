//! Convolutions of maps that were made larger before.

use std::sync::OnceLock;

use super::device::Device;
use super::functions::upsample_nearest;
use super::layers::{Conv2d, Geometry};
use super::tensor::Tensor;
use crate::Result;
use crate::weights::Weights;

/// A 3 × 3 convolution, padded by one pixel, of a feature map that nearest neighbours have made larger.
#[derive(Debug)]
pub struct UpsampleConv2d {
    weights: Weights,
    has_bias: bool,
    channels: usize,
    device: Device,
    /// For maps of twice the size, where the processor need not make those.
    doubling: Option<Conv2d>,
    /// For all others: where there is `doubling`, from the first of them on.
    plain: OnceLock<Conv2d>,
}

impl UpsampleConv2d {
    /// Reads `weight` (channels, channels, 3, 3) and `bias` (channels).
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load(weights: &Weights, channels: usize, device: &Device) -> Result<Self> {
        Self::read(weights, true, channels, device)
    }

    /// Reads `weight` (channels, channels, 3, 3); there is no bias.
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load_without_bias(weights: &Weights, channels: usize, device: &Device) -> Result<Self> {
        Self::read(weights, false, channels, device)
    }

    fn read(weights: &Weights, has_bias: bool, channels: usize, device: &Device) -> Result<Self> {
        let (weights, device) = (weights.clone(), device.clone());
        let mut conv = Self { weights, has_bias, channels, device, doubling: None, plain: OnceLock::new() };
        match &conv.device {
            Device::Cpu(cpu) if cpu.doubles(channels) => conv.doubling = Some(conv.convolution(true)?),
            _ => {
                conv.plain()?;
            }
        }
        Ok(conv)
    }

    /// The convolution of a feature map at another size.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let (_, _, h, w) = x.feature_map_shape();
        match &self.doubling {
            Some(doubling) if (height, width) == (2 * h, 2 * w) => doubling.forward(x),
            _ => self.plain()?.forward(&upsample_nearest(x, height, width)?),
        }
    }

    fn plain(&self) -> Result<&Conv2d> {
        if let Some(conv) = self.plain.get() {
            return Ok(conv);
        }
        let conv = self.convolution(false)?;
        Ok(self.plain.get_or_init(|| conv))
    }

    fn convolution(&self, doubles: bool) -> Result<Conv2d> {
        let geometry = Geometry { kernel: 3, stride: 1, padding: [1; 4], doubles };
        Conv2d::read(&self.weights, self.has_bias, self.channels, self.channels, geometry, &self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CpuOptions, Precision};
    use super::*;
    use cpu_kernels::Isa;
    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize};

    const CHANNELS: usize = 32;

    /// Eighths, so that sums of four are as exact in `bf16` as in `f32`.
    fn eighths(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 % 17) as f32 - 8.0) / 8.0).collect()
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn maps_are_doubled_or_made_whichever_size_is_asked_for() {
        let (weight, bias) = (bytes(&eighths(9 * CHANNELS * CHANNELS)), bytes(&eighths(CHANNELS)));
        let tensors = [("weight", vec![CHANNELS, CHANNELS, 3, 3], &weight), ("bias", vec![CHANNELS], &bias)]
            .map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape, data).unwrap()));
        let weights = Weights::from_bytes("test", serialize(tensors, None).unwrap().leak()).unwrap();
        let load = |precision| {
            let options = CpuOptions { threads: Some(1), precision, ..CpuOptions::default() };
            let device = Isa::ScalarAmx.with(|| Device::cpu(options)).unwrap();
            let conv = device.install(|| UpsampleConv2d::load(&weights, CHANNELS, &device)).unwrap();
            (device, conv)
        };
        let ((f32, made), (bf16, doubled)) = (load(Precision::F32), load(Precision::Bf16));
        assert!(made.doubling.is_none() && doubled.doubling.is_some());
        let (h, w) = (3, 4);
        let at = |device: &Device, conv: &UpsampleConv2d, height, width| {
            device.install(|| {
                let x = Tensor::from_host(device, &eighths(2 * CHANNELS * h * w), &[2, CHANNELS, h, w]).unwrap();
                conv.forward(&x, height, width).unwrap().to_host().unwrap()
            })
        };
        let mut taken = bf16.weight_bytes();
        for (height, width, more) in [(6, 8, false), (5, 8, true), (5, 7, false), (6, 8, false)] {
            let (want, got) = (at(&f32, &made, height, width), at(&bf16, &doubled, height, width));
            assert_eq!(got.len(), 2 * CHANNELS * height * width);
            let apart = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-3, "{height} x {width}: {apart} apart");
            let bytes = bf16.weight_bytes();
            assert_eq!(bytes > taken, more, "weights of both ways from the first odd size on");
            taken = bytes;
        }
    }
}
