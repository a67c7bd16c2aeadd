//! Functions that a model may call, in the form of OpenAI's chat completions.

use crate::validated::Check;
use crate::{ApiError, limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Something that the model may call. Only functions are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function.
    pub function: FunctionTool,
}

/// What can be called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    /// A function of the one who asks.
    #[default]
    Function,
}

/// A function as the model sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionTool {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// What it does, for the model to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of its arguments, an object; absent: it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// Taken as OpenAI's clients send it; arguments always follow the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Whether the model may call, has to, or has to call a certain function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": \"…\"}}"
)]
pub enum ToolChoice {
    /// One of the words.
    Mode(ToolChoiceMode),
    /// This function has to be called.
    Function {
        /// What it is.
        #[serde(rename = "type")]
        kind: ToolKind,
        /// Which one.
        function: FunctionName,
    },
}

/// Whether the model may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoiceMode {
    /// It answers.
    None,
    /// It answers or calls.
    Auto,
    /// It calls.
    Required,
}

/// Which function is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionName {
    /// Its name among `tools`.
    pub name: String,
}

/// A call that the model made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// By which the answer refers to it.
    pub id: String,
    /// What is called.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function and its arguments.
    pub function: FunctionCall,
}

/// A function and its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// A JSON object, written out as text.
    pub arguments: String,
}

impl Tool {
    pub(crate) fn check(&self, param: &str) -> Result<(), ApiError> {
        check_name(&format!("{param}.function.name"), &self.function.name)
    }
}

impl ToolCall {
    pub(crate) fn check(&self, param: &str) -> Result<(), ApiError> {
        Check.id(&format!("{param}.id"), &self.id)?;
        check_name(&format!("{param}.function.name"), &self.function.name)?;
        let param = format!("{param}.function.arguments");
        Check.text(&param, &self.function.arguments, limits::PROMPT_BYTES)?;
        match serde_json::from_str::<Map<String, Value>>(&self.function.arguments) {
            Ok(_) => Ok(()),
            Err(error) => Err(ApiError::invalid(&param, format!("{param} must be a JSON object as text: {error}"))),
        }
    }
}

fn check_name(param: &str, name: &str) -> Result<(), ApiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.len() <= limits::FUNCTION_NAME_BYTES && name.bytes().all(plain) {
        return Ok(());
    }
    let max = limits::FUNCTION_NAME_BYTES;
    Err(ApiError::invalid(param, format!("{param} must be 1 to {max} letters, digits, '_' and '-'")))
}
