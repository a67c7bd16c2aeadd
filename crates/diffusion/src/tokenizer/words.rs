//! From a text to its words, as transformers' normalizer and splitter do.

use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

/// The special tokens' own text stands first: it is a word of its own where it was not taken out before, in capitals for example.
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";
    Regex::new(pattern).expect("the pattern is well formed")
});

/// Composes, makes one space of any run of whitespace, and lowers every character by itself (so that a last sigma is as any other).
pub(super) fn normalize(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let mut space = false;
    for c in text.nfc() {
        if c.is_whitespace() {
            if !space {
                normal.push(' ');
            }
            space = true;
        } else {
            normal.extend(c.to_lowercase());
            space = false;
        }
    }
    normal
}

/// Calls `each` with every word of a normalized text.
pub(super) fn split(text: &str, mut each: impl FnMut(&str)) {
    for word in WORDS.find_iter(text) {
        let word = word.as_str();
        match word.strip_prefix("<|").and_then(|rest| rest.strip_suffix("|>")) {
            // The byte-level step behind the splitter has a pattern of its own, which knows no special tokens.
            Some(inner @ ("startoftext" | "endoftext")) => {
                ["<|", inner, "|>"].into_iter().for_each(&mut each);
            }
            _ => each(word),
        }
    }
}
