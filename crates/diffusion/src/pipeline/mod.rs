//! From a request to a picture: what diffusers' Stable Diffusion pipelines do, for every family of models in one place.
//!
//! The order in which random numbers are drawn is that of the diffusers pipeline of the same task: the posterior of the
//! encoded image, the noise, the posterior of the masked image, then the sampler's own.

mod canvas;
mod checkpoint;
mod denoise;
mod foresight;
mod latents;
mod load;
mod part;
mod plan;
mod preview;
mod request;
mod source;
mod text;

use std::ops::ControlFlow;
use std::sync::Arc;

pub use checkpoint::Checkpoint;
pub use foresight::{Footprint, Foresight, PictureShape, estimate};
pub use load::{LoadOptions, ModelInfo};
pub use plan::Sampling;
pub use request::{Event, Picture, Request, Task};
pub use source::{EmbeddedFile, ModelSource};

use self::canvas::Canvas;
use self::denoise::{Blend, Guided, Start, Texts};
use self::part::Part;
use self::plan::Plan;
use self::preview::LatentColours;
use self::text::{Encoded, PromptEncoder};
use crate::models::Autoencoder;
use crate::models::UNet2DConditionModel;
use crate::noise::Noise;
use crate::ops::Device;
use crate::samplers::Sampler;
use crate::{Error, Result};

/// Told of every event; `Break` stops the work at once with [`Error::Cancelled`].
pub type Observer<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// One loaded model on one device.
pub struct Pipeline {
    device: Device,
    info: ModelInfo,
    prompts: PromptEncoder,
    unet: Part<UNet2DConditionModel>,
    autoencoder: Part<Autoencoder>,
    colours: Option<LatentColours>,
    foresight: Option<Arc<Foresight>>,
    /// Whether networks stay in memory after their work.
    keep: bool,
}

impl Pipeline {
    /// What was loaded: sizes, family, its own steps and guidance.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The device it runs on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What pictures will take, where this crate keeps their memory itself: on a processor.
    #[must_use]
    pub fn foresight(&self) -> Option<&Arc<Foresight>> {
        self.foresight.as_ref()
    }

    /// Uses idle time: makes the next weights ready that the first picture would have to wait for. False when all are.
    pub fn prepare(&self) -> bool {
        // What fails here fails again, and is told, when somebody needs it.
        self.keep && self.device.pack_some().unwrap_or(true)
    }

    /// Paints one picture.
    ///
    /// # Errors
    /// [`Error::PictureDoesNotFit`] before any work where memory is too short for its size.
    /// [`Error::Cancelled`] when `observer` says so, [`Error::InvalidArgument`] and [`Error::UnsupportedByModel`] for what
    /// this model cannot do, [`Error::NotFinite`] when the latents stop being numbers, and those of the device.
    pub fn paint(&mut self, request: &Request, observer: &mut Observer<'_>) -> Result<Picture> {
        let plan = self.info.plan(&Sampling::of(request))?;
        let Plan { sampler, first_call, .. } = &plan;
        let first_call = *first_call;
        let canvas = Canvas::prepare(&self.info, request, &mut |note| tell(observer, Event::Note(note)))?;

        let tiled = self.fit(request, &canvas)?;

        tell(observer, Event::Encoding)?;
        let texts = self.encode_prompts(request, &canvas)?;
        self.between_networks();

        let mut noise = Noise::new(request.seed);
        let start = self.start_latents(&canvas, sampler, first_call, request, &mut noise)?;
        if request.preview_every.is_some() && self.colours.is_none() {
            self.colours = Some(LatentColours::fit(self.autoencoder.get()?)?);
        }
        self.autoencoder.release();
        self.between_networks();

        let (h, w) = (canvas.latent_height, canvas.latent_width);
        let colours = self.colours.as_ref();
        let unet = self.unet.get()?;
        let mut guided = Guided::new(unet, &self.device, &texts, &start, h, w)?;
        let total = sampler.steps_from(first_call);
        tell(observer, Event::Denoised { step: 0, total })?;

        let mut broken = None;
        let latents = sampler.run(
            first_call,
            start.latents.clone(),
            &mut |input, timestep| guided.denoise(input, timestep),
            &mut noise,
            &mut |after| {
                let kept = start
                    .blend
                    .as_ref()
                    .map_or(Ok(()), |blend| blend.keep_outside_mask(sampler, after.call, after.latents));
                if let Err(error) = kept {
                    broken = Some(error);
                    return ControlFlow::Break(());
                }
                if !after.step_done {
                    return ControlFlow::Continue(());
                }
                let step = after.step;
                let due = request.preview_every.is_some_and(|every| every > 0 && step % every == 0 && step < total);
                if let (true, Some(colours)) = (due, colours) {
                    observer(Event::Preview { step, image: colours.picture(after.denoised, h, w) })?;
                }
                observer(Event::Denoised { step, total })
            },
        );
        let latents = match (broken, latents) {
            (Some(error), _) => return Err(error),
            (None, latents) => latents?,
        };
        drop(guided);
        self.unet.release();
        self.between_networks();

        tell(observer, Event::Decoding)?;
        let autoencoder = self.autoencoder.get()?;
        let unscaled = latents::unscale(autoencoder.latent_space(), latents);
        let pixels = match tiled {
            true => autoencoder.decode_tiled(&unscaled, 1, h, w)?,
            false => autoencoder.decode(&unscaled, 1, h, w)?,
        };
        let image = canvas.finish(&pixels);
        self.autoencoder.release();
        self.between_networks();
        Ok(Picture { image, scheduler: plan.config.kind(), schedule: plan.config.schedule() })
    }

    /// Whether the autoencoder has to work in tiles so that the picture fits into memory.
    fn fit(&self, request: &Request, canvas: &Canvas) -> Result<bool> {
        let Some(foresight) = &self.foresight else { return Ok(false) };
        let shape = PictureShape {
            width: canvas.width,
            height: canvas.height,
            guided: self.guided(request),
            chunks: self.chunks(request),
            encodes: canvas.init.is_some(),
        };
        foresight.fit(shape).map(|(_, tiled)| tiled)
    }

    /// Where networks go after their work, so do their activations.
    fn between_networks(&self) {
        if !self.keep {
            self.device.trim();
        }
    }

    fn guided(&self, request: &Request) -> bool {
        request.guidance_scale > 1.0 && self.info.guidance_embedding.is_none()
    }

    fn chunks(&self, request: &Request) -> usize {
        let negative = request.negative_prompt.as_deref().unwrap_or_default();
        self.prompts.chunks(&request.prompt).max(self.prompts.chunks(negative))
    }

    fn encode_prompts(&mut self, request: &Request, canvas: &Canvas) -> Result<Texts> {
        let negative = request.negative_prompt.as_deref();
        let chunks = self.chunks(request);
        let positive = self.prompts.encode(&request.prompt, chunks, request.clip_skip)?;
        let guided = self.guided(request);
        let negative = match negative {
            _ if !guided => None,
            None if self.info.zeros_for_no_negative => Some(Arc::new(Encoded::zeros_like(&positive))),
            // diffusers applies clip_skip to the prompt alone.
            text => Some(self.prompts.encode(text.unwrap_or_default(), chunks, None)?),
        };
        Ok(Texts {
            positive,
            negative,
            guidance_scale: request.guidance_scale,
            guidance_embedding: self.info.guidance_embedding,
            time_ids: self.info.xl.then(|| canvas.time_ids()),
            rows: 77 * chunks,
        })
    }

    /// Draws and mixes what the sampler starts from, in the order of draws of the diffusers pipelines.
    fn start_latents(
        &mut self,
        canvas: &Canvas,
        sampler: &Sampler,
        first_call: usize,
        request: &Request,
        noise: &mut Noise,
    ) -> Result<Start> {
        let count = self.info.latent_channels * canvas.latent_height * canvas.latent_width;
        let pure_noise = |noise: &mut Noise| {
            let drawn = noise.normal(count);
            let latents = drawn.iter().map(|v| v * sampler.init_noise_sigma()).collect();
            (drawn, latents)
        };
        let Some(init) = &canvas.init else {
            return Ok(Start { latents: pure_noise(noise).1, blend: None, mask_channels: None });
        };
        let autoencoder = self.autoencoder.get()?;
        let (height, width) = (canvas.height, canvas.width);
        let inpaint = canvas.mask.is_some();
        let from_noise = matches!(request.task, Task::Inpaint { strength, .. } if strength >= 1.0);
        let nine = self.info.paints_only_through_a_mask();
        let encoded = if nine && from_noise {
            None
        } else {
            Some(latents::draw(autoencoder, init, height, width, inpaint, noise)?)
        };
        let (drawn, latents) = match &encoded {
            Some(encoded) if !from_noise => {
                let drawn = noise.normal(count);
                let latents = sampler.add_noise(encoded, &drawn, first_call)?;
                (drawn, latents)
            }
            _ => pure_noise(noise),
        };
        let Some(mask) = &canvas.mask else {
            return Ok(Start { latents, blend: None, mask_channels: None });
        };
        // diffusers encodes the masked image also where a 4-channel U-Net has no use for it: the draw moves the generator on.
        let masked = latents::draw(autoencoder, &canvas.masked_image(init), height, width, inpaint, noise)?;
        if nine {
            let mask_channels = mask.latent.iter().chain(&masked).copied().collect();
            return Ok(Start { latents, blend: None, mask_channels: Some(mask_channels) });
        }
        let blend = encoded.map(|original| Blend { mask: mask.latent.clone(), original, noise: drawn });
        Ok(Start { latents, blend, mask_channels: None })
    }
}

fn tell(observer: &mut Observer<'_>, event: Event) -> Result<()> {
    match observer(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
