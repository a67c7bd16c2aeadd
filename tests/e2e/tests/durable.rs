//! What outlives a queen, who may see what, and hives on other machines.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::{
    Foreground, House, events, eventually, free_port, is_alive, names, operation, quick, signal, slow, within,
};
use job_server::client::Client;
use operations_contract::{Completion, JobEvent, JobState};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test]
async fn jobs_wait_while_their_queen_is_down() {
    let house = House::with_queen();
    let client = house.queen();
    let done = client.create_job(&quick("a tree")).await.unwrap().job_id;
    let told = events(&client, &done).await;
    let running = client.create_job(&slow_enough()).await.unwrap().job_id;
    eventually("it runs", || house.run(&["job", "show", &running]).contains("worker").then_some(()));
    let waiting = client.create_job(&quick("a house")).await.unwrap().job_id;

    house.run(&["down"]);
    house.run(&["up"]);
    let client = house.queen();
    assert_eq!(events(&client, &done).await, told, "a finished job is as it was");
    assert!(client.image(&done, 0).await.unwrap().starts_with(b"\x89PNG"));
    for id in [&running, &waiting] {
        let events = events(&client, id).await;
        assert_eq!(names(&events).last(), Some(&"complete"), "{events:?}");
        assert_eq!(events.iter().filter(|(_, event)| event.is_terminal()).count(), 1);
    }
}

/// Long enough to be still at it when its queen is told to stop.
fn slow_enough() -> operations_contract::Operation {
    operation(json!({
        "operation": "image_generation", "prompt": "a house", "steps": 150, "seed": 7, "scheduler": "ddim"
    }))
}

#[tokio::test]
async fn a_job_is_seen_by_its_key_and_by_administrators() {
    let house = House::with_queen();
    let http = http();
    let url = house.url();
    let make = async |name: &str, admin: bool| {
        let body = json!({"name": name, "admin": admin});
        let response = http.post(format!("{url}/v1/keys")).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 201);
        response.json::<Value>().await.unwrap()["key"].as_str().unwrap().to_owned()
    };
    // Before there is a key, whatever a client sends is ignored.
    let dummy = http.get(format!("{url}/v1/jobs")).bearer_auth("sk-dummy").send().await.unwrap();
    assert_eq!(dummy.status(), 200);
    let (ada, bob, admin) = (make("ada", false).await, make("bob", false).await, make("root", true).await);
    let with = |key: &str| Client::new(&url).unwrap().with_key(Some(key.to_owned()));
    let id = with(&ada).create_job(&quick("x")).await.unwrap().job_id;
    let status = async |key: Option<&str>, path: &str| {
        let request = http.get(format!("{url}{path}"));
        let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
        request.send().await.unwrap().status().as_u16()
    };
    for path in ["", "/stream", "/explain", "/images/0"] {
        let path = format!("/v1/jobs/{id}{path}");
        within(events(&with(&ada), &id)).await;
        assert_eq!(status(Some(&ada), &path).await, 200, "{path}");
        assert_eq!(status(Some(&admin), &path).await, 200, "{path}");
        assert_eq!(status(Some(&bob), &path).await, 404, "{path}");
    }
    assert!(with(&bob).cancel_job(&id).await.is_err());
    assert_eq!(with(&bob).jobs(None, None).await.unwrap().jobs.len(), 0);
    assert_eq!(with(&ada).jobs(None, None).await.unwrap().jobs.len(), 1);
    assert_eq!(status(Some("rbee_nobody_0"), "/v1/jobs").await, 401);
    assert_eq!(status(Some(&bob), "/v1/keys").await, 403);

    let keys: Value = http.get(format!("{url}/v1/keys")).send().await.unwrap().json().await.unwrap();
    assert!(!keys.to_string().contains(&ada), "a secret is shown once");
    assert_eq!(http.delete(format!("{url}/v1/keys/ada")).send().await.unwrap().status(), 204);
    assert_eq!(status(Some(&ada), "/v1/jobs").await, 401);
}

#[tokio::test]
async fn other_machines_need_a_key() {
    let house = House::new();
    let (code, said) = house.fail(&["queen", "--bind", "0.0.0.0", "--port", "0"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("rbee key create"), "{said}");
    let port = free_port().to_string();
    let house = House::with_queen();
    let made = http().post(format!("{}/v1/keys", house.url())).json(&json!({"name": "a"})).send().await.unwrap();
    let key = made.json::<Value>().await.unwrap()["key"].as_str().unwrap().to_owned();
    house.run(&["down"]);
    let mut command = house.rbee(&["queen", "--bind", "0.0.0.0", "--port", &port]);
    let _queen = Foreground(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let jobs = format!("http://127.0.0.1:{port}/v1/jobs");
    let client = http();
    let mut answer = None;
    for _ in 0..200 {
        match client.get(&jobs).send().await {
            Ok(response) => {
                answer = Some(response.status().as_u16());
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    assert_eq!(answer, Some(401));
    assert_eq!(client.get(&jobs).bearer_auth(key).send().await.unwrap().status(), 200);
}

async fn result(client: &Client, body: Value) -> Value {
    let id = client.create_job(&body).await.unwrap().job_id;
    let last = events(client, &id).await.pop().unwrap().1;
    let JobEvent::Complete(Completion::Result { result }) = last else { panic!("{body}: {last:?}") };
    result
}

#[tokio::test]
async fn a_hive_on_another_machine_joins_works_and_comes_back() {
    let house = House::with_queen();
    let client = house.queen();
    let token = house.invited();
    // Once there is a key, what is brought must be right, and the token opens nothing else.
    http().post(format!("{}/v1/keys", house.url())).json(&json!({"name": "a"})).send().await.unwrap();
    let jobs = http().get(format!("{}/v1/jobs", house.url())).bearer_auth(&token).send().await.unwrap();
    assert_eq!(jobs.status(), 401);
    let mut hive = house.joined("other", &token);
    eventually("it joins", || house.hives().contains(&"other".to_owned()).then_some(()));

    let there = |steps: u64| {
        operation(json!({"operation": "image_generation", "prompt": "x", "steps": steps, "seed": 1, "hive_id": "other",
                         "scheduler": "ddim"}))
    };
    let id = client.create_job(&there(2)).await.unwrap().job_id;
    assert_eq!(names(&events(&client, &id).await).last(), Some(&"complete"));
    let workers = result(&client, json!({"operation": "worker_process_list", "hive_id": "other"})).await;
    let worker = workers["workers"][0].clone();
    assert_eq!(client.job(&id).await.unwrap().worker_id.as_deref(), worker["worker_id"].as_str());
    assert_eq!(result(&client, json!({"operation": "hive_check", "hive_id": "other"})).await["ok"], true);
    let (_, said) = house.fail(&["worker", "logs", worker["worker_id"].as_str().unwrap()]);
    assert!(said.contains("runs on the hive other") && said.contains("on that machine"), "{said}");
    let log = std::fs::read_to_string(worker["log"].as_str().unwrap()).unwrap();
    assert!(log.contains(&id), "{log}");

    let id = client.create_job(&there(150)).await.unwrap().job_id;
    eventually("it runs", || house.run(&["job", "show", &id]).contains("worker").then_some(()));
    signal(hive.0.id() as i32, Signal::KILL);
    hive.0.wait().unwrap();
    let pid = worker["pid"].as_i64().unwrap() as i32;
    eventually("its worker ends with it", || (!is_alive(pid)).then_some(()));
    let _again = house.joined("other", &token);
    let events = events(&client, &id).await;
    assert_eq!(names(&events).last(), Some(&"complete"), "{events:?}");
}

/// A worker may die while it has nothing to do. The job that comes then has not killed it.
#[tokio::test]
async fn a_worker_that_died_idle_counts_against_no_job() {
    let house = House::with_queen();
    let client = house.queen();
    for _ in 0..3 {
        let id = client.create_job(&quick("a tree")).await.unwrap().job_id;
        let told = events(&client, &id).await;
        assert_eq!(names(&told).last(), Some(&"complete"), "{told:?}");
        for (_, event) in &told {
            let counted =
                matches!(event, JobEvent::Narration { message, .. } if message.contains("; trying again in "));
            assert!(!counted, "{told:#?}");
        }
        let started = told.iter().find_map(|(_, event)| match event {
            JobEvent::Started { attempt, .. } => Some(*attempt),
            _ => None,
        });
        assert_eq!(started, Some(1));
        signal(house.workers()[0]["pid"].as_i64().unwrap() as i32, Signal::KILL);
    }
}

#[tokio::test]
async fn one_who_waits_is_told_why() {
    let house = House::with_queen();
    let client = house.queen();
    let explain = async |id: &str| -> Value {
        http().get(format!("{}/v1/jobs/{id}/explain", house.url())).send().await.unwrap().json().await.unwrap()
    };
    let running = client.create_job(&slow()).await.unwrap().job_id;
    eventually("it runs", || house.run(&["job", "show", &running]).contains("worker").then_some(()));
    let waiting = client.create_job(&quick("x")).await.unwrap().job_id;
    let why = explain(&waiting).await;
    assert!(why["reason"].as_str().unwrap().contains("is busy"), "{why}");
    assert_eq!(why["position"], 1);
    let worker = client.job(&running).await.unwrap().worker_id.unwrap();
    assert!(explain(&running).await["reason"].as_str().unwrap().contains(&worker));
    client.cancel_job(&running).await.unwrap();
    within(events(&client, &waiting)).await;
    assert_eq!(explain(&waiting).await["reason"], "it is complete");
    let log = http().get(format!("{}/v1/workers/{worker}/logs", house.url())).send().await.unwrap();
    let log = log.text().await.unwrap();
    assert!(log.contains("listens on"));
    for id in [&running, &waiting] {
        assert!(log.contains(&**id), "the worker's log knows the job by the queen's name for it: {log}");
    }
    assert_eq!(client.jobs(Some(JobState::Queued), None).await.unwrap().jobs.len(), 0);
}
