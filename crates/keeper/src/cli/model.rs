use super::Client;
use clap::{Args, Subcommand};
use operations_contract::LOCALHOST;

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Download a model, or take one that lies on the hive's disk into its catalogue.
    Download(ModelDownloadArgs),
    /// List the models that are there.
    List(ModelListArgs),
    /// Show one model.
    Show(ModelIdArgs),
    /// Delete a model from disk; one that is in use stays.
    Delete(ModelIdArgs),
    /// Show the models that are taken where none is named, or set one.
    Default(ModelDefaultArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ModelDownloadArgs {
    /// A well-known name (sd-1.5), a hub repository (owner/name), one file of it (owner/name:file.gguf), an address
    /// (https://…/model.safetensors), or a path on the hive's machine.
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) on: OnHive,
}

#[derive(Debug, Args)]
pub(crate) struct ModelListArgs {
    #[command(flatten)]
    pub(crate) on: OnHive,
}

#[derive(Debug, Args)]
pub(crate) struct ModelIdArgs {
    /// The model's id, as rbee model list shows it.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) on: OnHive,
}

#[derive(Debug, Args)]
pub(crate) struct ModelDefaultArgs {
    /// The model to take from now on; absent: show which are taken.
    pub(crate) model: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

/// Which hive is meant, and how its answer is printed.
#[derive(Debug, Args)]
pub(crate) struct OnHive {
    /// Hive that is meant (default: the one of the queen's own machine).
    #[arg(long, default_value = LOCALHOST, hide_default_value = true, value_name = "ID")]
    pub(crate) hive_id: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

impl ModelCommand {
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Download(args) => args.on.json,
            Self::List(args) => args.on.json,
            Self::Show(args) | Self::Delete(args) => args.on.json,
            Self::Default(args) => args.json,
        }
    }
}
