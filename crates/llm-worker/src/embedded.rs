//! The default model, compiled into the program: `models/tiny-words`. llama.cpp reads models from files alone, and so it is
//! given one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use model_store::StoreArgs;

/// The embedded model's name, as `model` fields and `--model` take it.
pub(crate) const NAME: &str = "tiny-words";

const BYTES: &[u8] = include_bytes!("../../../models/tiny-words/tiny-words.gguf");

/// A file that llama.cpp can open as long as this is kept.
#[derive(Debug)]
pub(crate) struct ModelFile {
    path: PathBuf,
    _open: Option<File>,
}

impl ModelFile {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, _open: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The embedded model: a file in memory where the system has such, which needs no folder and is gone with the process;
/// elsewhere one in the data folder.
pub(crate) fn tiny_words(store: &StoreArgs) -> io::Result<ModelFile> {
    in_memory().or_else(|_| on_disk(&model_store::data_dir(store.data_dir.as_deref()).map_err(io::Error::other)?))
}

#[cfg(target_os = "linux")]
fn in_memory() -> io::Result<ModelFile> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    let mut file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(BYTES)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // A container may have no /proc.
    path.metadata()?;
    Ok(ModelFile { path, _open: Some(file) })
}

#[cfg(not(target_os = "linux"))]
fn in_memory() -> io::Result<ModelFile> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Written once, under a name that says which release it belongs to. What lies there and is not this model is replaced by a
/// rename, so that a worker that has loaded it is not disturbed and nobody sees half of it.
fn on_disk(folder: &Path) -> io::Result<ModelFile> {
    let path = folder.join(format!("{NAME}-{}.gguf", env!("CARGO_PKG_VERSION")));
    if !fs::read(&path).is_ok_and(|there| there == BYTES) {
        fs::create_dir_all(folder)?;
        let part = folder.join(format!("{NAME}-{}.part", std::process::id()));
        fs::write(&part, BYTES)?;
        fs::rename(&part, &path)?;
    }
    Ok(ModelFile::at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_in_memory_is_the_model_and_stays_it() {
        let file = in_memory().unwrap();
        assert!(fs::read(file.path()).unwrap() == BYTES);
        assert!(fs::write(file.path(), b"other").is_err(), "it is sealed");
        assert!(fs::read(file.path()).unwrap() == BYTES);
    }

    #[test]
    fn a_file_on_disk_is_written_once_and_again_where_it_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("data");
        let first = on_disk(&folder).unwrap();
        let written = || fs::metadata(first.path()).unwrap().modified().unwrap();
        let before = written();
        assert_eq!(on_disk(&folder).unwrap().path(), first.path());
        assert_eq!(written(), before);
        fs::write(first.path(), b"half").unwrap();
        on_disk(&folder).unwrap();
        assert!(fs::read(first.path()).unwrap() == BYTES);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
