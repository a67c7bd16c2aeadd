//! A house of its own for each test: folders, a free port, and processes that do not outlive it.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a helper that fails is a failed test")]

use job_server::client::Client;
use operations_contract::{JobEvent, Operation};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes, on a machine that is busy with other tests too.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// One machine: a home, a current folder and a port for its queen.
pub(crate) struct House {
    folder: TempDir,
    pub(crate) port: u16,
    /// Where `rbee` lies with other programs beside it.
    programs: Option<TempDir>,
}

impl House {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "work"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder, port: free_port(), programs: None }
    }

    /// A house whose `rbee` has these programs beside it, each by its name there.
    pub(crate) fn with_programs(programs: &[(&str, &str)]) -> Self {
        // In cargo's own folder, where a hard link can be made: programs with all their symbols are large.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for (name, program) in programs.iter().chain([&("rbee", env!("CARGO_BIN_EXE_rbee-e2e"))]) {
            std::fs::hard_link(program, folder.path().join(name)).unwrap();
        }
        let mut house = Self::new();
        house.programs = Some(folder);
        house
    }

    /// A house whose queen runs.
    pub(crate) fn with_queen() -> Self {
        let house = Self::new();
        let up = house.rbee(&["up"]).output().unwrap();
        assert!(up.status.success(), "{}", text(&up.stderr));
        house
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// The current folder of every command.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home().join(".local/share/rbee")
    }

    pub(crate) fn rbee(&self, arguments: &[&str]) -> Command {
        let beside = self.programs.as_ref().map(|folder| folder.path().join("rbee"));
        let mut command = Command::new(beside.unwrap_or_else(|| env!("CARGO_BIN_EXE_rbee-e2e").into()));
        for (variable, _) in std::env::vars() {
            if variable.starts_with("RBEE_") || variable.starts_with("XDG_") {
                command.env_remove(variable);
            }
        }
        command
            .args(arguments)
            .current_dir(self.work())
            .env("HOME", self.home())
            .env("RBEE_QUEEN_PORT", self.port.to_string())
            // Any free one: several tests run at once.
            .env("RBEE_HIVE_PORT", "0")
            // No test needs the network.
            .env("RBEE_OFFLINE", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that is to work, and returns its standard output.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.rbee(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a command that is to fail, and returns its exit code and what it said.
    #[track_caller]
    pub(crate) fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.rbee(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} worked: {}", text(&output.stdout));
        (output.status.code().unwrap(), text(&output.stderr))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn queen(&self) -> Client {
        Client::new(&self.url()).unwrap()
    }

    pub(crate) fn queen_pid(&self) -> i32 {
        let record = std::fs::read(self.data_dir().join("queen.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        record["pid"].as_i64().unwrap() as i32
    }

    /// A token for a hive on another machine.
    pub(crate) fn invited(&self) -> String {
        let invited: Value = serde_json::from_str(&self.run(&["hive", "invite", "--json"])).unwrap();
        invited["key"].as_str().unwrap().to_owned()
    }

    /// A hive that works for this house's queen, as on another machine.
    pub(crate) fn joined(&self, id: &str, token: &str) -> Foreground {
        let (url, data) = (self.url(), self.work().join(id));
        let arguments = ["hive", "--port", "0", "--hive-id", id, "--queen", &url, "--token", token, "--data-dir"];
        let mut command = self.rbee(&arguments);
        Foreground(command.arg(data).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// The ids of the hives that work for the queen.
    pub(crate) fn hives(&self) -> Vec<String> {
        let status: Value = serde_json::from_str(&self.run(&["status", "--json"])).unwrap();
        let hives = status["hives"].as_array().unwrap().iter();
        hives.map(|hive| hive["hive_id"].as_str().unwrap().to_owned()).collect()
    }

    /// The workers as `rbee status` tells them.
    pub(crate) fn workers(&self) -> Vec<Value> {
        let status: Value = serde_json::from_str(&self.run(&["status", "--json"])).unwrap();
        status["hives"][0]["workers"].as_array().cloned().unwrap_or_default()
    }

    /// The picture files in the current folder.
    pub(crate) fn pictures(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.work()).unwrap().map(|entry| entry.unwrap().path());
        let mut pictures: Vec<PathBuf> = entries.collect();
        pictures.sort();
        pictures
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // Also when a test has failed, and whatever state it left.
        let _ = self.rbee(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A process in the foreground that is killed at the end of a test.
pub(crate) struct Foreground(pub(crate) Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

/// Asks again until something is there.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Whether the process runs; one that is dead and not yet waited for does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

/// An operation that the embedded model does in a moment.
pub(crate) fn quick(prompt: &str) -> Operation {
    operation(json!({"operation": "image_generation", "prompt": prompt, "steps": 2, "seed": 7, "scheduler": "ddim"}))
}

/// An operation that takes many seconds, to be interrupted.
pub(crate) fn slow() -> Operation {
    operation(
        json!({"operation": "image_generation", "prompt": "a house", "steps": 150, "seed": 7, "count": 64, "scheduler": "ddim"}),
    )
}

pub(crate) fn operation(value: Value) -> Operation {
    Operation::from_value(value, |_| true).unwrap()
}

/// All events of a job, from the first to the last.
pub(crate) async fn events(client: &Client, job_id: &str) -> Vec<(u64, JobEvent)> {
    let mut stream = client.events(job_id, 0);
    let mut events = Vec::new();
    while let Some(event) = within(stream.next()).await.unwrap() {
        events.push(event);
    }
    events
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("it took too long")
}

pub(crate) fn names(events: &[(u64, JobEvent)]) -> Vec<&'static str> {
    events.iter().map(|(_, event)| event.name()).collect()
}

/// Red, green and blue of the whole picture and of its middle, from 0 to 255.
pub(crate) fn colours(file: &Path) -> ([f64; 3], [f64; 3]) {
    let picture = image::load_from_memory(&std::fs::read(file).unwrap()).unwrap().into_rgb8();
    let (width, height) = picture.dimensions();
    let mean = |xs: std::ops::Range<u32>, ys: std::ops::Range<u32>| {
        let mut sum = [0.0; 3];
        let mut count = 0.0;
        for (x, y) in ys.flat_map(|y| xs.clone().map(move |x| (x, y))) {
            for (sum, value) in sum.iter_mut().zip(picture.get_pixel(x, y).0) {
                *sum += f64::from(value);
            }
            count += 1.0;
        }
        sum.map(|sum| sum / count)
    };
    let middle = mean(width * 2 / 5..width * 3 / 5, height * 2 / 5..height * 3 / 5);
    let corner = mean(0..width / 8, 0..height / 8);
    (corner, middle)
}
