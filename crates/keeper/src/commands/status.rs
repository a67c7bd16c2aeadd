use super::ask::{bytes, cell, result, rows, running_queen};
use super::worker;
use crate::cli::StatusArgs;
use crate::daemon;
use crate::failure::Failure;
use crate::follow::Interrupts;
use crate::print;
use job_server::client::Client;
use operations_contract::{Operation, StatusRequest};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);

pub(super) async fn run(args: &StatusArgs) -> Result<(), Failure> {
    let Some(client) = daemon::existing(&args.client).await? else {
        if args.json {
            return print::json(&json!({ "queen": null }));
        }
        return print::line("no queen runs on this machine; start one with: rbee up");
    };
    if args.watch {
        return watch(&client).await;
    }
    let status = status(&client).await?;
    if args.json { print::json(&status) } else { print::line(render(&status, client.url())) }
}

/// The hives alone, with what they compute on.
pub(super) async fn hives(args: &StatusArgs) -> Result<(), Failure> {
    let status = status(&running_queen(&args.client).await?).await?;
    if args.json {
        return print::json(&json!({ "hives": status["hives"] }));
    }
    let lines: Vec<String> = rows(&status, "hives").iter().flat_map(hive).collect();
    print::line(lines.join("\n"))
}

async fn status(client: &Client) -> Result<Value, Failure> {
    result(client, Operation::Status(StatusRequest {}), true).await
}

/// Draws over what was drawn before; where standard output is no terminal, one picture after the other.
async fn watch(client: &Client) -> Result<(), Failure> {
    let mut interrupts = Interrupts::catch();
    let terminal = std::io::stdout().is_terminal();
    loop {
        let text = render(&status(client).await?, client.url());
        if terminal {
            // Home, each line cleared to its end, and everything below.
            let text = text.replace('\n', "\x1b[K\n");
            let _ = write!(std::io::stdout().lock(), "\x1b[H{text}\x1b[K\n\x1b[J");
        } else {
            print::line(text)?;
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            () = interrupts.next() => return Ok(()),
        }
    }
}

fn render(status: &Value, url: &str) -> String {
    let queen = &status["queen"];
    let mut lines = vec![
        format!("queen {} at {url}, process {}", cell(queen, "version"), cell(queen, "pid")),
        format!("data  {}", cell(queen, "data_dir")),
        format!("jobs  {} running, {} waiting", status["queue"]["running"], status["queue"]["queued"]),
    ];
    for known in rows(status, "hives") {
        lines.extend(hive(known));
        let workers = rows(known, "workers");
        lines.push(match workers {
            [] => "no workers; one is started for the first job".to_owned(),
            workers => worker::table(workers),
        });
    }
    let jobs = rows(&status["queue"], "jobs");
    if !jobs.is_empty() {
        let rows: Vec<Vec<String>> = jobs.iter().map(job).collect();
        lines.push(String::new());
        lines.push(print::table(&["JOB", "OPERATION", "STATE", "PROGRESS", "WAITS FOR"], &rows));
    }
    lines.join("\n")
}

fn hive(hive: &Value) -> Vec<String> {
    let mut lines = vec![format!("hive  {} at {}", cell(hive, "hive_id"), cell(hive, "url"))];
    for device in rows(hive, "devices") {
        let memory = match (device["memory_free_bytes"].as_u64(), device["memory_total_bytes"].as_u64()) {
            (Some(free), Some(total)) => format!(", {} of {} free", bytes(free), bytes(total)),
            _ => String::new(),
        };
        lines.push(format!(
            "      {} {} {}{memory}",
            cell(device, "kind"),
            cell(device, "index"),
            cell(device, "name")
        ));
    }
    lines
}

fn job(job: &Value) -> Vec<String> {
    let progress = match (job["position"].as_u64(), job["progress"]["total"].as_u64()) {
        (Some(position), _) => format!("position {position}"),
        (None, Some(total)) if total > 1 => format!("{}/{total}", job["progress"]["step"]),
        _ => String::new(),
    };
    let named = |key| cell(job, key);
    vec![named("job_id"), named("operation"), named("state"), progress, named("waits_for")]
}
