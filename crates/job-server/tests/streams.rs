//! Events over a real socket: replay, many listeners, slow ones, and exactly one last event.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::{Handed, TestServer, names, parse, read_to_end};
use job_server::{Access, Ending, JobServer as _, Jobs as _, Ongoing, Outcome, Picture, RegistryLimits, router};
use operations_contract::{ApiError, ErrorCode, ImageFormat, JobEvent, Level, OperationKind, Phase};
use serde_json::json;
use std::time::Duration;
use tower::ServiceExt as _;

fn pictures(count: u64) -> Ending {
    let picture = |n| Picture { file: format!("picture {n}").into_bytes().into(), seed: 42_u64.wrapping_add(n) };
    Ending::Complete(Outcome::Images {
        pictures: (0..count).map(picture).collect(),
        format: ImageFormat::Png,
        width: Some(64),
        height: Some(64),
        model: None,
    })
}

fn preview(step: u64) -> Ongoing {
    Ongoing::new(JobEvent::Preview { step, image: vec![1, 2, 3].into(), format: ImageFormat::Jpeg }).unwrap()
}

#[tokio::test]
async fn a_job_is_told_from_its_first_event_to_its_last() {
    let server = TestServer::start().await;
    let (id, job) = server.job().await;
    job.started(Some("tiny-scenes".into()), Some("worker-1".into()), 1);
    job.progress(1, 2, Some(Phase::Denoising), None);
    job.narrate(Level::Info, "test", "line\nbreak\r");
    job.finish(pictures(1));
    let events = server.events(&id).await;
    assert_eq!(names(&events), ["queued", "started", "progress", "narration", "complete"]);
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(events[0].data, json!({"type": "queued", "position": 1}));
    assert_eq!(events[3].data["message"], "line\nbreak\r");
    let complete = &events[4].data;
    assert_eq!((&complete["image"], &complete["seed"]), (&json!("cGljdHVyZSAw"), &json!(42)));
    assert_eq!(complete.get("images"), None);
}

#[tokio::test]
async fn listeners_at_any_time_read_the_same() {
    let server = TestServer::start().await;
    let (id, job) = server.job().await;
    let path = format!("/v1/jobs/{id}/stream");
    let mut listeners = Vec::new();
    for step in 1..=20 {
        listeners.push(tokio::spawn(read_to_end(server.get(&path).await)));
        job.progress(step, 20, None, None);
    }
    job.finish(pictures(1));
    let late = server.events(&id).await;
    assert_eq!(late.len(), 22);
    for listener in listeners {
        assert_eq!(listener.await.unwrap(), late);
    }
}

#[tokio::test]
async fn a_listener_that_does_not_read_holds_nobody_up_and_loses_nothing() {
    const EVENTS: u64 = 5_000;
    let server = TestServer::start().await;
    let (id, job) = server.job().await;
    let slow = server.get(&format!("/v1/jobs/{id}/stream")).await;
    // Far more than the buffers of a socket hold.
    for i in 0..EVENTS {
        job.emit(Ongoing::new(JobEvent::Token { t: "x".repeat(4096), i }).unwrap());
    }
    job.finish(Ending::Cancelled);
    assert_eq!(server.json(&format!("/v1/jobs/{id}")).await["state"], "cancelled");
    let events = read_to_end(slow).await;
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=EVENTS + 2).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_listener_that_comes_back_goes_on_where_it_was() {
    let server = TestServer::start().await;
    let (id, job) = server.job().await;
    job.progress(1, 2, None, None);
    let resume = |last: &'static str| {
        let request = server.client.get(format!("{}/v1/jobs/{id}/stream", server.url));
        async move { request.header("Last-Event-ID", last).send().await.unwrap() }
    };
    let live = resume("1").await;
    job.progress(2, 2, None, None);
    job.finish(pictures(1));
    let events = read_to_end(live).await;
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(names(&read_to_end(resume("3").await).await), ["complete"]);
    // Who has read the last event is told to stop asking.
    assert_eq!(resume("4").await.status(), 204);
    assert_eq!(read_to_end(resume("0").await).await.len(), 4);
    assert_eq!(read_to_end(resume("").await).await.len(), 4);
    for garbage in ["five", "-1", "5", "99999999999999999999999"] {
        let refused = resume(garbage).await;
        assert_eq!(refused.status(), 400, "{garbage}");
        let body: serde_json::Value = refused.json().await.unwrap();
        assert_eq!(body["error"]["param"], "Last-Event-ID", "{garbage}");
    }
}

#[tokio::test]
async fn previews_are_seen_live_and_not_kept() {
    let server = TestServer::start().await;
    let (id, job) = server.job().await;
    let mut live = server.get(&format!("/v1/jobs/{id}/stream")).await;
    let mut text = String::new();
    let mut read_until = async |what: &str| {
        while !text.contains(what) {
            text.push_str(std::str::from_utf8(&live.chunk().await.unwrap().unwrap()).unwrap());
        }
        text.clone()
    };
    job.emit(preview(1));
    read_until("id: 2\n").await;
    job.emit(preview(2));
    let seen = read_until("id: 3\n").await;
    assert_eq!(seen.matches("event: preview").count(), 2);
    let replayed = server.get(&format!("/v1/jobs/{id}/stream")).await;
    job.progress(2, 2, None, None);
    job.finish(pictures(1));
    // The newest is still there while the job runs, if the listener was quick enough to read it.
    let ids: Vec<u64> = read_to_end(replayed).await.iter().map(|event| event.id).collect();
    assert!(ids == [1, 3, 4, 5] || ids == [1, 4, 5], "{ids:?}");
    let after: Vec<_> = server.events(&id).await.into_iter().map(|event| (event.id, event.name)).collect();
    assert_eq!(after, [(1, "queued".into()), (4, "progress".into()), (5, "complete".into())]);
}

#[tokio::test]
async fn a_job_whose_hand_is_dropped_ends_with_an_error() {
    let server = TestServer::start().await;
    let (id, job) = server.job().await;
    let listener = server.get(&format!("/v1/jobs/{id}/stream")).await;
    drop(job);
    let events = read_to_end(listener).await;
    assert_eq!(names(&events), ["queued", "error"]);
    assert_eq!(events[1].data["code"], "internal");
    let job = server.json(&format!("/v1/jobs/{id}")).await;
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("error"), &json!("internal")));
}

#[tokio::test]
async fn a_job_has_one_last_event_even_when_cancelled_and_stopped_at_once() {
    let mut server = TestServer::start().await;
    let (id, job) = server.job().await;
    job.started(None, None, 1);
    let listener = server.get(&format!("/v1/jobs/{id}/stream")).await;
    let cancelled = tokio::spawn({
        let cancellation = job.cancellation();
        async move {
            cancellation.cancelled().await;
            job.finish(Ending::Cancelled);
        }
    });
    for _ in 0..2 {
        let answer = server.client.delete(format!("{}/v1/jobs/{id}", server.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["state"], "cancelled");
    }
    cancelled.await.unwrap();
    server.stop();
    assert_eq!(names(&read_to_end(listener).await), ["queued", "started", "cancelled"]);
}

#[tokio::test]
async fn several_pictures_are_listed_and_served() {
    let server = TestServer::start().await;
    let (id, job) = server.job().await;
    let early = server.get(&format!("/v1/jobs/{id}/images/0")).await;
    assert_eq!(early.status(), 409);
    job.started(None, None, 1);
    job.finish(pictures(3));
    let complete = server.events(&id).await.pop().unwrap().data;
    let links = complete["images"].as_array().unwrap();
    assert_eq!(links.len(), 3);
    for (n, link) in (0_u64..).zip(links) {
        assert_eq!(link, &json!({"index": n, "seed": 42 + n, "url": format!("/v1/jobs/{id}/images/{n}")}));
        let picture = server.get(link["url"].as_str().unwrap()).await;
        assert_eq!(picture.headers()["content-type"], "image/png");
        assert_eq!(picture.bytes().await.unwrap(), format!("picture {n}"));
    }
    assert_eq!(server.json(&format!("/v1/jobs/{id}")).await["result"]["images"], complete["images"]);
    for index in ["3", "-1", "x", "99999999999999999999999"] {
        assert_eq!(server.get(&format!("/v1/jobs/{id}/images/{index}")).await.status(), 404, "{index}");
    }
}

#[tokio::test]
async fn stopping_gives_running_jobs_time_and_tells_the_waiting() {
    let mut server = TestServer::start().await;
    let (waiting_id, waiting) = server.job().await;
    let (running_id, running) = server.job().await;
    running.started(None, None, 1);
    let listeners = [
        server.get(&format!("/v1/jobs/{waiting_id}/stream")).await,
        server.get(&format!("/v1/jobs/{running_id}/stream")).await,
    ];
    server.stop();
    let [waited, ran] = listeners;
    let events = read_to_end(waited).await;
    assert_eq!(names(&events), ["queued", "error"]);
    assert_eq!(events[1].data["code"], "shutting_down");
    assert!(waiting.cancellation().is_cancelled());
    assert!(!running.cancellation().is_cancelled());
    assert_eq!(server.get("/ready").await.status(), 503);
    let refused = server.post(&json!({"operation": "image_generation", "prompt": "a"})).await;
    assert_eq!(refused.status(), 503);
    running.finish(pictures(1));
    assert_eq!(names(&read_to_end(ran).await), ["queued", "started", "complete"]);
    server.serving.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_on_is_ended_after_ten_seconds() {
    let registry = job_server::JobRegistry::new(RegistryLimits::in_memory(1));
    let job = registry.create_job(OperationKind::ImageGeneration).unwrap();
    let id = job.id().to_owned();
    job.started(None, None, 1);
    let begin = tokio::time::Instant::now();
    registry.drain(job_server::DRAIN).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(10));
    assert!(job.cancellation().is_cancelled());
    job.finish(Ending::Error(ApiError::internal("too late")));
    let error = registry.job(&id).unwrap().error.unwrap();
    assert_eq!(error.code, ErrorCode::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_events_is_kept_alive_every_fifteen_seconds() {
    let (server, _handles) = Handed::new(RegistryLimits::in_memory(1));
    let job = server.jobs().create_job(OperationKind::ImageGeneration).unwrap();
    let app = router(server, &Access::new("127.0.0.1".parse().unwrap(), &[], None));
    let path = format!("/v1/jobs/{}/stream", job.id());
    let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    let ending = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(50)).await;
        job.finish(Ending::Cancelled);
    });
    let text = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    ending.await.unwrap();
    let text = std::str::from_utf8(&text).unwrap();
    assert_eq!(text.matches(": keep-alive\n").count(), 3, "{text}");
    assert_eq!(names(&parse(text)), ["cancelled"]);
}
