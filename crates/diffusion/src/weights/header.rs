//! A safetensors file's header: eight bytes of length, then JSON that says where each tensor lies.
//!
//! Read here and not by the `safetensors` crate because its errors do not say which tensor is at fault, and because one tensor of a type
//! that it does not know would refuse the whole file.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::weights::view::bits_of;

/// The format's own limit; a longer header is an attack or no safetensors file.
const MAX_HEADER: u64 = 100_000_000;

/// Where a tensor lies, `begin..end` counted from the start of the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) begin: usize,
    pub(super) end: usize,
}

/// What a header says.
#[derive(Debug)]
pub(super) struct Header {
    /// The tensors by name.
    pub(super) entries: HashMap<String, Entry>,
    /// `__metadata__`: texts about the file.
    pub(super) metadata: HashMap<String, String>,
}

/// A name out of a file as it may stand in a message: no control characters, not endless.
pub(crate) fn shown(name: &str) -> String {
    let mut text: String = name.escape_debug().take(200).collect();
    if name.len() > 200 {
        text.push('…');
    }
    text
}

/// Reads the header of a whole file and checks that its tensors cover the rest of the file exactly once.
pub(super) fn read(bytes: &[u8]) -> Result<Header, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!("is not a safetensors file: it has only {} bytes; it may be truncated", bytes.len()));
    };
    if bytes.starts_with(b"GGUF") {
        return Err(
            "is a GGUF file; picture models are read from safetensors, so take the model's safetensors file or folder"
                .to_owned(),
        );
    }
    let length = u64::from_le_bytes(*length);
    let start = usize::try_from(length).unwrap_or(usize::MAX);
    let Some(header) = rest.get(..start).filter(|_| length <= MAX_HEADER) else {
        let what = if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x80]) {
            "is a pickle file under another name, which can run any code when it is read; take the model's safetensors files"
        } else if length > MAX_HEADER {
            "is not a safetensors file"
        } else {
            "is truncated; download it again"
        };
        return Err(format!("{what}: its header would have {length} bytes, the whole file has {}", bytes.len()));
    };
    let header: RawHeader = serde_json::from_slice(header)
        .map_err(|error| format!("has a broken header: {}", shown(&error.to_string())))?;
    let RawHeader { tensors, metadata } = header;
    Ok(Header { entries: place(tensors, 8 + start, bytes.len())?, metadata })
}

/// Turns offsets behind the header into offsets in the file; refuses overlaps, gaps and what lies outside.
fn place(tensors: HashMap<String, Raw>, start: usize, length: usize) -> Result<HashMap<String, Entry>, String> {
    let mut sorted: Vec<(&String, &Raw)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, raw)| (raw.data_offsets, *name));
    let (mut at, mut previous) = (0, None::<&String>);
    for (name, raw) in sorted {
        let (begin, end) = raw.data_offsets;
        let tensor = shown(name);
        if begin < at {
            return Err(format!("is broken: tensor {tensor} overlaps {}", shown(previous.unwrap_or(name))));
        }
        if begin > at {
            return Err(format!("is broken: {} bytes before tensor {tensor} belong to none", begin - at));
        }
        if end < begin {
            return Err(format!("is broken: tensor {tensor} ends at {end}, before it begins at {begin}"));
        }
        if let Some(bits) = bits_of(&raw.dtype) {
            let bits = raw.shape.iter().try_fold(bits, |product, &side| product.checked_mul(side));
            if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != end - begin) {
                let (dtype, shape) = (&raw.dtype, &raw.shape);
                return Err(format!(
                    "is broken: tensor {tensor} has {} bytes, which {dtype} of shape {shape:?} has not",
                    end - begin
                ));
            }
        }
        if end > length - start {
            return Err(format!(
                "is truncated: tensor {tensor} ends {} bytes behind the end of the file; download it again",
                end - (length - start)
            ));
        }
        (at, previous) = (end, Some(name));
    }
    if at != length - start {
        return Err(format!("is broken: {} bytes at its end belong to no tensor", length - start - at));
    }
    let entry = |raw: Raw| Entry {
        dtype: raw.dtype,
        shape: raw.shape,
        begin: start + raw.data_offsets.0,
        end: start + raw.data_offsets.1,
    };
    Ok(tensors.into_iter().map(|(name, raw)| (name, entry(raw))).collect())
}

#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

struct RawHeader {
    tensors: HashMap<String, Raw>,
    metadata: HashMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let (mut tensors, mut metadata) = (HashMap::new(), HashMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // Texts, says the format; some writers put other things there, which nobody needs.
                        let texts = map.next_value::<Value>()?;
                        let texts = texts.as_object().into_iter().flatten();
                        metadata =
                            texts.filter_map(|(key, text)| Some((key.clone(), text.as_str()?.to_owned()))).collect();
                        continue;
                    }
                    let raw = map
                        .next_value::<Raw>()
                        .map_err(|error| A::Error::custom(format!("tensor {}: {error}", shown(&name))))?;
                    if tensors.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {} is there twice", shown(&name))));
                    }
                    tensors.insert(name, raw);
                }
                Ok(RawHeader { tensors, metadata })
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
