use crate::cli::StatusArgs;
use crate::daemon;
use crate::failure::{Exit, Failure};
use crate::print;
use job_server::client::Client;
use operations_contract::{Completion, JobEvent, Operation, StatusRequest};
use serde_json::{Value, json};

pub(super) async fn run(args: &StatusArgs) -> Result<(), Failure> {
    let Some(client) = daemon::existing(&args.client).await? else {
        if args.json {
            return print::json(&json!({ "queen": null }));
        }
        return print::line("no queen runs on this machine; start one with: rbee up");
    };
    let status = status(&client).await?;
    if args.json { print::json(&status) } else { print::line(render(&status, client.url())) }
}

async fn status(client: &Client) -> Result<Value, Failure> {
    let job = client.create_job(&Operation::Status(StatusRequest {})).await?;
    let mut events = client.events(&job.job_id, 0);
    while let Some((_, event)) = events.next().await? {
        match event {
            JobEvent::Complete(Completion::Result { result }) => return Ok(result),
            JobEvent::Error { message, .. } => return Err(Failure::new(Exit::Failed, message)),
            _ => {}
        }
    }
    Err(Failure::new(Exit::Failed, "the queen did not say how she is"))
}

fn render(status: &Value, url: &str) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let queen = &status["queen"];
    let mut lines = vec![
        format!("queen {} at {url}, process {}", text(&queen["version"]), queen["pid"]),
        format!("data  {}", text(&queen["data_dir"])),
        format!("jobs  {} running, {} waiting", status["queue"]["running"], status["queue"]["queued"]),
    ];
    for hive in status["hives"].as_array().into_iter().flatten() {
        lines.push(format!("hive  {} at {}", text(&hive["hive_id"]), text(&hive["url"])));
        let workers = hive["workers"].as_array().cloned().unwrap_or_default();
        if workers.is_empty() {
            lines.push("no workers; one is started for the first job".to_owned());
            continue;
        }
        let cell = |worker: &Value, key: &str| worker.get(key).map(&text).unwrap_or_default();
        let rows: Vec<Vec<String>> = workers
            .iter()
            .map(|worker| ["worker_id", "state", "model", "device", "pid", "log"].map(|key| cell(worker, key)).to_vec())
            .collect();
        lines.push(print::table(&["WORKER", "STATE", "MODEL", "DEVICE", "PID", "LOG"], &rows));
    }
    lines.join("\n")
}
