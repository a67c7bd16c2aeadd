use crate::bounded::Bounded;
use crate::jobs::Jobs;
use axum::Router;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long running jobs get when the server stops.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How long connections get after that, to read what is left.
const CLOSE: Duration = Duration::from_secs(2);

/// Serves until `stop` comes true, then lets `jobs` end (see [`Jobs::drain`]) and returns.
///
/// # Errors
/// What the listener failed with.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    jobs: impl Jobs,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = Bounded::new(listener);
    let (drained, mut is_drained) = oneshot::channel();
    let draining = async move {
        stop.await;
        tracing::info!("stopping: no more jobs are taken, running ones get {} seconds", DRAIN.as_secs());
        jobs.drain(DRAIN).await;
        let _ = drained.send(());
    };
    let serving = async move { axum::serve(listener, app).with_graceful_shutdown(draining).await };
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result,
        _ = &mut is_drained => {}
    }
    // Who has not read to the end by then does not keep the process.
    tokio::time::timeout(CLOSE, serving).await.unwrap_or(Ok(()))
}

/// Comes true at SIGTERM or SIGINT (Ctrl-C); a second one ends the process at once.
pub async fn stop_signal() {
    first_signal().await;
    tokio::spawn(async {
        first_signal().await;
        tracing::warn!("stopped at once");
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn first_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!("signals cannot be caught, so that stopping will not be graceful: {error}");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = signals.0.recv() => {}
        _ = signals.1.recv() => {}
    }
}

#[cfg(not(unix))]
async fn first_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
