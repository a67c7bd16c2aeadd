//! One file a variant: what goes over the wire is not changed by accident. A golden is the canonical form: what is
//! read from it and written again is the same JSON.

#![allow(clippy::unwrap_used, reason = "a golden that cannot be read is a failed test")]

use operations_contract::{ApiError, Base64Bytes, ErrorCode, JobEvent, Operation, OperationKind};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn golden(folder: &str) -> Vec<(String, Value)> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(folder);
    let mut found: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            (name, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn every_operation_has_a_golden_that_is_valid_and_comes_back_the_same() {
    let goldens = golden("operations");
    let names: BTreeSet<&str> = goldens.iter().map(|(name, _)| name.split('.').next().unwrap()).collect();
    assert_eq!(names, OperationKind::ALL.iter().map(|kind| kind.name()).collect());
    for (name, json) in goldens {
        let operation = Operation::from_value(json.clone(), |_| true).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(operation.name(), name.split('.').next().unwrap());
        let operation = operation.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(serde_json::to_value(&*operation).unwrap(), json, "{name}");
    }
}

#[test]
fn every_event_has_a_golden_that_comes_back_the_same() {
    let goldens = golden("events");
    let names: BTreeSet<&str> = goldens.iter().map(|(name, _)| name.split('.').next().unwrap()).collect();
    let all = ["queued", "started", "progress", "preview", "token", "narration", "complete", "error", "cancelled"];
    assert_eq!(names, all.into_iter().collect());
    for (name, json) in goldens {
        let event: JobEvent = serde_json::from_value(json.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(event.name(), name.split('.').next().unwrap());
        assert_eq!(json["type"], event.name());
        assert_eq!(serde_json::to_value(&event).unwrap(), json, "{name}");
    }
}

#[test]
fn every_error_code_has_a_golden_that_comes_back_the_same() {
    let goldens = golden("errors");
    let names: BTreeSet<String> = goldens.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, ErrorCode::ALL.iter().map(|code| format!("{}.{code}", code.status())).collect());
    for (name, json) in goldens {
        let status = json["status"].as_u64().unwrap() as u16;
        let error = ApiError::from_response(status, json["body"].to_string().as_bytes());
        assert_eq!((error.status(), format!("{status}.{}", error.code)), (status, name.clone()));
        assert_eq!(serde_json::to_value(error.into_body()).unwrap(), json["body"], "{name}");
    }
}

#[test]
fn the_events_of_the_specification_are_written_as_there() {
    let written = |event: JobEvent| serde_json::to_string(&event).unwrap();
    assert_eq!(written(JobEvent::Queued { position: 3 }), r#"{"type":"queued","position":3}"#);
    assert_eq!(
        written(JobEvent::Progress { step: 7, total: 20, phase: None, eta_ms: None, bytes_per_second: None }),
        r#"{"type":"progress","step":7,"total":20}"#
    );
    assert_eq!(written(JobEvent::Token { t: "Hello".into(), i: 0 }), r#"{"type":"token","t":"Hello","i":0}"#);
    assert_eq!(written(JobEvent::Cancelled {}), r#"{"type":"cancelled"}"#);
    assert_eq!(
        written(ApiError::internal("the worker died").into()),
        r#"{"type":"error","code":"internal","message":"the worker died"}"#
    );
}

#[test]
fn a_picture_is_base64_on_the_wire_only() {
    let event: JobEvent = serde_json::from_str(
        r#"{"type":"complete","image":"iVBORw==","format":"png","seed":42,"something_newer":true}"#,
    )
    .unwrap();
    let JobEvent::Complete(operations_contract::Completion::Image(completion)) = event else { panic!("{event:?}") };
    assert_eq!(completion.image, Base64Bytes::from(b"\x89PNG".to_vec()));
}
