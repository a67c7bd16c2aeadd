use crate::args::WorkerArgs;
use crate::callback::announce_ready;
use crate::parent::die_with_parent;
use crate::queue::{EngineStatus, RequestQueue};
use axum::Router;
use job_server::{Access, JobRegistry, JobServer, router, serve, stop_signal};
use operations_contract::WorkerReady;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Who a worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerIdentity {
    /// Its name.
    pub worker_id: String,
    /// The model that it serves, by the name that it shows.
    pub model: String,
    /// What it computes with: `cpu`, `cuda:0`, …
    pub device: String,
}

/// Serves a worker on `listener` until it is told to stop. The worker listens while its model loads, tells its hive
/// when it serves, and dies with the hive that started it.
///
/// # Errors
/// What the listener failed with.
pub async fn serve_worker<R: Send + 'static>(
    server: impl JobServer<Jobs = JobRegistry>,
    queue: RequestQueue<R>,
    identity: &WorkerIdentity,
    args: &WorkerArgs,
    (listener, access): (TcpListener, Access),
) -> io::Result<()> {
    let jobs = server.jobs().clone();
    serve_worker_routes((router(server, &access), jobs), queue, identity, args, listener).await
}

/// As [`serve_worker`], with routes of the worker's own beside those that every server has.
///
/// # Errors
/// What the listener failed with.
pub async fn serve_worker_routes<R: Send + 'static>(
    (app, jobs): (Router, JobRegistry),
    queue: RequestQueue<R>,
    identity: &WorkerIdentity,
    args: &WorkerArgs,
    listener: TcpListener,
) -> io::Result<()> {
    if let Some(parent) = args.parent_pid {
        die_with_parent(parent)?;
    }
    let url = url_of(listener.local_addr()?);
    tracing::info!("{} listens on {url}", identity.worker_id);
    let ready = WorkerReady {
        worker_id: identity.worker_id.clone(),
        model: identity.model.clone(),
        url,
        pid: std::process::id(),
        device: identity.device.clone(),
    };
    let spawned = args.parent_pid.is_some();
    let callback_url = args.callback_url.clone();
    let callback_key = args.callback_key.clone().or_else(|| args.listen.api_key.clone());
    let telling = tokio::spawn(async move {
        match queue.settled().await {
            EngineStatus::Ready => {}
            // Alone, a worker stays to say what is wrong with its model. A hive reads that in its log, and would wait
            // for a callback that never comes.
            EngineStatus::Failed(_) if spawned => std::process::exit(1),
            EngineStatus::Downloading(_) | EngineStatus::Loading | EngineStatus::Failed(_) | EngineStatus::Stopped => {
                return;
            }
        }
        tracing::info!("{} serves {} on {}", ready.worker_id, ready.model, ready.device);
        if let Some(callback_url) = callback_url {
            announce_ready(&callback_url, callback_key.as_deref(), &ready).await;
        }
    });
    let served = serve(listener, app, jobs, stop_signal()).await;
    telling.abort();
    served
}

/// Where its hive, which is on the same machine, reaches it.
fn url_of(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("http://{address}")
}
