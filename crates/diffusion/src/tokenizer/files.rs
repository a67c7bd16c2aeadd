//! A tokenizer's files, in the forms that transformers has written them over the years.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::tokenizer::added::{AddedToken, AddedTokens};
use crate::tokenizer::bpe::{Bpe, END_OF_WORD, byte_chars};
use crate::tokenizer::{ClipTokenizer, SpecialIds, words};
use crate::{Error, Result};

/// CLIP's own files have 1.5 MB; more than this is something else.
const MAX_BYTES: u64 = 64 << 20;

/// The texts of a `tokenizer` folder. An absent file is `None`; either `vocab` and `merges` or `tokenizer` must be there.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// What errors call the folder.
    pub folder: PathBuf,
    /// `vocab.json`
    pub vocab: Option<String>,
    /// `merges.txt`
    pub merges: Option<String>,
    /// `tokenizer.json`
    pub tokenizer: Option<String>,
    /// `tokenizer_config.json`
    pub config: Option<String>,
    /// `special_tokens_map.json`
    pub special_tokens_map: Option<String>,
    /// `added_tokens.json`
    pub added_tokens: Option<String>,
}

impl Files {
    /// Reads what is in a folder.
    ///
    /// # Errors
    /// Where a file cannot be read, is no text or is too large.
    pub fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| -> Result<Option<String>> {
            let path = folder.join(name);
            let about = match std::fs::metadata(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                about => about,
            };
            let about = about.map_err(|source| Error::Io { path: path.clone(), source })?;
            if !about.is_file() || about.len() > MAX_BYTES {
                return Err(Error::BadFile {
                    path,
                    reason: format!("is not a tokenizer's file: {} bytes", about.len()),
                });
            }
            std::fs::read_to_string(&path).map(Some).map_err(|source| Error::Io { path, source })
        };
        Ok(Self {
            folder: folder.to_owned(),
            vocab: text("vocab.json")?,
            merges: text("merges.txt")?,
            tokenizer: text("tokenizer.json")?,
            config: text("tokenizer_config.json")?,
            special_tokens_map: text("special_tokens_map.json")?,
            added_tokens: text("added_tokens.json")?,
        })
    }

    pub(super) fn tokenizer(&self) -> Result<ClipTokenizer> {
        let whole: Option<Whole> = self.parse("tokenizer.json", self.tokenizer.as_deref())?;
        let (vocab, merges, source) = match (&self.vocab, &self.merges, &whole) {
            (Some(vocab), Some(merges), _) => {
                let vocab: HashMap<String, u32> = self.json("vocab.json", vocab)?;
                (vocab, self.merges(merges)?, "merges.txt")
            }
            (_, _, Some(whole)) => (whole.model.vocab.clone(), self.own_merges(&whole.model)?, "tokenizer.json"),
            (Some(_), None, None) => return Err(self.bad("merges.txt", "is missing".to_owned())),
            (None, _, None) => return Err(self.bad("vocab.json", "is missing".to_owned())),
        };
        let tokens = self.special_tokens(whole.as_ref())?;
        let id_of = |content: &str| vocab.get(content).copied();
        let bpe = self.bpe(&vocab, &merges, source, id_of(&tokens.unknown))?;

        let mut next = vocab.len() as u32;
        let mut ids: HashMap<&str, u32> = HashMap::new();
        for token in &tokens.added {
            ids.entry(&token.content).or_insert_with(|| {
                id_of(&token.content).unwrap_or_else(|| {
                    next += 1;
                    next - 1
                })
            });
        }
        let special = |key: &str, content: &String| {
            let known = id_of(content).is_some() || tokens.listed.contains(content);
            let id = ids.get(content.as_str()).filter(|_| known);
            id.copied().ok_or_else(|| self.bad("vocab.json", format!("has no token {content:?}, which is the {key}")))
        };
        let special = SpecialIds {
            bos: special("bos_token", &tokens.begin)?,
            eos: special("eos_token", &tokens.end)?,
            pad: special("pad_token", &tokens.pad)?,
        };
        let highest = vocab.values().chain(ids.values()).copied().max().unwrap_or(0);
        let added = tokens.added.iter().map(|token| (token.clone(), ids[token.content.as_str()])).collect();
        let added =
            AddedTokens::new(added, words::normalize).map_err(|reason| self.bad("tokenizer_config.json", reason))?;
        Ok(ClipTokenizer { bpe, added, special, vocab_size: highest as usize + 1 })
    }

    fn bpe(
        &self,
        vocab: &HashMap<String, u32>,
        merges: &[(String, String)],
        source: &str,
        unknown: Option<u32>,
    ) -> Result<Bpe> {
        let mut bpe =
            Bpe { inner: [None; 256], last: [None; 256], merges: HashMap::with_capacity(merges.len()), unknown };
        for (byte, c) in byte_chars().into_iter().enumerate() {
            bpe.inner[byte] = vocab.get(&c.to_string()).copied();
            bpe.last[byte] = vocab.get(&format!("{c}{END_OF_WORD}")).copied();
        }
        let id = |token: &str| {
            vocab
                .get(token)
                .copied()
                .ok_or_else(|| self.bad(source, format!("has {token:?}, which the vocabulary lacks")))
        };
        for (rank, (a, b)) in (0..).zip(merges) {
            bpe.merges.insert((id(a)?, id(b)?), (rank, id(&format!("{a}{b}"))?));
        }
        Ok(bpe)
    }

    fn merges(&self, text: &str) -> Result<Vec<(String, String)>> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
        let pair = |(number, line): (usize, &str)| match line.split_once(' ') {
            Some((a, b)) if !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
            _ => Err(self.bad("merges.txt", format!("line {} is not two tokens", number + 1))),
        };
        lines.map(pair).collect()
    }

    fn own_merges(&self, model: &Model) -> Result<Vec<(String, String)>> {
        if model.kind.as_deref() != Some("BPE") || model.end_of_word_suffix.as_deref() != Some(END_OF_WORD) {
            return Err(self.bad(
                "tokenizer.json",
                format!("is not CLIP's: its model is not BPE with words that end in {END_OF_WORD}"),
            ));
        }
        let pair = |merge: &Merge| match merge {
            Merge::Pair(a, b) => Ok((a.clone(), b.clone())),
            Merge::Line(line) => {
                let pair = line
                    .split_once(' ')
                    .ok_or_else(|| self.bad("tokenizer.json", format!("has the merge {line:?}")))?;
                Ok((pair.0.to_owned(), pair.1.to_owned()))
            }
        };
        model.merges.iter().map(pair).collect()
    }

    /// Which tokens are found in the text itself, and with which flags: where a token is told twice, the last one holds.
    fn special_tokens(&self, whole: Option<&Whole>) -> Result<SpecialTokens> {
        let mut config: Config = self.parse("tokenizer_config.json", self.config.as_deref())?.unwrap_or_default();
        let mut listed: BTreeMap<u32, Told> = BTreeMap::new();
        if let Some(decoder) = config.added_tokens_decoder.take() {
            listed.extend(decoder);
        } else {
            if let Some(map) = self.parse::<Config>("special_tokens_map.json", self.special_tokens_map.as_deref())? {
                config.replace(map);
            }
            let added: Option<HashMap<String, u32>> = self.parse("added_tokens.json", self.added_tokens.as_deref())?;
            let named = config.named().into_iter().flatten().chain(config.extra());
            let named: Vec<&str> = named.map(Told::content).collect();
            for (content, id) in added.into_iter().flatten() {
                let special = named.contains(&content.as_str());
                listed.insert(id, Told::Object(Flags { content, normalized: Some(!special), ..Flags::default() }));
            }
            listed.extend(
                whole
                    .iter()
                    .flat_map(|whole| &whole.added_tokens)
                    .map(|entry| (entry.id, Told::Object(entry.token.clone()))),
            );
        }
        let listed: Vec<AddedToken> = listed.into_values().map(Told::token).collect();
        let contents: Vec<String> = listed.iter().map(|token| token.content.clone()).collect();
        let text = |told: &Option<Told>, default: &str| told.as_ref().map_or(default, Told::content).to_owned();
        let end = "<|endoftext|>";
        let (begin, end, unknown, pad) = (
            text(&config.bos_token, "<|startoftext|>"),
            text(&config.eos_token, end),
            text(&config.unk_token, end),
            text(&config.pad_token, end),
        );
        for (told, content) in [
            (&mut config.bos_token, &begin),
            (&mut config.eos_token, &end),
            (&mut config.unk_token, &unknown),
            (&mut config.pad_token, &pad),
        ] {
            told.get_or_insert_with(|| Told::Text(content.clone()));
        }
        let mut added = listed;
        let extra = config.extra().to_vec();
        for told in config.into_named().into_iter().flatten().chain(extra) {
            if !contents.iter().any(|content| content == told.content()) {
                added.retain(|token| token.content != told.content());
                added.push(told.token());
            }
        }
        Ok(SpecialTokens { begin, end, unknown, pad, listed: contents, added })
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, text: Option<&str>) -> Result<Option<T>> {
        text.map(|text| self.json(name, text)).transpose()
    }

    fn json<T: DeserializeOwned>(&self, name: &str, text: &str) -> Result<T> {
        serde_json::from_str(text)
            .map_err(|error| self.bad(name, format!("is not what a CLIP tokenizer has there: {error}")))
    }

    fn bad(&self, name: &str, reason: String) -> Error {
        Error::BadFile { path: self.folder.join(name), reason }
    }
}

struct SpecialTokens {
    begin: String,
    end: String,
    unknown: String,
    pad: String,
    /// Contents of the tokens that the files give with their numbers.
    listed: Vec<String>,
    added: Vec<AddedToken>,
}

/// `tokenizer_config.json` or `special_tokens_map.json`, as far as they matter here.
#[derive(Default, Deserialize)]
struct Config {
    bos_token: Option<Told>,
    eos_token: Option<Told>,
    unk_token: Option<Told>,
    sep_token: Option<Told>,
    pad_token: Option<Told>,
    cls_token: Option<Told>,
    mask_token: Option<Told>,
    #[serde(default)]
    additional_special_tokens: Option<Vec<Told>>,
    #[serde(default)]
    extra_special_tokens: Option<Vec<Told>>,
    added_tokens_decoder: Option<BTreeMap<u32, Told>>,
}

impl Config {
    fn named(&self) -> [&Option<Told>; 7] {
        [
            &self.bos_token,
            &self.eos_token,
            &self.unk_token,
            &self.sep_token,
            &self.pad_token,
            &self.cls_token,
            &self.mask_token,
        ]
    }

    fn extra(&self) -> &[Told] {
        let lists = [&self.extra_special_tokens, &self.additional_special_tokens];
        lists.into_iter().flatten().find(|list| !list.is_empty()).map_or(&[], |list| &list[..])
    }

    fn into_named(self) -> [Option<Told>; 7] {
        [
            self.bos_token,
            self.eos_token,
            self.unk_token,
            self.sep_token,
            self.pad_token,
            self.cls_token,
            self.mask_token,
        ]
    }

    fn replace(&mut self, by: Config) {
        let Self { bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token, .. } = self;
        let own = [bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token];
        self.additional_special_tokens = by.additional_special_tokens.clone().or(self.additional_special_tokens.take());
        for (own, by) in own.into_iter().zip(by.into_named()) {
            if by.is_some() {
                *own = by;
            }
        }
    }
}

/// A token as a config tells it.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Told {
    Text(String),
    Object(Flags),
}

#[derive(Clone, Default, Deserialize)]
struct Flags {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
}

impl Told {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) => content,
            Self::Object(flags) => &flags.content,
        }
    }

    fn token(self) -> AddedToken {
        let flags = match self {
            Self::Text(content) => Flags { content, ..Flags::default() },
            Self::Object(flags) => flags,
        };
        let Flags { content, single_word, lstrip, rstrip, normalized } = flags;
        AddedToken { content, single_word, lstrip, rstrip, normalized: normalized.unwrap_or(false) }
    }
}

/// `tokenizer.json`
#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    added_tokens: Vec<Numbered>,
    model: Model,
}

#[derive(Deserialize)]
struct Numbered {
    id: u32,
    #[serde(flatten)]
    token: Flags,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    end_of_word_suffix: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}
