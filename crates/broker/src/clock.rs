use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What time it is. Clones share it. A test may let it leap ahead.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    leapt_ms: Arc<AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now(), leapt_ms: Arc::default() }
    }
}

impl Clock {
    /// Milliseconds since 1970 UTC: for what is stored. It goes where the machine's clock goes.
    pub fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(self.leapt_ms.load(Ordering::Relaxed))
    }

    /// Time since the start: for leases, which a clock that is set must not end.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed() + Duration::from_millis(self.leapt_ms.load(Ordering::Relaxed))
    }

    /// Lets time pass without waiting.
    pub fn leap(&self, by: Duration) {
        self.leapt_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
