use super::Client;
use clap::{Args, Subcommand};
use rbee_hive::HiveArgs;

/// Runs a hive in the foreground: it starts and watches the workers of this machine, and keeps their models.
///
/// A queen has a hive inside; this is for further machines, which lend their devices to her: rbee hive --queen URL
/// --token T, with the token that rbee hive invite prints on the queen's machine.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct HiveCommand {
    #[command(subcommand)]
    pub(crate) target: Option<HiveTarget>,
    #[command(flatten)]
    pub(crate) run: HiveArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HiveTarget {
    /// List the hives that the queen knows, with their devices.
    List(super::StatusArgs),
    /// Let a hive test itself.
    Check(super::DoctorArgs),
    /// Make a token with which the hive of another machine may join.
    Invite(InviteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// A name for the token, by which rbee key revoke means it (default: one that is drawn).
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) client: Client,
}

impl HiveCommand {
    pub(crate) fn wants_json(&self) -> bool {
        match &self.target {
            Some(HiveTarget::List(args)) => args.json,
            Some(HiveTarget::Check(args)) => args.json,
            Some(HiveTarget::Invite(args)) => args.json,
            None => false,
        }
    }
}
