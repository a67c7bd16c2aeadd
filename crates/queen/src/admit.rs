//! From what somebody asks to a job that waits: who can do it, and whose it is.

use crate::server::QueenServer;
use broker::{HiveRecord, Idempotency, KeyId, NewJob, StoredOperation, Want, WorkKind, WorkerRecord};
use job_server::{Caller, Submission};
use operations_contract::{
    ApiError, ErrorCode, HiveOperation, JobResponse, LOCALHOST, Operation, Priority, QueenOperation, Validated,
    same_model,
};

/// Where a request says that it wants to go.
#[derive(Debug, Clone)]
struct Route {
    kind: WorkKind,
    model: Option<String>,
    hive_id: Option<String>,
    worker_id: Option<String>,
}

impl QueenServer {
    pub(crate) async fn admit(&self, submission: Submission) -> Result<JobResponse, ApiError> {
        let Submission { operation, caller, idempotency } = submission;
        let (want, priority, operation) = self.want(operation).await?;
        let broker = self.broker();
        let operation = StoredOperation::store(operation, &**broker).await?;
        let mut job = NewJob::new(operation, want);
        job.owner = owner(&caller);
        job.priority = priority;
        job.idempotency =
            idempotency.map(|job_server::Idempotency { key, body_sha256 }| Idempotency { key, body_sha256 });
        self.queen_jobs().submit(job).await
    }

    async fn want(&self, operation: Validated<Operation>) -> Result<(Want, Priority, Validated<Operation>), ApiError> {
        let own = || Want::hive(self.hive().id());
        let mut operation = match QueenOperation::from(operation) {
            QueenOperation::Status(request) => return Ok((own(), Priority::High, request.into())),
            QueenOperation::QueenCheck(request) => return Ok((own(), Priority::High, request.into())),
            QueenOperation::Hive(operation) => {
                let want = self.want_hive(&operation).await?;
                return Ok((want, Priority::High, operation.into()));
            }
            QueenOperation::Infer(request) => Validated::<Operation>::from(request),
            QueenOperation::ImageGeneration(request) => request.into(),
            QueenOperation::ImageTransform(request) => request.into(),
            QueenOperation::ImageInpaint(request) => request.into(),
        };
        let (route, priority) = route(&operation);
        let want = self.want_worker(route).await?;
        // Few digits are easier to say again, and torch looks at no more than 32 bits.
        operation.fill_seed(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
        Ok((want, priority, operation))
    }

    async fn want_hive(&self, operation: &HiveOperation) -> Result<Want, ApiError> {
        let named = Validated::<Operation>::from(operation.clone());
        let id = self.known_hive(named.hive_id().unwrap_or(LOCALHOST)).await?;
        if self.hive().is(&id) {
            // What is known here can be refused before there is a job.
            self.hive().admit(operation)?;
        }
        Ok(Want::hive(id))
    }

    /// The id of a hive that is there.
    async fn known_hive(&self, id: &str) -> Result<String, ApiError> {
        let own = self.hive().id().to_owned();
        if self.hive().is(id) {
            return Ok(own);
        }
        let hives = self.broker().hives().await?;
        if hives.iter().any(|hive| hive.hive_id == id) {
            return Ok(id.to_owned());
        }
        let mut known = vec![LOCALHOST, &own];
        known.extend(hives.iter().map(|hive| &*hive.hive_id).filter(|id| *id != own));
        let message = format!("there is no hive {id:?}; known are {}", known.join(", "));
        Err(ApiError::new(ErrorCode::NotFound, message).with_param("hive_id"))
    }

    async fn want_worker(&self, route: Route) -> Result<Want, ApiError> {
        let hive_id = match &route.hive_id {
            Some(id) => Some(self.known_hive(id).await?),
            None => None,
        };
        let hives = self.hives().await?;
        if let Some(id) = &route.worker_id {
            return self.named_worker(&hives, id, &route, hive_id.as_deref());
        }
        let default = self.default_model(route.kind);
        let asked = route.model.as_deref().unwrap_or(&default);
        let candidates: Vec<&HiveRecord> =
            hives.iter().filter(|hive| hive_id.as_ref().is_none_or(|id| *id == hive.hive_id)).collect();
        let workers = || candidates.iter().flat_map(|hive| &hive.workers).filter(|worker| worker.kind == route.kind);
        if !candidates.iter().any(|hive| hive.kinds.contains(&route.kind)) && workers().next().is_none() {
            return Err(nobody_serves(route.kind));
        }
        // A worker that somebody started by hand may have loaded what nothing else here knows.
        if let Some(worker) = workers().find(|worker| same_model(&worker.model, asked)) {
            return Ok(Want { hive_id, ..Want::model(route.kind, &worker.model) });
        }
        let model = match self.model(route.kind, asked) {
            // Another hive may have what this machine does not know.
            Err(error) if error.code == ErrorCode::ModelNotFound => {
                let elsewhere = candidates.iter().flat_map(|hive| &hive.models).find(|model| same_model(model, asked));
                let model = elsewhere.ok_or(error)?;
                return Ok(Want { hive_id, ..Want::model(route.kind, model) });
            }
            model => model?,
        };
        let mut want = Want { hive_id, ..Want::model(route.kind, model.as_str()) };
        if want.hive_id.is_none() && model.is_only_here() {
            want.hive_id = Some(self.hive().id().to_owned());
        }
        Ok(want)
    }

    fn named_worker(
        &self,
        hives: &[HiveRecord],
        id: &str,
        route: &Route,
        hive_id: Option<&str>,
    ) -> Result<Want, ApiError> {
        let workers = || hives.iter().flat_map(|hive| hive.workers.iter().map(move |worker| (hive, worker)));
        let fits = |hive: &HiveRecord| hive_id.is_none_or(|id| id == hive.hive_id);
        let Some((hive, worker)) = workers().find(|(hive, worker)| worker.worker_id == id && fits(hive)) else {
            let known: Vec<&str> = workers().map(|(_, worker)| &*worker.worker_id).collect();
            let known =
                if known.is_empty() { "none is running".to_owned() } else { format!("running: {}", known.join(", ")) };
            let message = format!("there is no worker {id:?}; {known}");
            return Err(ApiError::new(ErrorCode::NotFound, message).with_param("worker_id"));
        };
        let WorkerRecord { kind, model, .. } = worker;
        if *kind != route.kind {
            let message = format!("the worker {id} does {}; leave worker_id away", described(*kind));
            return Err(ApiError::new(ErrorCode::UnsupportedByModel, message).with_param("worker_id"));
        }
        let is_model = |asked: &str| {
            same_model(asked, model)
                || self.model(route.kind, asked).is_ok_and(|asked| same_model(asked.as_str(), model))
        };
        if route.model.as_deref().is_some_and(|asked| !is_model(asked)) {
            let message = format!("the worker {id} has loaded {model}; leave model or worker_id away");
            return Err(ApiError::new(ErrorCode::ModelMismatch, message).with_param("model"));
        }
        let (hive_id, worker_id) = (Some(hive.hive_id.clone()), Some(id.to_owned()));
        Ok(Want { hive_id, worker_id, ..Want::model(*kind, model) })
    }
}

fn route(operation: &Operation) -> (Route, Priority) {
    macro_rules! of {
        ($kind:ident, $request:ident) => {{
            let (model, hive_id, worker_id) =
                ($request.model.clone(), $request.hive_id.clone(), $request.worker_id.clone());
            (Route { kind: WorkKind::$kind, model, hive_id, worker_id }, $request.priority)
        }};
    }
    match operation {
        Operation::Infer(request) => of!(Infer, request),
        Operation::ImageGeneration(request) => of!(Image, request),
        Operation::ImageTransform(request) => of!(Image, request),
        Operation::ImageInpaint(request) => of!(Image, request),
        _ => (Route { kind: WorkKind::Hive, model: None, hive_id: None, worker_id: None }, Priority::High),
    }
}

/// Whose job it is; nobody's where no key was needed.
fn owner(caller: &Caller) -> Option<KeyId> {
    caller.key_id().map(|id| KeyId(id.to_owned()))
}

pub(crate) fn described(kind: WorkKind) -> &'static str {
    match kind {
        WorkKind::Image => "pictures",
        WorkKind::Infer => "text",
        WorkKind::Hive => "nothing but what a hive does itself",
    }
}

fn nobody_serves(kind: WorkKind) -> ApiError {
    let build = match kind {
        WorkKind::Infer => "cargo build --release -p llm-worker-rbee --features cpu",
        WorkKind::Image | WorkKind::Hive => "cargo build --release --bin sd-worker-cpu",
    };
    let message = format!(
        "no hive has a worker for {} or could start one; build it: {build}, and put it beside rbee or on PATH",
        described(kind)
    );
    ApiError::new(ErrorCode::Unavailable, message).with_param("operation")
}
