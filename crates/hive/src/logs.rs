//! What workers write: read as it lies or followed as it grows, and kept from growing without end.

use crate::hive::Hive;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::unfold;
use job_server::{Caller, Failure};
use operations_contract::{ApiError, ErrorCode, ID_BYTES};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, SeekFrom};
use std::path::{self, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// A log that has grown larger is put aside; of what was put aside before nothing stays.
const LOG_BYTES: u64 = 10 << 20;
/// How often logs are measured.
const MEASURE: Duration = Duration::from_secs(10);
/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// So much is sent at once.
const CHUNK: usize = 64 * 1024;

/// `GET /v1/workers/{id}/logs`: the log of a worker that this hive spawned, also of one that has ended;
/// `?follow=true` goes on until it ends.
pub fn log_routes(hive: Hive) -> Router {
    Router::new().route("/v1/workers/{id}/logs", get(logs)).with_state(hive)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    #[serde(default)]
    follow: bool,
}

async fn logs(
    State(hive): State<Hive>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<LogQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    caller.require_admin("reading logs")?;
    let Query(LogQuery { follow }) = query.map_err(|error| ApiError::malformed(error.body_text()))?;
    let path = find(&hive, &id)?;
    let file = tokio::fs::File::open(&path).await.map_err(|error| none(&id, &error))?;
    let tail = Tail { hive, id, file, position: 0, follow };
    let stream = unfold(tail, |mut tail| async move {
        match tail.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), tail)),
            Ok(None) => None,
            Err(error) => Some((Err(error), Tail { follow: false, ..tail })),
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

fn find(hive: &Hive, id: &str) -> Result<PathBuf, ApiError> {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if id.is_empty() || id.len() > ID_BYTES || !id.chars().all(plain) || id.starts_with('.') {
        return Err(ApiError::invalid("worker_id", "a worker id is made of letters, digits, '-', '_' and '.'"));
    }
    let path = hive.data_dir().worker_log(id);
    if path.is_file() {
        return Ok(path);
    }
    let known = hive.workers();
    let message = match known.iter().find(|worker| worker.worker_id == id) {
        Some(_) => format!("the worker {id} was started by hand and writes its log where it was started"),
        None => format!("this hive has spawned no worker {id}; see them with: rbee worker list"),
    };
    Err(ApiError::new(ErrorCode::NotFound, message).with_param("worker_id"))
}

fn none(id: &str, error: &io::Error) -> ApiError {
    ApiError::internal(format!("the log of {id} cannot be read: {error}"))
}

/// A place in a log.
struct Tail {
    hive: Hive,
    id: String,
    file: tokio::fs::File,
    position: u64,
    follow: bool,
}

impl Tail {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // Whether more can come is asked before what there is is read.
            let goes_on = self.follow && self.hive.workers().iter().any(|worker| worker.worker_id == self.id);
            if self.file.metadata().await?.len() < self.position {
                // It was put aside.
                self.position = self.file.seek(SeekFrom::Start(0)).await?;
            }
            let mut bytes = vec![0; CHUNK];
            let read = self.file.read(&mut bytes).await?;
            if read > 0 {
                self.position += read as u64;
                bytes.truncate(read);
                return Ok(Some(bytes.into()));
            }
            if !goes_on {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Puts logs aside that have grown too large, for as long as there is a hive.
pub(crate) async fn rotate(folder: PathBuf) {
    loop {
        tokio::time::sleep(MEASURE).await;
        let folder = folder.clone();
        let rotating = tokio::task::spawn_blocking(move || {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|extension| extension == "log")
                    && let Err(error) = put_aside(&path, LOG_BYTES)
                {
                    tracing::warn!("{} cannot be put aside: {error}", path.display());
                }
            }
        });
        let _ = rotating.await;
    }
}

/// The worker goes on writing to the file that it has, always at its end: what is there is copied and cut off.
fn put_aside(path: &path::Path, most: u64) -> io::Result<()> {
    if fs::metadata(path)?.len() <= most {
        return Ok(());
    }
    fs::copy(path, path.with_extension("log.1"))?;
    File::options().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_log_that_is_put_aside_is_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.log");
        let mut worker = File::options().create(true).append(true).open(&path).unwrap();
        worker.write_all(b"first\n").unwrap();
        put_aside(&path, 100).unwrap();
        assert!(!path.with_extension("log.1").exists(), "it is small");
        put_aside(&path, 3).unwrap();
        worker.write_all(b"second\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert_eq!(fs::read_to_string(path.with_extension("log.1")).unwrap(), "first\n");
    }
}
