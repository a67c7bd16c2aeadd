//! The vocabulary that OpenAI published with CLIP, built in: <https://github.com/openai/CLIP>, copyright (c) 2021 OpenAI, MIT licence.

use std::collections::HashMap;

use crate::tokenizer::added::{AddedToken, AddedTokens};
use crate::tokenizer::bpe::{Bpe, END_OF_WORD, byte_chars, bytes_in_order};
use crate::tokenizer::{ClipTokenizer, SpecialIds, words};

/// The two tokens of each merge as little-endian 16-bit numbers, in the order of their ranks: merge `i` makes the token `512 + i`. Made by
/// `tools/reference/clip_merges.py`.
static MERGES: &[u8] = include_bytes!("clip_merges.bin");

const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

pub(super) fn tokenizer(pad: &str) -> ClipTokenizer {
    let first = 512 + merges().count() as u32;
    let mut bpe = Bpe { inner: [None; 256], last: [None; 256], merges: HashMap::new(), unknown: Some(first + 1) };
    for (token, byte) in (0..).zip(bytes_in_order()) {
        bpe.inner[usize::from(byte)] = Some(token);
        bpe.last[usize::from(byte)] = Some(256 + token);
    }
    bpe.merges = (0..).zip(merges()).map(|(rank, pair)| (pair, (rank, 512 + rank))).collect();
    let special = |content: &str, id| {
        (
            AddedToken {
                content: content.to_owned(),
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
            },
            id,
        )
    };
    let mut tokens = vec![special(BOS, first), special(EOS, first + 1)];
    let pad = match pad {
        EOS => first + 1,
        "!" => {
            tokens.push(special("!", 0));
            0
        }
        other => panic!("CLIP's text encoders pad with {EOS} or !, not with {other}"),
    };
    let added = AddedTokens::new(tokens, words::normalize).expect("three tokens make a pattern");
    ClipTokenizer {
        bpe,
        added,
        special: SpecialIds { bos: first, eos: first + 1, pad },
        vocab_size: first as usize + 2,
    }
}

/// CLIP's vocabulary as the texts of `vocab.json` and `merges.txt`.
pub fn clip_files() -> (String, String) {
    let chars = byte_chars();
    let mut vocab: Vec<String> =
        bytes_in_order().into_iter().map(|byte| chars[usize::from(byte)].to_string()).collect();
    vocab.extend_from_within(..);
    vocab[256..].iter_mut().for_each(|token| token.push_str(END_OF_WORD));
    let mut lines = "#version: 0.2\n".to_owned();
    for (a, b) in merges() {
        let (a, b) = (&vocab[a as usize], &vocab[b as usize]);
        lines.push_str(&format!("{a} {b}\n"));
        vocab.push(format!("{a}{b}"));
    }
    vocab.extend([BOS.to_owned(), EOS.to_owned()]);
    let entries: serde_json::Map<String, serde_json::Value> = vocab.into_iter().zip((0u32..).map(Into::into)).collect();
    (serde_json::Value::from(entries).to_string(), lines)
}

fn merges() -> impl Iterator<Item = (u32, u32)> {
    let (pairs, _) = MERGES.as_chunks::<4>();
    pairs.iter().map(|&[a, b, c, d]| (u16::from_le_bytes([a, b]).into(), u16::from_le_bytes([c, d]).into()))
}
