use super::Client;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; it is shown once and stored as a hash.
    Create(KeyCreateArgs),
    /// List the keys, without their secrets.
    List(KeyListArgs),
    /// Revoke a key: whoever has it is refused from now on.
    Revoke(KeyRevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct KeyCreateArgs {
    /// Whose key it is.
    pub(crate) name: String,
    /// The key may also see and cancel the jobs of others, and make and revoke keys.
    #[arg(long)]
    pub(crate) admin: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct KeyListArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args)]
pub(crate) struct KeyRevokeArgs {
    /// The key's name, as rbee key list shows it.
    pub(crate) key: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

impl KeyCommand {
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Create(args) => args.json,
            Self::List(args) => args.json,
            Self::Revoke(args) => args.json,
        }
    }
}
