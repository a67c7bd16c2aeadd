//! What the worker's HTTP side knows: the queue, the jobs, and which operation goes where.

use std::sync::{Arc, OnceLock};

use axum::Router;
use diffusion::pipeline::{Foresight, ModelInfo, PictureShape};
use job_server::{Access, JobRegistry, JobServer, Submission, router};
use operations_contract::{
    ApiError, DeviceInfo, ErrorCode, ImageGenerationRequest, ImageInpaintRequest, ImageTransformRequest, Info,
    JobResponse, MemoryInfo, Operation, OperationKind, Priority, Readiness, SdWorkerOperation, Validated, same_model,
};
use worker_engine::{WorkerIdentity, resident_memory_bytes, submit};

use crate::backend::{RequestQueue, SamplingConfig, api_error, parts};

/// What requests are answered from. Cloning shares it; the model is the engine's alone.
#[derive(Clone)]
pub struct AppState {
    queue: RequestQueue,
    shared: Arc<Shared>,
}

struct Shared {
    registry: JobRegistry,
    identity: Arc<WorkerIdentity>,
    facts: Facts,
    model: OnceLock<(ModelInfo, Option<Arc<Foresight>>)>,
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
    /// In which precision it computes.
    pub precision: &'static str,
}

impl AppState {
    /// A worker's state over its queue.
    #[must_use]
    pub fn new(queue: RequestQueue, registry: JobRegistry, identity: Arc<WorkerIdentity>, facts: Facts) -> Self {
        Self { queue, shared: Arc::new(Shared { registry, identity, facts, model: OnceLock::new() }) }
    }

    /// Told by the engine when the model is loaded.
    pub fn loaded(&self, info: ModelInfo, foresight: Option<Arc<Foresight>>) {
        // A model that is loaded again after a panic is the same.
        let _ = self.shared.model.set((info, foresight));
    }

    /// Everything that can be refused before there is a job.
    fn check(&self, operation: &SdWorkerOperation, model: Option<&str>) -> Result<(), ApiError> {
        let names = &self.shared.facts.model_names;
        if let Some(model) = model.filter(|model| !names.iter().any(|name| same_model(name, model))) {
            let loaded = &self.shared.identity.model;
            let message = format!(
                "this worker serves {loaded}, not {model}; leave model out, or ask the queen, who finds a worker for it"
            );
            return Err(ApiError::new(ErrorCode::ModelMismatch, message).with_param("model"));
        }
        // While the model loads, the engine checks.
        let Some((info, foresight)) = self.shared.model.get() else { return Ok(()) };
        let config = SamplingConfig::new(operation, info)?;
        info.check(&config.sampling()).map_err(|error| api_error(&error))?;
        let Some(foresight) = foresight else { return Ok(()) };
        let shape = shape(operation, info, config.guidance_scale);
        shape.map_or(Ok(()), |shape| foresight.fit(shape).map(drop).map_err(|error| api_error(&error)))
    }

    fn execute(
        &self,
        kind: OperationKind,
        model: Option<&str>,
        priority: Priority,
        operation: SdWorkerOperation,
    ) -> Result<JobResponse, ApiError> {
        self.check(&operation, model)?;
        submit(&self.shared.registry, &self.queue, &self.shared.identity, kind, priority, operation)
    }
}

/// What is known of a picture before its prompt and its images are looked at, so that one that is far too large is refused at
/// once; the pipeline looks again.
fn shape(operation: &SdWorkerOperation, info: &ModelInfo, guidance_scale: f64) -> Option<PictureShape> {
    let (settings, strength, _) = parts(operation);
    let own = strength.is_none().then_some(info.native_size);
    let side = |side: Option<u32>| side.map(|side| side as usize);
    Some(PictureShape {
        width: side(settings.width).or(own.map(|own| own.0))?,
        height: side(settings.height).or(own.map(|own| own.1))?,
        guided: guidance_scale > 1.0 && info.guidance_embedding.is_none(),
        chunks: 1,
        encodes: strength.is_some(),
    })
}

/// The worker's routes.
pub fn create_router(state: AppState, access: &Access) -> Router {
    router(state, access)
}

/// Makes a job of an operation, or refuses it.
///
/// # Errors
/// `unsupported_operation` for what an image worker does not serve, and what its three operations say.
pub fn create_job(state: &AppState, mut operation: Validated<Operation>) -> Result<JobResponse, ApiError> {
    operation.fill_seed(rand::random);
    match SdWorkerOperation::try_from(operation)? {
        SdWorkerOperation::ImageGeneration(request) => execute_image_generation(state, request),
        SdWorkerOperation::ImageTransform(request) => execute_image_transform(state, request),
        SdWorkerOperation::ImageInpaint(request) => execute_image_inpaint(state, request),
    }
}

/// Text to picture.
///
/// # Errors
/// `model_mismatch`, `unsupported_by_model`, `queue_full`, or a setting that this model cannot follow.
pub fn execute_image_generation(
    state: &AppState,
    request: Validated<ImageGenerationRequest>,
) -> Result<JobResponse, ApiError> {
    let (model, priority) = (request.model.clone(), request.priority);
    let operation = SdWorkerOperation::ImageGeneration(request);
    state.execute(OperationKind::ImageGeneration, model.as_deref(), priority, operation)
}

/// Image and text to picture.
///
/// # Errors
/// As [`execute_image_generation`].
pub fn execute_image_transform(
    state: &AppState,
    request: Validated<ImageTransformRequest>,
) -> Result<JobResponse, ApiError> {
    let (model, priority) = (request.model.clone(), request.priority);
    let operation = SdWorkerOperation::ImageTransform(request);
    state.execute(OperationKind::ImageTransform, model.as_deref(), priority, operation)
}

/// Image, mask and text to picture.
///
/// # Errors
/// As [`execute_image_generation`].
pub fn execute_image_inpaint(
    state: &AppState,
    request: Validated<ImageInpaintRequest>,
) -> Result<JobResponse, ApiError> {
    let (model, priority) = (request.model.clone(), request.priority);
    let operation = SdWorkerOperation::ImageInpaint(request);
    state.execute(OperationKind::ImageInpaint, model.as_deref(), priority, operation)
}

impl JobServer for AppState {
    fn serves(&self, kind: OperationKind) -> bool {
        SdWorkerOperation::serves(kind)
    }

    type Jobs = JobRegistry;

    fn jobs(&self) -> &JobRegistry {
        &self.shared.registry
    }

    async fn create_job(&self, submission: Submission) -> Result<JobResponse, ApiError> {
        create_job(self, submission.operation)
    }

    fn info(&self) -> Info {
        let Shared { identity, facts, model, .. } = &*self.shared;
        let operations = |info: &ModelInfo| {
            let kinds = [OperationKind::ImageGeneration, OperationKind::ImageTransform, OperationKind::ImageInpaint];
            let only_masked = info.paints_only_through_a_mask();
            kinds
                .into_iter()
                .filter(|kind| !only_masked || *kind == OperationKind::ImageInpaint)
                .map(|kind| kind.name().to_owned())
                .collect()
        };
        Info {
            server: facts.server.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            worker_id: Some(identity.worker_id.clone()),
            device: Some(facts.device.clone()),
            threads: Some(facts.threads),
            model: model.get().map(|(info, _)| operations_contract::ModelInfo {
                name: identity.model.clone(),
                class: Some(info.class.clone()),
                width: Some(info.native_size.0 as u32),
                height: Some(info.native_size.1 as u32),
                precision: Some(facts.precision.to_owned()),
                operations: operations(info),
                ..operations_contract::ModelInfo::default()
            }),
            memory: resident_memory_bytes().map(|used_bytes| {
                let foresight = model.get().and_then(|(_, foresight)| foresight.as_ref());
                let foreseen = foresight.and_then(|foresight| foresight.own_size().ok());
                MemoryInfo { used_bytes, foreseen_bytes: foreseen.map(|footprint| footprint.peak()) }
            }),
            operations: OperationKind::ALL
                .iter()
                .filter(|kind| SdWorkerOperation::serves(**kind))
                .map(|kind| kind.name().to_owned())
                .collect(),
        }
    }

    fn ready(&self) -> Readiness {
        self.queue.status().readiness()
    }
}
