//! A worker alone, whose model is on a hub on loopback: it listens, downloads, loads and writes.

#![allow(clippy::unwrap_used, reason = "what cannot be read is a failed test")]

mod common;
#[path = "../../model-store/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{LONG, RANDOM, Worker, infer, question};
use model_store::{ModelStore, Source, StoreArgs};
use operations_contract::{JobEvent, Phase};
use serde_json::json;
use support::FakeHub;

const REPOSITORY: &str = "someone/little-texts";
const FILE: &str = "texts-Q8_0.gguf";

/// A worker that knows of one hub and keeps what it has in `folder`.
fn worker(folder: &Path, hub: &str, arguments: &[&str]) -> Worker {
    let home = folder.join("hf");
    let folder = folder.to_str().unwrap();
    let arguments = [&["--data-dir", folder], arguments].concat();
    Worker::start_with(&arguments, &[("HF_ENDPOINT", hub), ("HF_HOME", home.to_str().unwrap())])
}

async fn not_ready_because(worker: &Worker, reason: &str) {
    let begun = Instant::now();
    let client = worker.client();
    while !client.ready().await.is_err_and(|error| error.to_string().contains(reason)) {
        assert!(begun.elapsed() < LONG, "it is never not ready because of {reason}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_alone_downloads_its_model_while_jobs_wait() {
    let hub = FakeHub::start().await;
    hub.put(REPOSITORY, FILE, std::fs::read(RANDOM).unwrap());
    hub.put(REPOSITORY, "README.md", "A model.");
    hub.slow(Some(Duration::from_millis(300)));
    let folder = tempfile::tempdir().unwrap();

    let working = worker(folder.path(), &hub.url(), &["--model", REPOSITORY]);
    not_ready_because(&working, "downloading").await;
    let told = working.infer(question("Count.", json!({"model": REPOSITORY, "max_tokens": 5, "temperature": 0}))).await;
    let downloading: Vec<_> = told
        .events
        .iter()
        .filter_map(|event| match event {
            JobEvent::Progress { step, total, phase: Some(Phase::Downloading), .. } => Some((*step, *total)),
            _ => None,
        })
        .collect();
    assert!(downloading.iter().any(|(bytes, total)| bytes < total), "{:?}", told.events);
    assert!(downloading.is_sorted(), "{downloading:?}");
    let here = Worker::start(&["--model", RANDOM]);
    let same = here.infer(question("Count.", json!({"max_tokens": 5, "temperature": 0}))).await;
    assert_eq!(told.completion.text, same.completion.text, "the very same model");

    let args = StoreArgs { offline: true, data_dir: Some(folder.path().to_owned()) };
    let store: ModelStore = args.open().unwrap();
    let id = Source::parse(REPOSITORY).unwrap().id();
    assert_eq!(store.list().unwrap()[0].id, id);
    let error = store.delete(&id).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    drop(working);

    let before = hub.requests().len();
    let working = worker(folder.path(), &hub.url(), &["--model", &id, "--offline"]);
    working.ready().await;
    let again =
        working.infer(question("Count.", json!({"model": REPOSITORY, "max_tokens": 5, "temperature": 0}))).await;
    assert_eq!((again.completion.text, hub.requests().len()), (told.completion.text, before), "it is not asked again");
    drop(working);
    store.delete(&id).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_had_is_named_with_the_reason() {
    let hub = FakeHub::start().await;
    hub.put(REPOSITORY, FILE, std::fs::read(RANDOM).unwrap());
    hub.put(REPOSITORY, "texts-Q4_0.gguf", std::fs::read(RANDOM).unwrap());
    hub.put("someone/pictures", "dream.safetensors", "no weights");
    let folder = tempfile::tempdir().unwrap();
    for (model, reason) in [
        ("someone/nothing", "someone/nothing is not at"),
        (REPOSITORY, "several models"),
        ("someone/pictures", "does not write text"),
    ] {
        let worker = worker(folder.path(), &hub.url(), &["--model", model]);
        not_ready_because(&worker, reason).await;
        let error = worker.refusal(&infer(question("Count.", json!({})))).await;
        assert!(error.message.contains(reason), "{error}");
    }
    // One of several is named.
    let worker = worker(folder.path(), &hub.url(), &["--model", &format!("{REPOSITORY}:{FILE}")]);
    worker.ready().await;
    worker.infer(question("Count.", json!({"model": format!("{REPOSITORY}:{FILE}"), "max_tokens": 3}))).await;
}
