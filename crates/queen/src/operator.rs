use crate::server::QueenServer;
use crate::{check, status};
use async_trait::async_trait;
use operations_contract::{ApiError, Operation, QueenOperation, Validated};
use rbee_hive::agent::{Assignment, HiveOperator, Operator};
use serde_json::Value;

/// Does what is asked of the queen herself, and of the hive inside her.
#[derive(Debug, Clone)]
pub(crate) struct QueenOperator(pub(crate) QueenServer);

#[async_trait]
impl Operator for QueenOperator {
    async fn operate(&self, operation: Validated<Operation>, job: &Assignment) -> Result<Value, ApiError> {
        match QueenOperation::from(operation) {
            QueenOperation::Status(_) => status::status(&self.0, job.job_id()).await,
            QueenOperation::QueenCheck(_) => check::run(&self.0, job).await,
            QueenOperation::Hive(operation) => HiveOperator(self.0.hive().clone()).operate(operation.into(), job).await,
            QueenOperation::Infer(_)
            | QueenOperation::ImageGeneration(_)
            | QueenOperation::ImageTransform(_)
            | QueenOperation::ImageInpaint(_) => Err(ApiError::internal("a job for workers came to the queen herself")),
        }
    }
}
