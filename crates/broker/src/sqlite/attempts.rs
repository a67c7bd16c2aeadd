//! What the holder of a job may do with it, and what happens when he does nothing.

use super::Fault;
use super::core::Core;
use super::jobs::End;
use super::live::Held;
use super::rows::{self, JobRow};
use crate::queue::Number;
use crate::{Appended, AttemptId, BrokerError, Claim, ClaimRequest, Ending, GiveBack, Offer, Outcome};
use operations_contract::{
    ApiError, Base64Bytes, Completion, ErrorCode, ImageCompletion, ImageLink, JobEvent, JobProgress, JobState,
};
use rusqlite::{OptionalExtension as _, params};
use std::time::Duration;

/// A job that killed so many workers is the one that kills them.
const CRASHES: u32 = 3;
/// The pause after the first crash; four times as long after the second.
const BACK_OFF: Duration = Duration::from_millis(500);
/// The pause after a worker would not take the job.
const REFUSED: Duration = Duration::from_millis(500);
/// Bytes that are told of what a worker said, or of the log of a dead one.
const LAST_WORDS: usize = 4096;

impl Core {
    /// The claim that this request got already; or why it may not claim.
    pub(super) fn claimed_before(&self, request: &ClaimRequest) -> Result<Result<Option<Claim>, BrokerError>, Fault> {
        let enlisted = self
            .db
            .prepare_cached("SELECT incarnation FROM hives WHERE hive_id = ?1 AND expires_ms > ?2")?
            .query_row(params![request.hive_id, self.now_ms()], |row| row.get::<_, u64>(0))
            .optional()?;
        if enlisted != Some(request.incarnation) {
            let (hive_id, incarnation) = (request.hive_id.clone(), request.incarnation);
            return Ok(Err(BrokerError::NotEnlisted { hive_id, incarnation }));
        }
        match rows::claimed(&self.db, &request.hive_id, &request.id)? {
            Some(row) => {
                let worker_id = row.used_worker.clone();
                Ok(Ok(Some(self.claim_of(&row, worker_id)?)))
            }
            None => Ok(Ok(None)),
        }
    }

    /// Gives the job to the one who asked.
    pub(super) fn grant(&mut self, request: &ClaimRequest, number: Number, offer: usize) -> Result<Claim, Fault> {
        let mut row = rows::numbered(&self.db, number)?
            .ok_or_else(|| BrokerError::invalid(format!("the waiting job {number} has no row")))?;
        self.live.queue().take(number);
        self.moves_on(number, &row.want);
        let worker_id = match &request.offers[offer] {
            Offer::Worker { worker_id, .. } => Some(worker_id.clone()),
            Offer::Load { .. } | Offer::LoadAny { .. } | Offer::Hive => None,
        };
        row.state = JobState::Running;
        row.attempt = 1 + row.attempt.max(self.burnt.get(&number).copied().unwrap_or(0));
        row.sequence = 0;
        row.not_before_ms = 0;
        row.progress = None;
        row.started_ms = Some(self.now_ms());
        row.used_worker = worker_id.clone();
        self.store_row(&row)?;
        self.db
            .prepare_cached("UPDATE jobs SET holder = ?2, incarnation = ?3, claim_id = ?4 WHERE number = ?1")?
            .execute(params![number, request.hive_id, request.incarnation, request.id])?;
        let held = Held {
            number,
            attempt: row.attempt,
            hive_id: request.hive_id.clone(),
            incarnation: request.incarnation,
            owner: row.owner.clone(),
            until: self.options.clock.elapsed() + self.options.lease,
            cancelled: false,
        };
        self.live.held().insert(row.job_id.clone(), held);
        self.claim_of(&row, worker_id)
    }

    fn claim_of(&self, row: &JobRow, worker_id: Option<String>) -> Result<Claim, Fault> {
        Ok(Claim {
            attempt: AttemptId { job_id: row.job_id.clone(), number: row.attempt },
            operation: rows::operation(&self.db, row.number)?,
            want: row.want.clone(),
            priority: row.priority,
            worker_id,
            crashes: row.crashes,
            lease: self.options.lease,
        })
    }

    /// The row of a job that this attempt holds.
    fn holder(&self, attempt: &AttemptId) -> Result<JobRow, Fault> {
        self.live.holding(attempt, |_| ())?;
        rows::job(&self.db, &attempt.job_id)
    }

    pub(super) fn append(
        &mut self,
        attempt: &AttemptId,
        sequence: u64,
        events: &[JobEvent],
    ) -> Result<Appended, Fault> {
        let mut row = self.holder(attempt)?;
        let Some(known) = (row.sequence + 1).checked_sub(sequence) else {
            let message = format!("the event {sequence} of {attempt} comes after {}; some are missing", row.sequence);
            return Err(BrokerError::invalid(message).into());
        };
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        for event in events.iter().skip(known) {
            let mut event = event.clone();
            match &mut event {
                JobEvent::Started { model, worker_id, attempt: number } => {
                    row.count_try();
                    *number = row.tries;
                    row.started_ms = Some(self.now_ms());
                    row.progress = None;
                    row.used_model.clone_from(model);
                    row.used_worker.clone_from(worker_id);
                }
                JobEvent::Progress { step, total, phase, eta_ms, bytes_per_second } => {
                    row.progress = Some(JobProgress {
                        step: *step,
                        total: *total,
                        phase: *phase,
                        eta_ms: *eta_ms,
                        bytes_per_second: *bytes_per_second,
                    });
                }
                _ => {}
            }
            row.sequence += 1;
            self.tell(&mut row, event)?;
        }
        if known < events.len() {
            self.store_row(&row)?;
        }
        let until = self.options.clock.elapsed() + self.options.lease;
        self.live.holding(attempt, |held| held.until = until)?;
        Ok(Appended { last_event_id: row.last_event_id, cancelled: row.cancelled })
    }

    pub(super) fn finish(&mut self, attempt: &AttemptId, ending: &Ending, first: &Base64Bytes) -> Result<(), Fault> {
        let row = rows::job(&self.db, &attempt.job_id)?;
        if row.ended_by == Some(attempt.number) {
            return Ok(());
        }
        self.live.holding(attempt, |_| ())?;
        let by = Some(attempt.number);
        let end = match ending {
            Ending::Error(error) => End::error(error.clone(), by),
            Ending::Cancelled => End::cancelled(by),
            Ending::Complete(Outcome::Text(text)) => complete(Completion::Text(text.clone()), by),
            Ending::Complete(Outcome::Result { result }) => complete(Completion::Result { result: result.clone() }, by),
            Ending::Complete(Outcome::Images { pictures, format, width, height, model }) => {
                self.know_blobs(pictures.iter().map(|picture| &picture.blob))?;
                let link = |(index, seed): (u32, u64)| ImageLink {
                    index,
                    seed,
                    url: format!("/v1/jobs/{}/images/{index}", row.job_id),
                };
                let seeds = pictures.iter().map(|picture| picture.seed);
                let images = if pictures.len() > 1 { (0..).zip(seeds).map(link).collect() } else { Vec::new() };
                let completion = ImageCompletion {
                    image: Base64Bytes::default(),
                    format: *format,
                    seed: pictures.first().map_or(0, |picture| picture.seed),
                    width: *width,
                    height: *height,
                    model: model.clone(),
                    duration_ms: row.started_ms.map(|started| self.now_ms().saturating_sub(started)),
                    images,
                };
                let told = ImageCompletion { image: first.clone(), ..completion.clone() };
                let told = JobEvent::Complete(Completion::Image(told));
                let (pictures, picture_format) = (pictures.clone(), *format);
                End { told, pictures, picture_format, ..complete(Completion::Image(completion), by) }
            }
        };
        self.end(row, end)
    }

    pub(super) fn give_back(&mut self, attempt: &AttemptId, why: &GiveBack) -> Result<(), Fault> {
        let mut row = rows::job(&self.db, &attempt.job_id)?;
        if row.ended_by == Some(attempt.number) || (row.state == JobState::Queued && row.attempt == attempt.number) {
            return Ok(());
        }
        self.live.holding(attempt, |_| ())?;
        let now_ms = self.now_ms();
        let by = Some(attempt.number);
        match why {
            GiveBack::WorkerDied { reason, last_words } => {
                row.count_try();
                row.crashes += 1;
                if row.crashes < CRASHES || row.cancelled {
                    let pause = BACK_OFF * 4_u32.pow(row.crashes - 1);
                    let why = format!("{}; trying again in {:.1} s", end_of(reason), pause.as_secs_f64());
                    return self.wait_again(row, Some(why), now_ms + millis(pause), by);
                }
                let words = if last_words.is_empty() { "" } else { "\n" };
                let (reason, last_words) = (end_of(reason), end_of(last_words));
                let message = format!("{CRASHES} workers died over it, the last one so: {reason}{words}{last_words}");
                let error = ApiError::new(ErrorCode::WorkerCrashed, message);
                self.store_row(&row)?;
                self.end(row, End::error(error, by))
            }
            GiveBack::HiveStopping => self.wait_again(row, Some("the hive stops; the job waits on".to_owned()), 0, by),
            GiveBack::QueenStopping => {
                self.wait_again(row, Some("the queen stops; the job waits on".to_owned()), 0, by)
            }
            GiveBack::Refused { reason } => {
                let why = format!("the worker would not take it: {}; trying again", end_of(reason));
                self.wait_again(row, Some(why), now_ms + millis(REFUSED), by)
            }
            GiveBack::Unused => self.return_unused(attempt),
        }
    }

    /// Puts a job back that nobody began; nobody needs to be told why.
    pub(super) fn return_unused(&mut self, attempt: &AttemptId) -> Result<(), Fault> {
        if self.live.holding(attempt, |_| ()).is_err() {
            return Ok(());
        }
        let row = rows::job(&self.db, &attempt.job_id)?;
        self.wait_again(row, None, 0, Some(attempt.number))
    }

    /// Takes jobs away from those who did not renew.
    pub(super) fn expire_leases(&mut self) -> Result<(), Fault> {
        let now = self.options.clock.elapsed();
        self.take_away(|held| held.until <= now, |held| format!("the hive {} was not heard of in time", held.hive_id))
    }

    /// Takes jobs away from those whom `which` names.
    pub(super) fn take_away(
        &mut self,
        which: impl Fn(&Held) -> bool,
        why: impl Fn(&Held) -> String,
    ) -> Result<(), Fault> {
        let mut taken: Vec<(String, String)> = {
            let held = self.live.held();
            held.iter().filter(|(_, held)| which(held)).map(|(id, held)| (id.clone(), why(held))).collect()
        };
        taken.sort_unstable();
        for (job_id, why) in taken {
            let row = rows::job(&self.db, &job_id)?;
            tracing::warn!(job = job_id, "{why}; the job waits again");
            self.wait_again(row, Some(format!("{why}; trying again")), 0, None)?;
        }
        Ok(())
    }
}

/// What can be told of an attempt's events without the disk.
pub(super) fn check(events: &[JobEvent], sequence: u64) -> Result<(), BrokerError> {
    /// Bytes of an event.
    const MOST: usize = 8 * 1024 * 1024;
    if sequence == 0 {
        return Err(BrokerError::invalid("events are numbered from 1"));
    }
    for event in events {
        if event.is_terminal() || matches!(event, JobEvent::Queued { .. }) {
            return Err(BrokerError::invalid(format!("{} cannot be appended", event.name())));
        }
        let bytes = match event {
            JobEvent::Preview { image, .. } => image.len(),
            JobEvent::Token { t, .. } => t.len(),
            JobEvent::Narration { message, target, .. } => message.len() + target.len(),
            JobEvent::Started { model, worker_id, .. } => {
                model.as_ref().map_or(0, String::len) + worker_id.as_ref().map_or(0, String::len)
            }
            _ => 0,
        };
        if bytes > MOST {
            return Err(BrokerError::invalid(format!("{} has {bytes} bytes, the most is {MOST}", event.name())));
        }
    }
    Ok(())
}

/// SQLite counts to 2^63, which is far beyond the milliseconds of any year.
pub(super) fn check_incarnation(incarnation: u64) -> Result<(), BrokerError> {
    if i64::try_from(incarnation).is_err() {
        return Err(BrokerError::invalid(format!("an incarnation is a time in milliseconds, got {incarnation}")));
    }
    Ok(())
}

/// What can be told of an ending without the disk.
pub(super) fn check_ending(attempt: &AttemptId, ending: &Ending) -> Result<(), BrokerError> {
    match ending {
        Ending::Complete(Outcome::Images { pictures, .. }) if pictures.is_empty() => {
            Err(BrokerError::invalid(format!("{attempt} is complete without a picture")))
        }
        _ => Ok(()),
    }
}

fn complete(completion: Completion, by: Option<u32>) -> End {
    End::plain(JobState::Complete, JobEvent::Complete(completion), by)
}

fn millis(pause: Duration) -> u64 {
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

/// The last words are those that say why.
fn end_of(words: &str) -> &str {
    let words = words.trim();
    let from = words.len().saturating_sub(LAST_WORDS);
    let from = (from..=words.len()).find(|&i| words.is_char_boundary(i)).unwrap_or(from);
    &words[from..]
}
