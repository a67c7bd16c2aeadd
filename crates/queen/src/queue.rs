//! Who is next: a plain struct without synchronisation, so that the policy can be read and tested alone.

use operations_contract::Priority;
use rbee_hive::Model;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A place in the queue: by priority, then by arrival.
pub(crate) type Place = (Reverse<Priority>, u64);

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Want {
    pub(crate) model: Model,
    /// Only this worker will do.
    pub(crate) worker_id: Option<String>,
}

/// A worker that can serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) id: &'a str,
    pub(crate) model: &'a str,
}

/// What one who waited gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// This worker, alone.
    Worker(String),
    /// To start a worker for this model: nobody else does.
    Start(Model),
    /// Nothing: the worker that was asked for has ended.
    Gone,
}

/// Those who wait, and what is taken.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    arrivals: u64,
    waiting: BTreeMap<Place, Want>,
    busy: HashSet<String>,
    starting: HashSet<Model>,
}

impl Queue {
    /// A place behind everybody of the same priority.
    pub(crate) fn place(&mut self, priority: Priority) -> Place {
        self.arrivals += 1;
        (Reverse(priority), self.arrivals)
    }

    /// Waits at a place; one who has waited there before comes back to it.
    pub(crate) fn wait(&mut self, place: Place, want: Want) {
        self.waiting.insert(place, want);
    }

    /// Waits no longer.
    pub(crate) fn leave(&mut self, place: Place) {
        self.waiting.remove(&place);
    }

    /// A worker has nothing to do any more.
    pub(crate) fn free(&mut self, worker_id: &str) {
        self.busy.remove(worker_id);
    }

    /// Nobody starts a worker for the model any more.
    pub(crate) fn started(&mut self, model: &Model) {
        self.starting.remove(model);
    }

    /// The worker that was started for the model belongs to the one who started it.
    pub(crate) fn take(&mut self, worker_id: &str) -> bool {
        self.busy.insert(worker_id.to_owned())
    }

    /// Gives out what is free, in order; whoever gets something waits no longer.
    pub(crate) fn assign(&mut self, workers: &[Candidate<'_>]) -> Vec<(Place, Turn)> {
        let mut turns = Vec::new();
        // Who wants what somebody before him did not get will not get it either.
        let mut hopeless: HashSet<&Want> = HashSet::new();
        for (&place, want) in &self.waiting {
            // A worker that is being started belongs to the one who starts it.
            let starting = want.worker_id.is_none() && self.starting.contains(&want.model);
            if starting || hopeless.contains(want) {
                continue;
            }
            let fits = |worker: &&Candidate<'_>| match &want.worker_id {
                Some(id) => worker.id == id,
                None => want.model.is(worker.model),
            };
            let mut fitting = workers.iter().filter(fits).peekable();
            let none_fits = fitting.peek().is_none();
            let turn = match fitting.find(|worker| !self.busy.contains(worker.id)) {
                Some(worker) => {
                    self.busy.insert(worker.id.to_owned());
                    Some(Turn::Worker(worker.id.to_owned()))
                }
                None if none_fits && want.worker_id.is_some() => Some(Turn::Gone),
                None if none_fits && self.starting.insert(want.model.clone()) => Some(Turn::Start(want.model.clone())),
                None => None,
            };
            match turn {
                Some(turn) => turns.push((place, turn)),
                None => {
                    hopeless.insert(want);
                }
            }
        }
        for (place, _) in &turns {
            self.waiting.remove(place);
        }
        turns
    }

    /// Everybody who waits, with how many wait for the same before him, himself counted.
    pub(crate) fn positions(&self) -> Vec<(Place, u64)> {
        let mut counts: HashMap<&Want, u64> = HashMap::new();
        let count = |(&place, want)| {
            let count = counts.entry(want).or_default();
            *count += 1;
            (place, *count)
        };
        self.waiting.iter().map(count).collect()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(model: &str) -> Want {
        let folder = std::env::temp_dir();
        let model = match model {
            "tiny-scenes" => Model::resolve(None).unwrap(),
            other => {
                let path = folder.join(format!("rbee-queue-test-{}-{other}", std::process::id()));
                std::fs::create_dir_all(&path).unwrap();
                std::fs::write(path.join("model_index.json"), "{}").unwrap();
                Model::resolve(path.to_str()).unwrap()
            }
        };
        Want { model, worker_id: None }
    }

    fn join(queue: &mut Queue, want: &Want, priority: Priority) -> Place {
        let place = queue.place(priority);
        queue.wait(place, want.clone());
        place
    }

    #[test]
    fn one_starts_the_worker_and_the_others_wait_for_it() {
        let mut queue = Queue::default();
        let want = want("tiny-scenes");
        let first = join(&mut queue, &want, Priority::Normal);
        let second = join(&mut queue, &want, Priority::Normal);
        assert_eq!(queue.assign(&[]), [(first, Turn::Start(want.model.clone()))]);
        assert_eq!(queue.assign(&[]), []);
        assert_eq!(queue.positions(), [(second, 1)]);

        let worker = [Candidate { id: "w", model: "tiny-scenes" }];
        assert_eq!(queue.assign(&worker), [], "the worker is not the second one's before the first took it");
        assert!(queue.take("w"));
        queue.started(&want.model);
        assert_eq!(queue.assign(&worker), []);
        queue.free("w");
        assert_eq!(queue.assign(&worker), [(second, Turn::Worker("w".to_owned()))]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn priority_comes_before_arrival() {
        let mut queue = Queue::default();
        let want = want("tiny-scenes");
        let low = join(&mut queue, &want, Priority::Low);
        let normal = join(&mut queue, &want, Priority::Normal);
        let high = join(&mut queue, &want, Priority::High);
        assert_eq!(queue.positions(), [(high, 1), (normal, 2), (low, 3)]);
        let worker = [Candidate { id: "w", model: "tiny-scenes" }];
        for expected in [high, normal, low] {
            assert_eq!(queue.assign(&worker), [(expected, Turn::Worker("w".to_owned()))]);
            queue.free("w");
        }
    }

    #[test]
    fn models_do_not_wait_for_each_other() {
        let mut queue = Queue::default();
        let (tiny, other) = (want("tiny-scenes"), want("other"));
        let worker = [Candidate { id: "w", model: "tiny-scenes" }];
        let first = join(&mut queue, &tiny, Priority::Normal);
        let second = join(&mut queue, &tiny, Priority::Normal);
        let third = join(&mut queue, &other, Priority::Low);
        assert_eq!(queue.assign(&worker), [(first, Turn::Worker("w".to_owned())), (third, Turn::Start(other.model))]);
        assert_eq!(queue.positions(), [(second, 1)]);
    }

    #[test]
    fn two_workers_of_a_model_are_both_used() {
        let mut queue = Queue::default();
        let tiny = want("tiny-scenes");
        let workers = ["a", "b"].map(|id| Candidate { id, model: "tiny-scenes" });
        for _ in 0..3 {
            join(&mut queue, &tiny, Priority::Normal);
        }
        assert_eq!(queue.assign(&workers).len(), 2);
    }

    #[test]
    fn a_worker_that_was_named_is_waited_for_and_missed() {
        let mut queue = Queue::default();
        let named = Want { worker_id: Some("b".to_owned()), ..want("tiny-scenes") };
        let workers = ["a", "b"].map(|id| Candidate { id, model: "tiny-scenes" });
        assert!(queue.take("b"));
        let place = join(&mut queue, &named, Priority::Normal);
        assert_eq!(queue.assign(&workers), []);
        assert_eq!(queue.assign(&workers[..1]), [(place, Turn::Gone)]);
    }

    #[test]
    fn one_who_lost_his_worker_comes_back_to_his_place() {
        let mut queue = Queue::default();
        let tiny = want("tiny-scenes");
        let first = join(&mut queue, &tiny, Priority::Normal);
        queue.assign(&[Candidate { id: "w", model: "tiny-scenes" }]);
        let second = join(&mut queue, &tiny, Priority::Normal);
        queue.wait(first, tiny);
        assert_eq!(queue.positions(), [(first, 1), (second, 2)]);
        queue.leave(first);
        assert_eq!(queue.positions(), [(second, 1)]);
    }
}
