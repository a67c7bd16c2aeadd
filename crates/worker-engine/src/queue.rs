use crate::pipeline::GenerationResponse;
use job_server::CancellationToken;
use operations_contract::{ApiError, ErrorCode, Priority, Readiness};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::Span;

/// One request and all that belongs to it.
#[derive(Debug)]
pub struct GenerationRequest<R> {
    /// What is asked.
    pub request: R,
    /// Which of those that wait comes first.
    pub priority: Priority,
    /// In which it was asked, and in which it is answered.
    pub span: Span,
    /// Set when nobody wants it any more.
    pub cancel: CancellationToken,
    /// Where the answers go. Dropping it without a last one tells the waiter that there is none to come.
    pub response_tx: mpsc::UnboundedSender<GenerationResponse>,
}

/// What the engine is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineStatus {
    /// The model comes from elsewhere.
    Downloading(DownloadProgress),
    /// The model loads.
    Loading,
    /// It serves.
    Ready,
    /// The model could not be loaded.
    Failed(ApiError),
    /// It is gone.
    Stopped,
}

/// How much of a model is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DownloadProgress {
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes of the whole; 0 while that is not known.
    pub total: u64,
    /// How fast they come.
    pub bytes_per_second: Option<u64>,
    /// How long the rest takes, in milliseconds.
    pub eta_ms: Option<u64>,
}

/// Tells those who wait for the model what happens to it before it is loaded.
#[derive(Debug, Clone)]
pub struct LoadReporter(watch::Sender<EngineStatus>);

impl EngineStatus {
    /// Whether it serves, and what is in the way.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let reason = match self {
            Self::Ready => return Readiness { ready: true, reason: None },
            Self::Downloading(DownloadProgress { total: 0, .. }) => "the model is downloading".to_owned(),
            Self::Downloading(DownloadProgress { bytes, total, .. }) => {
                format!("the model is downloading: {} of {} MB", bytes / 1_000_000, total.div_ceil(1_000_000))
            }
            Self::Loading => "the model loads".to_owned(),
            Self::Failed(error) => format!("the model could not be loaded: {error}"),
            Self::Stopped => "the engine has stopped".to_owned(),
        };
        Readiness { ready: false, reason: Some(reason) }
    }
}

impl LoadReporter {
    /// So much of it is here.
    pub fn downloading(&self, progress: DownloadProgress) {
        self.0.send_replace(EngineStatus::Downloading(progress));
    }

    /// It is here, and loads.
    pub fn loading(&self) {
        self.0.send_replace(EngineStatus::Loading);
    }
}

/// The way in: cloned into whatever takes requests. It is never full; the bound is at admission, by the job
/// registry's permits, so that what was accepted never waits for room.
#[derive(Debug)]
pub struct RequestQueue<R> {
    sender: mpsc::UnboundedSender<GenerationRequest<R>>,
    waiting: Waiting,
    status: watch::Receiver<EngineStatus>,
}

/// The way out: owned by the engine.
#[derive(Debug)]
pub struct RequestReceiver<R> {
    receiver: mpsc::UnboundedReceiver<GenerationRequest<R>>,
    pending: Pending<R>,
    waiting: Waiting,
    pub(crate) status: watch::Sender<EngineStatus>,
}

/// What waits, in the order in which it will run. Plain data without synchronisation of its own.
#[derive(Debug)]
struct Pending<R>(VecDeque<GenerationRequest<R>>);

/// What waits as the way in sees it, to tell a newcomer its position.
#[derive(Debug, Clone, Default)]
struct Waiting(Arc<Mutex<Vec<(Priority, CancellationToken)>>>);

impl<R> Clone for RequestQueue<R> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waiting: self.waiting.clone(), status: self.status.clone() }
    }
}

impl<R> RequestQueue<R> {
    /// A queue and its other end.
    pub fn new() -> (Self, RequestReceiver<R>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (status, status_seen) = watch::channel(EngineStatus::Loading);
        let waiting = Waiting::default();
        let queue = Self { sender, waiting: waiting.clone(), status: status_seen };
        (queue, RequestReceiver { receiver, pending: Pending(VecDeque::new()), waiting, status })
    }

    /// Adds a request, and returns its position: 1 is the next one to run.
    ///
    /// # Errors
    /// As [`RequestQueue::admits`]; the request is dropped, which its waiter notices.
    pub fn add_request(&self, request: GenerationRequest<R>) -> Result<u64, ApiError> {
        self.admits()?;
        let position = self.waiting.enter(request.priority, &request.cancel);
        self.sender.send(request).map_err(|_| stopped())?;
        Ok(position)
    }

    /// Whether the engine is there, or will be.
    ///
    /// # Errors
    /// `unavailable` when the model could not be loaded or the engine is gone.
    pub fn admits(&self) -> Result<(), ApiError> {
        match self.status() {
            EngineStatus::Downloading(_) | EngineStatus::Loading | EngineStatus::Ready => Ok(()),
            EngineStatus::Failed(error) => {
                Err(ApiError::new(ErrorCode::Unavailable, format!("the model could not be loaded: {error}")))
            }
            EngineStatus::Stopped => Err(stopped()),
        }
    }

    /// What the engine is at.
    pub fn status(&self) -> EngineStatus {
        // An engine that is gone with its end of the channel has said nothing.
        if self.status.has_changed().is_err() && !matches!(*self.status.borrow(), EngineStatus::Failed(_)) {
            return EngineStatus::Stopped;
        }
        self.status.borrow().clone()
    }

    /// Every status from now on.
    pub(crate) fn statuses(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }

    /// Waits until the model is loaded, or never will be.
    pub async fn settled(&self) -> EngineStatus {
        let mut status = self.status.clone();
        let settled = |status: &EngineStatus| !matches!(status, EngineStatus::Downloading(_) | EngineStatus::Loading);
        match status.wait_for(settled).await {
            Ok(status) => status.clone(),
            Err(_) => EngineStatus::Stopped,
        }
    }
}

impl<R> RequestReceiver<R> {
    /// For what loads the model, to tell how far it is.
    pub fn load_reporter(&self) -> LoadReporter {
        LoadReporter(self.status.clone())
    }

    /// Whether nobody waits, and somebody may come.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.0.is_empty() && self.receiver.is_empty() && !self.receiver.is_closed()
    }

    /// Waits for `time`, or until somebody asks or nobody can any more; whether nobody did and somebody may.
    pub(crate) fn stays_idle(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        while self.pending.0.is_empty() {
            match self.receiver.poll_recv(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(request)) => self.pending.insert(request),
                Poll::Ready(None) => return false,
                Poll::Pending => match until.saturating_duration_since(Instant::now()) {
                    Duration::ZERO => return true,
                    left => std::thread::park_timeout(left),
                },
            }
        }
        false
    }

    /// The next request to run, waiting for one if need be; `None` when nobody can send any more. Those that were
    /// cancelled while they waited are answered here.
    pub fn next_request(&mut self) -> Option<GenerationRequest<R>> {
        loop {
            if let Some(request) = self.next_waiting() {
                return Some(request);
            }
            let request = self.receiver.blocking_recv()?;
            self.pending.insert(request);
        }
    }

    /// The next request to run, if one waits.
    pub fn next_waiting(&mut self) -> Option<GenerationRequest<R>> {
        while let Ok(request) = self.receiver.try_recv() {
            self.pending.insert(request);
        }
        loop {
            let request = self.pending.0.pop_front()?;
            self.waiting.leave(request.priority, &request.cancel);
            if request.cancel.is_cancelled() {
                let _ = request.response_tx.send(GenerationResponse::Cancelled);
                continue;
            }
            self.pending.tell_positions();
            return Some(request);
        }
    }
}

/// Wakes a thread that waits with a limit, which the channel's own blocking wait has not.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<R> Pending<R> {
    /// Behind all that are as urgent.
    fn insert(&mut self, request: GenerationRequest<R>) {
        let place = self.0.partition_point(|waiting| waiting.priority >= request.priority);
        self.0.insert(place, request);
    }

    fn tell_positions(&self) {
        let waiting = self.0.iter().filter(|request| !request.cancel.is_cancelled());
        for (position, request) in (1..).zip(waiting) {
            let _ = request.response_tx.send(GenerationResponse::Queued(position));
        }
    }
}

impl Waiting {
    fn enter(&self, priority: Priority, cancel: &CancellationToken) -> u64 {
        let mut waiting = self.lock();
        waiting.retain(|(_, cancel)| !cancel.is_cancelled());
        let before = waiting.iter().filter(|(other, _)| *other >= priority).count();
        waiting.push((priority, cancel.clone()));
        before as u64 + 1
    }

    fn leave(&self, priority: Priority, cancel: &CancellationToken) {
        let mut waiting = self.lock();
        waiting.retain(|(_, cancel)| !cancel.is_cancelled());
        if !cancel.is_cancelled()
            && let Some(place) = waiting.iter().position(|(other, _)| *other == priority)
        {
            // Those of one priority run in order, so that the first of them is the one that leaves.
            waiting.remove(place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Priority, CancellationToken)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the worker's engine has stopped")
}
