//! Where the files of a model come from: a diffusers folder, a checkpoint in a single file, or bytes inside the program.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use crate::tokenizer::{ClipTokenizer, Files};
use crate::weights::Weights;
use crate::{Error, Result};

/// One file of a model that is compiled into the program.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedFile {
    /// Its path in the model's folder, for example `unet/config.json`.
    pub path: &'static str,
    /// Its content.
    pub bytes: &'static [u8],
}

/// A diffusers folder, on disk or in the program, or what stands for one.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A folder with `model_index.json`.
    Folder(PathBuf),
    /// A single file, with configs from elsewhere.
    Checkpoint(Arc<Checkpoint>),
    /// The same files as bytes.
    Embedded {
        /// What messages call it.
        name: &'static str,
        /// The files.
        files: &'static [EmbeddedFile],
    },
}

impl ModelSource {
    /// The model at `path`: a diffusers folder, or a checkpoint in a single safetensors file, whose configs are built in. `turbo` says of a
    /// checkpoint that it is the model of one step, which a file does not always tell.
    ///
    /// # Errors
    /// Those of [`ModelSource::folder`] and [`Checkpoint::open`].
    pub fn open(path: &Path, turbo: bool) -> Result<Self> {
        if path.is_file() {
            return Ok(Self::Checkpoint(Arc::new(Checkpoint::open(path, turbo)?)));
        }
        Self::folder(path)
    }

    /// The folder `path`, refused with the reason where it is not a model.
    ///
    /// # Errors
    /// [`Error::BadFile`] for a file, a missing folder, or one without `model_index.json`.
    pub fn folder(path: &Path) -> Result<Self> {
        let refuse = |reason: &str| Error::BadFile { path: path.to_owned(), reason: reason.to_owned() };
        if !path.is_dir() {
            return Err(refuse(
                "no such folder; give the path of a diffusers folder, the one with model_index.json, or of a single .safetensors file",
            ));
        }
        if !path.join("model_index.json").is_file() {
            return Err(refuse("has no model_index.json, so it is not a diffusers folder"));
        }
        Ok(Self::Folder(path.to_owned()))
    }

    /// What messages and logs call this model.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Checkpoint(checkpoint) => checkpoint.path().display().to_string(),
            Self::Embedded { name, .. } => (*name).to_owned(),
        }
    }

    /// A text file, `None` where the model has no such file.
    ///
    /// # Errors
    /// [`Error::Io`] when it is there and cannot be read, [`Error::BadFile`] when it is not UTF-8 or larger than any config.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        /// The largest text file of any released model is a vocabulary of 1 MB.
        const LARGEST: u64 = 64 << 20;
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                let meta = match std::fs::metadata(&path) {
                    Ok(meta) => meta,
                    Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(source) => return Err(Error::Io { path, source }),
                };
                if meta.len() > LARGEST {
                    return Err(Error::BadFile {
                        path,
                        reason: format!("{} bytes, expected a text file of at most {LARGEST}", meta.len()),
                    });
                }
                std::fs::read_to_string(&path).map(Some).map_err(|source| Error::Io { path, source })
            }
            Self::Checkpoint(checkpoint) => checkpoint.text(name),
            Self::Embedded { files, .. } => match files.iter().find(|file| file.path == name) {
                None => Ok(None),
                Some(file) => match std::str::from_utf8(file.bytes) {
                    Ok(text) => Ok(Some(text.to_owned())),
                    Err(e) => Err(Error::BadFile { path: name.into(), reason: e.to_string() }),
                },
            },
        }
    }

    /// A text file that every model of this kind has.
    ///
    /// # Errors
    /// As [`ModelSource::text`], and [`Error::BadFile`] when it is missing.
    pub fn required_text(&self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| Error::BadFile {
            path: PathBuf::from(self.name()).join(name),
            reason: "is missing; the download of this model may be incomplete".to_owned(),
        })
    }

    /// The tokenizer in `folder`.
    ///
    /// # Errors
    /// Those of [`ClipTokenizer::from_files`].
    pub fn tokenizer(&self, folder: &str) -> Result<ClipTokenizer> {
        if let Self::Checkpoint(checkpoint) = self {
            return checkpoint.tokenizer(folder);
        }
        let text = |file: &str| self.text(&format!("{folder}/{file}"));
        ClipTokenizer::from_files(&Files {
            folder: PathBuf::from(self.name()).join(folder),
            vocab: text("vocab.json")?,
            merges: text("merges.txt")?,
            tokenizer: text("tokenizer.json")?,
            config: text("tokenizer_config.json")?,
            special_tokens_map: text("special_tokens_map.json")?,
            added_tokens: text("added_tokens.json")?,
        })
    }

    /// The weights of one part: `folder` is `unet`, `vae`, …, `stem` is `diffusion_pytorch_model` or `model`.
    ///
    /// # Errors
    /// Those of [`Weights::open`].
    pub fn weights(&self, folder: &str, stem: &str) -> Result<Weights> {
        match self {
            Self::Folder(path) => Weights::open(&path.join(folder), stem),
            Self::Checkpoint(checkpoint) => checkpoint.weights(folder),
            Self::Embedded { files, .. } => {
                let name = format!("{folder}/{stem}.safetensors");
                let file = files.iter().find(|file| file.path == name).ok_or_else(|| Error::BadFile {
                    path: name.clone().into(),
                    reason: "is not among the embedded files".to_owned(),
                })?;
                Weights::from_bytes(&name, file.bytes)
            }
        }
    }
}
