//! A real worker process, and what it says.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use job_server::client::Client;
use operations_contract::{ApiError, Completion, Job, JobEvent, TextCompletion};
use serde_json::{Value, json};

/// Longer than anything here takes, on a machine that is busy with other tests too.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// A model whose weights are noise, made by `tools/llm/random_gguf.py`: what it says is nothing, how it says it is tested.
pub(crate) const RANDOM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/random.gguf");

/// A worker on a port of its own, which ends with the test.
pub(crate) struct Worker {
    process: Child,
    pub(crate) url: String,
}

/// What became of a text.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) tokens: Vec<String>,
    pub(crate) events: Vec<JobEvent>,
    pub(crate) completion: TextCompletion,
}

pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let program = match name {
        "cpu" => env!("CARGO_BIN_EXE_llm-worker-cpu"),
        "cuda" => env!("CARGO_BIN_EXE_llm-worker-cuda"),
        _ => env!("CARGO_BIN_EXE_llm-worker-metal"),
    };
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars() {
        if variable.starts_with("RBEE_") || variable.starts_with("HF_") {
            command.env_remove(variable);
        }
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Worker {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        // One thread each: many workers run at once here, and llama.cpp's threads wait for each other without sleeping.
        let mut command = program("cpu", &["--port", "0", "--threads", "1"]);
        command.args(arguments).envs(environment.iter().copied());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let url = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.split_once("listens on ").map(|(_, url)| url.trim().to_owned()))
            .expect("a worker says where it listens");
        // A pipe that nobody reads would stop it one day.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url).unwrap()
    }

    /// Waits until the model is loaded.
    pub(crate) async fn ready(&self) {
        let client = self.client();
        for _ in 0..LONG.as_millis() / 20 {
            if client.ready().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the worker at {} is never ready", self.url);
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().timeout(LONG).build().unwrap();
        let response = client.post(format!("{}{path}", self.url)).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(crate) async fn job(&self, id: &str) -> Job {
        self.client().job(id).await.unwrap()
    }

    /// Asks for a text; the job's id.
    pub(crate) async fn ask(&self, fields: Value) -> String {
        self.client().create_job(&infer(fields)).await.unwrap().job_id
    }

    pub(crate) async fn refusal(&self, operation: &Value) -> ApiError {
        self.client().create_job(operation).await.unwrap_err().refusal().unwrap().clone()
    }

    /// Follows a job to its end.
    pub(crate) async fn events(&self, id: &str) -> Vec<JobEvent> {
        let mut stream = self.client().events(id, 0);
        let mut events = Vec::new();
        while let Some((_, event)) = stream.next().await.unwrap() {
            events.push(event);
        }
        events
    }

    pub(crate) async fn told(&self, id: &str) -> Told {
        let events = self.events(id).await;
        let token = |event: &JobEvent| if let JobEvent::Token { t, .. } = event { Some(t.clone()) } else { None };
        let tokens = events.iter().filter_map(token).collect();
        let completion = match events.last() {
            Some(JobEvent::Complete(Completion::Text(completion))) => completion.clone(),
            other => panic!("{other:?}"),
        };
        Told { tokens, events, completion }
    }

    /// A text, to its end.
    pub(crate) async fn infer(&self, fields: Value) -> Told {
        self.told(&self.ask(fields).await).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn infer(mut fields: Value) -> Value {
    fields["operation"] = json!("infer");
    fields
}

/// A conversation of one question.
pub(crate) fn question(text: &str, mut fields: Value) -> Value {
    fields["messages"] = json!([{"role": "user", "content": text}]);
    fields
}
