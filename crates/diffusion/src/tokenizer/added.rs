//! Tokens that are found in the text itself, before it is split into words.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

static WORD_CHAR: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\w$").expect("the pattern is well formed"));

/// Such a token, with the flags of its entry in a tokenizer's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) content: String,
    /// Not where a letter or digit stands beside it.
    pub(super) single_word: bool,
    /// Takes the whitespace on its left with it.
    pub(super) lstrip: bool,
    /// Takes the whitespace on its right with it.
    pub(super) rstrip: bool,
    /// Looked for in the normalized text, not in the text as it is.
    pub(super) normalized: bool,
}

/// What [`AddedTokens::split`] finds, in order.
pub(super) enum Part<'a> {
    Token(u32),
    /// Normalized text between such tokens.
    Text(&'a str),
}

#[derive(Debug)]
pub(super) struct AddedTokens {
    raw: Finder,
    normal: Finder,
}

/// Finds the leftmost and longest of several texts.
#[derive(Debug, Default)]
struct Finder {
    pattern: Option<Regex>,
    tokens: HashMap<String, (AddedToken, u32)>,
}

impl AddedTokens {
    /// Fails only where there are so many tokens that no pattern of them can be made.
    pub(super) fn new(tokens: Vec<(AddedToken, u32)>, normalize: impl Fn(&str) -> String) -> Result<Self, String> {
        let (normal, raw): (Vec<_>, Vec<_>) =
            tokens.into_iter().filter(|(token, _)| !token.content.is_empty()).partition(|(token, _)| token.normalized);
        let normal = normal.into_iter().map(|(token, id)| (normalize(&token.content), (token, id))).collect();
        let raw = raw.into_iter().map(|(token, id)| (token.content.clone(), (token, id))).collect();
        Ok(Self { raw: Finder::new(raw)?, normal: Finder::new(normal)? })
    }

    /// Takes the text apart into tokens and normalized text between them.
    pub(super) fn split(&self, text: &str, normalize: impl Fn(&str) -> String, each: &mut dyn FnMut(Part)) {
        self.raw.split(text, &mut |part| match part {
            Part::Token(id) => each(Part::Token(id)),
            Part::Text(text) => self.normal.split(&normalize(text), each),
        });
    }
}

impl Finder {
    fn new(tokens: HashMap<String, (AddedToken, u32)>) -> Result<Self, String> {
        let mut contents: Vec<&String> = tokens.keys().filter(|content| !content.is_empty()).collect();
        if contents.is_empty() {
            return Ok(Self::default());
        }
        // The alternatives of a pattern are tried in order, so the longest stands first.
        contents.sort_by_key(|content| (std::cmp::Reverse(content.len()), *content));
        let escaped: Vec<String> = contents.iter().map(|content| regex::escape(content)).collect();
        let pattern = Regex::new(&escaped.join("|")).map_err(|error| error.to_string())?;
        Ok(Self { pattern: Some(pattern), tokens })
    }

    fn split(&self, text: &str, each: &mut dyn FnMut(Part)) {
        let mut done = 0;
        let matches = self.pattern.iter().flat_map(|pattern| pattern.find_iter(text));
        for found in matches {
            let (token, id) = &self.tokens[found.as_str()];
            let (mut start, mut end) = (found.start(), found.end());
            if token.single_word
                && (text[..start].chars().next_back().is_some_and(in_word)
                    || text[end..].chars().next().is_some_and(in_word))
            {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                each(Part::Text(&text[done..start]));
            }
            each(Part::Token(*id));
            done = end;
        }
        if done < text.len() {
            each(Part::Text(&text[done..]));
        }
    }
}

fn in_word(c: char) -> bool {
    WORD_CHAR.is_match(c.encode_utf8(&mut [0; 4]))
}
