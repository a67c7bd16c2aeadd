use crate::registry::Entry;
use operations_contract::JobEvent;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// One listener's way through a job's log: a place in it and a wake-up. It reads when it has time, so that a slow
/// listener neither holds the writer up nor loses an event.
#[derive(Debug)]
pub struct EventStream {
    entry: Arc<Entry>,
    changed: watch::Receiver<()>,
    last_id: u64,
    read: VecDeque<(u64, Arc<JobEvent>)>,
    ended: bool,
    listeners: Arc<AtomicUsize>,
}

/// So many events are taken out of the log at once.
const BATCH: usize = 256;

impl EventStream {
    pub(crate) fn new(entry: Arc<Entry>, after: u64, listeners: Arc<AtomicUsize>) -> Self {
        listeners.fetch_add(1, Ordering::Relaxed);
        let changed = entry.subscribe();
        Self { entry, changed, last_id: after, read: VecDeque::new(), ended: false, listeners }
    }

    /// The next event with its number; `None` after the last one.
    pub async fn next(&mut self) -> Option<(u64, Arc<JobEvent>)> {
        loop {
            if let Some((id, event)) = self.read.pop_front() {
                self.last_id = id;
                self.ended = event.is_terminal();
                return Some((id, event));
            }
            if self.ended {
                return None;
            }
            // What is written between here and the wait below wakes the wait.
            self.changed.mark_unchanged();
            self.read.extend(self.entry.log().after(self.last_id).iter().take(BATCH).cloned());
            if self.read.is_empty() && self.changed.changed().await.is_err() {
                return None;
            }
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}
