use crate::error::Result;
use crate::store::ModelStore;
use crate::{StoreOptions, data_dir, models_dir};
use clap::builder::BoolishValueParser;
use std::path::PathBuf;

/// The flags of a program that uses models by name.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StoreArgs {
    /// Download nothing: a model that is not on this machine is an error.
    #[arg(long, env = "RBEE_OFFLINE", value_parser = BoolishValueParser::new())]
    pub offline: bool,
    /// Folder in which models lie (default: rbee in the XDG data folder, ~/.local/share/rbee).
    #[arg(long, env = "RBEE_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
}

impl StoreArgs {
    /// The store that the flags and the environment mean.
    ///
    /// # Errors
    /// The folder cannot be made, or a variable holds what cannot be followed.
    pub fn open(&self) -> Result<ModelStore> {
        let options = StoreOptions { offline: self.offline, ..StoreOptions::from_env()? };
        ModelStore::open_with(models_dir(&data_dir(self.data_dir.as_deref())?), options)
    }
}
