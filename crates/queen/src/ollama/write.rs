//! Text in Ollama's form: one JSON object a line.

use super::OllamaError;
use super::form::{self, Asked, time};
use crate::running::{Models, Running, Told, end};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use job_server::Caller;
use operations_contract::{ApiError, Completion, FinishReason, JobEvent, Operation, TextCompletion, ToolCall};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// Lines that a slow reader may be behind.
const WAITING: usize = 64;

/// `POST /api/chat`
pub(super) async fn chat<S: Models>(
    State(server): State<S>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, OllamaError> {
    write(server, caller, form::chat(&body)?, Form::Chat).await
}

/// `POST /api/generate`
pub(super) async fn generate<S: Models>(
    State(server): State<S>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, OllamaError> {
    write(server, caller, form::generate(&body)?, Form::Generate).await
}

#[derive(Clone, Copy)]
enum Form {
    Chat,
    Generate,
}

async fn write<S: Models>(server: S, caller: Caller, asked: Asked, form: Form) -> Result<Response, OllamaError> {
    let Asked { request, model, streams } = asked;
    let mut running = Running::start(&server, &caller, Operation::Infer(request)).await?;
    let mut teller = Teller { form, model, asked: Instant::now(), began: None, told: Told::default() };
    if !streams {
        let Completion::Text(completion) = running.completion(|event| teller.note(event)).await? else {
            return Err(ApiError::internal("the answer is no text").into());
        };
        return Ok(Json(teller.last(&completion, &completion.text)).into_response());
    }
    let (lines, receiver) = mpsc::channel::<Bytes>(WAITING);
    let closed = lines.clone();
    tokio::spawn(async move {
        // Between two lines only the closed channel tells that nobody reads.
        tokio::select! {
            () = teller.stream(running, lines) => {}
            () = closed.closed() => {}
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

struct Teller {
    form: Form,
    model: String,
    asked: Instant,
    began: Option<Instant>,
    told: Told,
}

impl Teller {
    fn note(&mut self, event: &JobEvent) {
        if let JobEvent::Started { model, .. } = event {
            self.told.again();
            self.began = Some(Instant::now());
            if let (true, Some(model)) = (self.model.is_empty(), model) {
                self.model.clone_from(model);
            }
        }
    }

    async fn stream<S: Models>(mut self, mut running: Running<S>, lines: mpsc::Sender<Bytes>) {
        while let Some(event) = running.next().await {
            self.note(&event);
            let line = match &*event {
                JobEvent::Token { t, .. } => {
                    self.told.push(t).map(|new| (!new.is_empty()).then(|| self.object(&new, &[])))
                }
                JobEvent::Complete(Completion::Text(completion)) => {
                    self.told.rest(&completion.text).map(|rest| Some(self.last(completion, &rest)))
                }
                event => match end(event) {
                    Some(Err(error)) => Err(error),
                    Some(Ok(_)) => Err(ApiError::internal("the answer is no text")),
                    None => Ok(None),
                },
            };
            let line = match line {
                Ok(None) => continue,
                Ok(Some(line)) => line,
                Err(error) => json!({ "error": error.message }),
            };
            if lines.send(Bytes::from(format!("{line}\n"))).await.is_err() {
                return;
            }
        }
    }

    fn object(&self, text: &str, calls: &[ToolCall]) -> Value {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        let mut object = json!({"model": self.model, "created_at": time(now_ms), "done": false});
        match self.form {
            Form::Generate => object["response"] = text.into(),
            Form::Chat => {
                object["message"] = json!({"role": "assistant", "content": text});
                if !calls.is_empty() {
                    object["message"]["tool_calls"] = calls.iter().map(call).collect();
                }
            }
        }
        object
    }

    /// The last object has what is left of the text and what it cost, in nanoseconds and tokens.
    fn last(&self, completion: &TextCompletion, rest: &str) -> Value {
        let mut object = self.object(rest, &completion.tool_calls);
        let total = self.asked.elapsed();
        let ran = self.began.map_or(total, |began| began.elapsed());
        object["done"] = true.into();
        object["done_reason"] = match completion.finish_reason {
            FinishReason::Length => "length".into(),
            FinishReason::Stop | FinishReason::ToolCalls => "stop".into(),
        };
        object["total_duration"] = (total.as_nanos() as u64).into();
        object["load_duration"] = ((total - ran).as_nanos() as u64).into();
        object["prompt_eval_count"] = completion.usage.prompt_tokens.into();
        object["eval_count"] = completion.usage.completion_tokens.into();
        object["eval_duration"] = (ran.as_nanos() as u64).into();
        object
    }
}

fn call(call: &ToolCall) -> Value {
    let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap_or_default();
    json!({"function": {"name": call.function.name, "arguments": arguments}})
}
