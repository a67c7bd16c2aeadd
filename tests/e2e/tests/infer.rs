//! Text from a queen, her hive and a language worker that the hive starts itself.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::{House, colours, events, is_alive, names, signal, stderr, text, within};
use job_server::client::Client;
use operations_contract::{Completion, ErrorCode, FinishReason, JobEvent, JobState, TextCompletion};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::Stdio;

const SEA: &str = "Describe a picture of the sea at night.";
const WORKER: [(&str, &str); 1] = [("llm-worker-cpu", env!("CARGO_BIN_EXE_llm-worker-e2e"))];
/// A model that writes noise, as long as it is let.
const RANDOM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/llm-worker/tests/models/random.gguf");

fn house() -> House {
    let house = House::with_programs(&WORKER);
    house.run(&["up"]);
    house
}

fn infer(mut fields: Value) -> Value {
    fields["operation"] = json!("infer");
    fields
}

async fn completion(client: &Client, operation: &Value) -> (Vec<(u64, JobEvent)>, TextCompletion) {
    let id = client.create_job(operation).await.unwrap().job_id;
    let mut told = events(client, &id).await;
    let Some((_, JobEvent::Complete(Completion::Text(completion)))) = told.pop() else { panic!("{told:?}") };
    (told, completion)
}

#[track_caller]
fn tells_of_the_sea_at_night(text: &str) {
    assert!(text.contains("sea"), "{text}");
    assert!(text.contains("night") || text.contains("moon"), "{text}");
}

#[test]
fn a_bare_machine_answers_a_question() {
    let house = House::with_programs(&WORKER);
    let output = house.rbee(&["infer", SEA, "--seed", "7"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let answer = text(&output.stdout);
    tells_of_the_sea_at_night(&answer);
    assert!(stderr(&output).contains("started a queen"), "{}", stderr(&output));
    assert_eq!(house.run(&["infer", SEA, "--seed", "7", "--quiet"]), answer, "one seed, one text");

    let whole: Value = serde_json::from_str(&house.run(&["infer", SEA, "--seed", "7", "--json"])).unwrap();
    assert_eq!(
        (format!("{}\n", whole["text"].as_str().unwrap()), &whole["finish_reason"]),
        (answer.clone(), &json!("stop"))
    );
    let lines = house.run(&["infer", SEA, "--seed", "7", "--json=events"]);
    let told: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tokens: String = told.iter().filter_map(|event| event["t"].as_str()).collect();
    assert_eq!(format!("{tokens}\n"), answer, "{told:?}");

    let (code, said) = house.fail(&["infer", SEA, "--model", "someone/nothing"]);
    assert!(code != 0 && said.contains("someone/nothing is not on this machine"), "{code}: {said}");
    let (_, said) = house.fail(&["infer", SEA, "--model", "tiny-scenes"]);
    assert!(said.contains("does not write"), "{said}");
}

#[test]
fn a_conversation_goes_on() {
    let house = house();
    let mut command = house.rbee(&["chat", "--temperature", "0"]);
    let mut chat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    writeln!(chat.stdin.take().unwrap(), "{SEA}\nAnd with a boat?\n/quit").unwrap();
    let output = chat.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = text(&output.stdout);
    let answers: Vec<&str> = said.lines().collect();
    assert_eq!(answers.len(), 2, "{said}");
    tells_of_the_sea_at_night(answers[0]);
    tells_of_the_sea_at_night(answers[1]);
    assert!(answers[1].contains("boat"), "{said}");
}

#[test]
fn a_described_picture_shows_what_was_asked_for() {
    let house = house();
    let output = house
        .rbee(&[
            "image",
            "generate",
            "--describe",
            "a red circle on a blue background",
            "--seed",
            "1",
            "--output",
            "x.png",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("red circle on a blue background\n"), "{}", stderr(&output));
    let (corner, middle) = colours(&house.work().join("x.png"));
    assert!(corner[2] > corner[0] + 40.0, "the background is blue: {corner:?}");
    assert!(middle[0] > middle[2] + 40.0, "the middle is red: {middle:?}");
}

#[tokio::test]
async fn text_is_told_as_it_is_written_and_what_cannot_be_written_is_refused() {
    let house = house();
    let client = house.queen();
    let asked = json!({"messages": [{"role": "user", "content": SEA}], "temperature": 0});
    let (told, completion) = completion(&client, &infer(asked.clone())).await;
    assert_eq!(completion.finish_reason, FinishReason::Stop);
    tells_of_the_sea_at_night(&completion.text);
    let tokens: String = told
        .iter()
        .filter_map(|(_, event)| if let JobEvent::Token { t, .. } = event { Some(t.as_str()) } else { None })
        .collect();
    assert_eq!(tokens, completion.text);
    assert!(told.iter().map(|(id, _)| *id).eq(1..=told.len() as u64), "{told:?}");

    let refusal = async |fields: Value| {
        let error = client.create_job(&infer(fields)).await.unwrap_err();
        error.refusal().cloned().unwrap_or_else(|| panic!("{error}"))
    };
    for model in ["nonsense", "someone/nothing", "/nowhere/model.gguf"] {
        let error = refusal(json!({"prompt": "a", "model": model})).await;
        assert_eq!((error.code, error.param.as_deref()), (ErrorCode::ModelNotFound, Some("model")), "{error}");
    }
    let error = refusal(json!({"prompt": "a", "temperature": 3})).await;
    assert_eq!((error.status(), error.param.as_deref()), (422, Some("temperature")));
    // Only the worker can tell how long it is; the job ends with both numbers.
    let id = client.create_job(&infer(json!({"prompt": "the sea at night ".repeat(500)}))).await.unwrap().job_id;
    let Some((_, JobEvent::Error { message, .. })) = events(&client, &id).await.pop() else { panic!("it fits") };
    assert!(message.contains("tokens and the context holds 1024"), "{message}");
}

#[tokio::test]
async fn a_text_is_cancelled_while_it_is_written_and_begun_anew_when_its_worker_dies() {
    let house = house();
    let client = house.queen();
    let spawned = json!({"operation": "worker_spawn", "model": RANDOM, "worker": "cpu",
        "options": {"threads": 1, "slots": 2, "context": 50_000}});
    let id = client.create_job(&spawned).await.unwrap().job_id;
    let Some((_, JobEvent::Complete(Completion::Result { result }))) = events(&client, &id).await.pop() else {
        panic!("no worker")
    };
    let pid = result["worker"]["pid"].as_i64().unwrap() as i32;
    let long = infer(json!({"prompt": "x", "model": RANDOM, "max_tokens": 40_000, "seed": 3}));
    let started = async || {
        let id = client.create_job(&long).await.unwrap().job_id;
        let mut stream = client.events(&id, 0);
        while !matches!(within(stream.next()).await.unwrap(), Some((_, JobEvent::Token { .. }))) {}
        id
    };
    let id = started().await;
    client.cancel_job(&id).await.unwrap();
    assert_eq!(names(&events(&client, &id).await).last(), Some(&"cancelled"));
    assert!(is_alive(pid), "the worker writes on for others");

    let id = started().await;
    signal(pid, Signal::KILL);
    let mut stream = client.events(&id, 0);
    let again = loop {
        match within(stream.next()).await.unwrap() {
            Some((_, JobEvent::Started { attempt, .. })) if attempt > 1 => break attempt,
            Some(_) => {}
            None => panic!("the job has ended"),
        }
    };
    assert_eq!(again, 2);
    client.cancel_job(&id).await.unwrap();
    while within(stream.next()).await.unwrap().is_some() {}
    assert_eq!(client.job(&id).await.unwrap().state, JobState::Cancelled);
}
