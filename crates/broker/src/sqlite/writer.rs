//! The one thread that writes. What arrives while it waits for the disk is written together, so that many submits
//! share one `fsync`.

use super::Fault;
use super::core::Core;
use super::live::Live;
use crate::{BrokerError, Claim, ClaimRequest};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, oneshot};

/// Commands that are written together at most.
const BATCH: usize = 512;
/// Commands that wait at most; whoever comes then waits before he sends.
const WAITING: usize = 4096;

/// What has to hold when a command is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It outlives the process, not a power cut: written, not synced.
    Written,
    /// It outlives a power cut.
    Synced,
}

/// Something to be written.
pub(super) trait Task: Send {
    fn durability(&self) -> Durability;
    /// Runs inside a transaction, and again when that failed because of another task.
    fn run(&mut self, core: &mut Core) -> Result<(), rusqlite::Error>;
    /// Tells the one who waits, after the transaction.
    fn answer(self: Box<Self>, outcome: Result<(), BrokerError>);
}

/// One who waits for a job.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) request: ClaimRequest,
    pub(super) reply: oneshot::Sender<Result<Option<Claim>, BrokerError>>,
}

enum Command {
    Task(Box<dyn Task>),
    Claim(Waiter),
    Stop,
}

/// The way to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    commands: Sender<Command>,
    room: Semaphore,
    thread: Option<JoinHandle<()>>,
}

struct Work<F, T> {
    durability: Durability,
    work: F,
    result: Option<Result<T, BrokerError>>,
    reply: oneshot::Sender<Result<T, BrokerError>>,
}

impl<F, T> Task for Work<F, T>
where
    F: FnMut(&mut Core) -> Result<T, Fault> + Send,
    T: Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&mut self, core: &mut Core) -> Result<(), rusqlite::Error> {
        self.result = match (self.work)(core) {
            Ok(value) => Some(Ok(value)),
            Err(Fault::No(error)) => Some(Err(error)),
            Err(Fault::Sql(error)) => return Err(error),
        };
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), BrokerError>) {
        let result = match outcome {
            Ok(()) => self.result.unwrap_or(Err(BrokerError::Stopping)),
            Err(error) => Err(error),
        };
        // Who has gone needs no answer.
        let _ = self.reply.send(result);
    }
}

impl Writer {
    pub(super) fn start(core: Core, live: Arc<Live>) -> std::io::Result<Self> {
        let (commands, received) = channel();
        let thread = std::thread::Builder::new().name("broker".to_owned()).spawn(move || {
            let _told = TellAtTheEnd(live);
            write_all(core, &received);
        })?;
        Ok(Self { commands, room: Semaphore::new(WAITING), thread: Some(thread) })
    }

    /// Has `work` done in a transaction and waits until that holds.
    pub(super) async fn write<T, F>(&self, durability: Durability, work: F) -> Result<T, BrokerError>
    where
        F: FnMut(&mut Core) -> Result<T, Fault> + Send + 'static,
        T: Send + 'static,
    {
        let _room = self.room.acquire().await.map_err(|_| BrokerError::Stopping)?;
        let (reply, answer) = oneshot::channel();
        let task = Work { durability, work, result: None, reply };
        self.commands.send(Command::Task(Box::new(task))).map_err(|_| BrokerError::Stopping)?;
        answer.await.map_err(|_| BrokerError::Stopping)?
    }

    /// Has `work` done some time, with nobody waiting for it.
    pub(super) fn write_later<F>(&self, work: F)
    where
        F: FnMut(&mut Core) -> Result<(), Fault> + Send + 'static,
    {
        let (reply, _) = oneshot::channel();
        let task = Work { durability: Durability::Written, work, result: None, reply };
        // A writer that has stopped writes nothing more.
        let _ = self.commands.send(Command::Task(Box::new(task)));
    }

    /// Waits in line for a job.
    pub(super) fn wait(&self, waiter: Waiter) -> Result<(), BrokerError> {
        self.commands.send(Command::Claim(waiter)).map_err(|_| BrokerError::Stopping)
    }
}

/// However the thread ends, nobody waits for it for ever.
struct TellAtTheEnd(Arc<Live>);

impl Drop for TellAtTheEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // It writes what was asked for before this, and closes the database.
            let _ = thread.join();
        }
    }
}

fn write_all(mut core: Core, commands: &Receiver<Command>) {
    let mut stop = false;
    while !stop {
        let mut tasks: Vec<Box<dyn Task>> = Vec::new();
        let mut claims = false;
        let mut next = match commands.recv_timeout(core.until_due()) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        while let Some(command) = next {
            match command {
                Command::Task(task) => tasks.push(task),
                Command::Claim(waiter) => {
                    core.wait(waiter);
                    claims = true;
                }
                Command::Stop => stop = true,
            }
            next = if tasks.len() < BATCH { commands.try_recv().ok() } else { None };
        }
        commit(&mut core, tasks, claims);
    }
}

/// Writes a batch; where that fails, each task alone, so that none fails because of another.
fn commit(core: &mut Core, mut tasks: Vec<Box<dyn Task>>, claims: bool) {
    match core.transaction(&mut tasks, claims) {
        Ok(()) => tasks.into_iter().for_each(|task| task.answer(Ok(()))),
        Err(error) if tasks.len() < 2 => tasks.into_iter().for_each(|task| task.answer(Err(error.clone()))),
        Err(error) => {
            tracing::warn!("a batch could not be written and is tried one by one: {error}");
            for task in tasks {
                let mut alone = vec![task];
                let outcome = core.transaction(&mut alone, false);
                alone.into_iter().for_each(|task| task.answer(outcome.clone()));
            }
        }
    }
}
