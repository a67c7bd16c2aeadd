use super::Priority;
use crate::validated::{Check, Request};
use crate::{ApiError, limits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// What is said.
    pub content: String,
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
        Ok(())
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
    messages.iter().enumerate().try_for_each(|(i, message)| {
        Check.text(&format!("messages[{i}].content"), &message.content, limits::PROMPT_BYTES)
    })
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
