//! What only a hive on another machine can meet.

use crate::bed::{any_model, job, record};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use broker::{
    BlobId, Broker, BrokerError, ClaimRequest, HttpBroker, Role, SqliteBroker, SqliteOptions, WorkSource as _,
    hive_routes,
};
use operations_contract::JobState;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;

const TTL: Duration = Duration::from_secs(60);

async fn serve() -> (TempDir, Arc<dyn Broker>, String) {
    let folder = TempDir::new().unwrap();
    let (broker, url) = serve_from(&folder).await;
    (folder, broker, url)
}

async fn serve_from(folder: &TempDir) -> (Arc<dyn Broker>, String) {
    let broker: Arc<dyn Broker> = Arc::new(SqliteBroker::open(folder.path(), SqliteOptions::default()).await.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = hive_routes(Arc::clone(&broker), vec!["home".to_owned()]);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (broker, url)
}

async fn hive(queen: &Arc<dyn Broker>, url: &str, name: &str) -> HttpBroker {
    HttpBroker::new(url, queen.create_key(name, Role::Hive).await.unwrap().secret).unwrap()
}

#[tokio::test]
async fn only_the_token_of_a_hive_opens_the_door() {
    let (_folder, queen, url) = serve().await;
    let user = queen.create_key("user", Role::User).await.unwrap().secret;
    for token in ["", "guess", "rbee_000000000000_0000000000000000000000000000000000000000", &user] {
        let error = HttpBroker::new(&url, token).unwrap().enlist(record("h", 1), TTL).await.unwrap_err();
        assert!(matches!(error, BrokerError::Unauthorized { .. }), "{token:?}: {error}");
    }
    let invited = queen.create_key("invited", Role::Hive).await.unwrap();
    let hive = HttpBroker::new(&url, &*invited.secret).unwrap();
    hive.enlist(record("h", 1), TTL).await.unwrap();
    assert!(!format!("{hive:?}").contains(&invited.secret));
    queen.revoke_key("invited").await.unwrap();
    assert!(matches!(hive.enlist(record("h", 1), TTL).await, Err(BrokerError::Unauthorized { .. })));
}

#[tokio::test]
async fn no_hive_takes_the_name_of_another() {
    let (_folder, queen, url) = serve().await;
    let (first, second) = (hive(&queen, &url, "first").await, hive(&queen, &url, "second").await);
    first.enlist(record("h", 1), TTL).await.unwrap();
    let taken = BrokerError::NotIts { hive_id: "h".to_owned() };
    assert_eq!(second.enlist(record("h", 2), TTL).await.unwrap_err(), taken);
    let request = ClaimRequest::new("h", 1, vec![any_model()], Duration::ZERO);
    assert_eq!(second.claim(request.clone()).await.unwrap_err(), taken);
    assert_eq!(second.retire("h", 1).await.unwrap_err(), taken);
    assert_eq!(first.claim(request).await.unwrap(), None);
    assert!(second.enlist(record("home", 1), TTL).await.is_err(), "the queen's own hive");
    for id in ["", "a/b", "a\nb", &"x".repeat(200)] {
        assert!(matches!(first.enlist(record(id, 1), TTL).await, Err(BrokerError::Invalid { .. })), "{id:?}");
    }
    // Who has left leaves his name to others.
    first.retire("h", 1).await.unwrap();
    second.enlist(record("h", 2), TTL).await.unwrap();
}

/// A queen that was started anew still knows whose name it is, until the token is revoked.
#[tokio::test]
async fn a_name_outlives_the_queen() {
    let folder = TempDir::new().unwrap();
    let queen = SqliteBroker::open(folder.path(), SqliteOptions::default()).await.unwrap();
    let first = queen.create_key("first", Role::Hive).await.unwrap();
    queen.bind_hive("h", &first.id).await.unwrap();
    drop(queen);
    let (queen, url) = serve_from(&folder).await;
    let second = hive(&queen, &url, "second").await;
    let taken = BrokerError::NotIts { hive_id: "h".to_owned() };
    assert_eq!(second.enlist(record("h", 2), TTL).await.unwrap_err(), taken);
    let request = ClaimRequest::new("h", 1, vec![any_model()], Duration::ZERO);
    assert_eq!(second.claim(request).await.unwrap_err(), taken);
    HttpBroker::new(&url, first.secret).unwrap().enlist(record("h", 1), TTL).await.unwrap();
    queen.revoke_key("first").await.unwrap();
    second.enlist(record("h", 2), TTL).await.unwrap();
}

#[tokio::test]
async fn what_is_nonsense_is_refused_with_words() {
    let (_folder, queen, url) = serve().await;
    let token = queen.create_key("h", Role::Hive).await.unwrap().secret;
    let http = reqwest::Client::new();
    let post = async |name: &str, body: Vec<u8>| {
        let request = http.post(format!("{url}/v1/hive/{name}")).bearer_auth(&token).body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    for body in ["", "{", "[]", "{}", r#"{"job_id": 3, "number": 1}"#, r#"{"job_id": "job-1", "number": -1}"#] {
        let (status, answer) = post("renew", body.into()).await;
        assert_eq!((status, &answer["error"]["code"]), (422, &"invalid_request".into()), "{body}");
    }
    let (status, answer) = post("append", vec![b' '; 17 * 1024 * 1024]).await;
    assert_eq!(status, 422, "{answer}");
    let put = async |id: &str, body: &'static str| {
        let request = http.put(format!("{url}/v1/hive/blobs/{id}")).bearer_auth(&token).body(body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(put(BlobId::of(b"this").as_str(), "that").await, 422);
    assert_eq!(put("..%2F..%2Fetc%2Fpasswd", "that").await, 422);
    assert_eq!(put(BlobId::of(b"this").as_str(), "this").await, 204);
}

#[tokio::test]
async fn a_queen_that_is_not_there_is_named_after_a_while() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    drop(taken);
    let hive = HttpBroker::new(&url, "token").unwrap().patient_for(Duration::from_millis(300));
    let begun = Instant::now();
    let error = hive.enlist(record("h", 1), TTL).await.unwrap_err();
    assert!(matches!(error, BrokerError::Unreachable { .. }) && error.to_string().contains(&url), "{error}");
    assert!(error.is_passing() && begun.elapsed() < Duration::from_secs(10));
    for url in ["https://queen", "", "http://", "ftp://x"] {
        assert!(matches!(HttpBroker::new(url, "token"), Err(BrokerError::Invalid { .. })), "{url}");
    }
}

/// The answer is on its way when the hive stops waiting for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_nobody_waits_for_comes_back_at_once() {
    let folder = TempDir::new().unwrap();
    let broker = Arc::new(SqliteBroker::open(folder.path(), SqliteOptions::default()).await.unwrap());
    let slow = async |request: Request, next: Next| {
        let is_claim = request.uri().path().ends_with("/claim");
        let response = next.run(request).await;
        if is_claim {
            // The claim holds; its answer takes a while.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        response
    };
    let routes = hive_routes(broker.clone(), Vec::new()).layer(from_fn(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let hive = HttpBroker::new(&url, broker.create_key("h", Role::Hive).await.unwrap().secret).unwrap();
    hive.enlist(record("h", 1), TTL).await.unwrap();
    let id = broker.submit(job()).await.unwrap().job_id;
    let claim = || ClaimRequest::new("h", 1, vec![any_model()], TTL);
    let waiting = tokio::spawn(async move { hive.claim(claim()).await });
    while broker.job(&id).await.unwrap().job.state != JobState::Running {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled(), "it was answered too soon to be dropped");
    let again = tokio::time::timeout(Duration::from_secs(25), broker.claim(claim())).await.unwrap();
    assert_eq!(again.unwrap().unwrap().attempt.number, 2);
}

/// The queen restarts while a hive waits for her: the hive does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_hive_waits_for_a_queen_that_restarts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let folder = TempDir::new().unwrap();
    let broker = SqliteBroker::open(folder.path(), SqliteOptions::default()).await.unwrap();
    let token = broker.create_key("h", Role::Hive).await.unwrap().secret;
    let id = broker.submit(job()).await.unwrap().job_id;
    drop(broker);
    let hive = HttpBroker::new(&address.to_string(), token).unwrap();
    let claiming = tokio::spawn(async move {
        hive.enlist(record("h", 1), TTL).await?;
        hive.claim(ClaimRequest::new("h", 1, vec![any_model()], TTL)).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let broker = Arc::new(SqliteBroker::open(folder.path(), SqliteOptions::default()).await.unwrap());
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, hive_routes(broker, Vec::new())).await });
    assert_eq!(claiming.await.unwrap().unwrap().unwrap().attempt.job_id, id);
}
