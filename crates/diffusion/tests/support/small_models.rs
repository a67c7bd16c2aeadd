//! Diffusers folders of the small kinds: committed configs with weights from the formula, written once and kept among the build's outputs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::f16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::Deserialize;
use serde_json::Value;

use super::formula::{Component, WeightsFile, tensor};
use super::{goldens, vocabulary};

/// Which of the small models: a kind of `tools/reference/kinds.py`, its autoencoder and its files' numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SmallModel {
    pub(crate) kind: String,
    /// `AutoencoderTiny` in place of the kind's own.
    pub(crate) tiny_vae: bool,
    /// Weights in `*.fp16.safetensors`.
    pub(crate) f16: bool,
    /// Keys that replace those of the kind's `scheduler_config.json`.
    pub(crate) scheduler: Changes,
}

/// Keys and values of a config.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(from = "BTreeMap<String, Value>")]
pub(crate) struct Changes(BTreeMap<String, String>);

impl From<BTreeMap<String, Value>> for Changes {
    fn from(changes: BTreeMap<String, Value>) -> Self {
        Self(changes.into_iter().map(|(key, value)| (key, value.to_string())).collect())
    }
}

impl Changes {
    /// A short text that differs where the changes do.
    fn name(&self) -> String {
        let mut version = Version::default();
        self.0.iter().for_each(|change| version.add(format!("{change:?}").as_bytes()));
        if self.0.is_empty() { String::new() } else { format!("-{:016x}", version.0) }
    }

    fn apply(&self, config: &Path) {
        let text = fs::read_to_string(config).expect("a kind has this config");
        let mut object: BTreeMap<String, Value> = serde_json::from_str(&text).expect("a config is an object");
        for (key, value) in &self.0 {
            object.insert(key.clone(), value.parse().expect("written by to_string"));
        }
        fs::write(config, serde_json::to_string(&object).expect("keys are text")).expect("writes a config");
    }
}

impl SmallModel {
    /// The diffusers folder of this model, written first where it is not there.
    pub(crate) fn folder(&self) -> PathBuf {
        let weights = weights_file();
        let name = format!(
            "{}{}{}{}",
            self.kind,
            if self.tiny_vae { "-tiny-vae" } else { "" },
            if self.f16 { "-f16" } else { "" },
            self.scheduler.name(),
        );
        let folder = store().join(name);
        if folder.exists() {
            return folder;
        }
        let made = scratch(&store());
        let configs = goldens().join("kinds").join(&self.kind);
        copy_configs(&configs, made.path());
        self.scheduler.apply(&made.path().join("scheduler/scheduler_config.json"));
        for tokenizer in ["tokenizer", "tokenizer_2"].map(|name| made.path().join(name)) {
            if tokenizer.exists() {
                vocabulary::write(&tokenizer);
            }
        }
        for (part, id) in &weights.kinds[&self.kind] {
            let tiny = self.tiny_vae && part == "vae";
            let (id, into) = (if tiny { "vae-tiny" } else { id }, made.path().join(part));
            let stem = if part.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
            let file = format!("{stem}{}.safetensors", if self.f16 { ".fp16" } else { "" });
            let component = component_file(id, &weights.components[id], self.f16);
            // Kinds share components; where the disk has no hard links, each gets its copy.
            if fs::hard_link(&component, into.join(&file)).is_err() {
                fs::copy(&component, into.join(&file)).expect("copies a component");
            }
            if tiny {
                let config = goldens().join("kinds/tiny-vae/config.json");
                fs::copy(config, into.join("config.json")).expect("copies the tiny config");
                let index = made.path().join("model_index.json");
                let text = fs::read_to_string(&index).expect("reads model_index.json");
                let text = text.replace("AutoencoderKL", "AutoencoderTiny");
                fs::write(&index, text).expect("writes model_index.json");
            }
        }
        place(made, &folder);
        folder
    }

    /// As [`SmallModel::folder`], of a kind with its own autoencoder in float32.
    pub(crate) fn of(kind: &str) -> PathBuf {
        let kind = kind.to_owned();
        Self { kind, ..Self::default() }.folder()
    }
}

/// The committed calibrations.
pub(crate) fn weights_file() -> WeightsFile {
    let text = fs::read_to_string(goldens().join("weights.json")).expect("weights.json is there");
    serde_json::from_str(&text).expect("weights.json is as formula.rs reads it")
}

/// The names and shapes of a component's tensors, in the order of its checksum.
pub(crate) fn tensors_of(component: &Component) -> Vec<(String, Vec<usize>)> {
    let list = goldens().join(format!("tensors/{}.txt", component.topology));
    let list = fs::read_to_string(list).expect("a topology has its list of tensors");
    let mut tensors: Vec<(String, Vec<usize>)> = list
        .lines()
        .map(|line| line.split_once(' ').expect("a line is a name and a shape"))
        .map(|(name, shape)| (name.to_owned(), parse_shape(shape)))
        .collect();
    for (name, shape) in &component.shapes {
        let shape = parse_shape(shape.as_str().expect("a shape is a text"));
        match tensors.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = shape,
            None => tensors.push((name.clone(), shape)),
        }
    }
    tensors
}

fn parse_shape(text: &str) -> Vec<usize> {
    text.split('x').map(|side| side.parse().expect("a shape is numbers")).collect()
}

/// Where models are kept, by the version of all that they are made from.
fn store() -> PathBuf {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    let store = STORE.get_or_init(|| {
        let code = [include_str!("formula.rs"), include_str!("small_models.rs"), include_str!("vocabulary.rs")];
        let mut version = Version::default();
        code.iter().for_each(|text| version.add(text.as_bytes()));
        for part in ["weights.json", "tensors", "kinds"] {
            version.add_files(&goldens().join(part));
        }
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("small-models-{:016x}", version.0))
    });
    fs::create_dir_all(store).expect("the build's folder can be written");
    store.clone()
}

/// The FNV-1a hash of files.
struct Version(u64);

impl Default for Version {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Version {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn add_files(&mut self, path: &Path) {
        if path.is_file() {
            return self.add(&fs::read(path).expect("reads what models are made from"));
        }
        let entries = fs::read_dir(path).expect("the goldens have their folders");
        let mut entries: Vec<PathBuf> = entries.map(|entry| entry.expect("lists a folder").path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| self.add_files(entry));
    }
}

fn scratch(store: &Path) -> tempfile::TempDir {
    tempfile::tempdir_in(store).expect("the build's folder can be written")
}

/// Renames what is whole into its place; where another test was faster, its own is as good.
fn place(made: tempfile::TempDir, folder: &Path) {
    if fs::rename(made.path(), folder).is_ok() {
        let _gone = made.keep();
    } else {
        assert!(folder.exists(), "{} cannot be written", folder.display());
    }
}

fn copy_configs(from: &Path, into: &Path) {
    fs::create_dir_all(into).expect("makes a folder");
    for entry in fs::read_dir(from).expect("a kind has its configs") {
        let entry = entry.expect("lists a folder");
        let target = into.join(entry.file_name());
        if entry.path().is_dir() {
            copy_configs(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies a config");
        }
    }
}

fn component_file(id: &str, component: &Component, half: bool) -> PathBuf {
    let folder = store().join(if half { format!("component-{id}-f16") } else { format!("component-{id}") });
    let file = folder.join("weights.safetensors");
    if file.exists() {
        return file;
    }
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors_of(component)
        .into_iter()
        .map(|(name, shape)| {
            let values = tensor(component, &name, &shape);
            let bytes = if half {
                values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
            } else {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            };
            (name, shape, bytes)
        })
        .collect();
    let dtype = if half { Dtype::F16 } else { Dtype::F32 };
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.clone(), bytes);
        (name, view.expect("as many values as the shape says"))
    });
    let made = scratch(&store());
    serialize_to_file(views, None, &made.path().join("weights.safetensors")).expect("writes the weights");
    place(made, &folder);
    file
}
