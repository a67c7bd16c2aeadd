//! Downloads from a hub on loopback, with everything that goes wrong on the way.

use crate::support::{COMMIT, FakeHub, Fault, TOKEN, sha256};
use model_store::{Download, Error, ModelStore, Patience, Progress, Resolution, Source, Stage, StoreOptions, Token};
use operations_contract::{ErrorCode, ModelEntry, ModelKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const UNET: &str = "unet/diffusion_pytorch_model.fp16.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// A hub with one pipeline, `someone/model`, and a store that downloads from it.
struct House {
    folder: TempDir,
    hub: FakeHub,
}

impl House {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let index = r#"{"_class_name": "X", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
            "safety_checker": ["a", "b"]}"#;
        for (path, content) in [
            ("model_index.json", index.as_bytes().to_vec()),
            ("README.md", b"a model".to_vec()),
            ("unet/config.json", b"{}".to_vec()),
            ("unet/diffusion_pytorch_model.safetensors", noise(2_000_000, 1)),
            (UNET, noise(1_000_000, 2)),
            ("unet/diffusion_pytorch_model.bin", noise(100_000, 3)),
            ("vae/config.json", b"{ }".to_vec()),
            (VAE, noise(300_000, 4)),
            ("safety_checker/model.safetensors", noise(100_000, 5)),
            ("everything.ckpt", noise(100_000, 6)),
        ] {
            hub.put("someone/model", path, content);
        }
        Self { folder: tempfile::tempdir().unwrap(), hub }
    }

    fn options(&self) -> StoreOptions {
        let patience = Patience {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            stall: Duration::from_millis(600),
            tries: 3,
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(50),
        };
        let endpoint = self.hub.url().parse().unwrap();
        StoreOptions { offline: false, endpoint, token: None, cache: None, patience }
    }

    fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    fn store(&self) -> ModelStore {
        ModelStore::open_with(self.models(), self.options()).unwrap()
    }

    fn store_with(&self, change: impl FnOnce(&mut StoreOptions)) -> ModelStore {
        let mut options = self.options();
        change(&mut options);
        ModelStore::open_with(self.models(), options).unwrap()
    }

    /// Bytes in the staging folder.
    fn staged(&self) -> u64 {
        bytes_below(&self.models().join("staging"))
    }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

fn start(store: &ModelStore, source: &str) -> Download {
    store.download(Source::parse(source).unwrap())
}

async fn download(store: &ModelStore, source: &str) -> Result<ModelEntry, Error> {
    tokio::time::timeout(Duration::from_secs(60), start(store, source).finish(|_| {})).await.expect("it ends")
}

/// Every file of an entry is what the hub has.
fn check_files(entry: &ModelEntry) {
    for file in &entry.files {
        let folder = if entry.kind == ModelKind::ImageFolder {
            PathBuf::from(&entry.path)
        } else {
            Path::new(&entry.path).parent().unwrap().to_owned()
        };
        let content = std::fs::read(folder.join(&file.path)).unwrap();
        assert_eq!(
            (file.bytes, file.sha256.as_deref()),
            (content.len() as u64, Some(sha256(&content).as_str())),
            "{}",
            file.path
        );
    }
}

#[tokio::test]
async fn only_the_files_that_are_needed_come_and_the_progress_is_told() {
    let house = House::new().await;
    house.hub.slow(Some(Duration::from_millis(60)));
    let store = house.store();
    let mut told: Vec<Progress> = Vec::new();
    let entry = start(&store, "someone/model").finish(|progress| told.push(progress)).await.unwrap();
    let paths: Vec<&str> = entry.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["model_index.json", "unet/config.json", UNET, "vae/config.json", VAE]);
    check_files(&entry);
    assert_eq!(entry.revision.as_deref(), Some(COMMIT));
    assert_eq!(
        (entry.kind, entry.owned, entry.repository.as_deref()),
        (ModelKind::ImageFolder, true, Some("someone/model"))
    );
    let coming: Vec<&Progress> = told.iter().filter(|progress| progress.stage == Stage::Downloading).collect();
    assert!(coming.len() > 2, "{told:?}");
    assert!(coming.iter().all(|progress| progress.total == entry.bytes), "{told:?}");
    assert!(coming.is_sorted_by_key(|progress| progress.bytes), "{told:?}");
    assert!(
        coming
            .iter()
            .any(|progress| progress.bytes_per_second.is_some_and(|speed| speed > 0) && progress.eta.is_some()),
        "{told:?}"
    );
    assert_eq!(house.staged(), 0, "nothing is left behind");
    assert!(matches!(store.resolve("someone/model").unwrap(), Resolution::Found(found) if *found == entry));

    let before = house.hub.requests().len();
    assert_eq!(download(&store, "someone/model").await.unwrap(), entry);
    assert_eq!(house.hub.requests().len(), before, "it is there");
    store.delete(&entry.id).unwrap();
    assert!(!Path::new(&entry.path).exists());
    assert_eq!(bytes_below(&house.models()), 0, "deleted for good");
}

#[tokio::test]
async fn a_broken_connection_is_taken_up_where_it_broke() {
    let house = House::new().await;
    house
        .hub
        .fault(UNET, [Fault::Cut(300_000), Fault::Cut(300_000), Fault::Status(503, vec![]), Fault::Stall(100_000)]);
    house.hub.fault(VAE, [Fault::Cut(0)]);
    let entry = download(&house.store(), "someone/model").await.unwrap();
    check_files(&entry);
    let ranges: Vec<Option<String>> = house.hub.requests_for(UNET).into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges.len(), 5, "{ranges:?}");
    assert_eq!(ranges[0], None);
    // What a connection had delivered when it was cut may be a little less than what was sent.
    let from = |range: &Option<String>| -> u64 {
        range.as_ref().unwrap().strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap()
    };
    assert!(from(&ranges[1]) > 0 && from(&ranges[1]) < from(&ranges[2]), "{ranges:?}");
    assert_eq!(ranges[2], ranges[3], "503 brings nothing");
    assert!(from(&ranges[3]) < from(&ranges[4]), "{ranges:?}");
}

#[tokio::test]
async fn a_server_that_sends_the_whole_again_is_put_up_with() {
    let house = House::new().await;
    house.hub.fault(UNET, [Fault::Cut(300_000), Fault::Whole]);
    check_files(&download(&house.store(), "someone/model").await.unwrap());
}

#[tokio::test]
async fn wrong_bytes_are_fetched_once_more_and_then_refused() {
    let house = House::new().await;
    house.hub.fault(UNET, [Fault::Wrong]);
    house.hub.fault("vae/config.json", [Fault::Wrong]);
    let store = house.store();
    check_files(&download(&store, "someone/model").await.unwrap());

    let house = House::new().await;
    let store = house.store();
    house.hub.fault(UNET, [Fault::Wrong, Fault::Wrong]);
    let error = download(&store, "someone/model").await.unwrap_err();
    assert!(matches!(&error, Error::Checksum { file, digest: "SHA-256", .. } if file.contains(UNET)), "{error}");
    assert_eq!(error.code(), ErrorCode::BadGateway);
    assert!(store.list().unwrap().is_empty(), "nothing half visible");

    check_files(&download(&store, "someone/model").await.unwrap());

    let house = House::new().await;
    house.hub.fault("vae/config.json", [Fault::Wrong, Fault::Wrong]);
    let error = download(&house.store(), "someone/model").await.unwrap_err();
    assert!(matches!(&error, Error::Checksum { digest: "git hash", .. }), "{error}");
}

#[tokio::test]
async fn what_has_arrived_stays_for_the_next_time() {
    let house = House::new().await;
    let cut = std::iter::repeat_n(Fault::Cut(0), 100);
    house.hub.fault(UNET, [Fault::Cut(500_000)].into_iter().chain(cut));
    let error = download(&house.store(), "someone/model").await.unwrap_err();
    assert_eq!((matches!(error, Error::Unreachable { .. }), error.code()), (true, ErrorCode::Unavailable), "{error}");
    assert!(house.staged() > 500_000 - 70_000);
    house.hub.fault(UNET, []);
    let before = house.hub.requests_for(UNET).len();
    // Another store, as after a restart.
    let entry = download(&house.store(), "someone/model").await.unwrap();
    check_files(&entry);
    let after = house.hub.requests_for(UNET).split_off(before);
    assert_eq!(after.len(), 1);
    assert!(after[0].range.is_some(), "{after:?}");
    assert_eq!(house.hub.requests_for(VAE).len(), 1, "what was whole is not fetched again");
}

#[tokio::test]
async fn two_who_want_the_same_model_wait_for_one_download() {
    let house = House::new().await;
    house.hub.slow(Some(Duration::from_millis(20)));
    let (store, other) = (house.store(), house.store());
    let first = start(&store, "someone/model");
    first.progress().wait_for(|progress| progress.bytes > 0).await.unwrap();
    let mut stages = Vec::new();
    let (first, second, third) = tokio::join!(
        first.finish(|_| {}),
        download(&store, "someone/model"),
        start(&other, "someone/model").finish(|progress| stages.push(progress.stage)),
    );
    assert_eq!(first.as_ref().unwrap(), second.as_ref().unwrap());
    assert_eq!(first.unwrap(), third.unwrap());
    assert_eq!(house.hub.requests_for(UNET).len(), 1);
    assert!(stages.contains(&Stage::Waiting), "another process waits and tells so: {stages:?}");
}

#[tokio::test]
async fn a_download_stops_when_nobody_waits_for_it_any_more() {
    let house = House::new().await;
    house.hub.slow(Some(Duration::from_millis(100)));
    let store = house.store();
    let (first, second) = (start(&store, "someone/model"), start(&store, "someone/model"));
    let mut progress = first.progress();
    progress.wait_for(|progress| progress.bytes > 0).await.unwrap();
    drop(first);
    let before = progress.borrow().bytes;
    progress.wait_for(|progress| progress.bytes > before).await.unwrap();
    drop(second);
    // The end of the channel is the end of the task.
    while progress.changed().await.is_ok() {}
    let requests = house.hub.requests().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(house.hub.requests().len(), requests);
    assert!(store.list().unwrap().is_empty());
    house.hub.slow(None);
    check_files(&download(&store, "someone/model").await.unwrap());
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let house = House::new().await;
    house.hub.gate();
    let error = download(&house.store(), "someone/model").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Forbidden);
    for said in ["HF_TOKEN", "/someone/model", "conditions"] {
        assert!(error.to_string().contains(said), "{error}");
    }
    let store = house.store_with(|options| options.token = Some(Token::new(TOKEN)));
    check_files(&download(&store, "someone/model").await.unwrap());
    let requests = house.hub.requests();
    assert!(requests.iter().any(|seen| seen.cdn));
    assert!(requests.iter().all(|seen| !seen.cdn || seen.authorization.is_none()), "{requests:?}");
    let bare = house.store_with(|options| options.token = Some(Token::new("hf_wrong")));
    bare.delete(&bare.list().unwrap()[0].id).unwrap();
    let error = download(&bare, "someone/model").await.unwrap_err().to_string();
    assert!(error.contains("account") && !error.contains("hf_wrong"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let house = House::new().await;
    let store = house.store();
    let check = async |source: &str, said: &str| {
        let error = download(&store, source).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        error.code()
    };
    assert_eq!(check("nobody/nothing", "set HF_TOKEN").await, ErrorCode::ModelNotFound);
    assert_eq!(check("someone/model:none.safetensors", "has no none.safetensors").await, ErrorCode::InvalidRequest);
    assert_eq!(check(&format!("{}/files/none.gguf", house.hub.url()), "404").await, ErrorCode::ModelNotFound);
    house.hub.put("old/pickles", "model.ckpt", "x");
    assert_eq!(check("old/pickles", "pickle").await, ErrorCode::InvalidRequest);
    // A port that nobody listens on.
    let lonely = house.store_with(|options| options.endpoint = "http://127.0.0.1:9".parse().unwrap());
    let error = download(&lonely, "someone/model").await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { host, .. } if host == "127.0.0.1:9"), "{error}");
}

#[tokio::test]
async fn a_busy_hub_is_asked_again_when_it_says() {
    let house = House::new().await;
    let later = |status| Fault::Status(status, vec![("retry-after", "3600".to_owned())]);
    house.hub.fault("/revision/main", [later(429), later(503), Fault::Status(500, vec![])]);
    check_files(&download(&house.store(), "someone/model").await.unwrap());
    let store = house.store();
    store.delete(&store.list().unwrap()[0].id).unwrap();
    house.hub.fault("/revision/main", std::iter::repeat_n(later(429), 9));
    let started = Instant::now();
    let error = download(&store, "someone/model").await.unwrap_err();
    assert!(error.to_string().contains("429"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "an hour is not waited for");
}

#[tokio::test]
async fn single_files_come_from_repositories_and_from_anywhere() {
    let house = House::new().await;
    let words = noise(200_000, 7);
    house.hub.put("someone/words", "q4/words-Q4.gguf", words.clone());
    house.hub.put("someone/words", "words-Q8.gguf", noise(100, 8));
    house.hub.put("files", "a model.safetensors", words.clone());
    let store = house.store();
    let entry = download(&store, "someone/words:words-Q4.gguf").await.unwrap();
    check_files_of_one(&entry, &words);
    assert_eq!((entry.kind, entry.name.as_str()), (ModelKind::Language, "words-Q4.gguf"));
    assert!(matches!(store.resolve("words-q4.gguf").unwrap(), Resolution::Found(_)));
    let error = download(&store, "someone/words").await.unwrap_err().to_string();
    assert!(error.contains("several") && error.contains("words-Q8.gguf"), "{error}");

    let url = format!("{}/files/a%20model.safetensors", house.hub.url());
    // Nothing tells the sum of this one: its ETag tells whether the rest belongs to what is here.
    house.hub.fault("a%20model.safetensors", [Fault::Whole, Fault::Cut(100_000), Fault::Cut(50_000)]);
    let entry = download(&store, &url).await.unwrap();
    check_files_of_one(&entry, &words);
    assert_eq!((entry.kind, entry.name.as_str()), (ModelKind::ImageFile, "a model.safetensors"));
    assert!(house.hub.requests_for("a%20model.safetensors").last().unwrap().range.is_some());
}

fn check_files_of_one(entry: &ModelEntry, content: &[u8]) {
    assert!(std::fs::read(&entry.path).unwrap() == content, "{}", entry.path);
    assert_eq!(entry.files[0].sha256, Some(sha256(content)));
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one() {
    let house = House::new().await;
    house.hub.put("files", "m.gguf", noise(200_000, 9));
    let url = format!("{}/files/m.gguf", house.hub.url());
    let cut = std::iter::repeat_n(Fault::Cut(0), 100);
    // The first fault meets the question for its size.
    house.hub.fault("m.gguf", [Fault::Whole, Fault::Cut(100_000)].into_iter().chain(cut));
    download(&house.store(), &url).await.unwrap_err();
    let newer = noise(200_000, 10);
    house.hub.put("files", "m.gguf", newer.clone());
    house.hub.fault("m.gguf", []);
    check_files_of_one(&download(&house.store(), &url).await.unwrap(), &newer);
}

#[tokio::test]
async fn hostile_answers_are_errors_and_write_nothing() {
    let tree = format!("/api/models/someone/model/tree/{COMMIT}");
    let revision = "/api/models/someone/model/revision/main".to_owned();
    let file = |path: &str, size: &str| {
        format!(r#"[{{"type": "file", "path": {path:?}, "size": {size}, "oid": "{COMMIT}"}}]"#)
    };
    let cases = [
        (&tree, file("../../outside.gguf", "1"), "stay inside"),
        (&tree, file("/etc/passwd.gguf", "1"), "stay inside"),
        (&tree, file("a\\..\\b.gguf", "1"), "stay inside"),
        (&tree, file("C:/b.gguf", "1"), "stay inside"),
        (&tree, file("a.gguf", "-1"), "invalid value"),
        (&tree, file("a.gguf", "1e300"), "invalid"),
        (&tree, file("a.gguf", "9000000000000000000"), "room for"),
        (
            &tree,
            r#"[{"type": "file", "path": "a.gguf", "size": 1, "lfs": {"oid": "../x", "size": 1}}]"#.to_owned(),
            "no SHA-256",
        ),
        (&tree, "{}".to_owned(), "invalid type"),
        (&tree, "[".repeat(100_000), "someone/model"),
        (&tree, "x".repeat(17 << 20), "more than"),
        (&revision, r#"{"sha": "../../main"}"#.to_owned(), "no commit"),
        (&revision, "<html>".to_owned(), "someone/model"),
    ];
    for (path, answer, said) in cases {
        let house = House::new().await;
        house.hub.answer(path, answer);
        let error = download(&house.store(), "someone/model").await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.to_string().len() < 1000, "{error}");
        assert_eq!(bytes_below(house.folder.path()), 0, "{error}");
    }
}

#[tokio::test]
async fn redirects_lead_neither_in_circles_nor_off_the_web() {
    let house = House::new().await;
    let path = "/api/models/someone/model/revision/main";
    let circle = std::iter::repeat_n(Fault::Redirect(path.to_owned()), 100);
    for (faults, said) in [
        (circle.collect::<Vec<_>>(), "redirects more than"),
        (vec![Fault::Redirect("file:///etc/passwd".to_owned())], "no address"),
        (vec![Fault::Redirect("http://".to_owned())], "no address"),
    ] {
        house.hub.fault("/revision/main", faults);
        let error = download(&house.store(), "someone/model").await.unwrap_err();
        assert!(matches!(error, Error::BadAnswer { .. }) && error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_announces_other_sizes_is_not_believed() {
    let house = House::new().await;
    // The listing tells one size, the file has another.
    let listing = format!(
        r#"[{{"type": "file", "path": "a.gguf", "size": 10, "lfs": {{"oid": "{}", "size": 10}}}}]"#,
        "ab".repeat(32)
    );
    house.hub.put("someone/model", "a.gguf", noise(100_000, 11));
    house.hub.answer(&format!("/api/models/someone/model/tree/{COMMIT}"), listing);
    let error = download(&house.store(), "someone/model").await.unwrap_err();
    assert!(matches!(&error, Error::BadAnswer { reason, .. } if reason.contains("100000 bytes, not 10")), "{error}");
}
