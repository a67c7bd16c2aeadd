//! A worker over a real socket, with a model that says nothing of sense in the right way.

#![allow(clippy::unwrap_used, reason = "what cannot be read is a failed test")]

mod common;

use common::{LONG, RANDOM, Worker, infer, program, question};
use operations_contract::{ErrorCode, FinishReason, JobEvent, JobState};
use serde_json::{Value, json};

const SEA: &str = "Describe a picture of the sea at night.";

async fn worker() -> Worker {
    let worker = Worker::start(&["--model", RANDOM, "--slots", "4"]);
    worker.ready().await;
    worker
}

#[tokio::test]
async fn a_question_is_answered_and_told_as_it_is_written() {
    let worker = worker().await;
    let told = worker.infer(question(SEA, json!({"temperature": 0, "max_tokens": 40}))).await;
    let text = &told.completion.text;
    assert_eq!((told.completion.finish_reason, told.tokens.concat()), (FinishReason::Length, text.clone()));
    assert_eq!(text.chars().count(), 40, "this model writes a letter a token: {text:?}");
    let usage = told.completion.usage;
    assert!(usage.prompt_tokens > SEA.len() as u64, "{usage:?}");
    assert_eq!((usage.completion_tokens, usage.total_tokens), (40, usage.prompt_tokens + 40));
    let index = |event: &JobEvent| if let JobEvent::Token { i, .. } = event { Some(*i) } else { None };
    let indices: Vec<u64> = told.events.iter().filter_map(index).collect();
    assert_eq!(indices, (0..indices.len() as u64).collect::<Vec<_>>());
    let narrated = told
        .events
        .iter()
        .any(|event| matches!(event, JobEvent::Narration { message, .. } if message.contains("ChatML")));
    assert!(narrated, "the model has no chat template: {:?}", told.events);
    let again = worker.infer(question(SEA, json!({"temperature": 0, "max_tokens": 40, "stream": false}))).await;
    assert_eq!((again.tokens.len(), &again.completion.text), (0, text));
    let plain = worker.infer(json!({"prompt": SEA, "temperature": 0, "max_tokens": 3})).await;
    assert_eq!(plain.completion.usage.prompt_tokens, SEA.len() as u64 + 1, "its first token and a token a letter");
}

#[tokio::test]
async fn one_seed_repeats_and_sampling_does_what_it_says() {
    let worker = worker().await;
    let write = async |mut fields: Value| {
        fields["max_tokens"] = json!(30);
        worker.infer(question("Describe a picture.", fields)).await.completion.text
    };
    let hot = |seed: u64| json!({"temperature": 2, "seed": seed});
    let first = write(hot(7)).await;
    assert_eq!(first, write(hot(7)).await);
    let others = [write(hot(8)).await, write(hot(9)).await, write(hot(7 << 32)).await];
    assert!(others.iter().any(|other| *other != first), "{others:?}");
    let greedy = write(json!({"temperature": 0, "seed": 1})).await;
    // What leaves only the likeliest token is greedy at any temperature.
    for field in ["top_k", "top_p", "min_p"] {
        let value = if field == "top_p" { json!(0.0) } else { json!(1) };
        assert_eq!(write(json!({"temperature": 2, "seed": 5, field: value})).await, greedy, "{field}");
    }
    let penalised = write(json!({"temperature": 0, "repeat_penalty": 10.0})).await;
    assert_ne!(penalised, greedy, "what was said is said less");
}

#[tokio::test]
async fn a_stop_word_ends_the_text_and_is_never_shown() {
    let worker = worker().await;
    let whole =
        worker.infer(question(SEA, json!({"temperature": 1, "seed": 3, "max_tokens": 40}))).await.completion.text;
    let middle: String = whole.chars().skip(whole.chars().count() / 2).take(4).collect();
    let before = &whole[..whole.find(&middle).unwrap()];
    let told = worker
        .infer(question(SEA, json!({"temperature": 1, "seed": 3, "max_tokens": 40, "stop": ["not in it", middle]})))
        .await;
    assert_eq!((&*told.completion.text, told.completion.finish_reason), (before, FinishReason::Stop));
    assert_eq!(told.tokens.concat(), before);
}

#[tokio::test]
async fn a_text_ends_at_its_limit() {
    let worker = worker().await;
    let told = worker.infer(question(SEA, json!({"max_tokens": 3}))).await;
    let usage = told.completion.usage;
    assert_eq!((told.completion.finish_reason, usage.completion_tokens), (FinishReason::Length, 3));
    let worker = Worker::start(&["--model", RANDOM, "--context", "128"]);
    worker.ready().await;
    let told = worker.infer(question("Count.", json!({"max_tokens": 1000}))).await;
    let usage = told.completion.usage;
    assert_eq!(
        (told.completion.finish_reason, usage.total_tokens),
        (FinishReason::Length, 129),
        "the last one needs no place"
    );
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_there_is_a_job() {
    let worker = worker().await;
    for (length, at_least) in [(4000, false), (60_000, true)] {
        let error = worker.refusal(&infer(json!({"prompt": "a ".repeat(length / 2)}))).await;
        assert_eq!((error.code, error.param.as_deref()), (ErrorCode::InvalidRequest, Some("prompt")));
        assert!(error.message.contains("the context holds 1024"), "{}", error.message);
        assert_eq!(error.message.contains("at least"), at_least, "{}", error.message);
    }
    let error = worker.refusal(&infer(question(SEA, json!({"model": "other"})))).await;
    assert_eq!(error.code, ErrorCode::ModelMismatch);
    let error = worker.refusal(&json!({"operation": "image_generation", "prompt": ""})).await;
    assert_eq!(error.code, ErrorCode::UnsupportedOperation);
    let schema = json!({"type": "string", "pattern": "a+"});
    let error = worker.refusal(&infer(question(SEA, json!({"response_schema": schema})))).await;
    assert_eq!(error.param.as_deref(), Some("response_schema.pattern"));
    assert!(worker.client().jobs(None, None).await.unwrap().jobs.is_empty());
    worker.infer(question(SEA, json!({"model": "random", "max_tokens": 3}))).await;
}

#[tokio::test]
async fn texts_are_written_side_by_side() {
    let worker = worker().await;
    // All at once, and long enough that the first is not done before the last has come.
    let asked = (0..6).map(|seed| worker.ask(question("Count.", json!({"max_tokens": 900, "seed": seed}))));
    let ids = futures_util::future::join_all(asked).await;
    let mut spans = Vec::new();
    for id in &ids {
        let told = worker.told(id).await;
        assert_eq!(told.completion.usage.completion_tokens, 900);
        let job = worker.job(id).await;
        spans.push((job.started_ms.unwrap(), job.finished_ms.unwrap()));
    }
    spans.sort_unstable();
    let together = |(start, _): (u64, u64)| spans.iter().filter(|(from, to)| *from <= start && start < *to).count();
    let most = spans.iter().map(|span| together(*span)).max().unwrap();
    assert!((2..=5).contains(&most), "{most} of {spans:?} at once in 4 slots");
    assert!(spans[3].0 < spans[0].1, "the fourth begins before the first ends: {spans:?}");
    assert!(spans[5].0 + 5 >= spans[..4].iter().map(|span| span.1).min().unwrap(), "the last one waits: {spans:?}");
}

#[tokio::test]
async fn a_cancelled_text_ends_at_the_next_token() {
    let worker = worker().await;
    let id = worker.ask(question("Count.", json!({"max_tokens": 1000}))).await;
    let mut events = worker.client().events(&id, 0);
    while !matches!(events.next().await.unwrap(), Some((_, JobEvent::Token { .. }))) {}
    worker.client().cancel_job(&id).await.unwrap();
    assert!(matches!(worker.events(&id).await.last(), Some(JobEvent::Cancelled {})));
    assert_eq!(worker.job(&id).await.state, JobState::Cancelled);
    worker.client().cancel_job(&id).await.unwrap();
    worker.infer(question(SEA, json!({"max_tokens": 3}))).await;
}

#[tokio::test]
async fn a_schema_holds_the_text_and_characters_come_whole() {
    let worker = worker().await;
    let odd = "\u{1F30A} \u{e9}\u{4e2d} \"\\";
    let told = worker.infer(question("Say it.", json!({"response_schema": {"const": odd}, "temperature": 1}))).await;
    assert_eq!(told.completion.text, json!(odd).to_string());
    assert_eq!(told.tokens.concat(), told.completion.text);
    let schema = json!({
        "type": "object",
        "properties": {
            "place": {"enum": ["sea", "desert"]},
            "stars": {"type": "integer"},
            "boat": {"type": "boolean"},
            "words": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 2},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/next"}]}
        },
        "required": ["place", "stars", "words"],
        "additionalProperties": false,
        "$defs": {"next": {"type": "object", "properties": {"night": {"type": "boolean"}}, "required": ["night"]}}
    });
    for seed in 0..6 {
        let fields = json!({"response_schema": schema, "temperature": 1, "seed": seed});
        let told = worker.infer(question("Describe the sea.", fields)).await;
        let value: Value = serde_json::from_str(&told.completion.text).expect(&told.completion.text);
        assert!(["sea", "desert"].contains(&value["place"].as_str().unwrap()), "{value}");
        assert!(value["stars"].is_i64() || value["stars"].is_u64(), "{value}");
        assert!((1..=2).contains(&value["words"].as_array().unwrap().len()), "{value}");
        assert_eq!(told.completion.finish_reason, FinishReason::Stop);
    }
}

#[tokio::test]
async fn functions_are_called_in_their_form() {
    let worker = worker().await;
    let tools = json!([
        {"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object", "properties": {"degrees": {"type": "integer"}}, "required": ["degrees"], "minProperties": 1}}},
        {"type": "function", "function": {"name": "now"}}
    ]);
    let chosen = json!({"type": "function", "function": {"name": "weather"}});
    for (choice, names) in [(json!("required"), vec!["weather", "now"]), (chosen, vec!["weather"])] {
        // This model may go on to call until there is no room for more; what it has called until then counts.
        let fields = json!({"tools": tools, "tool_choice": choice, "max_tokens": 600});
        let told = worker.infer(question("How warm is it?", fields)).await;
        let completion = told.completion;
        assert!([FinishReason::ToolCalls, FinishReason::Length].contains(&completion.finish_reason), "{completion:?}");
        assert!(completion.text.is_empty() && told.tokens.is_empty(), "{completion:?}");
        assert!(!completion.tool_calls.is_empty());
        for call in completion.tool_calls {
            assert!(names.contains(&&*call.function.name) && !call.id.is_empty(), "{call:?}");
            let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap();
            assert_eq!(arguments["degrees"].is_number(), call.function.name == "weather", "{arguments}");
        }
    }
    // With both, the answer follows the schema, or it is a call.
    let fields = json!({"tools": tools, "response_schema": {"const": "yes"}, "temperature": 1});
    let completion = worker.infer(question("How warm is it?", fields)).await.completion;
    assert!(completion.text == "\"yes\"" || !completion.tool_calls.is_empty(), "{completion:?}");
    let fields = json!({"tools": tools, "tool_choice": "none", "max_tokens": 3});
    let completion = worker.infer(question(SEA, fields)).await.completion;
    assert!(completion.tool_calls.is_empty());
}

#[tokio::test]
async fn a_conversation_that_goes_on_is_not_read_again() {
    let worker = worker().await;
    let mut messages = vec![json!({"role": "user", "content": SEA})];
    let first = worker.infer(json!({"messages": messages, "temperature": 0, "max_tokens": 20})).await.completion;
    assert_eq!(first.usage.cached_tokens, 0);
    messages.push(json!({"role": "assistant", "content": first.text}));
    messages.push(json!({"role": "user", "content": "And at sunset?"}));
    // Somebody else's text comes in between, into another slot.
    worker.infer(json!({"prompt": "x", "max_tokens": 3})).await;
    let second = worker.infer(json!({"messages": messages, "temperature": 0, "max_tokens": 20})).await.completion;
    let known = first.usage.prompt_tokens + first.usage.completion_tokens;
    assert!(second.usage.cached_tokens >= known - 1, "{:?} after {:?}", second.usage, first.usage);
    let fresh =
        self::worker().await.infer(json!({"messages": messages, "temperature": 0, "max_tokens": 20})).await.completion;
    assert_eq!((second.text, fresh.usage.cached_tokens), (fresh.text, 0), "what is known changes nothing");
}

#[tokio::test]
async fn texts_become_vectors() {
    let worker = worker().await;
    let input = ["a red circle", "the sea at night", "a red circle"];
    let (status, answer) = worker.post("/v1/embeddings", &json!({"input": input, "model": "random"})).await;
    assert_eq!(
        (status, &answer["object"], answer["usage"]["total_tokens"].as_u64() > Some(6)),
        (200, &json!("list"), true)
    );
    let vector = |i: usize| -> Vec<f64> {
        answer["data"][i]["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!((dot(&vector(0), &vector(0)) - 1.0).abs() < 1e-4);
    assert!((dot(&vector(0), &vector(2)) - 1.0).abs() < 1e-4, "one text, one vector");
    assert!(dot(&vector(0), &vector(1)) < 0.99);
    let (_, one) = worker.post("/v1/embeddings", &json!({"input": "a red circle", "encoding_format": "base64"})).await;
    assert_eq!(one["data"][0]["embedding"].as_str().unwrap().len(), (vector(0).len() * 4).div_ceil(3) * 4);
    for (body, status) in [
        (json!({"input": []}), 422),
        (json!({}), 400),
        (json!({"input": 1}), 400),
        (json!({"input": "a", "model": "b"}), 409),
    ] {
        assert_eq!(worker.post("/v1/embeddings", &body).await.0, status, "{body}");
    }
}

#[tokio::test]
async fn a_model_that_does_not_fit_says_how_much_it_needs() {
    let worker = Worker::start(&["--model", RANDOM, "--context", "2000000000"]);
    let client = reqwest::Client::builder().no_proxy().timeout(LONG).build().unwrap();
    let begun = std::time::Instant::now();
    loop {
        let why = client.get(format!("{}/ready", worker.url)).send().await.unwrap().text().await.unwrap();
        if why.contains("could not be loaded") {
            assert!(why.contains("needs") && why.contains("GiB of memory") && why.contains("available"), "{why}");
            break;
        }
        assert!(begun.elapsed() < LONG, "{why}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_no_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    for (bytes, why) in [(&b"PK\x03\x04 zip"[..], "no GGUF"), (b"GGUF\x03\0\0\0", "cannot load it")] {
        std::fs::write(&file, bytes).unwrap();
        let worker = Worker::start(&["--model", file.to_str().unwrap()]);
        let id = worker.client().create_job(&infer(json!({"prompt": "a"}))).await;
        let said = match id {
            Err(error) => error.to_string(),
            Ok(response) => format!("{:?}", worker.events(&response.job_id).await.last()),
        };
        assert!(said.contains(why) && said.contains("model.gguf"), "{said}");
    }
}

#[test]
fn flags_that_cannot_be_followed_are_refused() {
    let said = |kind: &str, arguments: &[&str]| {
        let output = program(kind, arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said("cpu", &["--precision", "f16"]).contains("--precision f16"));
    assert!(said("cpu", &["--gpu-layers", "3"]).contains("llm-worker-cuda"));
    assert!(said("cpu", &["--device", "1"]).contains("one CPU"));
    assert!(said("cpu", &["--slots", "0"]).contains("1..=256"));
    assert!(said("cpu", &["--model", "/nowhere.gguf"]).contains("no such file"));
    assert!(said("cpu", &["--model", "tiny-scenes"]).contains("sd-worker-cpu"));
    assert!(said("cpu", &["--model", "someone/something", "--offline"]).contains("--offline forbids"));
    if !cfg!(feature = "cuda") {
        assert!(said("cuda", &[]).contains("--features cuda"));
    }
    if !cfg!(feature = "metal") {
        assert!(said("metal", &[]).contains("--features metal"));
    }
}
