//! How far a download is, and how fast.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Over how long the speed is taken.
const WINDOW: Duration = Duration::from_secs(8);

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes of the whole model; 0 while that is not known.
    pub total: u64,
    /// How fast they come, once that can be told.
    pub bytes_per_second: Option<u64>,
    /// How long the rest takes at that speed.
    pub eta: Option<Duration>,
}

impl Progress {
    /// How long the rest takes, in milliseconds.
    #[must_use]
    pub fn eta_ms(&self) -> Option<u64> {
        self.eta.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What is being done for a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// The hub is asked what there is to download.
    #[default]
    Asking,
    /// Another process downloads the same model; its progress is told.
    Waiting,
    /// Bytes come.
    Downloading,
}

#[derive(Debug)]
pub(super) struct Meter {
    here: AtomicU64,
    /// Of these, what came over the network.
    arrived: AtomicU64,
    total: AtomicU64,
    samples: Mutex<VecDeque<(Instant, u64)>>,
    sender: watch::Sender<Progress>,
}

impl Meter {
    pub(super) fn new(sender: watch::Sender<Progress>) -> Self {
        let zero = AtomicU64::default;
        Self { here: zero(), arrived: zero(), total: zero(), samples: Mutex::default(), sender }
    }

    /// So many bytes more belong to the whole.
    pub(super) fn announced(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes are here from an earlier try.
    pub(super) fn found(&self, bytes: u64) {
        self.here.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn arrived(&self, bytes: u64) {
        self.here.fetch_add(bytes, Ordering::Relaxed);
        self.arrived.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes were thrown away.
    pub(super) fn lost(&self, bytes: u64) {
        let fewer = |here: u64| Some(here.saturating_sub(bytes));
        let _ = self.here.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    /// Tells how far it is.
    pub(super) fn tell(&self, stage: Stage) {
        self.tell_at(stage, Instant::now());
    }

    /// Tells what is on the disk of a download that another process does.
    pub(super) fn tell_other(&self, bytes: u64) {
        self.sender.send_replace(Progress { stage: Stage::Waiting, bytes, ..Progress::default() });
    }

    fn tell_at(&self, stage: Stage, now: Instant) {
        let (bytes, total) = (self.here.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        let bytes_per_second = self.speed(now, self.arrived.load(Ordering::Relaxed));
        let left = total.saturating_sub(bytes);
        let eta = bytes_per_second.filter(|speed| *speed > 0 && total > 0);
        let eta = eta.map(|speed| Duration::from_millis(left.saturating_mul(1000) / speed));
        self.sender.send_replace(Progress { stage, bytes, total, bytes_per_second, eta });
    }

    fn speed(&self, now: Instant, arrived: u64) -> Option<u64> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back((now, arrived));
        while samples.len() > 2 && now.duration_since(samples[1].0) >= WINDOW {
            samples.pop_front();
        }
        let (since, before) = *samples.front()?;
        let millis = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        (millis > 0).then(|| arrived.saturating_sub(before).saturating_mul(1000) / millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_the_time_that_is_left_are_of_what_came_lately() {
        let (sender, progress) = watch::channel(Progress::default());
        let meter = Meter::new(sender);
        let start = Instant::now();
        meter.announced(10_000);
        meter.found(2_000);
        meter.tell_at(Stage::Downloading, start);
        assert_eq!(progress.borrow().bytes_per_second, None);
        for second in 1..=20 {
            meter.arrived(if second <= 10 { 500 } else { 100 });
            meter.tell_at(Stage::Downloading, start + Duration::from_secs(second));
            if second == 4 {
                let told = *progress.borrow();
                assert_eq!((told.bytes, told.total, told.bytes_per_second), (4_000, 10_000, Some(500)));
                assert_eq!(told.eta, Some(Duration::from_secs(12)));
            }
        }
        let told = *progress.borrow();
        assert_eq!((told.bytes, told.bytes_per_second, told.eta), (8_000, Some(100), Some(Duration::from_secs(20))));
        meter.lost(1_000_000);
        meter.tell_at(Stage::Downloading, start + Duration::from_secs(21));
        assert_eq!(progress.borrow().bytes, 0);
    }
}
