//! Chat templates in the forms of famous models, rendered as Jinja renders them. `tools/llm/templates.py` made the goldens.

#![allow(clippy::unwrap_used, reason = "a golden that cannot be read is a failed test")]

use std::path::Path;

use llm_worker_rbee::chat::{CHATML, CallFormat, ChatTemplate};
use operations_contract::{Message, Role, Tool};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    template: String,
    case: String,
    messages: Vec<Value>,
    tools: Vec<Tool>,
    rendered: Option<String>,
    refused: Option<String>,
}

/// A message as requests hold it: arguments are text, and the name of a function follows from its call.
fn message(mut turn: Value) -> Message {
    turn.as_object_mut().unwrap().remove("name");
    for call in turn.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        let arguments = call["function"]["arguments"].to_string();
        call["function"]["arguments"] = Value::from(arguments);
    }
    serde_json::from_value(turn).unwrap()
}

fn template(name: &str) -> ChatTemplate {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates").join(format!("{name}.jinja"));
    ChatTemplate::new(std::fs::read_to_string(path).unwrap(), "<s>".to_owned(), "</s>".to_owned()).unwrap()
}

#[test]
fn templates_are_rendered_as_jinja_renders_them() {
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("templates/goldens.json")).unwrap();
    assert_eq!(goldens.len(), 20);
    let today = jiff::Zoned::now().strftime("%d %b %Y").to_string();
    for golden in goldens {
        let messages: Vec<Message> = golden.messages.into_iter().map(message).collect();
        let rendered = template(&golden.template).render(&messages, &golden.tools);
        let name = format!("{}, {}", golden.template, golden.case);
        match (rendered, golden.rendered, golden.refused) {
            (Ok(text), Some(expected), _) => {
                assert_eq!(text, expected.replace("@%d %b %Y@", &today), "{name}");
            }
            (Err(error), _, Some(why)) => assert!(error.message.contains(&why), "{name}: {error}"),
            (rendered, expected, _) => panic!("{name}: {rendered:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn each_template_shows_how_its_model_calls() {
    let format = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates").join(format!("{name}.jinja"));
        CallFormat::of(&std::fs::read_to_string(path).unwrap())
    };
    assert_eq!(format("llama3"), CallFormat::Bare);
    assert_eq!(format("qwen"), CallFormat::Tagged);
    assert_eq!(format("mistral"), CallFormat::List);
    assert!(!template("gemma").mentions_tools());
}

#[test]
fn without_a_template_it_is_chatml() {
    let template = ChatTemplate::new(CHATML.to_owned(), String::new(), String::new()).unwrap();
    let text =
        template.render(&[Message::new(Role::System, "Be brief."), Message::new(Role::User, "Hi")], &[]).unwrap();
    assert_eq!(
        text,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn what_is_no_template_is_refused() {
    let error = ChatTemplate::new("{% for".to_owned(), String::new(), String::new()).err().unwrap();
    assert!(error.message.contains("chat template"), "{error}");
    let endless = ChatTemplate::new("{{ missing.field.deep }}".to_owned(), String::new(), String::new()).unwrap();
    let error = endless.render(&[], &[]).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages"));
}
