//! The configs of the released models, for checkpoints, which bring none: those of the repositories that are named here.

use serde_json::{Map, Value, json};

/// A released model, whose configs hold for every checkpoint of its kind.
pub(super) struct Release {
    family: &'static Family,
    purpose: Purpose,
    /// The hub repository that has these configs.
    pub(super) repository: &'static str,
    class: &'static str,
    /// The U-Net's `sample_size`.
    sample_size: usize,
    scheduler: &'static str,
}

/// What models of one text encoder and one U-Net have in common.
pub(super) struct Family {
    pub(super) name: &'static str,
    /// Width of the text that the U-Net attends to.
    pub(super) width: usize,
    /// The padding tokens of the tokenizers.
    pub(super) pads: &'static [&'static str],
    unet: &'static str,
    vae: &'static str,
    text_encoders: &'static [&'static str],
}

/// What a model of a family was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To paint from text, as the family's first model.
    Text,
    /// The same, predicting the noise where the family's first model predicts the velocity.
    TextByNoise,
    /// To paint through a mask, with nine input channels.
    Inpaint,
    /// To paint in one step.
    Turbo,
    /// To paint in four steps, with an embedding of the guidance scale.
    Consistency,
}

/// What the tensors say that a config must say too.
pub(super) struct Told {
    pub(super) in_channels: usize,
    /// Width of the guidance scale's embedding.
    pub(super) time_cond_proj_dim: Option<usize>,
    pub(super) prediction_type: Option<&'static str>,
    pub(super) zero_snr: bool,
}

macro_rules! config {
    ($path:literal) => {
        include_str!(concat!("configs/", $path, ".json"))
    };
}

static SD1: Family = Family {
    name: "Stable Diffusion 1",
    width: 768,
    pads: &["<|endoftext|>"],
    unet: config!("sd1/unet"),
    vae: config!("sd1/vae"),
    text_encoders: &[config!("sd1/text_encoder")],
};

static SD2: Family = Family {
    name: "Stable Diffusion 2",
    width: 1024,
    pads: &["!"],
    unet: config!("sd2/unet"),
    vae: config!("sd2/vae"),
    text_encoders: &[config!("sd2/text_encoder")],
};

static SDXL: Family = Family {
    name: "Stable Diffusion XL",
    width: 2048,
    pads: &["<|endoftext|>", "!"],
    unet: config!("sdxl/unet"),
    vae: config!("sdxl/vae"),
    text_encoders: &[config!("sdxl/text_encoder"), config!("sdxl/text_encoder_2")],
};

pub(super) static FAMILIES: [&Family; 3] = [&SD1, &SD2, &SDXL];

static RELEASES: [Release; 10] = [
    Release {
        family: &SD1,
        purpose: Purpose::Text,
        repository: "stable-diffusion-v1-5/stable-diffusion-v1-5",
        class: "StableDiffusionPipeline",
        sample_size: 64,
        scheduler: config!("schedulers/pndm"),
    },
    Release {
        family: &SD1,
        purpose: Purpose::Inpaint,
        repository: "stable-diffusion-v1-5/stable-diffusion-inpainting",
        class: "StableDiffusionInpaintPipeline",
        sample_size: 64,
        scheduler: config!("schedulers/ddim"),
    },
    Release {
        family: &SD1,
        purpose: Purpose::Consistency,
        repository: "SimianLuo/LCM_Dreamshaper_v7",
        class: "LatentConsistencyModelPipeline",
        sample_size: 96,
        scheduler: config!("schedulers/lcm"),
    },
    Release {
        family: &SD2,
        purpose: Purpose::Text,
        repository: "stabilityai/stable-diffusion-2-1",
        class: "StableDiffusionPipeline",
        sample_size: 96,
        scheduler: config!("schedulers/ddim-v"),
    },
    Release {
        family: &SD2,
        purpose: Purpose::TextByNoise,
        repository: "stabilityai/stable-diffusion-2-1-base",
        class: "StableDiffusionPipeline",
        sample_size: 64,
        scheduler: config!("schedulers/pndm"),
    },
    Release {
        family: &SD2,
        purpose: Purpose::Inpaint,
        repository: "stabilityai/stable-diffusion-2-inpainting",
        class: "StableDiffusionInpaintPipeline",
        sample_size: 64,
        scheduler: config!("schedulers/pndm"),
    },
    Release {
        family: &SD2,
        purpose: Purpose::Turbo,
        repository: "stabilityai/sd-turbo",
        class: "StableDiffusionPipeline",
        sample_size: 64,
        scheduler: config!("schedulers/euler-trailing"),
    },
    Release {
        family: &SDXL,
        purpose: Purpose::Text,
        repository: "stabilityai/stable-diffusion-xl-base-1.0",
        class: "StableDiffusionXLPipeline",
        sample_size: 128,
        scheduler: config!("schedulers/euler"),
    },
    Release {
        family: &SDXL,
        purpose: Purpose::Inpaint,
        repository: "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        class: "StableDiffusionXLInpaintPipeline",
        sample_size: 128,
        scheduler: config!("schedulers/euler"),
    },
    Release {
        family: &SDXL,
        purpose: Purpose::Turbo,
        repository: "stabilityai/sdxl-turbo",
        class: "StableDiffusionXLPipeline",
        sample_size: 64,
        scheduler: config!("schedulers/euler-ancestral-trailing"),
    },
];

impl Release {
    /// The release of a family for a purpose; where there is none, its first.
    pub(super) fn of(family: &Family, purpose: Purpose) -> &'static Self {
        let find = |purpose| {
            RELEASES.iter().find(|release| release.family.width == family.width && release.purpose == purpose)
        };
        find(purpose).or_else(|| find(Purpose::Text)).expect("every family has a model that paints from text")
    }

    /// The files of its diffusers folder that are no weights and no tokenizer's, with what the tensors tell in place of its own.
    pub(super) fn files(&self, told: &Told) -> Vec<(&'static str, String)> {
        let Family { unet, vae, text_encoders, .. } = self.family;
        let mut index = json!({
            "_class_name": self.class,
            "scheduler": ["diffusers", null],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        });
        if text_encoders.len() > 1 {
            index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
            index["tokenizer_2"] = json!(["transformers", "CLIPTokenizer"]);
            index["force_zeros_for_empty_prompt"] = json!(true);
        }
        let mut in_unet = vec![("in_channels", json!(told.in_channels)), ("sample_size", json!(self.sample_size))];
        in_unet.extend(told.time_cond_proj_dim.map(|dim| ("time_cond_proj_dim", json!(dim))));
        let mut in_scheduler = Vec::new();
        in_scheduler.extend(told.prediction_type.map(|name| ("prediction_type", json!(name))));
        in_scheduler.extend(told.zero_snr.then(|| ("rescale_betas_zero_snr", json!(true))));
        let consistency = told.time_cond_proj_dim.is_some();
        let scheduler = if consistency { config!("schedulers/lcm") } else { self.scheduler };
        let mut files = vec![
            ("model_index.json", index.to_string()),
            ("scheduler/scheduler_config.json", changed(scheduler, in_scheduler)),
            ("unet/config.json", changed(unet, in_unet)),
            ("vae/config.json", (*vae).to_owned()),
        ];
        let folders = ["text_encoder/config.json", "text_encoder_2/config.json"];
        files.extend(folders.into_iter().zip(text_encoders.iter().map(|config| (*config).to_owned())));
        files
    }
}

/// A config with other values for some keys.
fn changed(config: &str, changes: Vec<(&str, Value)>) -> String {
    let mut keys: Map<String, Value> = serde_json::from_str(config).expect("the built-in configs are JSON objects");
    keys.extend(changes.into_iter().map(|(key, value)| (key.to_owned(), value)));
    Value::from(keys).to_string()
}
