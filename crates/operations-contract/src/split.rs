//! What each server serves. A new operation does not compile until every server has said whether it takes it.

use crate::request::{
    HiveCheckRequest, ImageGenerationRequest, ImageInpaintRequest, ImageTransformRequest, InferRequest,
    ModelDeleteRequest, ModelDownloadRequest, ModelGetRequest, ModelListRequest, QueenCheckRequest, StatusRequest,
    WorkerProcessDeleteRequest, WorkerProcessGetRequest, WorkerProcessListRequest, WorkerSpawnRequest,
};
use crate::{ApiError, ErrorCode, Operation, OperationKind, Validated};

macro_rules! split {
    (
        $(#[$doc:meta])* $name:ident, $server:literal,
        serves { $($served:ident($request:ident),)* }
        refuses { $($refused:ident,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "the variants are those of `Operation`")]
        pub enum $name {
            $($served(Validated<$request>),)*
        }

        impl $name {
            /// Whether operations of this kind are served here.
            pub const fn serves(kind: OperationKind) -> bool {
                match kind {
                    $(OperationKind::$served => true,)*
                    $(OperationKind::$refused => false,)*
                }
            }
        }

        impl TryFrom<Validated<Operation>> for $name {
            type Error = ApiError;

            fn try_from(operation: Validated<Operation>) -> Result<Self, ApiError> {
                match operation.into_inner() {
                    $(Operation::$served(request) => Ok(Self::$served(Validated::part(request))),)*
                    $(Operation::$refused(_) => {
                        let message = concat!($server, " does not serve the operation ").to_owned()
                            + OperationKind::$refused.name();
                        Err(ApiError::new(ErrorCode::UnsupportedOperation, message).with_param("operation"))
                    })*
                }
            }
        }

        impl From<$name> for Validated<Operation> {
            fn from(operation: $name) -> Self {
                match operation {
                    $($name::$served(request) => request.into(),)*
                }
            }
        }
    };
}

split! {
    /// What an image worker serves.
    SdWorkerOperation, "an image worker",
    serves {
        ImageGeneration(ImageGenerationRequest),
        ImageTransform(ImageTransformRequest),
        ImageInpaint(ImageInpaintRequest),
    }
    refuses {
        Status, QueenCheck, HiveCheck, Infer, WorkerSpawn, WorkerProcessList, WorkerProcessGet, WorkerProcessDelete,
        ModelDownload, ModelList, ModelGet, ModelDelete,
    }
}

split! {
    /// What a language worker serves.
    LlmWorkerOperation, "a language worker",
    serves {
        Infer(InferRequest),
    }
    refuses {
        Status, QueenCheck, HiveCheck, ImageGeneration, ImageTransform, ImageInpaint, WorkerSpawn, WorkerProcessList,
        WorkerProcessGet, WorkerProcessDelete, ModelDownload, ModelList, ModelGet, ModelDelete,
    }
}

split! {
    /// What a hive serves.
    HiveOperation, "a hive",
    serves {
        HiveCheck(HiveCheckRequest),
        WorkerSpawn(WorkerSpawnRequest),
        WorkerProcessList(WorkerProcessListRequest),
        WorkerProcessGet(WorkerProcessGetRequest),
        WorkerProcessDelete(WorkerProcessDeleteRequest),
        ModelDownload(ModelDownloadRequest),
        ModelList(ModelListRequest),
        ModelGet(ModelGetRequest),
        ModelDelete(ModelDeleteRequest),
    }
    refuses {
        Status, QueenCheck, Infer, ImageGeneration, ImageTransform, ImageInpaint,
    }
}

/// What the queen takes: everything. What a hive serves she forwards to it.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are those of `Operation`")]
pub enum QueenOperation {
    Status(Validated<StatusRequest>),
    QueenCheck(Validated<QueenCheckRequest>),
    Infer(Validated<InferRequest>),
    ImageGeneration(Validated<ImageGenerationRequest>),
    ImageTransform(Validated<ImageTransformRequest>),
    ImageInpaint(Validated<ImageInpaintRequest>),
    /// What a hive serves: forwarded to the one that it names.
    Hive(HiveOperation),
}

impl From<Validated<Operation>> for QueenOperation {
    fn from(operation: Validated<Operation>) -> Self {
        use HiveOperation as Hive;
        let part = |hive| Self::Hive(hive);
        match operation.into_inner() {
            Operation::Status(request) => Self::Status(Validated::part(request)),
            Operation::QueenCheck(request) => Self::QueenCheck(Validated::part(request)),
            Operation::Infer(request) => Self::Infer(Validated::part(request)),
            Operation::ImageGeneration(request) => Self::ImageGeneration(Validated::part(request)),
            Operation::ImageTransform(request) => Self::ImageTransform(Validated::part(request)),
            Operation::ImageInpaint(request) => Self::ImageInpaint(Validated::part(request)),
            Operation::HiveCheck(request) => part(Hive::HiveCheck(Validated::part(request))),
            Operation::WorkerSpawn(request) => part(Hive::WorkerSpawn(Validated::part(request))),
            Operation::WorkerProcessList(request) => part(Hive::WorkerProcessList(Validated::part(request))),
            Operation::WorkerProcessGet(request) => part(Hive::WorkerProcessGet(Validated::part(request))),
            Operation::WorkerProcessDelete(request) => part(Hive::WorkerProcessDelete(Validated::part(request))),
            Operation::ModelDownload(request) => part(Hive::ModelDownload(Validated::part(request))),
            Operation::ModelList(request) => part(Hive::ModelList(Validated::part(request))),
            Operation::ModelGet(request) => part(Hive::ModelGet(Validated::part(request))),
            Operation::ModelDelete(request) => part(Hive::ModelDelete(Validated::part(request))),
        }
    }
}
