//! CLIP's text encoder (<https://arxiv.org/abs/2103.00020>); transformers' `CLIPTextModel` and
//! `CLIPTextModelWithProjection`.

use serde::Deserialize;

use crate::models::config::{Fixed, bad, parse, unsupported};
use crate::ops::{Activation, Device, Embedding, Epilogue, LayerNorm, Linear, Tensor, attention};
use crate::weights::Weights;
use crate::{Error, Result};

/// The config of transformers' `CLIPTextConfig`, with its defaults:
/// <https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/configuration_clip.py>.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of transformers and explained there")]
pub struct ClipTextConfig {
    /// `CLIPTextModelWithProjection` has a `text_projection`.
    pub architectures: Vec<String>,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub projection_dim: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: String,
    pub layer_norm_eps: f64,
    pub eos_token_id: u32,
}

/// A text encoder.
#[derive(Debug)]
pub struct ClipTextModel {
    config: ClipTextConfig,
    device: Device,
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
}

/// What a text encoder makes of token ids.
#[derive(Debug, Clone)]
pub struct ClipOutput {
    /// The embeddings and the output of each layer, without the final norm: `num_hidden_layers + 1` times
    /// `(n, l, hidden_size)`.
    pub hidden_states: Vec<Tensor>,
    /// The last of them after the final norm.
    pub last_hidden_state: Tensor,
    /// Its row at the end of the text, `(n, hidden_size)`; where there is a projection, projected, `(n, projection_dim)`.
    pub pooled: Tensor,
}

#[derive(Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
    layer_norm2: LayerNorm,
    fc1: Linear,
    act: Activation,
    fc2: Linear,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            architectures: Vec::new(),
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    /// Parses a `config.json`; `file` stands for it in errors.
    ///
    /// # Errors
    /// [`Error::BadFile`] where it is no such config, [`Error::Unsupported`] where it asks for what is not built here.
    pub fn parse(json: &str, file: &str) -> Result<Self> {
        let config: Self = parse(json, file, &[Fixed { key: "model_type", values: &["\"clip_text_model\""] }])?;
        config.activation(file)?;
        let known = ["CLIPTextModel", "CLIPTextModelWithProjection"];
        if let Some(other) = config.architectures.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(unsupported(
                file,
                "architectures",
                other,
                "only CLIPTextModel and CLIPTextModelWithProjection are",
            ));
        }
        let (size, heads) = (config.hidden_size, config.num_attention_heads);
        if heads == 0 || size == 0 || !size.is_multiple_of(heads) {
            return Err(bad(file, format!("hidden_size {size} does not divide into {heads} num_attention_heads")));
        }
        Ok(config)
    }

    /// Whether the pooled output is projected.
    pub fn has_projection(&self) -> bool {
        self.architectures.iter().any(|name| name == "CLIPTextModelWithProjection")
    }

    fn activation(&self, file: &str) -> Result<Activation> {
        match self.hidden_act.as_str() {
            "quick_gelu" => Ok(Activation::QuickGelu),
            "gelu" | "gelu_python" | "gelu_erf" => Ok(Activation::Gelu),
            "silu" | "swish" => Ok(Activation::Silu),
            "relu" => Ok(Activation::Relu),
            other => Err(unsupported(file, "hidden_act", other, "only quick_gelu, gelu, silu and relu are")),
        }
    }
}

impl ClipTextModel {
    /// Reads the weights, with or without `text_model.` before their names.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::TensorShape`], or what the device says.
    pub fn load(config: &ClipTextConfig, weights: &Weights, device: &Device) -> Result<Self> {
        device.install(|| {
            let text_model = weights.pp("text_model");
            let embeddings = text_model.pp("embeddings");
            let size = config.hidden_size;
            let layers = text_model.pp("encoder").pp("layers");
            Ok(Self {
                config: config.clone(),
                device: device.clone(),
                token_embedding: Embedding::load(&embeddings.pp("token_embedding"), config.vocab_size, size)?,
                position_embedding: Embedding::load(
                    &embeddings.pp("position_embedding"),
                    config.max_position_embeddings,
                    size,
                )?,
                layers: (0..config.num_hidden_layers)
                    .map(|i| EncoderLayer::load(&layers.pp(i), config, weights.label(), device))
                    .collect::<Result<_>>()?,
                final_layer_norm: LayerNorm::load(
                    &text_model.pp("final_layer_norm"),
                    size,
                    config.layer_norm_eps,
                    device,
                )?,
                text_projection: config
                    .has_projection()
                    .then(|| {
                        Linear::load_without_bias(&weights.pp("text_projection"), size, config.projection_dim, device)
                    })
                    .transpose()?,
            })
        })
    }

    /// The config that it was made of.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Encodes `batch` rows of token ids of equal length, one after the other in `ids`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an id outside the vocabulary or rows that are too long, or what the device says.
    pub fn forward(&self, ids: &[u32], batch: usize) -> Result<ClipOutput> {
        let length = ids.len().checked_div(batch).unwrap_or(0);
        if length == 0 || ids.len() != batch * length || length > self.config.max_position_embeddings {
            let reason = format!(
                "has {} token ids in {batch} rows; a row has 1 to {}",
                ids.len(),
                self.config.max_position_embeddings
            );
            return Err(Error::InvalidArgument { field: "prompt", reason });
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            let size = self.config.vocab_size;
            let reason = format!(
                "has token {id}, but the text encoder's vocabulary has {size}: the tokenizer is of another model"
            );
            return Err(Error::InvalidArgument { field: "prompt", reason });
        }
        self.device.install(|| {
            let mut hidden_states = vec![self.embed(ids, batch, length)?];
            for layer in &self.layers {
                let x = layer.forward(&hidden_states[hidden_states.len() - 1])?;
                hidden_states.push(x);
            }
            let last_hidden_state = self.final_layer_norm.forward(&hidden_states[hidden_states.len() - 1])?;
            let ends: Vec<usize> = ids.chunks(length).map(|row| self.end_of_text(row)).collect();
            let mut pooled = last_hidden_state.select_tokens(&ends)?;
            if let Some(text_projection) = &self.text_projection {
                pooled = text_projection.forward(&pooled)?;
            }
            Ok(ClipOutput { hidden_states, last_hidden_state, pooled })
        })
    }

    /// The final norm of any hidden state, for prompts that skip the last layers.
    ///
    /// # Errors
    /// What the device says.
    pub fn final_layer_norm(&self, hidden_state: &Tensor) -> Result<Tensor> {
        self.device.install(|| self.final_layer_norm.forward(hidden_state))
    }

    fn embed(&self, ids: &[u32], batch: usize, length: usize) -> Result<Tensor> {
        let size = self.config.hidden_size;
        let mut rows = vec![0.0; ids.len() * size];
        for (i, (row, &id)) in rows.chunks_mut(size).zip(ids).enumerate() {
            self.token_embedding.add_row(id as usize, row)?;
            self.position_embedding.add_row(i % length, row)?;
        }
        Tensor::from_host(&self.device, &rows, &[batch, length, size])
    }

    /// Where the pooled vector is taken: the first end token; but configs from before
    /// <https://github.com/huggingface/transformers/pull/24773> say 2, and mean the greatest id.
    fn end_of_text(&self, row: &[u32]) -> usize {
        let end =
            if self.config.eos_token_id == 2 { row.iter().copied().max() } else { Some(self.config.eos_token_id) };
        row.iter().position(|&id| Some(id) == end).unwrap_or(0)
    }
}

impl ClipOutput {
    /// transformers' `hidden_states[-k]`: 1 is the last layer's output.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where there are not so many.
    pub fn hidden_state_from_end(&self, k: usize) -> Result<&Tensor> {
        let index = self.hidden_states.len().checked_sub(k).filter(|_| k > 0);
        index.and_then(|index| self.hidden_states.get(index)).ok_or_else(|| Error::InvalidArgument {
            field: "clip_skip",
            reason: format!(
                "asks for layer {k} from the end, but the text encoder has {}",
                self.hidden_states.len() - 1
            ),
        })
    }
}

impl EncoderLayer {
    fn load(weights: &Weights, config: &ClipTextConfig, file: &str, device: &Device) -> Result<Self> {
        let (size, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name| LayerNorm::load(&weights.pp(name), size, config.layer_norm_eps, device);
        let self_attn = |name| Linear::load(&weights.pp("self_attn").pp(name), size, size, device);
        Ok(Self {
            layer_norm1: norm("layer_norm1")?,
            q_proj: self_attn("q_proj")?,
            k_proj: self_attn("k_proj")?,
            v_proj: self_attn("v_proj")?,
            out_proj: self_attn("out_proj")?,
            heads: config.num_attention_heads,
            layer_norm2: norm("layer_norm2")?,
            fc1: Linear::load(&weights.pp("mlp").pp("fc1"), size, inner, device)?,
            act: config.activation(file)?,
            fc2: Linear::load(&weights.pp("mlp").pp("fc2"), inner, size, device)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.layer_norm1.forward(x)?;
        let (q, k, v) = (self.q_proj.forward(&normed)?, self.k_proj.forward(&normed)?, self.v_proj.forward(&normed)?);
        let x = self.out_proj.forward_with(&attention(&q, &k, &v, self.heads, true)?, Epilogue::residual(x))?;
        let hidden = self.fc1.forward_with(&self.layer_norm2.forward(&x)?, Epilogue::activation(self.act))?;
        self.fc2.forward_with(&hidden, Epilogue::residual(&x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        ClipTextConfig::parse(json, "text_encoder/config.json").unwrap_err().to_string()
    }

    #[test]
    fn configs_are_read_with_the_defaults_of_the_class() {
        let config =
            ClipTextConfig::parse(r#"{"architectures": ["CLIPTextModelWithProjection"], "dropout": 0.0}"#, "f")
                .unwrap();
        assert!(config.has_projection());
        assert_eq!((config.hidden_size, config.projection_dim, config.num_hidden_layers), (512, 512, 12));
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        assert_eq!(
            error(r#"{"hidden_act": "gelu_new"}"#),
            "text_encoder/config.json: hidden_act = gelu_new is not supported; only quick_gelu, gelu, silu and relu are"
        );
        assert!(error(r#"{"model_type": "t5"}"#).contains("model_type = \"t5\""));
        assert!(error(r#"{"architectures": ["CLIPModel"]}"#).contains("architectures = CLIPModel"));
        assert!(error(r#"{"hidden_size": 100, "num_attention_heads": 12}"#).contains("100 does not divide into 12"));
    }
}
