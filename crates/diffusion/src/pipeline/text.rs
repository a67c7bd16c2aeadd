//! Prompts to hidden states: chunks of 75 tokens, one or two CLIP encoders, and a cache of what was encoded.

use std::sync::Arc;

use super::part::Part;
use crate::Result;
use crate::models::ClipTextModel;
use crate::tokenizer::ClipTokenizer;

/// Prompts that are remembered. An entry of SDXL with one chunk takes 0.6 MB.
const REMEMBERED: usize = 32;

/// What the U-Net is told of one text.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Hidden states (77 · chunks, width), row-major; the encoders' side by side.
    pub hidden_states: Vec<f32>,
    /// The last encoder's projected vector of the first chunk (SDXL), else empty.
    pub pooled: Vec<f32>,
}

impl Encoded {
    /// What SDXL sees in place of a negative prompt that was not given (`force_zeros_for_empty_prompt`).
    pub(super) fn zeros_like(other: &Self) -> Self {
        Self { hidden_states: vec![0.0; other.hidden_states.len()], pooled: vec![0.0; other.pooled.len()] }
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    text: String,
    chunks: usize,
    clip_skip: Option<usize>,
}

/// One tokenizer and its text encoder.
pub(super) struct Encoder {
    pub tokenizer: ClipTokenizer,
    pub model: Part<ClipTextModel>,
    /// Number of transformer layers.
    pub layers: usize,
}

/// The model's text encoders in order, with the texts that they encoded last.
pub(super) struct PromptEncoder {
    encoders: Vec<Encoder>,
    /// SDXL reads the penultimate layer and a pooled vector.
    xl: bool,
    recent: Vec<(Key, Arc<Encoded>)>,
}

impl PromptEncoder {
    pub(super) fn new(encoders: Vec<Encoder>, xl: bool) -> Self {
        Self { encoders, xl, recent: Vec::new() }
    }

    /// The greatest `clip_skip` that every encoder has a layer for.
    pub(super) fn deepest_skip(&self) -> usize {
        let layers = self.encoders.iter().map(|encoder| encoder.layers).min().unwrap_or(0);
        layers.saturating_sub(usize::from(self.xl))
    }

    pub(super) fn load(&mut self) -> Result<()> {
        for encoder in &mut self.encoders {
            encoder.model.get()?;
        }
        Ok(())
    }

    /// Chunks of 75 tokens that a text takes, at least one.
    pub(super) fn chunks(&self, text: &str) -> usize {
        self.encoders.first().map_or(1, |first| first.tokenizer.chunk_count(text))
    }

    /// Encodes `text` in `chunks` chunks. `clip_skip` as diffusers counts it: 1 is the penultimate layer, for SDXL one more.
    pub(super) fn encode(&mut self, text: &str, chunks: usize, clip_skip: Option<usize>) -> Result<Arc<Encoded>> {
        let key = Key { text: text.to_owned(), chunks, clip_skip };
        if let Some(at) = self.recent.iter().position(|(known, _)| *known == key) {
            let hit = self.recent.remove(at);
            let encoded = hit.1.clone();
            self.recent.push(hit);
            return Ok(encoded);
        }
        let encoded = Arc::new(self.encode_fresh(&key)?);
        if self.recent.len() == REMEMBERED {
            self.recent.remove(0);
        }
        self.recent.push((key, encoded.clone()));
        Ok(encoded)
    }

    fn encode_fresh(&mut self, key: &Key) -> Result<Encoded> {
        // How deep is possible was checked with the rest of the request.
        let skip = key.clip_skip.unwrap_or(0);
        let rows = 77 * key.chunks;
        let mut parts: Vec<(usize, Vec<f32>)> = Vec::new();
        let mut pooled = Vec::new();
        for encoder in &mut self.encoders {
            let chunks = encoder.tokenizer.chunks(&key.text, key.chunks);
            let model = encoder.model.get()?;
            let output = model.forward(&chunks.concat(), chunks.len())?;
            let hidden = if self.xl {
                output.hidden_state_from_end(2 + skip)?.to_host()?
            } else if skip > 0 {
                model.final_layer_norm(output.hidden_state_from_end(1 + skip)?)?.to_host()?
            } else {
                output.last_hidden_state.to_host()?
            };
            if self.xl {
                pooled = output.pooled.to_host()?;
                pooled.truncate(pooled.len() / key.chunks);
            }
            parts.push((model.config().hidden_size, hidden));
            encoder.model.release();
        }
        let width: usize = parts.iter().map(|(width, _)| width).sum();
        let mut hidden_states = Vec::with_capacity(rows * width);
        for row in 0..rows {
            for (width, part) in &parts {
                hidden_states.extend_from_slice(&part[row * width..(row + 1) * width]);
            }
        }
        Ok(Encoded { hidden_states, pooled })
    }
}
