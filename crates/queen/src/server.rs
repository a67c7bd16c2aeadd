use crate::dispatcher::Dispatcher;
use crate::paint::{self, Work};
use crate::queue::Want;
use crate::{check, status};
use axum::Router;
use job_server::{Access, Ending, JobRegistry, JobServer, Jobs as _, Outcome, RegistryLimits, Submission, router};
use operations_contract::{
    ApiError, ErrorCode, ImageSettings, Info, JobResponse, Operation, OperationKind, QueenOperation, Readiness,
    Validated, same_model,
};
use rbee_hive::{Hive, Model};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of images that waiting and running jobs may hold together.
const IMAGE_BYTES: usize = 2 << 30;

/// A queen behind the routes that every server has. Clones are the same queen.
#[derive(Debug, Clone)]
pub struct QueenServer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hive: Hive,
    dispatcher: Arc<Dispatcher>,
    registry: JobRegistry,
    addresses: Addresses,
    image_bytes: Arc<AtomicUsize>,
}

/// Where queen and hive listen.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// The queen.
    pub queen: String,
    /// The hive inside her.
    pub hive: String,
}

impl QueenServer {
    /// A queen over `hive` that admits so many jobs at once. Must be called inside a tokio runtime.
    pub fn new(hive: Hive, jobs: usize, addresses: Addresses) -> Self {
        Self(Arc::new(Shared {
            dispatcher: Dispatcher::new(hive.clone()),
            hive,
            registry: JobRegistry::new(RegistryLimits::in_memory(jobs)),
            addresses,
            image_bytes: Arc::default(),
        }))
    }

    /// Her routes.
    pub fn router(&self, access: &Access) -> Router {
        router(self.clone(), access)
    }

    pub(crate) fn hive(&self) -> &Hive {
        &self.0.hive
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.0.addresses
    }

    pub(crate) fn waiting(&self) -> usize {
        self.0.dispatcher.waiting()
    }

    fn paint(&self, operation: Validated<Operation>, settings: &ImageSettings) -> Result<JobResponse, ApiError> {
        let shared = &self.0;
        if let Some(hive_id) = &settings.hive_id {
            shared.hive.check_id(hive_id)?;
        }
        let want = self.want(settings)?;
        let held = HeldBytes::take(&shared.image_bytes, image_bytes(&operation))?;
        let mut operation = operation;
        let kind = operation.kind();
        // Few digits are easier to say again, and torch looks at no more than 32 bits.
        operation.fill_seed(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
        operation.clear_route();

        let job = shared.registry.create_job(kind)?;
        let response = job.response();
        let place = shared.dispatcher.place(settings.priority);
        let ticket = shared.dispatcher.wait(place, want.clone());
        job.queued(ticket.position());
        let (hive, dispatcher) = (shared.hive.clone(), shared.dispatcher.clone());
        tokio::spawn(async move {
            let work = Work { operation, want, place };
            paint::paint(hive, dispatcher, job, work, ticket).await;
            drop(held);
        });
        Ok(response)
    }

    /// Which workers will do; one that is named must exist and have the model that is named.
    fn want(&self, settings: &ImageSettings) -> Result<Want, ApiError> {
        let Some(id) = &settings.worker_id else {
            return Ok(Want { model: Model::resolve(settings.model.as_deref())?, worker_id: None });
        };
        let workers = self.0.hive.ready_workers();
        let Some(worker) = workers.iter().find(|worker| worker.id() == id) else {
            let known: Vec<&str> = workers.iter().map(|worker| worker.id()).collect();
            let known =
                if known.is_empty() { "none is running".to_owned() } else { format!("running: {}", known.join(", ")) };
            let message = format!("there is no worker {id:?}; {known}");
            return Err(ApiError::new(ErrorCode::NotFound, message).with_param("worker_id"));
        };
        let fits = settings.model.as_deref().is_none_or(|model| {
            same_model(model, worker.model()) || Model::resolve(Some(model)).is_ok_and(|model| model.is(worker.model()))
        });
        if !fits {
            let message = format!("the worker {id} has loaded {}; leave model or worker_id away", worker.model());
            return Err(ApiError::new(ErrorCode::ModelMismatch, message).with_param("model"));
        }
        Ok(Want { model: Model::resolve(None)?, worker_id: Some(id.clone()) })
    }
}

impl JobServer for QueenServer {
    fn serves(&self, kind: OperationKind) -> bool {
        match kind {
            OperationKind::Status
            | OperationKind::QueenCheck
            | OperationKind::ImageGeneration
            | OperationKind::ImageTransform
            | OperationKind::ImageInpaint => true,
            // There is no language worker to give it to.
            OperationKind::Infer => false,
            OperationKind::HiveCheck
            | OperationKind::WorkerSpawn
            | OperationKind::WorkerProcessList
            | OperationKind::WorkerProcessGet
            | OperationKind::WorkerProcessDelete
            | OperationKind::ModelDownload
            | OperationKind::ModelList
            | OperationKind::ModelGet
            | OperationKind::ModelDelete => rbee_hive::serves(kind),
        }
    }

    type Jobs = JobRegistry;

    fn jobs(&self) -> &JobRegistry {
        &self.0.registry
    }

    async fn create_job(&self, Submission { operation, .. }: Submission) -> Result<JobResponse, ApiError> {
        let kind = operation.kind();
        let shared = &self.0;
        match QueenOperation::from(operation) {
            QueenOperation::ImageGeneration(request) => {
                let settings = request.settings();
                self.paint(request.into(), &settings)
            }
            QueenOperation::ImageTransform(request) => {
                let settings = request.settings();
                self.paint(request.into(), &settings)
            }
            QueenOperation::ImageInpaint(request) => {
                let settings = request.settings();
                self.paint(request.into(), &settings)
            }
            QueenOperation::Status(_) => {
                // Looked at before the job that asks is one of the jobs.
                let result = status::status(self, shared.registry.totals().await);
                let job = shared.registry.create_job(kind)?;
                let response = job.response();
                job.started(None, None, 1);
                job.finish(Ending::Complete(Outcome::Result(result)));
                Ok(response)
            }
            QueenOperation::QueenCheck(_) => {
                let job = shared.registry.create_job(kind)?;
                let response = job.response();
                let server = self.clone();
                tokio::spawn(async move {
                    job.started(None, None, 1);
                    let result = check::run(&server, &job).await;
                    job.finish(Ending::Complete(Outcome::Result(result)));
                });
                Ok(response)
            }
            QueenOperation::Hive(operation) => {
                let admitted = shared.hive.admit(&operation)?;
                let job = shared.registry.create_job(kind)?;
                let response = job.response();
                let hive = shared.hive.clone();
                tokio::spawn(async move { hive.execute(admitted, job).await });
                Ok(response)
            }
            QueenOperation::Infer(_) => {
                let message = "this queen has no language workers, so that infer is not served";
                Err(ApiError::new(ErrorCode::UnsupportedOperation, message).with_param("operation"))
            }
        }
    }

    fn info(&self) -> Info {
        rbee_hive::info("queen-rbee", |kind| self.serves(kind))
    }

    /// Ready is who can admit jobs, with or without workers.
    fn ready(&self) -> Readiness {
        let closed = self.0.registry.is_closed();
        Readiness { ready: !closed, reason: closed.then(|| "the queen is stopping".to_owned()) }
    }
}

/// A part of the bytes that images may hold, given back when dropped.
#[derive(Debug)]
struct HeldBytes {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl HeldBytes {
    fn take(total: &Arc<AtomicUsize>, bytes: usize) -> Result<Self, ApiError> {
        let before = total.fetch_add(bytes, Ordering::AcqRel);
        // Made first, so that what was added is given back on the way out too.
        let held = Self { bytes, total: total.clone() };
        if bytes > 0 && before + bytes > IMAGE_BYTES {
            let message = format!("waiting jobs hold {before} bytes of images already; try again later");
            return Err(ApiError::new(ErrorCode::QueueFull, message));
        }
        Ok(held)
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

fn image_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::ImageTransform(request) => request.init_image.len(),
        Operation::ImageInpaint(request) => request.init_image.len() + request.mask_image.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_waiting_jobs_are_bounded() {
        let total = Arc::default();
        let first = HeldBytes::take(&total, IMAGE_BYTES).unwrap();
        assert_eq!(HeldBytes::take(&total, 1).unwrap_err().code, ErrorCode::QueueFull);
        assert!(HeldBytes::take(&total, 0).is_ok(), "a job without images holds none");
        drop(first);
        assert!(HeldBytes::take(&total, 1).is_ok());
    }
}
