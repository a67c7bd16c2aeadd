//! How jobs lie in their rows.

use super::Fault;
use super::live::Held;
use crate::queue::{Entry, Number};
use crate::{BrokerError, JobFilter, JobRecord, KeyId, PictureRef, StoredOperation, Want, WorkKind};
use operations_contract::{
    ApiError, Completion, ImageFormat, Job, JobEvent, JobProgress, JobResponse, JobState, Priority,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// A job's row, as the writer needs it.
#[derive(Debug, Clone)]
pub(super) struct JobRow {
    pub(super) number: Number,
    pub(super) job_id: String,
    pub(super) owner: Option<KeyId>,
    pub(super) priority: Priority,
    pub(super) want: Want,
    pub(super) state: JobState,
    pub(super) attempt: u32,
    /// Attempts that a worker began, or died over.
    pub(super) tries: u32,
    /// The last one of them.
    pub(super) tried: u32,
    pub(super) crashes: u32,
    pub(super) not_before_ms: u64,
    pub(super) cancelled: bool,
    pub(super) holder: Option<String>,
    pub(super) incarnation: Option<u64>,
    pub(super) sequence: u64,
    pub(super) ended_by: Option<u32>,
    pub(super) last_event_id: u64,
    pub(super) stored: u64,
    pub(super) bytes: u64,
    pub(super) progress: Option<JobProgress>,
    pub(super) used_model: Option<String>,
    pub(super) used_worker: Option<String>,
    pub(super) created_ms: u64,
    pub(super) started_ms: Option<u64>,
    pub(super) finished_ms: Option<u64>,
    pub(super) operation: String,
    pub(super) pictures: Vec<PictureRef>,
    pub(super) picture_format: ImageFormat,
}

const COLUMNS: &str = "number, job_id, owner, priority, kind, model, hive_id, worker_id, state, attempt, crashes, \
    not_before_ms, cancelled, holder, incarnation, sequence, ended_by, last_event_id, stored, bytes, progress, \
    used_model, used_worker, created_ms, started_ms, finished_ms, operation, pictures, picture_format, tries, tried";

/// A job that has not ended.
pub(super) enum Unfinished {
    Waiting(Entry),
    Held { job_id: String, held: Held },
}

impl JobRow {
    fn read(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            number: row.get(0)?,
            job_id: row.get(1)?,
            owner: row.get::<_, Option<String>>(2)?.map(KeyId),
            priority: priority(row.get(3)?),
            want: Want { kind: word(row, 4)?, model: row.get(5)?, hive_id: row.get(6)?, worker_id: row.get(7)? },
            state: word(row, 8)?,
            attempt: row.get(9)?,
            crashes: row.get(10)?,
            not_before_ms: row.get(11)?,
            cancelled: row.get(12)?,
            holder: row.get(13)?,
            incarnation: row.get(14)?,
            sequence: row.get(15)?,
            ended_by: row.get(16)?,
            last_event_id: row.get(17)?,
            stored: row.get(18)?,
            bytes: row.get(19)?,
            progress: json_column(row, 20)?,
            used_model: row.get(21)?,
            used_worker: row.get(22)?,
            created_ms: row.get(23)?,
            started_ms: row.get(24)?,
            finished_ms: row.get(25)?,
            operation: row.get(26)?,
            pictures: json_column(row, 27)?.unwrap_or_default(),
            picture_format: json_column(row, 28)?.unwrap_or(ImageFormat::Png),
            tries: row.get(29)?,
            tried: row.get(30)?,
        })
    }

    /// This attempt is one that counts: its worker began, or died.
    pub(super) fn count_try(&mut self) {
        if self.tried != self.attempt {
            self.tries += 1;
            self.tried = self.attempt;
        }
    }

    pub(super) fn entry(&self) -> Entry {
        Entry {
            number: self.number,
            job_id: self.job_id.clone(),
            owner: self.owner.clone(),
            priority: self.priority,
            want: self.want.clone(),
            created_ms: self.created_ms,
            not_before_ms: self.not_before_ms,
            crashes: self.crashes,
        }
    }

    /// The job as it stands, without its result.
    pub(super) fn into_record(self, position: Option<u64>) -> JobRecord {
        JobRecord {
            job: Job {
                sse_url: JobResponse::new(&*self.job_id).sse_url,
                job_id: self.job_id,
                operation: self.operation,
                state: self.state,
                position,
                progress: self.progress,
                attempt: self.tries,
                model: self.used_model,
                worker_id: self.used_worker,
                created_ms: self.created_ms,
                started_ms: self.started_ms,
                finished_ms: self.finished_ms,
                result: None,
                error: None,
            },
            owner: self.owner,
            priority: self.priority,
            want: self.want,
            crashes: self.crashes,
            hive_id: self.holder,
            cancel_requested: self.cancelled,
            not_before_ms: (self.not_before_ms > 0 && self.state == JobState::Queued).then_some(self.not_before_ms),
            last_event_id: self.last_event_id,
            pictures: self.pictures,
            picture_format: self.picture_format,
        }
    }
}

/// The job's row, whether it was dropped, or never was.
pub(super) fn job(db: &Connection, job_id: &str) -> Result<JobRow, Fault> {
    if let Some(row) = find(db, job_id)? {
        return Ok(row);
    }
    let mut expired = db.prepare_cached("SELECT 1 FROM expired WHERE job_id = ?1")?;
    let job_id: String = job_id.chars().take(128).collect();
    if expired.exists([&job_id])? {
        return Err(BrokerError::Expired { job_id }.into());
    }
    Err(BrokerError::NotFound { job_id }.into())
}

pub(super) fn find(db: &Connection, job_id: &str) -> Result<Option<JobRow>, Fault> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE job_id = ?1"))?;
    Ok(query.query_row([job_id], JobRow::read).optional()?)
}

pub(super) fn numbered(db: &Connection, number: Number) -> Result<Option<JobRow>, Fault> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE number = ?1"))?;
    Ok(query.query_row([number], JobRow::read).optional()?)
}

/// What a hive holds under this name of a request.
pub(super) fn claimed(db: &Connection, hive_id: &str, claim_id: &str) -> Result<Option<JobRow>, Fault> {
    let mut query = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM jobs WHERE state = 'running' AND holder = ?1 AND claim_id = ?2"
    ))?;
    Ok(query.query_row([hive_id, claim_id], JobRow::read).optional()?)
}

pub(super) fn list(db: &Connection, filter: &JobFilter) -> Result<Vec<JobRow>, Fault> {
    // Each has an index that it can walk from its end.
    let which = match (filter.state, &filter.owner) {
        (None, None) => "?1 IS NULL AND ?2 IS NULL",
        (Some(_), None) => "state = ?1 AND ?2 IS NULL",
        (None, Some(_)) => "?1 IS NULL AND owner = ?2",
        (Some(_), Some(_)) => "state = ?1 AND owner = ?2",
    };
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE {which} ORDER BY number DESC LIMIT ?3");
    let mut query = db.prepare_cached(&sql)?;
    let state = filter.state.map(JobState::as_str);
    let owner = filter.owner.as_ref().map(|owner| &owner.0);
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![state, owner, limit], JobRow::read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every job that has not ended, in order of arrival.
pub(super) fn unfinished(db: &Connection, path: &Path) -> Result<Vec<Unfinished>, Fault> {
    let mut query = db.prepare(&format!("SELECT {COLUMNS} FROM jobs WHERE finished_ms IS NULL ORDER BY number"))?;
    let rows = query.query_map([], JobRow::read)?;
    rows.map(|row| {
        let row = row?;
        Ok(match row.state {
            JobState::Queued => Unfinished::Waiting(row.entry()),
            JobState::Running => Unfinished::Held {
                held: Held {
                    number: row.number,
                    attempt: row.attempt,
                    hive_id: row.holder.unwrap_or_default(),
                    incarnation: row.incarnation.unwrap_or(0),
                    owner: row.owner,
                    until: Duration::ZERO,
                    cancelled: row.cancelled,
                },
                job_id: row.job_id,
            },
            JobState::Complete | JobState::Error | JobState::Cancelled => {
                let reason = format!("{} is {} and has no end", row.job_id, row.state);
                return Err(BrokerError::Corrupt { path: path.display().to_string(), reason }.into());
            }
        })
    })
    .collect()
}

/// What was asked for.
pub(super) fn operation(db: &Connection, number: Number) -> Result<StoredOperation, Fault> {
    let mut query = db.prepare_cached("SELECT operation FROM operations WHERE job = ?1")?;
    Ok(query.query_row([number], |row| json(row, 0))?)
}

/// The stored events after the one numbered `after`, at most `limit`.
pub(super) fn events(db: &Connection, number: Number, after: u64, limit: usize) -> Result<Vec<(u64, JobEvent)>, Fault> {
    let mut query =
        db.prepare_cached("SELECT id, event FROM events WHERE job = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = query.query_map(params![number, after, limit], |row| Ok((row.get(0)?, json(row, 1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The last event of a job that has ended, as what it came to or failed with.
pub(super) fn ending(db: &Connection, row: &JobRow) -> Result<(Option<Completion>, Option<ApiError>), Fault> {
    if !row.state.is_terminal() {
        return Ok((None, None));
    }
    let last = events(db, row.number, row.last_event_id.saturating_sub(1), 1)?;
    Ok(match last.into_iter().next().map(|(_, event)| event) {
        Some(JobEvent::Complete(completion)) => (Some(completion), None),
        Some(JobEvent::Error { code, message, param }) => (None, Some(ApiError { code, message, param })),
        _ => (None, None),
    })
}

pub(super) const fn priority_number(priority: Priority) -> i64 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

fn priority(number: i64) -> Priority {
    match number {
        ..=0 => Priority::Low,
        1 => Priority::Normal,
        2.. => Priority::High,
    }
}

pub(super) const fn kind_word(kind: WorkKind) -> &'static str {
    match kind {
        WorkKind::Image => "image",
        WorkKind::Infer => "infer",
        WorkKind::Hive => "hive",
    }
}

/// What is stored as JSON text.
pub(super) fn to_json(value: &impl Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| BrokerError::invalid(format!("cannot be stored: {error}")).into())
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| unreadable(column, error))
}

fn json_column<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<Option<T>, rusqlite::Error> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(serde_json::from_str).transpose().map_err(|error| unreadable(column, error))
}

/// A value whose JSON is one word.
fn word<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T, rusqlite::Error> {
    let text = row.get_ref(column)?.as_str()?;
    T::deserialize(serde::de::value::StrDeserializer::<serde_json::Error>::new(text))
        .map_err(|error| unreadable(column, error))
}

fn unreadable(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}
