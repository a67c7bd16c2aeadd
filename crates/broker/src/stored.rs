use crate::{BlobId, BrokerError, WorkSource};
use operations_contract::{ApiError, Base64Bytes, Operation, Validated};
use serde::{Deserialize, Serialize};

/// An operation whose images are blobs, so that a job's row stays small.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredOperation {
    /// The operation; its images are empty.
    operation: Operation,
    /// The images, in the order of the operation's fields.
    #[serde(default)]
    images: Vec<BlobId>,
}

impl StoredOperation {
    /// Puts the images of `operation` into blobs of `broker`.
    ///
    /// # Errors
    /// As [`WorkSource::put_blob`].
    pub async fn store(operation: Validated<Operation>, broker: &dyn WorkSource) -> Result<Self, BrokerError> {
        let mut operation = operation.into_inner();
        let mut images = Vec::new();
        for image in images_of(&mut operation) {
            images.push(broker.put_blob(std::mem::take(image).into_bytes()).await?);
        }
        Ok(Self { operation, images })
    }

    /// The whole operation again, with the images from `broker`. What comes off a disk or a network is checked as if
    /// a client had sent it.
    ///
    /// # Errors
    /// As [`WorkSource::blob`], or [`BrokerError::Invalid`] where it is no valid operation (any more).
    pub async fn load(&self, broker: &dyn WorkSource) -> Result<Validated<Operation>, BrokerError> {
        let mut operation = self.operation.clone();
        let fields = images_of(&mut operation);
        if fields.len() != self.images.len() {
            let message = format!("{} has {} images, {} are stored", self.name(), fields.len(), self.images.len());
            return Err(BrokerError::invalid(message));
        }
        for (field, blob) in fields.into_iter().zip(&self.images) {
            *field = broker.blob(blob).await?.into();
        }
        operation.validate().map_err(|ApiError { message, .. }| BrokerError::invalid(message))
    }

    /// The operation with its images empty.
    pub const fn operation(&self) -> &Operation {
        &self.operation
    }

    /// The operation's tag.
    pub const fn name(&self) -> &'static str {
        self.operation.name()
    }

    /// Its images.
    pub fn images(&self) -> &[BlobId] {
        &self.images
    }
}

/// Where an operation has images.
fn images_of(operation: &mut Operation) -> Vec<&mut Base64Bytes> {
    match operation {
        Operation::ImageTransform(request) => vec![&mut request.init_image],
        Operation::ImageInpaint(request) => vec![&mut request.init_image, &mut request.mask_image],
        Operation::ImageGeneration(_)
        | Operation::Infer(_)
        | Operation::Status(_)
        | Operation::QueenCheck(_)
        | Operation::HiveCheck(_)
        | Operation::WorkerSpawn(_)
        | Operation::WorkerProcessList(_)
        | Operation::WorkerProcessGet(_)
        | Operation::WorkerProcessDelete(_)
        | Operation::ModelDownload(_)
        | Operation::ModelList(_)
        | Operation::ModelGet(_)
        | Operation::ModelDelete(_) => Vec::new(),
    }
}
