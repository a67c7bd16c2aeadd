use super::chat::text;
use super::sampling::Sampling;
use super::stream::{Gone, Writer, answer};
use super::{OpenAiError, now_s, read, unserved};
use crate::running::{Models, Running, Told, end};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use job_server::Caller;
use operations_contract::{ApiError, Completion, InferRequest, JobEvent, Operation};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
struct CompletionRequest {
    prompt: Prompt,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(flatten)]
    sampling: Sampling,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a string or an array of one string")]
enum Prompt {
    Text(String),
    Texts(Vec<String>),
}

/// `POST /v1/completions`: the prompt is continued as it stands, without a chat template.
pub(super) async fn create<S: Models>(
    State(server): State<S>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, OpenAiError> {
    let request: CompletionRequest = read(&body)?;
    unserved("echo", request.echo == Some(true), "put the prompt before the text yourself")?;
    unserved("suffix", request.suffix.is_some_and(|suffix| !suffix.is_empty()), "leave it away")?;
    let prompt = match request.prompt {
        Prompt::Text(text) => text,
        Prompt::Texts(texts) => match <[String; 1]>::try_from(texts) {
            Ok([text]) => text,
            Err(_) => return Err(ApiError::invalid("prompt", "prompt must be one text; ask once for each").into()),
        },
    };
    let (streams, includes_usage) = (request.sampling.streams(), request.sampling.includes_usage());
    let mut model = request.sampling.model().unwrap_or_default().to_owned();
    let operation = Operation::Infer(InferRequest { prompt: Some(prompt), ..request.sampling.request()? });
    let mut running = Running::start(&server, &caller, operation).await?;
    let id = format!("cmpl-{}", running.id().trim_start_matches("job-"));
    let created = now_s();
    let object = move |model: &str, text: &str, finish_reason: &Value| {
        json!({
            "id": id, "object": "text_completion", "created": created, "model": model,
            "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason}],
        })
    };
    if !streams {
        let completion = text(running.completion(|event| note(&mut model, event)).await?)?;
        let mut whole = object(&model, &completion.text, &json!(completion.finish_reason));
        whole["usage"] = json!(completion.usage);
        return Ok(Json(whole).into_response());
    }
    Ok(answer(move |writer| async move { stream(running, model, object, includes_usage, &writer).await }))
}

async fn stream<S: Models>(
    mut running: Running<S>,
    mut model: String,
    object: impl Fn(&str, &str, &Value) -> Value,
    includes_usage: bool,
    writer: &Writer,
) -> Result<(), Gone> {
    let mut told = Told::default();
    while let Some(event) = running.next().await {
        note(&mut model, &event);
        let new = match &*event {
            JobEvent::Started { .. } => {
                told.again();
                continue;
            }
            JobEvent::Token { t, .. } => told.push(t),
            JobEvent::Complete(Completion::Text(completion)) => match told.rest(&completion.text) {
                Ok(rest) => {
                    writer.data(&object(&model, &rest, &json!(completion.finish_reason))).await?;
                    if includes_usage {
                        let mut chunk = object(&model, "", &Value::Null);
                        chunk["choices"] = json!([]);
                        chunk["usage"] = json!(completion.usage);
                        writer.data(&chunk).await?;
                    }
                    return writer.done().await;
                }
                Err(error) => Err(error),
            },
            event => match end(event) {
                Some(Err(error)) => Err(error),
                Some(Ok(_)) => Err(ApiError::internal("the answer is no text")),
                None => continue,
            },
        };
        match new {
            Ok(new) if new.is_empty() => {}
            Ok(new) => writer.data(&object(&model, &new, &Value::Null)).await?,
            Err(error) => return writer.error(error).await,
        }
    }
    writer.error(ApiError::internal("the answer has no end")).await
}

fn note(model: &mut String, event: &JobEvent) {
    if let JobEvent::Started { model: Some(started), .. } = event {
        model.clone_from(started);
    }
}
