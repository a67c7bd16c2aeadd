//! The autoencoder of Stable Diffusion; diffusers' `AutoencoderKL` (<https://arxiv.org/abs/2112.10752>).

use serde::Deserialize;

use super::tiles::{self, Step};
use super::{Encoded, LatentSpace};
use crate::Result;
use crate::models::attention::Attention;
use crate::models::config::{Fixed, bad, diffusers_activation, parse, unsupported};
use crate::models::resnet::{Downsample2D, ResnetBlock2D, ResnetConfig, Upsample2D};
use crate::ops::{Activation, Conv2d, Device, GroupNorm, Tensor};
use crate::weights::Weights;

/// The config of diffusers' `AutoencoderKL`, with its defaults:
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/autoencoder_kl.py>.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are diffusers' and explained there")]
pub struct AutoencoderKlConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    pub scaling_factor: f32,
    pub latents_mean: Option<Vec<f32>>,
    pub latents_std: Option<Vec<f32>>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
}

#[derive(Debug)]
pub(super) struct AutoencoderKl {
    device: Device,
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<(Vec<ResnetBlock2D>, Option<Downsample2D>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<(Vec<ResnetBlock2D>, Option<Upsample2D>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// Two residual blocks around attention of one head over every pixel.
#[derive(Debug)]
struct MidBlock {
    resnets: [ResnetBlock2D; 2],
    attention: Option<(GroupNorm, Attention)>,
}

/// What both halves have in common.
#[derive(Clone, Copy)]
struct Shared<'a> {
    config: &'a AutoencoderKlConfig,
    resnet: ResnetConfig,
    device: &'a Device,
}

const EPS: f64 = 1e-6;

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKlConfig {
    /// Parses a `config.json`; `file` stands for it in errors.
    ///
    /// # Errors
    /// [`crate::Error::BadFile`] where it is no such config, [`crate::Error::Unsupported`] where it asks for what is not built.
    pub fn parse(json: &str, file: &str) -> Result<Self> {
        let config: Self = parse(json, file, &[Fixed { key: "_class_name", values: &["\"AutoencoderKL\""] }])?;
        let n = config.block_out_channels.len();
        let blocks = [
            ("down_block_types", &config.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &config.up_block_types, "UpDecoderBlock2D"),
        ];
        for (key, types, known) in blocks {
            if let Some(other) = types.iter().find(|name| *name != known) {
                return Err(unsupported(file, key, other, format!("only {known} is")));
            }
            if types.len() != n || n == 0 || n > 16 {
                return Err(bad(file, format!("{key} has {} blocks, block_out_channels {n}", types.len())));
            }
        }
        let counts = [config.in_channels, config.out_channels, config.latent_channels]
            .into_iter()
            .chain(config.block_out_channels.iter().copied());
        if counts.into_iter().any(|channels| channels == 0) {
            return Err(bad(file, "a number of channels is 0"));
        }
        if let Some(statistics) = [&config.latents_mean, &config.latents_std]
            .into_iter()
            .flatten()
            .find(|list| list.len() != config.latent_channels)
        {
            return Err(bad(
                file,
                format!(
                    "latents_mean or latents_std has {} values for {} latent_channels",
                    statistics.len(),
                    config.latent_channels
                ),
            ));
        }
        diffusers_activation(&config.act_fn, "act_fn", file)?;
        Ok(config)
    }

    pub(super) fn latent_space(&self) -> LatentSpace {
        LatentSpace {
            channels: self.latent_channels,
            factor: 1 << (self.block_out_channels.len() - 1),
            scaling_factor: self.scaling_factor,
            latents_mean: self.latents_mean.clone(),
            latents_std: self.latents_std.clone(),
        }
    }
}

impl AutoencoderKl {
    pub(super) fn load(config: &AutoencoderKlConfig, file: &str, weights: &Weights, device: &Device) -> Result<Self> {
        let act = diffusers_activation(&config.act_fn, "act_fn", file)?;
        let resnet = ResnetConfig { groups: config.norm_num_groups, eps: EPS, act, temb_channels: None };
        let shared = Shared { config, resnet, device };
        // Only pictures that start from an image are encoded.
        let unprepared = device.unprepared();
        let encoder = Shared { device: &unprepared, ..shared };
        let pointwise =
            |name: &str, channels| Conv2d::load(&weights.pp(name), channels, channels, 1, 1, [0; 4], device);
        let latents = config.latent_channels;
        Ok(Self {
            device: device.clone(),
            encoder: Encoder::load(&weights.pp("encoder"), encoder)?,
            quant_conv: config.use_quant_conv.then(|| pointwise("quant_conv", 2 * latents)).transpose()?,
            post_quant_conv: config.use_post_quant_conv.then(|| pointwise("post_quant_conv", latents)).transpose()?,
            decoder: Decoder::load(&weights.pp("decoder"), shared)?,
        })
    }

    pub(super) fn encode(&self, image: &[f32], shape: &[usize; 4]) -> Result<Encoded> {
        let moments = self.device.install(|| {
            let moments = self.encoder.forward(&Tensor::from_host(&self.device, image, shape)?)?;
            match &self.quant_conv {
                Some(quant_conv) => quant_conv.forward(&moments)?.to_host(),
                None => moments.to_host(),
            }
        })?;
        let (mut mean, mut std) = (Vec::with_capacity(moments.len() / 2), Vec::with_capacity(moments.len() / 2));
        for picture in moments.chunks(moments.len() / shape[0]) {
            let (means, logvars) = picture.split_at(picture.len() / 2);
            mean.extend_from_slice(means);
            std.extend(logvars.iter().map(|logvar| (0.5 * logvar.clamp(-30.0, 20.0)).exp()));
        }
        Ok(Encoded::Gaussian { mean, std })
    }

    pub(super) fn decode(&self, latents: &[f32], shape: &[usize; 4]) -> Result<Vec<f32>> {
        self.decode_by(latents, shape, |latents| self.decoder.forward(latents))
    }

    /// Picture after picture, and in tiles whose widest activations take about `tile_bytes`.
    pub(super) fn decode_tiled(&self, latents: &[f32], shape: &[usize; 4], tile_bytes: usize) -> Result<Vec<f32>> {
        let [n, channels, height, width] = *shape;
        let mut pictures = Vec::new();
        for latents in latents.chunks(latents.len() / n) {
            let decode = |latents: &Tensor| self.decoder.forward_tiled(latents, tile_bytes);
            pictures.extend(self.decode_by(latents, &[1, channels, height, width], decode)?);
        }
        Ok(pictures)
    }

    fn decode_by(
        &self,
        latents: &[f32],
        shape: &[usize; 4],
        decode: impl Fn(&Tensor) -> Result<Tensor> + Sync,
    ) -> Result<Vec<f32>> {
        self.device.install(|| {
            let mut latents = Tensor::from_host(&self.device, latents, shape)?;
            if let Some(post_quant_conv) = &self.post_quant_conv {
                latents = post_quant_conv.forward(&latents)?;
            }
            decode(&latents)?.to_host()
        })
    }
}

impl Encoder {
    fn load(weights: &Weights, shared: Shared<'_>) -> Result<Self> {
        let Shared { config, device, .. } = shared;
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let down_blocks = (0..=last).map(|i| {
            let block = weights.pp("down_blocks").pp(i);
            let resnets =
                shared.resnets(&block, config.layers_per_block, channels[i.saturating_sub(1)], channels[i])?;
            let downsampler = (i != last)
                .then(|| Downsample2D::load(&block.pp("downsamplers").pp(0), channels[i], 0, device))
                .transpose()?;
            Ok((resnets, downsampler))
        });
        Ok(Self {
            conv_in: Conv2d::load(&weights.pp("conv_in"), config.in_channels, channels[0], 3, 1, [1; 4], device)?,
            down_blocks: down_blocks.collect::<Result<_>>()?,
            mid_block: MidBlock::load(&weights.pp("mid_block"), channels[last], shared)?,
            conv_norm_out: GroupNorm::load(
                &weights.pp("conv_norm_out"),
                config.norm_num_groups,
                channels[last],
                EPS,
                device,
            )?,
            conv_out: Conv2d::load(
                &weights.pp("conv_out"),
                channels[last],
                2 * config.latent_channels,
                3,
                1,
                [1; 4],
                device,
            )?,
        })
    }

    fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(image)?;
        for (resnets, downsampler) in &self.down_blocks {
            for resnet in resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(downsampler) = downsampler {
                x = downsampler.forward(&x)?;
            }
        }
        x = self.mid_block.forward(&x)?;
        self.conv_out.forward(&self.conv_norm_out.forward(&x, Activation::Silu)?)
    }
}

impl Decoder {
    fn load(weights: &Weights, shared: Shared<'_>) -> Result<Self> {
        let Shared { config, device, .. } = shared;
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let up_blocks = (0..=last).map(|i| {
            let block = weights.pp("up_blocks").pp(i);
            let resnets =
                shared.resnets(&block, config.layers_per_block + 1, channels[i.saturating_sub(1)], channels[i])?;
            let upsampler = (i != last)
                .then(|| Upsample2D::load(&block.pp("upsamplers").pp(0), channels[i], device))
                .transpose()?;
            Ok((resnets, upsampler))
        });
        Ok(Self {
            conv_in: Conv2d::load(&weights.pp("conv_in"), config.latent_channels, channels[0], 3, 1, [1; 4], device)?,
            mid_block: MidBlock::load(&weights.pp("mid_block"), channels[0], shared)?,
            up_blocks: up_blocks.collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(
                &weights.pp("conv_norm_out"),
                config.norm_num_groups,
                channels[last],
                EPS,
                device,
            )?,
            conv_out: Conv2d::load(&weights.pp("conv_out"), channels[last], config.out_channels, 3, 1, [1; 4], device)?,
        })
    }

    fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(latents)?;
        x = self.mid_block.forward(&x)?;
        for (resnets, upsampler) in &self.up_blocks {
            for resnet in resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(upsampler) = upsampler {
                let (_, _, h, w) = x.feature_map_shape();
                x = upsampler.forward(&x, 2 * h, 2 * w)?;
            }
        }
        x = self.conv_norm_out.forward(&x, Activation::Silu)?;
        self.conv_out.forward(&x)
    }

    /// As [`Self::forward`] for one picture, everything after the first block in tiles. What is wide stays within a tile:
    /// between two calls of [`tiles::run`] lie the narrower ends of each block, and the last block is one call.
    fn forward_tiled(&self, latents: &Tensor, tile_bytes: usize) -> Result<Tensor> {
        let mut x = self.conv_in.forward(latents)?;
        x = self.mid_block.forward(&x)?;
        let mut upsampler = None;
        let last = self.up_blocks.len() - 1;
        for (i, (resnets, next)) in self.up_blocks.iter().enumerate() {
            let steps = upsampler.take().map(Step::Upsample).into_iter().chain(resnets.iter().map(Step::Resnet));
            let mut steps: Vec<Step<'_>> = steps.collect();
            let mut end = Vec::new();
            if i == last {
                end = steps.split_off(steps.len().min(2));
                end.push(Step::Out(&self.conv_norm_out, &self.conv_out));
            }
            // An upsampled map is wide: the block after it makes it narrower in the same tile.
            while !steps.is_empty() {
                let rest = steps.split_off(if matches!(steps[0], Step::Upsample(_)) { 2.min(steps.len()) } else { 1 });
                x = tiles::run(&steps, x, tile_bytes)?;
                steps = rest;
            }
            if !end.is_empty() {
                x = tiles::run(&end, x, tile_bytes)?;
            }
            upsampler = next.as_ref();
        }
        Ok(x)
    }
}

impl MidBlock {
    fn load(weights: &Weights, channels: usize, shared: Shared<'_>) -> Result<Self> {
        let resnet = |i: usize| {
            ResnetBlock2D::load(&weights.pp("resnets").pp(i), shared.resnet, channels, channels, shared.device)
        };
        let attention = shared.config.mid_block_add_attention.then(|| {
            let weights = weights.pp("attentions").pp(0);
            let norm = GroupNorm::load(&weights.pp("group_norm"), shared.resnet.groups, channels, EPS, shared.device)?;
            Ok::<_, crate::Error>((norm, Attention::load(&weights, channels, channels, 1, true, shared.device)?))
        });
        Ok(Self { resnets: [resnet(0)?, resnet(1)?], attention: attention.transpose()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.resnets[0].forward(x, None)?;
        if let Some((group_norm, attention)) = &self.attention {
            let (_, _, h, w) = x.feature_map_shape();
            let normed = group_norm.forward(&x, Activation::None)?.to_tokens()?;
            x = attention.forward_self(&normed, &x.to_tokens()?)?.to_feature_map(h, w)?;
        }
        self.resnets[1].forward(&x, None)
    }
}

impl Shared<'_> {
    fn resnets(&self, block: &Weights, count: usize, from: usize, to: usize) -> Result<Vec<ResnetBlock2D>> {
        let resnets = block.pp("resnets");
        (0..count)
            .map(|i| ResnetBlock2D::load(&resnets.pp(i), self.resnet, if i == 0 { from } else { to }, to, self.device))
            .collect()
    }
}
