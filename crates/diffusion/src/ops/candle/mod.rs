//! The backend of GPUs: candle's tensors, on NVIDIA's and Apple's devices and, for tests, on candle's own processor.
//!
//! Feature maps lie in memory as `(n, c, h, w)`, in the device's type of number. Statistics of norms and the softmax of
//! attention are computed in single precision, whatever that type is.

mod functions;
mod layers;

pub(super) use functions::{activate, attention, concat_channels, to_feature_map, to_tokens, upsample_nearest};
pub(super) use layers::{Affine, Conv2d, Linear, group_norm, layer_norm};

use candle_core::{DType, Tensor as Array};

use super::tensor::{Storage, Tensor};
use crate::weights::{Dtype, Floats};
use crate::{Error, Result};

/// A device that candle computes on, and the numbers that it computes with.
#[derive(Debug, Clone)]
pub struct CandleDevice {
    device: candle_core::Device,
    dtype: DType,
    name: String,
    #[cfg_attr(not(all(feature = "metal", target_os = "macos")), expect(dead_code, reason = "only Metal has it"))]
    fused_attention: bool,
}

impl CandleDevice {
    pub(super) fn new(
        open: impl FnOnce() -> candle_core::Result<candle_core::Device>,
        name: String,
        dtype: Dtype,
        fused_attention: bool,
    ) -> Result<Self> {
        let device = open().map_err(|error| Error::Device { device: name.clone(), reason: reason(&error) })?;
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::Bf16 => DType::BF16,
        };
        Ok(Self { device, dtype, name, fused_attention })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn single_precision(&self) -> Self {
        Self { dtype: DType::F32, ..self.clone() }
    }

    pub(super) fn upload(&self, data: &[f32], shape: &[usize]) -> Result<Tensor> {
        self.run(|| Array::from_slice(data, shape, &self.device)?.to_dtype(self.dtype))
    }

    /// A weight in the device's type of number.
    fn weight(&self, floats: &Floats<'_>, shape: &[usize]) -> Result<Array> {
        let uploaded = match floats {
            Floats::F32(values) => Array::from_slice(values, shape, &self.device),
            Floats::F16(values) => Array::from_slice(values, shape, &self.device),
            Floats::Bf16(values) => Array::from_slice(values, shape, &self.device),
        };
        self.catch(|| uploaded?.to_dtype(self.dtype))
    }

    /// Numbers that stay in single precision.
    fn single(&self, values: &[f32]) -> Result<Array> {
        self.catch(|| Array::from_slice(values, values.len(), &self.device))
    }

    /// What `compute` makes, as a tensor of this device.
    fn run(&self, compute: impl FnOnce() -> candle_core::Result<Array>) -> Result<Tensor> {
        Ok(Tensor::on_candle(self, self.catch(compute)?))
    }

    fn catch<T>(&self, compute: impl FnOnce() -> candle_core::Result<T>) -> Result<T> {
        compute().map_err(|error| Error::Device { device: self.name.clone(), reason: reason(&error) })
    }
}

/// The numbers in single precision, in the row-major order of the shape.
pub(super) fn download(device: &CandleDevice, array: &Array) -> Result<Vec<f32>> {
    device.catch(|| array.flatten_all()?.to_dtype(DType::F32)?.to_vec1())
}

/// See [`Tensor::select_tokens`].
pub(super) fn select_tokens(x: &Tensor, positions: &[usize]) -> Result<Tensor> {
    let (device, x) = parts(x);
    device.run(|| {
        let rows = positions.iter().enumerate().map(|(i, &position)| x.get(i)?.narrow(0, position, 1));
        Array::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
    })
}

/// The device and the numbers of a tensor that must be candle's because another operand is.
fn parts(tensor: &Tensor) -> (&CandleDevice, &Array) {
    match tensor.storage() {
        Storage::Candle(device, array) => (device, array),
        Storage::Cpu(..) => panic!("the operands of one operation live on one device"),
    }
}

/// Candle's error without the backtrace that it may carry.
fn reason(error: &candle_core::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().to_owned();
    if line.to_ascii_lowercase().replace(['_', ' '], "").contains("outofmemory") {
        return format!("{line}; paint a smaller picture, or with 16 bits (--precision f16)");
    }
    line
}
