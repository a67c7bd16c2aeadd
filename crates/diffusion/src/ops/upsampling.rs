//! Convolutions of maps that were made larger before.

use std::sync::OnceLock;

use super::cpu;
use super::device::Device;
use super::functions::upsample_nearest;
use super::layers::{Conv2d, Epilogue};
use super::packed::Packed;
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
    doubling: Option<Packed<cpu_kernels::Conv2d>>,
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
        let shape = [channels, channels, 3, 3];
        weights.get("weight", &shape)?;
        let bias = move |weights: &Weights| {
            has_bias.then(|| weights.get("bias", &[channels]).map(|bias| bias.to_f32())).transpose()
        };
        bias(weights)?;
        let doubling = match device {
            Device::Cpu(cpu) if cpu.doubles(channels) => {
                let bytes = cpu_kernels::Conv2d::doubling_bytes(channels, channels);
                let weights = weights.clone();
                Some(Packed::new(cpu, bytes, move || {
                    let (weight, bias) = (weights.get("weight", &shape)?.floats(), bias(&weights)?);
                    let weight = cpu::weight(&weight);
                    let conv = cpu_kernels::Conv2d::doubling(weight, bias.as_deref(), channels, channels);
                    weights.forget("weight");
                    weights.forget("bias");
                    Ok(conv)
                }))
            }
            _ => None,
        };
        let (weights, device) = (weights.clone(), device.clone());
        let conv = Self { weights, has_bias, channels, device, doubling, plain: OnceLock::new() };
        if conv.doubling.is_none() {
            conv.plain()?;
        }
        Ok(conv)
    }

    /// The convolution of a feature map at another size.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let (n, _, h, w) = x.feature_map_shape();
        let Some(doubling) = self.doubling.as_ref().filter(|_| (height, width) == (2 * h, 2 * w)) else {
            return self.plain()?.forward(&upsample_nearest(x, height, width)?);
        };
        let (cpu, data) = cpu::parts(x);
        let shape = [n, self.channels, height, width];
        let mut out = cpu.buffer(shape.iter().product())?;
        if cpu.computes() {
            let activation = Epilogue::default().activation.into();
            doubling.get()?.forward(data, n, h, w, activation, None, None, &mut out);
        } else {
            doubling.plan();
        }
        Ok(Tensor::on_cpu(cpu, &shape, out))
    }

    fn plain(&self) -> Result<&Conv2d> {
        if let Some(conv) = self.plain.get() {
            return Ok(conv);
        }
        let load = if self.has_bias { Conv2d::load } else { Conv2d::load_without_bias };
        let conv = load(&self.weights, self.channels, self.channels, 3, 1, [1; 4], &self.device)?;
        Ok(self.plain.get_or_init(|| conv))
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
