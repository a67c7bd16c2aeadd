//! Reading a network's `config.json`.
//!
//! An absent key has the default of its diffusers or transformers class. A key that changes the network in a way that is
//! not built here is refused by name, never ignored.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::ops::Activation;
use crate::{Error, Result};

/// One value for all blocks or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// One for each. Tried first: where `T` is a list of its own, the outermost list is that of the blocks.
    Each(Vec<T>),
    /// One for all.
    All(T),
}

/// A key whose other values change the network in a way that is not built here.
pub(super) struct Fixed {
    pub(super) key: &'static str,
    /// The values that are built, as JSON.
    pub(super) values: &'static [&'static str],
}

impl<T: Clone> PerBlock<T> {
    /// The value of each of `blocks` blocks.
    pub(super) fn expand(&self, key: &str, blocks: usize, file: &str) -> Result<Vec<T>> {
        match self {
            PerBlock::All(value) => Ok(vec![value.clone(); blocks]),
            PerBlock::Each(values) if values.len() == blocks => Ok(values.clone()),
            PerBlock::Each(values) => Err(bad(file, format!("{key} has {} values for {blocks} blocks", values.len()))),
        }
    }
}

/// Parses a config and refuses what is not built.
pub(super) fn parse<T: DeserializeOwned>(json: &str, file: &str, fixed: &[Fixed]) -> Result<T> {
    let map: Map<String, Value> =
        serde_json::from_str(json).map_err(|error| bad(file, format!("not a config: {error}")))?;
    for Fixed { key, values } in fixed {
        if let Some(value) = map.get(*key)
            && !values.contains(&value.to_string().as_str())
        {
            return Err(unsupported(file, key, value, format!("only {} is", values.join(" or "))));
        }
    }
    serde_json::from_value(Value::Object(map)).map_err(|error| bad(file, error.to_string()))
}

/// The activation that diffusers calls so.
pub(super) fn diffusers_activation(name: &str, key: &str, file: &str) -> Result<Activation> {
    match name.to_lowercase().as_str() {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "relu" => Ok(Activation::Relu),
        _ => Err(unsupported(file, key, name, "only silu, swish, gelu and relu are")),
    }
}

pub(super) fn unsupported(file: &str, field: &str, value: &(impl ToString + ?Sized), hint: impl Into<String>) -> Error {
    Error::Unsupported { config: file.into(), field: field.into(), value: value.to_string(), hint: hint.into() }
}

pub(super) fn bad(file: &str, reason: impl Into<String>) -> Error {
    Error::BadFile { path: file.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(default)]
    struct Sample {
        layers: PerBlock<PerBlock<usize>>,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { layers: PerBlock::All(PerBlock::All(1)) }
        }
    }

    fn layers(json: &str) -> PerBlock<PerBlock<usize>> {
        parse::<Sample>(json, "unet/config.json", &[]).unwrap().layers
    }

    #[test]
    fn the_outermost_list_is_that_of_the_blocks() {
        use PerBlock::{All, Each};
        assert_eq!(layers("{}"), All(All(1)));
        assert_eq!(layers(r#"{"layers": 2}"#), All(All(2)));
        assert_eq!(layers(r#"{"layers": [1, 2, 10]}"#), Each(vec![All(1), All(2), All(10)]));
        assert_eq!(layers(r#"{"layers": [1, [2, 3]]}"#), Each(vec![All(1), Each(vec![2, 3])]));
    }

    #[test]
    fn a_list_of_another_length_is_refused() {
        let error = layers(r#"{"layers": [1, 2]}"#).expand("layers", 3, "unet/config.json").unwrap_err();
        assert_eq!(error.to_string(), "unet/config.json: layers has 2 values for 3 blocks");
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let fixed = [Fixed { key: "class_embed_type", values: &["null"] }];
        assert!(parse::<Sample>(r#"{"class_embed_type": null}"#, "f", &fixed).is_ok());
        let error = parse::<Sample>(r#"{"class_embed_type": "timestep"}"#, "unet/config.json", &fixed).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unet/config.json: class_embed_type = \"timestep\" is not supported; only null is"
        );
    }

    #[test]
    fn what_is_no_config_is_an_error_that_names_the_file() {
        for json in ["", "[]", "{\"layers\": \"many\"}", "{\"layers\": -1}", "{"] {
            let error = parse::<Sample>(json, "unet/config.json", &[]).unwrap_err();
            assert!(error.to_string().starts_with("unet/config.json: "), "{json}: {error}");
        }
    }
}
