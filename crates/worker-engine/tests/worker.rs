//! A worker over a real socket, whose pipeline does what its request says instead of painting.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use job_server::{Access, CancellationToken, JobRegistry, JobServer, Outcome, RegistryLimits, Submission, router};
use operations_contract::{
    ApiError, ErrorCode, Info, Job, JobList, JobResponse, JobState, Operation, OperationKind, Phase, Readiness,
    SdWorkerOperation,
};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tokio::net::TcpListener;
use worker_engine::{
    DownloadProgress, EngineStatus, Events, GenerationEngine, InferencePipeline, LoadReporter, PipelineError,
    RequestQueue, WorkerIdentity, submit,
};

/// Does what the prompt says.
struct Scripted {
    /// Where a "wait" waits until the test lets it go on.
    gate: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
    /// The prompts in the order in which they ran.
    ran: Arc<std::sync::Mutex<Vec<String>>>,
}

impl InferencePipeline for Scripted {
    type Request = String;

    fn run(&mut self, prompt: String, events: &Events, cancel: &CancellationToken) -> Result<Outcome, PipelineError> {
        self.ran.lock().unwrap().push(prompt.clone());
        match &*prompt {
            "panic" => panic!("asked to"),
            "fail" => return Err(ApiError::new(ErrorCode::OutOfMemory, "it does not fit").into()),
            "lie" => return Err(PipelineError::Cancelled),
            "wait" => {
                let _ = self.gate.lock().unwrap().recv();
            }
            _ => {}
        }
        for step in 1..=3 {
            if cancel.is_cancelled() {
                return Err(PipelineError::Cancelled);
            }
            events.progress(step, 3, Phase::Denoising);
            if prompt == "forever" {
                while !cancel.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        Ok(Outcome::Result(json!(prompt)))
    }
}

#[derive(Clone)]
struct Worker {
    registry: JobRegistry,
    queue: RequestQueue<String>,
    identity: Arc<WorkerIdentity>,
}

impl JobServer for Worker {
    fn serves(&self, kind: OperationKind) -> bool {
        SdWorkerOperation::serves(kind)
    }

    type Jobs = JobRegistry;

    fn jobs(&self) -> &JobRegistry {
        &self.registry
    }

    async fn create_job(&self, Submission { operation, .. }: Submission) -> Result<JobResponse, ApiError> {
        let Operation::ImageGeneration(request) = &*operation else { panic!("only this is asked") };
        let (prompt, priority) = (request.prompt.clone(), request.priority);
        submit(&self.registry, &self.queue, &self.identity, operation.kind(), priority, prompt)
    }

    fn info(&self) -> Info {
        panic!("not asked")
    }

    fn ready(&self) -> Readiness {
        Readiness { ready: self.queue.status() == EngineStatus::Ready, reason: None }
    }
}

struct Test {
    url: String,
    client: reqwest::Client,
    worker: Worker,
    gate: mpsc::Sender<()>,
    ran: Arc<std::sync::Mutex<Vec<String>>>,
    loads: Arc<AtomicUsize>,
}

/// What happens at the n-th loading, from 0.
type Load = fn(usize) -> Result<(), ApiError>;

async fn start(admitted: usize, load: Load) -> Test {
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    start_with(admitted, loads, move |_| load(counted.fetch_add(1, Ordering::SeqCst))).await
}

async fn start_with(
    admitted: usize,
    loads: Arc<AtomicUsize>,
    load: impl Fn(&LoadReporter) -> Result<(), ApiError> + Send + 'static,
) -> Test {
    let (queue, receiver) = RequestQueue::new();
    let reporter = receiver.load_reporter();
    let (gate, gated) = mpsc::channel();
    let gated = Arc::new(std::sync::Mutex::new(gated));
    let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
    let runs = Arc::clone(&ran);
    let pipeline = move || {
        load(&reporter)?;
        Ok(Scripted { gate: Arc::clone(&gated), ran: Arc::clone(&runs) })
    };
    GenerationEngine::loading(pipeline, receiver).start().unwrap();
    let identity = WorkerIdentity { worker_id: "worker-1".into(), model: "scripted".into(), device: "cpu".into() };
    let registry = JobRegistry::new(RegistryLimits::in_memory(admitted));
    let worker = Worker { registry, queue, identity: Arc::new(identity) };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(worker.clone(), &Access::new(address.ip(), &[], None));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
    Test { url: format!("http://{address}"), client, worker, gate, ran, loads }
}

async fn eventually(mut is: impl FnMut() -> bool) {
    while !is() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Test {
    async fn post(&self, prompt: &str, priority: &str) -> reqwest::Response {
        let operation = json!({"operation": "image_generation", "prompt": prompt, "priority": priority});
        self.client.post(format!("{}/v1/jobs", self.url)).json(&operation).send().await.unwrap()
    }

    async fn ask(&self, prompt: &str) -> String {
        let response = self.post(prompt, "normal").await;
        assert_eq!(response.status(), 202);
        response.json::<JobResponse>().await.unwrap().job_id
    }

    async fn events(&self, id: &str) -> Vec<Value> {
        let response = self.client.get(format!("{}/v1/jobs/{id}/stream", self.url)).send().await.unwrap();
        let text = response.text().await.unwrap();
        text.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    async fn names(&self, id: &str) -> Vec<String> {
        self.events(id).await.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    async fn job(&self, id: &str) -> Job {
        self.client.get(format!("{}/v1/jobs/{id}", self.url)).send().await.unwrap().json().await.unwrap()
    }

    async fn running(&self, id: &str) {
        while self.job(id).await.state == JobState::Queued {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn cancel(&self, id: &str) -> Job {
        self.client.delete(format!("{}/v1/jobs/{id}", self.url)).send().await.unwrap().json().await.unwrap()
    }
}

fn loads(_: usize) -> Result<(), ApiError> {
    Ok(())
}

#[tokio::test]
async fn a_job_runs_whether_or_not_anybody_listens() {
    let test = start(8, loads).await;
    test.worker.queue.settled().await;
    let id = test.ask("a").await;
    let events = test.events(&id).await;
    assert_eq!(events[0], json!({"type": "queued", "position": 1}));
    assert_eq!(events[1], json!({"type": "started", "model": "scripted", "worker_id": "worker-1", "attempt": 1}));
    assert_eq!(events[2], json!({"type": "progress", "step": 1, "total": 3, "phase": "denoising"}));
    assert!(events[4]["eta_ms"].is_u64());
    assert_eq!(events[5], json!({"type": "complete", "result": "a"}));
    assert_eq!(test.job(&id).await.state, JobState::Complete);
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_never_runs() {
    let test = start(8, loads).await;
    let running = test.ask("wait").await;
    test.running(&running).await;
    let waiting = test.ask("b").await;
    let behind = test.ask("c").await;
    assert_eq!(test.job(&behind).await.position, Some(2));
    assert_eq!(test.cancel(&waiting).await.state, JobState::Cancelled);
    assert_eq!(test.cancel(&waiting).await.state, JobState::Cancelled);
    test.gate.send(()).unwrap();
    assert_eq!(test.names(&waiting).await, ["queued", "cancelled"]);
    assert_eq!(test.names(&behind).await.last().unwrap(), "complete");
    assert_eq!(test.names(&running).await.last().unwrap(), "complete");
}

#[tokio::test]
async fn a_running_job_is_cancelled_between_two_steps() {
    let test = start(8, loads).await;
    let id = test.ask("forever").await;
    test.running(&id).await;
    assert_eq!(test.cancel(&id).await.state, JobState::Cancelled);
    assert_eq!(test.names(&id).await.last().unwrap(), "cancelled");
    assert_eq!(test.names(&test.ask("next").await).await.last().unwrap(), "complete");
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_worker_lives_on_with_a_new_pipeline() {
    let test = start(8, loads).await;
    let events = test.events(&test.ask("panic").await).await;
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("internal")));
    assert_eq!(last["message"], "the pipeline panicked: asked to");
    assert_eq!(test.names(&test.ask("next").await).await.last().unwrap(), "complete");
    assert_eq!(test.loads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_pipeline_that_fails_says_why() {
    let test = start(8, loads).await;
    let events = test.events(&test.ask("fail").await).await;
    assert_eq!(
        events.last().unwrap(),
        &json!({"type": "error", "code": "out_of_memory", "message": "it does not fit"})
    );
    let events = test.events(&test.ask("lie").await).await;
    assert_eq!(events.last().unwrap()["code"], "internal");
    assert_eq!(test.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_full_worker_refuses() {
    let test = start(2, loads).await;
    let running = test.ask("wait").await;
    let waiting = test.ask("b").await;
    let refused = test.post("c", "high").await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (429, true));
    test.gate.send(()).unwrap();
    assert_eq!(test.names(&running).await.last().unwrap(), "complete");
    assert_eq!(test.names(&waiting).await.last().unwrap(), "complete");
    test.ask("d").await;
}

#[tokio::test]
async fn the_urgent_come_first_and_the_others_are_told() {
    let test = start(8, loads).await;
    let running = test.ask("wait").await;
    test.running(&running).await;
    let mut ids = Vec::new();
    for (prompt, priority) in [("a", "low"), ("b", "normal"), ("c", "high"), ("d", "normal")] {
        ids.push(test.post(prompt, priority).await.json::<JobResponse>().await.unwrap().job_id);
    }
    test.gate.send(()).unwrap();
    for id in &ids {
        test.names(id).await;
    }
    let positions: Vec<_> = test.events(&ids[0]).await.into_iter().filter(|event| event["type"] == "queued").collect();
    let positions: Vec<_> = positions.iter().map(|event| event["position"].as_u64().unwrap()).collect();
    // At admission nothing was before it; then the high one ran and left two before it, and so on.
    assert_eq!(positions, [1, 3, 2, 1]);
    assert_eq!(*test.ran.lock().unwrap(), ["wait", "c", "b", "d", "a"]);
}

#[tokio::test]
async fn a_worker_takes_jobs_while_its_model_loads() {
    let test = start(8, |_| {
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    })
    .await;
    let ready = test.client.get(format!("{}/ready", test.url)).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    let id = test.ask("a").await;
    let cancelled = test.ask("b").await;
    assert_eq!(test.cancel(&cancelled).await.state, JobState::Cancelled);
    let events = test.events(&id).await;
    assert_eq!(events[1], json!({"type": "progress", "step": 0, "total": 1, "phase": "loading"}));
    assert_eq!(events.last().unwrap()["type"], "complete");
    assert_eq!(test.client.get(format!("{}/ready", test.url)).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn jobs_that_wait_for_a_download_are_told_how_far_it_is() {
    let (go_on, gated) = mpsc::channel();
    let gated = std::sync::Mutex::new(gated);
    let test = start_with(8, Arc::default(), move |reporter| {
        let told = |bytes| DownloadProgress { bytes, total: 100, bytes_per_second: Some(25), eta_ms: Some(9) };
        reporter.downloading(told(0));
        let _ = gated.lock().unwrap().recv();
        for bytes in [60, 90] {
            std::thread::sleep(Duration::from_millis(1200));
            reporter.downloading(told(bytes));
        }
        reporter.loading();
        Ok(())
    })
    .await;
    eventually(|| matches!(test.worker.queue.status(), EngineStatus::Downloading(_))).await;
    let id = test.ask("a").await;
    assert_eq!(test.job(&id).await.state, JobState::Queued);
    go_on.send(()).unwrap();
    let progress: Vec<_> = test.events(&id).await.into_iter().filter(|event| event["type"] == "progress").collect();
    let told: Vec<_> = progress.iter().filter(|event| event["phase"] == "downloading").collect();
    let golden = json!({"type": "progress", "step": 0, "total": 100, "phase": "downloading", "eta_ms": 9, "bytes_per_second": 25});
    assert_eq!(*told[0], golden);
    assert!((2..=3).contains(&told.len()), "once a second: {told:?}");
    assert_eq!(progress.last().unwrap()["phase"], "denoising");
}

#[tokio::test]
async fn a_model_that_does_not_load_ends_those_that_wait_and_refuses_the_rest() {
    let test = start(8, |_| {
        std::thread::sleep(Duration::from_millis(200));
        Err(ApiError::new(ErrorCode::ModelLoadFailed, "unet/config.json is missing"))
    })
    .await;
    let id = test.ask("a").await;
    let last = test.events(&id).await.pop().unwrap();
    assert_eq!((&last["code"], &last["message"]), (&json!("model_load_failed"), &json!("unet/config.json is missing")));
    let refused = test.post("b", "normal").await;
    assert_eq!(refused.status(), 503);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["message"], "the model could not be loaded: unet/config.json is missing");
    let list: JobList = test.client.get(format!("{}/v1/jobs", test.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(list.jobs.len(), 1);
}

#[tokio::test]
async fn a_loader_that_panics_is_a_model_that_does_not_load() {
    let test = start(8, |_| panic!("torn file")).await;
    let EngineStatus::Failed(error) = test.worker.queue.settled().await else { panic!("it loaded") };
    assert_eq!(error.message, "loading the model panicked: torn file");
}
