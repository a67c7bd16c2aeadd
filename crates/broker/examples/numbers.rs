//! Measures what `docs/reliability.md` says of the broker: `cargo run --release -p broker --example numbers`.
//!
//! The database is made under `target/`, on the disk that a checkout lies on, or in the folder that is given.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints, and ends where something fails")]

use broker::{
    AttemptId, Broker, ClaimRequest, HiveRecord, NewJob, Offer, SqliteBroker, SqliteOptions, StoredOperation, Want,
    WorkKind, WorkSource,
};
use futures_util::StreamExt as _;
use operations_contract::{ImageGenerationRequest, JobEvent, Operation};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;

const RUN: Duration = Duration::from_secs(4);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let base = std::env::args().nth(1).unwrap_or_else(|| "target".to_owned());
    let folder = || TempDir::new_in(&base).unwrap();
    for submitters in [1, 8, 64] {
        admission(&folder(), submitters).await;
    }
    reopening(&folder()).await;
    claiming(&folder()).await;
    appending(&folder(), 1).await;
    appending(&folder(), 8).await;
    for listeners in [1, 1000] {
        listening(&folder(), listeners).await;
    }
}

async fn open(folder: &TempDir) -> Arc<SqliteBroker> {
    let options = SqliteOptions { limit: 1_000_000, ..SqliteOptions::default() };
    Arc::new(SqliteBroker::open(folder.path(), options).await.unwrap())
}

async fn admission(folder: &TempDir, submitters: usize) {
    let broker = open(folder).await;
    let (count, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..submitters {
        let (broker, count) = (broker.clone(), count.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < RUN {
                let asked = Instant::now();
                broker.submit(job()).await.unwrap();
                times.push(asked.elapsed());
                count.fetch_add(1, Ordering::Relaxed);
            }
            times
        });
    }
    let times: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    let rate = count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    println!("admitted, {submitters:2} submitters: {rate:7.0} jobs/s, each {}", spread(times));
}

async fn reopening(folder: &TempDir) {
    const JOBS: usize = 10_000;
    let broker = open(folder).await;
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let broker = broker.clone();
        tasks.spawn(async move {
            for _ in 0..JOBS.div_ceil(64) {
                broker.submit(job()).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    drop(broker);
    let begun = Instant::now();
    let broker = open(folder).await;
    let opened = begun.elapsed();
    enlist(&broker).await;
    assert!(claim(&broker).await.is_some());
    let claimed = begun.elapsed();
    let queued = broker.counts().await.unwrap().queued + 1;
    println!("opened again with {queued} queued jobs: {}, first claim after {}", ms(opened), ms(claimed));
}

async fn claiming(folder: &TempDir) {
    let broker = open(folder).await;
    enlist(&broker).await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let claiming = {
            let broker = broker.clone();
            tokio::spawn(async move {
                let claim = claim(&broker).await.unwrap();
                (Instant::now(), claim.attempt)
            })
        };
        tokio::time::sleep(Duration::from_millis(2)).await;
        let asked = Instant::now();
        broker.submit(job()).await.unwrap();
        let (claimed, attempt) = claiming.await.unwrap();
        times.push(claimed.saturating_duration_since(asked));
        broker.finish(&attempt, broker::Ending::Cancelled).await.unwrap();
    }
    println!("from submit to the claim of a hive that waits: {}", spread(times));
}

async fn appending(folder: &TempDir, holders: usize) {
    let broker = open(folder).await;
    enlist(&broker).await;
    let (count, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..holders {
        let attempt = begin(&broker).await;
        let (broker, count) = (broker.clone(), count.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            for number in 1.. {
                let asked = Instant::now();
                broker.append(&attempt, number, vec![step(number)]).await.unwrap();
                times.push(asked.elapsed());
                count.fetch_add(1, Ordering::Relaxed);
                if begun.elapsed() > RUN {
                    break;
                }
            }
            times
        });
    }
    let times: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    let rate = count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    println!("appended, {holders} jobs at once: {rate:7.0} events/s, each {}", spread(times));
}

async fn listening(folder: &TempDir, listeners: usize) {
    const EVENTS: u64 = 50;
    let broker = open(folder).await;
    enlist(&broker).await;
    let attempt = begin(&broker).await;
    let zero = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..listeners {
        let mut events = broker.watch(&attempt.job_id, 1).await.unwrap();
        tasks.spawn(async move {
            let mut heard = Vec::new();
            while let Some(event) = events.next().await {
                let (_, event) = event.unwrap();
                if let JobEvent::Progress { step, .. } = &*event {
                    // The step is the time at which it was sent.
                    heard.push(zero.elapsed().saturating_sub(Duration::from_micros(*step)));
                }
            }
            heard
        });
    }
    for number in 1..=EVENTS {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = u64::try_from(zero.elapsed().as_micros()).unwrap();
        broker.append(&attempt, number, vec![step(now)]).await.unwrap();
    }
    broker.finish(&attempt, broker::Ending::Cancelled).await.unwrap();
    let heard: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(heard.len(), listeners * usize::try_from(EVENTS).unwrap());
    println!("from append to each of {listeners:4} listeners: {}", spread(heard));
}

async fn begin(broker: &SqliteBroker) -> AttemptId {
    broker.submit(job()).await.unwrap();
    claim(broker).await.unwrap().attempt
}

async fn claim(broker: &SqliteBroker) -> Option<broker::Claim> {
    let any = Offer::LoadAny { kind: WorkKind::Image, except: Vec::new() };
    broker.claim(ClaimRequest::new("h", 1, vec![any], Duration::from_secs(10))).await.unwrap()
}

async fn enlist(broker: &SqliteBroker) {
    let hive = HiveRecord {
        hive_id: "h".to_owned(),
        incarnation: 1,
        url: None,
        version: String::new(),
        workers: Vec::new(),
        models: Vec::new(),
        kinds: vec![WorkKind::Image],
        devices: serde_json::Value::Null,
    };
    broker.enlist(hive, Duration::from_secs(600)).await.unwrap();
}

fn job() -> NewJob {
    let prompt = "a beautiful sunset over mountains".to_owned();
    let operation: Operation = ImageGenerationRequest { prompt, seed: Some(7), ..Default::default() }.into();
    let stored: StoredOperation = serde_json::from_value(serde_json::json!({"operation": operation})).unwrap();
    NewJob::new(stored, Want::model(WorkKind::Image, "tiny-scenes"))
}

fn step(step: u64) -> JobEvent {
    JobEvent::Progress { step, total: 20, phase: None, eta_ms: Some(1000), bytes_per_second: None }
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| ms(times[((times.len() - 1) as f64 * part) as usize]);
    format!("p50 {}, p99 {}, most {}", at(0.5), at(0.99), at(1.0))
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
