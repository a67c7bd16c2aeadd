use crate::error::{Error, Result};
use operations_contract::{repository_of, well_known};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use url::Url;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A repository on the hub, or one file of it.
    Hub {
        /// `owner/name`.
        repository: String,
        /// The file, where one is meant alone.
        file: Option<String>,
        /// Which of the weights, where the repository has several.
        precision: Precision,
    },
    /// A single `.safetensors` or `.gguf` file anywhere.
    Url(Url),
    /// A folder in diffusers' layout or a file on this machine, by its absolute path.
    Path(PathBuf),
}

/// Which of several sets of weights is downloaded. Where there is only one, that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// 16 bits: half the bytes, and pictures that no eye tells apart.
    #[default]
    F16,
    /// 32 bits.
    F32,
}

impl Source {
    /// What `text` means: a well-known name, `owner/name`, `owner/name:file`, a URL or an absolute path.
    ///
    /// # Errors
    /// [`Error::Unknown`] for anything else, [`Error::BuiltIn`] for a model that ships inside the program,
    /// [`Error::Unusable`] for a file that is no model's.
    pub fn parse(text: &str) -> Result<Self> {
        if well_known(text).is_some_and(|model| model.repository.is_none()) {
            return Err(Error::BuiltIn(text.to_owned()));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Self::from_url(text);
        }
        if Path::new(text).is_absolute() {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        if let Some((repository, file)) = text.split_once(':') {
            let repository = repository_of(repository).ok_or_else(|| Error::Unknown(text.to_owned()))?;
            if !is_safe_path(file) {
                return Err(Error::Unknown(text.to_owned()));
            }
            check_ending(text, file)?;
            return Ok(Self::hub(repository, Some(file)));
        }
        repository_of(text).map(|repository| Self::hub(repository, None)).ok_or_else(|| Error::Unknown(text.to_owned()))
    }

    /// The same source with the weights of another precision.
    #[must_use]
    pub fn with_precision(mut self, wanted: Precision) -> Self {
        if let Self::Hub { precision, .. } = &mut self {
            *precision = wanted;
        }
        self
    }

    fn hub(repository: &str, file: Option<&str>) -> Self {
        Self::Hub { repository: repository.to_owned(), file: file.map(str::to_owned), precision: Precision::default() }
    }

    fn from_url(text: &str) -> Result<Self> {
        let mut url = Url::parse(text).map_err(|_| Error::Unknown(text.to_owned()))?;
        if url.host_str().is_none() {
            return Err(Error::Unknown(text.to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let reason = "an address may not hold a name or a password, because the catalogue shows it";
            return Err(Error::Unusable {
                repository: url.host_str().unwrap_or_default().to_owned(),
                reason: reason.to_owned(),
            });
        }
        url.set_fragment(None);
        let segments: Vec<String> = url.path_segments().map(|path| path.map(decoded).collect()).unwrap_or_default();
        // The page of a file on the hub, as people copy it from their browser.
        if url.host_str() == Some("huggingface.co")
            && let [owner, name, "resolve" | "blob", "main", file @ ..] =
                &segments.iter().map(String::as_str).collect::<Vec<_>>()[..]
            && !file.is_empty()
        {
            return Self::parse(&format!("{owner}/{name}:{}", file.join("/")));
        }
        check_ending(text, segments.last().map_or("", String::as_str))?;
        Ok(Self::Url(url))
    }

    /// What people call the model.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Hub { repository, file: None, .. } => {
                well_known(repository).map_or_else(|| repository.clone(), |model| model.name.to_owned())
            }
            Self::Hub { file: Some(file), .. } => file.rsplit('/').next().unwrap_or(file).to_owned(),
            Self::Url(url) => {
                url.path_segments().and_then(|mut path| path.next_back().map(decoded)).unwrap_or_default()
            }
            Self::Path(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        }
    }

    /// The id that the model has in every catalogue: a plain word, the same for the same source.
    #[must_use]
    pub fn id(&self) -> String {
        let stem = match self {
            Self::Hub { repository, file: None, .. } => repository.rsplit('/').next().unwrap_or_default().to_owned(),
            _ => self.name(),
        };
        let plain =
            |char: char| if char.is_ascii_alphanumeric() || char == '.' { char.to_ascii_lowercase() } else { '-' };
        let word: String = stem.chars().map(plain).take(64).collect();
        let sum = hex(&Sha256::digest(self.to_string().as_bytes()));
        format!("{}-{}", word.trim_matches(['.', '-']), &sum[..8]).trim_start_matches('-').to_owned()
    }

    /// The hub repository, where it comes from one.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Hub { repository, .. } => Some(repository),
            Self::Url(_) | Self::Path(_) => None,
        }
    }
}

/// What [`Source::parse`] reads; the precision is no part of it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repository, file: None, .. } => f.write_str(repository),
            Self::Hub { repository, file: Some(file), .. } => write!(f, "{repository}:{file}"),
            Self::Url(url) => f.write_str(url.as_str()),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Whether a path that somebody sent stays inside the folder that it is put into, on every system.
pub(crate) fn is_safe_path(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part.len() <= 255
            && !part.starts_with(' ')
            && !part.ends_with(['.', ' '])
            && !part.contains(|char: char| {
                char.is_control() || matches!(char, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
            })
    };
    path.len() <= 1024 && path.split('/').all(plain)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ending of a file's name, in lower case.
pub(crate) fn ending(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default()
}

/// Whether only Python's pickle reads a file of this name.
pub(crate) fn is_pickle(name: &str) -> bool {
    matches!(ending(name).as_str(), "bin" | "ckpt" | "pt" | "pth" | "pkl")
}

fn check_ending(given: &str, file: &str) -> Result<()> {
    let reason = match ending(file).as_str() {
        "safetensors" | "gguf" => return Ok(()),
        _ if is_pickle(file) => "pickle files can run any program and are refused; give a .safetensors file",
        _ => "a single file must be a .safetensors or a .gguf file",
    };
    Err(Error::Unusable { repository: given.to_owned(), reason: reason.to_owned() })
}

fn decoded(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REPOSITORY: &str = "stable-diffusion-v1-5/stable-diffusion-v1-5";

    #[test]
    fn every_way_to_name_a_model_is_read() {
        let check = |text: &str, shown: &str, name: &str| {
            let source = Source::parse(text).unwrap();
            assert_eq!((source.to_string().as_str(), source.name().as_str()), (shown, name), "{text}");
            assert_eq!(Source::parse(shown).unwrap().id(), source.id(), "{text}");
        };
        check("sd-1.5", REPOSITORY, "sd-1.5");
        check("v1-5", REPOSITORY, "sd-1.5");
        check(REPOSITORY, REPOSITORY, "sd-1.5");
        check("someone/some.thing", "someone/some.thing", "someone/some.thing");
        check("a/b:c/d-Q4.gguf", "a/b:c/d-Q4.gguf", "d-Q4.gguf");
        check(
            "https://huggingface.co/a/b/blob/main/c/d.safetensors?download=true",
            "a/b:c/d.safetensors",
            "d.safetensors",
        );
        check("http://127.0.0.1:80/a%20b.gguf#x", "http://127.0.0.1/a%20b.gguf", "a b.gguf");
        check("/models/mine", "/models/mine", "mine");
    }

    #[test]
    fn what_names_no_model_is_refused_with_the_reason() {
        let check = |text: &str, said: &str| {
            let error = Source::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        };
        for text in ["", "name", "a/b/c", "../b", "a/b:", "a/b:../c.gguf", "a/b:/c.gguf", "http://", "ftp://a/b.gguf"] {
            check(text, "is no model");
        }
        check("tiny-scenes", "inside the program");
        check("a/b:model.ckpt", "pickle");
        check("https://example.org/model.zip", ".gguf");
        check("https://user:secret@example.org/model.gguf", "password");
        assert!(!Source::parse("https://user:secret@example.org/m.gguf").unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn ids_are_plain_words_that_differ_where_the_sources_do() {
        let id = |text: &str| Source::parse(text).unwrap().id();
        assert_eq!(id("a/Model_1.0"), id("a/Model_1.0"));
        assert_ne!(id("a/model"), id("b/model"));
        assert_ne!(id("a/model"), id("a/model:x.gguf"));
        assert!(id(REPOSITORY).starts_with("stable-diffusion-v1-5-"), "{}", id(REPOSITORY));
    }

    proptest! {
        #[test]
        fn an_id_is_a_safe_name_of_a_folder(owner in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,95}", name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,95}") {
            if let Ok(source) = Source::parse(&format!("{owner}/{name}")) {
                let id = source.id();
                prop_assert!(id.len() <= operations_contract::ID_BYTES);
                prop_assert!(is_safe_path(&id) && !id.contains('/') && !id.starts_with(['.', '-']), "{id}");
            }
        }

        #[test]
        fn no_safe_path_leaves_its_folder(path in "[a-z./\\\\: ]{0,12}") {
            if is_safe_path(&path) {
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                prop_assert!(Path::new(&path).components().all(plain), "{path:?}");
            }
        }
    }
}
