//! A conversation in OpenAI's form.

use operations_contract::{ApiError, Message, Role, ToolCall};
use serde::Deserialize;

/// One turn. Fields that clients send back as they got them (`refusal`, `annotations`, `name`) say nothing here.
#[derive(Debug, Deserialize)]
pub(super) struct ChatMessage {
    role: ChatRole,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Vec<ToolCall>>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChatRole {
    System,
    /// What newer clients call the system.
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a string or an array of parts like {\"type\": \"text\", \"text\": \"…\"}")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

/// The turns as an operation takes them.
///
/// # Errors
/// A part that is no text: no language model here sees pictures or hears.
pub(super) fn messages(given: Vec<ChatMessage>) -> Result<Vec<Message>, ApiError> {
    given
        .into_iter()
        .enumerate()
        .map(|(i, ChatMessage { role, content, tool_calls, tool_call_id })| {
            let role = match role {
                ChatRole::System | ChatRole::Developer => Role::System,
                ChatRole::User => Role::User,
                ChatRole::Assistant => Role::Assistant,
                ChatRole::Tool => Role::Tool,
            };
            let content = match content {
                None => String::new(),
                Some(Content::Text(text)) => text,
                Some(Content::Parts(parts)) => joined(i, parts)?,
            };
            Ok(Message { role, content, tool_calls: tool_calls.unwrap_or_default(), tool_call_id })
        })
        .collect()
}

fn joined(message: usize, parts: Vec<Part>) -> Result<String, ApiError> {
    let mut text = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        match (part.kind.as_str(), part.text) {
            ("text", Some(part)) => text.push_str(&part),
            (kind, _) => {
                let param = format!("messages[{message}].content[{i}]");
                let kind: String = kind.chars().take(40).collect();
                return Err(ApiError::invalid(&param, format!("{param} is {kind:?}; only text is read here")));
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(given: Value) -> Result<Vec<Message>, ApiError> {
        messages(serde_json::from_value(given).unwrap())
    }

    #[test]
    fn turns_are_read_in_all_their_forms() {
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let turns = read(json!([
            {"role": "developer", "content": "rules"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ada"},
            {"role": "assistant", "content": null, "tool_calls": [call], "refusal": null},
            {"role": "tool", "content": "7", "tool_call_id": "call_1"},
        ]))
        .unwrap();
        let said: Vec<(Role, &str)> = turns.iter().map(|turn| (turn.role, &*turn.content)).collect();
        assert_eq!(said, [(Role::System, "rules"), (Role::User, "ab"), (Role::Assistant, ""), (Role::Tool, "7")]);
        assert_eq!((turns[2].tool_calls.len(), turns[3].tool_call_id.as_deref()), (1, Some("call_1")));
    }

    #[test]
    fn pictures_are_refused_by_their_place() {
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
        assert_eq!(read(image).unwrap_err().param.as_deref(), Some("messages[0].content[0]"));
    }
}
