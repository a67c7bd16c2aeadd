//! Weights from a formula: the twin of `tools/reference/formula.py`, equal in every bit.
//!
//! Element i of a tensor is splitmix64 of the hash of its name plus i, as a float32 in [-1, 1), times a scale that keeps variances as they
//! are: sqrt(3 / fan_in). Norms get 1 + 0.2 u, biases 0.1 u. What departs from that stands in `goldens/weights.json`.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

/// 2^64 over the golden ratio, splitmix64's increment.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01B3;
/// The standard deviation of token and position embeddings.
const EMBEDDING: f64 = 0.6;

/// `weights.json`: how each component departs from the formula, and which components make a kind.
#[derive(Deserialize)]
pub(crate) struct WeightsFile {
    pub(crate) components: BTreeMap<String, Component>,
    /// By kind: the folder of each part, such as `unet`, and its component.
    pub(crate) kinds: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Deserialize)]
pub(crate) struct Component {
    /// The list of tensors, `goldens/tensors/TOPOLOGY.txt`; the names' hashes begin with it.
    pub(crate) topology: String,
    /// The first whose ending a tensor's name has, of whole parts of the path, scales it.
    gains: Vec<(String, Gain)>,
    /// Tensors whose values are given in full.
    #[serde(default)]
    given: HashMap<String, Vec<f64>>,
    /// Tensors that the list lacks or has with another shape, as `32x9x3x3`.
    #[serde(default)]
    pub(crate) shapes: serde_json::Map<String, serde_json::Value>,
    /// What [`Checksum`] gives over all tensors.
    pub(crate) fnv1a: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Gain {
    All(f64),
    Rows(Vec<f64>),
}

/// One tensor of a component.
pub(crate) fn tensor(component: &Component, name: &str, shape: &[usize]) -> Vec<f32> {
    if let Some(values) = component.given.get(name) {
        return values.iter().map(|&value| value as f32).collect();
    }
    let key = fnv1a(&format!("{}.{name}", component.topology));
    let u = uniform(key, shape.iter().product());
    if let &[_] = shape {
        let norm = name.ends_with("weight");
        return u.map(|u| if norm { 1.0 + 0.2 * u } else { 0.1 * u }).collect();
    }
    let (row, unit) = (shape[1..].iter().product::<usize>(), 3f64.sqrt());
    let unit = if name.ends_with("embedding.weight") { unit * EMBEDDING } else { (3.0 / row as f64).sqrt() };
    let gain = component.gains.iter().find(|(ending, _)| format!(".{name}").ends_with(&format!(".{ending}")));
    let scale = |index: usize| match gain {
        None => unit as f32,
        Some((_, Gain::All(gain))) => (unit * gain) as f32,
        Some((_, Gain::Rows(gains))) => (unit * gains[index / row]) as f32,
    };
    u.enumerate().map(|(index, u)| u * scale(index)).collect()
}

/// The 64-bit FNV-1a hash of a text's UTF-8 bytes.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(FNV_OFFSET, |value, byte| (value ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

/// `count` values in [-1, 1): the upper 24 bits of splitmix64's outputs from the state `key` on.
fn uniform(key: u64, count: usize) -> impl Iterator<Item = f32> {
    (1..=count as u64).map(move |index| {
        let z = key.wrapping_add(index.wrapping_mul(GOLDEN));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let z = z ^ (z >> 31);
        (z >> 40) as f32 * 2f32.powi(-23) - 1.0
    })
}

/// FNV-1a over the bits of values, 32 at a time.
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn new() -> Self {
        Self(FNV_OFFSET)
    }

    pub(crate) fn add(&mut self, values: &[f32]) {
        for value in values {
            self.0 = (self.0 ^ u64::from(value.to_bits())).wrapping_mul(FNV_PRIME);
        }
    }

    /// In hexadecimal, as `weights.json` has it.
    pub(crate) fn show(&self) -> String {
        format!("{:016x}", self.0)
    }
}
