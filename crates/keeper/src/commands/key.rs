use super::ask::{cell, rows, running_queen};
use crate::cli::{InviteArgs, KeyCommand, KeyCreateArgs, KeyListArgs, KeyRevokeArgs};
use crate::failure::Failure;
use crate::print;
use serde_json::{Value, json};

const PATH: [&str; 2] = ["v1", "keys"];

pub(super) async fn run(command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Create(args) => create(args).await,
        KeyCommand::List(args) => list(&args).await,
        KeyCommand::Revoke(args) => revoke(&args).await,
    }
}

async fn create(args: KeyCreateArgs) -> Result<(), Failure> {
    let client = super::ask::queen(&args.client).await?;
    let made: Value = client.post(&PATH, &json!({ "name": args.name, "admin": args.admin })).await?;
    if args.json {
        return print::json(&made);
    }
    eprintln!("keep it: it is not shown again");
    print::line(cell(&made, "key"))
}

/// A token is a key that lets a hive in, and nobody else.
pub(super) async fn invite(args: &InviteArgs) -> Result<(), Failure> {
    let client = super::ask::queen(&args.client).await?;
    let asked = args.name.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name }));
    let made: Value = client.post(&["v1", "hives", "invite"], &asked).await?;
    if args.json {
        return print::json(&made);
    }
    eprintln!("on the other machine, with the address at which it reaches this one; the token is not shown again:");
    print::line(format!("rbee hive --queen {} --token {}", client.url(), cell(&made, "key")))
}

async fn list(args: &KeyListArgs) -> Result<(), Failure> {
    let keys: Value = running_queen(&args.client).await?.get(&PATH).await?;
    if args.json {
        return print::json(&keys);
    }
    let rows = rows(&keys, "keys");
    if rows.is_empty() {
        return print::line("no keys: only this machine is served");
    }
    let rows: Vec<Vec<String>> =
        rows.iter().map(|key| ["id", "name", "role"].map(|name| cell(key, name)).to_vec()).collect();
    print::line(print::table(&["ID", "NAME", "ROLE"], &rows))
}

async fn revoke(args: &KeyRevokeArgs) -> Result<(), Failure> {
    let client = running_queen(&args.client).await?;
    client.delete(&["v1", "keys", &args.key]).await?;
    if args.json { print::json(&json!({ "revoked": args.key })) } else { print::line(format!("revoked {}", args.key)) }
}
