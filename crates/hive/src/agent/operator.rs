use crate::agent::{Assignment, Holding};
use crate::hive::Hive;
use async_trait::async_trait;
use broker::{Ending, GiveBack, Outcome};
use job_server::{CancellationToken, JobHandle, Ongoing};
use operations_contract::{ApiError, HiveOperation, JobEvent, Level, Operation, Validated};
use serde_json::Value;
use std::fmt::Debug;

/// Does what is asked of a hive itself, not of its workers. A queen has one that answers what is asked of her, too.
#[async_trait]
pub trait Operator: Send + Sync + Debug {
    /// Does the work, and tells on the way how it goes. Dropping the future is how it is cancelled.
    ///
    /// # Errors
    /// What the job ends with.
    async fn operate(&self, operation: Validated<Operation>, job: &Assignment) -> Result<Value, ApiError>;
}

/// Whoever hears how work goes: an [`Assignment`] at a broker, or a job of a hive's own.
pub trait Reporter: Send + Sync {
    /// Hears an event after which others may come.
    fn tell(&self, event: JobEvent);

    /// Hears something worth telling.
    fn narrate(&self, level: Level, target: &str, message: String) {
        self.tell(JobEvent::Narration { level, target: target.to_owned(), message });
    }
}

impl Reporter for Assignment {
    fn tell(&self, event: JobEvent) {
        Assignment::tell(self, event);
    }
}

impl Reporter for JobHandle {
    fn tell(&self, event: JobEvent) {
        Ongoing::new(event).into_iter().for_each(|event| self.emit(event));
    }
}

/// The operator of a hive that is nothing else.
#[derive(Debug, Clone)]
pub struct HiveOperator(pub Hive);

#[async_trait]
impl Operator for HiveOperator {
    async fn operate(&self, operation: Validated<Operation>, job: &Assignment) -> Result<Value, ApiError> {
        let admitted = self.0.admit(&HiveOperation::try_from(operation)?)?;
        self.0.execute(admitted, job).await
    }
}

impl Holding {
    pub(super) async fn operate(self, operator: &dyn Operator, leaving: &CancellationToken) {
        let job = &self.assignment;
        let number = job.claim().attempt.number;
        job.add(JobEvent::Started { model: None, worker_id: None, attempt: number }).await;
        let work = async {
            let operation = job.claim().operation.load(&**job.source()).await?;
            operator.operate(operation, job).await
        };
        let ending = tokio::select! {
            biased;
            () = job.cancelled().cancelled() => Ending::Cancelled,
            () = job.lost().cancelled() => return,
            result = work => match result {
                Ok(result) => Ending::Complete(Outcome::Result { result }),
                Err(error) => Ending::Error(error),
            },
            () = leaving.cancelled() => return job.give_back(GiveBack::HiveStopping).await,
        };
        job.finish(ending).await;
    }
}
