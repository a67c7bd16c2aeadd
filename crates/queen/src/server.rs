use crate::jobs::QueenJobs;
use crate::settings::Settings;
use crate::{explain, keys, logs, ollama, openai};
use axum::Router;
use broker::{Broker, HiveRecord, WorkKind};
use job_server::{Access, JobServer, Jobs as _, Submission, router_with};
use operations_contract::{ApiError, Info, JobResponse, LOCALHOST, OperationKind, Readiness, same_model};
use rbee_hive::{Hive, Model};
use std::sync::Arc;

/// A queen behind the routes that every server has. Clones are the same queen.
#[derive(Debug, Clone)]
pub struct QueenServer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hive: Hive,
    jobs: QueenJobs,
    settings: Settings,
    addresses: Addresses,
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
    /// A queen over what `broker` keeps, with `hive` inside.
    pub fn new(broker: Arc<dyn Broker>, hive: Hive, addresses: Addresses) -> Self {
        let settings = Settings::open(hive.data_dir().path());
        Self(Arc::new(Shared { jobs: QueenJobs::new(broker), hive, settings, addresses }))
    }

    /// Her routes.
    pub fn router(&self, access: &Access) -> Router {
        // Ids by which requests mean the hive inside.
        let own = vec![self.hive().id().to_owned(), LOCALHOST.to_owned()];
        let hives = broker::hive_routes(self.broker().clone(), own);
        let more = hives
            .merge(logs::routes(self.clone()))
            .merge(explain::routes(self.clone()))
            .merge(keys::routes(self.clone()))
            .merge(openai::router(self.clone()))
            .merge(ollama::router(self.clone()));
        router_with(self.clone(), access, more.merge(crate::settings::routes(self.clone())))
    }

    pub(crate) fn hive(&self) -> &Hive {
        &self.0.hive
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.0.addresses
    }

    pub(crate) fn queen_jobs(&self) -> &QueenJobs {
        &self.0.jobs
    }

    pub(crate) fn broker(&self) -> &Arc<dyn Broker> {
        self.0.jobs.broker()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The hives that are there; what the one inside says now, not what it said when it enlisted last.
    pub(crate) async fn hives(&self) -> Result<Vec<HiveRecord>, ApiError> {
        let mut hives = self.broker().hives().await?;
        for hive in hives.iter_mut().filter(|hive| hive.hive_id == self.hive().id()) {
            *hive = self.hive().record(hive.incarnation, hive.url.clone());
        }
        Ok(hives)
    }

    pub(crate) fn default_model(&self, kind: WorkKind) -> String {
        self.settings().default_model(kind)
    }

    /// What a model is for.
    pub(crate) async fn kind_of(&self, name: &str) -> Result<WorkKind, ApiError> {
        let hives = self.hives().await?;
        let mut workers = hives.iter().flat_map(|hive| &hive.workers);
        if let Some(worker) = workers.find(|worker| same_model(&worker.model, name)) {
            return Ok(worker.kind);
        }
        let writes = self.model(WorkKind::Infer, name).is_ok_and(|model| !model.is_missing());
        let is_gguf = name.to_ascii_lowercase().ends_with("gguf");
        Ok(if writes || is_gguf { WorkKind::Infer } else { WorkKind::Image })
    }

    /// The model that a name means.
    pub(crate) fn model(&self, kind: WorkKind, name: &str) -> Result<Model, ApiError> {
        self.hive().model(kind, name)
    }
}

impl JobServer for QueenServer {
    type Jobs = QueenJobs;

    fn jobs(&self) -> &QueenJobs {
        &self.0.jobs
    }

    fn serves(&self, kind: OperationKind) -> bool {
        // All of them, each by whoever can.
        OperationKind::ALL.contains(&kind)
    }

    async fn create_job(&self, submission: Submission) -> Result<JobResponse, ApiError> {
        self.admit(submission).await
    }

    fn info(&self) -> Info {
        rbee_hive::info("queen-rbee", |kind| self.serves(kind))
    }

    /// Ready is who can admit jobs, with or without workers.
    fn ready(&self) -> Readiness {
        let closed = self.0.jobs.is_closed();
        Readiness { ready: !closed, reason: closed.then(|| "the queen is stopping".to_owned()) }
    }
}
