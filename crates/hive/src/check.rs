use crate::agent::Reporter;
use crate::devices::devices;
use crate::hive::Hive;
use job_server::client::Client;
use operations_contract::{Level, WorkerKind};
use serde_json::{Value, json};
use std::fs;

/// One thing that was looked at.
struct Finding {
    name: &'static str,
    ok: bool,
    message: String,
}

/// The self-test of a hive: each finding is told as it is made, all of them are the result.
pub(crate) async fn run(hive: &Hive, job: &dyn Reporter) -> Value {
    let mut findings = Vec::new();
    let mut tell = |finding: Finding| {
        let level = if finding.ok { Level::Info } else { Level::Warn };
        job.narrate(level, "hive_check", format!("{}: {}", finding.name, finding.message));
        findings.push(json!({"name": finding.name, "ok": finding.ok, "message": finding.message}));
        finding.ok
    };
    let mut ok = tell(machine());
    ok &= tell(data_folder(hive));
    ok &= tell(program(hive, WorkerKind::Cpu));
    // A machine without a GPU is well all the same.
    for kind in [WorkerKind::Cuda, WorkerKind::Metal] {
        if hive.shared.config.programs.sd_worker(kind).is_ok() {
            tell(program(hive, kind));
        }
    }
    for worker in hive.ready_workers() {
        let answer = match Client::new(worker.url()) {
            Ok(client) => client.ready().await,
            Err(error) => Err(error),
        };
        let message = match &answer {
            Ok(()) => format!("{} serves {} at {}", worker.id(), worker.model(), worker.url()),
            Err(error) => format!("{}: {error}", worker.id()),
        };
        ok &= tell(Finding { name: "worker", ok: answer.is_ok(), message });
    }
    json!({ "hive_id": hive.id(), "ok": ok, "checks": findings })
}

fn machine() -> Finding {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let described = devices().into_iter().map(|device| {
        let (total, free) = (gib(device.memory_total_bytes), gib(device.memory_free_bytes));
        let cores = device.cores.map(|cores| format!(", {cores} cores")).unwrap_or_default();
        let instructions = device.instructions.map(|name| format!(", {name}")).unwrap_or_default();
        format!(
            "{} {} ({}{cores}{instructions}), {total:.1} GiB, {free:.1} GiB free",
            device.kind, device.index, device.name
        )
    });
    let message =
        format!("{} {}: {}", std::env::consts::OS, std::env::consts::ARCH, described.collect::<Vec<_>>().join("; "));
    Finding { name: "machine", ok: true, message }
}

fn data_folder(hive: &Hive) -> Finding {
    let path = hive.data_dir().path();
    let (ok, message) = match tempfile_in(path) {
        Ok(()) => (true, format!("{} can be written to", path.display())),
        Err(error) => (false, format!("{} cannot be written to: {error}", path.display())),
    };
    Finding { name: "data folder", ok, message }
}

fn tempfile_in(path: &std::path::Path) -> std::io::Result<()> {
    let probe = path.join(format!(".check-{}", uuid::Uuid::new_v4()));
    fs::write(&probe, b"")?;
    fs::remove_file(probe)
}

fn program(hive: &Hive, kind: WorkerKind) -> Finding {
    let (ok, message) = match hive.shared.config.programs.sd_worker(kind) {
        Ok(found) => (true, format!("{} workers are started from {}", kind.as_str(), found.program.display())),
        Err(error) => (false, error.to_string()),
    };
    Finding { name: "program", ok, message }
}
