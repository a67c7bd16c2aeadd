use crate::server::QueenServer;
use job_server::JobHandle;
use job_server::client::Client;
use operations_contract::Level;
use serde_json::{Value, json};

/// The self-test of a queen: she asks herself and her hive over their own addresses, as others would.
pub(crate) async fn run(queen: &QueenServer, job: &JobHandle) -> Value {
    let addresses = queen.addresses();
    let mut findings = Vec::new();
    let mut all_ok = true;
    for (name, url) in [("queen", &addresses.queen), ("hive", &addresses.hive)] {
        let answer = match Client::new(url) {
            Ok(client) => client.alive().await,
            Err(error) => Err(error),
        };
        let (level, message) = match &answer {
            Ok(()) => (Level::Info, format!("{url} answers")),
            Err(error) => (Level::Warn, error.to_string()),
        };
        all_ok &= answer.is_ok();
        job.narrate(level, "queen_check", format!("{name}: {message}"));
        findings.push(json!({"name": name, "ok": answer.is_ok(), "message": message}));
    }
    let workers = queen.hive().ready_workers().len();
    let message = match workers {
        0 => "none runs; one is started for the first job".to_owned(),
        1 => "1 can serve".to_owned(),
        many => format!("{many} can serve"),
    };
    job.narrate(Level::Info, "queen_check", format!("workers: {message}"));
    findings.push(json!({"name": "workers", "ok": true, "message": message}));
    json!({ "ok": all_ok, "checks": findings })
}
