use crate::request::{
    HiveCheckRequest, ImageGenerationRequest, ImageInpaintRequest, ImageTransformRequest, InferRequest,
    ModelDeleteRequest, ModelDownloadRequest, ModelGetRequest, ModelListRequest, QueenCheckRequest, StatusRequest,
    WorkerProcessDeleteRequest, WorkerProcessGetRequest, WorkerProcessListRequest, WorkerSpawnRequest,
};
use crate::validated::Request;
use crate::{ApiError, Validated};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt;

/// Which server an operation is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetServer {
    /// The queen answers it, or routes it to a worker of her choice.
    Queen,
    /// The hive that it names answers it.
    Hive,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident($request:ident) = $name:literal, $server:ident;)*) => {
        /// What can be asked, of any server: JSON `{"operation": "<name>", …fields}`.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "operation")]
        pub enum Operation {
            $($(#[$doc])* #[serde(rename = $name)] $variant($request),)*
        }

        /// The operations without their fields.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum OperationKind {
            $($(#[$doc])* $variant,)*
        }

        impl OperationKind {
            /// All of them.
            pub const ALL: &'static [OperationKind] = &[$(OperationKind::$variant),*];

            /// The tag on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(OperationKind::$variant => $name,)* }
            }

            /// Which server it is meant for.
            pub const fn target_server(self) -> TargetServer {
                match self { $(OperationKind::$variant => TargetServer::$server,)* }
            }

            /// The JSON schema of an operation of this kind, tag and all.
            pub fn schema(self, generator: &mut SchemaGenerator) -> Schema {
                let schema = match self { $(OperationKind::$variant => $request::json_schema(generator),)* };
                with_tag(schema, self)
            }

            /// Reads the fields of an operation of this kind.
            pub(crate) fn read(self, fields: Map<String, Value>) -> Result<Operation, ApiError> {
                match self {
                    $(OperationKind::$variant => crate::parse::fields(fields).map(Operation::$variant),)*
                }
            }
        }

        impl Operation {
            /// Which of the operations it is.
            pub const fn kind(&self) -> OperationKind {
                match self { $(Operation::$variant(_) => OperationKind::$variant,)* }
            }

            pub(crate) fn check(&self) -> Result<(), ApiError> {
                match self { $(Operation::$variant(request) => request.check(),)* }
            }
        }

        $(
            impl From<$request> for Operation {
                fn from(request: $request) -> Self {
                    Operation::$variant(request)
                }
            }

            impl From<Validated<$request>> for Validated<Operation> {
                fn from(request: Validated<$request>) -> Self {
                    Validated::part(Operation::$variant(request.into_inner()))
                }
            }
        )*
    };
}

operations! {
    /// What the queen knows: hives, workers, queue.
    Status(StatusRequest) = "status", Queen;
    /// A self-test of the queen.
    QueenCheck(QueenCheckRequest) = "queen_check", Queen;
    /// A self-test of a hive.
    HiveCheck(HiveCheckRequest) = "hive_check", Hive;
    /// Text to text.
    Infer(InferRequest) = "infer", Queen;
    /// Text to picture.
    ImageGeneration(ImageGenerationRequest) = "image_generation", Queen;
    /// Image and text to picture.
    ImageTransform(ImageTransformRequest) = "image_transform", Queen;
    /// Image, mask and text to picture.
    ImageInpaint(ImageInpaintRequest) = "image_inpaint", Queen;
    /// Starts a worker process.
    WorkerSpawn(WorkerSpawnRequest) = "worker_spawn", Hive;
    /// The worker processes of a hive.
    WorkerProcessList(WorkerProcessListRequest) = "worker_process_list", Hive;
    /// One worker process of a hive.
    WorkerProcessGet(WorkerProcessGetRequest) = "worker_process_get", Hive;
    /// Stops a worker process of a hive.
    WorkerProcessDelete(WorkerProcessDeleteRequest) = "worker_process_delete", Hive;
    /// Downloads a model to a hive.
    ModelDownload(ModelDownloadRequest) = "model_download", Hive;
    /// The models that a hive has.
    ModelList(ModelListRequest) = "model_list", Hive;
    /// One model of a hive.
    ModelGet(ModelGetRequest) = "model_get", Hive;
    /// Deletes a model from a hive's disk.
    ModelDelete(ModelDeleteRequest) = "model_delete", Hive;
}

impl OperationKind {
    /// The operation whose tag is `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Operation {
    /// The tag on the wire.
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Which server it is meant for.
    pub const fn target_server(&self) -> TargetServer {
        self.kind().target_server()
    }

    /// The hive that it names.
    pub fn hive_id(&self) -> Option<&str> {
        match self {
            Operation::Status(_) | Operation::QueenCheck(_) => None,
            Operation::Infer(request) => request.hive_id.as_deref(),
            Operation::ImageGeneration(request) => request.hive_id.as_deref(),
            Operation::ImageTransform(request) => request.hive_id.as_deref(),
            Operation::ImageInpaint(request) => request.hive_id.as_deref(),
            Operation::HiveCheck(request) => Some(&request.hive_id),
            Operation::WorkerSpawn(request) => Some(&request.hive_id),
            Operation::WorkerProcessList(request) => Some(&request.hive_id),
            Operation::WorkerProcessGet(request) => Some(&request.hive_id),
            Operation::WorkerProcessDelete(request) => Some(&request.hive_id),
            Operation::ModelDownload(request) => Some(&request.hive_id),
            Operation::ModelList(request) => Some(&request.hive_id),
            Operation::ModelGet(request) => Some(&request.hive_id),
            Operation::ModelDelete(request) => Some(&request.hive_id),
        }
    }
}

/// The tag stands among the fields, where a schema that refuses other properties has to know it.
fn with_tag(mut schema: Schema, kind: OperationKind) -> Schema {
    let object = schema.ensure_object();
    let mut tag = Map::new();
    tag.insert("operation".to_owned(), json!({"const": kind.name(), "type": "string"}));
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        tag.append(properties);
    }
    object.insert("properties".to_owned(), Value::Object(tag));
    let mut required = vec![json!("operation")];
    if let Some(Value::Array(others)) = object.get_mut("required") {
        required.append(others);
    }
    object.insert("required".to_owned(), Value::Array(required));
    object.insert("title".to_owned(), json!(kind.name()));
    schema
}
