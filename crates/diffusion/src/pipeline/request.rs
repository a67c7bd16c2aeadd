//! What to paint, and what is told while it is painted.

use crate::image::Pixels;
use crate::samplers::{SamplerKind, Schedule};

/// One picture to paint. Limits are the caller's business; the pipeline refuses only what it cannot do.
#[derive(Clone, Debug)]
pub struct Request {
    /// The text to paint; may be empty, and longer than CLIP's 75 tokens.
    pub prompt: String,
    /// The text to stay away from. `None` and `""` differ for SDXL, as in diffusers.
    pub negative_prompt: Option<String>,
    /// Denoising steps of the whole schedule; [`crate::pipeline::Pipeline::info`] has the model's own number.
    pub steps: usize,
    /// Classifier-free guidance scale; at 1 or below the negative prompt is not used.
    pub guidance_scale: f64,
    /// Width in pixels, a multiple of 8; absent: the model's own, or the image's.
    pub width: Option<usize>,
    /// Height in pixels, a multiple of 8; absent: the model's own, or the image's.
    pub height: Option<usize>,
    /// Seeds the Mersenne Twister with its low 32 bits, as torch does.
    pub seed: u64,
    /// Absent: the class that the model's `scheduler_config.json` names.
    pub scheduler: Option<SamplerKind>,
    /// Absent: the model's own.
    pub schedule: Option<Schedule>,
    /// How many of CLIP's last layers to leave out; 1 is the penultimate layer.
    pub clip_skip: Option<usize>,
    /// Steps between two previews; absent: none.
    pub preview_every: Option<usize>,
    /// What the picture starts from.
    pub task: Task,
}

/// What a picture starts from.
#[derive(Clone, Debug)]
pub enum Task {
    /// Noise alone.
    Generate,
    /// An image, as far as `strength` leaves it.
    Transform {
        /// The image.
        init_image: Pixels,
        /// Above 0 to 1: the share of the steps that is run.
        strength: f64,
    },
    /// An image that is repainted where the mask is white.
    Inpaint {
        /// The image.
        init_image: Pixels,
        /// One channel: 255 = repaint, 0 = keep; scaled to the image where it has another size.
        mask: Pixels,
        /// Above 0 to 1: the share of the steps that is run.
        strength: f64,
        /// Sigma in pixels of the Gaussian that feathers the mask; 0: a hard edge.
        mask_blur: f32,
        /// Put the image's own pixels back outside the feathered mask.
        composite: bool,
    },
}

/// What happens while a picture is painted.
#[derive(Clone, Debug)]
pub enum Event {
    /// A part of the model is read: `text encoder`, `autoencoder` or `U-Net`.
    Loaded(&'static str),
    /// The prompt is being encoded.
    Encoding,
    /// `step` of `total` denoising steps are done; 0 before the first.
    Denoised {
        /// Steps done.
        step: usize,
        /// Steps that will be run.
        total: usize,
    },
    /// How the picture stands after `step`, at an eighth of its size.
    Preview {
        /// Steps done.
        step: usize,
        /// The picture so far.
        image: Pixels,
    },
    /// The autoencoder turns latents into pixels.
    Decoding,
    /// Something that the caller would want to know.
    Note(String),
}

/// A painted picture and the settings that really were used.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The pixels.
    pub image: Pixels,
    /// The sampler that ran.
    pub scheduler: SamplerKind,
    /// The schedule that ran, where it was not the sampler's plain one.
    pub schedule: Option<Schedule>,
}
