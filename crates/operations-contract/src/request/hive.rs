use crate::validated::{Check, Request};
use crate::{ApiError, limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What the queen knows: hives, workers, queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusRequest {}

/// A self-test of the queen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueenCheckRequest {}

impl Request for StatusRequest {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Request for QueenCheckRequest {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

macro_rules! hive_request {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }
     |$request:ident| $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The hive that is asked; `localhost` is the queen's own machine.
            #[serde(default = "localhost")]
            pub hive_id: String,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { hive_id: localhost(), $($field: $default,)* }
            }
        }

        impl Request for $name {
            fn check(&self) -> Result<(), ApiError> {
                Check.id("hive_id", &self.hive_id)?;
                let $request = self;
                $check
            }
        }
    };
}

hive_request! {
    /// A self-test of a hive.
    HiveCheckRequest {}
    |_request| Ok(())
}

hive_request! {
    /// Starts a worker process.
    WorkerSpawnRequest {
        /// The model that it is to load: a name, a repository or a folder.
        model: String = String::new(),
        /// What it computes with.
        worker: WorkerKind = WorkerKind::default(),
        /// Which of the devices of that kind.
        #[serde(default)]
        device: u32 = 0,
        /// Its port; absent: the first free one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        port: Option<u16> = None,
        /// The worker's flags by name, without dashes in front: `{"precision": "f16", "low-memory": true}`.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        options: Map<String, Value> = Map::new(),
    }
    |request| {
        Check.model("model", &request.model)?;
        if request.port == Some(0) {
            return Err(ApiError::invalid("port", "port must be between 1 and 65535, got 0"));
        }
        check_options(&request.options)
    }
}

hive_request! {
    /// The worker processes of a hive.
    WorkerProcessListRequest {}
    |_request| Ok(())
}

hive_request! {
    /// One worker process of a hive.
    WorkerProcessGetRequest {
        /// Its process id: only of a process that this hive spawned.
        #[schemars(range(min = 1))]
        pid: u32 = 0,
    }
    |request| Check.at_least("pid", request.pid, 1)
}

hive_request! {
    /// Stops a worker process of a hive.
    WorkerProcessDeleteRequest {
        /// Its process id: only of a process that this hive spawned.
        #[schemars(range(min = 1))]
        pid: u32 = 0,
    }
    |request| Check.at_least("pid", request.pid, 1)
}

hive_request! {
    /// Downloads a model to a hive.
    ModelDownloadRequest {
        /// A well-known name, a hub repository (`owner/name`), one file of it (`owner/name:file.gguf`), the URL of a
        /// `.safetensors` or `.gguf` file, or the absolute path of a model on the hive's own disk.
        model: String = String::new(),
    }
    |request| Check.model("model", &request.model)
}

hive_request! {
    /// The models that a hive has.
    ModelListRequest {}
    |_request| Ok(())
}

hive_request! {
    /// One model of a hive.
    ModelGetRequest {
        /// Its id in the hive's catalogue.
        id: String = String::new(),
    }
    |request| Check.id("id", &request.id)
}

hive_request! {
    /// Deletes a model from a hive's disk.
    ModelDeleteRequest {
        /// Its id in the hive's catalogue.
        id: String = String::new(),
    }
    |request| Check.id("id", &request.id)
}

/// What a worker computes with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerKind {
    /// The processor.
    #[default]
    Cpu,
    /// NVIDIA.
    Cuda,
    /// Apple.
    Metal,
}

impl WorkerKind {
    /// The word on the wire and in the names of the programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}

/// Flags become a command line: names that are none and values that hide a second one are refused here already.
fn check_options(options: &Map<String, Value>) -> Result<(), ApiError> {
    if options.len() > limits::OPTIONS {
        let message = format!("options may hold at most {} flags, got {}", limits::OPTIONS, options.len());
        return Err(ApiError::invalid("options", message));
    }
    for (name, value) in options {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.starts_with(['-', '_']) || name.len() > limits::ID_BYTES || !name.bytes().all(plain)
        {
            let message = format!("options holds {name:?}, which is not the name of a flag (like \"precision\")");
            return Err(ApiError::invalid("options", message));
        }
        let param = format!("options.{name}");
        match value {
            Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => {
                Check.text(&param, text, limits::MODEL_BYTES)?;
                if text.contains(char::is_control) {
                    return Err(ApiError::invalid(&param, format!("{param} holds a control character")));
                }
            }
            Value::Null | Value::Array(_) | Value::Object(_) => {
                let message = format!("{param} must be a string, a number or true or false, got {value}");
                return Err(ApiError::invalid(&param, message));
            }
        }
    }
    Ok(())
}

fn localhost() -> String {
    limits::LOCALHOST.to_owned()
}
