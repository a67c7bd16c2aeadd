//! What a hive asks.

use super::blobs::SMALL;
use super::writer::{Durability, Waiter, Writer};
use super::{SqliteBroker, attempts};
use crate::{
    Appended, AttemptId, BlobId, BrokerError, Claim, ClaimRequest, Ending, GiveBack, HiveRecord, Lease, Outcome,
    WorkSource,
};
use async_trait::async_trait;
use bytes::Bytes;
use operations_contract::{Base64Bytes, JobEvent};
use std::time::Duration;
use tokio::sync::oneshot;

/// A claim that is on its way to the one who asked; if he goes, it goes back.
struct Delivery<'a> {
    answer: oneshot::Receiver<Result<Option<Claim>, BrokerError>>,
    writer: &'a Writer,
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(Some(claim))) = self.answer.try_recv() {
            self.writer.write_later(move |core| core.return_unused(&claim.attempt));
        }
    }
}

#[async_trait]
impl WorkSource for SqliteBroker {
    async fn enlist(&self, hive: HiveRecord, ttl: Duration) -> Result<(), BrokerError> {
        attempts::check_incarnation(hive.incarnation)?;
        // Every few seconds from every hive, and a power cut takes the hives of this machine with it: no `fsync`.
        self.writer.write(Durability::Written, move |core| core.enlist(&hive, ttl)).await
    }

    async fn retire(&self, hive_id: &str, incarnation: u64) -> Result<(), BrokerError> {
        attempts::check_incarnation(incarnation)?;
        let hive_id = hive_id.to_owned();
        self.writer.write(Durability::Synced, move |core| core.retire(&hive_id, incarnation)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Option<Claim>, BrokerError> {
        let patience = request.patience;
        let (reply, answer) = oneshot::channel();
        self.writer.wait(Waiter { request, reply })?;
        let mut delivery = Delivery { answer, writer: &self.writer };
        // Who would not wait is answered at once; others are forgotten when they go.
        let most = if patience.is_zero() { Duration::MAX } else { patience };
        match tokio::time::timeout(most, &mut delivery.answer).await {
            Ok(Ok(claim)) => claim,
            Ok(Err(_)) => Err(BrokerError::Stopping),
            Err(_) => {
                // What came in the last moment is taken.
                delivery.answer.close();
                delivery.answer.try_recv().unwrap_or(Ok(None))
            }
        }
    }

    async fn renew(&self, attempt: &AttemptId) -> Result<Lease, BrokerError> {
        let until = self.options.clock.elapsed() + self.options.lease;
        self.live.holding(attempt, |held| {
            held.until = until;
            Lease { cancelled: held.cancelled }
        })
    }

    async fn cancelled(&self, attempt: &AttemptId, patience: Duration) -> Result<bool, BrokerError> {
        let mut changed = self.live.holders_told();
        let cancelled = async {
            loop {
                changed.mark_unchanged();
                if self.live.is_stopped() {
                    return Err(BrokerError::Stopping);
                }
                if self.live.holding(attempt, |held| held.cancelled)? {
                    return Ok(true);
                }
                if changed.changed().await.is_err() {
                    return Err(BrokerError::Stopping);
                }
            }
        };
        tokio::time::timeout(patience, cancelled).await.unwrap_or(Ok(false))
    }

    async fn append(&self, attempt: &AttemptId, sequence: u64, events: Vec<JobEvent>) -> Result<Appended, BrokerError> {
        attempts::check(&events, sequence)?;
        let attempt = attempt.clone();
        self.writer.write(Durability::Written, move |core| core.append(&attempt, sequence, &events)).await
    }

    async fn finish(&self, attempt: &AttemptId, ending: Ending) -> Result<(), BrokerError> {
        attempts::check_ending(attempt, &ending)?;
        let attempt = attempt.clone();
        // Who listens live is told the event with its picture in it, and may begin to listen at any moment.
        let first = match &ending {
            Ending::Complete(Outcome::Images { pictures, .. }) => match pictures.first() {
                Some(first) => self.read_blob(first.blob.clone()).await?.into(),
                None => Base64Bytes::default(),
            },
            Ending::Complete(_) | Ending::Error(_) | Ending::Cancelled => Base64Bytes::default(),
        };
        self.writer.write(Durability::Synced, move |core| core.finish(&attempt, &ending, &first)).await
    }

    async fn give_back(&self, attempt: &AttemptId, why: GiveBack) -> Result<(), BrokerError> {
        let attempt = attempt.clone();
        self.writer.write(Durability::Synced, move |core| core.give_back(&attempt, &why)).await
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId, BrokerError> {
        if bytes.len() <= SMALL {
            let id = BlobId::of(&bytes);
            let kept = id.clone();
            self.writer.write(Durability::Written, move |core| core.keep(&id, &bytes)).await?;
            return Ok(kept);
        }
        let blobs = self.blobs.clone();
        let drafting = tokio::task::spawn_blocking(move || blobs.draft(&bytes));
        let draft = drafting.await.map_err(|_| BrokerError::Stopping)??;
        let blobs = self.blobs.clone();
        self.writer.write(Durability::Synced, move |core| core.adopt(&blobs, &draft)).await
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes, BrokerError> {
        self.read_blob(id.clone()).await
    }
}
