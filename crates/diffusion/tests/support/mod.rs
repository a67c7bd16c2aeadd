//! What several tests need: the small models of the goldens, made from a formula.
#![allow(dead_code)] // each test file uses a part

pub(crate) mod checkpoint;
pub(crate) mod formula;
pub(crate) mod small_models;
mod vocabulary;

use std::path::PathBuf;

/// The folder of the committed references; `tools/reference/make_goldens.py` makes it.
pub(crate) fn goldens() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens"))
}
