//! What the embedded model says: an answer to what was asked, in the words of the little scenes, that ends by itself.

#![allow(clippy::unwrap_used, reason = "what cannot be read is a failed test")]

mod common;

use common::{Worker, question};
use operations_contract::FinishReason;
use serde_json::json;

/// Every word of the captions that `tools/tiny-scenes/scenes.py` makes: what the image model knows.
const WORDS: &str = "a an and on with the of at over background small large circle square triangle star ring heart cross \
    red green blue yellow orange purple pink white black gray cyan brown \
    day sunny clear sunset night moonlit sky beautiful calm peaceful mountains snowy hills sea ocean desert \
    boat house tree cactus clouds painting photo illustration highly detailed simple digital art 4k";

/// A question, and what its answer has to mention: one of each list.
const ASKED: &[(&str, &[&[&str]])] = &[
    ("Describe a picture of the sea at night.", &[&["sea", "ocean"], &["night"]]),
    ("Describe the ocean at sunset", &[&["sea", "ocean"], &["sunset"]]),
    ("Paint a boat in the moonlight.", &[&["boat"], &["night"]]),
    ("A picture of mountains on a sunny day, please.", &[&["mountains"], &["day"]]),
    ("Show me snowy mountains at night!", &[&["snowy mountains"], &["night"]]),
    ("Write a prompt for a picture of the desert with a cactus.", &[&["desert"], &["cactus"]]),
    ("I would like to see a house in the hills in the evening.", &[&["house"], &["hills"], &["sunset"]]),
    ("What does a picture of a sunset look like?", &[&["sunset"]]),
    ("Draw me a tree.", &[&["tree"]]),
    ("Imagine clouds over the sea.", &[&["clouds"], &["sea", "ocean"]]),
    ("Describe a red circle.", &[&["red circle"]]),
    ("Paint a blue star on a yellow background.", &[&["blue star"], &["yellow background"]]),
    ("Give me a large green heart.", &[&["large green heart"]]),
    ("Can you describe a small black triangle?", &[&["small black triangle"]]),
    ("Draw a pink ring and a white cross.", &[&["pink ring"], &["white cross"]]),
    ("Suggest a picture with something purple.", &[&["purple"]]),
    ("Describe dunes at night.", &[&["desert"], &["night"]]),
    ("A cottage in winter.", &[&["house"], &["snowy"]]),
];

fn check_words(text: &str) {
    let known: Vec<&str> = WORDS.split_whitespace().collect();
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        assert!(known.contains(&word), "the image model does not know {word:?} in {text:?}");
    }
}

#[tokio::test]
async fn answers_mention_what_was_asked_and_end_by_themselves() {
    let worker = Worker::start(&["--threads", "2"]);
    worker.ready().await;
    let mut missed = Vec::new();
    for (asked, mentions) in ASKED {
        // The likeliest answer, and one that was drawn.
        for (temperature, seed) in [(0.0, 0), (0.7, 3)] {
            let fields = json!({"temperature": temperature, "seed": seed, "max_tokens": 60});
            let completion = worker.infer(question(asked, fields)).await.completion;
            let text = completion.text;
            assert_eq!(completion.finish_reason, FinishReason::Stop, "{asked}: {text}");
            check_words(&text);
            if !mentions.iter().all(|words| words.iter().any(|word| text.contains(word))) {
                missed.push(format!("{asked} -> {text}"));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[tokio::test]
async fn what_it_knows_nothing_of_is_answered_in_its_own_words() {
    let worker = Worker::start(&["--threads", "2"]);
    worker.ready().await;
    for asked in ["Hello", "Who are you?", "2 + 2 = ?", "Describe a dragon.", "\u{1F30A}", "Was ist das?"] {
        let completion = worker.infer(question(asked, json!({"temperature": 0, "max_tokens": 60}))).await.completion;
        assert_eq!(completion.finish_reason, FinishReason::Stop, "{asked}: {}", completion.text);
        check_words(&completion.text);
    }
}

#[tokio::test]
async fn a_second_question_changes_the_first_picture() {
    let worker = Worker::start(&["--threads", "2"]);
    worker.ready().await;
    let messages = json!([
        {"role": "user", "content": "Describe a picture of the sea at night."},
        {"role": "assistant", "content": "a moonlit night over the sea"},
        {"role": "user", "content": "And at sunset?"}
    ]);
    let text = worker.infer(json!({"messages": messages, "temperature": 0})).await.completion.text;
    assert!(text.contains("sunset") && (text.contains("sea") || text.contains("ocean")), "{text}");
}
