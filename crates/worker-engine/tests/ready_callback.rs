//! A worker tells its hive that it serves.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use operations_contract::WorkerReady;
use std::net::Ipv4Addr;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use worker_engine::announce_ready;

type Told = (WorkerReady, Option<String>);

async fn hive(State(told): State<mpsc::UnboundedSender<Told>>, headers: HeaderMap, ready: Json<WorkerReady>) {
    let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
    told.send((ready.0, key)).unwrap();
}

fn worker() -> WorkerReady {
    WorkerReady {
        worker_id: "worker-1".into(),
        model: "tiny-scenes".into(),
        url: "http://127.0.0.1:8600".into(),
        pid: 4711,
        device: "cpu".into(),
    }
}

#[tokio::test]
async fn a_hive_that_comes_late_is_told_all_the_same() {
    // A port that is free and where nobody listens yet.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let telling =
        tokio::spawn(async move { announce_ready(&format!("http://{address}/"), Some("secret"), &worker()).await });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let (told, mut received) = mpsc::unbounded_channel();
    let app = Router::new().route("/v1/workers/ready", post(hive)).with_state(told);
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    assert!(telling.await.unwrap());
    let (ready, key) = received.recv().await.unwrap();
    assert_eq!((ready, key.as_deref()), (worker(), Some("Bearer secret")));
}
