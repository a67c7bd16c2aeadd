//! A process that submits is killed in the midst of it: what was acknowledged is there.

use crate::bed::job;
use broker::{Broker as _, SqliteBroker, SqliteOptions};
use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const FOLDER: &str = "RBEE_TEST_SUBMIT_TO";

/// Does nothing, unless it is the child of the test below.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_submits() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let broker = std::sync::Arc::new(SqliteBroker::open(folder, SqliteOptions::default()).await.unwrap());
    let mut submitting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let broker = broker.clone();
        submitting.spawn(async move {
            loop {
                let submitted = broker.submit(job()).await.unwrap();
                // One write, so that a line is whole or not there.
                std::io::stdout().write_all(format!("\naccepted {}\n", submitted.job_id).as_bytes()).unwrap();
            }
        });
    }
    submitting.join_all().await;
}

fn spawn(folder: &Path) -> Child {
    let name = "kill::child_that_submits";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(FOLDER, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[tokio::test]
async fn every_acknowledged_job_is_there_after_kill_9() {
    let folder = TempDir::new().unwrap();
    let mut accepted = HashSet::new();
    for kills in [1, 50, 120] {
        let mut child = spawn(folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        let mut killed = false;
        while let Some(Ok(line)) = lines.next() {
            if let Some(id) = line.strip_prefix("accepted ") {
                accepted.insert(id.to_owned());
                seen += 1;
            }
            if seen >= kills && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        let status = child.wait().unwrap();
        assert!(killed && !status.success(), "the child ended by itself: {status}");
        let broker = SqliteBroker::open(folder.path(), SqliteOptions::default()).await.unwrap();
        for id in &accepted {
            assert_eq!(broker.job(id).await.unwrap().last_event_id, 1, "{id}");
        }
        // What was not acknowledged may be there as well, but whole.
        let queued = broker.counts().await.unwrap().queued;
        assert!(queued >= accepted.len());
        assert_eq!(broker.waiting(usize::MAX).await.unwrap().len(), queued);
    }
}
