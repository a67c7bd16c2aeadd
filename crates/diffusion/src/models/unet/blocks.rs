//! The blocks of the U-Net, in checkpoint order.

use std::slice::Iter;

use super::config::BlockConfig;
use crate::Result;
use crate::models::attention::{Attention, KeyValues, Transformer2DModel, TransformerConfig};
use crate::models::resnet::{Downsample2D, ResnetBlock2D, ResnetConfig, Upsample2D};
use crate::ops::{Device, Tensor, concat_channels};
use crate::weights::Weights;

/// What all blocks of a U-Net have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) resnet: ResnetConfig,
    pub(super) use_linear_projection: bool,
    pub(super) downsample_padding: usize,
    pub(super) device: &'a Device,
}

/// `CrossAttnDownBlock2D` or, without attentions, `DownBlock2D`.
#[derive(Debug)]
pub(super) struct DownBlock {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<Transformer2DModel>,
    downsampler: Option<Downsample2D>,
}

/// `UNetMidBlock2DCrossAttn` or, without attentions, `UNetMidBlock2D`.
#[derive(Debug)]
pub(super) struct MidBlock {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<Transformer2DModel>,
}

/// `CrossAttnUpBlock2D` or, without attentions, `UpBlock2D`.
#[derive(Debug)]
pub(super) struct UpBlock {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<Transformer2DModel>,
    upsampler: Option<Upsample2D>,
}

impl DownBlock {
    pub(super) fn load(
        weights: &Weights,
        config: &BlockConfig,
        in_channels: usize,
        downsample: bool,
        shared: Shared<'_>,
    ) -> Result<Self> {
        let resnets = (0..config.resnets)
            .map(|i| {
                let from = if i == 0 { in_channels } else { config.channels };
                ResnetBlock2D::load(&weights.pp("resnets").pp(i), shared.resnet, from, config.channels, shared.device)
            })
            .collect::<Result<_>>()?;
        let downsampler = downsample
            .then(|| {
                Downsample2D::load(
                    &weights.pp("downsamplers").pp(0),
                    config.channels,
                    shared.downsample_padding,
                    shared.device,
                )
            })
            .transpose()?;
        Ok(Self { resnets, attentions: attentions(weights, config, shared)?, downsampler })
    }

    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &Attention> {
        self.attentions.iter().flat_map(Transformer2DModel::cross_attentions)
    }

    /// Pushes every output that the way up will need onto `skips`.
    pub(super) fn forward(
        &self,
        mut x: Tensor,
        temb: &Tensor,
        context: &mut Iter<'_, KeyValues>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(&x, Some(temb))?;
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(&x, context)?;
            }
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

impl MidBlock {
    pub(super) fn load(weights: &Weights, config: &BlockConfig, shared: Shared<'_>) -> Result<Self> {
        let resnets = (0..config.resnets)
            .map(|i| {
                ResnetBlock2D::load(
                    &weights.pp("resnets").pp(i),
                    shared.resnet,
                    config.channels,
                    config.channels,
                    shared.device,
                )
            })
            .collect::<Result<_>>()?;
        Ok(Self { resnets, attentions: attentions(weights, config, shared)? })
    }

    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &Attention> {
        self.attentions.iter().flat_map(Transformer2DModel::cross_attentions)
    }

    pub(super) fn forward(&self, mut x: Tensor, temb: &Tensor, context: &mut Iter<'_, KeyValues>) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(&x, Some(temb))?;
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(&x, context)?;
            }
        }
        Ok(x)
    }
}

impl UpBlock {
    /// `below`: the channels of the block before; `skip`: those of the block on the way down whose last output comes back
    /// to this block's last layer.
    pub(super) fn load(
        weights: &Weights,
        config: &BlockConfig,
        below: usize,
        skip: usize,
        upsample: bool,
        shared: Shared<'_>,
    ) -> Result<Self> {
        let resnets = (0..config.resnets)
            .map(|i| {
                let from = if i == 0 { below } else { config.channels };
                let beside = if i + 1 == config.resnets { skip } else { config.channels };
                ResnetBlock2D::load(
                    &weights.pp("resnets").pp(i),
                    shared.resnet,
                    from + beside,
                    config.channels,
                    shared.device,
                )
            })
            .collect::<Result<_>>()?;
        let upsampler = upsample
            .then(|| Upsample2D::load(&weights.pp("upsamplers").pp(0), config.channels, shared.device))
            .transpose()?;
        Ok(Self { resnets, attentions: attentions(weights, config, shared)?, upsampler })
    }

    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &Attention> {
        self.attentions.iter().flat_map(Transformer2DModel::cross_attentions)
    }

    /// Pops its share of `skips`. It grows to the size of the next of them, which is twice its own unless a side was odd on
    /// the way down.
    pub(super) fn forward(
        &self,
        mut x: Tensor,
        temb: &Tensor,
        context: &mut Iter<'_, KeyValues>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().expect("the way up has as many layers as the way down has outputs");
            x = resnet.forward(&concat_channels(&x, &skip)?, Some(temb))?;
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(&x, context)?;
            }
        }
        if let (Some(upsampler), Some(next)) = (&self.upsampler, skips.last()) {
            let (_, _, h, w) = next.feature_map_shape();
            x = upsampler.forward(&x, h, w)?;
        }
        Ok(x)
    }
}

fn attentions(weights: &Weights, config: &BlockConfig, shared: Shared<'_>) -> Result<Vec<Transformer2DModel>> {
    let transformer = TransformerConfig {
        heads: config.heads,
        cross_attention_dim: config.cross_attention_dim,
        only_cross_attention: config.only_cross_attention,
        use_linear_projection: shared.use_linear_projection,
        groups: shared.resnet.groups,
    };
    let layers = config.transformer_layers.iter().flatten().enumerate();
    layers
        .map(|(i, &layers)| {
            Transformer2DModel::load(
                &weights.pp("attentions").pp(i),
                config.channels,
                layers,
                transformer,
                shared.device,
            )
        })
        .collect()
}
