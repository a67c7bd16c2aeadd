//! A model's folder to a [`Pipeline`]: its configs decide everything.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::foresight::Foresight;
use super::part::Part;
use super::source::ModelSource;
use super::text::{Encoder, PromptEncoder};
use super::{Event, Observer, Pipeline, tell};
use crate::models::Autoencoder;
use crate::models::{ClipTextConfig, ClipTextModel};
use crate::models::{UNet2DConditionModel, UNetConfig};
use crate::ops::Device;
use crate::samplers::{SamplerKind, SchedulerConfig};
use crate::weights::Weights;
use crate::{Error, Result};

/// How a model is held.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Keep each network in memory only while it is used.
    pub low_memory: bool,
    /// Let the autoencoder work in tiles always, not only where memory is short.
    pub vae_tiling: bool,
}

/// What a model's files say of it.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Its folder or embedded name.
    pub name: String,
    /// The diffusers pipeline class in `model_index.json`.
    pub class: String,
    /// Two text encoders and size conditioning.
    pub xl: bool,
    /// 4, or 9 for a U-Net that paints only through a mask.
    pub unet_in_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Pixels a side of one latent pixel.
    pub factor: usize,
    /// The model's own side in pixels: `sample_size` times `factor`.
    pub native_size: (usize, usize),
    /// Width of the hidden states of the text.
    pub cross_attention_dim: usize,
    /// Width of an LCM's guidance embedding; such a model makes no second pass.
    pub guidance_embedding: Option<usize>,
    /// The greatest `clip_skip` that its text encoders have layers for.
    pub deepest_clip_skip: usize,
    /// SDXL: no negative prompt means zeros.
    pub zeros_for_no_negative: bool,
    /// The model's `scheduler_config.json`.
    pub scheduler: SchedulerConfig,
    /// Steps that suit a distilled model; `None` for the others.
    pub own_steps: Option<usize>,
    /// Guidance scale that suits a distilled model; `None` for the others.
    pub own_guidance_scale: Option<f64>,
}

#[derive(Clone, Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class: String,
    #[serde(default)]
    force_zeros_for_empty_prompt: Option<bool>,
    #[serde(default)]
    requires_aesthetics_score: bool,
    #[serde(default)]
    text_encoder: Value,
    #[serde(default)]
    text_encoder_2: Value,
    #[serde(default)]
    scheduler: Value,
}

/// Whether `model_index.json` names a class for this part; an absent one is `[null, null]`.
fn present(part: &Value) -> bool {
    part.get(0).is_some_and(Value::is_string)
}

const CLASSES: [&str; 7] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "LatentConsistencyModelPipeline",
];

/// What the small files of a model say.
#[derive(Clone)]
pub(super) struct Parts {
    index: ModelIndex,
    xl: bool,
    pub(super) encoders: Vec<EncoderPart>,
    unet: UNetConfig,
    autoencoder: String,
    scheduler: SchedulerConfig,
}

/// A text encoder's folder and config.
#[derive(Clone)]
pub(super) struct EncoderPart {
    folder: &'static str,
    tokenizer: &'static str,
    config: ClipTextConfig,
}

impl Parts {
    pub(super) fn read(source: &ModelSource) -> Result<Self> {
        let index: ModelIndex = parse(source, "model_index.json")?;
        if !CLASSES.contains(&index.class.as_str()) {
            return Err(unsupported(
                "model_index.json",
                "_class_name",
                &index.class,
                &format!("supported are {}", CLASSES.join(", ")),
            ));
        }
        let xl = index.class.starts_with("StableDiffusionXL");
        if !present(&index.text_encoder) || xl != present(&index.text_encoder_2) {
            return Err(unsupported(
                "model_index.json",
                "text_encoder",
                &format!("{} and text_encoder_2 = {}", index.text_encoder, index.text_encoder_2),
                "SD has one text encoder, SDXL two; SDXL's refiner cannot paint alone",
            ));
        }
        if index.requires_aesthetics_score {
            return Err(unsupported(
                "model_index.json",
                "requires_aesthetics_score",
                "true",
                "SDXL's refiner is not supported; use the base model",
            ));
        }
        let mut encoders = vec![EncoderPart::read(source, "text_encoder", "tokenizer")?];
        if xl {
            encoders.push(EncoderPart::read(source, "text_encoder_2", "tokenizer_2")?);
        }
        let unet = UNetConfig::parse(&source.required_text("unet/config.json")?, "unet/config.json")?;
        let autoencoder = source.required_text("vae/config.json")?;
        let scheduler = source.required_text("scheduler/scheduler_config.json")?;
        // An old file may leave its class to model_index.json.
        let scheduler = match (scheduler.contains("_class_name"), index.scheduler.get(1).and_then(Value::as_str)) {
            (false, Some(class)) => SchedulerConfig::parse_as(class, &scheduler)?,
            _ => SchedulerConfig::parse(&scheduler)?,
        };
        Ok(Self { index, xl, encoders, unet, autoencoder, scheduler })
    }

    pub(super) fn load_unet(&self, source: &ModelSource, device: &Device) -> Result<UNet2DConditionModel> {
        let weights = source.weights("unet", "diffusion_pytorch_model")?;
        Ok(loaded("unet", &weights, device, UNet2DConditionModel::load(&self.unet, &weights, device)?))
    }

    pub(super) fn load_autoencoder(&self, source: &ModelSource, device: &Device) -> Result<Autoencoder> {
        let weights = source.weights("vae", "diffusion_pytorch_model")?;
        let model = Autoencoder::load(&self.autoencoder, "vae/config.json", &weights, device)?;
        Ok(loaded("vae", &weights, device, model))
    }
}

impl EncoderPart {
    fn read(source: &ModelSource, folder: &'static str, tokenizer: &'static str) -> Result<Self> {
        let file = format!("{folder}/config.json");
        let config = ClipTextConfig::parse(&source.required_text(&file)?, &file)?;
        Ok(Self { folder, tokenizer, config })
    }

    pub(super) fn load(&self, source: &ModelSource, device: &Device) -> Result<ClipTextModel> {
        let weights = source.weights(self.folder, "model")?;
        Ok(loaded(self.folder, &weights, device, ClipTextModel::load(&self.config, &weights, device)?))
    }
}

impl Pipeline {
    /// Reads the model of `source` onto `device`.
    ///
    /// # Errors
    /// Those of its files and configs, each naming the file and what is wrong with it; on a CPU also
    /// [`Error::PictureDoesNotFit`], where memory is too short for even the smallest picture.
    pub fn load(
        source: &ModelSource,
        device: &Device,
        options: LoadOptions,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        let parts = Parts::read(source)?;
        let foresight = match device.cpu_options() {
            Some(cpu) => {
                let foresight = Foresight::new(source, cpu, options)?;
                foresight.fit_smallest()?;
                Some(Arc::new(foresight))
            }
            None => None,
        };
        let keep = !options.low_memory;
        let part = || (source.clone(), device.clone(), parts.clone());
        let mut encoders = Vec::new();
        for encoder in &parts.encoders {
            encoders.push(prompt_encoder(source, device, encoder.clone(), keep)?);
        }
        let mut autoencoder = {
            let (source, device, parts) = part();
            Part::new(keep, move || parts.load_autoencoder(&source, &device))
        };
        let mut unet = {
            let (source, device, parts) = part();
            Part::new(keep, move || parts.load_unet(&source, &device))
        };
        let Parts { index, xl, unet: unet_config, scheduler, .. } = parts;

        // Everything is opened once, so that a broken file shows at the start and not in somebody's job.
        let mut prompts = PromptEncoder::new(encoders, xl);
        prompts.load()?;
        tell(observer, Event::Loaded("text encoder"))?;
        let (latent_channels, factor) = {
            let space = autoencoder.get()?.latent_space();
            (space.channels, space.factor)
        };
        autoencoder.release();
        tell(observer, Event::Loaded("autoencoder"))?;
        let mask_channels = 2 * latent_channels + 1;
        if unet_config.in_channels != latent_channels && unet_config.in_channels != mask_channels {
            return Err(unsupported(
                "unet/config.json",
                "in_channels",
                &unet_config.in_channels.to_string(),
                &format!(
                    "the autoencoder has {latent_channels} latent channels, so {latent_channels} or {mask_channels} would fit"
                ),
            ));
        }
        unet.get()?;
        unet.release();
        tell(observer, Event::Loaded("U-Net"))?;

        let (own_steps, own_guidance_scale) = own_settings(&scheduler, unet_config.time_cond_proj_dim.is_some());
        let info = ModelInfo {
            deepest_clip_skip: prompts.deepest_skip(),
            name: source.name(),
            class: index.class,
            xl,
            unet_in_channels: unet_config.in_channels,
            cross_attention_dim: unet_config.context_width(),
            latent_channels,
            factor,
            native_size: native_size(&unet_config, factor),
            guidance_embedding: unet_config.time_cond_proj_dim,
            zeros_for_no_negative: xl && index.force_zeros_for_empty_prompt.unwrap_or(true),
            scheduler,
            own_steps,
            own_guidance_scale,
        };
        Ok(Self { device: device.clone(), info, prompts, unet, autoencoder, colours: None, foresight, keep })
    }
}

/// Width and height in pixels that a U-Net was trained for; one whose config leaves `sample_size` out is taken for one of
/// Stable Diffusion 1's size.
pub(super) fn native_size(unet: &UNetConfig, factor: usize) -> (usize, usize) {
    let (rows, columns) = unet.sample_size().unwrap_or((64, 64));
    (columns * factor, rows * factor)
}

/// Steps and guidance of distilled models, as their model cards have them: consistency models (LCM, TCD schedulers or a
/// guidance embedding) take four steps, adversarially distilled ones (Euler samplers with trailing timesteps) one step
/// without guidance.
fn own_settings(scheduler: &SchedulerConfig, guidance_embedding: bool) -> (Option<usize>, Option<f64>) {
    match scheduler.kind() {
        SamplerKind::Lcm | SamplerKind::Tcd if guidance_embedding => (Some(4), Some(8.5)),
        SamplerKind::Lcm | SamplerKind::Tcd => (Some(4), Some(1.0)),
        _ if guidance_embedding => (Some(4), Some(8.5)),
        SamplerKind::Euler | SamplerKind::EulerA if scheduler.is_trailing() => (Some(1), Some(0.0)),
        _ => (None, None),
    }
}

fn prompt_encoder(source: &ModelSource, device: &Device, part: EncoderPart, keep: bool) -> Result<Encoder> {
    let layers = part.config.num_hidden_layers;
    let tokenizer = source.tokenizer(part.tokenizer)?;
    if tokenizer.vocab_size() > part.config.vocab_size {
        return Err(unsupported(
            &format!("{}/config.json", part.folder),
            "vocab_size",
            &part.config.vocab_size.to_string(),
            &format!("its tokenizer has {} tokens, so the two do not belong together", tokenizer.vocab_size()),
        ));
    }
    let (source, device) = (source.clone(), device.clone());
    let model = Part::new(keep, move || part.load(&source, &device));
    Ok(Encoder { tokenizer, model, layers })
}

/// What is to be done when a network has been made of its files.
fn loaded<T>(part: &str, weights: &Weights, device: &Device, network: T) -> T {
    // Norms were read; what is packed later is looked at then.
    weights.forget_all();
    if device.computes() {
        for name in weights.unused() {
            tracing::warn!(
                part,
                tensor = name,
                "the file has a tensor that the config has no place for; it is not used"
            );
        }
    }
    network
}

fn parse<T: serde::de::DeserializeOwned>(source: &ModelSource, name: &str) -> Result<T> {
    let text = source.required_text(name)?;
    serde_json::from_str(&text)
        .map_err(|e| Error::BadFile { path: std::path::PathBuf::from(source.name()).join(name), reason: e.to_string() })
}

fn unsupported(config: &str, field: &str, value: &str, hint: &str) -> Error {
    Error::Unsupported {
        config: config.to_owned(),
        field: field.to_owned(),
        value: value.to_owned(),
        hint: hint.to_owned(),
    }
}
