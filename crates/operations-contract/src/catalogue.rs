use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A model on a hive's disk, as its catalogue lists it: what `model_download` and `model_get` answer with, and
/// `model_list` with many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelEntry {
    /// Its id, a plain word: what `model_get` and `model_delete` take.
    pub id: String,
    /// What people call it: a short name, its repository, or its file's name.
    pub name: String,
    /// Where it came from: `owner/name`, `owner/name:file`, a URL or a path.
    pub source: String,
    /// Its hub repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The commit of the repository that its files are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What its files are.
    pub kind: ModelKind,
    /// The folder or file to load.
    pub path: String,
    /// Its files.
    pub files: Vec<ModelFile>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// When it came into the catalogue, in milliseconds since 1970 UTC.
    pub added_ms: u64,
    /// Whether its files are the catalogue's own and are deleted with it. Others stay where they are: models that were
    /// given by path, and those in the user's Hugging Face cache.
    pub owned: bool,
}

/// What the files of a model are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// A folder in diffusers' layout.
    ImageFolder,
    /// One `.safetensors` checkpoint.
    ImageFile,
    /// A language model in GGUF, in one file or in shards.
    Language,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFile {
    /// Where it lies in the model's folder, with `/`.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal, where it is known: of every file that was downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}
