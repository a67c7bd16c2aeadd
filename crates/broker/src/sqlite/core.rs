//! What the writer's thread owns: the database, and what is remembered beside it. A change is made in both; where a
//! transaction fails, what is remembered is read again from the disk.

use super::live::{Held, Live};
use super::schema::storage;
use super::writer::{Durability, Task, Waiter};
use super::{Fault, Options};
use crate::queue::Number;
use crate::{AttemptId, BrokerError, Claim, Want};
use operations_contract::JobEvent;
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often what is past its time is swept.
const SWEEP: Duration = Duration::from_secs(60);
/// The thread looks around at least this often.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Core {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    pub(super) options: Options,
    pub(super) live: Arc<Live>,
    waiters: Vec<Waiter>,
    /// What those who waited get, once it is certain.
    granted: Vec<(Waiter, Result<Option<Claim>, BrokerError>)>,
    /// What the hive in this process got before that; the job's number and the attempt.
    early: Vec<(Number, u32)>,
    /// Attempts that such a hive holds though their transaction failed: their numbers are not given again.
    pub(super) burnt: HashMap<Number, u32>,
    /// Claims that nobody was there to take.
    undelivered: Vec<AttemptId>,
    after_commit: Vec<After>,
    /// Somebody who wanted this waits no longer: those behind moved up.
    pub(super) moved: HashSet<Want>,
    /// Which position was told last.
    pub(super) told: HashMap<Number, u64>,
    /// A job may be claimed that no waiter was asked about.
    pub(super) unserved: bool,
    /// What is remembered is not what is on disk.
    is_stale: bool,
    is_full_sync: bool,
    next_sweep: Duration,
    /// Which of the blobs' folders is looked through next.
    pub(super) swept_folder: u8,
}

/// What is done once it is certain.
#[derive(Debug)]
pub(super) enum After {
    Publish { job_id: String, id: u64, event: Arc<JobEvent> },
    TellHolders,
    RemoveFile(PathBuf),
}

impl Core {
    pub(super) fn new(db: Connection, path: PathBuf, options: Options, live: Arc<Live>) -> Result<Self, BrokerError> {
        let next_sweep = options.clock.elapsed();
        let mut core = Self {
            db,
            path,
            options,
            live,
            waiters: Vec::new(),
            granted: Vec::new(),
            early: Vec::new(),
            burnt: HashMap::new(),
            undelivered: Vec::new(),
            after_commit: Vec::new(),
            moved: HashSet::new(),
            told: HashMap::new(),
            unserved: false,
            is_stale: false,
            is_full_sync: true,
            next_sweep,
            swept_folder: 0,
        };
        core.remember()?;
        Ok(core)
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.options.clock.unix_ms()
    }

    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    pub(super) fn after_commit(&mut self, after: After) {
        self.after_commit.push(after);
    }

    /// How long the thread may sleep.
    pub(super) fn until_due(&self) -> Duration {
        if self.unserved || !self.undelivered.is_empty() {
            return Duration::ZERO;
        }
        let ripe = self.live.queue().next_ripe_ms();
        let until_ripe = ripe.map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(self.now_ms())));
        let now = self.options.clock.elapsed();
        let expiring = self.live.held().values().map(|held| held.until.saturating_sub(now)).min();
        until_ripe.min(expiring.unwrap_or(IDLE)).min(IDLE)
    }

    /// Runs the tasks, what is due, and then serves those who wait, all in one transaction.
    pub(super) fn transaction(&mut self, tasks: &mut [Box<dyn Task>], claims: bool) -> Result<(), BrokerError> {
        if self.is_stale {
            self.remember()?;
            self.is_stale = false;
        }
        let synced = tasks.iter().any(|task| task.durability() == Durability::Synced);
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        let serve = !self.waiters.is_empty() && (claims || synced || self.is_due());
        let due = self.is_due();
        if tasks.is_empty() && !serve && !due {
            return Ok(());
        }
        let outcome = self.run(tasks, synced || serve || due, serve, due).map_err(|error| storage(&self.path, &error));
        match &outcome {
            Ok(()) => self.committed(),
            Err(error) => self.rolled_back(error),
        }
        outcome
    }

    fn run(
        &mut self,
        tasks: &mut [Box<dyn Task>],
        full_sync: bool,
        serve: bool,
        due: bool,
    ) -> Result<(), rusqlite::Error> {
        if full_sync != self.is_full_sync {
            // Progress is not worth an fsync: it is synced with the next thing that is, and a power cut is no crash
            // of a process.
            self.db.pragma_update(None, "synchronous", if full_sync { "full" } else { "normal" })?;
            self.is_full_sync = full_sync;
        }
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        for task in tasks {
            task.run(self)?;
        }
        if due {
            self.tick().or_else(only_sql)?;
        }
        if serve {
            self.serve().or_else(only_sql)?;
        }
        self.tell_positions().or_else(only_sql)?;
        self.hand_out_early();
        self.db.execute_batch("COMMIT")
    }

    /// The hive in this process need not wait for the disk: a power cut or a signal that takes this transaction takes
    /// that hive and its workers, too, and its attempt is fenced off where the disk alone fails. So a worker paints
    /// while the job that it paints is synced.
    fn hand_out_early(&mut self) {
        let own = self.options.own_hive.as_deref();
        let granted = std::mem::take(&mut self.granted).into_iter();
        let (early, later): (Vec<_>, Vec<_>) =
            granted.partition(|(waiter, _)| own == Some(waiter.request.hive_id.as_str()));
        self.granted = later;
        for (waiter, answer) in early {
            if let Ok(Some(claim)) = &answer
                && let Some(number) = self.live.held().get(&claim.attempt.job_id).map(|held| held.number)
            {
                self.early.push((number, claim.attempt.number));
            }
            self.hand_out(waiter, answer);
        }
    }

    fn hand_out(&mut self, waiter: Waiter, answer: Result<Option<Claim>, BrokerError>) {
        let attempt = answer.iter().flatten().map(|claim| claim.attempt.clone()).next();
        if waiter.reply.send(answer).is_err() {
            self.undelivered.extend(attempt);
        }
    }

    fn committed(&mut self) {
        for after in std::mem::take(&mut self.after_commit) {
            match after {
                After::Publish { job_id, id, event } => self.live.publish(&job_id, id, event),
                After::TellHolders => self.live.tell_holders(),
                After::RemoveFile(path) => {
                    if let Err(error) = std::fs::remove_file(&path)
                        && error.kind() != std::io::ErrorKind::NotFound
                    {
                        tracing::warn!("cannot remove {}: {error}", path.display());
                    }
                }
            }
        }
        self.early.clear();
        for (waiter, answer) in std::mem::take(&mut self.granted) {
            self.hand_out(waiter, answer);
        }
    }

    fn rolled_back(&mut self, error: &BrokerError) {
        tracing::error!("the database could not be written: {error}");
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!("nor could the transaction be taken back: {error}");
        }
        self.after_commit.clear();
        self.moved.clear();
        self.burnt.extend(self.early.drain(..));
        // At once, lest somebody counts what was taken back; where the disk cannot even be read, before the next transaction.
        self.is_stale = self.remember().is_err();
        // Those who still wait may get what the next transaction can write.
        for (waiter, _) in std::mem::take(&mut self.granted) {
            // Who has gone needs no answer.
            let _ = waiter.reply.send(Err(error.clone()));
        }
    }

    fn is_due(&self) -> bool {
        self.until_due().is_zero() || self.next_sweep <= self.options.clock.elapsed()
    }

    /// What time alone brings about.
    fn tick(&mut self) -> Result<(), Fault> {
        self.unserved = false;
        let now_ms = self.now_ms();
        self.live.queue().ripen(now_ms);
        for attempt in std::mem::take(&mut self.undelivered) {
            self.return_unused(&attempt)?;
        }
        self.expire_leases()?;
        if self.next_sweep <= self.options.clock.elapsed() {
            // Before it is tried: a disk that is too full for it is not asked again at once.
            self.next_sweep = self.options.clock.elapsed() + SWEEP;
            if self.sweep()? {
                self.next_sweep = self.options.clock.elapsed();
            }
        }
        Ok(())
    }

    /// Gives jobs to those who wait, for as long as there is one that fits.
    fn serve(&mut self) -> Result<(), Fault> {
        self.live.queue().ripen(self.now_ms());
        for waiter in std::mem::take(&mut self.waiters) {
            match self.claimed_before(&waiter.request)? {
                Ok(None) => self.waiters.push(waiter),
                answer => self.granted.push((waiter, answer)),
            }
        }
        while let Some((waiter, number, offer)) = self.next_grant() {
            let waiter = self.waiters.remove(waiter);
            let claim = self.grant(&waiter.request, number, offer)?;
            self.granted.push((waiter, Ok(Some(claim))));
        }
        // Who would not wait is told that there is nothing.
        while let Some(i) = self.waiters.iter().position(|waiter| waiter.request.patience.is_zero()) {
            let waiter = self.waiters.remove(i);
            self.granted.push((waiter, Ok(None)));
        }
        Ok(())
    }

    /// Tells those who listen that they moved up.
    fn tell_positions(&mut self) -> Result<(), Fault> {
        /// Beyond this place nobody counts.
        const TOLD: usize = 20;
        for want in std::mem::take(&mut self.moved) {
            let front: Vec<(Number, u64)> = {
                let queue = self.live.queue();
                let front = (1..).zip(queue.front(&want, TOLD));
                let heard = front.filter(|(_, entry)| self.live.is_heard(&entry.job_id));
                heard.map(|(position, entry)| (entry.number, position)).collect()
            };
            for (number, position) in front {
                if self.told.insert(number, position) != Some(position)
                    && let Some(mut row) = super::rows::numbered(&self.db, number)?
                {
                    self.tell(&mut row, JobEvent::Queued { position })?;
                    self.store_row(&row)?;
                }
            }
        }
        Ok(())
    }

    /// A job waits no longer.
    pub(super) fn moves_on(&mut self, number: Number, want: &Want) {
        self.told.remove(&number);
        self.moved.insert(want.clone());
    }

    fn next_grant(&self) -> Option<(usize, Number, usize)> {
        let requests: Vec<_> = self.waiters.iter().map(|waiter| &waiter.request).collect();
        self.live.queue().next(&requests)
    }

    /// Reads from disk what is remembered. Who held a job gets a whole lease to say that he still does.
    fn remember(&mut self) -> Result<(), BrokerError> {
        let until = self.options.clock.elapsed() + self.options.lease;
        let read = super::rows::unfinished(&self.db, &self.path).map_err(|fault| fault.at(&self.path))?;
        let now_ms = self.now_ms();
        let mut queue = crate::queue::Queue::default();
        let mut held = HashMap::new();
        for job in read {
            match job {
                super::rows::Unfinished::Waiting(entry) => queue.insert(entry, now_ms),
                super::rows::Unfinished::Held { job_id, held: holding } => {
                    queue.began(holding.owner.clone());
                    held.insert(job_id, Held { until, ..holding });
                }
            }
        }
        *self.live.queue() = queue;
        *self.live.held() = held;
        self.live.tell_holders();
        self.unserved = true;
        Ok(())
    }
}

/// What time brings about concerns nobody who could be told no.
fn only_sql(fault: Fault) -> Result<(), rusqlite::Error> {
    match fault {
        Fault::Sql(error) => Err(error),
        Fault::No(error) => {
            tracing::error!("{error}");
            Ok(())
        }
    }
}
