use super::ask::{cell, queen, result, rows, running_queen};
use crate::cli::{LogsArgs, SpawnArgs, WorkerCommand, WorkerListArgs, WorkerPidArgs};
use crate::failure::{Exit, Failure};
use crate::print;
use job_server::client::Client;
use operations_contract::{
    Operation, WorkerProcessDeleteRequest, WorkerProcessGetRequest, WorkerProcessListRequest, WorkerSpawnRequest,
};
use serde_json::{Map, Value};
use std::io::Write;

pub(super) async fn run(command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::Sd(args) => super::daemons::worker_sd(*args).await,
        WorkerCommand::Llm { arguments } => super::daemons::worker_llm(&arguments),
        WorkerCommand::Spawn(args) => spawn(args).await,
        WorkerCommand::List(args) => list(&args).await,
        WorkerCommand::Show(args) => show(args).await,
        WorkerCommand::Stop(args) => stop(args).await,
        WorkerCommand::Logs(args) => logs(&args).await,
    }
}

async fn spawn(args: SpawnArgs) -> Result<(), Failure> {
    let on = &args.on;
    let request = WorkerSpawnRequest {
        hive_id: on.hive_id.clone(),
        model: super::model_path(&args.model),
        worker: args.worker,
        device: args.device,
        port: args.port,
        options: options(&args.options)?,
    };
    let client = queen(&on.client).await?;
    let answer = result(&client, Operation::WorkerSpawn(request), on.json).await?;
    if on.json { print::json(&answer) } else { print::line(details(&answer["worker"])) }
}

async fn list(args: &WorkerListArgs) -> Result<(), Failure> {
    let on = &args.on;
    let client = running_queen(&on.client).await?;
    let answer = workers(&client, &on.hive_id).await?;
    if on.json {
        return print::json(&answer);
    }
    let rows = rows(&answer, "workers");
    if rows.is_empty() {
        return print::line("no workers; one is started for the first job");
    }
    print::line(table(rows))
}

/// The table of workers, as `rbee status` shows it too.
pub(super) fn table(workers: &[Value]) -> String {
    let columns = ["worker_id", "state", "model", "device", "pid"];
    let rows: Vec<Vec<String>> =
        workers.iter().map(|worker| columns.map(|column| cell(worker, column)).to_vec()).collect();
    print::table(&["WORKER", "STATE", "MODEL", "DEVICE", "PID"], &rows)
}

async fn show(args: WorkerPidArgs) -> Result<(), Failure> {
    let on = &args.on;
    let client = running_queen(&on.client).await?;
    let pid = pid(&client, &on.hive_id, &args.worker).await?;
    let request = WorkerProcessGetRequest { hive_id: on.hive_id.clone(), pid };
    let answer = result(&client, Operation::WorkerProcessGet(request), true).await?;
    if on.json { print::json(&answer) } else { print::line(details(&answer["worker"])) }
}

async fn stop(args: WorkerPidArgs) -> Result<(), Failure> {
    let on = &args.on;
    let client = running_queen(&on.client).await?;
    let pid = pid(&client, &on.hive_id, &args.worker).await?;
    let request = WorkerProcessDeleteRequest { hive_id: on.hive_id.clone(), pid };
    let answer = result(&client, Operation::WorkerProcessDelete(request), on.json).await?;
    if on.json { print::json(&answer) } else { print::line(format!("stopped the worker with the process id {pid}")) }
}

async fn logs(args: &LogsArgs) -> Result<(), Failure> {
    let client = running_queen(&args.client).await?;
    let follow = if args.follow { "true" } else { "false" };
    let mut log = client.text(&["v1", "workers", &args.id, "logs"], &[("follow", follow)]).await?;
    let mut interrupts = crate::follow::Interrupts::catch();
    loop {
        let chunk = tokio::select! {
            chunk = log.next() => chunk?,
            // Whoever follows a log ends it this way; it is no failure.
            () = interrupts.next() => return Ok(()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(&chunk).and_then(|()| stdout.flush()).is_err() {
            return Ok(());
        }
    }
}

async fn workers(client: &Client, hive_id: &str) -> Result<Value, Failure> {
    let request = WorkerProcessListRequest { hive_id: hive_id.to_owned() };
    result(client, Operation::WorkerProcessList(request), true).await
}

/// A process id as it is, or that of the worker with the id.
async fn pid(client: &Client, hive_id: &str, given: &str) -> Result<u32, Failure> {
    if let Ok(pid) = given.parse() {
        return Ok(pid);
    }
    let answer = workers(client, hive_id).await?;
    let known = rows(&answer, "workers").iter().find(|worker| cell(worker, "worker_id") == given);
    known.and_then(|worker| worker["pid"].as_u64()).and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("there is no worker {given}")).hint("see them with: rbee worker list")
    })
}

fn details(worker: &Value) -> String {
    let lines = worker.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let lines: Vec<String> =
        lines.map(|(name, _)| format!("{:<12}{}", name.replace('_', " "), cell(worker, name))).collect();
    lines.join("\n")
}

/// `threads=2` → 2, `low-memory` → true, `precision=f16` → "f16".
fn options(given: &[String]) -> Result<Map<String, Value>, Failure> {
    given
        .iter()
        .map(|option| {
            let (name, value) =
                option.split_once('=').map_or((option.as_str(), None), |(name, value)| (name, Some(value)));
            if name.is_empty() {
                return Err(Failure::new(Exit::Usage, format!("{option:?} names no flag"))
                    .hint("give options as -o NAME=VALUE or -o NAME"));
            }
            let value = match value {
                None | Some("true") => Value::Bool(true),
                Some("false") => Value::Bool(false),
                Some(text) => text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
            };
            Ok((name.to_owned(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_have_the_type_that_they_look_like() {
        let given = ["threads=2", "low-memory", "use-f16=false", "precision=f16", "x=a=b"].map(str::to_owned);
        let expected = json!({"threads": 2, "low-memory": true, "use-f16": false, "precision": "f16", "x": "a=b"});
        assert_eq!(Value::Object(options(&given).unwrap()), expected);
        assert!(options(&["=2".to_owned()]).is_err());
    }
}
