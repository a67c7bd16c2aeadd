//! Queen, hive and worker are killed in the middle of their work, again and again: what was accepted ends, once.
//!
//! `RBEE_E2E_KILLS=200` kills more often.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::{House, LONG, events, operation, signal, within};
use operations_contract::{ErrorCode, JobEvent, JobResponse, JobState};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Kills where nothing else is asked for: about two minutes on two busy processors.
const KILLS: u32 = 20;

/// A sequence that looks random and repeats: Knuth's linear congruential generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Asks until the job is accepted, however often the queen dies over it; its key makes it one job.
async fn accepted(house: &House, http: &reqwest::Client, key: &str, body: &Value) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        let request = http.post(format!("{}/v1/jobs", house.url())).header("idempotency-key", key).json(body);
        match request.send().await {
            Ok(response) if response.status() == 202 => {
                if let Ok(response) = response.json::<JobResponse>().await {
                    return response.job_id;
                }
            }
            Ok(response) => assert_eq!(response.status(), 503, "{}", response.text().await.unwrap_or_default()),
            Err(_) => {}
        }
        assert!(Instant::now() < deadline, "{key} was never accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Programs of this house that run.
fn processes(house: &House) -> Vec<(i32, String)> {
    let home = format!("HOME={}", house.home().display());
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_this_house = |pid: i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let own = environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes());
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (own && common::is_alive(pid)).then_some((pid, line))
    };
    pids.filter_map(of_this_house).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_ends_once_whoever_is_killed() {
    let kills = std::env::var("RBEE_E2E_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let house = House::with_queen();
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
    let mut dice = Dice(7);
    let mut jobs = Vec::new();
    // One who listens from the beginning on, through every death of the queen.
    let listened = accepted(&house, &http, "listened", &image("a tree", 2)).await;
    let listener = house.queen();
    let listening = {
        let listened = listened.clone();
        let mut stream = listener.events(&listened, 0).with_patience(LONG);
        tokio::spawn(async move {
            let mut heard = Vec::new();
            while let Some(event) = stream.next().await.unwrap() {
                heard.push(event);
            }
            heard
        })
    };
    jobs.push(listened.clone());
    for round in 0..kills {
        for i in 0..2 {
            let body = image("a red circle on a blue background", 2 + dice.below(4));
            jobs.push(accepted(&house, &http, &format!("{round}-{i}"), &body).await);
        }
        tokio::time::sleep(Duration::from_millis(dice.below(700))).await;
        let worker = processes(&house).into_iter().find(|(_, line)| line.contains("worker sd"));
        match worker {
            Some((pid, _)) if dice.below(2) == 0 => signal(pid, Signal::KILL),
            _ => {
                signal(house.queen_pid(), Signal::KILL);
                let up = house.rbee(&["up"]).output().unwrap();
                assert!(up.status.success(), "{}", common::stderr(&up));
            }
        }
    }

    let client = house.queen();
    let mut crashed = 0;
    for id in &jobs {
        let events = events(&client, id).await;
        let ids: Vec<u64> = events.iter().map(|(id, _)| *id).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{id}: {ids:?}");
        assert_eq!(events.iter().filter(|(_, event)| event.is_terminal()).count(), 1, "{id}: {events:?}");
        match &events.last().unwrap().1 {
            JobEvent::Complete(_) => {}
            JobEvent::Error { code: ErrorCode::WorkerCrashed, .. } => crashed += 1,
            other => panic!("{id}: {other:?}"),
        }
        // Between two beginnings it went back to the queue, which only a failed attempt does.
        let mut begun = false;
        for (_, event) in &events {
            match event {
                JobEvent::Started { .. } => {
                    assert!(!begun, "{id} began twice: {events:?}");
                    begun = true;
                }
                JobEvent::Queued { .. } => begun = false,
                _ => {}
            }
        }
    }
    assert!(crashed * 3 <= kills, "{crashed} jobs were given up after {kills} kills");
    let heard = within(listening).await.unwrap();
    assert_eq!(heard, events(&client, &listened).await, "a listener who comes back misses nothing");
    let known = client.jobs(None, Some(1000)).await.unwrap().jobs;
    let painted = known.iter().filter(|job| job.operation == "image_generation").count();
    assert_eq!(painted, jobs.len(), "a request that was repeated is one job");
    assert!(client.jobs(Some(JobState::Running), None).await.unwrap().jobs.is_empty());

    house.run(&["down"]);
    let left = processes(&house);
    assert!(left.is_empty(), "{left:?}");
}

fn image(prompt: &str, steps: u64) -> Value {
    let body =
        json!({"operation": "image_generation", "prompt": prompt, "steps": steps, "seed": 7, "scheduler": "ddim"});
    // It is one that the queen takes.
    operation(body.clone());
    body
}
