//! The original names: how the checkpoints of CompVis and Stability AI call what diffusers and transformers call otherwise, where one file
//! holds every network.
//!
//! Each function here leads from diffusers' name to the file's, which is the way of a look-up: nothing is renamed or copied ahead. diffusers
//! goes the other way: <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/loaders/single_file_utils.py>.

use std::borrow::Cow;

/// The convention by which the tensors of one network are named in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// Those of diffusers and transformers, as in a model's folder; CLIP's have no others.
    #[default]
    Diffusers,
    /// The U-Net's of CompVis, whose blocks are numbered through.
    UNet {
        /// Residual blocks of each block on the way down, `layers_per_block`.
        resnets: usize,
        /// Which blocks on the way up attend: there the upsampler stands behind the attention.
        up_attentions: Vec<bool>,
    },
    /// The autoencoder's of CompVis.
    Autoencoder {
        /// Resolutions; those of the decoder are numbered as the encoder's are.
        levels: usize,
    },
    /// OpenCLIP's text encoder, in which query, key and value are one matrix.
    OpenClip {
        /// Layers that the network has; the file may have one more.
        layers: usize,
    },
}

/// What of a stored tensor is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// All of it.
    Whole,
    /// One of three equal parts, one after the other along the first side.
    Third(usize),
    /// The matrix whose rows are its columns.
    Transposed,
}

const UNET: [(&str, &str); 8] = [
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("time_embedding.cond_proj", "time_embed.cond_proj"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];

const UNET_RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
];

const AUTOENCODER: [(&str, &str); 7] = [
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
];

const OPEN_CLIP: [(&str, &str); 3] = [
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.final_layer_norm", "ln_final"),
    ("text_model.encoder.layers", "transformer.resblocks"),
];

const OPEN_CLIP_LAYER: [(&str, &str); 5] = [
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
];

const FUSED: [&str; 3] = ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."];

impl Names {
    /// Where the tensor that diffusers calls `full` stands: the name in the file, and what of it. A name that the convention does not know
    /// stays what it is.
    pub(super) fn place(&self, full: &str) -> (String, Cut) {
        let found = match self {
            Self::Diffusers => None,
            Self::UNet { resnets, up_attentions } => unet(full, *resnets, up_attentions).map(|name| (name, Cut::Whole)),
            Self::Autoencoder { levels } => autoencoder(full, *levels).map(|name| (name, Cut::Whole)),
            Self::OpenClip { .. } => open_clip(full),
        };
        found.unwrap_or_else(|| (full.to_owned(), Cut::Whole))
    }

    /// Whether a tensor that nobody uses is worth no warning: OpenCLIP's own training, and the last layer and the projection, without which
    /// Stable Diffusion 2 reads it.
    pub(super) fn harmless(&self, name: &str) -> bool {
        match self {
            Self::OpenClip { layers } => {
                matches!(name, "text_projection" | "logit_scale" | "attn_mask")
                    || name.starts_with(&format!("transformer.resblocks.{layers}."))
            }
            _ => name == "logit_scale",
        }
    }
}

fn unet(full: &str, resnets: usize, up_attentions: &[bool]) -> Option<String> {
    if let Some(name) = replace_start(full, &UNET) {
        return Some(name);
    }
    let (block, kind, rest) = block(full)?;
    let (index, rest) = number(rest)?;
    let (base, place) = match (block, kind) {
        (Block::Down(b), "downsamplers") => {
            return Some(format!("input_blocks.{}.0.op.{}", (resnets + 1) * (b + 1), rest.strip_prefix("conv.")?));
        }
        (Block::Up(b), "upsamplers") => {
            let place = 1 + usize::from(*up_attentions.get(b)?);
            return Some(format!("output_blocks.{}.{place}.{rest}", (resnets + 1) * b + resnets));
        }
        (Block::Down(b), _) => {
            (format!("input_blocks.{}", (resnets + 1) * b + index + 1), usize::from(kind != "resnets"))
        }
        (Block::Up(b), _) => (format!("output_blocks.{}", (resnets + 1) * b + index), usize::from(kind != "resnets")),
        (Block::Mid, _) => ("middle_block".to_owned(), 2 * index + usize::from(kind != "resnets")),
    };
    match kind {
        "resnets" => Some(format!("{base}.{place}.{}", replace_start(rest, &UNET_RESNET)?)),
        "attentions" => Some(format!("{base}.{place}.{rest}")),
        _ => None,
    }
}

fn autoencoder(full: &str, levels: usize) -> Option<String> {
    let (side, rest) = full.split_once('.')?;
    if !matches!(side, "encoder" | "decoder") {
        return None;
    }
    let Some((block, kind, rest)) = block(rest) else {
        return Some(format!("{side}.{}", replace_start(rest, &AUTOENCODER).unwrap_or_else(|| rest.to_owned())));
    };
    let (index, rest) = number(rest)?;
    let rest = replace_start(rest, &AUTOENCODER).unwrap_or_else(|| rest.to_owned());
    let place = match (block, kind) {
        (Block::Down(b), "resnets") => format!("down.{b}.block.{index}"),
        (Block::Down(b), "downsamplers") => format!("down.{b}.downsample"),
        (Block::Up(b), "resnets") => format!("up.{}.block.{index}", levels.checked_sub(b + 1)?),
        (Block::Up(b), "upsamplers") => format!("up.{}.upsample", levels.checked_sub(b + 1)?),
        (Block::Mid, "resnets") => format!("mid.block_{}", index + 1),
        (Block::Mid, "attentions") => format!("mid.attn_{}", index + 1),
        _ => return None,
    };
    Some(format!("{side}.{place}.{rest}"))
}

fn open_clip(full: &str) -> Option<(String, Cut)> {
    match full {
        "text_model.embeddings.position_embedding.weight" => {
            return Some(("positional_embedding".to_owned(), Cut::Whole));
        }
        // A matrix that the text is multiplied by from the left, where a linear layer has one from the right.
        "text_projection.weight" => return Some(("text_projection".to_owned(), Cut::Transposed)),
        _ => {}
    }
    let name = replace_start(full, &OPEN_CLIP)?;
    let Some((layer, rest)) = name.strip_prefix("transformer.resblocks.").and_then(number) else {
        return Some((name, Cut::Whole));
    };
    let fused = FUSED.iter().enumerate().find_map(|(third, part)| Some((third, rest.strip_prefix(part)?)));
    let (rest, cut) = match fused {
        Some((third, parameter)) => (format!("attn.in_proj_{parameter}"), Cut::Third(third)),
        None => (replace_start(rest, &OPEN_CLIP_LAYER)?, Cut::Whole),
    };
    Some((format!("transformer.resblocks.{layer}.{rest}"), cut))
}

enum Block {
    Down(usize),
    Mid,
    Up(usize),
}

/// Splits `down_blocks.1.resnets.0.norm1.weight` into the block, `resnets` and what follows.
fn block(name: &str) -> Option<(Block, &str, &str)> {
    let (block, rest) = if let Some(rest) = name.strip_prefix("mid_block.") {
        (Block::Mid, rest)
    } else if let Some(rest) = name.strip_prefix("down_blocks.") {
        let (index, rest) = number(rest)?;
        (Block::Down(index), rest)
    } else {
        let (index, rest) = number(name.strip_prefix("up_blocks.")?)?;
        (Block::Up(index), rest)
    };
    let (kind, rest) = rest.split_once('.')?;
    Some((block, kind, rest))
}

/// Splits `12.rest`.
fn number(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Replaces the first parts of the path by what the table has for them.
fn replace_start(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(ours, theirs)| {
        let rest = name.strip_prefix(ours)?.strip_prefix('.')?;
        Some(format!("{theirs}.{rest}"))
    })
}

impl Cut {
    /// The shape of what is meant of a tensor that is stored with the shape `stored`.
    pub(super) fn shape(self, stored: &[usize]) -> Vec<usize> {
        let mut shape = stored.to_vec();
        match (self, &mut shape[..]) {
            (Self::Third(_), [first, ..]) => *first /= 3,
            (Self::Transposed, sides) => sides.reverse(),
            _ => {}
        }
        shape
    }

    /// The shape with which a tensor must be stored for this part of it to have `shape`.
    pub(super) fn stored_shape(self, shape: &[usize]) -> Vec<usize> {
        let mut stored = shape.to_vec();
        match (self, &mut stored[..]) {
            (Self::Third(_), [first, ..]) => *first *= 3,
            (Self::Transposed, sides) => sides.reverse(),
            _ => {}
        }
        stored
    }

    /// The bytes of what is meant, of a tensor that is stored with the right shape in numbers of `size` bytes.
    pub(super) fn bytes<'a>(self, stored: &'a [u8], shape: &[usize], size: usize) -> Cow<'a, [u8]> {
        match (self, shape) {
            (Self::Third(third), _) => {
                let length = stored.len() / 3;
                Cow::Borrowed(&stored[third * length..(third + 1) * length])
            }
            (Self::Transposed, &[rows, columns]) => {
                let mut bytes = Vec::with_capacity(stored.len());
                for row in 0..rows {
                    for column in 0..columns {
                        let at = (column * rows + row) * size;
                        bytes.extend_from_slice(&stored[at..at + size]);
                    }
                }
                Cow::Owned(bytes)
            }
            _ => Cow::Borrowed(stored),
        }
    }
}
