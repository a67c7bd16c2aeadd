//! `kill -9` in the middle of a download: the next process goes on where the dead one stopped.

use crate::support::{FakeHub, sha256};
use model_store::{ModelStore, Patience, Source, StoreOptions};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FOLDER: &str = "MODEL_STORE_TEST_FOLDER";
const ENDPOINT: &str = "MODEL_STORE_TEST_ENDPOINT";
const FILE: &str = "someone/words:words.gguf";

fn store(folder: PathBuf, endpoint: &str) -> ModelStore {
    let options = StoreOptions {
        offline: false,
        endpoint: endpoint.parse().unwrap(),
        token: None,
        cache: None,
        patience: Patience { stall: Duration::from_secs(5), ..Patience::default() },
    };
    ModelStore::open_with(folder, options).unwrap()
}

/// What the other process does: this very program, started again for this one test.
#[tokio::test]
#[ignore = "is a part of the test below"]
async fn download_in_a_process_of_its_own() {
    let (Some(folder), Ok(endpoint)) = (std::env::var_os(FOLDER), std::env::var(ENDPOINT)) else { return };
    let source = Source::parse(FILE).unwrap();
    store(folder.into(), &endpoint).download(source).finish(|_| {}).await.unwrap();
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_killed_download_is_resumed_by_the_next_process() {
    let hub = FakeHub::start().await;
    let content: Vec<u8> = (0..8_000_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    hub.put("someone/words", "words.gguf", content.clone());
    hub.slow(Some(Duration::from_millis(40)));
    let folder = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::download_in_a_process_of_its_own", "--ignored"])
        .env(FOLDER, folder.path())
        .env(ENDPOINT, hub.url())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let part = folder.path().join("staging").join(Source::parse(FILE).unwrap().id()).join("parts/words.gguf");
    let arrived = || std::fs::metadata(&part).map_or(0, |about| about.len());
    let deadline = Instant::now() + Duration::from_secs(60);
    while arrived() < 2_000_000 {
        assert!(Instant::now() < deadline, "{} bytes arrived", arrived());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // SIGKILL, where there are signals.
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let kept = arrived();
    assert!((2_000_000..content.len() as u64).contains(&kept), "{kept}");

    hub.slow(None);
    let entry = store(folder.path().to_owned(), &hub.url()).download(Source::parse(FILE).unwrap());
    let entry = entry.finish(|_| {}).await.unwrap();
    assert_eq!(entry.files[0].sha256, Some(sha256(&content)));
    assert!(std::fs::read(&entry.path).unwrap() == content);
    let requests = hub.requests_for("words.gguf");
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert_eq!(requests[1].range, Some(format!("bytes={kept}-")), "not a byte is fetched twice");
}
