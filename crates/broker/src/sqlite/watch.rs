//! One listener's way through a job's log: from disk as far as it reaches, then live.

use super::live::{Channel, Live};
use super::readers::Readers;
use super::{BlobDir, Fault, rows};
use crate::queue::Number;
use crate::{BrokerError, EventStream, PictureRef};
use futures_util::stream::{StreamExt as _, unfold};
use operations_contract::{ApiError, Completion, JobEvent};
use rusqlite::Connection;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// So many events are read at once.
const BATCH: usize = 256;

pub(super) struct Watcher {
    pub(super) job_id: String,
    pub(super) number: Number,
    pub(super) after: u64,
    pub(super) channel: Arc<Channel>,
    pub(super) changed: watch::Receiver<()>,
    pub(super) live: Arc<Live>,
    pub(super) readers: Arc<Readers>,
    pub(super) blobs: BlobDir,
    pub(super) read: VecDeque<(u64, Arc<JobEvent>)>,
    pub(super) ended: bool,
}

/// What there is after a certain event.
enum Found {
    Events(Vec<(u64, Arc<JobEvent>)>),
    NothingYet,
    End,
}

impl Watcher {
    pub(super) fn stream(self) -> EventStream {
        unfold(self, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<(u64, Arc<JobEvent>), BrokerError>> {
        loop {
            if let Some((id, event)) = self.read.pop_front() {
                self.after = id;
                self.ended = event.is_terminal();
                return Some(Ok((id, event)));
            }
            if self.ended {
                return None;
            }
            if self.live.is_stopped() {
                self.ended = true;
                return Some(Err(BrokerError::Stopping));
            }
            // What is written between here and the wait below wakes the wait.
            self.changed.mark_unchanged();
            match self.find().await {
                Ok(Found::Events(events)) => self.read.extend(events),
                Ok(Found::End) => return None,
                Ok(Found::NothingYet) => {
                    if self.changed.changed().await.is_err() {
                        return None;
                    }
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }

    async fn find(&self) -> Result<Found, BrokerError> {
        if let Some(events) = self.channel.after(self.after) {
            return Ok(if events.is_empty() { Found::NothingYet } else { Found::Events(events) });
        }
        let (job_id, number, after, blobs) = (self.job_id.clone(), self.number, self.after, self.blobs.clone());
        self.readers
            .read(move |db| {
                // Before the events: what is appended in between is found the next time.
                let row = rows::job(db, &job_id)?;
                let events = rows::events(db, number, after, BATCH)?;
                if events.is_empty() {
                    return Ok(if row.state.is_terminal() { Found::End } else { Found::NothingYet });
                }
                let whole = events.into_iter().map(|(id, event)| {
                    let whole = with_picture(db, event, &row.pictures, &blobs);
                    // A picture that was lost must not keep its listener for ever: he is told so, and that it ended.
                    let event = match whole {
                        Ok(event) => event,
                        Err(Fault::No(error)) => ApiError::from(error).into(),
                        Err(fault) => return Err(fault),
                    };
                    Ok((id, Arc::new(event)))
                });
                Ok(Found::Events(whole.collect::<Result<_, Fault>>()?))
            })
            .await
    }
}

/// Puts the first picture back into the event `complete`.
pub(super) fn with_picture(
    db: &Connection,
    mut event: JobEvent,
    pictures: &[PictureRef],
    blobs: &BlobDir,
) -> Result<JobEvent, Fault> {
    if let JobEvent::Complete(Completion::Image(completion)) = &mut event
        && let Some(first) = pictures.first()
    {
        completion.image = blobs.read(db, &first.blob)?.into();
    }
    Ok(event)
}
