use crate::hive::Hive;
use crate::worker::{WorkerSpec, WorkerStatus};
use crate::{Model, check};
use job_server::{Ending, JobHandle, Outcome};
use operations_contract::{ApiError, ErrorCode, HiveOperation, OperationKind, Phase, WorkerSpawnRequest};
use serde_json::{Value, json};

/// Whether a hive serves operations of this kind now. Models come to a hive by hand: nothing downloads them yet.
pub const fn serves(kind: OperationKind) -> bool {
    match kind {
        OperationKind::HiveCheck
        | OperationKind::WorkerSpawn
        | OperationKind::WorkerProcessList
        | OperationKind::WorkerProcessGet
        | OperationKind::WorkerProcessDelete => true,
        OperationKind::ModelDownload
        | OperationKind::ModelList
        | OperationKind::ModelGet
        | OperationKind::ModelDelete
        | OperationKind::Status
        | OperationKind::QueenCheck
        | OperationKind::Infer
        | OperationKind::ImageGeneration
        | OperationKind::ImageTransform
        | OperationKind::ImageInpaint => false,
    }
}

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
}

impl Hive {
    /// Checks what can be checked before a job exists.
    ///
    /// # Errors
    /// Another hive is meant, a model or a process is not there, or nothing serves this operation yet.
    pub fn admit(&self, operation: &HiveOperation) -> Result<Admitted, ApiError> {
        let (hive_id, work) = match operation {
            HiveOperation::HiveCheck(request) => (&request.hive_id, Work::Check),
            HiveOperation::WorkerSpawn(request) => (&request.hive_id, Work::Spawn(spec(request)?)),
            HiveOperation::WorkerProcessList(request) => (&request.hive_id, Work::List),
            HiveOperation::WorkerProcessGet(request) => (&request.hive_id, Work::Get(request.pid)),
            HiveOperation::WorkerProcessDelete(request) => (&request.hive_id, Work::Delete(request.pid)),
            HiveOperation::ModelDownload(_) => return Err(not_yet(OperationKind::ModelDownload)),
            HiveOperation::ModelList(_) => return Err(not_yet(OperationKind::ModelList)),
            HiveOperation::ModelGet(_) => return Err(not_yet(OperationKind::ModelGet)),
            HiveOperation::ModelDelete(_) => return Err(not_yet(OperationKind::ModelDelete)),
        };
        self.check_id(hive_id)?;
        if let Work::Get(pid) | Work::Delete(pid) = work {
            self.worker_process(pid)?;
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

    /// Does the work, and ends the job.
    pub async fn execute(&self, admitted: Admitted, job: JobHandle) {
        job.started(None, None, 1);
        let cancellation = job.cancellation();
        let ending = tokio::select! {
            result = self.work(admitted.0, &job) => match result {
                Ok(result) => Ending::Complete(Outcome::Result(result)),
                Err(error) => Ending::Error(error),
            },
            () = cancellation.cancelled() => Ending::Cancelled,
        };
        job.finish(ending);
    }

    async fn work(&self, work: Work, job: &JobHandle) -> Result<Value, ApiError> {
        let worker = |status: WorkerStatus| json!({ "worker": status });
        match work {
            Work::Check => Ok(check::run(self, job).await),
            Work::Spawn(spec) => {
                job.progress(0, 1, Some(Phase::Loading), None);
                let handle = self.start_worker_now(&spec).await?;
                Ok(worker(handle.worker.status()))
            }
            Work::List => Ok(json!({ "workers": self.workers() })),
            Work::Get(pid) => Ok(worker(self.worker_process(pid)?)),
            Work::Delete(pid) => Ok(worker(self.stop_worker(pid).await?)),
        }
    }
}

/// Flags of a worker that are its hive's to say, or fields of the request.
const NOT_OPTIONS: [&str; 9] =
    ["worker-id", "callback-url", "callback-key", "api-key", "model", "port", "device", "bind", "help"];

fn not_yet(kind: OperationKind) -> ApiError {
    let message = format!("this hive does not serve {} yet; give models as folders on its disk", kind.name());
    ApiError::new(ErrorCode::UnsupportedOperation, message).with_param("operation")
}

fn spec(request: &WorkerSpawnRequest) -> Result<WorkerSpec, ApiError> {
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
    Ok(WorkerSpec {
        model: Model::resolve(Some(&request.model))?,
        kind: request.worker,
        device: request.device,
        port: request.port,
        flags,
    })
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
        let mut flags = spec(&request(options)).unwrap().flags;
        flags.sort();
        assert_eq!(flags, ["--low-memory", "--precision=f16", "--threads=2", "--x=-y"]);
    }

    #[test]
    fn what_the_hive_says_itself_is_no_option() {
        for name in ["model", "callback_url", "callback-key", "api_key", "worker-id", "bind"] {
            let error = spec(&request(json!({name: "x"}))).unwrap_err();
            assert_eq!(error.param, Some(format!("options.{name}")));
        }
    }
}
