//! A worker that somebody starts by hand: each flag does what it says or is refused with the reason.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::{Foreground, House, events, eventually, free_port, names, quick, signal, slow};
use cpu_kernels::Precision;
use job_server::client::Client;
use operations_contract::{Completion, ErrorCode, JobEvent};
use rustix::process::Signal;
use serde_json::json;
use std::process::{Command, Stdio};

fn worker(house: &House, flags: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = house.rbee(&[&["worker", "sd"], flags].concat());
    command.envs(variables.iter().copied());
    command
}

/// Starts one that is to serve, and waits until it does.
fn serving(house: &House, flags: &[&str], variables: &[(&str, &str)]) -> (Foreground, Client) {
    let port = free_port();
    let mut command = worker(house, &[flags, &["--port", &port.to_string()]].concat(), variables);
    let log = std::fs::File::create(house.work().join("worker.log")).unwrap();
    let process = Foreground(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let client = Client::new(&format!("127.0.0.1:{port}")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    eventually("the worker serves", || runtime.block_on(client.ready()).ok());
    (process, client)
}

/// What a worker says that does not start.
#[track_caller]
fn last_words(mut command: Command) -> String {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = Foreground(child);
    let status = eventually("the worker ends", || child.0.try_wait().unwrap());
    let said = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    assert!(!status.success(), "{said}");
    said
}

/// A flag and its variable come to the same: the worker does not start, and says why.
#[track_caller]
fn refused(house: &House, flag: &str, value: Option<&str>, reason: &str) {
    let name = flag.trim_start_matches('-').replace('-', "_").to_uppercase();
    let flags: Vec<&str> = std::iter::once(flag).chain(value).collect();
    // A model that is not here is not fetched from elsewhere.
    let offline = ("RBEE_OFFLINE", "1");
    let variable = (&*format!("RBEE_{name}"), value.unwrap_or("1"));
    for command in [worker(house, &flags, &[offline]), worker(house, &[], &[offline, variable])] {
        let said = last_words(command);
        assert!(said.contains(reason), "{flag}: {said}");
    }
}

#[test]
fn a_flag_that_cannot_be_followed_is_refused_with_the_reason_and_so_is_its_variable() {
    let house = House::new();
    refused(&house, "--worker-id", Some("a/b"), "letters, digits");
    refused(&house, "--model", Some("/nowhere"), "/nowhere: no such folder");
    refused(&house, "--model", Some("sd-1.5"), "--offline forbids");
    refused(&house, "--sd-version", Some("v1-5"), "--offline forbids");
    refused(&house, "--sd-version", Some("v3"), "v1-5-inpaint");
    refused(&house, "--port", Some("70000"), "70000");
    refused(&house, "--bind", Some("0.0.0.0"), "set an API key");
    refused(&house, "--bind", Some("nowhere"), "not an IP address");
    refused(&house, "--threads", Some("0"), "--threads");
    refused(&house, "--precision", Some("f64"), "f32, f16, bf16");
    refused(&house, "--precision", Some("f16"), "a CPU computes in f32");
    refused(&house, "--use-f16", None, "a CPU computes in f32");
    refused(&house, "--device", Some("1"), "there is one CPU");
    let said = last_words(worker(&house, &["--use-f16", "--precision", "bf16"], &[]));
    assert!(said.contains("--use-f16 contradicts --precision"), "{said}");
    for variable in ["RBEE_LOW_MEMORY", "RBEE_USE_F16", "RBEE_USE_FLASH_ATTN", "RBEE_OFFLINE"] {
        let said = last_words(worker(&house, &[], &[(variable, "maybe")]));
        assert!(said.contains("not a boolean"), "{variable}: {said}");
    }
}

/// What is said is what is computed in: `f32` too where that is faster. A processor without it refuses.
#[test]
fn bf16_is_used_where_it_is_faster() {
    let house = House::new();
    if !Precision::Bf16.is_available() {
        refused(&house, "--precision", Some("bf16"), "it cannot multiply in bf16");
        return;
    }
    let (_process, client) = serving(&house, &["--precision", "bf16"], &[]);
    let info = tokio::runtime::Runtime::new().unwrap().block_on(client.info()).unwrap();
    let expected = if Precision::Bf16.fastest() == Precision::Bf16 { "bf16" } else { "f32" };
    assert_eq!(info.model.unwrap().precision.as_deref(), Some(expected));
}

#[test]
fn variables_do_what_their_flags_do() {
    let house = House::new();
    let variables = [
        ("RBEE_WORKER_ID", "by-variable"),
        ("RBEE_MODEL", "tiny-scenes"),
        ("RBEE_THREADS", "1"),
        ("RBEE_PRECISION", "f32"),
        ("RBEE_DEVICE", "0"),
        ("RBEE_LOW_MEMORY", "1"),
        ("RBEE_USE_F16", "0"),
        ("RBEE_USE_FLASH_ATTN", "yes"),
        ("RBEE_OFFLINE", "on"),
        // Nobody listens there: a warning.
        ("RBEE_CALLBACK_URL", "http://127.0.0.1:1"),
        ("RBEE_LOG", "debug"),
    ];
    let (_process, client) = serving(&house, &[], &variables);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let info = runtime.block_on(client.info()).unwrap();
    assert_eq!((info.worker_id.as_deref(), info.threads), (Some("by-variable"), Some(1)));
    let device = info.device.unwrap();
    assert_eq!((&*device.kind, device.index), ("cpu", 0));
    assert!(device.name.unwrap().ends_with(')'), "the maker's name and the instruction set");
    let model = info.model.unwrap();
    assert_eq!((&*model.name, model.width, model.height), ("tiny-scenes", Some(128), Some(128)));
    let events = runtime.block_on(async {
        let id = client.create_job(&quick("x")).await.unwrap().job_id;
        events(&client, &id).await
    });
    assert_eq!(names(&events).last(), Some(&"complete"));
    let log = || std::fs::read_to_string(house.work().join("worker.log")).unwrap();
    eventually("the hive that is not there is told of", || log().contains("127.0.0.1:1").then_some(()));
}

#[test]
fn a_version_that_contradicts_the_files_is_an_error_that_every_request_is_told() {
    let house = House::new();
    let port = free_port();
    let flags = ["--model", "tiny-scenes", "--sd-version", "xl", "--port", &port.to_string()];
    let mut command = worker(&house, &flags, &[]);
    let _process = Foreground(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let client = Client::new(&format!("127.0.0.1:{port}")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = eventually("the model is refused", || {
        let error = runtime.block_on(client.create_job(&quick("x"))).err()?.refusal()?.clone();
        (error.code == ErrorCode::Unavailable).then_some(error)
    });
    assert!(error.message.contains("--sd-version xl contradicts tiny-scenes"), "{error}");
    assert!(error.message.contains("StableDiffusionPipeline"), "{error}");
}

#[test]
fn a_running_job_gets_ten_seconds_after_sigterm_and_then_an_event_that_says_so() {
    let house = House::new();
    let (mut process, client) = serving(&house, &[], &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let running = client.create_job(&slow()).await.unwrap().job_id;
        let waiting = client.create_job(&quick("x")).await.unwrap().job_id;
        let mut first = client.events(&running, 0);
        while !matches!(first.next().await.unwrap().unwrap().1, JobEvent::Progress { step: 1.., total: 2.., .. }) {}
        let began = std::time::Instant::now();
        signal(process.0.id() as i32, Signal::TERM);
        let (waited, ran) = tokio::join!(events(&client, &waiting), events(&client, &running));
        assert!(began.elapsed().as_secs_f64() > 9.0, "{:?}", began.elapsed());
        for events in [waited, ran] {
            let Some((_, JobEvent::Error { code, message, .. })) = events.last() else { panic!("{:?}", events.last()) };
            assert_eq!(*code, ErrorCode::ShuttingDown, "{message}");
            assert_eq!(events.iter().filter(|(_, event)| event.is_terminal()).count(), 1);
        }
    });
    assert!(process.0.wait().unwrap().success());
}

#[tokio::test]
async fn a_hive_with_a_key_hears_of_the_workers_that_it_starts() {
    let house = House::new();
    let port = free_port();
    let mut command = house.rbee(&["hive", "--port", &port.to_string()]);
    // What is meant for one worker, or for the hive alone, reaches no worker that it starts.
    let variables = [("RBEE_API_KEY", "secret"), ("RBEE_SD_VERSION", "xl"), ("RBEE_MODEL", "/nowhere")];
    command.envs(variables).stdout(Stdio::null()).stderr(Stdio::null());
    let mut hive = Foreground(command.spawn().unwrap());
    let client = Client::new(&format!("127.0.0.1:{port}")).unwrap().with_key(Some("secret".to_owned()));
    while client.ready().await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let spawn = json!({"operation": "worker_spawn", "model": "tiny-scenes", "worker": "cpu"});
    let id = client.create_job(&common::operation(spawn)).await.unwrap().job_id;
    let (_, last) = events(&client, &id).await.pop().unwrap();
    let JobEvent::Complete(Completion::Result { result }) = last else { panic!("{last:?}") };
    assert_eq!(result["worker"]["state"], "idle", "{result}");
    signal(hive.0.id() as i32, Signal::TERM);
    assert!(hive.0.wait().unwrap().success());
}
