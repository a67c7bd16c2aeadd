//! Which files in a folder are the weights.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::weights::header::shown;
use crate::{Error, Result};

/// An index lists a few thousand names; more than this is none.
const MAX_INDEX: u64 = 100_000_000;

/// The endings of files that only Python's pickle can read, and that can run any code when it does.
const PICKLES: [&str; 5] = ["bin", "ckpt", "pt", "pth", "pkl"];

/// What [`find`] found.
pub(super) enum Found {
    /// One file.
    File(PathBuf),
    /// Several, of which `path` says which tensor is in which.
    Index {
        /// The index.
        path: PathBuf,
        /// The shards' names in the same folder.
        shards: Vec<String>,
        /// Tensor to its place in `shards`.
        places: HashMap<String, usize>,
    },
}

/// Finds the weights called `stem`; where a folder has several, the full precision goes first, and one file before shards.
pub(super) fn find(folder: &Path, stem: &str) -> Result<Found> {
    let named = |ending: &str| folder.join(format!("{stem}{ending}"));
    for (file, indices) in [
        (".safetensors", &[".safetensors.index.json"][..]),
        (".fp16.safetensors", &[".safetensors.index.fp16.json", ".fp16.safetensors.index.json"]),
    ] {
        let path = named(file);
        if path.exists() {
            return Ok(Found::File(path));
        }
        if let Some(path) = indices.iter().map(|ending| named(ending)).find(|path| path.exists()) {
            return read_index(path);
        }
    }
    let listing = std::fs::read_dir(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    let mut pickles: Vec<_> =
        listing.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_pickle(path)).collect();
    pickles.sort();
    pickles.iter().try_for_each(|path| refuse_pickle(path))?;
    let reason = format!("has no {stem}.safetensors, {stem}.fp16.safetensors or {stem}.safetensors.index.json");
    Err(Error::BadFile { path: folder.to_owned(), reason })
}

/// Refuses a file whose name says that it is a pickle.
pub(super) fn refuse_pickle(path: &Path) -> Result<()> {
    if !is_pickle(path) {
        return Ok(());
    }
    let reason = "is a pickle file, which can run any code when it is read; take the model's safetensors files, or write them in Python \
                  with pipe.save_pretrained(folder, safe_serialization=True)";
    Err(Error::BadFile { path: path.to_owned(), reason: reason.to_owned() })
}

fn is_pickle(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|extension| PICKLES.contains(&&extension[..]))
}

fn read_index(path: PathBuf) -> Result<Found> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let io = |source| Error::Io { path: path.clone(), source };
    let bad = |reason: String| Error::BadFile { path: path.clone(), reason };
    let about = std::fs::metadata(&path).map_err(io)?;
    if !about.is_file() || about.len() > MAX_INDEX {
        return Err(bad(format!("is not an index of weights: {} bytes", about.len())));
    }
    let text = std::fs::read(&path).map_err(io)?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| bad(format!("is not an index of weights: {}", shown(&error.to_string()))))?;
    let mut shards: Vec<String> = index.weight_map.values().cloned().collect();
    shards.sort();
    shards.dedup();
    if shards.is_empty() {
        return Err(bad("lists no tensors".to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    for shard in &shards {
        if shard.contains(['/', '\\', ':', '\0']) || !shard.ends_with(".safetensors") {
            refuse_pickle(Path::new(shard))?;
            return Err(bad(format!("names {}; shards must be safetensors files in the same folder", shown(shard))));
        }
        if !folder.join(shard).exists() {
            return Err(bad(format!("names {}, which is missing; download it again", shown(shard))));
        }
    }
    let places = index.weight_map.into_iter().map(|(name, shard)| {
        let place = shards.binary_search(&shard).expect("every shard of the map was listed");
        (name, place)
    });
    let places = places.collect();
    Ok(Found::Index { path, shards, places })
}
