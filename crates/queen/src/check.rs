use crate::server::QueenServer;
use job_server::client::Client;
use operations_contract::{ApiError, Level};
use rbee_hive::agent::Reporter;
use serde_json::{Value, json};

/// The self-test of a queen: she asks herself and her hive over their own addresses, as others would, and looks whether
/// what she keeps can be read.
pub(crate) async fn run(queen: &QueenServer, job: &dyn Reporter) -> Result<Value, ApiError> {
    let mut findings = Vec::new();
    let mut tell = |name: &str, ok: bool, message: String| {
        let level = if ok { Level::Info } else { Level::Warn };
        job.narrate(level, "queen_check", format!("{name}: {message}"));
        findings.push(json!({"name": name, "ok": ok, "message": message}));
        ok
    };
    let mut all_ok = true;
    let addresses = queen.addresses();
    for (name, url) in [("queen", &addresses.queen), ("hive", &addresses.hive)] {
        let answer = match Client::new(url) {
            Ok(client) => client.alive().await,
            Err(error) => Err(error),
        };
        all_ok &= match answer {
            Ok(()) => tell(name, true, format!("{url} answers")),
            Err(error) => tell(name, false, error.to_string()),
        };
    }
    all_ok &= match queen.broker().counts().await {
        Ok(counts) => {
            let message = format!("{} wait, {} run, {} are kept", counts.queued, counts.running, counts.kept);
            tell("jobs", true, message)
        }
        Err(error) => tell("jobs", false, error.to_string()),
    };
    let hives = queen.hives().await?;
    let workers: usize = hives.iter().map(|hive| hive.workers.len()).sum();
    let message = match workers {
        0 => "none runs; one is started for the first job".to_owned(),
        many => format!("{many} on {} hives", hives.len()),
    };
    tell("workers", true, message);
    Ok(json!({ "ok": all_ok, "checks": findings }))
}
