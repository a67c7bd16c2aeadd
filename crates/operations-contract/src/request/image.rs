use super::Priority;
use crate::Base64Bytes;
use crate::validated::{Check, Request};
use crate::{ApiError, DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS, limits, scheduler};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The fields that the three image operations share stand here once. `serde(flatten)` would do the same, but cannot
/// refuse unknown fields.
macro_rules! image_request {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The hive to paint on; absent: any that can.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub hive_id: Option<String>,
            /// The model; absent: the worker's own, at a queen the default.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub model: Option<String>,
            /// What to paint; may be empty.
            pub prompt: String,
            /// What to avoid.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub negative_prompt: Option<String>,
            /// Denoising steps; absent: the model's own where its files tell them, else 20.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1, max = 150))]
            pub steps: Option<u32>,
            /// How closely to follow the prompt; absent: the model's own where its files tell it, else 7.5.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = 30))]
            pub guidance_scale: Option<f64>,
            /// Width in pixels; absent: the model's own, or that of the image.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 64, max = 2048), extend("multipleOf" = 8))]
            pub width: Option<u32>,
            /// Height in pixels; absent: the model's own, or that of the image.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 64, max = 2048), extend("multipleOf" = 8))]
            pub height: Option<u32>,
            /// Seed of the noise; absent: drawn when the job is admitted.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub seed: Option<u64>,
            /// The worker to paint on; absent: any that can.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub worker_id: Option<String>,
            /// The sampler; absent: the model's own.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(extend("enum" = scheduler::names_or_null(&scheduler::SCHEDULERS)))]
            pub scheduler: Option<String>,
            /// Spacing of the noise levels; absent: the model's own.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(extend("enum" = scheduler::names_or_null(&scheduler::SCHEDULES)))]
            pub schedule: Option<String>,
            /// How many pictures; picture n has seed + n.
            #[serde(default = "one")]
            #[schemars(range(min = 1, max = 64))]
            pub count: u32,
            /// CLIP's last layers to skip, as diffusers counts: 1 is the penultimate layer.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = 11))]
            pub clip_skip: Option<u32>,
            /// A preview after every so many steps; absent: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1, max = 150))]
            pub preview_every: Option<u32>,
            /// Which of the waiting jobs comes first.
            #[serde(default, skip_serializing_if = "Priority::is_default")]
            pub priority: Priority,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                let ImageSettings {
                    hive_id, model, prompt, negative_prompt, steps, guidance_scale, width, height, seed, worker_id,
                    scheduler, schedule, count, clip_skip, preview_every, priority,
                } = ImageSettings::default();
                Self {
                    hive_id, model, prompt, negative_prompt, steps, guidance_scale, width, height, seed, worker_id,
                    scheduler, schedule, count, clip_skip, preview_every, priority,
                    $($field: $default,)*
                }
            }
        }

        impl $name {
            /// What this request has in common with the other image operations.
            pub fn settings(&self) -> ImageSettings {
                let Self {
                    hive_id, model, prompt, negative_prompt, steps, guidance_scale, width, height, seed, worker_id,
                    scheduler, schedule, count, clip_skip, preview_every, priority, ..
                } = self.clone();
                ImageSettings {
                    hive_id, model, prompt, negative_prompt, steps, guidance_scale, width, height, seed, worker_id,
                    scheduler, schedule, count, clip_skip, preview_every, priority,
                }
            }
        }
    };
}

image_request! {
    /// Text to picture.
    ImageGenerationRequest {}
}

image_request! {
    /// Image and text to picture.
    ImageTransformRequest {
        /// The image to start from: PNG, JPEG or WebP.
        init_image: Base64Bytes = Base64Bytes::default(),
        /// How much of the image is given up: 1 keeps nothing.
        #[serde(default = "transform_strength")]
        #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
        strength: f64 = transform_strength(),
    }
}

image_request! {
    /// Image, mask and text to picture.
    ImageInpaintRequest {
        /// The image to repaint a part of: PNG, JPEG or WebP.
        init_image: Base64Bytes = Base64Bytes::default(),
        /// White is repainted; where the mask has an alpha channel, what is transparent.
        mask_image: Base64Bytes = Base64Bytes::default(),
        /// How much of the masked part is given up.
        #[serde(default = "inpaint_strength")]
        #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
        strength: f64 = inpaint_strength(),
        /// Sigma of the Gaussian that softens the mask's edge, in pixels.
        #[serde(default = "mask_blur")]
        #[schemars(range(min = 0, max = 64))]
        mask_blur: f64 = mask_blur(),
        /// Whether the pixels outside the softened mask come back exactly.
        #[serde(default = "yes")]
        composite: bool = true,
    }
}

/// What the three image operations have in common; the fields are those of [`ImageGenerationRequest`].
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each field is documented where it stands on the wire")]
pub struct ImageSettings {
    pub hive_id: Option<String>,
    pub model: Option<String>,
    pub prompt: String,
    pub negative_prompt: Option<String>,
    pub steps: Option<u32>,
    pub guidance_scale: Option<f64>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub seed: Option<u64>,
    pub worker_id: Option<String>,
    pub scheduler: Option<String>,
    pub schedule: Option<String>,
    pub count: u32,
    pub clip_skip: Option<u32>,
    pub preview_every: Option<u32>,
    pub priority: Priority,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            hive_id: None,
            model: None,
            prompt: String::new(),
            negative_prompt: None,
            steps: None,
            guidance_scale: None,
            width: None,
            height: None,
            seed: None,
            worker_id: None,
            scheduler: None,
            schedule: None,
            count: one(),
            clip_skip: None,
            preview_every: None,
            priority: Priority::default(),
        }
    }
}

impl ImageSettings {
    /// The steps asked for, or `own` (the model's), or 20.
    pub fn steps_or(&self, own: Option<u32>) -> u32 {
        self.steps.or(own).unwrap_or(DEFAULT_STEPS)
    }

    /// The guidance scale asked for, or `own` (the model's), or 7.5.
    pub fn guidance_scale_or(&self, own: Option<f64>) -> f64 {
        self.guidance_scale.or(own).unwrap_or(DEFAULT_GUIDANCE_SCALE)
    }

    fn check(&self, check: &Check) -> Result<(), ApiError> {
        check.optional_id("hive_id", self.hive_id.as_deref())?;
        check.optional_id("worker_id", self.worker_id.as_deref())?;
        check.optional_model("model", self.model.as_deref())?;
        check.text("prompt", &self.prompt, limits::PROMPT_BYTES)?;
        check.text("negative_prompt", self.negative_prompt.as_deref().unwrap_or(""), limits::PROMPT_BYTES)?;
        check.optional_range("steps", self.steps, &limits::STEPS)?;
        check.optional_range("guidance_scale", self.guidance_scale, &limits::GUIDANCE_SCALE)?;
        check.side("width", self.width)?;
        check.side("height", self.height)?;
        check.range("count", self.count, &limits::COUNT)?;
        check.optional_range("clip_skip", self.clip_skip, &limits::CLIP_SKIP)?;
        check.optional_range("preview_every", self.preview_every, &limits::STEPS)?;
        check.one_of("scheduler", self.scheduler.as_deref(), &scheduler::SCHEDULERS)?;
        check.one_of("schedule", self.schedule.as_deref(), &scheduler::SCHEDULES)?;
        match (&self.scheduler, &self.schedule) {
            (Some(scheduler), Some(schedule)) if !scheduler::scheduler_has_schedules(scheduler) => {
                Err(ApiError::invalid(
                    "schedule",
                    format!("scheduler {scheduler} has no schedule {schedule}; leave it out"),
                ))
            }
            _ => Ok(()),
        }
    }
}

impl Request for ImageGenerationRequest {
    fn check(&self) -> Result<(), ApiError> {
        self.settings().check(&Check)
    }
}

impl Request for ImageTransformRequest {
    fn check(&self) -> Result<(), ApiError> {
        self.settings().check(&Check)?;
        Check.strength("strength", self.strength)?;
        Check.image("init_image", &self.init_image)
    }
}

impl Request for ImageInpaintRequest {
    fn check(&self) -> Result<(), ApiError> {
        self.settings().check(&Check)?;
        Check.strength("strength", self.strength)?;
        Check.range("mask_blur", self.mask_blur, &limits::MASK_BLUR)?;
        Check.image("init_image", &self.init_image)?;
        Check.image("mask_image", &self.mask_image)
    }
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn transform_strength() -> f64 {
    0.8
}

fn inpaint_strength() -> f64 {
    1.0
}

fn mask_blur() -> f64 {
    4.0
}
