//! What a queen asks.

use super::watch::{Watcher, with_picture};
use super::writer::Durability;
use super::{Fault, SqliteBroker, jobs, registry, rows};
use crate::keyring;
use crate::{
    Broker, BrokerError, EventStream, HiveRecord, JobCounts, JobFilter, JobRecord, KeyId, KeyRecord, NewJob, NewKey,
    Role, StoredOperation, Submitted, Waiting,
};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use operations_contract::{ApiError, JobEvent, JobState};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

#[async_trait]
impl Broker for SqliteBroker {
    async fn submit(&self, job: NewJob) -> Result<Submitted, BrokerError> {
        jobs::check(&job)?;
        let operation = serde_json::to_string(&job.operation)
            .map_err(|error| BrokerError::invalid(format!("the operation cannot be stored: {error}")))?;
        self.writer.write(Durability::Synced, move |core| core.submit(&job, &operation)).await
    }

    async fn job(&self, job_id: &str) -> Result<JobRecord, BrokerError> {
        let (job_id, blobs, live) = (job_id.to_owned(), self.blobs.clone(), Arc::clone(&self.live));
        self.readers
            .read(move |db| {
                let row = rows::job(db, &job_id)?;
                let (result, error) = rows::ending(db, &row)?;
                let position = (row.state == JobState::Queued).then(|| live.queue().position(row.number)).flatten();
                let mut record = row.into_record(position);
                record.job.error = error;
                if let Some(completion) = result {
                    match with_picture(db, JobEvent::Complete(completion), &record.pictures, &blobs) {
                        Ok(JobEvent::Complete(completion)) => record.job.result = Some(completion),
                        Ok(_) => {}
                        Err(Fault::No(error)) => record.job.error = Some(error.into()),
                        Err(fault) => return Err(fault),
                    }
                }
                Ok(record)
            })
            .await
    }

    async fn operation(&self, job_id: &str) -> Result<StoredOperation, BrokerError> {
        let job_id = job_id.to_owned();
        self.readers.read(move |db| rows::operation(db, rows::job(db, &job_id)?.number)).await
    }

    async fn list(&self, filter: JobFilter) -> Result<Vec<JobRecord>, BrokerError> {
        let live = Arc::clone(&self.live);
        self.readers
            .read(move |db| {
                let listed = rows::list(db, &filter)?.into_iter().map(|row| {
                    let (_, error) = if row.state == JobState::Error { rows::ending(db, &row)? } else { (None, None) };
                    let position = (row.state == JobState::Queued).then(|| live.queue().position(row.number)).flatten();
                    let mut record = row.into_record(position);
                    record.job.error = error;
                    Ok(record)
                });
                listed.collect()
            })
            .await
    }

    async fn counts(&self) -> Result<JobCounts, BrokerError> {
        let (queued, running) = {
            let queue = self.live.queue();
            (queue.len(), queue.running())
        };
        let kept = self
            .readers
            .read(|db| {
                let sql = "SELECT count(*) FROM jobs WHERE finished_ms IS NOT NULL";
                Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
            })
            .await?;
        Ok(JobCounts { queued, running, kept, limit: self.options.limit })
    }

    async fn waiting(&self, limit: usize) -> Result<Vec<Waiting>, BrokerError> {
        Ok(self.live.queue().waiting(limit))
    }

    async fn watch(&self, job_id: &str, after: u64) -> Result<EventStream, BrokerError> {
        // Before the row is read: what is told from here on is not missed.
        let channel = self.live.channel(job_id);
        let changed = channel.subscribe();
        let job_id = job_id.to_owned();
        let id = job_id.clone();
        let row = self.readers.read(move |db| rows::job(db, &id)).await?;
        if after > row.last_event_id {
            return Err(BrokerError::Beyond { after, last: row.last_event_id });
        }
        let watcher = Watcher {
            job_id,
            number: row.number,
            after,
            channel,
            changed,
            live: Arc::clone(&self.live),
            readers: Arc::clone(&self.readers),
            blobs: self.blobs.clone(),
            read: VecDeque::new(),
            ended: row.state.is_terminal() && after == row.last_event_id,
        };
        Ok(watcher.stream())
    }

    async fn cancel(&self, job_id: &str) -> Result<(), BrokerError> {
        let job_id = job_id.to_owned();
        self.writer.write(Durability::Synced, move |core| core.cancel(&job_id)).await
    }

    async fn refuse(&self, job_id: &str, error: ApiError) -> Result<bool, BrokerError> {
        let job_id = job_id.to_owned();
        self.writer.write(Durability::Synced, move |core| core.refuse(&job_id, &error)).await
    }

    async fn settled(&self, job_id: &str, patience: Duration) -> Result<bool, BrokerError> {
        let id = job_id.to_owned();
        let seen = self.readers.read(move |db| Ok(rows::job(db, &id)?.last_event_id)).await?;
        let mut events = self.watch(job_id, seen).await?;
        let ended = async {
            while let Some(event) = events.next().await {
                if event?.1.is_terminal() {
                    break;
                }
            }
            Ok(true)
        };
        tokio::time::timeout(patience, ended).await.unwrap_or(Ok(false))
    }

    async fn hives(&self) -> Result<Vec<HiveRecord>, BrokerError> {
        let now_ms = self.options.clock.unix_ms();
        self.readers.read(move |db| registry::hives(db, now_ms)).await
    }

    async fn hive_owner(&self, hive_id: &str) -> Result<Option<KeyId>, BrokerError> {
        let hive_id = hive_id.to_owned();
        self.readers.read(move |db| registry::owner(db, &hive_id)).await
    }

    async fn bind_hive(&self, hive_id: &str, key: &KeyId) -> Result<(), BrokerError> {
        let (hive_id, key) = (hive_id.to_owned(), key.clone());
        self.writer.write(Durability::Synced, move |core| core.bind_hive(&hive_id, &key)).await
    }

    async fn release_hive(&self, hive_id: &str) -> Result<(), BrokerError> {
        let hive_id = hive_id.to_owned();
        self.writer.write(Durability::Synced, move |core| core.release_hive(&hive_id)).await
    }

    async fn create_key(&self, name: &str, role: Role) -> Result<NewKey, BrokerError> {
        let (row, secret) = keyring::draw(name, role, self.options.clock.unix_ms())?;
        let (id, keyring) = (row.record.id.clone(), Arc::clone(&self.keyring));
        let stored = row.clone();
        self.writer.write(Durability::Synced, move |core| core.insert_key(&stored.record, &stored.sha256)).await?;
        keyring.insert(row);
        Ok(NewKey { id, secret })
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, BrokerError> {
        Ok(self.keyring.list())
    }

    async fn revoke_key(&self, name_or_id: &str) -> Result<bool, BrokerError> {
        let name_or_id = name_or_id.to_owned();
        let revoked = self.writer.write(Durability::Synced, move |core| core.revoke_key(&name_or_id)).await?;
        if let Some(id) = &revoked {
            self.keyring.remove(id);
        }
        Ok(revoked.is_some())
    }

    async fn check_key(&self, secret: &str) -> Result<Option<(KeyId, Role)>, BrokerError> {
        let now_ms = self.options.clock.unix_ms();
        let Some(known) = self.keyring.check(secret, now_ms) else { return Ok(None) };
        if known.note {
            let id = known.id.clone();
            self.writer.write_later(move |core| core.key_used(&id, now_ms));
        }
        Ok(Some((known.id, known.role)))
    }
}
