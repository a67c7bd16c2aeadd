//! What nobody thought of.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use operations_contract::{
    ApiError, HiveOperation, ImageGenerationRequest, JobEvent, LlmWorkerOperation, Operation, OperationKind, Priority,
    QueenOperation, Request, SCHEDULERS, SdWorkerOperation, Validated,
};
use proptest::prelude::*;
use serde_json::{Map, Value};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((field_name(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Often a name that exists, so that more than the first check is reached.
fn field_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "prompt",
            "steps",
            "width",
            "seed",
            "scheduler",
            "init_image",
            "strength",
            "messages",
            "stop",
            "hive_id",
            "model",
            "worker",
            "options",
            "pid",
            "id",
            "priority",
            "max_tokens",
            "count",
            "operation",
            "type",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ]
}

fn generation() -> impl Strategy<Value = ImageGenerationRequest> {
    (
        (".{0,40}", prop::option::of(".{0,40}"), prop::option::of(1..=150_u32), prop::option::of(0.0..=30.0_f64)),
        (prop::option::of(8..=256_u32), any::<Option<u64>>(), 1..=64_u32, prop::option::of(0..=11_u32)),
        (prop::option::of(prop::sample::select(&SCHEDULERS[..])), prop::option::of("[a-z0-9]{1,12}")),
    )
        .prop_map(
            |((prompt, negative_prompt, steps, guidance_scale), (side, seed, count, clip_skip), (name, id))| {
                ImageGenerationRequest {
                    prompt,
                    negative_prompt,
                    steps,
                    guidance_scale,
                    width: side.map(|side| side * 8),
                    seed,
                    count,
                    clip_skip,
                    scheduler: name.map(str::to_owned),
                    worker_id: id,
                    priority: Priority::High,
                    ..ImageGenerationRequest::default()
                }
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(request in generation()) {
        let operation = Operation::from(request);
        let json = serde_json::to_vec(&operation).unwrap();
        prop_assert_eq!(&Operation::from_json(&json, |_| true).unwrap(), &operation);
        prop_assert!(operation.validate().is_ok());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Operation::from_json(&bytes, |_| true);
        let _ = ApiError::from_response(400, &bytes);
    }

    #[test]
    fn no_json_panics(json in any_json(), kind in prop::sample::select(OperationKind::ALL), tagged in any::<bool>()) {
        let mut json = json;
        let _ = serde_json::from_value::<JobEvent>(json.clone());
        if let (true, Value::Object(fields)) = (tagged, &mut json) {
            fields.insert("operation".to_owned(), kind.name().into());
        }
        if let Ok(operation) = Operation::from_value(json, |_| true) {
            let _ = operation.validate();
        }
    }
}

#[test]
fn each_operation_is_served_by_the_queen_and_one_other_at_most() {
    for &kind in OperationKind::ALL {
        let others = [HiveOperation::serves(kind), SdWorkerOperation::serves(kind), LlmWorkerOperation::serves(kind)];
        let served = others.into_iter().filter(|serves| *serves).count();
        let queens_own = matches!(kind, OperationKind::Status | OperationKind::QueenCheck);
        assert_eq!(served, usize::from(!queens_own), "{kind}");
    }
}

#[test]
fn a_server_gets_what_it_serves_and_refuses_the_rest() {
    let checked: Validated<Operation> = ImageGenerationRequest::default().validate().unwrap().into();
    assert!(matches!(SdWorkerOperation::try_from(checked.clone()), Ok(SdWorkerOperation::ImageGeneration(_))));
    assert!(matches!(QueenOperation::from(checked.clone()), QueenOperation::ImageGeneration(_)));
    let error = HiveOperation::try_from(checked).unwrap_err();
    assert_eq!(error.message, "a hive does not serve the operation image_generation");
    assert_eq!(error.status(), 400);
}

#[test]
fn a_seed_is_drawn_once() {
    let mut checked: Validated<Operation> = ImageGenerationRequest::default().validate().unwrap().into();
    assert_eq!(checked.fill_seed(|| 7), Some(7));
    assert_eq!(checked.fill_seed(|| 8), Some(7));
}
