//! Who is next: a plain struct without disk or locks, so that the policy can be read and tested alone.

use crate::{ClaimRequest, KeyId, Offer, Waiting, Want, WorkKind};
use operations_contract::{Priority, same_model};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A job's place in the order of arrival.
pub(crate) type Number = i64;

/// A job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) number: Number,
    pub(crate) job_id: String,
    pub(crate) owner: Option<KeyId>,
    pub(crate) priority: Priority,
    pub(crate) want: Want,
    pub(crate) created_ms: u64,
    pub(crate) not_before_ms: u64,
    pub(crate) crashes: u32,
}

/// Jobs that want the same, by priority and owner, in order of arrival.
type Lane = BTreeMap<(Reverse<Priority>, Option<KeyId>), BTreeSet<Number>>;

/// Smaller is earlier: priority, then the owner with the fewest running jobs, then the one served longest ago, then
/// arrival.
type Rank = (Reverse<Priority>, u32, u64, Number);

/// What fairness remembers of an owner.
#[derive(Debug, Clone, Copy, Default)]
struct Owner {
    running: u32,
    /// At which turn it was served last; 0 is never.
    served: u64,
}

/// The jobs that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<Number, Entry>,
    lanes: HashMap<Want, Lane>,
    /// Those that wait for a time, by that time.
    later: BTreeSet<(u64, Number)>,
    owners: HashMap<Option<KeyId>, Owner>,
    running: usize,
    turns: u64,
}

impl Queue {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Waits; one that came back keeps its place.
    pub(crate) fn insert(&mut self, entry: Entry, now_ms: u64) {
        if entry.not_before_ms > now_ms {
            self.later.insert((entry.not_before_ms, entry.number));
        } else {
            self.enlane(&entry);
        }
        self.entries.insert(entry.number, entry);
    }

    /// Waits no longer.
    pub(crate) fn remove(&mut self, number: Number) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.later.remove(&(entry.not_before_ms, number));
        if let Some(lane) = self.lanes.get_mut(&entry.want) {
            let key = (Reverse(entry.priority), entry.owner.clone());
            if let Some(numbers) = lane.get_mut(&key) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    lane.remove(&key);
                }
            }
            if lane.is_empty() {
                self.lanes.remove(&entry.want);
            }
        }
        Some(entry)
    }

    /// Its turn: it waits no longer and counts as running.
    pub(crate) fn take(&mut self, number: Number) -> Option<Entry> {
        let entry = self.remove(number)?;
        self.turns += 1;
        let turn = self.turns;
        self.began(entry.owner.clone());
        self.owners.entry(entry.owner.clone()).or_default().served = turn;
        Some(entry)
    }

    /// A job of this owner runs.
    pub(crate) fn began(&mut self, owner: Option<KeyId>) {
        self.running += 1;
        self.owners.entry(owner).or_default().running += 1;
    }

    /// A job of this owner runs no longer.
    pub(crate) fn ended(&mut self, owner: &Option<KeyId>) {
        self.running = self.running.saturating_sub(1);
        if let Some(owner) = self.owners.get_mut(owner) {
            owner.running = owner.running.saturating_sub(1);
        }
    }

    /// Those whose time has come may be taken.
    pub(crate) fn ripen(&mut self, now_ms: u64) {
        while let Some(&(at, number)) = self.later.first()
            && at <= now_ms
        {
            self.later.pop_first();
            if let Some(entry) = self.entries.get(&number).cloned() {
                self.enlane(&entry);
            }
        }
    }

    /// When the next one ripens.
    pub(crate) fn next_ripe_ms(&self) -> Option<u64> {
        self.later.first().map(|&(at, _)| at)
    }

    /// Whose turn it is among what the requests offer: which request gets which job, and with which of its offers.
    pub(crate) fn next(&self, requests: &[&ClaimRequest]) -> Option<(usize, Number, usize)> {
        let mut best: Option<(Rank, &Want)> = None;
        for (want, lane) in &self.lanes {
            if !requests.iter().any(|request| fitting(request, want).is_some()) {
                continue;
            }
            for ((priority, owner), numbers) in lane {
                let Some(&number) = numbers.first() else { continue };
                let rank = self.rank(*priority, owner, number);
                if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                    best = Some((rank, want));
                }
            }
        }
        let ((.., number), want) = best?;
        let fits = requests.iter().enumerate().filter_map(|(i, request)| Some((i, fitting(request, want)?)));
        // A worker that has the model loaded comes before one that would have to load it, whoever asked first.
        let (request, offer) = fits.min_by_key(|&(i, offer)| (!is_ready(&requests[i].offers[offer]), i))?;
        Some((request, number, offer))
    }

    /// How many that want the same have at least this priority.
    pub(crate) fn ahead(&self, want: &Want, priority: Priority) -> u64 {
        let Some(lane) = self.lanes.get(want) else { return 0 };
        let upto = lane.iter().take_while(|((other, _), _)| *other <= Reverse(priority));
        upto.map(|(_, numbers)| numbers.len() as u64).sum()
    }

    /// How many that want the same come before it by priority and arrival, itself counted.
    pub(crate) fn position(&self, number: Number) -> Option<u64> {
        let entry = self.entries.get(&number)?;
        let Some(lane) = self.lanes.get(&entry.want) else { return Some(1) };
        let ahead = lane.iter().map(|((priority, _), numbers)| match priority.cmp(&Reverse(entry.priority)) {
            std::cmp::Ordering::Less => numbers.len(),
            std::cmp::Ordering::Equal => numbers.range(..number).count(),
            std::cmp::Ordering::Greater => 0,
        });
        Some(1 + ahead.sum::<usize>() as u64)
    }

    /// The first `limit` that want this, by priority and arrival: those whose moving up is worth telling.
    pub(crate) fn front(&self, want: &Want, limit: usize) -> Vec<&Entry> {
        let lane = self.lanes.get(want).into_iter().flatten();
        let firsts = lane.flat_map(|((priority, _), numbers)| numbers.iter().take(limit).map(move |n| (*priority, *n)));
        let mut order: Vec<(Reverse<Priority>, Number)> = firsts.collect();
        order.sort_unstable();
        order.iter().take(limit).filter_map(|(_, number)| self.entries.get(number)).collect()
    }

    /// The first `limit` in the order in which they would be taken if everything were offered; those that wait for a
    /// time come last.
    pub(crate) fn waiting(&self, limit: usize) -> Vec<Waiting> {
        let mut by_owner: BTreeMap<Reverse<Priority>, BTreeMap<&Option<KeyId>, BTreeSet<Number>>> = BTreeMap::new();
        for lane in self.lanes.values() {
            for ((priority, owner), numbers) in lane {
                by_owner.entry(*priority).or_default().entry(owner).or_default().extend(numbers);
            }
        }
        let mut owners = self.owners.clone();
        let mut turn = self.turns;
        let mut order = Vec::new();
        for (_, mut waiting) in by_owner {
            while order.len() < limit {
                let known = |owner: &Option<KeyId>| owners.get(owner).copied().unwrap_or_default();
                let next = waiting.iter().filter_map(|(owner, numbers)| Some((*owner, *numbers.first()?)));
                let next = next.min_by_key(|(owner, number)| (known(owner).running, known(owner).served, *number));
                let Some((owner, number)) = next else { break };
                turn += 1;
                let entry = owners.entry(owner.clone()).or_default();
                (entry.running, entry.served) = (entry.running + 1, turn);
                if let Some(numbers) = waiting.get_mut(owner) {
                    numbers.remove(&number);
                }
                order.push(number);
            }
        }
        order.extend(self.later.iter().map(|&(_, number)| number));
        order.truncate(limit);
        let mut counts: HashMap<&Want, u64> = HashMap::new();
        let entries = order.iter().filter_map(|number| self.entries.get(number));
        let told = entries.map(|entry| {
            let position = counts.entry(&entry.want).or_default();
            *position += 1;
            Waiting {
                job_id: entry.job_id.clone(),
                owner: entry.owner.clone(),
                priority: entry.priority,
                want: entry.want.clone(),
                created_ms: entry.created_ms,
                not_before_ms: entry.not_before_ms,
                crashes: entry.crashes,
                position: *position,
            }
        });
        told.collect()
    }

    fn rank(&self, priority: Reverse<Priority>, owner: &Option<KeyId>, number: Number) -> Rank {
        let owner = self.owners.get(owner).copied().unwrap_or_default();
        (priority, owner.running, owner.served, number)
    }

    fn enlane(&mut self, entry: &Entry) {
        let lane = self.lanes.entry(entry.want.clone()).or_default();
        lane.entry((Reverse(entry.priority), entry.owner.clone())).or_default().insert(entry.number);
    }
}

/// The offer of the request that fits: a ready worker before one that would have to be started.
fn fitting(request: &ClaimRequest, want: &Want) -> Option<usize> {
    if want.hive_id.as_ref().is_some_and(|hive| *hive != request.hive_id) {
        return None;
    }
    let fits = |offer: &&Offer| fits(offer, want);
    let ready = request.offers.iter().position(|offer| is_ready(offer) && fits(&offer));
    ready.or_else(|| request.offers.iter().position(|offer| fits(&offer)))
}

const fn is_ready(offer: &Offer) -> bool {
    matches!(offer, Offer::Worker { .. } | Offer::Hive)
}

fn fits(offer: &Offer, want: &Want) -> bool {
    match offer {
        // Whether a worker that was asked for by its id has the right model, it says itself.
        Offer::Worker { worker_id, kind, model } => match &want.worker_id {
            Some(id) => id == worker_id && want.kind == *kind,
            None => want.is_model(*kind, model),
        },
        Offer::Load { kind, model } => want.worker_id.is_none() && want.is_model(*kind, model),
        Offer::LoadAny { kind, except } => {
            want.worker_id.is_none() && want.kind == *kind && !except.iter().any(|model| same_model(model, &want.model))
        }
        Offer::Hive => want.kind == WorkKind::Hive && want.hive_id.is_some(),
    }
}

#[cfg(test)]
mod tests;
