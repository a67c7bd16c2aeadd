use crate::buffer::{Buffer, scratch};
use crate::gemm::{Output, RowSource, Strided, gemm, padded};
use crate::linear::padded_bias;
use crate::pack::Packed;
use crate::{Activation, Weight, isa};

/// A two-dimensional convolution over channels-last maps, its weights packed once.
pub struct Conv2d {
    in_channels: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: [usize; 4],
    packed: Packed,
    bias: Buffer,
}

impl Conv2d {
    /// Packs a weight of shape `(out_channels, in_channels, kernel.0, kernel.1)`; `padding` is zeros at the top, left, bottom and
    /// right.
    ///
    /// # Panics
    /// Where lengths do not fit, or the kernel or the stride is empty.
    pub fn new(
        weight: Weight<'_>,
        bias: Option<&[f32]>,
        out_channels: usize,
        in_channels: usize,
        kernel: (usize, usize),
        stride: usize,
        padding: [usize; 4],
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
        let packed = Packed::new(isa::kernels(), weight, out_channels, in_channels, taps);
        let bias = padded_bias(bias, &packed);
        Self { in_channels, kernel, stride, padding, packed, bias }
    }

    /// Number of input channels.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Number of output channels.
    pub fn out_channels(&self) -> usize {
        self.packed.n
    }

    /// Bytes that the packed weight and bias take.
    pub fn bytes(&self) -> usize {
        self.packed.bytes() + size_of_val(&*self.bias)
    }

    /// Height and width of the output for a map of `h x w`; zero where the kernel does not fit.
    pub fn output_size(&self, h: usize, w: usize) -> (usize, usize) {
        let [top, left, bottom, right] = self.padding;
        let along = |len: usize, kernel: usize| {
            if len < kernel { 0 } else { (len - kernel) / self.stride + 1 }
        };
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
        let mut biases;
        let bias = match channel_bias {
            None => &*self.bias,
            Some(channel_bias) => {
                let co = self.packed.n;
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
        if self.kernel == (1, 1) && self.stride == 1 && self.padding == [0; 4] {
            gemm(&Strided { data: x, stride: c }, &self.packed, n, h * w, &out, y);
        } else {
            let [top, left, ..] = self.padding;
            let source = Patches { x, h, w, c, kernel: self.kernel, stride: self.stride, top, left, out_h, out_w };
            gemm(&source, &self.packed, n, out_h * out_w, &out, y);
        }
    }
}

impl std::fmt::Debug for Conv2d {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kh, kw) = self.kernel;
        write!(f, "Conv2d({} -> {}, {kh} x {kw}, stride {})", self.in_channels, self.packed.n, self.stride)
    }
}

/// The rows of the matrix that a convolution multiplies: one for each output pixel, the inputs under its kernel in the order
/// (row, column, channel). Only the block that is being multiplied ever exists.
struct Patches<'a> {
    x: &'a [f32],
    h: usize,
    w: usize,
    c: usize,
    kernel: (usize, usize),
    stride: usize,
    top: usize,
    left: usize,
    out_h: usize,
    out_w: usize,
}

// SAFETY: the block is written to scratch of its own, `rows` rows of at least `kc`; the map is indexed with its bounds checked.
unsafe impl RowSource for Patches<'_> {
    fn scratch_len(&self, rows: usize, kc: usize) -> usize {
        rows * padded(kc)
    }

    unsafe fn block(&self, row: usize, rows: usize, k0: usize, kc: usize, scratch: *mut f32) -> (*const f32, usize) {
        let ld = padded(kc);
        for i in 0..rows {
            // SAFETY: the caller gave room for `rows` lines of `ld`.
            let line = unsafe { std::slice::from_raw_parts_mut(scratch.add(i * ld), kc) };
            let pixel = row + i;
            let (image, pixel) = (pixel / (self.out_h * self.out_w), pixel % (self.out_h * self.out_w));
            let (oy, ox) = (pixel / self.out_w, pixel % self.out_w);
            let mut at = 0;
            while at < kc {
                let (tap, channel) = ((k0 + at) / self.c, (k0 + at) % self.c);
                let len = (self.c - channel).min(kc - at);
                let part = &mut line[at..at + len];
                // Coordinates in the padded map; those in the padding give zeros.
                let (py, px) = (oy * self.stride + tap / self.kernel.1, ox * self.stride + tap % self.kernel.1);
                let inside = py >= self.top && py < self.top + self.h && px >= self.left && px < self.left + self.w;
                if inside {
                    let (iy, ix) = (py - self.top, px - self.left);
                    let from = ((image * self.h + iy) * self.w + ix) * self.c + channel;
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
