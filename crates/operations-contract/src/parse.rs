use crate::{ApiError, ErrorCode, Operation, OperationKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

impl Operation {
    /// Reads an operation. `serves` says which kinds this server takes: another is refused by its name alone, even
    /// where its fields are wrong too.
    ///
    /// # Errors
    /// `unsupported_operation`, or what is wrong with which field.
    pub fn from_json(body: &[u8], serves: impl Fn(OperationKind) -> bool) -> Result<Self, ApiError> {
        let value = serde_json::from_slice(body)
            .map_err(|error| ApiError::malformed(format!("the body is not JSON: {error}")))?;
        Self::from_value(value, serves)
    }

    /// As [`Operation::from_json`], of JSON that was read already.
    ///
    /// # Errors
    /// As [`Operation::from_json`].
    pub fn from_value(value: Value, serves: impl Fn(OperationKind) -> bool) -> Result<Self, ApiError> {
        let Value::Object(mut fields) = value else {
            return Err(ApiError::malformed(r#"the body must be an object {"operation": "<name>", …}"#));
        };
        let name = match fields.remove("operation") {
            Some(Value::String(name)) => name,
            Some(_) => {
                return Err(ApiError::malformed("operation must be a string").with_param("operation"));
            }
            None => {
                return Err(ApiError::malformed("operation is required").with_param("operation"));
            }
        };
        let served = || OperationKind::ALL.iter().filter(|kind| serves(**kind)).map(|kind| kind.name());
        let Some(kind) = OperationKind::from_name(&name).filter(|kind| serves(*kind)) else {
            let name: String = name.chars().take(64).collect();
            let served = served().collect::<Vec<_>>().join(", ");
            let message = format!("this server does not serve the operation {name:?}; it serves {served}");
            return Err(ApiError::new(ErrorCode::UnsupportedOperation, message).with_param("operation"));
        };
        kind.read(fields)
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(value, |_| true).map_err(de::Error::custom)
    }
}

/// Reads the fields of one request, and names the one that is wrong.
pub(crate) fn fields<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, &error.into_inner().to_string())
    })
}

/// serde says what is wrong in words only; which words they are decides about the status and the field.
fn explain(path: &str, text: &str) -> ApiError {
    let path = if path == "." { "" } else { path };
    let subject = text.split('`').nth(1).unwrap_or_default();
    let inside = |field: &str| match path.rsplit_once('.') {
        _ if path.is_empty() || path == field => field.to_owned(),
        Some((_, last)) if last == field => path.to_owned(),
        _ => format!("{path}.{field}"),
    };
    if text.starts_with("missing field") {
        let field = inside(subject);
        ApiError::malformed(format!("{field} is required")).with_param(field)
    } else if let Some(unknown) = text.strip_prefix("unknown field ") {
        let field = inside(subject);
        let known = unknown.split_once(", ").map_or("", |(_, known)| known);
        ApiError::malformed(format!("unknown field {field}: {known}")).with_param(field)
    } else if text.starts_with("unknown variant") || text.starts_with("invalid value") {
        // Of the right type, but none of the values that are possible.
        ApiError::invalid(path, format!("{path}: {text}"))
    } else if path.is_empty() {
        ApiError::malformed(text)
    } else {
        ApiError::malformed(format!("{path}: {text}")).with_param(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn refused(value: Value, code: ErrorCode, param: Option<&str>, message: &str) {
        let error = Operation::from_value(value, |_| true).unwrap_err();
        assert_eq!((error.code, error.param.as_deref(), &*error.message), (code, param, message));
    }

    #[test]
    fn an_error_names_its_field() {
        use ErrorCode::{InvalidRequest, Malformed};
        refused(json!({"operation": "image_generation"}), Malformed, Some("prompt"), "prompt is required");
        refused(
            json!({"operation": "model_get", "idd": "x"}),
            Malformed,
            Some("idd"),
            "unknown field idd: expected `hive_id` or `id`",
        );
        refused(
            json!({"operation": "status", "verbose": true}),
            Malformed,
            Some("verbose"),
            "unknown field verbose: there are no fields",
        );
        refused(
            json!({"operation": "image_generation", "prompt": "", "steps": "20"}),
            Malformed,
            Some("steps"),
            "steps: invalid type: string \"20\", expected u32",
        );
        refused(
            json!({"operation": "image_generation", "prompt": "", "steps": -1}),
            InvalidRequest,
            Some("steps"),
            "steps: invalid value: integer `-1`, expected u32",
        );
        refused(
            json!({"operation": "image_generation", "prompt": "", "priority": "urgent"}),
            InvalidRequest,
            Some("priority"),
            "priority: unknown variant `urgent`, expected one of `low`, `normal`, `high`",
        );
        refused(
            json!({"operation": "infer", "messages": [{"role": "user"}]}),
            Malformed,
            Some("messages[0].content"),
            "messages[0].content is required",
        );
        refused(
            json!({"operation": "infer", "messages": [{"role": "user", "content": "", "name": "x"}]}),
            Malformed,
            Some("messages[0].name"),
            "unknown field messages[0].name: expected one of `role`, `content`, `tool_calls`, `tool_call_id`",
        );
        refused(
            json!({"operation": "image_transform", "prompt": "", "init_image": "*"}),
            Malformed,
            Some("init_image"),
            "init_image: not base64: Invalid symbol 42, offset 0.",
        );
    }

    #[test]
    fn what_is_no_operation_is_refused() {
        use ErrorCode::Malformed;
        refused(json!([]), Malformed, None, r#"the body must be an object {"operation": "<name>", …}"#);
        refused(json!({}), Malformed, Some("operation"), "operation is required");
        refused(json!({"operation": 3}), Malformed, Some("operation"), "operation must be a string");
        let error = Operation::from_json(b"{", |_| true).unwrap_err();
        assert_eq!((error.code, error.status()), (Malformed, 400));
    }

    #[test]
    fn an_operation_that_is_not_served_is_refused_by_its_name_alone() {
        let only_status = |kind| kind == OperationKind::Status;
        for name in ["infer", "paint"] {
            let error = Operation::from_value(json!({"operation": name, "x": 1}), only_status).unwrap_err();
            assert_eq!(error.code, ErrorCode::UnsupportedOperation);
            assert_eq!(error.status(), 400);
            assert!(error.message.ends_with("it serves status"), "{}", error.message);
        }
    }
}
