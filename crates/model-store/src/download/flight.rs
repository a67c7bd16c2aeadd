use super::meter::{Meter, Progress};
use super::run::run;
use crate::error::{Error, Result};
use crate::source::Source;
use crate::store::Shared;
use operations_contract::ModelEntry;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// One download, for all who wait for it. When nobody does any more, it stops.
#[derive(Debug)]
pub(crate) struct Flight {
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Option<Result<ModelEntry>>>,
    task: AbortHandle,
}

/// A download that somebody waits for. Dropped, it is waited for no more; when that goes for everybody who asked for the
/// same model, it stops, and what has arrived stays for the next time.
#[derive(Debug)]
pub struct Download {
    flight: Arc<Flight>,
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Option<Result<ModelEntry>>>,
}

impl Flight {
    pub(crate) fn start(store: Arc<Shared>, source: Source) -> Self {
        let (told, progress) = watch::channel(Progress::default());
        let (ended, outcome) = watch::channel(None);
        let task = tokio::spawn(async move {
            let result = run(&store, &source, Arc::new(Meter::new(told))).await;
            ended.send_replace(Some(result));
        });
        Self { progress, outcome, task: task.abort_handle() }
    }

    /// Whether it has ended, one way or the other; who asks then asks anew.
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished() || self.outcome.borrow().is_some()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Download {
    pub(crate) fn new(flight: Arc<Flight>) -> Self {
        let (progress, outcome) = (flight.progress.clone(), flight.outcome.clone());
        Self { flight, progress, outcome }
    }

    /// How far it is; changes a few times a second.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits for the end, and tells `tell` how far it is on the way.
    ///
    /// # Errors
    /// Why there is no model.
    pub async fn finish(mut self, mut tell: impl FnMut(Progress)) -> Result<ModelEntry> {
        loop {
            tokio::select! {
                biased;
                ended = self.outcome.wait_for(Option::is_some) => {
                    return match ended {
                        Ok(outcome) => outcome.clone().unwrap_or(Err(Error::Cancelled)),
                        // The runtime stops, or the task panicked.
                        Err(_) => Err(Error::Cancelled),
                    };
                }
                Ok(()) = self.progress.changed() => {
                    let progress = *self.progress.borrow_and_update();
                    tell(progress);
                }
            }
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.flight.is_over()
    }
}
