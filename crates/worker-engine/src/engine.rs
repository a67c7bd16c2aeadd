use crate::pipeline::{Events, GenerationResponse, InferencePipeline, PipelineError};
use crate::queue::{EngineStatus, GenerationRequest, RequestReceiver};
use job_server::{CancellationToken, Outcome};
use operations_contract::{ApiError, ErrorCode};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;

/// After so long without a request a pipeline rests: longer than one who looks at a picture takes to ask for the next, and
/// short enough that a machine has its memory back when somebody turns to something else.
const REST_AFTER: Duration = Duration::from_secs(10);

/// The one thread that owns a model.
pub struct GenerationEngine<P: InferencePipeline> {
    load: Box<dyn FnMut() -> Result<P, ApiError> + Send>,
    receiver: RequestReceiver<P::Request>,
    rest_after: Duration,
}

impl<P: InferencePipeline + 'static> GenerationEngine<P> {
    /// An engine for a pipeline that is there already. If it panics there is no second one: the engine then stops.
    pub fn new(pipeline: P, receiver: RequestReceiver<P::Request>) -> Self
    where
        P: Send,
    {
        let mut pipeline = Some(pipeline);
        let again = || ApiError::new(ErrorCode::Unavailable, "the pipeline panicked and cannot be built again");
        Self::loading(move || pipeline.take().ok_or_else(again), receiver)
    }

    /// An engine that loads its pipeline itself, on its own thread, and loads it again after a panic.
    pub fn loading(
        load: impl FnMut() -> Result<P, ApiError> + Send + 'static,
        receiver: RequestReceiver<P::Request>,
    ) -> Self {
        Self { load: Box::new(load), receiver, rest_after: REST_AFTER }
    }

    /// Lets the pipeline rest after another time than ten seconds.
    #[must_use]
    pub fn resting_after(self, rest_after: Duration) -> Self {
        Self { rest_after, ..self }
    }

    /// Starts the thread. It ends when every [`crate::RequestQueue`] is gone.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || self.work())
    }

    fn work(mut self) {
        let mut pipeline = None;
        loop {
            let Some(loaded) = pipeline.as_mut() else {
                match caught("loading the model", &mut *self.load) {
                    Ok(loaded) => {
                        pipeline = Some(loaded);
                        self.receiver.status.send_replace(EngineStatus::Ready);
                        continue;
                    }
                    Err(error) => return refuse_all(self.receiver, &error),
                }
            };
            // A panic in here comes again in a request, where somebody is told of it.
            while self.receiver.is_idle() && catch_unwind(AssertUnwindSafe(|| loaded.prepare())).unwrap_or(false) {}
            if self.receiver.stays_idle(self.rest_after) {
                let _ = catch_unwind(AssertUnwindSafe(|| loaded.rest()));
            }
            let Some(request) = self.receiver.next_request() else { return };
            let span = request.span.clone();
            if !span.in_scope(|| answer(loaded, request)) {
                self.receiver.status.send_replace(EngineStatus::Loading);
                // What a panic has left of it may panic again.
                let remains = pipeline.take();
                if catch_unwind(AssertUnwindSafe(|| drop(remains))).is_err() {
                    tracing::error!("the pipeline panicked again while it was dropped");
                }
            }
        }
    }
}

/// Does `work`; a panic in it is a model that could not be loaded.
pub(crate) fn caught<T>(what: &str, work: &mut dyn FnMut() -> Result<T, ApiError>) -> Result<T, ApiError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = format!("{what} panicked: {}", panic_message(&*panic));
        Err(ApiError::new(ErrorCode::ModelLoadFailed, message))
    })
}

/// Without a model every request, those that wait and those that still slip in, is answered with the reason.
pub(crate) fn refuse_all<R>(mut receiver: RequestReceiver<R>, error: &ApiError) {
    tracing::error!("the model could not be loaded: {error}");
    receiver.status.send_replace(EngineStatus::Failed(error.clone()));
    while let Some(request) = receiver.next_request() {
        let _ = request.response_tx.send(GenerationResponse::Error(error.clone()));
    }
}

/// Runs one request. False after a panic: the pipeline is not to be used again.
fn answer<P: InferencePipeline>(pipeline: &mut P, request: GenerationRequest<P::Request>) -> bool {
    let GenerationRequest { request, cancel, response_tx, .. } = request;
    let _ = response_tx.send(GenerationResponse::Started);
    let events = Events::new(response_tx.clone());
    let result = catch_unwind(AssertUnwindSafe(|| pipeline.run(request, &events, &cancel)));
    let (response, sound) = match result {
        Ok(result) => (ended(result, &cancel), true),
        Err(panic) => {
            let message = format!("the pipeline panicked: {}", panic_message(&*panic));
            tracing::error!("{message}");
            (GenerationResponse::Error(ApiError::internal(message)), false)
        }
    };
    let _ = response_tx.send(response);
    sound
}

/// How a request ended, as its waiter is told.
pub(crate) fn ended(result: Result<Outcome, PipelineError>, cancel: &CancellationToken) -> GenerationResponse {
    match result {
        Ok(outcome) => GenerationResponse::Complete(outcome),
        Err(PipelineError::Cancelled) => cancelled(cancel),
        Err(PipelineError::Failed(error)) => GenerationResponse::Error(error),
    }
}

/// A pipeline that says it was cancelled when nobody did has a fault.
fn cancelled(cancel: &CancellationToken) -> GenerationResponse {
    if cancel.is_cancelled() {
        GenerationResponse::Cancelled
    } else {
        GenerationResponse::Error(ApiError::internal("the pipeline stopped although nobody cancelled it"))
    }
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::RequestQueue;
    use operations_contract::Priority;
    use std::sync::mpsc;

    /// Far sooner than the hour after which one of these pipelines would rest.
    const SOON: Duration = Duration::from_secs(20);

    /// Says whenever it runs and rests.
    struct Sleepy(mpsc::Sender<&'static str>);

    impl InferencePipeline for Sleepy {
        type Request = ();

        fn run(&mut self, (): (), _: &Events, _: &CancellationToken) -> Result<Outcome, PipelineError> {
            self.0.send("runs").unwrap();
            Err(PipelineError::Failed(ApiError::internal("nothing to show")))
        }

        fn rest(&mut self) {
            self.0.send("rests").unwrap();
        }
    }

    fn request() -> (GenerationRequest<()>, tokio::sync::mpsc::UnboundedReceiver<GenerationResponse>) {
        let (response_tx, answers) = tokio::sync::mpsc::unbounded_channel();
        let (priority, span) = (Priority::Normal, tracing::Span::none());
        (GenerationRequest { request: (), priority, span, cancel: CancellationToken::new(), response_tx }, answers)
    }

    fn engine(rest_after: Duration) -> (RequestQueue<()>, mpsc::Receiver<&'static str>, JoinHandle<()>) {
        let (queue, receiver) = RequestQueue::new();
        let (tell, told) = mpsc::channel();
        let thread = GenerationEngine::new(Sleepy(tell), receiver).resting_after(rest_after).start().unwrap();
        (queue, told, thread)
    }

    #[test]
    fn a_pipeline_rests_once_after_every_request_and_is_woken_by_the_next() {
        let (queue, told, thread) = engine(Duration::from_millis(20));
        assert_eq!(told.recv_timeout(SOON), Ok("rests"));
        assert_eq!(told.recv_timeout(Duration::from_millis(100)), Err(mpsc::RecvTimeoutError::Timeout));
        for _ in 0..2 {
            queue.add_request(request().0).unwrap();
            assert_eq!(told.recv_timeout(SOON), Ok("runs"));
            assert_eq!(told.recv_timeout(SOON), Ok("rests"));
        }
        drop(queue);
        thread.join().unwrap();
    }

    #[test]
    fn who_asks_or_leaves_while_it_might_rest_need_not_wait() {
        let (queue, told, thread) = engine(Duration::from_secs(3600));
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(20));
            queue.add_request(request().0).unwrap();
            assert_eq!(told.recv_timeout(SOON), Ok("runs"));
        }
        std::thread::sleep(Duration::from_millis(20));
        drop(queue);
        thread.join().unwrap();
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
