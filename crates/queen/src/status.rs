use crate::server::QueenServer;
use job_server::{JobServer as _, JobTotals};
use operations_contract::{Job, JobState};
use serde_json::{Value, json};

/// Jobs of each state that are listed one by one.
const LISTED: usize = 20;

/// Hives, workers, queue: the result of the operation `status`.
pub(crate) fn status(queen: &QueenServer, counts: JobTotals) -> Value {
    let registry = queen.jobs();
    let brief = |job: &Job| {
        let mut brief = json!({
            "job_id": job.job_id, "operation": job.operation, "state": job.state, "attempt": job.attempt,
            "created_ms": job.created_ms,
        });
        if let Some(position) = job.position {
            brief["position"] = position.into();
        }
        if let Some(worker_id) = &job.worker_id {
            brief["worker_id"] = worker_id.as_str().into();
        }
        if let Some(progress) = job.progress {
            brief["progress"] = json!(progress);
        }
        brief
    };
    let running = registry.list(Some(JobState::Running), LISTED);
    // The newest come first in a list; who waits longest is what one wants to see.
    let mut queued = registry.list(Some(JobState::Queued), usize::MAX);
    queued.reverse();
    queued.truncate(LISTED);
    let hive = queen.hive();
    json!({
        "queen": {
            "url": queen.addresses().queen,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "data_dir": hive.data_dir().path(),
        },
        "hives": [{
            "hive_id": hive.id(),
            "url": queen.addresses().hive,
            "workers": hive.workers(),
        }],
        "queue": {
            "waiting": queen.waiting(),
            "queued": counts.queued,
            "running": counts.running,
            "kept": counts.kept,
            "jobs": running.iter().chain(&queued).map(brief).collect::<Vec<Value>>(),
        },
    })
}
