//! What a client of the API sees, also when processes die.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::{
    Foreground, House, events, eventually, free_port, is_alive, names, operation, quick, signal, slow, within,
};
use job_server::client::{Client, ClientError};
use operations_contract::{Completion, ErrorCode, JobEvent, JobState};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Stdio;

fn refusal(error: ClientError) -> operations_contract::ApiError {
    match error {
        ClientError::Refused(error) => error,
        other => panic!("no refusal: {other}"),
    }
}

fn worker_pid(house: &House) -> i32 {
    house.workers()[0]["pid"].as_i64().unwrap() as i32
}

/// Waits until the job paints.
async fn painting(client: &Client, job_id: &str) {
    let mut stream = client.events(job_id, 0);
    loop {
        let (_, event) = within(stream.next()).await.unwrap().expect("it runs on");
        assert!(!event.is_terminal(), "{event:?}");
        if matches!(event, JobEvent::Progress { step: 1.., total: 2.., .. }) {
            return;
        }
    }
}

#[tokio::test]
async fn every_listener_sees_every_event_also_afterwards() {
    let house = House::with_queen();
    let client = house.queen();
    let id = client.create_job(&quick("a tree")).await.unwrap().job_id;
    let (first, second) = tokio::join!(events(&client, &id), events(&client, &id));
    assert_eq!(first, second);
    assert_eq!(first, events(&client, &id).await, "a replay is the same");
    assert!(first.iter().map(|(id, _)| *id).eq(1..=first.len() as u64), "numbered from 1 without a gap");
    assert_eq!(names(&first)[0], "queued");
    assert_eq!(first.iter().filter(|(_, event)| event.is_terminal()).count(), 1);
    let started = first.iter().find_map(|(_, event)| match event {
        JobEvent::Started { attempt, worker_id, model } => Some((*attempt, worker_id.clone(), model.clone())),
        _ => None,
    });
    let worker = house.workers()[0]["worker_id"].as_str().unwrap().to_owned();
    assert_eq!(started, Some((1, Some(worker), Some("tiny-scenes".to_owned()))));

    let mut rest = client.events(&id, 2);
    assert_eq!(within(rest.next()).await.unwrap().map(|(id, _)| id), Some(3));
    let job = client.job(&id).await.unwrap();
    let Some(Completion::Image(result)) = job.result else { panic!("{job:?}") };
    assert_eq!(client.image(&id, 0).await.unwrap(), result.image.to_vec());
    assert_eq!(refusal(client.image(&id, 1).await.unwrap_err()).code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_job_is_cancelled_while_it_paints_and_while_it_waits() {
    let house = House::with_queen();
    let client = house.queen();
    let running = client.create_job(&slow()).await.unwrap().job_id;
    painting(&client, &running).await;
    let waiting = client.create_job(&quick("x")).await.unwrap().job_id;
    assert_eq!(client.job(&waiting).await.unwrap().position, Some(1));
    for id in [&waiting, &running] {
        client.cancel_job(id).await.unwrap();
        client.cancel_job(id).await.unwrap();
        let events = events(&client, id).await;
        assert_eq!(names(&events).last(), Some(&"cancelled"));
    }
    // The worker is free again.
    let next = client.create_job(&quick("x")).await.unwrap().job_id;
    assert_eq!(names(&events(&client, &next).await).last(), Some(&"complete"));
}

#[tokio::test]
async fn a_worker_that_is_killed_costs_an_attempt_and_not_the_job() {
    let house = House::with_queen();
    let client = house.queen();
    let long = operation(json!({
        "operation": "image_generation", "prompt": "a house", "steps": 60, "seed": 7, "scheduler": "ddim"
    }));
    let id = client.create_job(&long).await.unwrap().job_id;
    painting(&client, &id).await;
    let killed = worker_pid(&house);
    signal(killed, Signal::KILL);
    let events = events(&client, &id).await;
    let attempts: Vec<u32> = events
        .iter()
        .filter_map(|(_, event)| if let JobEvent::Started { attempt, .. } = event { Some(*attempt) } else { None })
        .collect();
    assert_eq!(attempts, [1, 2]);
    assert_eq!(events.iter().filter(|(_, event)| event.is_terminal()).count(), 1);
    assert_eq!(names(&events).last(), Some(&"complete"));
    assert_ne!(worker_pid(&house), killed);
}

#[tokio::test]
async fn a_job_whose_workers_all_die_is_given_up() {
    let house = House::with_queen();
    let client = house.queen();
    let id = client.create_job(&slow()).await.unwrap().job_id;
    let mut stream = client.events(&id, 0);
    let mut started = 0;
    let end = loop {
        let (_, event) = within(stream.next()).await.unwrap().expect("a last event");
        match event {
            JobEvent::Started { worker_id, .. } => {
                started += 1;
                let workers = house.workers();
                let worker = workers.iter().find(|worker| worker["worker_id"].as_str() == worker_id.as_deref());
                signal(worker.expect("it is known")["pid"].as_i64().unwrap() as i32, Signal::KILL);
            }
            event if event.is_terminal() => break event,
            _ => {}
        }
    };
    assert_eq!(started, 3);
    let JobEvent::Error { code, message, .. } = end else { panic!("{end:?}") };
    assert_eq!(code, ErrorCode::WorkerCrashed);
    assert!(message.contains("3 workers died") && message.contains("signal 9"), "{message}");
}

#[tokio::test]
async fn no_worker_outlives_a_queen_that_is_killed() {
    let house = House::with_queen();
    let client = house.queen();
    let id = client.create_job(&slow()).await.unwrap().job_id;
    painting(&client, &id).await;
    let (queen, worker) = (house.queen_pid(), worker_pid(&house));
    assert!(is_alive(worker));
    signal(queen, Signal::KILL);
    eventually("the worker ends with its hive", || (!is_alive(worker)).then_some(()));
    // What she left behind keeps nobody from starting the next one, who goes on with it.
    house.run(&["up"]);
    house.queen().cancel_job(&id).await.unwrap();
    house.run(&["image", "generate", "x", "--steps", "2", "--scheduler", "ddim"]);
    assert_ne!(house.queen_pid(), queen);
}

#[tokio::test]
async fn a_queen_that_is_stopped_ends_her_jobs_and_her_workers() {
    let house = House::with_queen();
    let client = house.queen();
    let running = client.create_job(&quick("x")).await.unwrap().job_id;
    assert_eq!(names(&events(&client, &running).await).last(), Some(&"complete"));
    let (queen, worker) = (house.queen_pid(), worker_pid(&house));
    house.run(&["down"]);
    assert!(!is_alive(queen) && !is_alive(worker));
    assert!(client.alive().await.is_err());
}

#[tokio::test]
async fn what_a_web_page_could_send_is_refused() {
    let house = House::with_queen();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = || http.post(format!("{}/v1/jobs", house.url())).body(r#"{"operation":"status"}"#);
    let json = "application/json";
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    assert_eq!(status(post().header("content-type", json)).await, 202);
    assert_eq!(status(post().header("content-type", json).header("host", "evil.example")).await, 403);
    assert_eq!(status(post().header("content-type", json).header("origin", "https://evil.example")).await, 403);
    assert_eq!(status(post().header("content-type", "text/plain")).await, 415);
}

#[tokio::test]
async fn wrong_requests_are_refused_with_field_and_status() {
    let house = House::with_queen();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let check = async |body: Value, status: u16, code: &str, param: Option<&str>| {
        let response = http.post(format!("{}/v1/jobs", house.url())).json(&body).send().await.unwrap();
        let got = response.status().as_u16();
        let error: Value = response.json().await.unwrap();
        assert_eq!(
            (got, error["error"]["code"].as_str(), error["error"]["param"].as_str()),
            (status, Some(code), param),
            "{body}: {error}"
        );
    };
    let image = |more: Value| {
        let mut body = json!({"operation": "image_generation", "prompt": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    check(image(json!({"width": 500})), 422, "invalid_request", Some("width")).await;
    check(image(json!({"scheduler": "magic"})), 422, "invalid_request", Some("scheduler")).await;
    check(image(json!({"widht": 512})), 400, "invalid_request", Some("widht")).await;
    check(image(json!({"model": "sdxl"})), 404, "model_not_found", Some("model")).await;
    check(image(json!({"model": "/nowhere"})), 404, "model_not_found", Some("model")).await;
    check(image(json!({"hive_id": "elsewhere"})), 404, "not_found", Some("hive_id")).await;
    check(json!({"operation": "model_get", "id": "nothing"}), 404, "model_not_found", Some("id")).await;
    check(json!({"operation": "model_download", "model": "nonsense"}), 404, "model_not_found", Some("model")).await;
    check(json!({"operation": "worker_process_get", "pid": 1}), 404, "not_found", Some("pid")).await;
    let transform = |file: &[u8]| {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(file);
        json!({"operation": "image_transform", "prompt": "x", "init_image": encoded})
    };
    check(transform(b"no picture"), 422, "invalid_request", Some("init_image")).await;
    check(transform(&bomb()), 422, "invalid_request", Some("init_image")).await;
}

/// 50,000 × 50,000 pixels in a file of a few hundred bytes.
fn bomb() -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 50_000, 50_000);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().unwrap();
    // The header alone is enough to refuse it.
    writer.write_chunk(png::chunk::IDAT, &[0; 100]).unwrap();
    drop(writer);
    file
}

#[tokio::test]
async fn a_broken_model_is_named_and_the_queen_lives_on() {
    let house = House::with_queen();
    let client = house.queen();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-scenes");
    let model = house.work().join("broken");
    copy(&source, &model);
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let length = std::fs::metadata(&weights).unwrap().len();
    std::fs::File::options().write(true).open(&weights).unwrap().set_len(length / 2).unwrap();

    let mut operation = json!({"operation": "image_generation", "prompt": "x", "steps": 2});
    operation["model"] = model.to_str().unwrap().into();
    let id = client.create_job(&operation).await.unwrap().job_id;
    let events = events(&client, &id).await;
    let Some((_, JobEvent::Error { code, message, .. })) = events.last() else { panic!("{events:?}") };
    assert_eq!(*code, ErrorCode::ModelLoadFailed);
    assert!(message.contains("diffusion_pytorch_model.safetensors"), "{message}");
    let id = client.create_job(&quick("x")).await.unwrap().job_id;
    assert_eq!(names(&common::events(&client, &id).await).last(), Some(&"complete"));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_worker_serves_alone_and_is_used_by_the_queen_when_it_calls_back() {
    let house = House::with_queen();
    let status: Value = serde_json::from_str(&house.run(&["status", "--json"])).unwrap();
    let hive = status["hives"][0]["url"].as_str().unwrap();
    let port = free_port();
    let arguments = ["worker", "sd", "--port", &port.to_string(), "--worker-id", "by-hand", "--callback-url", hive];
    let mut command = house.rbee(&arguments);
    let mut worker = Foreground(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());

    let alone = Client::new(&format!("127.0.0.1:{port}")).unwrap();
    eventually("the hive knows it", || (house.workers().len() == 1).then_some(()));
    let id = alone.create_job(&quick("x")).await.unwrap().job_id;
    assert_eq!(names(&events(&alone, &id).await).last(), Some(&"complete"));

    let through = house.queen();
    let id = through.create_job(&quick("x")).await.unwrap().job_id;
    assert_eq!(names(&events(&through, &id).await).last(), Some(&"complete"));
    assert_eq!(through.job(&id).await.unwrap().worker_id.as_deref(), Some("by-hand"));
    assert_eq!(house.workers().len(), 1, "no second worker was started for the same model");

    worker.0.kill().unwrap();
    worker.0.wait().unwrap();
    eventually("its end is noticed", || house.workers().is_empty().then_some(()));
}

#[tokio::test]
async fn workers_are_spawned_listed_and_stopped_by_the_hive() {
    let house = House::with_queen();
    let client = house.queen();
    let result = async |body: Value| {
        let id = client.create_job(&body).await.unwrap().job_id;
        let job = events(&client, &id).await.pop().unwrap().1;
        let JobEvent::Complete(Completion::Result { result }) = job else { panic!("{body}: {job:?}") };
        result
    };
    let spawned = result(
        json!({"operation": "worker_spawn", "model": "tiny-scenes", "worker": "cpu", "options": {"threads": 1}}),
    )
    .await;
    let pid = spawned["worker"]["pid"].as_u64().unwrap();
    let listed = result(json!({"operation": "worker_process_list"})).await;
    assert_eq!(listed["workers"][0]["pid"], pid);
    assert_eq!(result(json!({"operation": "worker_process_get", "pid": pid})).await["worker"]["state"], "idle");
    result(json!({"operation": "worker_process_delete", "pid": pid})).await;
    assert!(!is_alive(pid as i32));
    assert_eq!(result(json!({"operation": "hive_check"})).await["ok"], true);
    assert_eq!(result(json!({"operation": "queen_check"})).await["ok"], true);
    assert_eq!(client.jobs(Some(JobState::Complete), None).await.unwrap().jobs.len(), 6);
}
