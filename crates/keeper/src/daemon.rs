//! The queen in the background: finding her, starting her once however many ask, stopping her.

use crate::cli;
use crate::failure::{Exit, Failure};
use job_server::client::Client;
use queen_rbee::QueenRecord;
use rbee_hive::{DataDir, last_words, own_executable};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A queen that is started in the background finds this set, and leaves the session of the terminal.
pub(crate) const DETACHED: &str = "RBEE_DETACHED";
/// What `info` calls a queen.
const QUEEN: &str = "queen-rbee";
/// Starting takes a moment; on a machine that is busy, a long one.
const STARTING: Duration = Duration::from_secs(60);
/// Running jobs get ten seconds, workers that do not stop twelve more.
const STOPPING: Duration = Duration::from_secs(40);
/// Another program may listen on the port and never answer.
const PROBE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// A log that has grown larger is put aside before the next queen writes.
const LOG_BYTES: u64 = 10 << 20;

/// The queen that is asked: the one that is named, or that of this machine, started where none answers. `tell` hears
/// of a start.
pub(crate) async fn connect(args: &cli::Client, tell: &dyn Fn(&str)) -> Result<Client, Failure> {
    if let Some(client) = named(args).await? {
        return Ok(client);
    }
    if let Some(client) = find(args).await? {
        return Ok(client);
    }
    start(args, tell).await
}

/// As [`connect`], but nothing is started.
pub(crate) async fn existing(args: &cli::Client) -> Result<Option<Client>, Failure> {
    match named(args).await? {
        Some(client) => Ok(Some(client)),
        None => find(args).await,
    }
}

async fn named(args: &cli::Client) -> Result<Option<Client>, Failure> {
    let Some(url) = &args.queen else { return Ok(None) };
    let client = Client::new(url)?.with_key(args.api_key.clone());
    client.info().await?;
    Ok(Some(client))
}

/// The queen of this data folder, or else whichever listens on the usual port.
async fn find(args: &cli::Client) -> Result<Option<Client>, Failure> {
    if let Some(Some(record)) = recorded(args.data_dir.as_deref())? {
        let client = Client::new(&record.url)?.with_key(args.api_key.clone());
        if client.alive().await.is_ok() {
            return Ok(Some(client));
        }
    }
    let client = Client::new(&format!("http://127.0.0.1:{}", args.queen_port))?.with_key(args.api_key.clone());
    match tokio::time::timeout(PROBE, client.info()).await {
        Ok(Ok(info)) if info.server == QUEEN => Ok(Some(client)),
        Ok(Err(error)) if error.refusal().is_some_and(|error| error.status() == 401) => Err(error.into()),
        Ok(Ok(_) | Err(_)) | Err(_) => Ok(None),
    }
}

/// What the lock in the data folder says; the folder need not exist.
fn recorded(data_dir: Option<&Path>) -> Result<Option<Option<QueenRecord>>, Failure> {
    let folder = DataDir::locate(data_dir).map_err(|error| no_data_dir(&error))?;
    queen_rbee::running(&folder).map_err(|error| {
        Failure::new(Exit::Unavailable, format!("cannot read {}: {error}", folder.display()))
            .hint("set RBEE_DATA_DIR to a folder that can be written to")
    })
}

async fn start(args: &cli::Client, tell: &dyn Fn(&str)) -> Result<Client, Failure> {
    let data_dir = DataDir::open(args.data_dir.as_deref()).map_err(|error| no_data_dir(&error))?;
    // Whoever comes second waits here, and then finds the queen that the first one started.
    let lock = data_dir.path().join("start.lock");
    let cannot_lock = |error| Failure::new(Exit::Unavailable, format!("cannot lock {}: {error}", lock.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(cannot_lock)?;
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    let _lock = locked.map_err(|error| cannot_lock(error.into()))?.map_err(cannot_lock)?;
    if let Some(client) = find(args).await? {
        return Ok(client);
    }

    let log = data_dir.logs().join("queen.log");
    let mut child = spawn(args.queen_port, &data_dir, &log)?;
    let deadline = Instant::now() + STARTING;
    loop {
        if let Ok(Some(_)) = child.try_wait() {
            return Err(could_not_start(&log, args.queen_port));
        }
        if let Some(Some(record)) = recorded(Some(data_dir.path()))? {
            let client = Client::new(&record.url)?.with_key(args.api_key.clone());
            if client.ready().await.is_ok() {
                let log = log.display();
                tell(&format!(
                    "started a queen in the background at {}; rbee down stops her\nher log: {log}",
                    record.url
                ));
                return Ok(client);
            }
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            return Err(Failure::new(
                Exit::Unavailable,
                format!("the queen was not ready after {} s", STARTING.as_secs()),
            )
            .hint(format!("read her log: {}", log.display())));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn spawn(port: u16, data_dir: &DataDir, log: &Path) -> Result<Child, Failure> {
    if fs::metadata(log).is_ok_and(|metadata| metadata.len() > LOG_BYTES) {
        let _ = fs::rename(log, log.with_extension("log.1"));
    }
    let cannot = |what: &str, error: std::io::Error| Failure::new(Exit::Unavailable, format!("{what}: {error}"));
    let open = || File::options().create(true).append(true).open(log);
    let output = open().and_then(|file| Ok((file.try_clone()?, file)));
    let (stdout, stderr) = output.map_err(|error| cannot(&format!("cannot write {}", log.display()), error))?;
    let program = own_executable().map_err(|error| cannot("cannot find the program of rbee itself", error))?;
    let mut command = Command::new(&program);
    command
        .args(["queen", "--port", &port.to_string(), "--data-dir"])
        .arg(data_dir.path())
        .env(DETACHED, "1")
        // A daemon that stays in a folder keeps its disk from being unmounted.
        .current_dir(data_dir.path())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    command.spawn().map_err(|error| cannot(&format!("cannot start {}", program.display()), error))
}

fn could_not_start(log: &Path, port: u16) -> Failure {
    let said = last_words(log);
    let failure = Failure::new(Exit::Unavailable, format!("the queen could not start: {said}"));
    if said.contains("cannot listen") {
        return failure.hint(format!(
            "another program has port {port}: choose another with --queen-port (RBEE_QUEEN_PORT), or name a queen with --queen"
        ));
    }
    failure.hint(format!("read her log: {}", log.display()))
}

fn no_data_dir(error: &rbee_hive::HiveError) -> Failure {
    Failure::new(Exit::Unavailable, error.to_string())
}

/// Leaves the session of the terminal, so that neither Ctrl-C nor closing it ends a queen in the background.
pub(crate) fn detach_if_asked() {
    #[cfg(unix)]
    if std::env::var_os(DETACHED).is_some() {
        let _ = rustix::process::setsid();
    }
}

/// How stopping ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// She is gone.
    Stopped(QueenRecord),
    /// None runs in this folder.
    NoneRuns(PathBuf),
}

/// Stops the queen of a data folder, and waits until she is gone.
pub(crate) async fn stop(data_dir: Option<&Path>, tell: &dyn Fn(&str)) -> Result<Stopped, Failure> {
    let folder = DataDir::locate(data_dir).map_err(|error| no_data_dir(&error))?;
    let record = match recorded(data_dir)? {
        None => return Ok(Stopped::NoneRuns(folder)),
        Some(Some(record)) => record,
        Some(None) => {
            return Err(Failure::new(Exit::Failed, format!("a queen is just starting in {}", folder.display()))
                .hint("ask again in a moment"));
        }
    };
    // The lock is held, so the pid is still hers.
    terminate(record.pid)?;
    tell(&format!("stopping the queen (process {}); running jobs get ten seconds", record.pid));
    let deadline = Instant::now() + STOPPING;
    while recorded(data_dir)?.is_some() {
        if Instant::now() > deadline {
            let message = format!("the queen (process {}) did not stop within {} s", record.pid, STOPPING.as_secs());
            return Err(Failure::new(Exit::Failed, message).hint(format!("kill -9 {}", record.pid)));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Stopped::Stopped(record))
}

#[cfg(unix)]
fn terminate(pid: u32) -> Result<(), Failure> {
    let cannot = |reason: String| Failure::new(Exit::Failed, format!("cannot stop the process {pid}: {reason}"));
    let target =
        rustix::process::Pid::from_raw(pid.cast_signed()).ok_or_else(|| cannot("it is no process".to_owned()))?;
    rustix::process::kill_process(target, rustix::process::Signal::TERM).map_err(|error| cannot(error.to_string()))
}

#[cfg(not(unix))]
fn terminate(pid: u32) -> Result<(), Failure> {
    Err(Failure::new(Exit::Failed, format!("stopping the process {pid} works on Unix only")).hint("end it by hand"))
}
