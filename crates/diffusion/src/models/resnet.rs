//! Residual blocks and what stands between resolutions; diffusers' `ResnetBlock2D`, `Downsample2D` and `Upsample2D`.

use crate::Result;
use crate::ops::{Activation, Conv2d, Device, Epilogue, GroupNorm, Linear, Tensor, UpsampleConv2d};
use crate::weights::Weights;

/// What the residual blocks of one network have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResnetConfig {
    pub(super) groups: usize,
    pub(super) eps: f64,
    pub(super) act: Activation,
    /// The width of the time embedding, where there is one.
    pub(super) temb_channels: Option<usize>,
}

/// Two convolutions with a time embedding between them, and a shortcut.
#[derive(Debug)]
pub(super) struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    act: Activation,
}

/// A convolution that halves the sides.
#[derive(Debug)]
pub(super) struct Downsample2D {
    conv: Conv2d,
}

/// Nearest neighbour, then a convolution.
#[derive(Debug)]
pub(super) struct Upsample2D {
    conv: UpsampleConv2d,
}

impl ResnetBlock2D {
    pub(super) fn load(
        weights: &Weights,
        config: ResnetConfig,
        in_channels: usize,
        out_channels: usize,
        device: &Device,
    ) -> Result<Self> {
        let norm = |name, channels| GroupNorm::load(&weights.pp(name), config.groups, channels, config.eps, device);
        let conv = |name, from| Conv2d::load(&weights.pp(name), from, out_channels, 3, 1, [1; 4], device);
        Ok(Self {
            norm1: norm("norm1", in_channels)?,
            conv1: conv("conv1", in_channels)?,
            time_emb_proj: config
                .temb_channels
                .map(|temb_channels| Linear::load(&weights.pp("time_emb_proj"), temb_channels, out_channels, device))
                .transpose()?,
            norm2: norm("norm2", out_channels)?,
            conv2: conv("conv2", out_channels)?,
            conv_shortcut: (in_channels != out_channels)
                .then(|| Conv2d::load(&weights.pp("conv_shortcut"), in_channels, out_channels, 1, 1, [0; 4], device))
                .transpose()?,
            act: config.act,
        })
    }

    /// `temb (n, temb_channels)`: the time embedding after its activation, which is the same for every block.
    pub(super) fn forward(&self, x: &Tensor, temb: Option<&Tensor>) -> Result<Tensor> {
        let normed = self.forward_by(x, temb, |norm, x, act| norm.forward(x, act).map(Some))?;
        Ok(normed.expect("every norm was computed"))
    }

    /// As [`Self::forward`], its norms computed by `normalize`. Where that gives none, neither does this.
    pub(super) fn forward_by(
        &self,
        x: &Tensor,
        temb: Option<&Tensor>,
        mut normalize: impl FnMut(&GroupNorm, &Tensor, Activation) -> Result<Option<Tensor>>,
    ) -> Result<Option<Tensor>> {
        let temb = match (&self.time_emb_proj, temb) {
            (Some(proj), Some(temb)) => Some(proj.forward(temb)?),
            _ => None,
        };
        // One variable, so that each map is gone as soon as the next is there.
        let Some(mut hidden) = normalize(&self.norm1, x, self.act)? else { return Ok(None) };
        hidden = self.conv1.forward_with(&hidden, Epilogue { channel_bias: temb.as_ref(), ..Epilogue::default() })?;
        hidden = match normalize(&self.norm2, &hidden, self.act)? {
            Some(normed) => normed,
            None => return Ok(None),
        };
        let out = match &self.conv_shortcut {
            Some(conv_shortcut) => self.conv2.forward_with(&hidden, Epilogue::residual(&conv_shortcut.forward(x)?)),
            None => self.conv2.forward_with(&hidden, Epilogue::residual(x)),
        };
        out.map(Some)
    }

    /// The norm that comes first.
    pub(super) fn first_norm(&self) -> &GroupNorm {
        &self.norm1
    }
}

impl Downsample2D {
    /// `padding` 0 is diffusers' word for one pixel on the right and at the bottom.
    pub(super) fn load(weights: &Weights, channels: usize, padding: usize, device: &Device) -> Result<Self> {
        let padding = if padding == 0 { [0, 0, 1, 1] } else { [padding; 4] };
        Ok(Self { conv: Conv2d::load(&weights.pp("conv"), channels, channels, 3, 2, padding, device)? })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv.forward(x)
    }
}

impl Upsample2D {
    pub(super) fn load(weights: &Weights, channels: usize, device: &Device) -> Result<Self> {
        Ok(Self { conv: UpsampleConv2d::load(&weights.pp("conv"), channels, device)? })
    }

    pub(super) fn forward(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.conv.forward(x, height, width)
    }
}
