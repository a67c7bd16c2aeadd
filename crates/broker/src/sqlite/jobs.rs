//! A job's way through its row: taken, told of, waiting again, ended.

use super::Fault;
use super::core::{After, Core};
use super::live::Held;
use super::rows::{self, JobRow};
use crate::{BlobId, BrokerError, Idempotency, NewJob, PictureRef, Submitted, WorkKind};
use operations_contract::{ApiError, ImageFormat, JobEvent, JobState, Level};
use rusqlite::{OptionalExtension as _, params};
use std::sync::Arc;

/// Events of one job that are stored; what comes then is told live only, except the last one.
const STORED_EVENTS: u64 = 65_536;

/// How a job is left behind.
pub(super) struct End {
    pub(super) state: JobState,
    /// What is stored; the picture of a `complete` is empty.
    pub(super) event: JobEvent,
    /// What is told to those who listen now.
    pub(super) told: JobEvent,
    pub(super) pictures: Vec<PictureRef>,
    pub(super) picture_format: ImageFormat,
    /// The attempt that ended it.
    pub(super) by: Option<u32>,
}

impl End {
    pub(super) fn plain(state: JobState, event: JobEvent, by: Option<u32>) -> Self {
        Self { state, told: event.clone(), event, pictures: Vec::new(), picture_format: ImageFormat::Png, by }
    }

    pub(super) fn cancelled(by: Option<u32>) -> Self {
        Self::plain(JobState::Cancelled, JobEvent::Cancelled {}, by)
    }

    pub(super) fn error(error: ApiError, by: Option<u32>) -> Self {
        Self::plain(JobState::Error, error.into(), by)
    }
}

impl Core {
    pub(super) fn submit(&mut self, job: &NewJob, operation: &str) -> Result<Submitted, Fault> {
        if rows::find(&self.db, &job.job_id)?.is_some() {
            return Ok(Submitted { job_id: job.job_id.clone(), new: false });
        }
        if let Some(job_id) = self.submitted_before(job)? {
            return Ok(Submitted { job_id, new: false });
        }
        let (waiting, ahead) = {
            let queue = self.live.queue();
            (queue.len() + queue.running(), queue.ahead(&job.want, job.priority))
        };
        if waiting >= self.options.limit {
            return Err(BrokerError::Full { limit: self.options.limit }.into());
        }
        self.know_blobs(job.operation.images())?;
        let created_ms = self.now_ms();
        let want = &job.want;
        self.db
            .prepare_cached(
                "INSERT INTO jobs (job_id, operation, owner, priority, kind, model, hive_id, worker_id, state, \
                 created_ms, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'queued', ?9, ?10)",
            )?
            .execute(params![
                job.job_id,
                job.operation.name(),
                job.owner.as_ref().map(|owner| &owner.0),
                rows::priority_number(job.priority),
                rows::kind_word(want.kind),
                want.model,
                want.hive_id,
                want.worker_id,
                created_ms,
                operation.len(),
            ])?;
        let number = self.db.last_insert_rowid();
        self.db
            .prepare_cached("INSERT INTO operations (job, operation) VALUES (?1, ?2)")?
            .execute(params![number, operation])?;
        if let Some(Idempotency { key, body_sha256 }) = &job.idempotency {
            self.db
                .prepare_cached("INSERT INTO idempotency (owner, key, body, job) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![owner_word(job), key, body_sha256, number])?;
        }
        self.use_blobs(number, job.operation.images())?;
        let entry = crate::queue::Entry {
            number,
            job_id: job.job_id.clone(),
            owner: job.owner.clone(),
            priority: job.priority,
            want: want.clone(),
            created_ms,
            not_before_ms: 0,
            crashes: 0,
        };
        self.live.queue().insert(entry, created_ms);
        self.told.insert(number, ahead + 1);
        let queued = JobEvent::Queued { position: ahead + 1 };
        let json = rows::to_json(&queued)?;
        self.insert_event(number, 1, &json)?;
        self.db.prepare_cached("UPDATE jobs SET last_event_id = 1, stored = 1 WHERE number = ?1")?.execute([number])?;
        Ok(Submitted { job_id: job.job_id.clone(), new: true })
    }

    /// The job of the same request, if the client has named it.
    fn submitted_before(&self, job: &NewJob) -> Result<Option<String>, Fault> {
        let Some(Idempotency { key, body_sha256 }) = &job.idempotency else { return Ok(None) };
        let known = self
            .db
            .prepare_cached(
                "SELECT body, job_id FROM idempotency JOIN jobs ON number = job \
                 WHERE idempotency.owner = ?1 AND key = ?2",
            )?
            .query_row(params![owner_word(job), key], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?)))
            .optional()?;
        match known {
            None => Ok(None),
            Some((body, job_id)) if body == body_sha256 => Ok(Some(job_id)),
            Some((_, job_id)) => Err(BrokerError::Conflict { key: key.clone(), job_id }.into()),
        }
    }

    pub(super) fn cancel(&mut self, job_id: &str) -> Result<(), Fault> {
        let row = rows::job(&self.db, job_id)?;
        match row.state {
            JobState::Queued => self.end(row, End::cancelled(None))?,
            JobState::Running => {
                self.db.prepare_cached("UPDATE jobs SET cancelled = 1 WHERE number = ?1")?.execute([row.number])?;
                if let Some(held) = self.live.held().get_mut(job_id) {
                    held.cancelled = true;
                }
                self.after_commit(After::TellHolders);
            }
            JobState::Complete | JobState::Error | JobState::Cancelled => {}
        }
        Ok(())
    }

    pub(super) fn refuse(&mut self, job_id: &str, error: &ApiError) -> Result<bool, Fault> {
        let row = rows::job(&self.db, job_id)?;
        let waits = row.state == JobState::Queued;
        if waits {
            self.end(row, End::error(error.clone(), None))?;
        }
        Ok(waits)
    }

    /// Appends an event to the log of a job that goes on. The row is changed in memory; [`Core::store_row`] writes it.
    pub(super) fn tell(&mut self, row: &mut JobRow, event: JobEvent) -> Result<(), Fault> {
        row.last_event_id += 1;
        // A preview is of use while it is the newest, and its id is never given to another.
        let is_preview = matches!(event, JobEvent::Preview { .. });
        if !is_preview && row.stored < STORED_EVENTS {
            let json = rows::to_json(&event)?;
            self.insert_event(row.number, row.last_event_id, &json)?;
            row.stored += 1;
            row.bytes += json.len() as u64;
        }
        if self.live.is_heard(&row.job_id) {
            let (job_id, id) = (row.job_id.clone(), row.last_event_id);
            self.after_commit(After::Publish { job_id, id, event: Arc::new(event) });
        }
        Ok(())
    }

    /// Writes what may have changed in a row that goes on.
    pub(super) fn store_row(&self, row: &JobRow) -> Result<(), Fault> {
        let progress = row.progress.as_ref().map(rows::to_json).transpose()?;
        self.db
            .prepare_cached(
                "UPDATE jobs SET state = ?2, attempt = ?3, crashes = ?4, not_before_ms = ?5, sequence = ?6, \
                 last_event_id = ?7, stored = ?8, bytes = ?9, progress = ?10, used_model = ?11, used_worker = ?12, \
                 started_ms = ?13, tries = ?14, tried = ?15 WHERE number = ?1",
            )?
            .execute(params![
                row.number,
                row.state.as_str(),
                row.attempt,
                row.crashes,
                row.not_before_ms,
                row.sequence,
                row.last_event_id,
                row.stored,
                row.bytes,
                progress,
                row.used_model,
                row.used_worker,
                row.started_ms,
                row.tries,
                row.tried,
            ])?;
        Ok(())
    }

    /// Puts a job that ran back into its place, or ends it where it was to end anyway.
    /// `by` is the attempt that asked for it, if one did.
    pub(super) fn wait_again(
        &mut self,
        mut row: JobRow,
        why: Option<String>,
        not_before_ms: u64,
        by: Option<u32>,
    ) -> Result<(), Fault> {
        if row.cancelled {
            return self.end(row, End::cancelled(by));
        }
        self.forget_holder(&row);
        row.state = JobState::Queued;
        row.not_before_ms = not_before_ms;
        row.progress = None;
        row.started_ms = None;
        let position = {
            let mut queue = self.live.queue();
            queue.insert(row.entry(), self.options.clock.unix_ms());
            queue.position(row.number).unwrap_or(1)
        };
        if let Some(message) = why {
            self.tell(&mut row, JobEvent::Narration { level: Level::Warn, target: "queen".to_owned(), message })?;
        }
        self.told.insert(row.number, position);
        self.tell(&mut row, JobEvent::Queued { position })?;
        self.store_row(&row)?;
        self.unserved = true;
        Ok(())
    }

    /// Writes the last event.
    pub(super) fn end(&mut self, row: JobRow, end: End) -> Result<(), Fault> {
        self.forget_holder(&row);
        if self.live.queue().remove(row.number).is_some() {
            self.moves_on(row.number, &row.want);
        }
        let id = row.last_event_id + 1;
        let json = rows::to_json(&end.event)?;
        self.insert_event(row.number, id, &json)?;
        self.use_blobs(row.number, end.pictures.iter().map(|picture| &picture.blob))?;
        let pictures = (!end.pictures.is_empty()).then(|| rows::to_json(&end.pictures)).transpose()?;
        self.db
            .prepare_cached(
                "UPDATE jobs SET state = ?2, last_event_id = ?3, stored = stored + 1, bytes = ?4, finished_ms = ?5, \
                 pictures = ?6, picture_format = ?7, ended_by = ?8, not_before_ms = 0 WHERE number = ?1",
            )?
            .execute(params![
                row.number,
                end.state.as_str(),
                id,
                row.bytes + json.len() as u64,
                self.now_ms(),
                pictures,
                rows::to_json(&end.picture_format)?,
                end.by,
            ])?;
        self.after_commit(After::Publish { job_id: row.job_id, id, event: Arc::new(end.told) });
        Ok(())
    }

    fn forget_holder(&mut self, row: &JobRow) {
        if row.state != JobState::Running {
            return;
        }
        let held: Option<Held> = self.live.held().remove(&row.job_id);
        if held.is_some() {
            self.live.queue().ended(&row.owner);
            self.after_commit(After::TellHolders);
        }
    }

    fn insert_event(&self, number: i64, id: u64, json: &str) -> Result<(), Fault> {
        self.db
            .prepare_cached("INSERT INTO events (job, id, event) VALUES (?1, ?2, ?3)")?
            .execute(params![number, id, json])?;
        Ok(())
    }

    /// Refuses blobs that were not put.
    pub(super) fn know_blobs<'a>(&self, blobs: impl IntoIterator<Item = &'a BlobId>) -> Result<(), Fault> {
        for blob in blobs {
            if !self.db.prepare_cached("SELECT 1 FROM blobs WHERE id = ?1")?.exists([blob.as_str()])? {
                return Err(BrokerError::NoBlob { blob: blob.clone() }.into());
            }
        }
        Ok(())
    }

    fn use_blobs<'a>(&self, number: i64, blobs: impl IntoIterator<Item = &'a BlobId>) -> Result<(), Fault> {
        for blob in blobs {
            self.db
                .prepare_cached("INSERT OR IGNORE INTO blob_uses (job, blob) VALUES (?1, ?2)")?
                .execute(params![number, blob.as_str()])?;
        }
        Ok(())
    }
}

fn owner_word(job: &NewJob) -> &str {
    job.owner.as_ref().map_or("", |owner| &owner.0)
}

/// What can be told of a new job without the disk.
pub(super) fn check(job: &NewJob) -> Result<(), BrokerError> {
    const ID_BYTES: usize = 128;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !job.job_id.starts_with("job-") || job.job_id.len() > ID_BYTES || !job.job_id.bytes().all(plain) {
        return Err(BrokerError::invalid(format!("a job's id is job-<uuid>, got {:?}", job.job_id)));
    }
    match (job.want.kind, &job.want.hive_id, job.want.model.is_empty()) {
        (WorkKind::Hive, None, _) => return Err(BrokerError::invalid("a job for a hive has to name it")),
        (WorkKind::Image | WorkKind::Infer, _, true) => {
            return Err(BrokerError::invalid("a job for a worker has to name the model"));
        }
        _ => {}
    }
    if let Some(Idempotency { key, .. }) = &job.idempotency
        && !(1..=Idempotency::KEY_BYTES).contains(&key.len())
    {
        let most = Idempotency::KEY_BYTES;
        return Err(BrokerError::invalid(format!("an Idempotency-Key has 1 to {most} bytes, got {}", key.len())));
    }
    Ok(())
}
