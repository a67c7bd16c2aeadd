use super::ask::{bytes, cell, queen, result, rows, running_queen};
use crate::cli::{ModelCommand, ModelDefaultArgs, ModelDownloadArgs, ModelIdArgs, ModelListArgs};
use crate::failure::Failure;
use crate::print;
use operations_contract::{ModelDeleteRequest, ModelDownloadRequest, ModelGetRequest, ModelListRequest, Operation};
use serde_json::{Value, json};

pub(super) async fn run(command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::Download(args) => download(args).await,
        ModelCommand::List(args) => list(args).await,
        ModelCommand::Show(args) => show(args).await,
        ModelCommand::Delete(args) => delete(args).await,
        ModelCommand::Default(args) => default(args).await,
    }
}

async fn download(args: ModelDownloadArgs) -> Result<(), Failure> {
    let on = args.on;
    let client = queen(&on.client).await?;
    let request = ModelDownloadRequest { hive_id: on.hive_id, model: super::model_path(&args.model) };
    let answer = result(&client, Operation::ModelDownload(request), on.json).await?;
    if on.json { print::json(&answer) } else { print::line(details(&answer["model"])) }
}

async fn list(args: ModelListArgs) -> Result<(), Failure> {
    let on = args.on;
    let client = queen(&on.client).await?;
    let request = ModelListRequest { hive_id: on.hive_id };
    let answer = result(&client, Operation::ModelList(request), true).await?;
    if on.json {
        return print::json(&answer);
    }
    let rows: Vec<Vec<String>> = rows(&answer, "models")
        .iter()
        .map(|model| vec![cell(model, "id"), cell(model, "name"), cell(model, "kind"), size(model)])
        .collect();
    print::line(print::table(&["ID", "NAME", "KIND", "SIZE"], &rows))
}

async fn show(args: ModelIdArgs) -> Result<(), Failure> {
    let on = args.on;
    let client = running_queen(&on.client).await?;
    let request = ModelGetRequest { hive_id: on.hive_id, id: args.id };
    let answer = result(&client, Operation::ModelGet(request), true).await?;
    if on.json { print::json(&answer) } else { print::line(details(&answer["model"])) }
}

async fn delete(args: ModelIdArgs) -> Result<(), Failure> {
    let on = args.on;
    let client = running_queen(&on.client).await?;
    let request = ModelDeleteRequest { hive_id: on.hive_id, id: args.id.clone() };
    let answer = result(&client, Operation::ModelDelete(request), on.json).await?;
    if on.json { print::json(&answer) } else { print::line(format!("deleted {}", args.id)) }
}

async fn default(args: ModelDefaultArgs) -> Result<(), Failure> {
    let client = queen(&args.client).await?;
    let path = ["v1", "settings", "default-model"];
    let answer: Value = match args.model {
        None => client.get(&path).await?,
        Some(model) => client.put(&path, &json!({ "model": super::model_path(&model) })).await?,
    };
    if args.json {
        return print::json(&answer);
    }
    print::line(format!("pictures  {}\ntext      {}", cell(&answer, "image"), cell(&answer, "text")))
}

fn size(model: &Value) -> String {
    model["bytes"].as_u64().map(bytes).unwrap_or_default()
}

fn details(model: &Value) -> String {
    let plain = ["id", "name", "source", "revision", "kind", "path"].map(|key| (key, cell(model, key)));
    let files = rows(model, "files");
    let counted = (!files.is_empty()).then(|| ("files", files.len().to_string()));
    let lines = plain.into_iter().chain(counted).chain([("size", size(model))]);
    let lines: Vec<String> =
        lines.filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name:<12}{value}")).collect();
    lines.join("\n")
}
