//! Tensors and layers: the one seam where a device is chosen.
//!
//! A [`Device`] is where a network lives. Layers ([`Linear`], [`Conv2d`], [`GroupNorm`], [`LayerNorm`]) hold their weights
//! in the form that the device's kernels want; a [`Tensor`] holds activations there. Model code above this module is
//! written once and names no device.
//!
//! Shapes are logical and as in the papers: a feature map is `(n, c, h, w)`, hidden states are `(n, l, c)`, vectors
//! `(n, c)`. On a CPU a feature map lies in memory channels-last, so that it *is* its own `(n, h * w, c)` hidden states,
//! a 1 × 1 convolution is a matrix product and nothing is ever transposed between the two. On a GPU it lies as written.
//!
//! What a layer does to its output on the way to memory (bias, time embedding, activation, residual) is part of the call,
//! so that a kernel may do it while the numbers are in registers.

mod buffer;
#[cfg(feature = "candle")]
mod candle;
mod cpu;
mod device;
mod functions;
mod layers;
pub(crate) mod memory;
mod norms;
mod packed;
mod tensor;
mod upsampling;

pub use buffer::Memory;
#[cfg(feature = "candle")]
pub use candle::CandleDevice;
pub use cpu_kernels::{Moments, Precision};
pub use device::{CpuDevice, CpuOptions, Device};
pub use functions::{activate, attention, concat_channels};
pub use layers::{Activation, Conv2d, Embedding, Epilogue, Linear};
pub use norms::{GroupNorm, LayerNorm};
pub use tensor::{RowsWriter, Tensor};
pub use upsampling::UpsampleConv2d;
