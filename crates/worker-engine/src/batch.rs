//! The engine of a model that serves several requests at once.

use crate::engine::{caught, ended, panic_message, refuse_all};
use crate::pipeline::{Events, GenerationResponse, PipelineError};
use crate::queue::{EngineStatus, GenerationRequest, RequestReceiver};
use job_server::{CancellationToken, Outcome};
use operations_contract::ApiError;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// By which a session names a request that it has taken in. The later, the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// One after the other.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self)
    }
}

/// A model that is loaded. What runs on it may borrow it.
pub trait BatchModel {
    /// What it can be asked.
    type Request: Send + 'static;
    /// What works on several requests at once.
    type Session<'model>: BatchSession<Request = Self::Request>
    where
        Self: 'model;

    /// Makes ready for requests.
    ///
    /// # Errors
    /// There is no room for what they need.
    fn session(&self) -> Result<Self::Session<'_>, ApiError>;
}

/// Works on several requests at once, one step of all of them after the other, on the thread that owns the model.
pub trait BatchSession {
    /// What it can be asked.
    type Request;

    /// Whether one more request can be taken in now.
    fn has_room(&self) -> bool;

    /// Takes a request in; from now on [`BatchSession::step`] works on it, and says when it has ended.
    ///
    /// # Errors
    /// Why it cannot be done; then it has ended.
    fn admit(
        &mut self,
        ticket: Ticket,
        request: Self::Request,
        events: Events,
        cancel: CancellationToken,
    ) -> Result<(), PipelineError>;

    /// One step of everything that was taken in. What comes back has ended so. Between two steps cancellations are
    /// looked at: who sees one ends that request with [`PipelineError::Cancelled`].
    fn step(&mut self) -> Vec<(Ticket, Result<Outcome, PipelineError>)>;
}

/// The one thread that owns a model which serves several requests at once. As [`crate::GenerationEngine`] it loads the
/// model again after a panic, which ends every request in work with an error.
pub struct BatchEngine<M: BatchModel> {
    load: Box<dyn FnMut() -> Result<M, ApiError> + Send>,
    receiver: RequestReceiver<M::Request>,
}

/// Where the answers to a request in work go.
struct InWork {
    cancel: CancellationToken,
    responses: mpsc::UnboundedSender<GenerationResponse>,
}

impl<M: BatchModel + 'static> BatchEngine<M> {
    /// An engine that loads its model on its own thread.
    pub fn loading(
        load: impl FnMut() -> Result<M, ApiError> + Send + 'static,
        receiver: RequestReceiver<M::Request>,
    ) -> Self {
        Self { load: Box::new(load), receiver }
    }

    /// Starts the thread. It ends when every [`crate::RequestQueue`] is gone.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || self.work())
    }

    fn work(mut self) {
        loop {
            let model = match caught("loading the model", &mut *self.load) {
                Ok(model) => model,
                Err(error) => return refuse_all(self.receiver, &error),
            };
            let mut in_work = HashMap::new();
            let receiver = &mut self.receiver;
            match catch_unwind(AssertUnwindSafe(|| serve(&model, receiver, &mut in_work))) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => return refuse_all(self.receiver, &error),
                Err(panic) => {
                    let message = format!("the pipeline panicked: {}", panic_message(&*panic));
                    tracing::error!("{message}");
                    self.receiver.status.send_replace(EngineStatus::Loading);
                    for InWork { responses, .. } in in_work.into_values() {
                        let _ = responses.send(GenerationResponse::Error(ApiError::internal(message.clone())));
                    }
                }
            }
        }
    }
}

/// Serves until nobody can ask any more.
fn serve<M: BatchModel>(
    model: &M,
    receiver: &mut RequestReceiver<M::Request>,
    in_work: &mut HashMap<Ticket, InWork>,
) -> Result<(), ApiError> {
    let mut session = model.session()?;
    receiver.status.send_replace(EngineStatus::Ready);
    let mut tickets = Ticket::all();
    loop {
        while session.has_room() {
            let next = if in_work.is_empty() {
                match receiver.next_request() {
                    None => return Ok(()),
                    next => next,
                }
            } else {
                receiver.next_waiting()
            };
            let (Some(request), Some(ticket)) = (next, tickets.next()) else { break };
            let GenerationRequest { request, span, cancel, response_tx, .. } = request;
            let _in_span = span.enter();
            let _ = response_tx.send(GenerationResponse::Started);
            let events = Events::new(response_tx.clone());
            in_work.insert(ticket, InWork { cancel: cancel.clone(), responses: response_tx });
            if let Err(error) = session.admit(ticket, request, events, cancel) {
                finish(in_work, ticket, Err(error));
            }
        }
        for (ticket, result) in session.step() {
            finish(in_work, ticket, result);
        }
    }
}

fn finish(in_work: &mut HashMap<Ticket, InWork>, ticket: Ticket, result: Result<Outcome, PipelineError>) {
    if let Some(InWork { cancel, responses }) = in_work.remove(&ticket) {
        let _ = responses.send(ended(result, &cancel));
    }
}
