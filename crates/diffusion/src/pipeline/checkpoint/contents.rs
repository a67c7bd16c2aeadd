//! What is in a single file: which networks, by the first parts of its tensors' names.

use crate::weights::{Weights, shown};

/// The U-Net's tensors, in the original checkpoints and all that follow them.
pub(super) const UNET: &str = "model.diffusion_model";

/// The autoencoder's; where a file has both, the first counts, as in diffusers.
const AUTOENCODERS: [&str; 2] = ["vae", "first_stage_model"];

/// The text encoder's.
const TEXT_ENCODERS: [TextEncoder; 4] = [
    TextEncoder { root: "cond_stage_model.transformer", open_clip: false },
    TextEncoder { root: "cond_stage_model.model", open_clip: true },
    TextEncoder { root: "conditioner.embedders.0.transformer", open_clip: false },
    TextEncoder { root: "conditioner.embedders.0.model", open_clip: true },
];

/// Those of SDXL's second text encoder.
const SECOND_TEXT_ENCODERS: [TextEncoder; 1] = [TextEncoder { root: "conditioner.embedders.1.model", open_clip: true }];

/// Files that are no checkpoints, by parts of their tensors' names.
const OTHERS: [(&[&str], &str); 7] = [
    (&["lora_", ".lora.", "hada_w", "lokr_"], "a LoRA, which changes a model and is none itself"),
    (
        &["control_model.", "controlnet_cond_embedding.", "input_hint_block."],
        "a ControlNet, which guides a model and is none itself",
    ),
    (&["ip_adapter.", "image_proj."], "an IP-Adapter, which guides a model and is none itself"),
    (&["motion_modules."], "a motion module, which animates a model and is none itself"),
    (&["emb_params", "string_to_param"], "a textual inversion, which is a word for a model and is none itself"),
    (&["joint_blocks."], "Stable Diffusion 3, which is not supported"),
    (&["double_blocks.", "double_stream_blocks."], "a Flux transformer, which is not supported"),
];

/// Files of one network without the first parts that its names have in a checkpoint.
const ALONE: [(&[&str], &str); 4] = [
    (
        &["down_blocks.", "up_blocks."],
        "one network of a diffusers folder; give the folder, the one with model_index.json",
    ),
    (&["encoder.down.", "decoder.up."], "an autoencoder alone"),
    (&["input_blocks."], "a U-Net alone"),
    (&["text_model.", "resblocks."], "a text encoder alone"),
];

/// Where a text encoder's tensors are, and whether OpenCLIP named them.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextEncoder {
    pub(super) root: &'static str,
    pub(super) open_clip: bool,
}

/// The networks of a checkpoint.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) autoencoder: &'static str,
    pub(super) text_encoder: TextEncoder,
    pub(super) text_encoder_2: Option<TextEncoder>,
}

impl Contents {
    /// Finds the networks; where one is not there, says so, or what the file is instead.
    pub(super) fn of(weights: &Weights) -> Result<Self, String> {
        let names = weights.names();
        let has =
            |root: &str| names.iter().any(|name| name.strip_prefix(root).is_some_and(|rest| rest.starts_with('.')));
        let unet = has(UNET);
        let autoencoder = AUTOENCODERS.into_iter().find(|root| has(root));
        let text_encoder = TEXT_ENCODERS.into_iter().find(|encoder| has(encoder.root));
        if let (true, Some(autoencoder), Some(text_encoder)) = (unet, autoencoder, text_encoder) {
            let text_encoder_2 = SECOND_TEXT_ENCODERS.into_iter().find(|encoder| has(encoder.root));
            return Ok(Self { autoencoder, text_encoder, text_encoder_2 });
        }
        let looks =
            |(parts, _): &&(&[&str], &str)| names.iter().any(|name| parts.iter().any(|part| name.contains(part)));
        let parts = [unet, autoencoder.is_some(), text_encoder.is_some()];
        let alone = ALONE.iter().filter(|_| !parts.contains(&true));
        if let Some((_, what)) = OTHERS.iter().chain(alone).find(looks) {
            return Err(format!("is {what}"));
        }
        if !parts.contains(&true) {
            return Err(format!("is no checkpoint of Stable Diffusion: no tensor of it is named {UNET}.…"));
        }
        let missing = [
            format!("U-Net ({UNET}.…)"),
            format!("autoencoder ({}.…)", AUTOENCODERS.join(".… or ")),
            format!("text encoder ({}.…)", TEXT_ENCODERS.map(|encoder| encoder.root).join(".… or ")),
        ];
        let missing = missing.into_iter().zip(parts).filter(|(_, there)| !there).map(|(what, _)| what);
        Err(format!("has no {}", missing.collect::<Vec<_>>().join(" and no ")))
    }

    /// The tensors that belong to none of the networks, by the first parts of their names; without those of the training: the averaged
    /// weights, and the schedule, which has names of one part.
    pub(super) fn others(&self, weights: &Weights) -> Vec<String> {
        let second = self.text_encoder_2.map(|encoder| encoder.root);
        let roots = [UNET, self.autoencoder, self.text_encoder.root, "model_ema", "denoiser"];
        let roots: Vec<String> = roots.into_iter().chain(second).map(|root| format!("{root}.")).collect();
        let mut others: Vec<String> = weights.names();
        others.retain(|name| name.contains('.') && !roots.iter().any(|root| name.starts_with(root)));
        others.iter_mut().for_each(|name| *name = shown(&name.split('.').take(2).collect::<Vec<_>>().join(".")));
        others.dedup();
        others
    }
}
