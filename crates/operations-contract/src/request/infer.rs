use super::Priority;
use super::tool::{Tool, ToolCall, ToolChoice, ToolChoiceMode};
use crate::validated::{Check, Request};
use crate::{ApiError, limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Text to text: either a `prompt` that is continued or `messages` that are answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InferRequest {
    /// The hive to write on; absent: any that can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hive_id: Option<String>,
    /// The model; absent: the worker's own, at a queen the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The text to continue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The conversation to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Tokens to write at most.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 1))]
    pub max_tokens: u32,
    /// 0 always takes the likeliest token.
    #[serde(default = "temperature")]
    #[schemars(range(min = 0, max = 2))]
    pub temperature: f64,
    /// Nucleus sampling: only the likeliest tokens that together have this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f64>,
    /// Only so many of the likeliest tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Only tokens at least this fraction as likely as the likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f64>,
    /// Above 1: what was said becomes less likely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 10))]
    pub repeat_penalty: Option<f64>,
    /// Seed of the choice; absent: drawn when the job is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Words that end the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Functions that the model may call instead of answering; only with `messages`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Whether it may call them, has to, or has to call a certain one; absent: `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// A JSON schema: the text is JSON that follows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_schema: Option<Map<String, Value>>,
    /// Whether every token is an event.
    #[serde(default = "yes")]
    pub stream: bool,
    /// The worker to write on; absent: any that can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// Which of the waiting jobs comes first.
    #[serde(default, skip_serializing_if = "Priority::is_default")]
    pub priority: Priority,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; for the role `tool`, what the function returned.
    pub content: String,
    /// Functions that the model called in this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// For the role `tool`: the call that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A turn that is only text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one who sets the rules.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// A function that the model called.
    Tool,
}

impl Role {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

impl Default for InferRequest {
    fn default() -> Self {
        Self {
            hive_id: None,
            model: None,
            prompt: None,
            messages: None,
            max_tokens: max_tokens(),
            temperature: temperature(),
            top_p: None,
            top_k: None,
            min_p: None,
            repeat_penalty: None,
            seed: None,
            stop: Vec::new(),
            tools: Vec::new(),
            tool_choice: None,
            response_schema: None,
            stream: true,
            worker_id: None,
            priority: Priority::default(),
        }
    }
}

impl Request for InferRequest {
    fn check(&self) -> Result<(), ApiError> {
        Check.optional_id("hive_id", self.hive_id.as_deref())?;
        Check.optional_id("worker_id", self.worker_id.as_deref())?;
        Check.optional_model("model", self.model.as_deref())?;
        match (&self.prompt, &self.messages) {
            (None, None) => {
                return Err(ApiError::invalid("prompt", "prompt or messages is required"));
            }
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("messages", "prompt and messages exclude each other; give one of them"));
            }
            (Some(prompt), None) => Check.text("prompt", prompt, limits::PROMPT_BYTES)?,
            (None, Some(messages)) => check_messages(messages)?,
        }
        Check.at_least("max_tokens", self.max_tokens, 1)?;
        Check.range("temperature", self.temperature, &limits::TEMPERATURE)?;
        Check.optional_range("top_p", self.top_p, &limits::PROBABILITY)?;
        Check.optional_range("min_p", self.min_p, &limits::PROBABILITY)?;
        if let Some(penalty) = self.repeat_penalty
            && !(penalty > 0.0 && penalty <= limits::REPEAT_PENALTY_MAX)
        {
            let max = limits::REPEAT_PENALTY_MAX;
            let message = format!("repeat_penalty must be above 0 and at most {max}, got {penalty}");
            return Err(ApiError::invalid("repeat_penalty", message));
        }
        if self.stop.len() > limits::STOP_WORDS {
            let message = format!("stop may hold at most {} words, got {}", limits::STOP_WORDS, self.stop.len());
            return Err(ApiError::invalid("stop", message));
        }
        for (i, word) in self.stop.iter().enumerate() {
            let param = format!("stop[{i}]");
            if word.is_empty() {
                return Err(ApiError::invalid(&param, format!("{param} is empty and would end every text at once")));
            }
            Check.text(&param, word, limits::STOP_WORD_BYTES)?;
        }
        self.check_tools()?;
        if let Some(schema) = &self.response_schema {
            Check.json("response_schema", schema, limits::SCHEMA_BYTES)?;
        }
        Ok(())
    }
}

impl InferRequest {
    fn check_tools(&self) -> Result<(), ApiError> {
        if self.tools.is_empty() {
            return match self.tool_choice {
                None => Ok(()),
                Some(_) => Err(ApiError::invalid("tool_choice", "tool_choice chooses among tools; give tools")),
            };
        }
        if self.messages.is_none() {
            return Err(ApiError::invalid("tools", "tools are for a conversation; give messages instead of prompt"));
        }
        if self.tools.len() > limits::TOOLS {
            let message = format!("tools may hold at most {} functions, got {}", limits::TOOLS, self.tools.len());
            return Err(ApiError::invalid("tools", message));
        }
        for (i, tool) in self.tools.iter().enumerate() {
            tool.check(&format!("tools[{i}]"))?;
            if self.tools[..i].iter().any(|other| other.function.name == tool.function.name) {
                let message = format!("tools holds two functions with the name {:?}", tool.function.name);
                return Err(ApiError::invalid(&format!("tools[{i}].function.name"), message));
            }
        }
        Check.json("tools", &self.tools, limits::TOOLS_BYTES)?;
        match &self.tool_choice {
            Some(ToolChoice::Function { function, .. })
                if !self.tools.iter().any(|tool| tool.function.name == function.name) =>
            {
                let message = format!("tool_choice names {:?}, which is none of tools", function.name);
                Err(ApiError::invalid("tool_choice.function.name", message))
            }
            Some(ToolChoice::Mode(ToolChoiceMode::Required) | ToolChoice::Function { .. })
                if self.response_schema.is_some() =>
            {
                let message = "response_schema is for an answer, and tool_choice leaves none; give one of them";
                Err(ApiError::invalid("response_schema", message))
            }
            _ => Ok(()),
        }
    }
}

fn check_messages(messages: &[Message]) -> Result<(), ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "messages must hold at least one message"));
    }
    if messages.len() > limits::MESSAGES {
        let message = format!("messages may hold at most {} messages, got {}", limits::MESSAGES, messages.len());
        return Err(ApiError::invalid("messages", message));
    }
    messages.iter().enumerate().try_for_each(|(i, message)| check_message(&format!("messages[{i}]"), message))
}

fn check_message(param: &str, message: &Message) -> Result<(), ApiError> {
    let Message { role, content, tool_calls, tool_call_id } = message;
    Check.text(&format!("{param}.content"), content, limits::PROMPT_BYTES)?;
    if *role != Role::Assistant && !tool_calls.is_empty() {
        let message = format!("only the assistant calls functions, not the role {}", role.as_str());
        return Err(ApiError::invalid(&format!("{param}.tool_calls"), message));
    }
    if tool_calls.len() > limits::TOOLS {
        let message = format!("{param}.tool_calls may hold at most {} calls, got {}", limits::TOOLS, tool_calls.len());
        return Err(ApiError::invalid(&format!("{param}.tool_calls"), message));
    }
    for (i, call) in tool_calls.iter().enumerate() {
        call.check(&format!("{param}.tool_calls[{i}]"))?;
    }
    let param = format!("{param}.tool_call_id");
    match (role, tool_call_id) {
        (Role::Tool, Some(id)) => Check.id(&param, id),
        (Role::Tool, None) => Err(ApiError::invalid(&param, format!("{param} is required for the role tool"))),
        (_, Some(_)) => {
            let message = format!("{param} is for the role tool, not for {}", role.as_str());
            Err(ApiError::invalid(&param, message))
        }
        (_, None) => Ok(()),
    }
}

fn max_tokens() -> u32 {
    256
}

fn temperature() -> f64 {
    0.7
}

fn yes() -> bool {
    true
}
