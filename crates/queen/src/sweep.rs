//! Jobs that nobody will ever take: they named a worker that has ended since.

use crate::server::QueenServer;
use operations_contract::{ApiError, ErrorCode};
use std::collections::HashSet;
use std::time::Duration;

/// How often is looked.
const EVERY: Duration = Duration::from_secs(1);
/// So much of the queue is looked at.
const QUEUE: usize = 10_000;

/// Ends jobs whose worker was missing twice in a row. Returns never.
pub(crate) async fn sweep(queen: QueenServer) {
    let mut missing = HashSet::new();
    loop {
        tokio::time::sleep(EVERY).await;
        match look(&queen, &missing).await {
            Ok(now) => missing = now,
            Err(error) => tracing::warn!("the queue cannot be looked through: {error}"),
        }
    }
}

/// The jobs whose worker is missing; those that are in `before` are ended.
async fn look(queen: &QueenServer, before: &HashSet<String>) -> Result<HashSet<String>, ApiError> {
    let waiting = queen.broker().waiting(QUEUE).await?;
    let named: Vec<(String, String)> =
        waiting.into_iter().filter_map(|job| Some((job.job_id, job.want.worker_id?))).collect();
    if named.is_empty() {
        return Ok(HashSet::new());
    }
    let hives = queen.hives().await?;
    let workers: HashSet<&String> =
        hives.iter().flat_map(|hive| hive.workers.iter().map(|worker| &worker.worker_id)).collect();
    let mut missing = HashSet::new();
    for (job_id, worker_id) in named.into_iter().filter(|(_, worker_id)| !workers.contains(worker_id)) {
        if !before.contains(&job_id) {
            missing.insert(job_id);
            continue;
        }
        let message = format!("the worker {worker_id} has ended; leave worker_id away for any other");
        let error = ApiError::new(ErrorCode::NotFound, message).with_param("worker_id");
        queen.broker().refuse(&job_id, error).await?;
    }
    Ok(missing)
}
