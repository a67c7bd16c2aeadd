//! What the worker's HTTP side knows: the queue, the jobs, and what reads requests before they become jobs.

use std::sync::{Arc, OnceLock};

use axum::Router;
use job_server::{Access, JobRegistry, JobServer, Submission, router_with};
use operations_contract::{
    ApiError, DeviceInfo, ErrorCode, InferRequest, Info, JobResponse, LlmWorkerOperation, MemoryInfo, Operation,
    OperationKind, Readiness, Validated, same_model,
};
use worker_engine::{WorkerIdentity, resident_memory_bytes, submit};

use crate::backend::{Inference, LlmRequest, PromptReader, RequestQueue};
use crate::embeddings;

/// What requests are answered from. Cloning shares it; the weights are the engine's alone.
#[derive(Clone)]
pub struct AppState {
    pub(crate) queue: RequestQueue,
    shared: Arc<Shared>,
}

struct Shared {
    registry: JobRegistry,
    identity: Arc<WorkerIdentity>,
    facts: Facts,
    reader: OnceLock<Arc<PromptReader>>,
}

/// What a worker says of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The program's name.
    pub server: String,
    /// Names by which requests may mean the loaded model.
    pub model_names: Vec<String>,
    /// What it computes with.
    pub device: DeviceInfo,
    /// Threads that compute.
    pub threads: usize,
}

impl AppState {
    /// A worker's state over its queue.
    #[must_use]
    pub fn new(queue: RequestQueue, registry: JobRegistry, identity: Arc<WorkerIdentity>, facts: Facts) -> Self {
        Self { queue, shared: Arc::new(Shared { registry, identity, facts, reader: OnceLock::new() }) }
    }

    /// Told by the engine when the model is loaded.
    pub fn loaded(&self, reader: Arc<PromptReader>) {
        // A model that is loaded again after a panic is the same.
        let _ = self.shared.reader.set(reader);
    }

    /// What reads requests, once the model is loaded.
    pub(crate) fn reader(&self) -> Option<Arc<PromptReader>> {
        self.shared.reader.get().cloned()
    }

    /// The model that is served, by the name that it shows.
    pub(crate) fn model(&self) -> &str {
        &self.shared.identity.model
    }

    /// Refuses a request that means another model.
    pub(crate) fn check_model(&self, model: Option<&str>) -> Result<(), ApiError> {
        let names = &self.shared.facts.model_names;
        match model.filter(|model| !names.iter().any(|name| same_model(name, model))) {
            None => Ok(()),
            Some(model) => {
                let loaded = self.model();
                let message = format!(
                    "this worker serves {loaded}, not {model}; leave model out, or ask the queen, who finds a worker for it"
                );
                Err(ApiError::new(ErrorCode::ModelMismatch, message).with_param("model"))
            }
        }
    }
}

/// The worker's routes.
pub fn create_router(state: AppState, access: &Access) -> Router {
    let more = embeddings::routes(state.clone());
    router_with(state, access, more)
}

/// Makes a job of an operation, or refuses it.
///
/// # Errors
/// `unsupported_operation` for what a language worker does not serve, and as [`execute_infer`].
pub async fn create_job(state: &AppState, mut operation: Validated<Operation>) -> Result<JobResponse, ApiError> {
    operation.fill_seed(rand::random);
    match LlmWorkerOperation::try_from(operation)? {
        LlmWorkerOperation::Infer(request) => execute_infer(state, request).await,
    }
}

/// Text to text.
///
/// # Errors
/// `model_mismatch`, `queue_full`, a prompt that does not fit into the context, or messages or a schema that this model cannot
/// follow.
pub async fn execute_infer(state: &AppState, request: Validated<InferRequest>) -> Result<JobResponse, ApiError> {
    state.check_model(request.model.as_deref())?;
    let (request, prompt) = match state.reader() {
        // While the model loads, the engine reads it.
        None => (request, None),
        // A long conversation takes a moment.
        Some(reader) => {
            let reading = tokio::task::spawn_blocking(move || {
                let prompt = reader.read(&request)?;
                Ok::<_, ApiError>((request, Some(prompt)))
            });
            reading.await.map_err(|_| ApiError::internal("reading the prompt failed; the worker's log says why"))??
        }
    };
    let Shared { registry, identity, .. } = &*state.shared;
    let priority = request.priority;
    let inference = LlmRequest::Infer(Box::new(Inference { request, prompt }));
    submit(registry, &state.queue, identity, OperationKind::Infer, priority, inference)
}

impl JobServer for AppState {
    fn serves(&self, kind: OperationKind) -> bool {
        LlmWorkerOperation::serves(kind)
    }

    type Jobs = JobRegistry;

    fn jobs(&self) -> &JobRegistry {
        &self.shared.registry
    }

    async fn create_job(&self, submission: Submission) -> Result<JobResponse, ApiError> {
        create_job(self, submission.operation).await
    }

    fn info(&self) -> Info {
        let Shared { identity, facts, reader, .. } = &*self.shared;
        let operations: Vec<String> = OperationKind::ALL
            .iter()
            .filter(|kind| LlmWorkerOperation::serves(**kind))
            .map(|kind| kind.name().to_owned())
            .collect();
        Info {
            server: facts.server.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            worker_id: Some(identity.worker_id.clone()),
            device: Some(facts.device.clone()),
            threads: Some(facts.threads),
            model: reader.get().map(|_| operations_contract::ModelInfo {
                name: identity.model.clone(),
                class: Some("GGUF".to_owned()),
                operations: operations.clone(),
                ..operations_contract::ModelInfo::default()
            }),
            memory: resident_memory_bytes().map(|used_bytes| MemoryInfo { used_bytes, foreseen_bytes: None }),
            operations,
        }
    }

    fn ready(&self) -> Readiness {
        self.queue.status().readiness()
    }
}
