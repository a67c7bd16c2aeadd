//! An engine over a model that counts, two counts side by side.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use job_server::{CancellationToken, Outcome};
use operations_contract::{ApiError, ErrorCode, Priority};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use worker_engine::{
    BatchEngine, BatchModel, BatchSession, EngineStatus, Events, GenerationRequest, GenerationResponse, PipelineError,
    RequestQueue, Ticket,
};

struct Counting {
    opened: Arc<AtomicUsize>,
}

struct Counts<'model> {
    _model: &'model Counting,
    counts: Vec<Count>,
}

struct Count {
    ticket: Ticket,
    events: Events,
    cancel: CancellationToken,
    asked: u64,
    done: u64,
}

/// Panics at the third step, refuses to begin, or counts without end.
const PANICS: u64 = 1000;
const REFUSED: u64 = 2000;
const ENDLESS: u64 = u64::MAX;

impl BatchModel for Counting {
    type Request = u64;
    type Session<'model> = Counts<'model>;

    fn session(&self) -> Result<Counts<'_>, ApiError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Counts { _model: self, counts: Vec::new() })
    }
}

impl BatchSession for Counts<'_> {
    type Request = u64;

    fn has_room(&self) -> bool {
        self.counts.len() < 2
    }

    fn admit(
        &mut self,
        ticket: Ticket,
        asked: u64,
        events: Events,
        cancel: CancellationToken,
    ) -> Result<(), PipelineError> {
        if asked == REFUSED {
            return Err(ApiError::new(ErrorCode::OutOfMemory, "no room").into());
        }
        self.counts.push(Count { ticket, events, cancel, asked, done: 0 });
        Ok(())
    }

    fn step(&mut self) -> Vec<(Ticket, Result<Outcome, PipelineError>)> {
        let mut ended = Vec::new();
        let together = self.counts.len();
        self.counts.retain_mut(|count| {
            count.done += 1;
            assert!(!(count.asked == PANICS && count.done == 3), "asked to");
            count.events.token(together.to_string(), count.done);
            if count.cancel.is_cancelled() {
                ended.push((count.ticket, Err(PipelineError::Cancelled)));
            } else if count.done == count.asked {
                ended.push((count.ticket, Ok(Outcome::Result(json!(count.done)))));
            }
            ended.last().is_none_or(|(ticket, _)| *ticket != count.ticket)
        });
        ended
    }
}

type Responses = mpsc::UnboundedReceiver<GenerationResponse>;

fn ask(queue: &RequestQueue<u64>, asked: u64) -> (Responses, CancellationToken) {
    let (response_tx, responses) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let request = GenerationRequest {
        request: asked,
        priority: Priority::default(),
        span: tracing::Span::none(),
        cancel: cancel.clone(),
        response_tx,
    };
    queue.add_request(request).unwrap();
    (responses, cancel)
}

/// How many counted together at each step, and the last answer.
fn finish(mut responses: Responses) -> (Vec<String>, GenerationResponse) {
    let mut together = Vec::new();
    loop {
        match responses.blocking_recv().expect("an engine answers") {
            GenerationResponse::Token { t, .. } => together.push(t),
            last @ (GenerationResponse::Complete(_) | GenerationResponse::Error(_) | GenerationResponse::Cancelled) => {
                return (together, last);
            }
            _ => {}
        }
    }
}

fn engine() -> (RequestQueue<u64>, Arc<AtomicUsize>, std::thread::JoinHandle<()>) {
    let (queue, receiver) = RequestQueue::new();
    let opened = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&opened);
    let load = move || Ok(Counting { opened: Arc::clone(&counted) });
    let thread = BatchEngine::loading(load, receiver).start().unwrap();
    (queue, opened, thread)
}

#[test]
fn two_are_served_side_by_side_and_the_third_waits() {
    let (queue, receiver) = RequestQueue::new();
    // All wait already when the engine starts.
    let asked: Vec<_> = [3, 2, 2].into_iter().map(|asked| ask(&queue, asked).0).collect();
    let load = || Ok(Counting { opened: Arc::default() });
    let thread = BatchEngine::loading(load, receiver).start().unwrap();
    let told: Vec<_> = asked.into_iter().map(|responses| finish(responses).0.join("")).collect();
    // The third comes in when the second has ended, and is alone when the first has.
    assert_eq!(told, ["222", "22", "21"]);
    drop(queue);
    thread.join().unwrap();
}

#[test]
fn a_panic_ends_all_that_are_in_work_and_the_engine_lives_on() {
    let (queue, receiver) = RequestQueue::new();
    let (broken, _) = ask(&queue, PANICS);
    let (beside, _) = ask(&queue, ENDLESS);
    let (waiting, _) = ask(&queue, 2);
    let opened = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&opened);
    BatchEngine::loading(move || Ok(Counting { opened: Arc::clone(&counted) }), receiver).start().unwrap();
    for responses in [broken, beside] {
        let (_, last) = finish(responses);
        let GenerationResponse::Error(error) = last else { panic!("{last:?}") };
        assert_eq!((error.code, &*error.message), (ErrorCode::Internal, "the pipeline panicked: asked to"));
    }
    assert_eq!(finish(waiting).1, GenerationResponse::Complete(Outcome::Result(json!(2))));
    assert_eq!(opened.load(Ordering::SeqCst), 2);
    assert_eq!(queue.status(), EngineStatus::Ready);
}

#[test]
fn cancelling_one_leaves_the_other() {
    let (queue, ..) = engine();
    let (endless, cancel) = ask(&queue, ENDLESS);
    let (other, _) = ask(&queue, 50);
    cancel.cancel();
    assert_eq!(finish(endless).1, GenerationResponse::Cancelled);
    assert_eq!(finish(other).1, GenerationResponse::Complete(Outcome::Result(json!(50))));
}

#[test]
fn what_cannot_begin_says_why() {
    let (queue, ..) = engine();
    let (refused, _) = ask(&queue, REFUSED);
    assert_eq!(finish(refused).1, GenerationResponse::Error(ApiError::new(ErrorCode::OutOfMemory, "no room")));
    assert_eq!(finish(ask(&queue, 1).0).1, GenerationResponse::Complete(Outcome::Result(json!(1))));
}
