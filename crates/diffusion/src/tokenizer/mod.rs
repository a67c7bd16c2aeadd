//! CLIP's tokenizer: byte-level byte pair encoding of lower-cased words, with a mark on each word's last part.
//!
//! Token by token what transformers 5 makes of the same files: special tokens first, wherever they stand in the text (with `!` as padding,
//! as Stable Diffusion 2 has it, every `!` is such a token); then Unicode's composed form, one space for any whitespace, lower case; then
//! words; then merges in the order of their ranks.
//! <https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/tokenization_clip.py>

mod added;
mod bpe;
mod clip;
mod files;
#[cfg(test)]
mod tests;
mod words;

use std::path::Path;

use crate::Result;
use added::AddedTokens;
use bpe::Bpe;

pub use clip::clip_files;
pub use files::Files;

/// Tokens of one encoder pass: 75 of the text, one to begin and one to end.
pub const CHUNK: usize = 77;

/// Turns a prompt into the numbers that a text encoder was trained on.
#[derive(Debug)]
pub struct ClipTokenizer {
    bpe: Bpe,
    added: AddedTokens,
    special: SpecialIds,
    vocab_size: usize,
}

#[derive(Clone, Copy, Debug)]
struct SpecialIds {
    bos: u32,
    eos: u32,
    pad: u32,
}

impl ClipTokenizer {
    /// Reads a `tokenizer` folder: `vocab.json` and `merges.txt`, or else `tokenizer.json`; and `tokenizer_config.json`,
    /// `special_tokens_map.json` and `added_tokens.json` where they are.
    ///
    /// # Errors
    /// Where a file is missing or is not what it should be.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::from_files(&Files::read(folder)?)
    }

    /// The same from texts, as for a model inside the program.
    ///
    /// # Errors
    /// As [`ClipTokenizer::open`].
    pub fn from_files(files: &Files) -> Result<Self> {
        files.tokenizer()
    }

    /// The vocabulary that OpenAI published with CLIP, for checkpoints that come without one; `pad` is `<|endoftext|>` for the first
    /// text encoder of Stable Diffusion and `!` for OpenCLIP's.
    ///
    /// # Panics
    /// Where `pad` is not one of these two.
    pub fn clip(pad: &str) -> Self {
        clip::tokenizer(pad)
    }

    /// The tokens of a text, without those that begin, end and pad it. Takes time in proportion to the text's length, nearly.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.added.split(text, words::normalize, &mut |part| match part {
            added::Part::Token(id) => ids.push(id),
            added::Part::Text(text) => {
                words::split(text, |word| self.bpe.encode(word.as_bytes(), &mut ids));
            }
        });
        ids
    }

    /// How many rows [`ClipTokenizer::chunks`] needs for a text: one for each 75 tokens, and one for an empty text.
    pub fn chunk_count(&self, text: &str) -> usize {
        self.encode(text).len().div_ceil(CHUNK - 2).max(1)
    }

    /// The rows for a text encoder: each begins, has up to 75 tokens of the text, ends, and is padded. There are `count` rows, or more where
    /// the text needs more; those behind the text's end are rows of an empty text.
    pub fn chunks(&self, text: &str, count: usize) -> Vec<[u32; CHUNK]> {
        let ids = self.encode(text);
        let rows = ids.len().div_ceil(CHUNK - 2).max(count).max(1);
        let row = |index: usize| {
            let start = (index * (CHUNK - 2)).min(ids.len());
            let part = &ids[start..ids.len().min(start + CHUNK - 2)];
            let mut row = [self.special.pad; CHUNK];
            row[0] = self.special.bos;
            row[1..=part.len()].copy_from_slice(part);
            row[part.len() + 1] = self.special.eos;
            row
        };
        (0..rows).map(row).collect()
    }

    /// The token that begins a row.
    pub fn bos_id(&self) -> u32 {
        self.special.bos
    }

    /// The token that ends a row.
    pub fn eos_id(&self) -> u32 {
        self.special.eos
    }

    /// The token that fills a row.
    pub fn pad_id(&self) -> u32 {
        self.special.pad
    }

    /// One more than the highest token, the least number of rows that a text encoder's embedding must have.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}
