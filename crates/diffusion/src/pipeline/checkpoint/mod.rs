//! Checkpoints in a single file: which model it is, its networks by the original names, and the configs that it lacks.
//!
//! What diffusers' `from_single_file` makes of them. The names and shapes of the tensors tell the family and what its U-Net takes; the
//! configs are those of the family's released model. Three things no tensor tells, and the rules for them are:
//!
//! - Stable Diffusion 2 predicts the velocity at 768 pixels, as 2.1 does and as diffusers takes it, unless the header's
//!   `modelspec.prediction_type` (<https://github.com/Stability-AI/ModelSpec>) is `epsilon`: then it is 2.1-base at 512 pixels. A tensor
//!   `v_pred` in a file of any family marks the velocity, and one `ztsnr` a schedule that ends in pure noise.
//! - Stable Diffusion 2 under the names of SDXL is SD-Turbo, which was released so.
//! - SDXL-Turbo has nothing that SDXL has not; it must be said.

mod configs;
mod contents;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use self::configs::{FAMILIES, Family, Purpose, Release, Told};
use self::contents::{Contents, TextEncoder, UNET};
use super::source::ModelSource;
use crate::models::{AutoencoderKlConfig, ClipTextConfig, PerBlock, UNetConfig};
use crate::tokenizer::ClipTokenizer;
use crate::weights::{Names, Weights, shown};
use crate::{Error, Result};

/// A checkpoint: every network of a model in one safetensors file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    weights: Weights,
    contents: Contents,
    configs: Configs,
}

#[derive(Debug)]
enum Configs {
    BuiltIn {
        files: Vec<(&'static str, String)>,
        pads: &'static [&'static str],
    },
    /// Those of a diffusers folder.
    Folder(Box<ModelSource>),
}

impl Checkpoint {
    /// Opens a file and tells its architecture from its tensors. `turbo` says that it is the family's model of one step.
    ///
    /// # Errors
    /// [`Error::BadFile`] with what the file is instead, or which network it lacks; those of [`Weights::open_file`].
    pub fn open(path: &Path, turbo: bool) -> Result<Self> {
        let (weights, contents) = read(path)?;
        let bad = |reason: String| Error::BadFile { path: path.to_owned(), reason };
        let family = family(&weights, &contents).map_err(bad)?;
        let told = told(&weights).map_err(bad)?;
        let purpose = purpose(family, &contents, &told, turbo);
        let release = Release::of(family, purpose);
        tracing::info!(file = %path.display(), family = family.name, configs = release.repository, "the checkpoint's architecture");
        for part in contents.others(&weights) {
            tracing::warn!(part, "the checkpoint has tensors that the model has no place for; they are not used");
        }
        let configs = Configs::BuiltIn { files: release.files(&told), pads: family.pads };
        Ok(Self { path: path.to_owned(), weights, contents, configs })
    }

    /// Opens a file whose configs and tokenizers are those of a diffusers folder, as `from_single_file(path, config=folder)`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and where the folder is no model's.
    pub fn open_with(path: &Path, folder: &Path) -> Result<Self> {
        let (weights, contents) = read(path)?;
        let configs = Configs::Folder(Box::new(ModelSource::folder(folder)?));
        Ok(Self { path: path.to_owned(), weights, contents, configs })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A config, by its path in a diffusers folder.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        match &self.configs {
            Configs::BuiltIn { files, .. } => {
                Ok(files.iter().find(|(path, _)| *path == name).map(|(_, text)| text.clone()))
            }
            Configs::Folder(folder) => folder.text(name),
        }
    }

    pub(super) fn tokenizer(&self, folder: &str) -> Result<ClipTokenizer> {
        match &self.configs {
            Configs::BuiltIn { pads, .. } => {
                let pad = if folder == "tokenizer_2" { pads.get(1) } else { pads.first() };
                let pad = pad.ok_or_else(|| self.bad(format!("is of a family that has no {folder}")))?;
                Ok(ClipTokenizer::clip(pad))
            }
            Configs::Folder(source) => source.tokenizer(folder),
        }
    }

    /// The weights of one network, by its folder in diffusers' layout.
    pub(super) fn weights(&self, folder: &str) -> Result<Weights> {
        let file = format!("{folder}/config.json");
        let config = self.text(&file)?.ok_or_else(|| self.bad(format!("has no {file} in its configs")))?;
        let (root, names) = match folder {
            "unet" => (UNET, unet_names(&UNetConfig::parse(&config, &file)?)),
            "vae" => {
                let levels = AutoencoderKlConfig::parse(&config, &file)?.block_out_channels.len();
                (self.contents.autoencoder, Names::Autoencoder { levels })
            }
            _ => {
                let second = folder == "text_encoder_2";
                let encoder = if second { self.contents.text_encoder_2 } else { Some(self.contents.text_encoder) };
                let TextEncoder { root, open_clip } =
                    encoder.ok_or_else(|| self.bad("has only one of two text encoders".to_owned()))?;
                let layers = ClipTextConfig::parse(&config, &file)?.num_hidden_layers;
                (root, if open_clip { Names::OpenClip { layers } } else { Names::Diffusers })
            }
        };
        Ok(self.weights.network(root, names))
    }

    fn bad(&self, reason: String) -> Error {
        Error::BadFile { path: self.path.clone(), reason }
    }
}

fn read(path: &Path) -> Result<(Weights, Contents)> {
    let weights = Weights::open_file(path)?;
    let contents = Contents::of(&weights).map_err(|reason| Error::BadFile {
        path: path.to_owned(),
        reason: format!("{reason}; give a checkpoint with U-Net, autoencoder and text encoder, or a diffusers folder"),
    })?;
    Ok((weights, contents))
}

fn unet_names(config: &UNetConfig) -> Names {
    let resnets = match &config.layers_per_block {
        PerBlock::All(count) => *count,
        PerBlock::Each(counts) => counts.first().copied().unwrap_or(0),
    };
    Names::UNet {
        resnets,
        up_attentions: config.up_block_types.iter().map(|name| name == "CrossAttnUpBlock2D").collect(),
    }
}

/// The family whose text the U-Net attends to.
fn family(weights: &Weights, contents: &Contents) -> Result<&'static Family, String> {
    let unet = weights.network(UNET, Names::Diffusers);
    let attends = |name: &&String| name.ends_with(".attn2.to_k.weight");
    let name = unet.names().iter().find(attends).cloned().ok_or("has a U-Net without cross-attention")?;
    let width = unet.shape(&name).and_then(|shape| shape.last().copied()).unwrap_or(0);
    let family = FAMILIES.into_iter().find(|family| family.width == width).ok_or_else(|| match width {
        1280 => "is SDXL's refiner, which cannot paint alone; give the base model".to_owned(),
        _ => format!(
            "is of no family that is known: {UNET}.{} takes a text of width {width}, that of Stable Diffusion 1 has 768, 2 has 1024, XL has 2048",
            shown(&name)
        ),
    })?;
    match (family.pads.len(), contents.text_encoder_2) {
        (2, None) => Err("has only one of SDXL's two text encoders (no conditioner.embedders.1.model.…)".to_owned()),
        _ if weights.has("edm_mean") => {
            Err("is Playground 2.5, whose noise is not Stable Diffusion's; it is not supported".to_owned())
        }
        (1, _) if unet.has("label_emb.0.0.weight") => {
            Err("paints from pictures (its U-Net has label_emb), which is not supported".to_owned())
        }
        _ => Ok(family),
    }
}

/// What the U-Net takes and predicts.
fn told(weights: &Weights) -> Result<Told, String> {
    let unet = weights.network(UNET, Names::Diffusers);
    let side = |name: &str| unet.shape(name).and_then(|shape| shape.get(1).copied());
    let in_channels =
        side("input_blocks.0.0.weight").ok_or_else(|| format!("has no {UNET}.input_blocks.0.0.weight"))?;
    if !matches!(in_channels, 4 | 9) {
        let what = match in_channels {
            5 => "is a model that paints by depth",
            7 => "is a model that enlarges pictures",
            8 => "is InstructPix2Pix",
            _ => "is of no kind that is known",
        };
        return Err(format!(
            "{what}: its U-Net takes {in_channels} channels, 4 or 9 (to paint through a mask) are supported"
        ));
    }
    let prediction_type = match weights.metadata("modelspec.prediction_type") {
        _ if weights.has("v_pred") => Some("v_prediction"),
        Some("v" | "v_prediction" | "velocity") => Some("v_prediction"),
        Some("epsilon") => Some("epsilon"),
        _ => None,
    };
    let zero_snr = weights.has("ztsnr");
    Ok(Told { in_channels, time_cond_proj_dim: side("time_embed.cond_proj.weight"), prediction_type, zero_snr })
}

fn purpose(family: &Family, contents: &Contents, told: &Told, turbo: bool) -> Purpose {
    let second = family.width == 1024;
    let as_xl = second && contents.text_encoder.root.starts_with("conditioner.");
    match told {
        Told { time_cond_proj_dim: Some(_), .. } => Purpose::Consistency,
        Told { in_channels: 9, .. } => Purpose::Inpaint,
        Told { prediction_type, .. } if turbo || (as_xl && *prediction_type != Some("v_prediction")) => Purpose::Turbo,
        Told { prediction_type: Some("epsilon"), .. } if second => Purpose::TextByNoise,
        _ => Purpose::Text,
    }
}
