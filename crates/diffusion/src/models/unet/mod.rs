//! The network that denoises: diffusers' `UNet2DConditionModel` (<https://arxiv.org/abs/2112.10752>).

mod blocks;
mod config;

pub use config::UNetConfig;

use self::blocks::{DownBlock, MidBlock, Shared, UpBlock};
use crate::models::attention::{Attention, KeyValues};
use crate::models::embeddings::{TimestepEmbedding, Timesteps};
use crate::models::resnet::ResnetConfig;
use crate::ops::{Activation, Conv2d, Device, GroupNorm, Tensor, activate};
use crate::weights::Weights;
use crate::{Error, Result};

/// The U-Net of Stable Diffusion 1.x, 2.x and XL, with 4 or 9 input channels, and of latent consistency models.
#[derive(Debug)]
pub struct UNet2DConditionModel {
    config: UNetConfig,
    device: Device,
    time_proj: Timesteps,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<AddEmbedding>,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    act: Activation,
}

/// What a picture is conditioned on, the same for all its steps; `n` is the batch, 2 for classifier-free guidance.
#[derive(Debug, Clone, Copy)]
pub struct Conditioning<'a> {
    /// The text encoder's hidden states `(n, l, context_width)`.
    pub encoder_hidden_states: &'a Tensor,
    /// SDXL's pooled text and sizes; must be there where the config has `addition_embed_type`.
    pub text_time: Option<TextTime<'a>>,
    /// The embedding of the guidance scale `(n, time_cond_proj_dim)`, row-major, of a latent consistency model
    /// (<https://arxiv.org/abs/2310.04378>).
    pub timestep_cond: Option<&'a [f32]>,
}

/// SDXL's further conditions (<https://arxiv.org/abs/2307.01952>, section 2.2).
#[derive(Debug, Clone, Copy)]
pub struct TextTime<'a> {
    /// The pooled text `(n, width)`, row-major.
    pub pooled: &'a [f32],
    /// Original size, crop and target size `(n, 6)`, row-major, in pixels.
    pub time_ids: &'a [f32],
}

/// What the U-Net makes of a [`Conditioning`]: computed once for a picture, used in every step.
#[derive(Debug, Clone)]
pub struct Context {
    batch: usize,
    key_values: Vec<KeyValues>,
    added: Option<Tensor>,
    timestep_cond: Option<Tensor>,
}

#[derive(Debug)]
struct AddEmbedding {
    input_dim: usize,
    time_proj: Timesteps,
    embedding: TimestepEmbedding,
}

impl UNet2DConditionModel {
    /// Reads the weights; they are named from the root, `conv_in.weight` and so on.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::TensorShape`], or what the device says.
    pub fn load(config: &UNetConfig, weights: &Weights, device: &Device) -> Result<Self> {
        device.install(|| Self::read(config, weights, device))
    }

    fn read(config: &UNetConfig, weights: &Weights, device: &Device) -> Result<Self> {
        let plan = config.plan()?;
        let act = config.activation()?;
        let first = config.block_out_channels[0];
        let time_embed_dim = config.time_embed_dim();
        let timesteps =
            |channels| Timesteps { channels, flip_sin_to_cos: config.flip_sin_to_cos, freq_shift: config.freq_shift };
        let add_embedding = config.text_time()?.map(|(input_dim, each)| {
            let embedding = TimestepEmbedding::load(
                &weights.pp("add_embedding"),
                input_dim,
                time_embed_dim,
                Activation::Silu,
                None,
                device,
            )?;
            Ok::<_, Error>(AddEmbedding { input_dim, time_proj: timesteps(each), embedding })
        });
        let shared = Shared {
            resnet: ResnetConfig {
                groups: config.norm_num_groups,
                eps: config.norm_eps,
                act,
                temb_channels: Some(time_embed_dim),
            },
            use_linear_projection: config.use_linear_projection,
            downsample_padding: config.downsample_padding,
            device,
        };
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let down_blocks = plan.down.iter().enumerate().map(|(i, block)| {
            DownBlock::load(&weights.pp("down_blocks").pp(i), block, channels[i.saturating_sub(1)], i != last, shared)
        });
        let up_blocks = plan.up.iter().enumerate().map(|(i, block)| {
            let below = channels[last - i.saturating_sub(1)];
            let skip = channels[(last - i).saturating_sub(1)];
            UpBlock::load(&weights.pp("up_blocks").pp(i), block, below, skip, i != last, shared)
        });
        let conv = |name: &str, from, to, kernel: usize| {
            Conv2d::load(&weights.pp(name), from, to, kernel, 1, [kernel / 2; 4], device)
        };
        Ok(Self {
            config: config.clone(),
            device: device.clone(),
            time_proj: timesteps(first),
            time_embedding: TimestepEmbedding::load(
                &weights.pp("time_embedding"),
                first,
                time_embed_dim,
                act,
                config.time_cond_proj_dim,
                device,
            )?,
            add_embedding: add_embedding.transpose()?,
            conv_in: conv("conv_in", config.in_channels, first, config.conv_in_kernel)?,
            down_blocks: down_blocks.collect::<Result<_>>()?,
            mid_block: plan.mid.map(|block| MidBlock::load(&weights.pp("mid_block"), &block, shared)).transpose()?,
            up_blocks: up_blocks.collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(
                &weights.pp("conv_norm_out"),
                config.norm_num_groups,
                first,
                config.norm_eps,
                device,
            )?,
            conv_out: conv("conv_out", first, config.out_channels, config.conv_out_kernel)?,
            act,
        })
    }

    /// The config that it was made of.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Computes what stays the same in all steps of a picture: the text's keys and values for every layer, and the
    /// embedding of size and pooled text.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the conditioning does not fit the network, or what the device says.
    pub fn prepare_context(&self, conditioning: &Conditioning<'_>) -> Result<Context> {
        let width = self.config.context_width();
        let batch = match *conditioning.encoder_hidden_states.shape() {
            [n, _, c] if c == width => n,
            ref shape => {
                return Err(invalid(
                    "encoder_hidden_states",
                    format!(
                        "has shape {shape:?}, but the U-Net attends to (n, l, {width}): the text encoder is of another model"
                    ),
                ));
            }
        };
        self.device.install(|| {
            let key_values = self
                .cross_attentions()
                .map(|attention| attention.key_values(conditioning.encoder_hidden_states))
                .collect::<Result<_>>()?;
            let added = match (&self.add_embedding, conditioning.text_time) {
                (Some(add_embedding), Some(text_time)) => {
                    Some(add_embedding.forward(text_time, batch, &self.device)?)
                }
                (Some(_), None) => {
                    return Err(invalid(
                        "text_time",
                        "is missing, but the U-Net is conditioned on pooled text and sizes".into(),
                    ));
                }
                (None, _) => None,
            };
            let timestep_cond = match (self.config.time_cond_proj_dim, conditioning.timestep_cond) {
                (Some(dim), Some(cond)) if cond.len() == batch * dim => {
                    Some(Tensor::from_host(&self.device, cond, &[batch, dim])?)
                }
                (None, None) | (Some(_), None) => None,
                (dim, Some(cond)) => {
                    return Err(invalid(
                        "timestep_cond",
                        format!("has {} numbers, but the U-Net takes {}", cond.len(), batch * dim.unwrap_or(0)),
                    ));
                }
            };
            Ok(Context { batch, key_values, added, timestep_cond })
        })
    }

    /// The prediction of the network for latents `sample (n, in_channels, height, width)`, row-major, at a timestep, which
    /// may be fractional: `(n, out_channels, height, width)`, row-major.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the sample is not as long as its size and the context's batch say, or what the device
    /// says.
    pub fn forward(
        &self,
        sample: &[f32],
        height: usize,
        width: usize,
        timestep: f64,
        context: &Context,
    ) -> Result<Vec<f32>> {
        let shape = [context.batch, self.config.in_channels, height, width];
        let expected: usize = shape.iter().product();
        if sample.len() != expected || expected == 0 {
            return Err(invalid("sample", format!("has {} numbers, but the U-Net takes {shape:?}", sample.len())));
        }
        self.device.install(|| {
            let sample = if self.config.center_input_sample {
                let centered: Vec<f32> = sample.iter().map(|x| 2.0 * x - 1.0).collect();
                Tensor::from_host(&self.device, &centered, &shape)?
            } else {
                Tensor::from_host(&self.device, sample, &shape)?
            };
            let temb = self.time_embedding(timestep, context)?;
            let mut key_values = context.key_values.iter();

            let mut x = self.conv_in.forward(&sample)?;
            let mut skips = vec![x.clone()];
            for block in &self.down_blocks {
                x = block.forward(x, &temb, &mut key_values, &mut skips)?;
            }
            if let Some(block) = &self.mid_block {
                x = block.forward(x, &temb, &mut key_values)?;
            }
            for block in &self.up_blocks {
                x = block.forward(x, &temb, &mut key_values, &mut skips)?;
            }
            self.conv_out.forward(&self.conv_norm_out.forward(&x, self.act)?)?.to_host()
        })
    }

    /// The time embedding `(n, time_embed_dim)` after the activation with which every residual block begins to use it.
    fn time_embedding(&self, timestep: f64, context: &Context) -> Result<Tensor> {
        let mut row = Vec::new();
        self.time_proj.embed(timestep, &mut row);
        let rows = row.repeat(context.batch);
        let projected = Tensor::from_host(&self.device, &rows, &[context.batch, row.len()])?;
        activate(
            self.time_embedding.forward(&projected, context.timestep_cond.as_ref(), context.added.as_ref())?,
            self.act,
        )
    }

    /// In the order in which `forward` comes by.
    fn cross_attentions(&self) -> impl Iterator<Item = &Attention> {
        let down = self.down_blocks.iter().flat_map(DownBlock::cross_attentions);
        let mid = self.mid_block.iter().flat_map(MidBlock::cross_attentions);
        let up = self.up_blocks.iter().flat_map(UpBlock::cross_attentions);
        down.chain(mid).chain(up)
    }
}

impl AddEmbedding {
    fn forward(&self, text_time: TextTime<'_>, batch: usize, device: &Device) -> Result<Tensor> {
        let TextTime { pooled, time_ids } = text_time;
        let found = pooled.len() + time_ids.len() * self.time_proj.channels;
        let rows = [pooled.len(), time_ids.len()];
        if found != batch * self.input_dim || rows.iter().any(|&len| len == 0 || !len.is_multiple_of(batch)) {
            let reason = format!(
                "makes {found} numbers of pooled text and sizes, but the U-Net takes {} x {}",
                batch, self.input_dim
            );
            return Err(invalid("text_time", reason));
        }
        let mut rows = Vec::with_capacity(found);
        for (pooled, time_ids) in pooled.chunks(pooled.len() / batch).zip(time_ids.chunks(time_ids.len() / batch)) {
            rows.extend_from_slice(pooled);
            for &id in time_ids {
                self.time_proj.embed(f64::from(id), &mut rows);
            }
        }
        self.embedding.forward(&Tensor::from_host(device, &rows, &[batch, self.input_dim])?, None, None)
    }
}

fn invalid(field: &'static str, reason: String) -> Error {
    Error::InvalidArgument { field, reason }
}
