//! Whether another worker fits into memory, and who has to go for it: policy without processes, so that it can be read
//! and tested alone.

use std::time::Instant;

/// A worker that holds memory.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) worker_id: String,
    /// What it holds, or will when it has loaded.
    pub(crate) bytes: u64,
    /// Of what is foreseen for it, what it has not taken yet.
    pub(crate) outstanding: u64,
    /// Since when it has nothing to do; `None` while it has.
    pub(crate) idle_since: Option<Instant>,
}

/// What is asked for and what there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// What the new worker will hold at its peak.
    pub(crate) needed: u64,
    /// What the machine could give a process now.
    pub(crate) free: u64,
    /// What it could give if no worker of ours ran.
    pub(crate) total: u64,
    /// How many workers may run.
    pub(crate) places: usize,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It fits.
    Fits,
    /// This worker has to end first.
    Unload(String),
    /// Others have to become idle first.
    Wait,
    /// It does not fit, whoever goes; so much could be had.
    Never { most: u64 },
}

/// Decides about one more worker.
pub(crate) fn decide(room: Room, tenants: &[Tenant]) -> Verdict {
    let outstanding: u64 = tenants.iter().map(|tenant| tenant.outstanding).sum();
    let free = room.free.saturating_sub(outstanding);
    if room.needed <= free && tenants.len() < room.places {
        return Verdict::Fits;
    }
    let held: u64 = tenants.iter().map(|tenant| tenant.bytes.saturating_sub(tenant.outstanding)).sum();
    let most = (room.free + held).min(room.total);
    if room.needed > most {
        return Verdict::Never { most };
    }
    let longest_idle = tenants.iter().filter_map(|tenant| Some((tenant.idle_since?, tenant))).min_by_key(|(at, _)| *at);
    match longest_idle {
        Some((_, tenant)) => Verdict::Unload(tenant.worker_id.clone()),
        None => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn tenant(id: &str, bytes: u64, idle: Option<u64>) -> Tenant {
        let now = Instant::now();
        let idle_since = idle.map(|seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap_or(now));
        Tenant { worker_id: id.to_owned(), bytes, outstanding: 0, idle_since }
    }

    fn room(needed: u64, free: u64) -> Room {
        Room { needed, free, total: 100, places: 3 }
    }

    #[test]
    fn what_fits_disturbs_nobody() {
        assert_eq!(decide(room(40, 40), &[tenant("a", 50, Some(9))]), Verdict::Fits);
    }

    #[test]
    fn the_one_idle_longest_makes_room() {
        let tenants = [tenant("a", 20, Some(1)), tenant("b", 20, Some(9)), tenant("c", 20, None)];
        assert_eq!(decide(room(50, 40), &tenants), Verdict::Unload("b".to_owned()));
        assert_eq!(decide(room(1, 40), &tenants), Verdict::Unload("b".to_owned()), "no place for a fourth");
    }

    #[test]
    fn who_works_is_waited_for() {
        assert_eq!(decide(room(50, 40), &[tenant("a", 60, None)]), Verdict::Wait);
    }

    #[test]
    fn what_a_worker_has_not_taken_yet_is_not_free() {
        let mut loading = tenant("a", 50, None);
        loading.outstanding = 45;
        assert_eq!(decide(room(40, 80), &[loading.clone()]), Verdict::Wait);
        assert_eq!(decide(room(35, 80), &[loading]), Verdict::Fits);
    }

    #[test]
    fn what_never_fits_is_told_at_once() {
        assert_eq!(decide(room(101, 40), &[tenant("a", 60, Some(1))]), Verdict::Never { most: 100 });
        assert_eq!(decide(room(70, 40), &[tenant("a", 20, Some(1))]), Verdict::Never { most: 60 });
    }
}
