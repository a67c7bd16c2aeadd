use crate::agent::Reporter;
use crate::check;
use crate::hive::Hive;
use crate::worker::{WorkerSpec, WorkerStatus};
use broker::WorkKind;
use model_store::Source;
use operations_contract::{ApiError, ErrorCode, HiveOperation, JobEvent, Phase, WorkerSpawnRequest};
use serde_json::{Value, json};

/// An operation that passed everything that can be known before a job exists.
#[derive(Debug)]
pub struct Admitted(Work);

#[derive(Debug)]
enum Work {
    Check,
    Spawn(WorkerSpec),
    List,
    Get(u32),
    Delete(u32),
    Download(String),
    Models,
    Model(String),
    DeleteModel(String),
}

impl Hive {
    /// Checks what can be checked before a job exists.
    ///
    /// # Errors
    /// Another hive is meant, a model or a process is not there, or nothing serves this operation yet.
    pub fn admit(&self, operation: &HiveOperation) -> Result<Admitted, ApiError> {
        let (hive_id, work) = match operation {
            HiveOperation::HiveCheck(request) => (&request.hive_id, Work::Check),
            HiveOperation::WorkerSpawn(request) => (&request.hive_id, Work::Spawn(self.spec(request)?)),
            HiveOperation::WorkerProcessList(request) => (&request.hive_id, Work::List),
            HiveOperation::WorkerProcessGet(request) => (&request.hive_id, Work::Get(request.pid)),
            HiveOperation::WorkerProcessDelete(request) => (&request.hive_id, Work::Delete(request.pid)),
            HiveOperation::ModelDownload(request) => {
                Source::parse(&request.model).map_err(ApiError::from)?;
                (&request.hive_id, Work::Download(request.model.clone()))
            }
            HiveOperation::ModelList(request) => (&request.hive_id, Work::Models),
            HiveOperation::ModelGet(request) => (&request.hive_id, Work::Model(request.id.clone())),
            HiveOperation::ModelDelete(request) => (&request.hive_id, Work::DeleteModel(request.id.clone())),
        };
        self.check_id(hive_id)?;
        if let Work::Get(pid) | Work::Delete(pid) = work {
            self.worker_process(pid)?;
        }
        if let Work::Model(id) | Work::DeleteModel(id) = &work {
            self.catalogued(id)?;
        }
        Ok(Admitted(work))
    }

    /// Refuses an id that is neither this hive's nor `localhost`.
    ///
    /// # Errors
    /// 404 with the ids that are known.
    pub fn check_id(&self, hive_id: &str) -> Result<(), ApiError> {
        if self.is(hive_id) {
            return Ok(());
        }
        let message = format!("there is no hive {hive_id:?}; known are localhost and {}", self.id());
        Err(ApiError::new(ErrorCode::NotFound, message).with_param("hive_id"))
    }

    fn spec(&self, request: &WorkerSpawnRequest) -> Result<WorkerSpec, ApiError> {
        let writes = |model: &str| self.model(WorkKind::Infer, model).is_ok_and(|model| !model.is_missing());
        let serves = if writes(&request.model) { WorkKind::Infer } else { WorkKind::Image };
        let model = self.model(serves, &request.model)?;
        let flags = flags(request)?;
        Ok(WorkerSpec { serves, model, kind: request.worker, device: request.device, port: request.port, flags })
    }

    /// Does the work, and tells `job` how it goes. Dropping the future is how it is cancelled.
    ///
    /// # Errors
    /// What the job ends with.
    pub async fn execute(&self, admitted: Admitted, job: &dyn Reporter) -> Result<Value, ApiError> {
        let worker = |status: WorkerStatus| json!({ "worker": status });
        match admitted.0 {
            Work::Check => Ok(check::run(self, job).await),
            Work::Spawn(spec) => {
                job.tell(JobEvent::Progress {
                    step: 0,
                    total: 1,
                    phase: Some(Phase::Loading),
                    eta_ms: None,
                    bytes_per_second: None,
                });
                let model = self.obtain(spec.serves, spec.model.as_str(), job).await?;
                let handle = self.start_worker(&WorkerSpec { model, ..spec }).await?;
                Ok(worker(handle.worker.status()))
            }
            Work::List => Ok(json!({ "workers": self.workers() })),
            Work::Get(pid) => Ok(worker(self.worker_process(pid)?)),
            Work::Delete(pid) => Ok(worker(self.stop_worker(pid).await?)),
            Work::Download(model) => Ok(json!({ "model": self.download(&model, job).await? })),
            Work::Models => Ok(json!({ "models": self.catalogue()? })),
            Work::Model(id) => Ok(json!({ "model": self.catalogued(&id)? })),
            Work::DeleteModel(id) => {
                let hive = self.clone();
                let deleting = tokio::task::spawn_blocking(move || hive.delete_model(&id));
                let deleted = deleting.await.map_err(|error| ApiError::internal(error.to_string()))??;
                Ok(json!({ "model": deleted }))
            }
        }
    }
}

/// Flags of a worker that are its hive's to say, or fields of the request.
const NOT_OPTIONS: [&str; 9] =
    ["worker-id", "callback-url", "callback-key", "api-key", "model", "port", "device", "bind", "help"];

/// The worker's flags, from the options of a request.
fn flags(request: &WorkerSpawnRequest) -> Result<Vec<String>, ApiError> {
    let mut flags = Vec::new();
    for (name, value) in &request.options {
        let flag = name.replace('_', "-");
        if NOT_OPTIONS.contains(&flag.as_str()) {
            let param = format!("options.{name}");
            return Err(ApiError::invalid(&param, format!("{param} cannot be set here")));
        }
        match value {
            Value::Bool(false) => {}
            Value::Bool(true) => flags.push(format!("--{flag}")),
            // One argument, so that a value which begins with a dash is no flag of its own.
            Value::String(text) => flags.push(format!("--{flag}={text}")),
            other => flags.push(format!("--{flag}={other}")),
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: Value) -> WorkerSpawnRequest {
        let Value::Object(options) = options else { panic!("an object") };
        WorkerSpawnRequest { model: "tiny-scenes".to_owned(), options, ..WorkerSpawnRequest::default() }
    }

    #[test]
    fn options_become_flags() {
        let options = json!({"precision": "f16", "low_memory": true, "use-f16": false, "threads": 2, "x": "-y"});
        let mut flags = flags(&request(options)).unwrap();
        flags.sort();
        assert_eq!(flags, ["--low-memory", "--precision=f16", "--threads=2", "--x=-y"]);
    }

    #[test]
    fn what_the_hive_says_itself_is_no_option() {
        for name in ["model", "callback_url", "callback-key", "api_key", "worker-id", "bind"] {
            let error = flags(&request(json!({name: "x"}))).unwrap_err();
            assert_eq!(error.param, Some(format!("options.{name}")));
        }
    }
}
