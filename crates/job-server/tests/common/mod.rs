//! A server whose jobs the test itself runs, over a real socket.

#![allow(clippy::unwrap_used, dead_code, reason = "a helper that fails is a failed test, and not every test needs all")]

use job_server::{Access, JobHandle, JobRegistry, JobServer, RegistryLimits, Submission, router, serve};
use operations_contract::{ApiError, Info, JobResponse, Operation, OperationKind, Readiness};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

pub(crate) struct TestServer {
    pub(crate) url: String,
    pub(crate) registry: JobRegistry,
    pub(crate) client: reqwest::Client,
    handles: Mutex<mpsc::UnboundedReceiver<JobHandle>>,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
}

#[derive(Clone)]
pub(crate) struct Handed {
    registry: JobRegistry,
    handles: mpsc::UnboundedSender<JobHandle>,
}

impl Handed {
    pub(crate) fn new(limits: RegistryLimits) -> (Self, mpsc::UnboundedReceiver<JobHandle>) {
        let (handles, received) = mpsc::unbounded_channel();
        (Self { registry: JobRegistry::new(limits), handles }, received)
    }
}

impl JobServer for Handed {
    fn serves(&self, kind: OperationKind) -> bool {
        kind == OperationKind::ImageGeneration || kind == OperationKind::ImageTransform
    }

    type Jobs = JobRegistry;

    fn jobs(&self) -> &JobRegistry {
        &self.registry
    }

    async fn create_job(&self, Submission { operation, .. }: Submission) -> Result<JobResponse, ApiError> {
        if let Operation::ImageGeneration(request) = &*operation {
            assert_ne!(request.prompt, "panic", "asked to");
        }
        let job = self.registry.create_job(operation.kind())?;
        let response = job.response();
        job.queued(1);
        self.handles.send(job).map_err(|_| ApiError::internal("the test is over"))?;
        Ok(response)
    }

    fn info(&self) -> Info {
        Info {
            server: "test".to_owned(),
            version: "0.0.0".to_owned(),
            pid: std::process::id(),
            worker_id: None,
            device: None,
            threads: None,
            model: None,
            memory: None,
            operations: vec!["image_generation".to_owned()],
        }
    }

    fn ready(&self) -> Readiness {
        Readiness { ready: false, reason: Some("the model loads".to_owned()) }
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(RegistryLimits::in_memory(8), &[]).await
    }

    pub(crate) async fn with(limits: RegistryLimits, origins: &[String]) -> Self {
        let (server, handles) = Handed::new(limits);
        let registry = server.registry.clone();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = router(server, &Access::new(address.ip(), origins, None));
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(listener, app, registry.clone(), stopped));
        Self {
            url: format!("http://{address}"),
            registry,
            client: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap(),
            handles: Mutex::new(handles),
            stop: Some(stop),
            serving,
        }
    }

    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn post(&self, operation: &Value) -> reqwest::Response {
        self.client.post(format!("{}/v1/jobs", self.url)).json(operation).send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    /// A job and the hand that writes its log.
    pub(crate) async fn job(&self) -> (String, JobHandle) {
        let response = self.post(&serde_json::json!({"operation": "image_generation", "prompt": "a"})).await;
        assert_eq!(response.status(), 202);
        let response: JobResponse = response.json().await.unwrap();
        assert_eq!(response.sse_url, format!("/v1/jobs/{}/stream", response.job_id));
        (response.job_id, self.handles.lock().await.recv().await.unwrap())
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<SseEvent> {
        read_to_end(self.get(&format!("/v1/jobs/{id}/stream")).await).await
    }
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SseEvent {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) data: Value,
}

pub(crate) async fn read_to_end(response: reqwest::Response) -> Vec<SseEvent> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    parse(&response.text().await.unwrap())
}

pub(crate) fn parse(text: &str) -> Vec<SseEvent> {
    let field = |block: &str, name: &str| {
        let lines = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        lines.collect::<Vec<_>>().join("\n")
    };
    text.split("\n\n")
        .filter(|block| block.contains("data: "))
        .map(|block| {
            let data: Value = serde_json::from_str(&field(block, "data")).unwrap();
            assert_eq!(data["type"], field(block, "event"));
            SseEvent { id: field(block, "id").parse().unwrap(), name: field(block, "event"), data }
        })
        .collect()
}

pub(crate) fn names(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| &*event.name).collect()
}
