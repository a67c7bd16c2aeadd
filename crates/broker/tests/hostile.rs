//! Whatever a machine that has a hive's token sends, and whatever a client calls an event: read or refused, never a
//! panic, and what is read says the same again.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use broker::{
    AttemptId, BlobId, Broker as _, BrokerError, ClaimRequest, Ending, GiveBack, HiveRecord, NewJob, SqliteBroker,
    SqliteOptions, StoredOperation, Want, WorkKind, WorkSource as _,
};
use operations_contract::JobEvent;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

const BODIES: &[&str] = &[
    r#"{"job_id":"job-1","number":1}"#,
    r#"{"id":"x","hive_id":"h","incarnation":1,"offers":[{"offer":"hive"},{"offer":"load_any","kind":"image","except":["a"]},{"offer":"worker","worker_id":"w","kind":"infer","model":"m"}],"patience_ms":5}"#,
    r#"{"ending":"complete","of":{"outcome":"images","pictures":[{"blob":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","seed":7}],"format":"png","width":1,"height":null,"model":"m"}}"#,
    r#"{"ending":"error","of":{"code":"internal","message":"no"}}"#,
    r#"{"why":"worker_died","reason":"r","last_words":"w"}"#,
    r#"{"hive_id":"h","incarnation":1,"version":"1","workers":[{"worker_id":"w","kind":"image","model":"m","device":"cpu","pid":1,"state":"idle"}],"models":[],"kinds":["image"],"devices":{"cpu":[1.5]}}"#,
    r#"{"operation":{"operation":"image_generation","prompt":"p","seed":18446744073709551615,"guidance_scale":7.1},"images":[]}"#,
    r#"[{"type":"progress","step":1,"total":2,"phase":"denoising"},{"type":"preview","step":1,"image":"AAEC","format":"jpeg"},{"type":"token","t":"é","i":0},{"type":"complete","text":"t","finish_reason":"stop","usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}]"#,
];

fn says_the_same<T: DeserializeOwned + Serialize + PartialEq + Debug>(body: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(body) else { return false };
    let written = serde_json::to_vec(&value).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&written).unwrap(), value);
    true
}

fn read(body: &[u8]) -> usize {
    [
        says_the_same::<AttemptId>(body),
        says_the_same::<ClaimRequest>(body),
        says_the_same::<Ending>(body),
        says_the_same::<GiveBack>(body),
        says_the_same::<HiveRecord>(body),
        says_the_same::<StoredOperation>(body),
        says_the_same::<Vec<JobEvent>>(body),
    ]
    .into_iter()
    .filter(|was_read| *was_read)
    .count()
}

/// A body with a few bytes of it exchanged, dropped or doubled.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0..4_u8, any::<u8>());
    (prop::sample::select(BODIES), prop::collection::vec(change, 1..6)).prop_map(|(body, changes)| {
        let mut body = body.as_bytes().to_vec();
        for (place, how, byte) in changes {
            if body.is_empty() {
                break;
            }
            let place = place.index(body.len());
            match how {
                0 => body[place] = byte,
                1 => drop(body.remove(place)),
                2 => body.insert(place, body[place]),
                _ => body.truncate(place),
            }
        }
        body
    })
}

#[test]
fn the_bodies_that_are_damaged_below_are_whole() {
    for body in BODIES {
        assert!(read(body.as_bytes()) >= 1, "{body}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_call_is_read_or_refused(body in damaged()) {
        read(&body);
    }

    #[test]
    fn nothing_is_a_blob_but_64_digits(text in "\\PC{0,80}|[0-9a-f]{60,68}|(\\.\\./){1,22}") {
        if let Ok(id) = text.parse::<BlobId>() {
            prop_assert!(id.as_str() == text && text.len() == 64);
        }
    }
}

#[tokio::test]
async fn any_number_may_be_called_an_event() {
    let folder = tempfile::TempDir::new().unwrap();
    let broker = SqliteBroker::open(folder.path(), SqliteOptions::default()).await.unwrap();
    let stored = serde_json::from_str(BODIES[6]).unwrap();
    let id = broker.submit(NewJob::new(stored, Want::model(WorkKind::Image, "m"))).await.unwrap().job_id;
    for after in [0, 1] {
        assert!(broker.watch(&id, after).await.is_ok(), "{after}");
    }
    for after in [2, 1 << 31, 1 << 53, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        assert_eq!(broker.watch(&id, after).await.err(), Some(BrokerError::Beyond { after, last: 1 }));
    }
    for number in [0, 1, u32::MAX] {
        let attempt = AttemptId { job_id: id.clone(), number };
        for sequence in [1, u64::MAX] {
            let error = broker.append(&attempt, sequence, Vec::new()).await.unwrap_err();
            assert!(matches!(error, BrokerError::Stale { .. }), "{error}");
        }
    }
}
