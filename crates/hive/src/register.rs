use crate::hive::{Hive, Shared};
use crate::worker::{End, Phase, Served, Worker};
use broker::WorkKind;
use job_server::client::Client;
use operations_contract::{ApiError, ErrorCode, OperationKind, WorkerReady};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A worker says that it is ready; until its answer to `/ready` says so too it has this long.
const READY_TRIES: u32 = 50;
const READY_PAUSE: Duration = Duration::from_millis(100);
/// How often a worker that somebody started by hand is asked whether it lives: its process is not ours to wait for.
const WATCH: Duration = Duration::from_millis(500);
/// Silence for so many times is death; a refused connection is at once.
const SILENCES: u32 = 6;

impl Hive {
    /// Takes the word of a worker that it can serve: of one that was spawned here, or of one that somebody started by
    /// hand on this machine. It is asked back before it is believed.
    ///
    /// # Errors
    /// 422 for an address that is not this machine's, 409 for a worker that is not the one it says it is, 503 for one
    /// that does not answer.
    pub async fn register(&self, word: WorkerReady) -> Result<(), ApiError> {
        check_id(&word.worker_id)?;
        let client = local_client(&word.url)?;
        let known = self.shared.workers().get(&word.worker_id).cloned();
        if let Some(worker) = &known {
            if worker.spawned && worker.pid.load(Ordering::Acquire) != word.pid {
                let message = format!("the worker {} is another process than {}", word.worker_id, word.pid);
                return Err(ApiError::new(ErrorCode::Conflict, message).with_param("worker_id"));
            }
            if worker.served().is_some_and(|served| served.url == word.url) {
                return Ok(());
            }
        }
        let serves = confirm(&client, &word).await?;
        let served = Served { url: word.url, model: word.model, device: word.device };
        match known {
            Some(worker) if worker.spawned => self.shared.ready(&worker, served),
            _ => {
                let worker = Worker::by_hand(word.worker_id.clone(), serves, served.model.clone());
                worker.pid.store(word.pid, Ordering::Release);
                let worker = Arc::new(worker);
                let before = self.shared.workers().insert(word.worker_id, worker.clone());
                if let Some(before) = before {
                    before.phase.send_replace(Phase::Ended(Arc::new(gone("it was started anew".to_owned()))));
                }
                self.shared.ready(&worker, served);
                tokio::spawn(watch(self.shared.clone(), worker, client));
            }
        }
        Ok(())
    }
}

/// An id becomes a part of paths and of messages.
fn check_id(id: &str) -> Result<(), ApiError> {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if !id.is_empty() && id.len() <= operations_contract::ID_BYTES && id.chars().all(plain) && !id.starts_with('.') {
        return Ok(());
    }
    Err(ApiError::invalid("worker_id", "worker_id must be letters, digits, '-', '_' and '.'"))
}

fn local_client(url: &str) -> Result<Client, ApiError> {
    let client = Client::new(url).map_err(|error| ApiError::invalid("url", error.to_string()))?;
    // Of an address, only the host between scheme and port counts here.
    let host = url.split("://").last().unwrap_or_default().split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']);
    let local = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) || host == "localhost";
    if local {
        return Ok(client);
    }
    Err(ApiError::invalid("url", format!("url must be on this machine (http://127.0.0.1:PORT), got {url}")))
}

/// Whoever listens at the address must be the worker that wrote, and must be ready. Says what it serves.
async fn confirm(client: &Client, word: &WorkerReady) -> Result<WorkKind, ApiError> {
    let unavailable = |message: String| ApiError::new(ErrorCode::Unavailable, message).with_param("url");
    let info = client.info().await.map_err(|error| unavailable(error.to_string()))?;
    if info.worker_id.as_ref() != Some(&word.worker_id) || info.pid != word.pid {
        let message = format!("at {} listens another worker than {}", word.url, word.worker_id);
        return Err(ApiError::new(ErrorCode::Conflict, message).with_param("url"));
    }
    let mut tries = 0;
    while let Err(error) = client.ready().await {
        tries += 1;
        if tries == READY_TRIES {
            return Err(unavailable(error.to_string()));
        }
        tokio::time::sleep(READY_PAUSE).await;
    }
    let writes = info.operations.iter().any(|operation| operation == OperationKind::Infer.name());
    Ok(if writes { WorkKind::Infer } else { WorkKind::Image })
}

async fn watch(shared: Arc<Shared>, worker: Arc<Worker>, client: Client) {
    let mut silent = 0;
    loop {
        tokio::time::sleep(WATCH).await;
        if worker.end().is_some() {
            return;
        }
        let reason = match tokio::time::timeout(WATCH, client.alive()).await {
            Ok(Ok(())) => {
                silent = 0;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it is silent".to_owned(),
        };
        silent += if reason.contains("refused") { SILENCES } else { 1 };
        if silent >= SILENCES {
            return shared.ended(&worker, gone(reason));
        }
    }
}

fn gone(how: String) -> End {
    End { how, last_words: String::new(), asked: false, exited: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workers_of_this_machine_are_taken() {
        for url in ["http://127.0.0.1:8600", "http://localhost:8600/", "http://[::1]:8600", "127.0.0.1:8600"] {
            assert!(local_client(url).is_ok(), "{url}");
        }
        for url in
            ["http://10.0.0.1:8600", "http://example.org", "http://127.0.0.1.example.org:80", "ftp://127.0.0.1", ""]
        {
            let error = local_client(url).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("url"), "{url}");
        }
    }
}
