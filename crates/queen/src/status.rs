use crate::explain::reason;
use crate::server::QueenServer;
use broker::JobFilter;
use operations_contract::{ApiError, Job, JobState};
use serde_json::{Value, json};

/// Jobs of each state that are listed one by one.
const LISTED: usize = 20;

/// Hives, workers, queue: the result of the operation `status`, which `asking` runs.
pub(crate) async fn status(queen: &QueenServer, asking: &str) -> Result<Value, ApiError> {
    let broker = queen.broker();
    let counts = broker.counts().await?;
    let hives = queen.hives().await?;
    let filter = JobFilter { state: Some(JobState::Running), owner: None, limit: LISTED + 1 };
    let running = broker.list(filter).await?.into_iter().map(|record| record.job);
    let mut jobs: Vec<Value> = running.filter(|job| job.job_id != asking).take(LISTED).map(|job| brief(&job)).collect();
    // Who is next is what one wants to see.
    for waiting in broker.waiting(LISTED).await? {
        let Ok(record) = broker.job(&waiting.job_id).await else { continue };
        let mut job = brief(&record.job);
        job["position"] = waiting.position.into();
        job["waits_for"] = reason(&waiting, &hives).into();
        jobs.push(job);
    }
    let listed: Vec<Value> = hives
        .iter()
        .map(|hive| {
            let own = hive.hive_id == queen.hive().id();
            let workers = if own { json!(queen.hive().workers()) } else { json!(hive.workers) };
            let url = if own { Some(&queen.addresses().hive) } else { hive.url.as_ref() };
            json!({
                "hive_id": hive.hive_id, "url": url, "version": hive.version, "devices": hive.devices,
                "models": hive.models, "kinds": hive.kinds, "workers": workers,
            })
        })
        .collect();
    Ok(json!({
        "queen": {
            "url": queen.addresses().queen,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "data_dir": queen.hive().data_dir().path(),
            "default_models": queen.settings().defaults(),
        },
        "hives": listed,
        "queue": {
            "waiting": counts.queued,
            "queued": counts.queued,
            // The job that asks is none of those that one asks about.
            "running": counts.running.saturating_sub(1),
            "kept": counts.kept,
            "limit": counts.limit,
            "jobs": jobs,
        },
    }))
}

fn brief(job: &Job) -> Value {
    let mut brief = json!({
        "job_id": job.job_id, "operation": job.operation, "state": job.state, "attempt": job.attempt,
        "created_ms": job.created_ms,
    });
    if let Some(worker_id) = &job.worker_id {
        brief["worker_id"] = worker_id.as_str().into();
    }
    if let Some(progress) = job.progress {
        brief["progress"] = json!(progress);
    }
    brief
}
