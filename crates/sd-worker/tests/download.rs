//! A worker alone, whose model is on a hub on loopback: it listens, downloads, loads and paints.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use diffusion::ops::{CpuOptions, Device};
use diffusion::pipeline::{LoadOptions, Pipeline, Request, Task};
use job_server::client::Client;
use model_store::{ModelStore, Source, StoreArgs};
use operations_contract::{Completion, JobEvent, Phase};
use sd_worker_rbee::embedded;
use serde_json::json;
use support::FakeHub;

#[path = "../../model-store/tests/support/mod.rs"]
mod support;

const REPOSITORY: &str = "stable-diffusion-v1-5/stable-diffusion-v1-5";
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-scenes");
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// A worker process that is killed at the end of a test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(folder: &Path, endpoint: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sd-worker-cpu"));
    for (variable, _) in std::env::vars() {
        if variable.starts_with("RBEE_") || variable.starts_with("HF_") {
            command.env_remove(variable);
        }
    }
    command
        .args(flags)
        .args(["--data-dir", folder.to_str().expect("text")])
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", folder.join("hf"))
        .stdin(Stdio::null());
    command
}

fn start(folder: &Path, endpoint: &str, flags: &[&str]) -> (Worker, Client) {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let port = free.expect("a free port").port();
    let child =
        command(folder, endpoint, flags).args(["--port", &port.to_string()]).spawn().expect("the worker starts");
    (Worker(child), Client::new(&format!("http://127.0.0.1:{port}")).expect("an address"))
}

async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn not_ready_because(client: &Client, reason: &str) {
    let what = format!("not ready because of {reason}");
    eventually(&what, async || client.ready().await.err().filter(|error| error.to_string().contains(reason))).await;
}

async fn events(client: &Client, prompt: &str) -> Vec<JobEvent> {
    let operation = json!({"operation": "image_generation", "model": "sd-1.5", "prompt": prompt, "steps": 2, "seed": 7,
        "width": 64, "height": 64});
    let job = client.create_job(&operation).await.expect("it is admitted");
    let mut stream = client.events(&job.job_id, 0);
    let mut events = Vec::new();
    while let Some((_, event)) = stream.next().await.expect("events come") {
        events.push(event);
    }
    events
}

/// The pixels of the picture in the last event.
fn picture(events: &[JobEvent]) -> Vec<u8> {
    let Some(JobEvent::Complete(Completion::Image(done))) = events.last() else { panic!("{:?}", events.last()) };
    image::load_from_memory(&done.image).expect("a PNG").into_rgb8().into_raw()
}

fn picture_of_the_embedded_model(prompt: &str) -> Vec<u8> {
    let device = Device::cpu(CpuOptions::default()).expect("threads");
    let mut observer = |_| ControlFlow::Continue(());
    let mut pipeline = Pipeline::load(&embedded::tiny_scenes(), &device, LoadOptions::default(), &mut observer)
        .expect("the embedded model loads");
    let request = Request {
        prompt: prompt.to_owned(),
        negative_prompt: None,
        steps: 2,
        guidance_scale: 7.5,
        width: Some(64),
        height: Some(64),
        seed: 7,
        scheduler: None,
        schedule: None,
        clip_skip: None,
        preview_every: None,
        task: Task::Generate,
    };
    pipeline.paint(&request, &mut observer).expect("it is painted").image.data().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_alone_downloads_its_model_while_jobs_wait() {
    let hub = FakeHub::start().await;
    hub.put_folder(REPOSITORY, Path::new(MODEL));
    hub.slow(Some(Duration::from_millis(12)));
    let folder = tempfile::tempdir().expect("a temporary folder");

    let (worker, client) = start(folder.path(), &hub.url(), &["--sd-version", "v1-5"]);
    not_ready_because(&client, "downloading").await;
    // Killed in the middle, and started again.
    not_ready_because(&client, "of 23 MB").await;
    let id = Source::parse(REPOSITORY).expect("a repository").id();
    let part = folder.path().join("models/staging").join(&id).join("parts").join(UNET);
    let arrived = async || std::fs::metadata(&part).ok().filter(|about| about.len() > 0);
    eventually("the first bytes on the disk", arrived).await;
    drop(worker);
    let (worker, client) = start(folder.path(), &hub.url(), &["--sd-version", "v1-5"]);
    not_ready_because(&client, "downloading").await;
    let events = events(&client, "a red circle").await;
    let downloading = events.iter().filter_map(|event| match event {
        JobEvent::Progress { step, total, phase: Some(Phase::Downloading), bytes_per_second, .. } => {
            Some((*step, *total, *bytes_per_second))
        }
        _ => None,
    });
    let downloading: Vec<_> = downloading.collect();
    assert!(downloading.iter().any(|(bytes, total, speed)| bytes < total && speed.is_some()), "{events:?}");
    assert!(downloading.is_sorted(), "{downloading:?}");
    let denoised = |event: &&JobEvent| matches!(event, JobEvent::Progress { phase: Some(Phase::Denoising), .. });
    assert!(events.iter().any(|event| denoised(&event)));
    assert!(picture(&events) == picture_of_the_embedded_model("a red circle"), "the very same model");
    let requests = hub.requests_for(UNET);
    assert!(requests.len() == 2 && requests[1].range.is_some(), "the second process goes on: {requests:?}");

    let args = StoreArgs { offline: true, data_dir: Some(folder.path().to_owned()) };
    let store: ModelStore = args.open().expect("the store opens");
    assert_eq!(store.list().expect("a catalogue")[0].id, id);
    let error = store.delete(&id).expect_err("the worker uses it").to_string();
    assert!(error.contains("in use"), "{error}");
    drop(worker);

    let before = hub.requests().len();
    let (worker, client) = start(folder.path(), &hub.url(), &["--model", "sd-1.5", "--offline"]);
    eventually("the worker serves", async || client.ready().await.ok()).await;
    assert_eq!(hub.requests().len(), before, "what is here is not asked for again");
    drop(worker);
    store.delete(&id).expect("nobody uses it");
}

fn fails(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the worker starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().expect("it can be waited for") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                panic!("the worker serves although it cannot");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut stderr = Vec::new();
    child.stderr.take().expect("piped").read_to_end(&mut stderr).expect("it can be read");
    Output { status, stdout: Vec::new(), stderr }
}

#[test]
fn offline_a_model_that_is_not_here_is_an_error_at_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for flags in [&["--sd-version", "v1-5", "--offline"][..], &["--model", "someone/something", "--offline"]] {
        let output = fails(command(folder.path(), "http://127.0.0.1:9", flags));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains("is not on this machine") && said.contains("--offline"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_model_cannot_be_downloaded_says_why() {
    let hub = FakeHub::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_worker, client) = start(folder.path(), &hub.url(), &["--model", "someone/nothing"]);
    not_ready_because(&client, "someone/nothing is not at").await;
    let operation = json!({"operation": "image_generation", "prompt": "a house"});
    let error = client.create_job(&operation).await.expect_err("nothing can serve it").to_string();
    assert!(error.contains("HF_TOKEN"), "{error}");
}
