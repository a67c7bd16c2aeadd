//! A ready worker does one job after the other.

use super::assignment::claim_span;
use super::{Agent, Holding};
use crate::relay::{self, Attempt};
use crate::worker::WorkerHandle;
use broker::{Ending, GiveBack, Offer, WorkKind};
use futures_util::future::join_all;
use std::sync::PoisonError;
use std::time::Instant;
use tracing::Instrument as _;

/// Texts that a language worker writes side by side unless it is told otherwise; one that is told fewer lets the others
/// wait.
const TEXTS: usize = 4;

/// So many jobs are remembered because a worker died before it took them.
const UNHEARD: usize = 1000;

impl Agent {
    /// Gives every ready worker a task that claims for it.
    pub(super) fn serve_new_workers(&self) {
        for worker in self.0.hive.ready_workers() {
            if self.0.served().insert(worker.id().to_owned()) {
                self.0.tasks.spawn(self.clone().serve(worker, None));
            }
        }
    }

    /// Runs `first`, and claims for the worker until it ends. The worker is in the set of those that are served.
    pub(super) async fn serve(self, worker: WorkerHandle, mut first: Option<Holding>) {
        let side_by_side = if worker.kind() == WorkKind::Infer { TEXTS } else { 1 };
        join_all((0..side_by_side).map(|_| self.claim_for(&worker, first.take()))).await;
        self.0.served().remove(worker.id());
    }

    /// Does one job after the other.
    async fn claim_for(&self, worker: &WorkerHandle, first: Option<Holding>) {
        if let Some(holding) = first {
            self.run(holding, worker).await;
        }
        let offer =
            Offer::Worker { worker_id: worker.id().to_owned(), kind: worker.kind(), model: worker.name().to_owned() };
        loop {
            let claim = tokio::select! {
                biased;
                () = self.0.closing.cancelled() => break,
                _ = worker.ended() => break,
                claim = self.claim(vec![offer.clone()]) => claim,
            };
            if let Some(claim) = claim {
                self.run(self.hold(claim), worker).await;
            }
        }
    }

    async fn run(&self, holding: Holding, worker: &WorkerHandle) {
        let in_use = worker.in_use();
        let job = &holding.assignment;
        let span = claim_span(job.claim());
        let attempt = async {
            tracing::info!(worker = worker.id(), "the job goes to a worker");
            let began = Instant::now();
            let attempt = self.attempt(&holding, worker).await;
            tracing::info!(worker = worker.id(), ms = began.elapsed().as_millis(), "{}", described(&attempt));
            attempt
        };
        let attempt = attempt.instrument(span).await;
        metrics::counter!("rbee_attempts_total", "outcome" => outcome(&attempt)).increment(1);
        match attempt {
            Attempt::Ended(ending) => {
                self.0.unheard.lock().unwrap_or_else(PoisonError::into_inner).remove(job.job_id());
                if matches!(ending, Ending::Complete(_)) {
                    self.0.hive.worked(worker.name());
                }
                job.finish(ending).await;
            }
            Attempt::Back(why) => job.give_back(why).await,
            Attempt::Unheard { reason, last_words } => {
                job.give_back(self.unheard(job.job_id(), reason, last_words)).await;
            }
            Attempt::Lost => {}
        }
        drop(in_use);
        // Beside the next job, which does not wait for it.
        let (hive, worker) = (self.0.hive.clone(), worker.clone());
        tokio::spawn(async move { hive.measure(&worker).await });
    }

    /// Whatever a worker died of before it took the job, it hardly was the job; where it happens again with the same job at
    /// once, it is taken for what it looks like.
    fn unheard(&self, job_id: &str, reason: String, last_words: String) -> GiveBack {
        let mut unheard = self.0.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        if unheard.remove(job_id) {
            return GiveBack::WorkerDied { reason, last_words };
        }
        if unheard.len() < UNHEARD {
            unheard.insert(job_id.to_owned());
        }
        GiveBack::Refused { reason: format!("{reason}, before it took the job") }
    }

    async fn attempt(&self, holding: &Holding, worker: &WorkerHandle) -> Attempt {
        let job = &holding.assignment;
        let mut operation = match job.claim().operation.load(&**job.source()).await {
            Ok(operation) => operation,
            Err(error) => return Attempt::Ended(Ending::Error(error.into())),
        };
        // The way to the worker is found: it is asked for its own model.
        operation.clear_route();
        tokio::select! {
            biased;
            attempt = relay::attempt(job, worker, &operation) => attempt,
            () = self.0.leaving.cancelled() => Attempt::Back(self.why()),
        }
    }
}

fn outcome(attempt: &Attempt) -> &'static str {
    match attempt {
        Attempt::Ended(Ending::Complete(_)) => "complete",
        Attempt::Ended(Ending::Error(_)) => "error",
        Attempt::Ended(Ending::Cancelled) => "cancelled",
        Attempt::Back(GiveBack::WorkerDied { .. }) | Attempt::Unheard { .. } => "worker_died",
        Attempt::Back(_) => "given_back",
        Attempt::Lost => "lost",
    }
}

fn described(attempt: &Attempt) -> String {
    match attempt {
        Attempt::Ended(Ending::Complete(_)) => "it is complete".to_owned(),
        Attempt::Ended(Ending::Error(error)) => format!("it failed: {error}"),
        Attempt::Ended(Ending::Cancelled) => "it was cancelled".to_owned(),
        Attempt::Back(GiveBack::WorkerDied { reason, .. } | GiveBack::Refused { reason })
        | Attempt::Unheard { reason, .. } => {
            format!("it goes back to the queue: {reason}")
        }
        Attempt::Back(_) => "it goes back to the queue, because its hive stops".to_owned(),
        Attempt::Lost => "it was given to another meanwhile".to_owned(),
    }
}
