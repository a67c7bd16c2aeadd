//! From the words of this module to those of `cpu_kernels`.

use super::device::CpuDevice;
use super::layers::Activation;
use super::tensor::{Storage, Tensor};
use crate::weights::Floats;

/// A weight as the kernels take it for packing.
pub(super) fn weight<'a>(floats: &'a Floats<'_>) -> cpu_kernels::Weight<'a> {
    match floats {
        Floats::F32(values) => cpu_kernels::Weight::F32(values),
        Floats::F16(values) => cpu_kernels::Weight::F16(values),
        Floats::Bf16(values) => cpu_kernels::Weight::Bf16(values),
    }
}

/// About how many bytes a convolution works with in each thread: where its weights, `pair_bytes` for each pair of channels, are
/// those of Winograd's tiles of 16 or 36 floats, a block of so many tiles of the input.
pub(super) fn transformed_block(pair_bytes: usize, in_channels: usize) -> usize {
    const TILES: usize = 96;
    match pair_bytes / size_of::<f32>() {
        floats if floats < 16 => 0,
        floats => (if floats < 36 { 16 } else { 36 }) * TILES * (in_channels + 96) * size_of::<f32>(),
    }
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
