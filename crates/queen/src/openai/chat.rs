use super::messages::{ChatMessage, messages};
use super::sampling::Sampling;
use super::stream::{Gone, Writer, answer};
use super::{OpenAiError, now_s, read};
use crate::running::{Models, Running, Told, end};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use job_server::Caller;
use operations_contract::{ApiError, Completion, InferRequest, JobEvent, Operation, TextCompletion, Tool, ToolChoice};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// An error that comes within this time has its own status; after it the stream has begun.
const FIRST: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
struct ChatRequest {
    messages: Vec<ChatMessage>,
    #[serde(default)]
    tools: Option<Vec<Tool>>,
    #[serde(default)]
    tool_choice: Option<ToolChoice>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Debug, Deserialize)]
pub(crate) struct NamedSchema {
    #[serde(default)]
    schema: Map<String, Value>,
}

impl ResponseFormat {
    pub(crate) fn schema(self) -> Option<Map<String, Value>> {
        match self {
            Self::Text => None,
            Self::JsonObject => Some(Map::from_iter([("type".to_owned(), json!("object"))])),
            Self::JsonSchema { json_schema } => Some(json_schema.schema),
        }
    }
}

impl ChatRequest {
    fn operation(self) -> Result<InferRequest, ApiError> {
        Ok(InferRequest {
            messages: Some(messages(self.messages)?),
            tools: self.tools.unwrap_or_default(),
            tool_choice: self.tool_choice,
            response_schema: self.response_format.and_then(ResponseFormat::schema),
            ..self.sampling.request()?
        })
    }
}

/// `POST /v1/chat/completions`
pub(super) async fn create<S: Models>(
    State(server): State<S>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, OpenAiError> {
    let request: ChatRequest = read(&body)?;
    let (streams, includes_usage) = (request.sampling.streams(), request.sampling.includes_usage());
    let asked = request.sampling.model().map(str::to_owned);
    let operation = Operation::Infer(request.operation()?);
    let mut running = Running::start(&server, &caller, operation).await?;
    let mut teller = Teller::new(running.id(), asked, includes_usage);
    if !streams {
        let completion = running.completion(|event| teller.note(event)).await?;
        return Ok(Json(teller.whole(&text(completion)?)).into_response());
    }
    let first = tokio::time::timeout(FIRST, first_word(&mut running, &mut teller)).await.ok().transpose()?;
    Ok(answer(|writer| async move { teller.stream(running, first.flatten(), &writer).await }))
}

/// Waits until there is something to tell; an error before that is the answer to the request.
async fn first_word<S: Models>(
    running: &mut Running<S>,
    teller: &mut Teller,
) -> Result<Option<Arc<JobEvent>>, ApiError> {
    while let Some(event) = running.next().await {
        teller.note(&event);
        if let Some(Err(error)) = end(&event) {
            return Err(error);
        }
        if event.is_terminal() || matches!(*event, JobEvent::Token { .. }) {
            return Ok(Some(event));
        }
    }
    Ok(None)
}

pub(super) fn text(completion: Completion) -> Result<TextCompletion, ApiError> {
    match completion {
        Completion::Text(completion) => Ok(completion),
        Completion::Image(_) | Completion::Result { .. } => Err(ApiError::internal("the answer is no text")),
    }
}

/// The words of one answer.
struct Teller {
    id: String,
    created: u64,
    model: String,
    includes_usage: bool,
    told: Told,
}

impl Teller {
    fn new(job_id: &str, model: Option<String>, includes_usage: bool) -> Self {
        let id = format!("chatcmpl-{}", job_id.trim_start_matches("job-"));
        Self { id, created: now_s(), model: model.unwrap_or_default(), includes_usage, told: Told::default() }
    }

    /// Which model answers is known when it begins.
    fn note(&mut self, event: &JobEvent) {
        if let JobEvent::Started { model, .. } = event {
            self.told.again();
            if let Some(model) = model {
                self.model.clone_from(model);
            }
        }
    }

    fn whole(&self, completion: &TextCompletion) -> Value {
        let calls = !completion.tool_calls.is_empty();
        // A message that only calls functions has no content.
        let content = if calls && completion.text.is_empty() { Value::Null } else { json!(completion.text) };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if calls {
            message["tool_calls"] = json!(completion.tool_calls);
        }
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [{
                "index": 0, "message": message, "logprobs": null, "finish_reason": completion.finish_reason,
            }],
            "usage": completion.usage,
        })
    }

    async fn stream<S: Models>(
        mut self,
        mut running: Running<S>,
        mut next: Option<Arc<JobEvent>>,
        writer: &Writer,
    ) -> Result<(), Gone> {
        writer.data(&self.chunk(&json!({"role": "assistant", "content": ""}), &Value::Null)).await?;
        loop {
            let event = match next.take() {
                Some(event) => event,
                None => match running.next().await {
                    Some(event) => event,
                    None => return writer.error(ApiError::internal("the answer has no end")).await,
                },
            };
            self.note(&event);
            let new = match &*event {
                JobEvent::Token { t, .. } => self.told.push(t),
                JobEvent::Complete(Completion::Text(completion)) => return self.last(completion, writer).await,
                event => match end(event) {
                    Some(Err(error)) => Err(error),
                    Some(Ok(_)) => Err(ApiError::internal("the answer is no text")),
                    None => continue,
                },
            };
            match new {
                Ok(new) => self.content(&new, writer).await?,
                Err(error) => return writer.error(error).await,
            }
        }
    }

    async fn last(&mut self, completion: &TextCompletion, writer: &Writer) -> Result<(), Gone> {
        match self.told.rest(&completion.text) {
            Ok(rest) => self.content(&rest, writer).await?,
            Err(error) => return writer.error(error).await,
        }
        if !completion.tool_calls.is_empty() {
            let calls: Vec<Value> = (0..)
                .zip(&completion.tool_calls)
                .map(|(index, call): (usize, _)| {
                    let mut call = json!(call);
                    call["index"] = index.into();
                    call
                })
                .collect();
            writer.data(&self.chunk(&json!({ "tool_calls": calls }), &Value::Null)).await?;
        }
        writer.data(&self.chunk(&json!({}), &json!(completion.finish_reason))).await?;
        if self.includes_usage {
            let mut chunk = self.chunk(&json!({}), &Value::Null);
            chunk["choices"] = json!([]);
            chunk["usage"] = json!(completion.usage);
            writer.data(&chunk).await?;
        }
        writer.done().await
    }

    async fn content(&self, new: &str, writer: &Writer) -> Result<(), Gone> {
        if new.is_empty() {
            return Ok(());
        }
        writer.data(&self.chunk(&json!({ "content": new }), &Value::Null)).await
    }

    fn chunk(&self, delta: &Value, finish_reason: &Value) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}],
        })
    }
}
