//! Why a job waits.

use crate::admit::described;
use crate::server::QueenServer;
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use broker::{HiveRecord, JobRecord, Waiting, WorkKind, WorkerRecord, WorkerState};
use job_server::{Caller, Failure};
use operations_contract::{ApiError, JobState, Phase};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// How far into the queue is looked for a job.
const QUEUE: usize = 10_000;

pub(crate) fn routes(queen: QueenServer) -> Router {
    Router::new().route("/v1/jobs/{id}/explain", get(explain)).with_state(queen)
}

async fn explain(
    State(queen): State<QueenServer>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Failure> {
    let record = queen.queen_jobs().record(&caller, &id).await?;
    let hives = queen.hives().await?;
    let waiting = match record.job.state {
        JobState::Queued => find(&queen, &id).await?,
        _ => None,
    };
    let reason = match &waiting {
        Some(waiting) => reason(waiting, &hives),
        None => standing(&record),
    };
    let job = &record.job;
    let now = now_ms();
    let waited = job.started_ms.unwrap_or(job.finished_ms.unwrap_or(now)).saturating_sub(job.created_ms);
    Ok(Json(json!({
        "job_id": job.job_id,
        "state": job.state,
        "reason": reason,
        "position": waiting.as_ref().map(|waiting| waiting.position),
        "waiting_ms": if job.state == JobState::Queued { now.saturating_sub(job.created_ms) } else { waited },
        "wants": {
            "kind": record.want.kind, "model": record.want.model, "hive_id": record.want.hive_id,
            "worker_id": record.want.worker_id, "priority": record.priority,
        },
        "attempt": job.attempt,
        "crashes": record.crashes,
    })))
}

async fn find(queen: &QueenServer, id: &str) -> Result<Option<Waiting>, ApiError> {
    Ok(queen.broker().waiting(QUEUE).await?.into_iter().find(|waiting| waiting.job_id == id))
}

/// What a job waits for, in a sentence.
pub(crate) fn reason(waiting: &Waiting, hives: &[HiveRecord]) -> String {
    let want = &waiting.want;
    let now = now_ms();
    if waiting.not_before_ms > now {
        let seconds = (waiting.not_before_ms - now) as f64 / 1000.0;
        return match waiting.crashes {
            0 => format!("its worker would not take it; it is offered again in {seconds:.1} s"),
            crashes => format!("{crashes} of 3 attempts lost their worker; the next one begins in {seconds:.1} s"),
        };
    }
    let candidates: Vec<&HiveRecord> =
        hives.iter().filter(|hive| want.hive_id.as_ref().is_none_or(|id| *id == hive.hive_id)).collect();
    if candidates.is_empty() {
        return match &want.hive_id {
            Some(id) => format!("the hive {id} is not connected"),
            None => "no hive is connected".to_owned(),
        };
    }
    if want.kind == WorkKind::Hive {
        return "its hive is about to take it".to_owned();
    }
    let ahead = waiting.position.saturating_sub(1);
    let ahead = if ahead == 0 { "it is next".to_owned() } else { format!("{ahead} are before it") };
    let is_for = |worker: &&WorkerRecord| match &want.worker_id {
        Some(id) => worker.worker_id == *id,
        None => want.is_model(worker.kind, &worker.model),
    };
    let workers: Vec<&WorkerRecord> = candidates.iter().flat_map(|hive| &hive.workers).filter(is_for).collect();
    let count = |state: WorkerState| workers.iter().filter(|worker| worker.state == state).count();
    let model = &want.model;
    if let Some(id) = &want.worker_id
        && workers.is_empty()
    {
        return format!("the worker {id} is not there");
    }
    match (count(WorkerState::Busy), count(WorkerState::Starting), count(WorkerState::Idle)) {
        (0, 0, 0) if !candidates.iter().any(|hive| hive.kinds.contains(&want.kind)) => {
            format!("no hive has a program for {}", described(want.kind))
        }
        (0, 0, 0) => format!("no worker has {model} yet, and the hives are busy loading others; {ahead}"),
        (0, 0, _) => format!("a worker is about to take it; {ahead}"),
        (0, _, _) => format!("a worker loads {model}; {ahead}"),
        (1, ..) => format!("the worker that has {model} is busy; {ahead}"),
        (busy, ..) => format!("all {busy} workers that have {model} are busy; {ahead}"),
    }
}

fn standing(record: &JobRecord) -> String {
    let job = &record.job;
    let worker = job.worker_id.as_deref();
    match (job.state, job.progress.and_then(|progress| progress.phase)) {
        (JobState::Queued, _) => "it is about to be taken".to_owned(),
        (JobState::Running, Some(Phase::Downloading)) => "its model is being downloaded".to_owned(),
        (JobState::Running, Some(Phase::Loading)) if worker.is_none() => "a worker loads its model".to_owned(),
        (JobState::Running, _) => match (worker, &record.hive_id) {
            (Some(worker), _) => format!("it runs on the worker {worker}"),
            (None, Some(hive)) => format!("the hive {hive} has taken it"),
            (None, None) => "it runs".to_owned(),
        },
        (JobState::Complete, _) => "it is complete".to_owned(),
        (JobState::Error, _) => match &job.error {
            Some(error) => format!("it failed: {error}"),
            None => "it failed".to_owned(),
        },
        (JobState::Cancelled, _) => "somebody cancelled it".to_owned(),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
