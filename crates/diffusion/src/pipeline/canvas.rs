//! Sizes and pixels: what a request's images become before the networks see them, and after.

use super::{ModelInfo, Request, Task};
use crate::image::{Pixels, composite, downsample, feather, fit, postprocess, preprocess, process_mask, resize};
use crate::{Error, Result};

/// The mask of an inpainting.
pub(super) struct Mask {
    /// (height, width), 1 = repaint, else 0.
    pixels: Vec<f32>,
    /// (h, w) in latent pixels, 1 = repaint, else 0.
    pub latent: Vec<f32>,
    /// (height, width): how much of the painted picture shows; `None`: all of it, everywhere.
    alpha: Option<Vec<f32>>,
}

/// The picture's size, and the image and mask that it starts from.
pub(super) struct Canvas {
    pub width: usize,
    pub height: usize,
    pub latent_width: usize,
    pub latent_height: usize,
    /// The image, (3, height, width) from -1 to 1.
    pub init: Option<Vec<f32>>,
    original: Option<Pixels>,
    pub mask: Option<Mask>,
}

impl Canvas {
    pub(super) fn prepare(
        info: &ModelInfo,
        request: &Request,
        note: &mut dyn FnMut(String) -> Result<()>,
    ) -> Result<Self> {
        let init = match &request.task {
            Task::Generate => None,
            Task::Transform { init_image, .. } | Task::Inpaint { init_image, .. } => Some(init_image),
        };
        let (width, height) = size(info, request, init, note)?;
        let (latent_width, latent_height) = (width / info.factor, height / info.factor);
        let original = init.map(|image| resize(image, width, height));
        let mask = match &request.task {
            Task::Inpaint { mask, mask_blur, composite, .. } => {
                let pixels = process_mask(mask, width, height);
                let latent = downsample(&pixels, width, height, info.factor);
                let alpha = composite.then(|| feather(&pixels, width, height, *mask_blur));
                Some(Mask { pixels, latent, alpha })
            }
            Task::Generate | Task::Transform { .. } => None,
        };
        let init = original.as_ref().map(preprocess);
        Ok(Self { width, height, latent_width, latent_height, init, original, mask })
    }

    /// The image with its masked part grey (0), as inpainting U-Nets were trained on.
    pub(super) fn masked_image(&self, init: &[f32]) -> Vec<f32> {
        let Some(mask) = &self.mask else { return init.to_vec() };
        init.chunks_exact(mask.pixels.len())
            .flat_map(|channel| {
                channel.iter().zip(&mask.pixels).map(|(value, mask)| if *mask < 0.5 { *value } else { 0.0 })
            })
            .collect()
    }

    /// SDXL's size conditioning: original size, crop's corner, target size, each (height, width).
    pub(super) fn time_ids(&self) -> [f32; 6] {
        let (h, w) = (self.height as f32, self.width as f32);
        [h, w, 0.0, 0.0, h, w]
    }

    /// Decoded pixels (3, height, width) from -1 to 1 to the picture, with the original back outside the mask.
    pub(super) fn finish(&self, pixels: &[f32]) -> Pixels {
        let painted = postprocess(pixels, self.width, self.height);
        match (&self.original, self.mask.as_ref().and_then(|mask| mask.alpha.as_deref())) {
            (Some(original), Some(alpha)) => composite(original, &painted, alpha),
            _ => painted,
        }
    }
}

/// Width and height of the picture: those that were asked for, or the image's, or the model's own.
fn size(
    info: &ModelInfo,
    request: &Request,
    init: Option<&Pixels>,
    note: &mut dyn FnMut(String) -> Result<()>,
) -> Result<(usize, usize)> {
    let (mut width, mut height) = info.native_size;
    let asked = request.width.is_some() && request.height.is_some();
    if let Some(image) = init.filter(|_| !asked) {
        let fitted = fit(image.width(), image.height(), width * height);
        if fitted.scaled {
            note(format!(
                "the image of {} x {} pixels has more than four times the area of the model's own {width} x {height}; it is scaled down to {} x {}",
                image.width(),
                image.height(),
                fitted.width,
                fitted.height
            ))?;
        }
        (width, height) = (fitted.width, fitted.height);
    }
    (width, height) = (request.width.unwrap_or(width), request.height.unwrap_or(height));
    for (field, value) in [("width", width), ("height", height)] {
        if value == 0 || value % info.factor != 0 {
            return Err(Error::InvalidArgument {
                field,
                reason: format!("must be a positive multiple of {} for this model, got {value}", info.factor),
            });
        }
    }
    Ok((width, height))
}
