//! Layers: weights in the form that a device's kernels want.

use cpu_kernels::ConvAlgorithm;

#[cfg(feature = "candle")]
use super::candle;
use super::cpu;
use super::device::Device;
use super::packed::Packed;
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
    Cpu(Packed<cpu_kernels::Linear>),
    #[cfg(feature = "candle")]
    Candle(candle::Linear),
}

/// A convolution of a feature map.
#[derive(Debug)]
pub struct Conv2d {
    out_channels: usize,
    geometry: Geometry,
    packed: PackedConv2d,
}

/// What decides the size of a convolution's output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// At the top, left, bottom and right.
    pub(super) padding: [usize; 4],
    /// Whether it is of the map at twice its size, which is never made: only where the processor
    /// [doubles](super::CpuDevice::doubles).
    pub(super) doubles: bool,
}

#[derive(Debug)]
enum PackedConv2d {
    /// And about how many bytes each thread works with.
    Cpu(Packed<cpu_kernels::Conv2d>, usize),
    #[cfg(feature = "candle")]
    Candle(candle::Conv2d),
}

/// A table of vectors. It stays in its file: a prompt needs few of its rows, once.
#[derive(Debug)]
pub struct Embedding {
    shape: [usize; 2],
    table: Weights,
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
        let weight = weights.get("weight", shape)?;
        if has_bias {
            weights.get("bias", &[out_features])?;
        }
        let bias = move |weights: &Weights| {
            has_bias.then(|| weights.get("bias", &[out_features]).map(|bias| bias.to_f32())).transpose()
        };
        let packed = match device {
            Device::Cpu(device) => {
                let precision = device.precision();
                // To the kernels a linear layer is a convolution of one pixel.
                let bytes = cpu_kernels::Conv2d::packed_bytes(
                    weight.dtype.size(),
                    out_features,
                    in_features,
                    (1, 1),
                    1,
                    ConvAlgorithm::Gemm,
                    precision,
                );
                let (weights, shape) = (weights.clone(), shape.to_vec());
                PackedLinear::Cpu(Packed::new(device, bytes, move || {
                    let (weight, bias) = (weights.get("weight", &shape)?.floats(), bias(&weights)?);
                    let weight = cpu::weight(&weight);
                    let linear =
                        cpu_kernels::Linear::new(weight, bias.as_deref(), out_features, in_features, precision);
                    weights.forget("weight");
                    weights.forget("bias");
                    Ok(linear)
                }))
            }
            #[cfg(feature = "candle")]
            Device::Candle(device) => {
                let (weight, bias) = (weight.floats(), bias(weights)?);
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
                let residual = epilogue.residual_data(&shape);
                if cpu.computes() {
                    packed.get()?.forward(data, rows, epilogue.activation.into(), residual, &mut out);
                } else {
                    packed.plan();
                }
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
                if cpu.computes() {
                    packed.get()?.forward_geglu(data, rows, &mut out);
                } else {
                    packed.plan();
                }
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
        Self::read(
            weights,
            true,
            in_channels,
            out_channels,
            Geometry { kernel, stride, padding, doubles: false },
            device,
        )
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
        Self::read(
            weights,
            false,
            in_channels,
            out_channels,
            Geometry { kernel, stride, padding, doubles: false },
            device,
        )
    }

    pub(super) fn read(
        weights: &Weights,
        has_bias: bool,
        in_channels: usize,
        out_channels: usize,
        geometry: Geometry,
        device: &Device,
    ) -> Result<Self> {
        let Geometry { kernel, stride, padding, doubles } = geometry;
        let shape = [out_channels, in_channels, kernel, kernel];
        let weight = weights.get("weight", &shape)?;
        if has_bias {
            weights.get("bias", &[out_channels])?;
        }
        let bias = move |weights: &Weights| {
            has_bias.then(|| weights.get("bias", &[out_channels]).map(|bias| bias.to_f32())).transpose()
        };
        let packed = match device {
            Device::Cpu(device) => {
                let (algorithm, precision) = (device.conv_algorithm(), device.precision());
                let bytes = match doubles {
                    true => cpu_kernels::Conv2d::doubling_bytes(out_channels, in_channels),
                    false => cpu_kernels::Conv2d::packed_bytes(
                        weight.dtype.size(),
                        out_channels,
                        in_channels,
                        (kernel, kernel),
                        stride,
                        algorithm,
                        precision,
                    ),
                };
                let working = cpu::transformed_block(bytes / (out_channels * in_channels).max(1), in_channels);
                let weights = weights.clone();
                let packed = Packed::new(device, bytes, move || {
                    let (weight, bias) = (weights.get("weight", &shape)?.floats(), bias(&weights)?);
                    let (weight, bias) = (cpu::weight(&weight), bias.as_deref());
                    let conv = match doubles {
                        true => cpu_kernels::Conv2d::doubling(weight, bias, out_channels, in_channels),
                        false => cpu_kernels::Conv2d::new(
                            weight,
                            bias,
                            out_channels,
                            in_channels,
                            (kernel, kernel),
                            stride,
                            padding,
                            algorithm,
                            precision,
                        ),
                    };
                    weights.forget("weight");
                    weights.forget("bias");
                    Ok(conv)
                });
                PackedConv2d::Cpu(packed, working)
            }
            #[cfg(feature = "candle")]
            Device::Candle(device) => {
                let (weight, bias) = (weight.floats(), bias(weights)?);
                PackedConv2d::Candle(candle::Conv2d::new(device, &weight, bias.as_deref(), shape, stride, padding)?)
            }
        };
        Ok(Self { out_channels, geometry, packed })
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
            PackedConv2d::Cpu(packed, working) => {
                let (cpu, data) = cpu::parts(x);
                let (out_h, out_w) = self.geometry.output_size(h, w);
                let shape = [n, self.out_channels, out_h, out_w];
                let mut out = cpu.buffer(shape.iter().product())?;
                let channel_bias = epilogue.channel_bias.map(|bias| {
                    assert_eq!(bias.shape(), [n, self.out_channels], "channel bias");
                    cpu::data(bias)
                });
                let residual = epilogue.residual_data(&shape);
                if cpu.computes() {
                    let activation = epilogue.activation.into();
                    packed.get()?.forward(data, n, h, w, activation, channel_bias, residual, &mut out);
                } else {
                    packed.plan();
                    cpu.works_with(0, *working);
                }
                Ok(Tensor::on_cpu(cpu, &shape, out))
            }
            #[cfg(feature = "candle")]
            PackedConv2d::Candle(conv) => conv.forward(x, epilogue),
        }
    }
}

impl Geometry {
    /// Height and width of the output for a map of `h x w`.
    fn output_size(&self, h: usize, w: usize) -> (usize, usize) {
        let [top, left, bottom, right] = self.padding;
        let along = |len: usize| if len < self.kernel { 0 } else { (len - self.kernel) / self.stride + 1 };
        let (h, w) = if self.doubles { (2 * h, 2 * w) } else { (h, w) };
        (along(h + top + bottom), along(w + left + right))
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
        let shape = [rows, width];
        weights.get("weight", &shape)?;
        Ok(Self { shape, table: weights.clone() })
    }

    /// Adds row `index` of the table to `sum`.
    ///
    /// # Errors
    /// Where its file has changed since it was opened.
    ///
    /// # Panics
    /// When there is no such row or `sum` has another width.
    pub fn add_row(&self, index: usize, sum: &mut [f32]) -> Result<()> {
        let width = self.shape[1];
        assert_eq!(sum.len(), width, "width of an embedding");
        let row = index * width..(index + 1) * width;
        match self.table.get("weight", &self.shape)?.part(row) {
            Floats::F32(row) => add(sum, &row, |x| x),
            Floats::F16(row) => add(sum, &row, half::f16::to_f32),
            Floats::Bf16(row) => add(sum, &row, half::bf16::to_f32),
        }
        Ok(())
    }
}

fn add<T: Copy>(sum: &mut [f32], row: &[T], widen: impl Fn(T) -> f32) {
    for (sum, &x) in sum.iter_mut().zip(row) {
        *sum += widen(x);
    }
}
