//! `unet/config.json`.

use serde::Deserialize;

use crate::models::config::{Fixed, PerBlock, bad, diffusers_activation, parse, unsupported};
use crate::ops::Activation;
use crate::{Error, Result};

/// The config of diffusers' `UNet2DConditionModel`, with its defaults:
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/unets/unet_2d_condition.py>.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are diffusers' and explained there")]
pub struct UNetConfig {
    pub sample_size: Option<PerBlock<usize>>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub center_input_sample: bool,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub up_block_types: Vec<String>,
    pub only_cross_attention: PerBlock<bool>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: PerBlock<usize>,
    pub downsample_padding: usize,
    pub act_fn: String,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub cross_attention_dim: PerBlock<usize>,
    pub transformer_layers_per_block: PerBlock<PerBlock<usize>>,
    pub reverse_transformer_layers_per_block: Option<Vec<PerBlock<usize>>>,
    /// Really the number of heads: <https://github.com/huggingface/diffusers/issues/2011#issuecomment-1547958131>.
    pub attention_head_dim: PerBlock<usize>,
    pub use_linear_projection: bool,
    pub addition_embed_type: Option<String>,
    pub addition_time_embed_dim: Option<usize>,
    pub time_embedding_dim: Option<usize>,
    pub time_cond_proj_dim: Option<usize>,
    pub conv_in_kernel: usize,
    pub conv_out_kernel: usize,
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// What errors call the config.
    #[serde(skip)]
    pub(super) file: String,
}

/// One resolution on the way down or up.
#[derive(Debug, Clone)]
pub(super) struct BlockConfig {
    pub(super) channels: usize,
    /// Transformer layers after each residual block; `None` where a block has no attention at all.
    pub(super) transformer_layers: Option<Vec<usize>>,
    pub(super) resnets: usize,
    pub(super) heads: usize,
    pub(super) cross_attention_dim: usize,
    pub(super) only_cross_attention: bool,
}

/// The blocks of a U-Net, in the order in which they run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) down: Vec<BlockConfig>,
    /// `None`: there is no middle. Without transformer layers it has one residual block, with them two.
    pub(super) mid: Option<BlockConfig>,
    pub(super) up: Vec<BlockConfig>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: list(&[
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ]),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".into()),
            up_block_types: list(&["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
            only_cross_attention: PerBlock::All(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::All(2),
            downsample_padding: 1,
            act_fn: "silu".into(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerBlock::All(1280),
            transformer_layers_per_block: PerBlock::All(PerBlock::All(1)),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerBlock::All(8),
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            time_embedding_dim: None,
            time_cond_proj_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            projection_class_embeddings_input_dim: None,
            file: "unet/config.json".into(),
        }
    }
}

const FIXED: [Fixed; 14] = [
    Fixed { key: "_class_name", values: &["\"UNet2DConditionModel\""] },
    Fixed { key: "num_attention_heads", values: &["null"] },
    Fixed { key: "norm_num_groups_out", values: &["null"] },
    Fixed { key: "encoder_hid_dim", values: &["null"] },
    Fixed { key: "encoder_hid_dim_type", values: &["null"] },
    Fixed { key: "dual_cross_attention", values: &["false", "null"] },
    Fixed { key: "class_embed_type", values: &["null"] },
    Fixed { key: "num_class_embeds", values: &["null"] },
    Fixed { key: "resnet_time_scale_shift", values: &["\"default\""] },
    Fixed { key: "mid_block_scale_factor", values: &["1", "1.0"] },
    Fixed { key: "time_embedding_type", values: &["\"positional\""] },
    Fixed { key: "time_embedding_act_fn", values: &["null"] },
    Fixed { key: "timestep_post_act", values: &["null"] },
    Fixed { key: "attention_type", values: &["\"default\""] },
];

impl UNetConfig {
    /// Parses a `config.json`; `file` stands for it in errors.
    ///
    /// # Errors
    /// [`Error::BadFile`] where it is no such config, [`Error::Unsupported`] where it asks for what is not built here.
    pub fn parse(json: &str, file: &str) -> Result<Self> {
        let config = Self { file: file.into(), ..parse(json, file, &FIXED)? };
        config.plan()?;
        config.activation()?;
        if let Some(embed_type) = config.addition_embed_type.as_deref()
            && embed_type != "text_time"
        {
            return Err(unsupported(file, "addition_embed_type", embed_type, "only null and text_time are"));
        }
        Ok(config)
    }

    /// The height and width in latent pixels of the pictures that the network was trained on.
    pub fn sample_size(&self) -> Option<(usize, usize)> {
        match self.sample_size.as_ref()? {
            PerBlock::All(side) => Some((*side, *side)),
            PerBlock::Each(sides) => Some((*sides.first()?, *sides.get(1)?)),
        }
    }

    /// The width of the text encoder's hidden states that the network attends to.
    pub fn context_width(&self) -> usize {
        match &self.cross_attention_dim {
            PerBlock::All(dim) => *dim,
            PerBlock::Each(dims) => dims.first().copied().unwrap_or(0),
        }
    }

    pub(super) fn activation(&self) -> Result<Activation> {
        diffusers_activation(&self.act_fn, "act_fn", &self.file)
    }

    pub(super) fn time_embed_dim(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0])
    }

    pub(super) fn plan(&self) -> Result<Plan> {
        let file = &self.file;
        let n = self.down_block_types.len();
        if n == 0 || self.up_block_types.len() != n || self.block_out_channels.len() != n {
            let reason = format!(
                "down_block_types has {n} blocks, up_block_types {}, block_out_channels {}",
                self.up_block_types.len(),
                self.block_out_channels.len()
            );
            return Err(bad(file, reason));
        }
        let key_values = [("in_channels", self.in_channels), ("out_channels", self.out_channels)];
        if let Some((key, _)) = key_values
            .into_iter()
            .chain(self.block_out_channels.iter().map(|&c| ("block_out_channels", c)))
            .find(|&(_, c)| c == 0)
        {
            return Err(bad(file, format!("{key} is 0")));
        }
        for (key, kernel) in [("conv_in_kernel", self.conv_in_kernel), ("conv_out_kernel", self.conv_out_kernel)] {
            if kernel % 2 == 0 {
                return Err(unsupported(file, key, &kernel, "only odd sizes are"));
            }
        }
        if self.downsample_padding > 1 {
            return Err(unsupported(file, "downsample_padding", &self.downsample_padding, "only 0 and 1 are"));
        }
        let layers = self.layers_per_block.expand("layers_per_block", n, file)?;
        let heads = self.attention_head_dim.expand("attention_head_dim", n, file)?;
        let dims = self.cross_attention_dim.expand("cross_attention_dim", n, file)?;
        let only = self.only_cross_attention.expand("only_cross_attention", n, file)?;
        let transformer_layers = self.transformer_layers_per_block.expand("transformer_layers_per_block", n, file)?;
        if dims.iter().any(|&dim| dim != dims[0]) {
            return Err(unsupported(
                file,
                "cross_attention_dim",
                &format!("{dims:?}"),
                "only one width for all blocks is",
            ));
        }
        let block = |i: usize, resnets: usize, transformer_layers: Option<Vec<usize>>| BlockConfig {
            channels: self.block_out_channels[i],
            transformer_layers,
            resnets,
            heads: heads[i],
            cross_attention_dim: dims[i],
            only_cross_attention: only[i],
        };
        let mut down = Vec::new();
        for (i, name) in self.down_block_types.iter().enumerate() {
            let attends = match name.as_str() {
                "CrossAttnDownBlock2D" => true,
                "DownBlock2D" => false,
                _ => {
                    return Err(unsupported(
                        file,
                        "down_block_types",
                        name,
                        "only CrossAttnDownBlock2D and DownBlock2D are",
                    ));
                }
            };
            let each = attends
                .then(|| transformer_layers[i].expand("transformer_layers_per_block", layers[i], file))
                .transpose()?;
            down.push(block(i, layers[i], each));
        }
        let last = n - 1;
        let mid = match self.mid_block_type.as_deref() {
            None => None,
            Some("UNetMidBlock2D") => Some(block(last, 1, None)),
            Some("UNetMidBlock2DCrossAttn") => {
                let count = match &transformer_layers[last] {
                    PerBlock::All(count) => *count,
                    PerBlock::Each(counts) => counts.first().copied().unwrap_or(0),
                };
                // Whatever only_cross_attention says, diffusers' middle block attends to itself first.
                Some(BlockConfig { only_cross_attention: false, ..block(last, 2, Some(vec![count])) })
            }
            Some(name) => {
                return Err(unsupported(
                    file,
                    "mid_block_type",
                    name,
                    "only UNetMidBlock2DCrossAttn, UNetMidBlock2D and null are",
                ));
            }
        };
        let up_transformer_layers = match &self.reverse_transformer_layers_per_block {
            Some(reverse) => PerBlock::Each(reverse.clone()).expand("reverse_transformer_layers_per_block", n, file)?,
            None if transformer_layers.iter().any(|each| matches!(each, PerBlock::Each(_))) => {
                return Err(bad(
                    file,
                    "transformer_layers_per_block is nested, so reverse_transformer_layers_per_block must be given",
                ));
            }
            None => transformer_layers.into_iter().rev().collect(),
        };
        let mut up = Vec::new();
        for (i, name) in self.up_block_types.iter().enumerate() {
            let attends = match name.as_str() {
                "CrossAttnUpBlock2D" => true,
                "UpBlock2D" => false,
                _ => {
                    return Err(unsupported(file, "up_block_types", name, "only CrossAttnUpBlock2D and UpBlock2D are"));
                }
            };
            let resnets = layers[last - i] + 1;
            let each = attends
                .then(|| up_transformer_layers[i].expand("reverse_transformer_layers_per_block", resnets, file))
                .transpose()?;
            up.push(block(last - i, resnets, each));
        }
        Ok(Plan { down, mid, up })
    }

    /// The width of the vector that size and pooled text make together, and that of each number in it.
    pub(super) fn text_time(&self) -> Result<Option<(usize, usize)>> {
        if self.addition_embed_type.is_none() {
            return Ok(None);
        }
        match (self.projection_class_embeddings_input_dim, self.addition_time_embed_dim) {
            (Some(input), Some(each)) => Ok(Some((input, each))),
            _ => {
                let reason = "addition_embed_type text_time needs projection_class_embeddings_input_dim and addition_time_embed_dim";
                Err(Error::BadFile { path: (&self.file).into(), reason: reason.into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Plan {
        UNetConfig::parse(json, "unet/config.json").unwrap().plan().unwrap()
    }

    fn error(json: &str) -> String {
        UNetConfig::parse(json, "unet/config.json").unwrap_err().to_string()
    }

    #[test]
    fn absent_keys_have_the_defaults_of_the_class() {
        let config = UNetConfig::parse("{}", "unet/config.json").unwrap();
        assert_eq!((config.sample_size(), config.context_width(), config.time_embed_dim()), (None, 1280, 1280));
        let plan = config.plan().unwrap();
        assert_eq!(plan.down.iter().map(|b| b.channels).collect::<Vec<_>>(), [320, 640, 1280, 1280]);
        assert_eq!(
            plan.down.iter().map(|b| b.transformer_layers.is_some()).collect::<Vec<_>>(),
            [true, true, true, false]
        );
        assert_eq!(plan.up.iter().map(|b| b.resnets).collect::<Vec<_>>(), [3; 4]);
        assert_eq!(plan.mid.unwrap().transformer_layers, Some(vec![1]));
    }

    /// The keys of <https://huggingface.co/segmind/SSD-1B/blob/main/unet/config.json>.
    #[test]
    fn nested_transformer_layers_follow_the_blocks() {
        let plan = plan(
            r#"{"block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "mid_block_type": "UNetMidBlock2D",
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, [2, 2], [4, 4]], "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1]}"#,
        );
        let layers = |blocks: &[BlockConfig]| blocks.iter().map(|b| b.transformer_layers.clone()).collect::<Vec<_>>();
        assert_eq!(layers(&plan.down), [None, Some(vec![2, 2]), Some(vec![4, 4])]);
        assert_eq!(layers(&plan.up), [Some(vec![4, 4, 10]), Some(vec![2, 1, 1]), None]);
        assert_eq!(plan.up.iter().map(|b| b.heads).collect::<Vec<_>>(), [20, 10, 5]);
        let mid = plan.mid.unwrap();
        assert_eq!((mid.resnets, mid.transformer_layers), (1, None));
    }

    #[test]
    fn what_changes_the_network_and_is_not_built_is_refused_by_name() {
        for (json, expected) in [
            (r#"{"class_embed_type": "projection"}"#, "class_embed_type = \"projection\" is not supported"),
            (r#"{"num_class_embeds": 1000}"#, "num_class_embeds = 1000 is not supported"),
            (r#"{"addition_embed_type": "image"}"#, "addition_embed_type = image is not supported"),
            (
                r#"{"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}"#,
                "mid_block_type = UNetMidBlock2DSimpleCrossAttn is not supported",
            ),
            (r#"{"act_fn": "mish"}"#, "act_fn = mish is not supported"),
            (
                r#"{"resnet_time_scale_shift": "scale_shift"}"#,
                "resnet_time_scale_shift = \"scale_shift\" is not supported",
            ),
            (r#"{"_class_name": "UNet2DModel"}"#, "_class_name = \"UNet2DModel\" is not supported"),
            (
                r#"{"block_out_channels": [320, 640]}"#,
                "down_block_types has 4 blocks, up_block_types 4, block_out_channels 2",
            ),
            (r#"{"block_out_channels": [320, 640, 0, 1280]}"#, "block_out_channels is 0"),
            (r#"{"conv_in_kernel": 4}"#, "conv_in_kernel = 4 is not supported"),
            (
                r#"{"transformer_layers_per_block": [1, [1, 2], 1, 1]}"#,
                "reverse_transformer_layers_per_block must be given",
            ),
        ] {
            let error = error(json);
            assert!(error.starts_with("unet/config.json: ") && error.contains(expected), "{error}");
        }
    }
}
