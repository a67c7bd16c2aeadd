//! The U-Net as a sampler sees it: guidance, the extra channels of inpainting, and the blending of 4-channel inpainting.

use std::sync::Arc;

use super::text::Encoded;
use crate::Result;
use crate::models::{self, UNet2DConditionModel};
use crate::ops::{Device, Tensor};
use crate::samplers::Sampler;

/// What the U-Net is told beside latents and timestep, on the host.
pub(super) struct Texts {
    pub positive: Arc<Encoded>,
    /// `None`: one pass, no guidance.
    pub negative: Option<Arc<Encoded>>,
    pub guidance_scale: f64,
    /// Width of an LCM's guidance embedding.
    pub guidance_embedding: Option<usize>,
    /// SDXL: original size, crop and target size.
    pub time_ids: Option<[f32; 6]>,
    /// Rows of hidden states.
    pub rows: usize,
}

/// What the sampler starts from.
pub(super) struct Start {
    pub latents: Vec<f32>,
    /// 4-channel inpainting.
    pub blend: Option<Blend>,
    /// 9-channel inpainting: the mask and the masked image's latents, (5, h, w).
    pub mask_channels: Option<Vec<f32>>,
}

/// Puts the original back outside the mask after every call of the U-Net, as noisy as the latents then are.
pub(super) struct Blend {
    /// (h, w), 1 = repaint.
    pub mask: Vec<f32>,
    /// Latents of the image.
    pub original: Vec<f32>,
    /// The noise that the latents started from.
    pub noise: Vec<f32>,
}

impl Blend {
    /// Called after `call`; the next call's noise level is the latents'.
    pub(super) fn keep_outside_mask(&self, sampler: &Sampler, call: usize, latents: &mut [f32]) -> Result<()> {
        let next = call + 1;
        let noisy;
        let original = if next < sampler.timesteps().len() {
            noisy = sampler.add_noise(&self.original, &self.noise, next)?;
            &noisy
        } else {
            &self.original
        };
        for (channel, original) in latents.chunks_exact_mut(self.mask.len()).zip(original.chunks_exact(self.mask.len()))
        {
            for ((value, original), mask) in channel.iter_mut().zip(original).zip(&self.mask) {
                *value = (1.0 - mask) * original + mask * *value;
            }
        }
        Ok(())
    }
}

/// The U-Net with guidance: one call is one model prediction.
pub(super) struct Guided<'a> {
    unet: &'a UNet2DConditionModel,
    context: models::Context,
    guidance_scale: Option<f32>,
    mask_channels: Option<&'a [f32]>,
    h: usize,
    w: usize,
    input: Vec<f32>,
}

impl<'a> Guided<'a> {
    pub(super) fn new(
        unet: &'a UNet2DConditionModel,
        device: &Device,
        texts: &Texts,
        start: &'a Start,
        h: usize,
        w: usize,
    ) -> Result<Self> {
        let Texts { positive, negative, rows, .. } = texts;
        let batch = 1 + usize::from(negative.is_some());
        let joined = |part: fn(&Encoded) -> &[f32]| -> Vec<f32> {
            negative.iter().chain([positive]).flat_map(|encoded| part(encoded).iter().copied()).collect()
        };
        let hidden = joined(|encoded| &encoded.hidden_states);
        let width = hidden.len() / (batch * rows);
        let encoder_hidden_states = Tensor::from_host(device, &hidden, &[batch, *rows, width])?;
        let pooled = joined(|encoded| &encoded.pooled);
        let time_ids = texts.time_ids.map(|ids| ids.repeat(batch));
        let timestep_cond =
            texts.guidance_embedding.map(|width| guidance_embedding(texts.guidance_scale, width).repeat(batch));
        let context = unet.prepare_context(&models::Conditioning {
            encoder_hidden_states: &encoder_hidden_states,
            text_time: time_ids.as_deref().map(|time_ids| models::TextTime { pooled: &pooled, time_ids }),
            timestep_cond: timestep_cond.as_deref(),
        })?;
        Ok(Self {
            unet,
            context,
            guidance_scale: negative.is_some().then_some(texts.guidance_scale as f32),
            mask_channels: start.mask_channels.as_deref(),
            h,
            w,
            input: Vec::new(),
        })
    }

    /// The model's prediction for scaled latents (channels, h, w).
    pub(super) fn denoise(&mut self, latents: &[f32], timestep: f64) -> Result<Vec<f32>> {
        let batch = 1 + usize::from(self.guidance_scale.is_some());
        self.input.clear();
        for _ in 0..batch {
            self.input.extend_from_slice(latents);
            self.input.extend_from_slice(self.mask_channels.unwrap_or_default());
        }
        let mut output = self.unet.forward(&self.input, self.h, self.w, timestep, &self.context)?;
        if let Some(scale) = self.guidance_scale {
            let text = output.split_off(output.len() / 2);
            for (uncond, text) in output.iter_mut().zip(text) {
                *uncond += scale * (text - *uncond);
            }
        }
        Ok(output)
    }
}

/// The guidance scale as a sinusoidal embedding (Meng et al., <https://arxiv.org/abs/2210.03142>; diffusers'
/// `get_guidance_scale_embedding` of `guidance_scale - 1`).
fn guidance_embedding(guidance_scale: f64, width: usize) -> Vec<f32> {
    let w = (guidance_scale - 1.0) as f32 * 1000.0;
    let half = width / 2;
    let rate = 10000f32.ln() / (half as f32 - 1.0);
    let angle = |i: usize| w * (i as f32 * -rate).exp();
    let mut embedding: Vec<f32> = (0..half).map(|i| angle(i).sin()).chain((0..half).map(|i| angle(i).cos())).collect();
    embedding.resize(width, 0.0);
    embedding
}
