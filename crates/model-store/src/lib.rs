//! Models on this machine and how they get there: well-known names, downloads from the hub, the catalogue on disk.
//!
//! [`ModelStore`] is the whole of it: [`ModelStore::resolve`] tells what a name means here, [`ModelStore::download`]
//! brings what is missing, [`ModelStore::want`] does both for a program that serves one model, [`ModelStore::list`], [`ModelStore::get`] and [`ModelStore::delete`] keep the catalogue, and a
//! [`Lease`] keeps a model that is used from being deleted, by whichever process. Hives and workers share one store.

mod args;
mod cache;
mod catalogue;
mod data_dir;
mod download;
mod error;
mod hub;
mod listing;
mod local;
mod lock;
mod options;
mod select;
mod source;
mod store;
mod wanted;

pub use args::StoreArgs;
pub use data_dir::{data_dir, default_data_dir, models_dir};
pub use download::{Download, Progress, Stage};
pub use error::{Error, Result};
pub use options::{Patience, StoreOptions, Token};
pub use source::{Precision, Source};
pub use store::{Lease, ModelStore, Resolution};
pub use wanted::Wanted;
