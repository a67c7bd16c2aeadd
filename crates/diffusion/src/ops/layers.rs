//! Layers: weights in the form that a device's kernels want.

use half::{bf16, f16};

#[cfg(feature = "candle")]
use super::candle;
use super::cpu;
use super::device::{Device, Held};
use super::tensor::Tensor;
use crate::Result;
use crate::weights::{Floats, Weights};

/// A function of each number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activation {
    /// x
    #[default]
    None,
    /// max(x, 0)
    Relu,
    /// x * sigmoid(x), also called swish
    Silu,
    /// x * Φ(x), by the error function
    Gelu,
    /// x * sigmoid(1.702 x)
    QuickGelu,
}

/// What happens to a layer's output on its way to memory: `activation(x + channel_bias) + residual`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to each channel of each picture: vectors `(n, c)`, for example a time embedding. Convolutions only.
    pub channel_bias: Option<&'a Tensor>,
    /// Applied before the residual is added.
    pub activation: Activation,
    /// Added last; has the output's shape.
    pub residual: Option<&'a Tensor>,
}

/// `y = x Wᵀ + b` over the last axis of hidden states or vectors.
#[derive(Debug)]
pub struct Linear {
    out_features: usize,
    packed: PackedLinear,
}

#[derive(Debug)]
enum PackedLinear {
    Cpu(Held<cpu_kernels::Linear>),
    #[cfg(feature = "candle")]
    Candle(candle::Linear),
}

/// A convolution of a feature map.
#[derive(Debug)]
pub struct Conv2d {
    out_channels: usize,
    packed: PackedConv2d,
}

#[derive(Debug)]
enum PackedConv2d {
    Cpu(Held<cpu_kernels::Conv2d>),
    #[cfg(feature = "candle")]
    Candle(candle::Conv2d),
}

/// A table of vectors. It stays on the host: a prompt needs few of its rows, once.
#[derive(Debug)]
pub struct Embedding {
    width: usize,
    table: Table,
}

#[derive(Debug)]
enum Table {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Linear {
    /// Reads `weight` (out, in) and `bias` (out).
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load(weights: &Weights, in_features: usize, out_features: usize, device: &Device) -> Result<Self> {
        Self::read(weights, &[out_features, in_features], true, device)
    }

    /// Reads `weight` (out, in); there is no bias.
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load_without_bias(
        weights: &Weights,
        in_features: usize,
        out_features: usize,
        device: &Device,
    ) -> Result<Self> {
        Self::read(weights, &[out_features, in_features], false, device)
    }

    /// Reads a 1 × 1 convolution, `weight` (out, in, 1, 1) and `bias` (out), which over hidden states is a linear layer.
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load_conv1x1(weights: &Weights, in_features: usize, out_features: usize, device: &Device) -> Result<Self> {
        Self::read(weights, &[out_features, in_features, 1, 1], true, device)
    }

    fn read(weights: &Weights, shape: &[usize], has_bias: bool, device: &Device) -> Result<Self> {
        let (out_features, in_features) = (shape[0], shape[1]);
        let weight = weights.get("weight", shape)?.floats();
        let bias = if has_bias { Some(weights.get("bias", &[out_features])?.to_f32()) } else { None };
        let packed = match device {
            Device::Cpu(device) => {
                let linear = cpu_kernels::Linear::new(
                    cpu::weight(&weight),
                    bias.as_deref(),
                    out_features,
                    in_features,
                    device.precision(),
                );
                let bytes = linear.bytes();
                PackedLinear::Cpu(device.hold(linear, bytes))
            }
            #[cfg(feature = "candle")]
            Device::Candle(device) => {
                let shape = [out_features, in_features];
                PackedLinear::Candle(candle::Linear::new(device, &weight, bias.as_deref(), shape)?)
            }
        };
        Ok(Self { out_features, packed })
    }

    /// `x Wᵀ + b`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Epilogue::default())
    }

    /// `activation(x Wᵀ + b) + residual`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward_with(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Tensor> {
        assert!(epilogue.channel_bias.is_none(), "a linear layer takes no channel bias");
        let shape = self.output_shape(x, self.out_features);
        match &self.packed {
            PackedLinear::Cpu(packed) => {
                let (cpu, data) = cpu::parts(x);
                let rows = shape.iter().product::<usize>() / self.out_features;
                let mut out = cpu.buffer(rows * self.out_features)?;
                packed.forward(data, rows, epilogue.activation.into(), epilogue.residual_data(&shape), &mut out);
                Ok(Tensor::on_cpu(cpu, &shape, out))
            }
            #[cfg(feature = "candle")]
            PackedLinear::Candle(linear) => linear.forward(x, epilogue, &shape),
        }
    }

    /// The gated linear unit of diffusers' `GEGLU` (<https://arxiv.org/abs/2002.05202>): the output's first half times the
    /// GELU of its second half.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward_geglu(&self, x: &Tensor) -> Result<Tensor> {
        let inner = self.out_features / 2;
        let shape = self.output_shape(x, inner);
        match &self.packed {
            PackedLinear::Cpu(packed) => {
                let (cpu, data) = cpu::parts(x);
                let rows = shape.iter().product::<usize>() / inner;
                let mut out = cpu.buffer(rows * inner)?;
                packed.forward_geglu(data, rows, &mut out);
                Ok(Tensor::on_cpu(cpu, &shape, out))
            }
            #[cfg(feature = "candle")]
            PackedLinear::Candle(linear) => linear.forward_geglu(x, &shape),
        }
    }

    fn output_shape(&self, x: &Tensor, features: usize) -> Vec<usize> {
        match *x.shape() {
            [n, l, _] => vec![n, l, features],
            [n, _] => vec![n, features],
            ref other => panic!("a linear layer takes (n, l, c) or (n, c), not {other:?}"),
        }
    }
}

impl Conv2d {
    /// Reads `weight` (out, in, kernel, kernel) and `bias` (out). `padding` is that of the top, left, bottom and right.
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        padding: [usize; 4],
        device: &Device,
    ) -> Result<Self> {
        let bias = weights.get("bias", &[out_channels])?.to_f32();
        Self::read(weights, Some(&bias), in_channels, out_channels, kernel, stride, padding, device)
    }

    /// Reads `weight` (out, in, kernel, kernel); there is no bias.
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load_without_bias(
        weights: &Weights,
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        padding: [usize; 4],
        device: &Device,
    ) -> Result<Self> {
        Self::read(weights, None, in_channels, out_channels, kernel, stride, padding, device)
    }

    fn read(
        weights: &Weights,
        bias: Option<&[f32]>,
        in_channels: usize,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        padding: [usize; 4],
        device: &Device,
    ) -> Result<Self> {
        let weight = weights.get("weight", &[out_channels, in_channels, kernel, kernel])?.floats();
        let packed = match device {
            Device::Cpu(device) => {
                let conv = cpu_kernels::Conv2d::new(
                    cpu::weight(&weight),
                    bias,
                    out_channels,
                    in_channels,
                    (kernel, kernel),
                    stride,
                    padding,
                    device.conv_algorithm(),
                    device.precision(),
                );
                let bytes = conv.bytes();
                PackedConv2d::Cpu(device.hold(conv, bytes))
            }
            #[cfg(feature = "candle")]
            Device::Candle(device) => {
                let shape = [out_channels, in_channels, kernel, kernel];
                PackedConv2d::Candle(candle::Conv2d::new(device, &weight, bias, shape, stride, padding)?)
            }
        };
        Ok(Self { out_channels, packed })
    }

    /// The convolution of a feature map.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Epilogue::default())
    }

    /// `activation(conv(x) + channel_bias) + residual`.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] or [`crate::Error::Device`].
    pub fn forward_with(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Tensor> {
        let (n, _, h, w) = x.feature_map_shape();
        match &self.packed {
            PackedConv2d::Cpu(packed) => {
                let (cpu, data) = cpu::parts(x);
                let (out_h, out_w) = packed.output_size(h, w);
                let shape = [n, self.out_channels, out_h, out_w];
                let mut out = cpu.buffer(shape.iter().product())?;
                let channel_bias = epilogue.channel_bias.map(|bias| {
                    assert_eq!(bias.shape(), [n, self.out_channels], "channel bias");
                    cpu::data(bias)
                });
                packed.forward(
                    data,
                    n,
                    h,
                    w,
                    epilogue.activation.into(),
                    channel_bias,
                    epilogue.residual_data(&shape),
                    &mut out,
                );
                Ok(Tensor::on_cpu(cpu, &shape, out))
            }
            #[cfg(feature = "candle")]
            PackedConv2d::Candle(conv) => conv.forward(x, epilogue),
        }
    }
}

impl Epilogue<'_> {
    /// Only a residual.
    pub fn residual(residual: &Tensor) -> Epilogue<'_> {
        Epilogue { residual: Some(residual), ..Epilogue::default() }
    }

    /// Only an activation.
    pub fn activation(activation: Activation) -> Self {
        Self { activation, ..Self::default() }
    }

    fn residual_data(&self, shape: &[usize]) -> Option<&[f32]> {
        self.residual.map(|residual| {
            assert_eq!(residual.shape(), shape, "residual");
            cpu::data(residual)
        })
    }
}

impl Embedding {
    /// Reads `weight` (rows, width).
    ///
    /// # Errors
    /// [`crate::Error::MissingTensor`] or [`crate::Error::TensorShape`].
    pub fn load(weights: &Weights, rows: usize, width: usize) -> Result<Self> {
        let table = match weights.get("weight", &[rows, width])?.floats() {
            Floats::F32(values) => Table::F32(values.into_owned()),
            Floats::F16(values) => Table::F16(values.into_owned()),
            Floats::Bf16(values) => Table::Bf16(values.into_owned()),
        };
        Ok(Self { width, table })
    }

    /// Adds row `index` of the table to `sum`.
    ///
    /// # Panics
    /// When there is no such row or `sum` has another width.
    pub fn add_row(&self, index: usize, sum: &mut [f32]) {
        assert_eq!(sum.len(), self.width, "width of an embedding");
        let row = index * self.width..(index + 1) * self.width;
        match &self.table {
            Table::F32(table) => add(sum, &table[row], |x| x),
            Table::F16(table) => add(sum, &table[row], f16::to_f32),
            Table::Bf16(table) => add(sum, &table[row], bf16::to_f32),
        }
    }
}

fn add<T: Copy>(sum: &mut [f32], row: &[T], widen: impl Fn(T) -> f32) {
    for (sum, &x) in sum.iter_mut().zip(row) {
        *sum += widen(x);
    }
}
