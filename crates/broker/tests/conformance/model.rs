//! Random interleavings of everything that can happen to jobs, beside a model of what has to come of it.

use crate::bed::{Bed, LEASE, Way, any_model, job, started, step};
use broker::{AttemptId, BrokerError, ClaimRequest, Ending, GiveBack, Idempotency, KeyId, NewJob, Outcome};
use operations_contract::{ApiError, ErrorCode, JobEvent, JobState, Priority};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::time::Duration;

/// What may happen. Jobs are chosen by number among those that there are.
#[derive(Debug, Clone)]
enum Step {
    Submit { owner: usize, priority: usize, key: Option<(usize, u8)> },
    Claim { hive: usize },
    Renew { job: usize, older: bool },
    Append { job: usize, older: bool, events: usize, repeated: bool },
    Finish { job: usize, older: bool, ending: usize, repeated: bool },
    GiveBack { job: usize, older: bool, why: usize, repeated: bool },
    Cancel { job: usize },
    Enlist { hive: usize, anew: bool },
    Leap { part: u32 },
    Restart,
}

/// A step that cannot be mistaken for time that passed on a slow machine.
const LEAP: Duration = Duration::from_secs(1000);
const HIVES: [&str; 2] = ["h", "other"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0..30_usize;
    let step = prop_oneof![
        5 => (0..3_usize, 0..3_usize, prop::option::weighted(0.4, (0..3_usize, 0..2_u8)))
            .prop_map(|(owner, priority, key)| Step::Submit { owner, priority, key }),
        7 => (0..2_usize).prop_map(|hive| Step::Claim { hive }),
        2 => (which.clone(), prop::bool::weighted(0.3)).prop_map(|(job, older)| Step::Renew { job, older }),
        5 => (which.clone(), prop::bool::weighted(0.2), 1..4_usize, any::<bool>())
            .prop_map(|(job, older, events, repeated)| Step::Append { job, older, events, repeated }),
        4 => (which.clone(), prop::bool::weighted(0.2), 0..3_usize, any::<bool>())
            .prop_map(|(job, older, ending, repeated)| Step::Finish { job, older, ending, repeated }),
        5 => (which.clone(), prop::bool::weighted(0.2), 0..4_usize, any::<bool>())
            .prop_map(|(job, older, why, repeated)| Step::GiveBack { job, older, why, repeated }),
        2 => which.prop_map(|job| Step::Cancel { job }),
        1 => (0..2_usize, any::<bool>()).prop_map(|(hive, anew)| Step::Enlist { hive, anew }),
        2 => (1..4_u32).prop_map(|part| Step::Leap { part }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Waits,
    /// By which hive, and until when without a sign of life.
    Held {
        hive: usize,
        until: Duration,
    },
    Ended(JobState),
}

#[derive(Debug)]
struct Known {
    id: String,
    place: Place,
    attempt: u32,
    /// Attempts that a worker began or died over; `counted` once this one is among them.
    tries: u32,
    counted: bool,
    sequence: u64,
    crashes: u32,
    cancelled: bool,
    /// It may be backing off.
    pauses: bool,
    ended_by: Option<u32>,
    owner: Option<KeyId>,
    key: Option<(usize, u8)>,
}

impl Known {
    /// Its worker began, or died over it.
    fn count(&mut self) {
        if !std::mem::replace(&mut self.counted, true) {
            self.tries += 1;
        }
    }
}

struct World {
    bed: Bed,
    jobs: Vec<Known>,
    now: Duration,
    incarnations: [u64; 2],
}

pub(crate) async fn whatever_happens_each_job_ends_once(way: Way) {
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        // Each restart of a server takes a while.
        let cases = if way == Way::Direct { 24 } else { 8 };
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
        TestRunner::new(config).run(&steps(), |steps| {
            runtime.block_on(async {
                let mut world = World::new(way).await;
                for step in steps {
                    world = world.apply(step).await;
                }
                world.end().await;
            });
            Ok(())
        })
    };
    tokio::task::spawn_blocking(run).await.unwrap().unwrap();
}

impl World {
    async fn new(way: Way) -> Self {
        let bed = Bed::new(way).await;
        bed.enlist(HIVES[1], 1).await;
        Self { bed, jobs: Vec::new(), now: Duration::ZERO, incarnations: [1, 1] }
    }

    async fn apply(mut self, step: Step) -> Self {
        match step {
            Step::Submit { owner, priority, key } => self.submit(owner, priority, key).await,
            Step::Claim { hive } => self.claim(hive).await,
            Step::Renew { job, older } => {
                if let Some((job, attempt)) = self.attempt(job, older) {
                    let renewed = self.bed.hive.renew(&attempt).await;
                    let until = self.now + LEASE;
                    let holds = self.holds(job, &attempt);
                    self.check(holds, renewed.as_ref());
                    if holds {
                        assert_eq!(renewed.unwrap().cancelled, self.jobs[job].cancelled);
                        self.renewed(job, until);
                    }
                }
            }
            Step::Append { job, older, events, repeated } => self.append(job, older, events, repeated).await,
            Step::Finish { job, older, ending, repeated } => self.finish(job, older, ending, repeated).await,
            Step::GiveBack { job, older, why, repeated } => self.give_back(job, older, why, repeated).await,
            Step::Cancel { job } => {
                let Some(job) = self.jobs.get_mut(job) else { return self };
                self.bed.queen.cancel(&job.id).await.unwrap();
                match job.place {
                    Place::Waits => job.place = Place::Ended(JobState::Cancelled),
                    Place::Held { .. } => job.cancelled = true,
                    Place::Ended(_) => {}
                }
            }
            Step::Enlist { hive, anew } => {
                self.incarnations[hive] += u64::from(anew);
                self.bed.enlist(HIVES[hive], self.incarnations[hive]).await;
                if anew {
                    self.lose(|place| matches!(place, Place::Held { hive: holder, .. } if *holder == hive));
                }
            }
            Step::Leap { part } => {
                self.now += LEAP * part;
                self.bed.leap(LEAP * part).await;
                let now = self.now;
                self.jobs.iter_mut().for_each(|job| job.pauses = false);
                self.lose(|place| matches!(place, Place::Held { until, .. } if *until <= now));
            }
            Step::Restart => {
                self.bed = self.bed.restart().await;
                let until = self.now + LEASE;
                for job in 0..self.jobs.len() {
                    self.renewed(job, until);
                }
            }
        }
        self
    }

    async fn submit(&mut self, owner: usize, priority: usize, key: Option<(usize, u8)>) {
        let owner = ["a", "b"].get(owner).map(|name| KeyId((*name).to_owned()));
        let new = NewJob {
            owner: owner.clone(),
            priority: [Priority::Low, Priority::Normal, Priority::High][priority],
            idempotency: key.map(|(key, body)| Idempotency::new(format!("key {key}"), &[body])),
            ..job()
        };
        let same = key.and_then(|(key, _)| {
            self.jobs.iter().find(|job| job.owner == owner && job.key.is_some_and(|(other, _)| other == key))
        });
        let submitted = self.bed.queen.submit(new.clone()).await;
        match same {
            None => {
                assert_eq!(submitted.unwrap().job_id, new.job_id);
                self.jobs.push(Known {
                    id: new.job_id,
                    place: Place::Waits,
                    attempt: 0,
                    tries: 0,
                    counted: false,
                    sequence: 0,
                    crashes: 0,
                    cancelled: false,
                    pauses: false,
                    ended_by: None,
                    owner,
                    key,
                });
            }
            Some(known) if known.key == key => {
                let submitted = submitted.unwrap();
                assert_eq!((submitted.job_id, submitted.new), (known.id.clone(), false));
            }
            Some(_) => assert!(matches!(submitted, Err(BrokerError::Conflict { .. }))),
        }
    }

    async fn claim(&mut self, hive: usize) {
        let request = ClaimRequest::new(HIVES[hive], self.incarnations[hive], vec![any_model()], Duration::ZERO);
        let claim = self.bed.hive.claim(request).await.unwrap();
        let surely = self.jobs.iter().any(|job| job.place == Place::Waits && !job.pauses);
        let Some(claim) = claim else {
            assert!(!surely, "a job that waits was not given");
            return;
        };
        let job = self.jobs.iter_mut().find(|job| job.id == claim.attempt.job_id).unwrap();
        assert_eq!(job.place, Place::Waits, "a job was given that does not wait");
        job.attempt += 1;
        assert_eq!((claim.attempt.number, claim.crashes), (job.attempt, job.crashes));
        job.place = Place::Held { hive, until: self.now + LEASE };
        (job.sequence, job.pauses, job.counted) = (0, false, false);
    }

    async fn append(&mut self, job: usize, older: bool, events: usize, repeated: bool) {
        let Some((job, attempt)) = self.attempt(job, older) else { return };
        let holds = self.holds(job, &attempt);
        let sequence = if holds { self.jobs[job].sequence + 1 } else { 1 };
        let mut told = vec![started()];
        told.extend((0..events as u64).map(step));
        let appended = self.bed.hive.append(&attempt, sequence, told.clone()).await;
        self.check(holds, appended.as_ref());
        if holds {
            self.jobs[job].sequence += told.len() as u64;
            self.jobs[job].count();
            let until = self.now + LEASE;
            self.renewed(job, until);
            if repeated {
                assert_eq!(self.bed.hive.append(&attempt, sequence, told).await, appended);
            }
        }
    }

    async fn finish(&mut self, job: usize, older: bool, ending: usize, repeated: bool) {
        let Some((job, attempt)) = self.attempt(job, older) else { return };
        let holds = self.holds(job, &attempt);
        let (ending, state) = match ending {
            0 => (Ending::Complete(Outcome::Result { result: 7.into() }), JobState::Complete),
            1 => (Ending::Error(ApiError::new(ErrorCode::OutOfMemory, "too large")), JobState::Error),
            _ => (Ending::Cancelled, JobState::Cancelled),
        };
        let finished = self.bed.hive.finish(&attempt, ending.clone()).await;
        self.check(holds || self.jobs[job].ended_by == Some(attempt.number), finished.as_ref());
        if holds {
            (self.jobs[job].place, self.jobs[job].ended_by) = (Place::Ended(state), Some(attempt.number));
            if repeated {
                self.bed.hive.finish(&attempt, ending).await.unwrap();
            }
        }
    }

    async fn give_back(&mut self, job: usize, older: bool, why: usize, repeated: bool) {
        let Some((job, attempt)) = self.attempt(job, older) else { return };
        let holds = self.holds(job, &attempt);
        let why = match why {
            0 | 1 => GiveBack::WorkerDied { reason: "it died".to_owned(), last_words: "help".to_owned() },
            2 => GiveBack::HiveStopping,
            _ => GiveBack::Refused { reason: "full".to_owned() },
        };
        let given = self.bed.hive.give_back(&attempt, why.clone()).await;
        let known = &mut self.jobs[job];
        let is_back = known.place == Place::Waits && attempt.number == known.attempt;
        let ended = known.ended_by == Some(attempt.number);
        if holds {
            let died = matches!(why, GiveBack::WorkerDied { .. });
            known.crashes += u32::from(died && !known.cancelled);
            if died && !known.cancelled {
                known.count();
            }
            known.place = if known.cancelled {
                known.ended_by = Some(attempt.number);
                Place::Ended(JobState::Cancelled)
            } else if known.crashes == 3 && died {
                known.ended_by = Some(attempt.number);
                Place::Ended(JobState::Error)
            } else {
                known.pauses = !matches!(why, GiveBack::HiveStopping);
                Place::Waits
            };
            if repeated {
                self.bed.hive.give_back(&attempt, why).await.unwrap();
            }
        }
        self.check(holds || is_back || ended, given.as_ref());
    }

    /// The attempt at a job that somebody would name, if there was one.
    fn attempt(&self, job: usize, older: bool) -> Option<(usize, AttemptId)> {
        let known = self.jobs.get(job)?;
        let number = known.attempt.checked_sub(u32::from(older)).filter(|number| *number > 0)?;
        Some((job, AttemptId { job_id: known.id.clone(), number }))
    }

    fn holds(&self, job: usize, attempt: &AttemptId) -> bool {
        let known = &self.jobs[job];
        matches!(known.place, Place::Held { .. }) && known.attempt == attempt.number
    }

    #[track_caller]
    fn check<T: std::fmt::Debug>(&self, may: bool, result: Result<&T, &BrokerError>) {
        match result {
            Ok(_) => assert!(may, "an attempt that is over was heard"),
            Err(BrokerError::Stale { .. }) => assert!(!may, "the holder was refused"),
            Err(error) => panic!("{error}"),
        }
    }

    fn renewed(&mut self, job: usize, to: Duration) {
        if let Place::Held { until, .. } = &mut self.jobs[job].place {
            *until = to;
        }
    }

    /// Jobs whose holder is gone wait again, or end where they were to end.
    fn lose(&mut self, which: impl Fn(&Place) -> bool) {
        for job in self.jobs.iter_mut().filter(|job| which(&job.place)) {
            job.place = if job.cancelled { Place::Ended(JobState::Cancelled) } else { Place::Waits };
        }
    }

    /// Lets every job end, and then looks at each of them.
    async fn end(mut self) {
        for job in 0..self.jobs.len() {
            let Place::Held { .. } = self.jobs[job].place else { continue };
            self.finish(job, false, 0, true).await;
        }
        self = self.apply(Step::Leap { part: 1 }).await;
        while self.jobs.iter().any(|job| job.place == Place::Waits) {
            self.claim(0).await;
            for job in 0..self.jobs.len() {
                if let Place::Held { .. } = self.jobs[job].place {
                    self.finish(job, false, 1, false).await;
                }
            }
        }
        let counts = self.bed.queen.counts().await.unwrap();
        assert_eq!((counts.queued, counts.running, counts.kept), (0, 0, self.jobs.len()));
        for job in &self.jobs {
            let record = self.bed.queen.job(&job.id).await.unwrap();
            assert_eq!(Place::Ended(record.job.state), job.place, "{}", job.id);
            assert_eq!((record.job.attempt, record.crashes), (job.tries, job.crashes));
            let log = self.bed.log(&job.id).await;
            let ids: Vec<u64> = log.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, (1..=record.last_event_id).collect::<Vec<_>>(), "ids rise by one");
            assert_eq!(log.iter().filter(|(_, event)| event.is_terminal()).count(), 1, "there is one last event");
            assert!(log.last().is_some_and(|(_, event)| event.is_terminal()));
            assert!(matches!(log[0].1, JobEvent::Queued { .. }));
        }
    }
}
