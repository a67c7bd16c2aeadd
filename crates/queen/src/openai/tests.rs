//! The routes over a real socket, before a server whose jobs the test itself runs.

use crate::running::{ModelCard, Models};
use crate::{ollama, openai};
use axum::Router;
use job_server::{
    Access, Ending, JobHandle, JobRegistry, JobServer, Jobs as _, Ongoing, Outcome, Picture, RegistryLimits,
    Submission, router_with,
};
use operations_contract::{
    ApiError, ErrorCode, FinishReason, FunctionCall, ImageFormat, Info, JobEvent, JobResponse, Operation,
    OperationKind, Readiness, TextCompletion, ToolCall, ToolKind, Usage,
};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

#[derive(Clone)]
struct Server {
    registry: JobRegistry,
    jobs: mpsc::UnboundedSender<(JobHandle, Operation)>,
}

impl JobServer for Server {
    fn serves(&self, kind: OperationKind) -> bool {
        kind != OperationKind::ImageGeneration
    }

    type Jobs = JobRegistry;

    fn jobs(&self) -> &JobRegistry {
        &self.registry
    }

    async fn create_job(&self, submission: Submission) -> Result<JobResponse, ApiError> {
        let operation = submission.operation.into_inner();
        if let Operation::Infer(request) = &operation
            && request.model.as_deref() == Some("unknown")
        {
            return Err(ApiError::new(ErrorCode::ModelNotFound, "there is no model \"unknown\"").with_param("model"));
        }
        let job = self.registry.create_job(operation.kind())?;
        let response = job.response();
        self.jobs.send((job, operation)).map_err(|_| ApiError::internal("the test is over"))?;
        Ok(response)
    }

    fn info(&self) -> Info {
        rbee_hive::info("test", |kind| self.serves(kind))
    }

    fn ready(&self) -> Readiness {
        Readiness { ready: true, reason: None }
    }
}

impl Models for Server {
    async fn models(&self) -> Result<Vec<ModelCard>, ApiError> {
        let card = |name: &str, writes| ModelCard { name: name.to_owned(), writes, created_s: 5, bytes: Some(7) };
        Ok(vec![card("tiny-words", true), card("owner/painter", false)])
    }

    async fn language_worker(&self, _: Option<&str>) -> Result<Option<String>, ApiError> {
        Ok(None)
    }
}

struct Asking {
    url: String,
    registry: JobRegistry,
    jobs: mpsc::UnboundedReceiver<(JobHandle, Operation)>,
    http: reqwest::Client,
}

impl Asking {
    async fn start() -> Self {
        let (sender, jobs) = mpsc::unbounded_channel();
        let registry = JobRegistry::new(RegistryLimits::in_memory(4));
        let server = Server { registry: registry.clone(), jobs: sender };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let more: Router = openai::router(server.clone()).merge(ollama::router(server.clone()));
        let app = router_with(server, &Access::new(address.ip(), &[], None), more);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        Self { url: format!("http://{address}"), registry, jobs, http }
    }

    fn post(&self, path: &str, body: &Value) -> tokio::task::JoinHandle<(u16, String)> {
        let request = self.http.post(format!("{}{path}", self.url)).json(body);
        tokio::spawn(async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    }

    async fn job(&mut self) -> (JobHandle, Operation) {
        self.jobs.recv().await.unwrap()
    }
}

fn token(t: &str, i: u64) -> Ongoing {
    Ongoing::new(JobEvent::Token { t: t.to_owned(), i }).unwrap()
}

fn text(text: &str, tool_calls: Vec<ToolCall>) -> Ending {
    let finish_reason = if tool_calls.is_empty() { FinishReason::Stop } else { FinishReason::ToolCalls };
    let usage = Usage { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5, ..Usage::default() };
    Ending::Complete(Outcome::Text(TextCompletion { text: text.to_owned(), finish_reason, tool_calls, usage }))
}

fn data(stream: &str) -> Vec<Value> {
    let lines = stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|line| *line != "[DONE]");
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_conversation_is_answered_whole() {
    let mut asking = Asking::start().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0});
    let answer = asking.post("/v1/chat/completions", &body);
    let (job, operation) = asking.job().await;
    let Operation::Infer(request) = operation else { panic!("{operation:?}") };
    assert!(!request.stream && request.temperature == 0.0);
    job.started(Some("tiny-words".into()), None, 1);
    job.finish(text("hello", Vec::new()));
    let (status, body) = answer.await.unwrap();
    let body = json(&body);
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!("hello")));
    assert_eq!((&body["model"], &body["usage"]["total_tokens"]), (&json!("tiny-words"), &json!(5)));
}

#[tokio::test]
async fn a_stream_has_roles_words_calls_reason_and_usage() {
    let mut asking = Asking::start().await;
    let body = json!({
        "messages": [{"role": "user", "content": "hi"}], "stream": true, "stream_options": {"include_usage": true},
        "tools": [{"type": "function", "function": {"name": "f"}}],
    });
    let answer = asking.post("/v1/chat/completions", &body);
    let (job, _) = asking.job().await;
    job.started(None, None, 1);
    job.emit(token("he", 0));
    // A worker was lost; the next one begins anew.
    job.started(None, None, 2);
    job.emit(token("hell", 0));
    let call = ToolCall {
        id: "call_1".into(),
        kind: ToolKind::Function,
        function: FunctionCall { name: "f".into(), arguments: "{}".into() },
    };
    job.finish(text("hello", vec![call]));
    let (status, stream) = answer.await.unwrap();
    assert!(status == 200 && stream.trim_end().ends_with("data: [DONE]"), "{stream}");
    let chunks = data(&stream);
    let deltas: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"].get(0)).map(|one| &one["delta"]).collect();
    let words: Vec<&str> = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!((words.concat(), &deltas[0]["role"]), ("hello".to_owned(), &json!("assistant")));
    let calls = deltas.iter().find_map(|delta| delta["tool_calls"].as_array()).unwrap();
    assert_eq!((&calls[0]["index"], &calls[0]["function"]["name"]), (&json!(0), &json!("f")));
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(chunks.last().unwrap()["usage"]["prompt_tokens"], 3);
}

#[tokio::test]
async fn errors_have_their_status_also_before_a_stream_begins() {
    let mut asking = Asking::start().await;
    let unknown = json!({"model": "unknown", "messages": [{"role": "user", "content": ""}], "stream": true});
    let (status, body) = asking.post("/v1/chat/completions", &unknown).await.unwrap();
    assert_eq!((status, &json(&body)["error"]["code"]), (404, &json!("model_not_found")));
    let (status, body) = asking.post("/v1/chat/completions", &json!({"messages": "x"})).await.unwrap();
    assert_eq!((status, &json(&body)["error"]["param"]), (400, &json!("messages")));
    let (status, body) = asking.post("/v1/images/generations", &json!({"prompt": "x"})).await.unwrap();
    assert_eq!((status, &json(&body)["error"]["code"]), (400, &json!("unsupported_operation")));
    let answer = asking.post("/v1/completions", &json!({"prompt": ["a"], "stream": false}));
    asking.job().await.0.finish(Ending::Error(ApiError::invalid("prompt", "too long")));
    let (status, body) = answer.await.unwrap();
    assert_eq!((status, &json(&body)["error"]["type"]), (400, &json!("invalid_request_error")));
    let (status, body) = asking.post("/api/chat", &json!({"model": "unknown", "messages": []})).await.unwrap();
    assert!(status == 400 || status == 404, "{body}");
    assert!(json(&body)["error"].is_string());
}

#[tokio::test]
async fn an_image_is_edited_where_its_mask_is_transparent() {
    let mut asking = Asking::start().await;
    let mut png = std::io::Cursor::new(Vec::new());
    image(&mut png);
    let png = png.into_inner();
    let part = |name: &str| reqwest::multipart::Part::bytes(png.clone()).file_name(name.to_owned());
    let form = reqwest::multipart::Form::new()
        .part("image", part("image.png"))
        .part("mask", part("mask.png"))
        .text("prompt", "a star")
        .text("response_format", "b64_json")
        .text("n", "2");
    let request = asking.http.post(format!("{}/v1/images/edits", asking.url)).multipart(form);
    let answer = tokio::spawn(async move { request.send().await.unwrap().json::<Value>().await.unwrap() });
    let (job, operation) = asking.job().await;
    let Operation::ImageInpaint(request) = operation else { panic!("{operation:?}") };
    assert_eq!((&*request.prompt, request.count, request.mask_image.bytes()), ("a star", 2, &png.clone().into()));
    let picture = |seed| Picture { file: vec![seed as u8; 3].into(), seed };
    job.started(None, None, 1);
    job.finish(Ending::Complete(Outcome::Images {
        pictures: vec![picture(1), picture(2)],
        format: ImageFormat::Png,
        width: Some(64),
        height: Some(64),
        model: None,
    }));
    let answer = answer.await.unwrap();
    assert_eq!(answer["data"], json!([{"b64_json": "AQEB"}, {"b64_json": "AgIC"}]));
}

#[tokio::test]
async fn whoever_goes_before_the_end_cancels_the_job() {
    let mut asking = Asking::start().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true});
    let answer = asking.post("/api/chat", &body);
    let (job, _) = asking.job().await;
    let cancelled = job.cancellation();
    job.started(None, None, 1);
    answer.abort();
    tokio::time::timeout(Duration::from_secs(5), cancelled.cancelled()).await.unwrap();
    job.finish(Ending::Cancelled);
    assert_eq!(asking.registry.totals().await.cancelled, 1);
}

#[tokio::test]
async fn ollamas_clients_read_lines_and_see_the_models_that_write() {
    let mut asking = Asking::start().await;
    let answer = asking.post("/api/generate", &json!({"model": "tiny-words:latest", "prompt": "hi"}));
    let (job, _) = asking.job().await;
    job.started(Some("tiny-words".into()), None, 1);
    job.emit(token("a ", 0));
    job.finish(text("a b", Vec::new()));
    let lines: Vec<Value> = answer.await.unwrap().1.lines().map(json).collect();
    let words: String = lines.iter().filter_map(|line| line["response"].as_str()).collect();
    assert_eq!((words, &lines.last().unwrap()["done"]), ("a b".to_owned(), &json!(true)));
    let get = async |path: &str| {
        asking.http.get(format!("{}{path}", asking.url)).send().await.unwrap().json::<Value>().await.unwrap()
    };
    let tags = get("/api/tags").await;
    assert_eq!((tags["models"].as_array().unwrap().len(), &tags["models"][0]["name"]), (1, &json!("tiny-words")));
    assert_eq!(get("/v1/models").await["data"].as_array().unwrap().len(), 2);
    assert_eq!(get("/v1/models/owner/painter").await["id"], "owner/painter");
    assert_eq!(get("/v1/models/none").await["error"]["code"], "model_not_found");
}

/// The smallest PNG that the contract takes for one.
fn image(to: &mut impl std::io::Write) {
    let mut encoder = png::Encoder::new(to, 64, 64);
    encoder.set_color(png::ColorType::Rgba);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0; 64 * 64 * 4]).unwrap();
}

#[test]
fn what_cannot_be_read_is_named_where_it_has_a_place() {
    let read = |body: &[u8]| openai::read::<std::collections::BTreeMap<String, u32>>(body).unwrap_err().param;
    assert_eq!(read(br#"{"n": "x"}"#).as_deref(), Some("n"));
    for broken in [&b"{"[..], b"", b"[1]", b"{\"n\": 1"] {
        assert_eq!(read(broken), None);
    }
}
