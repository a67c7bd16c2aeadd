//! Queen, hive and worker are killed in the middle of their work, again and again: what was accepted ends, once.
//!
//! `RBEE_E2E_KILLS=200` kills more often.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::{House, LONG, events, eventually, is_alive, operation, signal, within};
use operations_contract::{ErrorCode, JobEvent, JobResponse, JobState};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Kills where nothing else is asked for: about a minute on two processors.
const KILLS: u32 = 20;
/// A job ends when so many attempts have lost their worker.
const CRASHES: usize = 3;
/// The hive that is a process of its own, as on another machine.
const OTHER: &str = "other";

/// A sequence that looks random and repeats: Knuth's linear congruential generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit as u64) as usize
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
        (own && is_alive(pid)).then_some((pid, line))
    };
    pids.filter_map(of_this_house).collect()
}

/// The workers of this house: process and id.
fn workers(house: &House) -> Vec<(i32, String)> {
    let id = |line: &str| line.split_once("--worker-id ").map(|(_, rest)| rest.split(' ').next().unwrap().to_owned());
    processes(house).into_iter().filter_map(|(pid, line)| Some((pid, id(&line)?))).collect()
}

/// What a job's log tells of its attempts.
#[derive(Debug, Default)]
struct Told {
    /// The workers that it lost.
    lost: Vec<String>,
    /// How often a worker began.
    begun: u32,
}

/// Reads a job's log, which has to make sense: ids rise, one event is the last, and between two beginnings an attempt failed,
/// which the log gives a reason for.
fn told(id: &str, events: &[(u64, JobEvent)]) -> Told {
    let ids: Vec<u64> = events.iter().map(|(id, _)| *id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{id}: {ids:?}");
    assert_eq!(events.iter().filter(|(_, event)| event.is_terminal()).count(), 1, "{id}: {events:?}");
    let lost_worker = |text: &str| {
        let rest = text.split_once("the worker ")?.1;
        let (worker, rest) = rest.split_once(' ')?;
        rest.contains("was lost").then(|| worker.to_owned())
    };
    let mut told = Told::default();
    let (mut begun, mut failed) = (false, false);
    for (_, event) in events {
        match event {
            JobEvent::Started { attempt, .. } => {
                assert!(!begun, "{id} began twice: {events:#?}");
                begun = true;
                told.begun += 1;
                assert!(*attempt >= told.begun, "{id}: an attempt has the number of an earlier one: {events:#?}");
            }
            JobEvent::Narration { target, message, .. } if target == "queen" => {
                failed = true;
                if message.contains("; trying again in ") {
                    told.lost.push(lost_worker(message).unwrap_or_else(|| panic!("{id}: {message}")));
                }
            }
            JobEvent::Queued { .. } => {
                assert!(failed || !begun, "{id} went back for no reason: {events:#?}");
                (begun, failed) = (false, false);
            }
            JobEvent::Error { message, .. } => told.lost.extend(lost_worker(message)),
            _ => {}
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_ends_once_whoever_is_killed() {
    let kills = std::env::var("RBEE_E2E_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let house = House::with_queen();
    let token = house.invited();
    let mut other = house.joined(OTHER, &token);
    eventually("the other hive joins", || house.hives().contains(&OTHER.to_owned()).then_some(()));
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
    let mut dice = Dice(7);
    let mut jobs = Vec::new();
    // One who listens from the beginning on, through every death of the queen.
    let listened = accepted(&house, &http, "listened", &image(2, None)).await;
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
    let mut killed_workers = HashSet::new();
    let mut deaths = [0; 3];
    for round in 0..kills {
        for i in 0..2 {
            let body = image(2 + dice.below(12), (dice.below(3) == 0).then_some(OTHER));
            jobs.push(accepted(&house, &http, &format!("{round}-{i}"), &body).await);
        }
        tokio::time::sleep(Duration::from_millis(dice.below(900) as u64)).await;
        let workers = workers(&house);
        match dice.below(3) {
            0 if !workers.is_empty() => {
                let (pid, id) = &workers[dice.below(workers.len())];
                if is_alive(*pid) {
                    signal(*pid, Signal::KILL);
                    killed_workers.insert(id.clone());
                    deaths[0] += 1;
                }
            }
            1 => {
                other.0.kill().unwrap();
                other.0.wait().unwrap();
                other = house.joined(OTHER, &token);
                deaths[1] += 1;
            }
            _ => {
                signal(house.queen_pid(), Signal::KILL);
                let up = house.rbee(&["up"]).output().unwrap();
                assert!(up.status.success(), "{}", common::stderr(&up));
                deaths[2] += 1;
            }
        }
    }

    let client = house.queen();
    let mut lost = Vec::new();
    let mut given_up = 0;
    for id in &jobs {
        let events = events(&client, id).await;
        let told = told(id, &events);
        match &events.last().unwrap().1 {
            JobEvent::Complete(_) => assert!(told.lost.len() < CRASHES && told.begun > 0, "{id}: {events:#?}"),
            JobEvent::Error { code: ErrorCode::WorkerCrashed, .. } => {
                assert_eq!(told.lost.len(), CRASHES, "{id} was given up too soon: {events:#?}");
                given_up += 1;
            }
            other => panic!("{id}: {other:?}"),
        }
        lost.extend(told.lost);
    }
    // What a dying queen or hive took along was not counted, and no death was counted twice.
    for (i, worker) in lost.iter().enumerate() {
        assert!(killed_workers.contains(worker), "{worker} was counted and not killed by itself");
        assert!(!lost[..i].contains(worker), "{worker} was counted twice");
    }
    let [workers, hives, queens] = deaths;
    println!(
        "{} jobs; {workers} workers, {hives} hives, {queens} queens killed; {} attempts lost their worker, {given_up} jobs three",
        jobs.len(),
        lost.len(),
    );
    let heard = within(listening).await.unwrap();
    assert_eq!(heard, events(&client, &listened).await, "a listener who comes back misses nothing");
    let known = client.jobs(None, Some(1000)).await.unwrap().jobs;
    let painted = known.iter().filter(|job| job.operation == "image_generation").count();
    assert_eq!(painted, jobs.len(), "a request that was repeated is one job");
    assert!(client.jobs(Some(JobState::Running), None).await.unwrap().jobs.is_empty());

    drop(other);
    house.run(&["down"]);
    // A worker dies a moment after its hive.
    eventually("no process is left", || processes(&house).is_empty().then_some(()));
}

fn image(steps: usize, hive_id: Option<&str>) -> Value {
    let body = json!({
        "operation": "image_generation", "prompt": "a red circle on a blue background", "steps": steps, "seed": 7,
        "scheduler": "ddim", "hive_id": hive_id,
    });
    // It is one that the queen takes.
    operation(body.clone());
    body
}
