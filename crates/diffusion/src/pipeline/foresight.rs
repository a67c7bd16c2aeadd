//! How much memory a picture will take, told before anything is computed or any weight is read.
//!
//! The networks themselves are run on a device that only counts ([`Device::planner`]), so nothing here knows how they are made.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::load::{LoadOptions, Parts, native_size};
use super::source::ModelSource;
use crate::models::{Autoencoder, ClipTextModel, Conditioning, TextTime, UNet2DConditionModel};
use crate::ops::{CpuOptions, Device, Tensor, memory};
use crate::{Error, Result};

/// What a process holds at the worst moment of a picture, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Weights in the form that the kernels read.
    pub weights: u64,
    /// Activations.
    pub activations: u64,
    /// What kernels work with, the picture itself, and the program.
    pub other: u64,
}

/// What the memory of a picture depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PictureShape {
    /// Width in pixels, a multiple of the model's factor.
    pub width: usize,
    /// Height in pixels, likewise.
    pub height: usize,
    /// Whether the U-Net runs for prompt and negative prompt together.
    pub guided: bool,
    /// Chunks of 75 tokens of the longer prompt.
    pub chunks: usize,
    /// Whether the picture starts from an image, which is encoded.
    pub encodes: bool,
}

/// A model's networks without their numbers.
#[derive(Debug)]
pub struct Foresight {
    device: Device,
    encoders: Vec<ClipTextModel>,
    unet: UNet2DConditionModel,
    autoencoder: Autoencoder,
    weights: PartWeights,
    options: LoadOptions,
    known: Mutex<HashMap<(PictureShape, bool), Footprint>>,
}

/// Bytes of each network's packed weights.
#[derive(Debug, Default)]
struct PartWeights {
    encoders: Vec<u64>,
    unet: u64,
    /// Those of the autoencoder that decode.
    decoder: u64,
    /// And those that encode, which only pictures that start from an image need.
    image_encoder: u64,
}

/// The program, its threads and tokenizers; measured.
const PROGRAM: u64 = 24 << 20;
/// The smallest picture that is painted.
const SMALLEST: usize = 64;

impl Footprint {
    /// All of it.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.weights + self.activations + self.other
    }
}

/// What a model takes while it paints a picture of its own size with guidance, by its files' configs and headers alone: no
/// weight is read.
///
/// # Errors
/// Those of [`super::Pipeline::load`] as far as headers and configs show them.
pub fn estimate(source: &ModelSource, cpu: CpuOptions, options: LoadOptions) -> Result<Footprint> {
    Foresight::new(source, cpu, options)?.own_size()
}

impl Foresight {
    /// Looks through a model's files.
    ///
    /// # Errors
    /// As [`estimate`].
    pub fn new(source: &ModelSource, cpu: CpuOptions, options: LoadOptions) -> Result<Self> {
        let device = Device::planner(cpu);
        let parts = Parts::read(source)?;
        let mut weights = PartWeights::default();
        let mut before = 0;
        let mut taken = || {
            let all = device.weight_bytes();
            all - std::mem::replace(&mut before, all)
        };
        let mut encoders = Vec::new();
        for encoder in &parts.encoders {
            encoders.push(encoder.load(source, &device)?);
            weights.encoders.push(taken());
        }
        let unet = parts.load_unet(source, &device)?;
        weights.unet = taken();
        let autoencoder = parts.load_autoencoder(source, &device)?;
        let both = taken();
        let used = device.used_weight_bytes();
        let side = 8;
        autoencoder.decode(&vec![0.0; autoencoder.latent_space().channels * side * side], 1, side, side)?;
        weights.decoder = device.used_weight_bytes() - used;
        weights.image_encoder = both - weights.decoder;
        Ok(Self { device, encoders, unet, autoencoder, weights, options, known: Mutex::default() })
    }

    /// What a picture of the model's own size takes.
    ///
    /// # Errors
    /// As [`Foresight::footprint`].
    pub fn own_size(&self) -> Result<Footprint> {
        let (width, height) = native_size(self.unet.config(), self.autoencoder.latent_space().factor);
        let guided = self.unet.config().time_cond_proj_dim.is_none();
        self.footprint(PictureShape { width, height, guided, chunks: 1, encodes: false }, self.options.vae_tiling)
    }

    /// What a picture takes, and whether its autoencoder has to work in tiles for it: because it was asked to, or because
    /// memory is short.
    ///
    /// # Errors
    /// [`Error::PictureDoesNotFit`] where there is not so much memory.
    pub fn fit(&self, shape: PictureShape) -> Result<(Footprint, bool)> {
        self.fit_into(shape, memory::obtainable())
    }

    /// Refuses a model that cannot paint even the smallest picture.
    pub(super) fn fit_smallest(&self) -> Result<()> {
        let (width, height) = (SMALLEST, SMALLEST);
        self.fit(PictureShape { width, height, guided: false, chunks: 1, encodes: false }).map(drop)
    }

    /// As [`Foresight::fit`], where this process can hold `obtainable` bytes in all.
    fn fit_into(&self, shape: PictureShape, obtainable: Option<u64>) -> Result<(Footprint, bool)> {
        let whole = self.footprint(shape, self.options.vae_tiling)?;
        let Some(obtainable) = obtainable.filter(|bytes| *bytes < whole.peak()) else {
            return Ok((whole, self.options.vae_tiling));
        };
        let tiled = self.footprint(shape, true)?;
        if tiled.peak() <= obtainable {
            return Ok((tiled, true));
        }
        let smallest = PictureShape { width: SMALLEST, height: SMALLEST, ..shape };
        let smaller = self.footprint(smallest, true).is_ok_and(|footprint| footprint.peak() <= obtainable);
        let advice = match (smaller, self.options.low_memory) {
            (true, false) => "ask for a smaller one, or start the worker with --low-memory",
            (true, true) => "ask for a smaller one",
            (false, false) => "start the worker with --low-memory, or free memory",
            (false, true) => "free memory, or take a smaller model",
        };
        let needed = tiled.peak().min(whole.peak());
        let PictureShape { width, height, .. } = shape;
        Err(Error::PictureDoesNotFit { width, height, needed, available: obtainable, advice: advice.to_owned() })
    }

    /// What a picture takes, its autoencoder working in tiles or not.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a size that the networks cannot have.
    pub fn footprint(&self, shape: PictureShape, tiled: bool) -> Result<Footprint> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(footprint) = known.get(&(shape, tiled)) {
            return Ok(*footprint);
        }
        let footprint = self.count(shape, tiled)?;
        /// More shapes than anybody asks one worker for; then they are counted again.
        const REMEMBERED: usize = 1000;
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert((shape, tiled), footprint);
        Ok(footprint)
    }

    /// Runs through all networks and takes the moment that needs most.
    fn count(&self, shape: PictureShape, tiled: bool) -> Result<Footprint> {
        let PictureShape { width, height, guided, chunks, encodes } = shape;
        let factor = self.autoencoder.latent_space().factor;
        let (h, w) = (height / factor, width / factor);
        let mut stages: Vec<(u64, u64)> = Vec::new();
        for (encoder, weights) in self.encoders.iter().zip(&self.weights.encoders) {
            let length = encoder.config().max_position_embeddings;
            stages.push((*weights, self.activations(|| encoder.forward(&vec![0; chunks * length], chunks).map(drop))?));
        }
        if encodes {
            let encode = || self.autoencoder.encode(&vec![0.0; 3 * width * height], 1, height, width).map(drop);
            stages.push((self.weights.image_encoder, self.activations(encode)?));
        }
        let batch = 1 + usize::from(guided);
        stages.push((self.weights.unet, self.activations(|| self.denoise(h, w, batch, chunks))?));
        let latents = vec![0.0; self.autoencoder.latent_space().channels * h * w];
        let decode = || match tiled {
            true => self.autoencoder.decode_tiled(&latents, 1, h, w).map(drop),
            false => self.autoencoder.decode(&latents, 1, h, w).map(drop),
        };
        stages.push((self.weights.decoder, self.activations(decode)?));

        // The picture as floats in two orders, then as bytes, filtered and packed.
        let other = PROGRAM + self.device.working_bytes() + 32 * (width * height) as u64;
        if self.options.low_memory {
            // One network at a time, and its activations go with it.
            let (weights, activations) = stages.into_iter().max_by_key(|(a, b)| a + b).unwrap_or_default();
            return Ok(Footprint { weights, activations, other });
        }
        let activations = stages.into_iter().map(|(_, activations)| activations).max().unwrap_or_default();
        let unused = if encodes { 0 } else { self.weights.image_encoder };
        Ok(Footprint { weights: self.device.weight_bytes() - unused, activations, other })
    }

    /// How far the activations of `work` reach.
    fn activations(&self, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        self.device.trim();
        work()?;
        let memory = self.device.memory();
        Ok(memory.in_use + memory.idle)
    }

    /// One call of the U-Net.
    fn denoise(&self, h: usize, w: usize, batch: usize, chunks: usize) -> Result<()> {
        let config = self.unet.config();
        let (rows, width) = (77 * chunks, config.context_width());
        let hidden = Tensor::from_host(&self.device, &vec![0.0; batch * rows * width], &[batch, rows, width])?;
        let time_ids = vec![0.0; 6 * batch];
        let pooled_width = match (config.projection_class_embeddings_input_dim, config.addition_time_embed_dim) {
            (Some(all), Some(each)) => all.saturating_sub(6 * each),
            _ => 0,
        };
        let pooled = vec![0.0; batch * pooled_width];
        let cond = config.time_cond_proj_dim.map(|width| vec![0.0; batch * width]);
        let context = self.unet.prepare_context(&Conditioning {
            encoder_hidden_states: &hidden,
            text_time: (pooled_width > 0).then_some(TextTime { pooled: &pooled, time_ids: &time_ids }),
            timestep_cond: cond.as_deref(),
        })?;
        // The text itself stays until the layers have made their keys and values of it.
        drop(hidden);
        self.unet.forward(&vec![0.0; batch * config.in_channels * h * w], h, w, 500.0, &context).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn short_memory_means_tiles_and_shorter_memory_an_error_that_says_what_helps() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-scenes"));
        let source = ModelSource::folder(folder).expect("the model that is shipped");
        let foresight = |options| Foresight::new(&source, CpuOptions::default(), options).expect("it is whole");
        let usual = foresight(LoadOptions::default());
        let shape = PictureShape { width: 1024, height: 1024, guided: true, chunks: 1, encodes: false };
        let whole = usual.footprint(shape, false).unwrap().peak();
        let tiled = usual.footprint(shape, true).unwrap().peak();
        let smallest = usual.footprint(PictureShape { width: 64, height: 64, ..shape }, true).unwrap().peak();
        assert!(smallest < tiled && tiled < whole, "{smallest}, {tiled}, {whole}");
        let fit = |foresight: &Foresight, bytes| foresight.fit_into(shape, Some(bytes));
        assert!(!fit(&usual, whole).unwrap().1);
        assert!(!usual.fit_into(shape, None).unwrap().1);
        assert!(fit(&usual, whole - 1).unwrap().1);
        assert!(fit(&usual, tiled).unwrap().1);
        let refusal = |foresight: &Foresight, bytes| fit(foresight, bytes).unwrap_err().to_string();
        let refused = refusal(&usual, tiled - 1);
        assert!(refused.starts_with("a picture of 1024 x 1024 needs "), "{refused}");
        assert!(refused.ends_with("ask for a smaller one, or start the worker with --low-memory"), "{refused}");
        assert!(refusal(&usual, smallest - 1).contains("start the worker with --low-memory"));
        let low = foresight(LoadOptions { low_memory: true, ..LoadOptions::default() });
        assert!(refusal(&low, 1).contains("take a smaller model"));
    }
}
