//! What listeners and holders of this process are told at once, without asking the disk.

use crate::queue::{Number, Queue};
use crate::{AttemptId, BrokerError, KeyId};
use operations_contract::JobEvent;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Shared by the writer and everybody who asks.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) queue: Mutex<Queue>,
    held: Mutex<HashMap<String, Held>>,
    held_changed: watch::Sender<()>,
    channels: Mutex<HashMap<String, Weak<Channel>>>,
    stopped: watch::Sender<bool>,
}

/// A job that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) number: Number,
    pub(super) attempt: u32,
    pub(super) hive_id: String,
    pub(super) incarnation: u64,
    pub(super) owner: Option<KeyId>,
    pub(super) until: Duration,
    pub(super) cancelled: bool,
}

/// The newest events of one job, for as long as somebody listens.
#[derive(Debug)]
pub(super) struct Channel {
    job_id: String,
    live: Weak<Live>,
    newest: Mutex<Newest>,
    changed: watch::Sender<()>,
}

/// The last listener puts the light out.
impl Drop for Channel {
    fn drop(&mut self) {
        let Some(live) = self.live.upgrade() else { return };
        let mut channels = lock(&live.channels);
        // Another may have come meanwhile.
        if channels.get(&self.job_id).is_some_and(|channel| channel.strong_count() == 0) {
            channels.remove(&self.job_id);
        }
    }
}

#[derive(Debug, Default)]
struct Newest {
    events: VecDeque<(u64, Arc<JobEvent>)>,
    /// Every stored event from this id on is among them; `None` while there is none.
    complete_from: Option<u64>,
}

/// So many events wait for a slow listener in memory; what is older he reads from disk.
const KEPT: usize = 256;

impl Live {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Who holds which job.
    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        lock(&self.held)
    }

    /// Wakes those who wait for a change of who holds what.
    pub(super) fn tell_holders(&self) {
        self.held_changed.send_replace(());
    }

    pub(super) fn holders_told(&self) -> watch::Receiver<()> {
        self.held_changed.subscribe()
    }

    /// Does something with the holding of this attempt.
    pub(super) fn holding<T>(&self, attempt: &AttemptId, work: impl FnOnce(&mut Held) -> T) -> Result<T, BrokerError> {
        match self.held().get_mut(&attempt.job_id) {
            Some(held) if held.attempt == attempt.number => Ok(work(held)),
            Some(held) => Err(stale(attempt, format!("attempt {} holds the job now", held.attempt))),
            None => Err(stale(attempt, "nobody holds the job: it waits again, or has ended".to_owned())),
        }
    }

    /// The channel of a job, for a listener.
    pub(super) fn channel(self: &Arc<Self>, job_id: &str) -> Arc<Channel> {
        let mut channels = lock(&self.channels);
        if let Some(channel) = channels.get(job_id).and_then(Weak::upgrade) {
            return channel;
        }
        let channel = Arc::new(Channel {
            job_id: job_id.to_owned(),
            live: Arc::downgrade(self),
            newest: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        channels.insert(job_id.to_owned(), Arc::downgrade(&channel));
        channel
    }

    /// Whether somebody listens to the job.
    pub(super) fn is_heard(&self, job_id: &str) -> bool {
        lock(&self.channels).get(job_id).is_some_and(|channel| channel.strong_count() > 0)
    }

    /// Tells an event that was written.
    pub(super) fn publish(&self, job_id: &str, id: u64, event: Arc<JobEvent>) {
        // Not held any longer than that: a channel that is dropped wants the lock.
        let channel = lock(&self.channels).get(job_id).and_then(Weak::upgrade);
        if let Some(channel) = channel {
            lock(&channel.newest).push(id, event);
            channel.changed.send_replace(());
        }
    }

    /// Wakes everybody for the last time.
    pub(super) fn stop(&self) {
        self.stopped.send_replace(true);
        self.tell_holders();
        let channels: Vec<_> = lock(&self.channels).values().filter_map(Weak::upgrade).collect();
        for channel in channels {
            channel.changed.send_replace(());
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }
}

impl Channel {
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The events after the one numbered `id`; `None` where some of them are on disk only.
    pub(super) fn after(&self, id: u64) -> Option<Vec<(u64, Arc<JobEvent>)>> {
        let newest = lock(&self.newest);
        if newest.complete_from? > id + 1 {
            return None;
        }
        let first = newest.events.partition_point(|(event_id, _)| *event_id <= id);
        Some(newest.events.range(first..).cloned().collect())
    }
}

impl Newest {
    fn push(&mut self, id: u64, event: Arc<JobEvent>) {
        if matches!(*event, JobEvent::Preview { .. }) {
            // A preview is of use while it is the newest.
            self.events.retain(|(_, event)| !matches!(**event, JobEvent::Preview { .. }));
        }
        self.complete_from.get_or_insert(id);
        self.events.push_back((id, event));
        if self.events.len() > KEPT
            && let Some((dropped, _)) = self.events.pop_front()
        {
            self.complete_from = Some(dropped + 1);
        }
    }
}

fn stale(attempt: &AttemptId, reason: String) -> BrokerError {
    BrokerError::Stale { attempt: attempt.clone(), reason }
}

/// Whoever panicked with the lock in his hands had not yet begun to change anything.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
