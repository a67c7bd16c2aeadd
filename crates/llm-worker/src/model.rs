//! Which model a worker serves, by its flags.

use std::fmt;
use std::path::{Path, PathBuf};

use operations_contract::{repository_of, well_known};

/// A model that can be loaded, and the names by which requests may mean it.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its GGUF file.
    pub file: PathBuf,
    /// The name that is shown.
    pub name: String,
    /// All names.
    pub names: Vec<String>,
}

/// Why a model cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelError {
    /// None is named.
    None,
    /// It would have to be downloaded.
    NotOnDisk(String),
    /// There is no such file.
    NoFile(String),
    /// A folder with no GGUF file, or with several.
    Folder(String, usize),
}

impl std::error::Error for ModelError {}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instead = "give --model the path of a GGUF file";
        match self {
            Self::None => write!(f, "there is no language model in this program yet; {instead}"),
            Self::NotOnDisk(name) => {
                write!(f, "{name} would have to be downloaded, which is not possible yet; {instead}")
            }
            Self::NoFile(path) => write!(f, "{path}: there is no such file; {instead}"),
            Self::Folder(path, 0) => write!(f, "{path} holds no GGUF file; {instead}"),
            Self::Folder(path, count) => write!(f, "{path} holds {count} GGUF files; name one of them"),
        }
    }
}

/// The model that `--model` names. A file that exists comes before a name; a folder may hold the one file.
///
/// # Errors
/// As [`ModelError`] says.
pub fn find(model: Option<&str>) -> Result<Model, ModelError> {
    let given = model.ok_or(ModelError::None)?;
    let path = Path::new(given);
    if !path.exists() {
        let is_name = well_known(given).is_some() || repository_of(given).is_some();
        let given = given.to_owned();
        return Err(if is_name { ModelError::NotOnDisk(given) } else { ModelError::NoFile(given) });
    }
    let file = if path.is_dir() { only_gguf(path)? } else { path.to_path_buf() };
    let mut names = vec![given.to_owned()];
    names.extend(file.canonicalize().ok().and_then(|path| path.to_str().map(str::to_owned)));
    for name in [path.file_name(), path.file_stem(), file.file_name(), file.file_stem()] {
        names.extend(name.and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.dedup();
    Ok(Model { file, name: given.to_owned(), names })
}

fn only_gguf(folder: &Path) -> Result<PathBuf, ModelError> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")))
        .collect();
    match (found.pop(), found.len()) {
        (Some(file), 0) => Ok(file),
        (None, _) => Err(ModelError::Folder(folder.display().to_string(), 0)),
        (Some(_), more) => Err(ModelError::Folder(folder.display().to_string(), more + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_on_disk_is_refused_with_what_to_give_instead() {
        assert!(find(None).unwrap_err().to_string().contains("--model the path of a GGUF file"));
        for model in ["someone/something", "/nowhere/model.gguf", "sd-1.5"] {
            let error = find(Some(model)).unwrap_err().to_string();
            assert!(error.starts_with(model) && error.contains("--model the path of a GGUF file"), "{error}");
        }
    }

    #[test]
    fn a_folder_with_one_file_is_that_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(find(Some(path)).unwrap_err(), ModelError::Folder(path.to_owned(), 0));
        std::fs::write(folder.path().join("a.gguf"), b"").unwrap();
        let model = find(Some(path)).unwrap();
        assert!(model.names.iter().any(|name| name == "a"), "{:?}", model.names);
        std::fs::write(folder.path().join("b.GGUF"), b"").unwrap();
        assert_eq!(find(Some(path)).unwrap_err(), ModelError::Folder(path.to_owned(), 2));
    }
}
