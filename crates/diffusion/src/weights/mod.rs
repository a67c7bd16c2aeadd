//! Weight files: memory-mapped safetensors, one file or several shards, with the names of older releases or of original checkpoints.
//!
//! [`Weights`] is the root of one network's tensors; [`Weights::pp`] goes down the checkpoint's path, so that model code reads like the
//! checkpoint. What a network asks for must be there with the shape that its config gives; what nobody asked for is told by
//! [`Weights::unused`]. The format: <https://huggingface.co/docs/safetensors/index#format>.

mod file;
mod find;
mod header;
mod map;
mod names;
mod original;
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
use header::Entry;
use original::Cut;

pub(crate) use header::shown;
pub use original::Names;
pub use view::{Dtype, Floats, TensorView};

/// The tensors of one network or of one part of it: a cheap clone of the opened files and a path into them.
#[derive(Clone, Debug)]
pub struct Weights {
    opened: Arc<Opened>,
    network: Arc<Network>,
    prefix: String,
}

/// Which tensors of the files are the network's, and how they are named there.
#[derive(Debug, Default)]
struct Network {
    /// What stands before every name, with the dot; empty where the files hold nothing else.
    root: String,
    names: Names,
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
        Ok(Self { opened: Arc::new(Opened { label, files, tensors }), network: Arc::default(), prefix: String::new() })
    }

    /// One network of files that hold several: its names begin with `root` and a dot, and what follows is by the convention `names`.
    /// Whoever asks for its tensors asks by diffusers' names all the same.
    pub fn network(&self, root: &str, names: Names) -> Self {
        let network = Network { root: format!("{root}."), names };
        Self { opened: Arc::clone(&self.opened), network: Arc::new(network), prefix: String::new() }
    }

    /// A text that the header has beside the tensors.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.opened.files.iter().find_map(|file| file.metadata(key))
    }

    /// The part below: `weights.pp("down_blocks").pp(0)` is where the names start with `down_blocks.0.`.
    pub fn pp(&self, part: impl Display) -> Self {
        let prefix = if self.prefix.is_empty() { part.to_string() } else { format!("{}.{part}", self.prefix) };
        Self { opened: Arc::clone(&self.opened), network: Arc::clone(&self.network), prefix }
    }

    /// The full name of a tensor of this part in its file, as an error gives it.
    pub fn path(&self, name: &str) -> String {
        let Network { root, names } = &*self.network;
        format!("{root}{}", names.place(&self.full(name)).0)
    }

    /// The file, or the index of the shards.
    pub fn label(&self) -> &str {
        &self.opened.label
    }

    /// Whether the tensor is there, under its name or an older one.
    pub fn has(&self, name: &str) -> bool {
        self.find(&self.full(name)).is_some()
    }

    /// The shape of a tensor as the file has it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.find(&self.full(name)).map(|(stored, cut)| cut.shape(&stored.entry.shape))
    }

    /// The names of all tensors of this part as the file has them, without the part's path, sorted. Of a network with original names, those
    /// of the whole network.
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
        let full = self.full(name);
        let Some((stored, cut)) = self.find(&full) else {
            return Err(Error::MissingTensor { name: self.path(name), file: self.opened.label.clone() });
        };
        let file = &self.opened.files[stored.file];
        let expected = cut.stored_shape(shape);
        if !names::same_shape(&full, &stored.entry.shape, &expected) {
            return Err(Error::TensorShape {
                name: self.path(name),
                file: file.label().to_owned(),
                found: stored.entry.shape.clone(),
                expected,
            });
        }
        let Some(dtype) = Dtype::parse(&stored.entry.dtype) else {
            let (tensor, found) = (self.path(name), shown(&stored.entry.dtype));
            return Err(file.bad(format!(
                "tensor {tensor} has type {found}; weights must be F32, F16 or BF16, so take another variant of the model"
            )));
        };
        stored.used.store(true, Ordering::Relaxed);
        let bytes = cut.bytes(file.bytes(&stored.entry)?, shape, dtype.size());
        Ok(TensorView::new(dtype, shape.to_vec(), bytes))
    }

    /// Says that nobody looks at the tensor `name` for a while: its pages of the mapped file need not stay in memory.
    pub fn forget(&self, name: &str) {
        if let Some((Stored { file, entry, .. }, _)) = self.find(&self.full(name)) {
            self.opened.files[*file].forget(entry.begin..entry.end);
        }
    }

    /// As [`Weights::forget`], for everything in these files.
    pub fn forget_all(&self) {
        for file in &self.opened.files {
            file.forget(0..file.len());
        }
    }

    /// The tensors of this part that nobody got, sorted; without those that older releases store and nobody needs. Of a network with
    /// original names, those of the whole network.
    pub fn unused(&self) -> Vec<String> {
        let unused = self.own().filter(|(name, stored)| !stored.used.load(Ordering::Relaxed) && !self.harmless(name));
        let path = self.own_path();
        let mut unused: Vec<_> = unused.map(|(name, _)| shown(&format!("{path}{name}"))).collect();
        unused.sort();
        unused
    }

    fn harmless(&self, name: &str) -> bool {
        names::harmless(name) || self.network.names.harmless(name)
    }

    fn own(&self) -> impl Iterator<Item = (&str, &Stored)> {
        let path = self.own_path();
        self.opened.tensors.iter().filter_map(move |(name, stored)| Some((name.strip_prefix(&path)?, stored)))
    }

    /// What the names of this part begin with in the file.
    fn own_path(&self) -> String {
        match &*self.network {
            Network { root, names: Names::Diffusers } => format!("{root}{}", self.full("")),
            Network { root, .. } => root.clone(),
        }
    }

    /// The name of a tensor of this part from the network's root.
    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    fn find(&self, full: &str) -> Option<(&Stored, Cut)> {
        let (tensors, Network { root, names }) = (&self.opened.tensors, &*self.network);
        let (name, cut) = names.place(full);
        let stored = tensors.get(&format!("{root}{name}"));
        let older = || names::older(full).iter().find_map(|name| tensors.get(&format!("{root}{name}")));
        let stored = if *names == Names::Diffusers { stored.or_else(older) } else { stored };
        stored.map(|stored| (stored, cut))
    }
}
