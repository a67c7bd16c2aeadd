//! GEMM, convolution, attention and norms on slices; the one home of SIMD.
//!
//! All activations are `f32` and channels-last: a feature map `(N, C, H, W)` lies in memory as `(n, h, w, c)`, hidden states
//! `(N, L, C)` as rows of `C`. Weights come as they stand in a checkpoint ([`Weight`]), are packed once ([`Linear`], [`Conv2d`])
//! and keep their stored type where they are only widened as they are read.
//!
//! The instruction set is chosen at run time ([`isa()`], [`Isa`]); work is shared out on whichever rayon pool is current. Results
//! do not depend on the number of threads: every output element is summed in an order that the shape alone decides.
//!
//! Lengths that do not fit their shape are programming errors and panic with both numbers in the message.
#![allow(unsafe_code)]

mod arena;
mod attention;
mod buffer;
mod conv;
mod doubling;
mod elementwise;
mod gemm;
mod isa;
mod linear;
mod matrix;
pub mod naive;
mod norm;
mod pack;
mod peak;
mod simd;
mod split;
mod weight;
mod winograd;

pub use arena::{Arena, ArenaUse, Block};
pub use attention::{Rows, attention};
pub use buffer::Buffer;
pub use conv::{Conv2d, ConvAlgorithm};
pub use elementwise::{activate, add, concat_channels, nchw_to_nhwc, nhwc_to_nchw, softmax, upsample_nearest, widen};
pub use isa::{Isa, isa};
pub use linear::Linear;
pub use norm::{Moments, group_moments, group_norm, group_norm_with, layer_norm};
pub use peak::peak;
pub use weight::{Activation, Precision, Weight};
