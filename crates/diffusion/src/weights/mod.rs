//! Weight files: memory-mapped safetensors, one file or several shards, with the names of older releases.
//!
//! [`Weights`] is the root of one network's tensors; [`Weights::pp`] goes down the checkpoint's path, so that model code reads like the
//! checkpoint. What a network asks for must be there with the shape that its config gives; what nobody asked for is told by
//! [`Weights::unused`]. The format: <https://huggingface.co/docs/safetensors/index#format>.

mod file;
mod find;
mod header;
mod map;
mod names;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};
use file::WeightFile;
use header::{Entry, shown};

pub use view::{Dtype, Floats, TensorView};

/// The tensors of one network or of one part of it: a cheap clone of the opened files and a path into them.
#[derive(Clone, Debug)]
pub struct Weights {
    opened: Arc<Opened>,
    prefix: String,
}

#[derive(Debug)]
struct Opened {
    /// What an error calls the whole: the file, or the index of the shards.
    label: String,
    files: Vec<WeightFile>,
    tensors: HashMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    file: usize,
    entry: Entry,
    used: AtomicBool,
}

impl Weights {
    /// Opens the weights in `folder` that are called `stem` (`model` for text encoders, `diffusion_pytorch_model` for diffusers' networks):
    /// `STEM.safetensors`, shards listed in `STEM.safetensors.index.json`, or the same with `fp16` in their names.
    ///
    /// # Errors
    /// Where there is none, or only pickle files; where a file is truncated or broken; where the index names a file outside the folder or
    /// a tensor that its shard lacks.
    pub fn open(folder: &Path, stem: &str) -> Result<Self> {
        match find::find(folder, stem)? {
            find::Found::File(path) => Self::open_file(&path),
            find::Found::Index { path, shards, places } => {
                let files =
                    shards.iter().map(|shard| WeightFile::open(&folder.join(shard))).collect::<Result<Vec<_>>>()?;
                Self::join(path.display().to_string(), files, &places)
            }
        }
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_file(path: &Path) -> Result<Self> {
        find::refuse_pickle(path)?;
        Self::join(path.display().to_string(), vec![WeightFile::open(path)?], &HashMap::new())
    }

    /// Reads a safetensors file that is part of the program; `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn from_bytes(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::join(name.to_owned(), vec![WeightFile::from_static(name, bytes)?], &HashMap::new())
    }

    /// `places`: which file an index says that a tensor is in; it decides where two files have the same tensor.
    fn join(label: String, mut files: Vec<WeightFile>, places: &HashMap<String, usize>) -> Result<Self> {
        let mut tensors: HashMap<String, Stored> = HashMap::new();
        for index in 0..files.len() {
            for (name, entry) in files[index].take_entries() {
                match places.get(&name) {
                    Some(&place) if place != index => continue,
                    None if tensors.contains_key(&name) => {
                        let other = files[tensors[&name].file].label();
                        return Err(files[index].bad(format!("tensor {} is also in {other}", shown(&name))));
                    }
                    _ => tensors.insert(name, Stored { file: index, entry, used: AtomicBool::new(false) }),
                };
            }
        }
        let mut absent: Vec<_> = places.iter().filter(|(name, _)| !tensors.contains_key(*name)).collect();
        absent.sort();
        if let Some((name, place)) = absent.first() {
            return Err(Error::MissingTensor { name: shown(name), file: files[**place].label().to_owned() });
        }
        Ok(Self { opened: Arc::new(Opened { label, files, tensors }), prefix: String::new() })
    }

    /// All tensors of this part, in no order: name, shape and bytes as the file has them.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &[usize], u64)> {
        self.own().map(|(name, Stored { entry, .. })| (name, &entry.shape[..], (entry.end - entry.begin) as u64))
    }

    /// The part below: `weights.pp("down_blocks").pp(0)` is where the names start with `down_blocks.0.`.
    pub fn pp(&self, part: impl Display) -> Self {
        let prefix = if self.prefix.is_empty() { part.to_string() } else { format!("{}.{part}", self.prefix) };
        Self { opened: Arc::clone(&self.opened), prefix }
    }

    /// The full name of a tensor of this part, as an error gives it.
    pub fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// The file, or the index of the shards.
    pub fn label(&self) -> &str {
        &self.opened.label
    }

    /// Whether the tensor is there, under its name or an older one.
    pub fn has(&self, name: &str) -> bool {
        self.find(&self.path(name)).is_some()
    }

    /// The shape of a tensor as the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(&self.path(name)).map(|stored| &stored.entry.shape[..])
    }

    /// The names of all tensors of this part as the file has them, without the part's path, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.own().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        names
    }

    /// The tensor `name`, of exactly this `shape`; it counts as used from now on.
    ///
    /// # Errors
    /// Where it is absent, of another shape, or of another type than `F32`, `F16` and `BF16`, with the tensor's name and its file's; and
    /// where the file has changed its size since it was opened.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let full = self.path(name);
        let Some(stored) = self.find(&full) else {
            return Err(Error::MissingTensor { name: full, file: self.opened.label.clone() });
        };
        let file = &self.opened.files[stored.file];
        if !names::same_shape(&full, &stored.entry.shape, shape) {
            return Err(Error::TensorShape {
                name: full,
                file: file.label().to_owned(),
                found: stored.entry.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let Some(dtype) = Dtype::parse(&stored.entry.dtype) else {
            let found = shown(&stored.entry.dtype);
            return Err(file.bad(format!(
                "tensor {full} has type {found}; weights must be F32, F16 or BF16, so take another variant of the model"
            )));
        };
        stored.used.store(true, Ordering::Relaxed);
        Ok(TensorView::new(dtype, shape.to_vec(), file.bytes(&stored.entry)?))
    }

    /// The tensors of this part that nobody got, sorted; without those that older releases store and nobody needs.
    pub fn unused(&self) -> Vec<String> {
        let unused = self.own().filter(|(name, stored)| !stored.used.load(Ordering::Relaxed) && !names::harmless(name));
        let mut unused: Vec<_> = unused.map(|(name, _)| shown(&self.path(name))).collect();
        unused.sort();
        unused
    }

    fn own(&self) -> impl Iterator<Item = (&str, &Stored)> {
        self.opened.tensors.iter().filter_map(|(name, stored)| {
            let rest = name.strip_prefix(&self.prefix)?;
            let rest = if self.prefix.is_empty() { rest } else { rest.strip_prefix('.')? };
            Some((rest, stored))
        })
    }

    fn find(&self, full: &str) -> Option<&Stored> {
        let tensors = &self.opened.tensors;
        tensors.get(full).or_else(|| names::older(full).iter().find_map(|name| tensors.get(name)))
    }
}
