use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The folder in which rbee keeps what outlives a process: `given`, which is what `RBEE_DATA_DIR` says, or `rbee` in the
/// user's XDG data folder. It need not exist.
///
/// # Errors
/// [`Error::NoHome`], [`Error::Io`] for a relative path without a current folder.
pub fn data_dir(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => std::path::absolute(path).map_err(|source| Error::io(path, source)),
        None => default_data_dir().ok_or(Error::NoHome),
    }
}

/// `rbee` in the user's XDG data folder; none where no variable tells where that is.
#[must_use]
pub fn default_data_dir() -> Option<PathBuf> {
    default_path(|name| std::env::var_os(name).map(PathBuf::from))
}

/// Where in it the models lie: what [`crate::ModelStore::open`] takes.
#[must_use]
pub fn models_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("models")
}

/// An empty variable counts as none, and a relative XDG folder is to be ignored, as the XDG specification says.
fn default_path(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share"))).map(|data| data.join("rbee"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_where_xdg_says() {
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            let lookup =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
            assert_eq!(default_path(lookup), expected.map(PathBuf::from), "{variables:?}");
        };
        check(&[("HOME", "/home/ada")], Some("/home/ada/.local/share/rbee"));
        check(&[("HOME", "/home/ada"), ("XDG_DATA_HOME", "/data")], Some("/data/rbee"));
        check(&[("HOME", "/home/ada"), ("XDG_DATA_HOME", "data")], Some("/home/ada/.local/share/rbee"));
        check(&[("HOME", "")], None);
        check(&[], None);
    }
}
