//! A log lies on the machine of its worker: who asks for another's is told where to look.

use crate::server::QueenServer;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use job_server::{Caller, Failure};
use operations_contract::{ApiError, ErrorCode, HIVE_PORT};

pub(crate) fn routes(queen: QueenServer) -> Router {
    rbee_hive::log_routes(queen.hive().clone()).layer(from_fn_with_state(queen, elsewhere))
}

async fn elsewhere(
    State(queen): State<QueenServer>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
    next: Next,
) -> Response {
    let hives = if caller.is_admin() { queen.hives().await.unwrap_or_default() } else { Vec::new() };
    let own = queen.hive().id();
    let holder = hives.iter().find(|hive| hive.workers.iter().any(|worker| worker.worker_id == id));
    match holder.filter(|hive| hive.hive_id != own) {
        None => next.run(request).await,
        Some(hive) => {
            let hive_id = &hive.hive_id;
            let message = format!(
                "the worker {id} runs on the hive {hive_id}, and its log lies there; read it on that machine: \
                 rbee worker logs {id} --queen http://127.0.0.1:{HIVE_PORT} (or the port of that hive), or in the file \
                 that this names: rbee worker list --hive-id {hive_id} --json"
            );
            Failure::from(ApiError::new(ErrorCode::NotFound, message).with_param("worker_id")).into_response()
        }
    }
}
