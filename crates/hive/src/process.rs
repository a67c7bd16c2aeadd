use crate::HiveError;
use crate::hive::{Callback, Shared};
use crate::program::WorkerProgram;
use crate::worker::{End, Phase, Worker, WorkerSpec};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::process::{Child, Command};

/// The environment variable by which a worker learns whose child it is: it asks the system to die with that process.
pub const PARENT_VARIABLE: &str = "RBEE_PARENT_PID";
/// What is meant for the daemon, or for one worker alone, is not meant for all of its workers.
const NOT_INHERITED: [&str; 11] = [
    "RBEE_ESTIMATE",
    "RBEE_PORT",
    "RBEE_BIND",
    "RBEE_API_KEY",
    "RBEE_ALLOW_ORIGIN",
    "RBEE_MODEL",
    "RBEE_SD_VERSION",
    "RBEE_WORKER_ID",
    "RBEE_CALLBACK_URL",
    "RBEE_CALLBACK_KEY",
    "RBEE_DEVICE",
];
/// How often a thread of OpenMP, on which llama.cpp computes, looks for work before it sleeps. By default that is so often that it
/// keeps a core from those who pass on what was computed; this bridges the moment between two tokens.
const SPIN: (&str, &str) = ("GOMP_SPINCOUNT", "20000");
/// A worker drains for ten seconds; what lives longer than that is killed.
const GRACE: Duration = Duration::from_secs(12);
/// Reading the largest models from a slow disk takes minutes; what takes longer hangs.
const LOADING: Duration = Duration::from_secs(15 * 60);

/// The whole life of one spawned worker: this task alone owns the process, so that no signal ever goes to a pid that
/// belongs to somebody else by now.
pub(crate) async fn supervise(
    shared: Arc<Shared>,
    worker: Arc<Worker>,
    spec: WorkerSpec,
    program: WorkerProgram,
    callback: Option<Callback>,
) {
    let pause = shared.backoff().pause(&worker.model);
    let stopped_early = tokio::select! {
        () = tokio::time::sleep(pause) => false,
        () = worker.stop.notified() => true,
    };
    let nothing = |how: String, asked| End { how, last_words: String::new(), asked, exited: true };
    if stopped_early {
        return shared.ended(&worker, nothing("it was stopped before it started".to_owned(), true));
    }
    let spawned = match command(&worker, &spec, &program, callback.as_ref()) {
        Ok(command) => shared.spawner.spawn(command).await,
        Err(error) => Err(error),
    };
    let mut child = match spawned {
        Ok(child) => child,
        Err(source) => {
            let error = HiveError::Spawn { program: program.program, source };
            return shared.ended(&worker, nothing(error.to_string(), false));
        }
    };
    worker.pid.store(child.id().unwrap_or(0), Ordering::Release);
    if let Some(pid) = child.id() {
        shared.ledger.write(&worker.id, pid);
    }
    tracing::info!(worker = worker.id, pid = child.id(), model = worker.model, "a worker was spawned");

    let too_slow = async {
        tokio::time::sleep(LOADING).await;
        if !matches!(*worker.phase.borrow(), Phase::Starting) {
            std::future::pending::<()>().await;
        }
    };
    let (status, asked) = tokio::select! {
        status = child.wait() => (status, false),
        () = worker.stop.notified() => (stop(&mut child).await, true),
        () = too_slow => {
            let log = shared.config.data_dir.worker_log(&worker.id);
            let error = HiveError::TooSlow { model: worker.model.clone(), seconds: LOADING.as_secs(), log };
            let _ = child.kill().await;
            shared.ledger.remove(&worker.id);
            return shared.ended(&worker, nothing(error.to_string(), false));
        }
    };
    let last_words = worker.log.as_deref().map(last_words).unwrap_or_default();
    shared.ledger.remove(&worker.id);
    shared.ended(&worker, End::of_process(status, asked, last_words));
}

fn command(
    worker: &Worker,
    spec: &WorkerSpec,
    program: &WorkerProgram,
    callback: Option<&Callback>,
) -> io::Result<Command> {
    let mut command = begun(spec, program);
    command.args(["--worker-id", &worker.id]);
    if let Some(callback) = callback {
        command.args(["--callback-url", &callback.url]);
    }
    if let Some(port) = spec.port {
        command.args(["--port", &port.to_string()]);
    }
    // Not among the arguments, which everybody on the machine can read.
    if let Some(key) = callback.and_then(|callback| callback.key.as_ref()) {
        command.env("RBEE_CALLBACK_KEY", key);
    }
    command.env(PARENT_VARIABLE, std::process::id().to_string());
    if let Some(path) = &worker.log {
        let log = File::options().create(true).append(true).open(path)?;
        command.stdout(log.try_clone()?).stderr(log);
    }
    // Ctrl-C in a terminal goes to its whole process group; workers are stopped by their hive, in its order.
    #[cfg(unix)]
    command.process_group(0);
    Ok(command)
}

/// Its program, asked what a worker would take of memory.
pub(crate) fn estimating(spec: &WorkerSpec, program: &WorkerProgram) -> Command {
    let mut command = begun(spec, program);
    command.arg("--estimate");
    command
}

/// What every call of a worker's program has.
fn begun(spec: &WorkerSpec, program: &WorkerProgram) -> Command {
    let mut command = Command::new(&program.program);
    command.args(&program.arguments);
    if let Some(files) = spec.model.files() {
        command.arg("--model").arg(files);
    }
    if spec.device != 0 {
        command.args(["--device", &spec.device.to_string()]);
    }
    command.args(&spec.flags);
    for variable in NOT_INHERITED {
        command.env_remove(variable);
    }
    if std::env::var_os(SPIN.0).is_none() {
        command.env(SPIN.0, SPIN.1);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Asks, waits, insists.
async fn stop(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    #[cfg(unix)]
    if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
        // Not reaped yet, so the pid is still its own.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
            return status;
        }
    }
    child.start_kill()?;
    child.wait().await
}

/// The last lines of a log, on one line, without what colours them and without when and where they were said.
pub fn last_words(log: &Path) -> String {
    const BYTES: u64 = 64 * 1024;
    const LINES: usize = 3;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = fs::metadata(log)?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = without_escapes(&String::from_utf8_lossy(&bytes));
    // Who asks for backtraces (`RUST_BACKTRACE`) finds them in the log; the reason stands before.
    let is_backtrace = |line: &str| line.trim().eq_ignore_ascii_case("stack backtrace:");
    let reason = text.lines().collect::<Vec<_>>();
    let end = reason.iter().rposition(|line| is_backtrace(line)).unwrap_or(reason.len());
    let lines: Vec<&str> = reason[..end].iter().copied().filter_map(message).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

/// `2026-01-01T00:00:00.000000Z ERROR crate::module: message` → `message`; of what a worker logs, only warnings and
/// errors may be a reason for its end.
fn message(line: &str) -> Option<&str> {
    let line = line.trim();
    let Some((time, rest)) = line.split_once(' ') else { return Some(line) };
    if !(time.starts_with(|char: char| char.is_ascii_digit()) && time.ends_with('Z') && time.contains('T')) {
        return Some(line);
    }
    let Some((level, rest)) = rest.trim_start().split_once(' ') else { return Some(line) };
    let message = rest.split_once(": ").map_or(rest, |(_, message)| message);
    matches!(level, "ERROR" | "WARN").then_some(message)
}

fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\x1b' {
            // A control sequence ends with a letter.
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else if char == '\n' || !char.is_control() {
            plain.push(char);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_plain_and_short() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, format!("{}\n\x1b[31mERROR\x1b[0m one\n\n two \nthree\n", "x".repeat(100_000))).unwrap();
        assert_eq!(last_words(&log), "ERROR one | two | three");
        fs::write(&log, "Error: no device\n\nStack backtrace:\n   0: main\n   1: _start\n").unwrap();
        assert_eq!(last_words(&log), "Error: no device");
        assert_eq!(last_words(&folder.path().join("none")), "");
        let line = |level: &str| format!("2026-01-01T00:00:00.123456Z {level} worker_engine::engine: no model: x");
        assert_eq!(message(&line("ERROR")), Some("no model: x"));
        assert_eq!(message(&line(" WARN")), Some("no model: x"));
        assert_eq!(message(&line(" INFO")), None);
        assert_eq!(message("thread 'main' panicked: x"), Some("thread 'main' panicked: x"));
    }
}
