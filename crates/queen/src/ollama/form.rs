//! What is asked, in Ollama's form.

use crate::openai::{read, unserved};
use operations_contract::{ApiError, FunctionCall, InferRequest, Message, Role, Tool, ToolCall, ToolKind};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Settings that change what is drawn. Others (`num_ctx`, `num_thread`, `mirostat`) are the worker's, and passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    num_predict: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    min_p: Option<f64>,
    repeat_penalty: Option<f64>,
    seed: Option<i64>,
    stop: Option<Vec<String>>,
}

/// What `/api/chat` and `/api/generate` have in common.
#[derive(Debug, Deserialize)]
struct Common {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    format: Option<Value>,
    #[serde(default)]
    options: Option<Options>,
}

#[derive(Debug, Deserialize)]
struct ChatRequest {
    messages: Vec<OllamaMessage>,
    #[serde(default)]
    tools: Option<Vec<Tool>>,
    #[serde(flatten)]
    common: Common,
}

#[derive(Debug, Deserialize)]
struct OllamaMessage {
    role: Role,
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    images: Option<Vec<Value>>,
    #[serde(default)]
    tool_calls: Option<Vec<OllamaCall>>,
}

/// Ollama's calls have arguments that are objects, and no ids.
#[derive(Debug, Deserialize)]
struct OllamaCall {
    function: OllamaFunction,
}

#[derive(Debug, Deserialize)]
struct OllamaFunction {
    name: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct GenerateRequest {
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    system: Option<String>,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    template: Option<String>,
    #[serde(default)]
    images: Option<Vec<Value>>,
    #[serde(default)]
    raw: Option<bool>,
    #[serde(flatten)]
    common: Common,
}

/// A request that was read: what is asked, and as what it is answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: InferRequest,
    /// By which the model was called.
    pub(super) model: String,
    /// Ollama streams unless told otherwise.
    pub(super) streams: bool,
}

impl Common {
    fn asked(self) -> Result<Asked, ApiError> {
        let options = self.options.unwrap_or_default();
        let default = InferRequest::default();
        let streams = self.stream.unwrap_or(true);
        let response_schema = match self.format {
            None | Some(Value::Null) => None,
            Some(Value::String(format)) if format.is_empty() => None,
            Some(Value::String(format)) if format == "json" => Some(object_schema()),
            Some(Value::Object(schema)) => Some(schema),
            Some(_) => return Err(ApiError::invalid("format", "format must be \"json\" or a JSON schema")),
        };
        let model = self.model.unwrap_or_default();
        // Ollama's clients name a tag; there is one of each model here.
        let name = model.strip_suffix(":latest").unwrap_or(&model);
        let request = InferRequest {
            model: (!name.is_empty()).then(|| name.to_owned()),
            // Ollama writes -1 for as many as it takes.
            max_tokens: options.num_predict.and_then(|tokens| u32::try_from(tokens).ok()).unwrap_or(default.max_tokens),
            temperature: options.temperature.unwrap_or(default.temperature),
            top_p: options.top_p,
            top_k: options.top_k,
            min_p: options.min_p,
            repeat_penalty: options.repeat_penalty,
            seed: options.seed.map(i64::cast_unsigned),
            stop: options.stop.unwrap_or_default(),
            response_schema,
            stream: streams,
            ..default
        };
        Ok(Asked { request, model, streams })
    }
}

/// The body of `/api/chat`.
///
/// # Errors
/// It cannot be read, or brings pictures, which no language model here sees.
pub(super) fn chat(body: &[u8]) -> Result<Asked, ApiError> {
    let ChatRequest { messages, tools, common } = read(body)?;
    let mut said = Vec::new();
    let mut open_calls = std::collections::VecDeque::new();
    for (i, message) in messages.into_iter().enumerate() {
        let pictures = message.images.is_some_and(|all| !all.is_empty());
        unserved(&format!("messages[{i}].images"), pictures, "only text is read")?;
        let calls: Vec<ToolCall> = (0..)
            .zip(message.tool_calls.unwrap_or_default())
            .map(|(j, call): (usize, _)| ToolCall {
                id: format!("call_{i}_{j}"),
                kind: ToolKind::Function,
                function: FunctionCall {
                    name: call.function.name,
                    arguments: Value::Object(call.function.arguments).to_string(),
                },
            })
            .collect();
        // Answers come in the order of the calls.
        open_calls.extend(calls.iter().map(|call| call.id.clone()));
        let unknown = || "call_0_0".to_owned();
        said.push(Message {
            role: message.role,
            content: message.content.unwrap_or_default(),
            tool_calls: calls,
            tool_call_id: (message.role == Role::Tool).then(|| open_calls.pop_front().unwrap_or_else(unknown)),
        });
    }
    let mut asked = common.asked()?;
    asked.request.messages = Some(said);
    asked.request.tools = tools.unwrap_or_default();
    Ok(asked)
}

/// The body of `/api/generate`.
///
/// # Errors
/// It cannot be read, or brings what is not served.
pub(super) fn generate(body: &[u8]) -> Result<Asked, ApiError> {
    let GenerateRequest { prompt, system, suffix, template, images, raw, common } = read(body)?;
    let some = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
    unserved("suffix", some(suffix), "leave it away")?;
    unserved("template", some(template), "the model's own is used")?;
    unserved("images", images.is_some_and(|all| !all.is_empty()), "only text is read")?;
    let prompt = prompt.unwrap_or_default();
    let mut asked = common.asked()?;
    if raw == Some(true) {
        asked.request.prompt = Some(prompt);
    } else {
        let system = system.filter(|system| !system.is_empty()).map(|system| Message::new(Role::System, system));
        asked.request.messages = Some(system.into_iter().chain([Message::new(Role::User, prompt)]).collect());
    }
    Ok(asked)
}

fn object_schema() -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), json!("object"))])
}

/// RFC 3339 in UTC, of milliseconds since 1970.
pub(super) fn time(ms: u64) -> String {
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_with_calls_is_read() {
        let body = json!({"model": "m:latest", "messages": [
            {"role": "user", "content": "how warm?"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "t", "arguments": {"of": "sea"}}}]},
            {"role": "tool", "content": "12", "tool_name": "t"},
        ], "options": {"temperature": 0, "num_predict": -1, "num_ctx": 4096}, "keep_alive": "5m"});
        let asked = chat(body.to_string().as_bytes()).unwrap();
        assert!(asked.streams && asked.request.stream);
        assert_eq!((asked.request.model.as_deref(), &*asked.model), (Some("m"), "m:latest"));
        let messages = asked.request.messages.unwrap();
        assert_eq!(messages[1].tool_calls[0].function.arguments, r#"{"of":"sea"}"#);
        assert_eq!(messages[2].tool_call_id.as_ref(), Some(&messages[1].tool_calls[0].id));
        assert_eq!((asked.request.temperature, asked.request.max_tokens), (0.0, InferRequest::default().max_tokens));
    }

    #[test]
    fn a_prompt_is_answered_or_continued() {
        let asked = |body: Value| generate(body.to_string().as_bytes()).map(|asked| asked.request);
        let answered = asked(json!({"prompt": "a", "system": "b", "format": "json"})).unwrap();
        assert_eq!(answered.messages.unwrap().len(), 2);
        assert_eq!(answered.response_schema, Some(object_schema()));
        assert_eq!(asked(json!({"prompt": "a", "raw": true})).unwrap().prompt.as_deref(), Some("a"));
        assert_eq!(asked(json!({"template": "x"})).unwrap_err().param.as_deref(), Some("template"));
        assert_eq!(asked(json!({"format": 7})).unwrap_err().param.as_deref(), Some("format"));
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
    }
}
