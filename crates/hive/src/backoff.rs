use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
/// After so long a time, what died is worth a fresh try.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// How long to wait before something that died is started again: four times as long after each death in a row.
#[derive(Debug)]
pub(crate) struct Backoff<K> {
    failures: HashMap<K, (u32, Instant)>,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self { failures: HashMap::new() }
    }
}

impl<K: Hash + Eq> Backoff<K> {
    pub(crate) fn failed(&mut self, key: K) {
        let now = Instant::now();
        self.failures.retain(|_, (_, last)| now.duration_since(*last) < FORGOTTEN);
        let (count, last) = self.failures.entry(key).or_insert((0, now));
        *count += 1;
        *last = now;
    }

    pub(crate) fn forgive<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.failures.remove(key);
    }

    pub(crate) fn pause<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Duration
    where
        K: Borrow<Q>,
    {
        let Some((count, last)) = self.failures.get(key) else {
            return Duration::ZERO;
        };
        let pause = (FIRST * 4_u32.saturating_pow(count.saturating_sub(1).min(8))).min(LONGEST);
        pause.saturating_sub(last.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_death_in_a_row_waits_longer_and_success_forgives() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.pause("a"), Duration::ZERO);
        let mut last = Duration::ZERO;
        for _ in 0..4 {
            backoff.failed("a".to_owned());
            let pause = backoff.pause("a");
            assert!(pause > last, "{pause:?}");
            last = pause;
        }
        for _ in 0..40 {
            backoff.failed("a".to_owned());
        }
        assert!(backoff.pause("a") <= LONGEST);
        assert_eq!(backoff.pause("b"), Duration::ZERO);
        backoff.forgive("a");
        assert_eq!(backoff.pause("a"), Duration::ZERO);
    }
}
