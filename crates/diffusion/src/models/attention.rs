//! Attention and the transformer blocks of the U-Net; diffusers' `Attention`, `BasicTransformerBlock` and
//! `Transformer2DModel`.

use crate::ops::{self, Activation, Device, Epilogue, GroupNorm, LayerNorm, Linear, Tensor};
use crate::weights::Weights;
use crate::{Error, Result};

/// The keys and values that one attention layer makes of what it attends to.
#[derive(Debug, Clone)]
pub(super) struct KeyValues {
    keys: Tensor,
    values: Tensor,
}

/// Multi-head attention with its projections.
#[derive(Debug)]
pub(super) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

/// What the transformers of one block have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct TransformerConfig {
    pub(super) heads: usize,
    pub(super) cross_attention_dim: usize,
    /// The first attention looks at the text too.
    pub(super) only_cross_attention: bool,
    pub(super) use_linear_projection: bool,
    pub(super) groups: usize,
}

/// Self-attention, attention to the text and a gated feed-forward layer.
#[derive(Debug)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    only_cross_attention: bool,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_proj: Linear,
    ff_out: Linear,
}

/// Transformer blocks over the pixels of a feature map.
#[derive(Debug)]
pub(super) struct Transformer2DModel {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Linear,
}

impl Attention {
    /// `bias`: whether the projections to queries, keys and values have one. That to the output always has.
    pub(super) fn load(
        weights: &Weights,
        dim: usize,
        context_dim: usize,
        heads: usize,
        bias: bool,
        device: &Device,
    ) -> Result<Self> {
        if heads == 0 || !dim.is_multiple_of(heads) {
            let reason = format!("{}: {dim} channels do not divide into {heads} attention heads", weights.path("to_q"));
            return Err(Error::BadFile { path: weights.label().into(), reason });
        }
        let load = if bias { Linear::load } else { Linear::load_without_bias };
        Ok(Self {
            to_q: load(&weights.pp("to_q"), dim, dim, device)?,
            to_k: load(&weights.pp("to_k"), context_dim, dim, device)?,
            to_v: load(&weights.pp("to_v"), context_dim, dim, device)?,
            to_out: Linear::load(&weights.pp("to_out").pp(0), dim, dim, device)?,
            heads,
        })
    }

    /// What this layer makes of `context (n, s, context_dim)`.
    pub(super) fn key_values(&self, context: &Tensor) -> Result<KeyValues> {
        Ok(KeyValues { keys: self.to_k.forward(context)?, values: self.to_v.forward(context)? })
    }

    /// `residual` plus attention of `x (n, l, dim)` to what `to` was made of.
    pub(super) fn forward(&self, x: &Tensor, to: &KeyValues, residual: &Tensor) -> Result<Tensor> {
        let queries = self.to_q.forward(x)?;
        let attended = ops::attention(&queries, &to.keys, &to.values, self.heads, false)?;
        self.to_out.forward_with(&attended, Epilogue::residual(residual))
    }

    /// `residual` plus attention of `x` to itself.
    pub(super) fn forward_self(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.forward(x, &self.key_values(x)?, residual)
    }
}

impl BasicTransformerBlock {
    fn load(weights: &Weights, dim: usize, config: TransformerConfig, device: &Device) -> Result<Self> {
        let norm = |name| LayerNorm::load(&weights.pp(name), dim, 1e-5, device);
        let attention =
            |name, context_dim| Attention::load(&weights.pp(name), dim, context_dim, config.heads, false, device);
        let net = weights.pp("ff").pp("net");
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: attention("attn1", if config.only_cross_attention { config.cross_attention_dim } else { dim })?,
            only_cross_attention: config.only_cross_attention,
            norm2: norm("norm2")?,
            attn2: attention("attn2", config.cross_attention_dim)?,
            norm3: norm("norm3")?,
            ff_proj: Linear::load(&net.pp(0).pp("proj"), dim, 8 * dim, device)?,
            ff_out: Linear::load(&net.pp(2), 4 * dim, dim, device)?,
        })
    }

    /// The layers that attend to the text, in the order in which [`Self::forward`] takes their keys and values.
    fn cross_attentions(&self) -> impl Iterator<Item = &Attention> {
        self.only_cross_attention.then_some(&self.attn1).into_iter().chain([&self.attn2])
    }

    fn forward<'a>(&self, x: &Tensor, context: &mut impl Iterator<Item = &'a KeyValues>) -> Result<Tensor> {
        let mut next = || context.next().expect("a context has keys and values for every layer of its U-Net");
        let normed = self.norm1.forward(x)?;
        let x = if self.only_cross_attention {
            self.attn1.forward(&normed, next(), x)?
        } else {
            self.attn1.forward_self(&normed, x)?
        };
        let x = self.attn2.forward(&self.norm2.forward(&x)?, next(), &x)?;
        let hidden = self.ff_proj.forward_geglu(&self.norm3.forward(&x)?)?;
        self.ff_out.forward_with(&hidden, Epilogue::residual(&x))
    }
}

impl Transformer2DModel {
    pub(super) fn load(
        weights: &Weights,
        channels: usize,
        layers: usize,
        config: TransformerConfig,
        device: &Device,
    ) -> Result<Self> {
        // Over channels-last memory a 1 × 1 convolution is a linear layer; only the shape in the file differs.
        let proj = if config.use_linear_projection { Linear::load } else { Linear::load_conv1x1 };
        let blocks = weights.pp("transformer_blocks");
        Ok(Self {
            norm: GroupNorm::load(&weights.pp("norm"), config.groups, channels, 1e-6, device)?,
            proj_in: proj(&weights.pp("proj_in"), channels, channels, device)?,
            transformer_blocks: (0..layers)
                .map(|i| BasicTransformerBlock::load(&blocks.pp(i), channels, config, device))
                .collect::<Result<_>>()?,
            proj_out: proj(&weights.pp("proj_out"), channels, channels, device)?,
        })
    }

    /// The layers that attend to the text, in order.
    pub(super) fn cross_attentions(&self) -> impl Iterator<Item = &Attention> {
        self.transformer_blocks.iter().flat_map(BasicTransformerBlock::cross_attentions)
    }

    /// `context` gives the keys and values of [`Self::cross_attentions`], in that order.
    pub(super) fn forward<'a>(&self, x: &Tensor, context: &mut impl Iterator<Item = &'a KeyValues>) -> Result<Tensor> {
        let (_, _, h, w) = x.feature_map_shape();
        let mut tokens = self.proj_in.forward(&self.norm.forward(x, Activation::None)?.to_tokens()?)?;
        for block in &self.transformer_blocks {
            tokens = block.forward(&tokens, context)?;
        }
        self.proj_out.forward_with(&tokens, Epilogue::residual(&x.to_tokens()?))?.to_feature_map(h, w)
    }
}
