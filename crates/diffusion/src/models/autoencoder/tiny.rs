//! The distilled autoencoder TAESD (<https://github.com/madebyollin/taesd>); diffusers' `AutoencoderTiny`.

use serde::Deserialize;

use super::{Encoded, LatentSpace};
use crate::Result;
use crate::models::config::{Fixed, bad, diffusers_activation, parse};
use crate::ops::{Activation, Conv2d, Device, Epilogue, Tensor, UpsampleConv2d, activate};
use crate::weights::Weights;

/// The config of diffusers' `AutoencoderTiny`, with its defaults:
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/autoencoder_tiny.py>.
/// Its `latent_magnitude` and `latent_shift` say how to store latents in bytes, which encoding and decoding never do.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are diffusers' and explained there")]
pub struct AutoencoderTinyConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub encoder_block_out_channels: Vec<usize>,
    pub decoder_block_out_channels: Vec<usize>,
    pub act_fn: String,
    pub latent_channels: usize,
    pub num_encoder_blocks: Vec<usize>,
    pub num_decoder_blocks: Vec<usize>,
    pub scaling_factor: f32,
}

#[derive(Debug)]
pub(super) struct AutoencoderTiny {
    device: Device,
    encoder: Vec<Layer>,
    decoder: Vec<Layer>,
}

#[derive(Debug)]
enum Layer {
    Conv(Conv2d),
    Activation(Activation),
    Block(AutoencoderTinyBlock),
    Upsample(UpsampleConv2d),
}

/// Three convolutions and the input itself.
#[derive(Debug)]
struct AutoencoderTinyBlock {
    convs: Box<[Conv2d; 3]>,
    act: Activation,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            act_fn: "relu".into(),
            latent_channels: 4,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            scaling_factor: 1.0,
        }
    }
}

const FIXED: [Fixed; 3] = [
    Fixed { key: "_class_name", values: &["\"AutoencoderTiny\""] },
    Fixed { key: "upsample_fn", values: &["\"nearest\""] },
    Fixed { key: "upsampling_scaling_factor", values: &["2"] },
];

impl AutoencoderTinyConfig {
    /// Parses a `config.json`; `file` stands for it in errors.
    ///
    /// # Errors
    /// [`crate::Error::BadFile`] where it is no such config, [`crate::Error::Unsupported`] where it asks for what is not built.
    pub fn parse(json: &str, file: &str) -> Result<Self> {
        let config: Self = parse(json, file, &FIXED)?;
        let halves = [
            ("encoder", &config.encoder_block_out_channels, &config.num_encoder_blocks),
            ("decoder", &config.decoder_block_out_channels, &config.num_decoder_blocks),
        ];
        for (half, channels, blocks) in halves {
            if channels.len() != blocks.len() || channels.is_empty() || channels.len() > 16 {
                return Err(bad(
                    file,
                    format!(
                        "{half}_block_out_channels has {} stages, num_{half}_blocks {}",
                        channels.len(),
                        blocks.len()
                    ),
                ));
            }
            // diffusers builds each stage's first convolution with the stage's own width on both sides.
            if channels.contains(&0) || channels.iter().any(|&c| c != channels[0]) {
                return Err(bad(
                    file,
                    format!("{half}_block_out_channels is {channels:?}, but all stages must have one width"),
                ));
            }
        }
        if config.encoder_block_out_channels.len() != config.decoder_block_out_channels.len() {
            return Err(bad(file, "encoder and decoder have another number of stages"));
        }
        if [config.in_channels, config.out_channels, config.latent_channels].contains(&0) {
            return Err(bad(file, "a number of channels is 0"));
        }
        diffusers_activation(&config.act_fn, "act_fn", file)?;
        Ok(config)
    }

    pub(super) fn latent_space(&self) -> LatentSpace {
        LatentSpace {
            channels: self.latent_channels,
            factor: 1 << (self.decoder_block_out_channels.len() - 1),
            scaling_factor: self.scaling_factor,
            latents_mean: None,
            latents_std: None,
        }
    }
}

impl AutoencoderTiny {
    pub(super) fn load(config: &AutoencoderTinyConfig, file: &str, weights: &Weights, device: &Device) -> Result<Self> {
        let act = diffusers_activation(&config.act_fn, "act_fn", file)?;
        let (encoder, decoder) = (weights.pp("encoder").pp("layers"), weights.pp("decoder").pp("layers"));
        Ok(Self {
            device: device.clone(),
            encoder: Self::load_encoder(config, act, &encoder, device)?,
            decoder: Self::load_decoder(config, act, &decoder, device)?,
        })
    }

    fn load_encoder(
        config: &AutoencoderTinyConfig,
        act: Activation,
        weights: &Weights,
        device: &Device,
    ) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        let channels = config.encoder_block_out_channels[0];
        for (stage, &blocks) in config.num_encoder_blocks.iter().enumerate() {
            let conv = weights.pp(layers.len());
            layers.push(Layer::Conv(if stage == 0 {
                Conv2d::load(&conv, config.in_channels, channels, 3, 1, [1; 4], device)?
            } else {
                Conv2d::load_without_bias(&conv, channels, channels, 3, 2, [1; 4], device)?
            }));
            for _ in 0..blocks {
                let block = weights.pp(layers.len());
                layers.push(Layer::Block(AutoencoderTinyBlock::load(&block, channels, act, device)?));
            }
        }
        let last = weights.pp(layers.len());
        layers.push(Layer::Conv(Conv2d::load(&last, channels, config.latent_channels, 3, 1, [1; 4], device)?));
        Ok(layers)
    }

    fn load_decoder(
        config: &AutoencoderTinyConfig,
        act: Activation,
        weights: &Weights,
        device: &Device,
    ) -> Result<Vec<Layer>> {
        let channels = config.decoder_block_out_channels[0];
        let first = Conv2d::load(&weights.pp(0), config.latent_channels, channels, 3, 1, [1; 4], device)?;
        let mut layers = vec![Layer::Conv(first), Layer::Activation(act)];
        let last_stage = config.num_decoder_blocks.len() - 1;
        // An upsampling has a number of its own before its convolution's.
        let mut number = layers.len();
        for (stage, &blocks) in config.num_decoder_blocks.iter().enumerate() {
            for _ in 0..blocks {
                let block = weights.pp(number);
                layers.push(Layer::Block(AutoencoderTinyBlock::load(&block, channels, act, device)?));
                number += 1;
            }
            if stage == last_stage {
                let conv = weights.pp(number);
                layers.push(Layer::Conv(Conv2d::load(&conv, channels, config.out_channels, 3, 1, [1; 4], device)?));
            } else {
                let conv = weights.pp(number + 1);
                layers.push(Layer::Upsample(UpsampleConv2d::load_without_bias(&conv, channels, device)?));
                number += 2;
            }
        }
        Ok(layers)
    }

    pub(super) fn encode(&self, image: &[f32], shape: &[usize; 4]) -> Result<Encoded> {
        // TAESD's pictures are 0 to 1.
        let image: Vec<f32> = image.iter().map(|x| (x + 1.0) / 2.0).collect();
        self.run(&self.encoder, &image, shape).map(Encoded::Latents)
    }

    pub(super) fn decode(&self, latents: &[f32], shape: &[usize; 4]) -> Result<Vec<f32>> {
        let clamped: Vec<f32> = latents.iter().map(|x| (x / 3.0).tanh() * 3.0).collect();
        let mut image = self.run(&self.decoder, &clamped, shape)?;
        for x in &mut image {
            *x = *x * 2.0 - 1.0;
        }
        Ok(image)
    }

    fn run(&self, layers: &[Layer], input: &[f32], shape: &[usize; 4]) -> Result<Vec<f32>> {
        self.device.install(|| {
            let mut x = Tensor::from_host(&self.device, input, shape)?;
            for layer in layers {
                x = match layer {
                    Layer::Conv(conv) => conv.forward(&x)?,
                    Layer::Activation(act) => activate(x, *act)?,
                    Layer::Block(block) => block.forward(&x)?,
                    Layer::Upsample(conv) => {
                        let (_, _, h, w) = x.feature_map_shape();
                        conv.forward(&x, 2 * h, 2 * w)?
                    }
                };
            }
            x.to_host()
        })
    }
}

impl AutoencoderTinyBlock {
    fn load(weights: &Weights, channels: usize, act: Activation, device: &Device) -> Result<Self> {
        let conv = |i: usize| Conv2d::load(&weights.pp("conv").pp(i), channels, channels, 3, 1, [1; 4], device);
        Ok(Self { convs: Box::new([conv(0)?, conv(2)?, conv(4)?]), act })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.convs[0].forward_with(x, Epilogue::activation(self.act))?;
        let hidden = self.convs[1].forward_with(&hidden, Epilogue::activation(self.act))?;
        activate(self.convs[2].forward_with(&hidden, Epilogue::residual(x))?, Activation::Relu)
    }
}
