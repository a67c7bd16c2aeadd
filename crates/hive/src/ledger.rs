//! Which worker processes a hive has started, on disk: what its next start looks for, should it have died without
//! stopping them.

use crate::DataDir;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, Signal, System, UpdateKind};

/// A process. A pid alone may be somebody else's by now: one that began at another time is another.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Process {
    pid: u32,
    /// Seconds since 1970 UTC.
    began: u64,
}

/// A worker and the hive that started it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    worker_id: String,
    worker: Process,
    hive: Process,
}

/// The folder of entries, one file a worker. Hives that share a data folder share it, too.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    folder: PathBuf,
    hive: Option<Process>,
}

/// An orphan that was asked to end has this long before it is killed.
const GRACE: Duration = Duration::from_secs(2);

impl Ledger {
    pub(crate) fn open(data_dir: &DataDir) -> Self {
        Self { folder: data_dir.path().join("workers"), hive: Process::find(std::process::id()) }
    }

    /// Remembers a process that was started.
    pub(crate) fn write(&self, worker_id: &str, pid: u32) {
        let (Some(worker), Some(hive)) = (Process::find(pid), self.hive) else { return };
        let entry = Entry { worker_id: worker_id.to_owned(), worker, hive };
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(self.file(worker_id), serde_json::to_vec(&entry).unwrap_or_default()));
        if let Err(error) = written {
            tracing::warn!(worker = worker_id, "the process {pid} cannot be remembered: {error}");
        }
    }

    /// Forgets one that has ended.
    pub(crate) fn remove(&self, worker_id: &str) {
        let _ = fs::remove_file(self.file(worker_id));
    }

    /// Ends the processes whose hive is gone, and returns the ids of those that it found. May block.
    pub(crate) fn end_orphans(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(&self.folder) else { return Vec::new() };
        let mut ended = Vec::new();
        for file in files.flatten() {
            let entry = fs::read(file.path()).ok().and_then(|bytes| serde_json::from_slice::<Entry>(&bytes).ok());
            if entry.as_ref().is_some_and(|entry| entry.hive.is_alive()) {
                continue;
            }
            if let Some(entry) = entry
                && entry.end()
            {
                let pid = entry.worker.pid;
                tracing::warn!(worker = entry.worker_id, pid, "ended a worker that an earlier hive left");
                ended.push(entry.worker_id);
            }
            let _ = fs::remove_file(file.path());
        }
        ended
    }

    fn file(&self, worker_id: &str) -> PathBuf {
        self.folder.join(format!("{worker_id}.json"))
    }
}

impl Entry {
    /// Ends the worker, if the process still is the one that was started: it began at the same second and carries the
    /// worker's id in its command line. Says whether it was.
    fn end(&self) -> bool {
        let pid = Pid::from_u32(self.worker.pid);
        let Ok(mut system) = System::new() else { return false };
        let look = |system: &mut System| {
            let what = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
            system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
            system.process(pid).is_some_and(|process| {
                let named = process.cmd().iter().any(|part| part.to_string_lossy() == self.worker_id);
                // One that has ended and was not waited for yet has no command line.
                self.worker.is(Process { pid: self.worker.pid, began: process.start_time() }) && named
            })
        };
        if !look(&mut system) {
            return false;
        }
        if let Some(process) = system.process(pid) {
            process.kill_with(Signal::Term).unwrap_or_else(|| process.kill());
        }
        let deadline = std::time::Instant::now() + GRACE;
        while look(&mut system) {
            if std::time::Instant::now() > deadline {
                if let Some(process) = system.process(pid) {
                    process.kill();
                }
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Process {
    /// Whether the two are one. Linux tells when a process began from when the machine did, and that, in seconds of a clock
    /// that is set right now and then, may be told one second earlier or later the next time.
    fn is(self, other: Self) -> bool {
        self.pid == other.pid && self.began.abs_diff(other.began) <= 1
    }

    fn find(pid: u32) -> Option<Self> {
        let id = Pid::from_u32(pid);
        let mut system = System::new().ok()?;
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), true, ProcessRefreshKind::nothing());
        let process = system.process(id)?;
        let dead = matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead);
        (!dead).then(|| Self { pid, began: process.start_time() })
    }

    fn is_alive(self) -> bool {
        Self::find(self.pid).is_some_and(|found| found.is(self))
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(Some(folder.path())).unwrap();
        // Of a hive that is gone.
        (folder, Ledger { hive: Some(Process { pid: std::process::id(), began: 1 }), ..Ledger::open(&data_dir) })
    }

    /// A process that sleeps, with a worker's id in its command line.
    fn sleeper(id: &str) -> Child {
        // A second command keeps the shell from becoming the first one.
        let child = Command::new("sh").args(["-c", "sleep 60; true", id]).spawn().unwrap();
        // For a moment after it was started it has no command line yet.
        let pid = Pid::from_u32(child.id());
        let mut system = System::new().unwrap();
        let mut is_shown = || {
            let what = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
            system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
            system.process(pid).is_some_and(|process| process.cmd().iter().any(|part| part.to_string_lossy() == id))
        };
        while !is_shown() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    #[test]
    fn what_an_earlier_hive_left_is_ended() {
        let (_folder, ledger) = ledger();
        let mut child = sleeper("worker-1");
        ledger.write("worker-1", child.id());
        // Nobody waits for the child yet, as nobody does for an orphan.
        let waiting = std::thread::spawn(move || child.wait().unwrap());
        assert_eq!(ledger.end_orphans(), ["worker-1"]);
        assert!(!waiting.join().unwrap().success());
        assert_eq!(ledger.end_orphans(), [] as [String; 0]);
    }

    #[test]
    fn a_pid_that_is_another_process_by_now_is_left_alone() {
        let (_folder, ledger) = ledger();
        let mut other = sleeper("somebody-else");
        ledger.write("worker-1", other.id());
        assert_eq!(ledger.end_orphans(), [] as [String; 0], "it does not carry the worker's id");
        let gone = Process { pid: other.id(), began: 1 };
        let entry = Entry { worker_id: "somebody-else".to_owned(), worker: gone, hive: gone };
        fs::write(ledger.file("x"), serde_json::to_vec(&entry).unwrap()).unwrap();
        assert_eq!(ledger.end_orphans(), [] as [String; 0], "it began at another time");
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn the_worker_of_a_hive_that_lives_is_left_alone() {
        let (folder, _) = ledger();
        let ledger = Ledger::open(&DataDir::open(Some(folder.path())).unwrap());
        let mut child = sleeper("worker-1");
        ledger.write("worker-1", child.id());
        assert_eq!(ledger.end_orphans(), [] as [String; 0]);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_was_forgotten_or_is_no_entry_is_no_orphan() {
        let (_folder, ledger) = ledger();
        let mut child = sleeper("worker-1");
        ledger.write("worker-1", child.id());
        ledger.remove("worker-1");
        fs::write(ledger.file("junk"), "{").unwrap();
        assert_eq!(ledger.end_orphans(), [] as [String; 0]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
