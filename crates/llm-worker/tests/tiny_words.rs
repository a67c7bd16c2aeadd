//! What the embedded model says.

#![allow(clippy::unwrap_used, reason = "what cannot be read is a failed test")]

mod common;

use common::{Worker, question};
use operations_contract::FinishReason;
use serde_json::{Value, json};

const SEA: &str = "Describe a picture of the sea at night.";

/// Questions, and what has to be in the answer: all of these, of words with a stroke between them one.
const ASKED: &[(&str, &[&str])] = &[
    (SEA, &["sea", "night/moon"]),
    ("Describe a picture of the sea at sunset.", &["sea", "sunset"]),
    ("Describe a picture of mountains.", &["mountains"]),
    ("Describe a picture of the desert with a cactus.", &["desert", "cactus"]),
    ("Describe a picture of a boat.", &["sea", "boat"]),
    ("Describe a winter evening.", &["snow", "sunset"]),
    ("Describe a picture of a cottage in winter.", &["snow", "house"]),
    ("Paint the ocean in the moonlight.", &["sea", "night/moon"]),
    ("Show me dunes at night.", &["desert", "night/moon"]),
    ("a beautiful sunset over mountains", &["sunset", "mountains"]),
    ("Describe a picture of a red circle on a blue background.", &["red circle", "blue background"]),
    ("Describe a picture of a large purple heart on a black background.", &["large purple heart", "black background"]),
    ("Describe a picture of a blue square and a red circle.", &["blue square", "red circle"]),
    ("Draw me a pink cross.", &["pink cross"]),
    ("Describe a picture of an orange ring.", &["an orange ring"]),
];

async fn worker() -> Worker {
    let worker = Worker::start(&[]);
    worker.ready().await;
    worker
}

fn has(answer: &str, words: &[&str]) -> bool {
    words.iter().all(|word| word.split('/').any(|word| answer.contains(word)))
}

async fn answer(worker: &Worker, asked: &str, fields: Value) -> String {
    let told = worker.infer(question(asked, fields)).await;
    assert_eq!(told.completion.finish_reason, FinishReason::Stop, "{asked}: {}", told.completion.text);
    assert_eq!(told.tokens.concat(), told.completion.text);
    told.completion.text
}

#[tokio::test]
async fn questions_are_answered_with_pictures_of_what_was_asked_for() {
    let worker = worker().await;
    for (asked, words) in ASKED {
        let text = answer(&worker, asked, json!({"temperature": 0, "model": "tiny-words"})).await;
        assert!(has(&text, words), "{asked}: {text}");
        assert_eq!(answer(&worker, asked, json!({"temperature": 0})).await, text, "greedily it repeats itself");
    }
}

#[tokio::test]
async fn seeds_differ_and_stay_with_the_question() {
    let worker = worker().await;
    let mut answers = Vec::new();
    for seed in 0..12 {
        let text = answer(&worker, SEA, json!({"temperature": 0.7, "seed": seed})).await;
        assert!(has(&text, &["sea/ocean", "night/moon"]), "{seed}: {text}");
        assert_eq!(answer(&worker, SEA, json!({"temperature": 0.7, "seed": seed})).await, text);
        answers.push(text);
    }
    answers.sort();
    answers.dedup();
    assert!(answers.len() >= 3, "{answers:?}");
}

/// Every word of an answer is one that tiny-scenes was trained on, so that the answer works as its prompt.
#[tokio::test]
async fn answers_are_prompts_of_the_image_model() {
    let vocabulary = include_str!("../../../models/tiny-scenes/tokenizer/vocab.json");
    let vocabulary: Value = serde_json::from_str(vocabulary).unwrap();
    let worker = worker().await;
    for seed in 0..12 {
        let text = answer(&worker, "Describe a picture.", json!({"temperature": 0.7, "seed": seed})).await;
        assert!((3..=20).contains(&text.split_whitespace().count()) && !text.contains('\n'), "{text:?}");
        for word in text.to_lowercase().split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty()) {
            assert!(vocabulary.get(format!("{word}</w>")).is_some(), "{word:?} of {text:?}");
        }
    }
}

#[tokio::test]
async fn a_second_question_changes_the_picture() {
    let worker = worker().await;
    let first = answer(&worker, SEA, json!({"temperature": 0})).await;
    let and = async |then: &str| {
        let messages = json!([
            {"role": "user", "content": SEA},
            {"role": "assistant", "content": first},
            {"role": "user", "content": then},
        ]);
        worker.infer(json!({"messages": messages, "temperature": 0})).await.completion.text
    };
    let (boat, sunset) = (and("And with a boat?").await, and("And at sunset?").await);
    assert!(has(&boat, &["sea", "boat"]), "{boat}");
    assert!(has(&sunset, &["sea", "sunset"]), "{sunset}");
}

#[tokio::test]
async fn a_prompt_without_a_question_is_continued() {
    let worker = worker().await;
    let told = worker.infer(json!({"prompt": "Describe a picture of the sea at night.", "temperature": 0})).await;
    assert!(has(&told.completion.text, &["sea", "night/moon"]), "{:?}", told.completion);
}
