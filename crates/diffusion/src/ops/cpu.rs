//! From the words of this module to those of `cpu_kernels`.

use cpu_kernels::Conv2d;

use super::device::CpuDevice;
use super::layers::Activation;
use super::tensor::{Storage, Tensor};
use crate::weights::{Floats, Weights, is_downsampler};

/// A weight as the kernels take it for packing.
pub(super) fn weight<'a>(floats: &'a Floats<'_>) -> cpu_kernels::Weight<'a> {
    match floats {
        Floats::F32(values) => cpu_kernels::Weight::F32(values),
        Floats::F16(values) => cpu_kernels::Weight::F16(values),
        Floats::Bf16(values) => cpu_kernels::Weight::Bf16(values),
    }
}

/// Bytes that all of `weights` take once they are packed.
pub(super) fn packed_bytes(weights: &Weights, device: &CpuDevice) -> u64 {
    let (algorithm, precision) = (device.conv_algorithm(), device.precision());
    let packed = |(name, shape, bytes): (&str, &[usize], u64)| {
        let element = bytes / shape.iter().product::<usize>().max(1) as u64;
        let conv = |out, inputs, kernel, stride| {
            Conv2d::packed_bytes(element as usize, out, inputs, kernel, stride, algorithm, precision) as u64
        };
        match *shape {
            _ if bytes == 0 => 0,
            [out, inputs] => conv(out, inputs, (1, 1), 1),
            // A file does not tell strides. Those of the small autoencoder are taken for 1, which foresees a little much.
            [out, inputs, h, w] => conv(out, inputs, (h, w), if is_downsampler(name) { 2 } else { 1 }),
            _ => bytes,
        }
    };
    weights.tensors().map(packed).sum()
}

/// The numbers of a tensor that must be on the CPU because another operand is.
pub(super) fn data(tensor: &Tensor) -> &[f32] {
    parts(tensor).1
}

/// The device and the numbers of a tensor that must be on the CPU because another operand is.
pub(super) fn parts(tensor: &Tensor) -> (&CpuDevice, &[f32]) {
    match tensor.storage() {
        Storage::Cpu(device, data) => (device, data),
        #[cfg(feature = "candle")]
        Storage::Candle(..) => panic!("the operands of one operation live on one device"),
    }
}

impl From<Activation> for cpu_kernels::Activation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::None => Self::None,
            Activation::Relu => Self::Relu,
            Activation::Silu => Self::Silu,
            Activation::Gelu => Self::Gelu,
            Activation::QuickGelu => Self::QuickGelu,
        }
    }
}

/// What the maker calls this processor: Linux tells, elsewhere it is only the architecture.
pub(super) fn model_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
    model.unwrap_or(std::env::consts::ARCH).to_owned()
}
