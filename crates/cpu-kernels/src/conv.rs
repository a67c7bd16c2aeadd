use crate::buffer::{Buffer, scratch};
use crate::doubling::Doubling;
use crate::gemm::{Output, RowSource, Strided, padded};
use crate::linear::padded_bias;
use crate::matrix::Matrix;
use crate::split::{Grid, convolve};
use crate::winograd::{MANY_PAIRS, Winograd};
use crate::{Activation, Precision, Weight, isa};

/// A two-dimensional convolution over channels-last maps, its weights packed once.
pub struct Conv2d {
    in_channels: usize,
    out_channels: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: [usize; 4],
    weights: Weights,
    bias: Buffer,
}

/// How a convolution is computed; the sums differ in the last digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConvAlgorithm {
    /// The fastest of the others for the shape, as far as its memory is bearable.
    #[default]
    Auto,
    /// A matrix product over patches that are gathered block by block. Weights keep their stored type.
    Gemm,
    /// Winograd's F(2 x 2, 3 x 3), only for 3 x 3 at stride 1: 16/9 of the weights, 4/9 of the multiplications. In layers of more
    /// than 640 by 1920 channels the weights are `f16`.
    Winograd2,
    /// Winograd's F(4 x 4, 3 x 3), only for 3 x 3 at stride 1: 4 times the weights in `f32`, 1/4 of the multiplications.
    Winograd4,
}

enum Weights {
    Gemm(Matrix),
    Winograd(Winograd),
    Doubling(Doubling),
}

impl Conv2d {
    /// Packs a weight of shape `(out_channels, in_channels, kernel.0, kernel.1)`; `padding` is zeros at the top, left, bottom and
    /// right.
    ///
    /// # Panics
    /// Where lengths do not fit, the kernel or the stride is empty, for a Winograd transform of anything but 3 x 3 at stride 1, and
    /// where the machine lacks the [`Precision`].
    pub fn new(
        weight: Weight<'_>,
        bias: Option<&[f32]>,
        out_channels: usize,
        in_channels: usize,
        kernel: (usize, usize),
        stride: usize,
        padding: [usize; 4],
        algorithm: ConvAlgorithm,
        precision: Precision,
    ) -> Self {
        let taps = kernel.0 * kernel.1;
        assert!(taps > 0 && stride > 0, "a kernel of {} x {} at stride {stride}", kernel.0, kernel.1);
        assert_eq!(
            weight.len(),
            out_channels * in_channels * taps,
            "a convolution of {out_channels} x {in_channels} x {} x {} has a weight of {}",
            kernel.0,
            kernel.1,
            weight.len()
        );
        let tile = algorithm.tile(out_channels, in_channels, kernel, stride, precision);
        let kernels = isa::kernels();
        let weights = match tile {
            None => Weights::Gemm(Matrix::new(kernels, precision, weight, out_channels, in_channels, taps)),
            Some(tile) => Weights::Winograd(Winograd::new(kernels, weight, out_channels, in_channels, tile)),
        };
        let bias = padded_bias(bias, out_channels, kernels);
        Self { in_channels, out_channels, kernel, stride, padding, weights, bias }
    }

    /// A 3 x 3 convolution at stride 1, padded by one pixel, of a map that nearest neighbours have doubled in height and width, in
    /// [`Precision::Bf16`]: [`Conv2d::forward`] takes the map as it was before, and no doubled one is ever made. Four ninths of the
    /// multiplications.
    ///
    /// # Panics
    /// Where lengths do not fit, the channels are no multiple of 32, or the machine lacks the precision.
    pub fn doubling(weight: Weight<'_>, bias: Option<&[f32]>, out_channels: usize, in_channels: usize) -> Self {
        let kernels = isa::kernels();
        let weights = Weights::Doubling(Doubling::new(kernels, weight, out_channels, in_channels));
        let bias = padded_bias(bias, out_channels, kernels);
        Self { in_channels, out_channels, kernel: (3, 3), stride: 1, padding: [1; 4], weights, bias }
    }

    /// Whether [`Conv2d::doubling`] is there, and faster than [`ConvAlgorithm::Auto`] on a doubled map.
    pub fn doubling_pays(out_channels: usize, in_channels: usize, precision: Precision) -> bool {
        precision == Precision::Bf16
            && Doubling::unit(isa::kernels(), in_channels).is_some()
            && ConvAlgorithm::Auto.tile(out_channels, in_channels, (3, 3), 1, precision).is_none()
    }

    /// What [`Conv2d::bytes`] will be after [`Conv2d::doubling`].
    pub fn doubling_bytes(out_channels: usize, in_channels: usize) -> usize {
        let outputs = out_channels.next_multiple_of(isa::kernels().panel());
        Doubling::packed_bytes(out_channels, in_channels) + outputs * size_of::<f32>()
    }

    /// Number of input channels.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Number of output channels.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// What [`Conv2d::bytes`] will be for a weight of `stored_bytes` an element: more than is stored where a transformed weight is
    /// kept, or where the last outputs do not fill a vector. A linear layer takes what a 1 x 1 convolution does.
    ///
    /// # Panics
    /// For a Winograd transform of anything but 3 x 3 at stride 1.
    pub fn packed_bytes(
        stored_bytes: usize,
        out_channels: usize,
        in_channels: usize,
        kernel: (usize, usize),
        stride: usize,
        algorithm: ConvAlgorithm,
        precision: Precision,
    ) -> usize {
        let kernels = isa::kernels();
        let outputs = out_channels.next_multiple_of(kernels.panel());
        let inputs = kernel.0 * kernel.1 * in_channels;
        let weights = match algorithm.tile(out_channels, in_channels, kernel, stride, precision) {
            None => Matrix::packed_bytes(kernels, precision, stored_bytes, out_channels, inputs),
            Some(tile) => Winograd::packed_bytes(kernels, out_channels, in_channels, tile),
        };
        weights + outputs * size_of::<f32>()
    }

    /// Bytes that the packed weight and bias take.
    pub fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::Gemm(matrix) => matrix.bytes(),
            Weights::Winograd(winograd) => winograd.bytes(),
            Weights::Doubling(doubling) => doubling.bytes(),
        };
        weights + size_of_val(&*self.bias)
    }

    /// Height and width of the output for a map of `h x w`; zero where the kernel does not fit.
    pub fn output_size(&self, h: usize, w: usize) -> (usize, usize) {
        let [top, left, bottom, right] = self.padding;
        let along = |len: usize, kernel: usize| {
            if len < kernel { 0 } else { (len - kernel) / self.stride + 1 }
        };
        let (h, w) = if matches!(self.weights, Weights::Doubling(_)) { (2 * h, 2 * w) } else { (h, w) };
        (along(h + top + bottom, self.kernel.0), along(w + left + right, self.kernel.1))
    }

    /// `y = act(conv(x) + bias + channel_bias) + residual` for `n` maps of `h x w`. `channel_bias` is `(n, out_channels)`, one
    /// value for each map and channel; `residual` has the shape of `y`.
    ///
    /// # Panics
    /// Where lengths do not fit.
    pub fn forward(
        &self,
        x: &[f32],
        n: usize,
        h: usize,
        w: usize,
        act: Activation,
        channel_bias: Option<&[f32]>,
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) {
        let c = self.in_channels;
        assert_eq!(x.len(), n * h * w * c, "an input of {n} x {h} x {w} x {c} has {} floats", x.len());
        let (out_h, out_w) = self.output_size(h, w);
        let len = n * out_h * out_w * self.out_channels;
        assert_eq!(y.len(), len, "an output of {n} x {out_h} x {out_w} x {}", self.out_channels);
        if let Some(residual) = residual {
            assert_eq!(residual.len(), len, "a residual of {n} x {out_h} x {out_w} x {}", self.out_channels);
        }
        let mut biases;
        let bias = match channel_bias {
            None => &*self.bias,
            Some(channel_bias) => {
                let co = self.out_channels;
                assert_eq!(
                    channel_bias.len(),
                    n * co,
                    "a channel bias of {n} x {co} has {} floats",
                    channel_bias.len()
                );
                let width = self.bias.len();
                biases = scratch(n * width);
                for i in 0..n {
                    let one = &mut biases[i * width..(i + 1) * width];
                    one.copy_from_slice(&self.bias);
                    for (b, extra) in one.iter_mut().zip(&channel_bias[i * co..(i + 1) * co]) {
                        *b += extra;
                    }
                }
                &*biases
            }
        };
        let out = Output { bias, act, residual };
        let [top, left, ..] = self.padding;
        let maps = Maps { n, h, w, c, kernel: self.kernel, stride: self.stride, top, left, out_h, out_w };
        match &self.weights {
            Weights::Winograd(winograd) => winograd.forward(x, maps, &out, y),
            Weights::Doubling(doubling) => doubling.forward(x, [n, h, w, c], &out, y),
            Weights::Gemm(matrix) if self.kernel == (1, 1) && self.stride == 1 && self.padding == [0; 4] => {
                matrix.multiply(&Strided { data: x, stride: c }, n, h * w, &out, y);
            }
            Weights::Gemm(Matrix::Split(kernels, weights)) if weights.reads_maps() => {
                convolve(kernels, x, maps, weights, &out, Grid::WHOLE, y);
            }
            Weights::Gemm(matrix) => matrix.multiply(&Patches { x, maps }, n, out_h * out_w, &out, y),
        }
    }
}

/// The maps of one call.
#[derive(Clone, Copy)]
pub(crate) struct Maps {
    pub(crate) n: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    /// Channels of the input.
    pub(crate) c: usize,
    pub(crate) kernel: (usize, usize),
    pub(crate) stride: usize,
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) out_h: usize,
    pub(crate) out_w: usize,
}

impl ConvAlgorithm {
    /// The side of Winograd's input tile for this shape, `None` for a plain product.
    fn tile(
        self,
        out_channels: usize,
        in_channels: usize,
        kernel: (usize, usize),
        stride: usize,
        precision: Precision,
    ) -> Option<usize> {
        let fits = kernel == (3, 3) && stride == 1;
        let tile = match self {
            // A unit that makes even products of f32 multiplies bf16 faster than the transforms could be made.
            Self::Auto if precision == Precision::Bf16 && isa::kernels().unit(Precision::F32).is_some() => None,
            // With few channels the transforms cost more than they save; with few outputs they are a fifth of a panel's products.
            Self::Auto if !fits || in_channels < 16 || (out_channels < 16 && in_channels < 64) => None,
            // With either precision: a quarter of the products beats half of their time, and keeps their digits.
            Self::Auto if out_channels * in_channels <= MANY_PAIRS => Some(6),
            // Half the time by products of bf16, and four ninths by F(2 x 2), which has transforms and twice the bytes.
            Self::Auto if isa::kernels().unit(precision).is_some() => None,
            Self::Auto => Some(4),
            Self::Gemm => None,
            Self::Winograd2 => Some(4),
            Self::Winograd4 => Some(6),
        };
        assert!(tile.is_none() || fits, "{self:?} is for 3 x 3 at stride 1, not {kernel:?} at stride {stride}");
        tile
    }
}

impl std::fmt::Debug for Conv2d {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kh, kw) = self.kernel;
        write!(f, "Conv2d({} -> {}, {kh} x {kw}, stride {})", self.in_channels, self.out_channels, self.stride)
    }
}

/// The rows of the matrix that a convolution multiplies: one for each output pixel, the inputs under its kernel in the order
/// (row, column, channel). Only the block that is being multiplied ever exists.
struct Patches<'a> {
    x: &'a [f32],
    maps: Maps,
}

// SAFETY: the block is written to scratch of its own, `rows` rows of at least `kc`; the map is indexed with its bounds checked.
unsafe impl RowSource for Patches<'_> {
    fn scratch_len(&self, rows: usize, kc: usize) -> usize {
        rows * padded(kc)
    }

    unsafe fn block(&self, row: usize, rows: usize, k0: usize, kc: usize, scratch: *mut f32) -> (*const f32, usize) {
        let ld = padded(kc);
        let Maps { h, w, c, kernel, stride, top, left, out_h, out_w, .. } = self.maps;
        for i in 0..rows {
            // SAFETY: the caller gave room for `rows` lines of `ld`.
            let line = unsafe { std::slice::from_raw_parts_mut(scratch.add(i * ld), kc) };
            let pixel = row + i;
            let (image, pixel) = (pixel / (out_h * out_w), pixel % (out_h * out_w));
            let (oy, ox) = (pixel / out_w, pixel % out_w);
            let mut at = 0;
            while at < kc {
                let (tap, channel) = ((k0 + at) / c, (k0 + at) % c);
                let len = (c - channel).min(kc - at);
                let part = &mut line[at..at + len];
                // Coordinates in the padded map; those in the padding give zeros.
                let (py, px) = (oy * stride + tap / kernel.1, ox * stride + tap % kernel.1);
                let inside = py >= top && py < top + h && px >= left && px < left + w;
                if inside {
                    let (iy, ix) = (py - top, px - left);
                    let from = ((image * h + iy) * w + ix) * c + channel;
                    part.copy_from_slice(&self.x[from..from + len]);
                } else {
                    part.fill(0.0);
                }
                at += len;
            }
        }
        (scratch, ld)
    }
}
