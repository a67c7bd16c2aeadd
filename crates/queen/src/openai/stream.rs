//! Server-sent events in OpenAI's form: JSON without names, and `[DONE]` at the end.

use super::OpenAiError;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use operations_contract::ApiError;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// A client that reads slowly holds its own job's telling up, and nothing else.
const WAITING: usize = 64;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The hand that writes one answer's events.
pub(super) struct Writer(mpsc::Sender<Event>);

/// The client has gone.
#[derive(Debug)]
pub(super) struct Gone;

impl Writer {
    /// One object.
    pub(super) async fn data(&self, object: &Value) -> Result<(), Gone> {
        self.send(Event::default().data(object.to_string())).await
    }

    /// One object under a name.
    pub(super) async fn named(&self, name: &str, object: &Value) -> Result<(), Gone> {
        self.send(Event::default().event(name).data(object.to_string())).await
    }

    /// That it failed, in the place of what was to come.
    pub(super) async fn error(&self, error: ApiError) -> Result<(), Gone> {
        self.data(&OpenAiError(error).body()).await
    }

    /// The end.
    pub(super) async fn done(&self) -> Result<(), Gone> {
        self.send(Event::default().data("[DONE]")).await
    }

    async fn send(&self, event: Event) -> Result<(), Gone> {
        self.0.send(event).await.map_err(|_| Gone)
    }
}

/// An answer that `write` writes as it comes. When the client goes, the writing ends with [`Gone`].
pub(super) fn answer<W>(write: impl FnOnce(Writer) -> W) -> Response
where
    W: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    let closed = sender.clone();
    let writing = write(Writer(sender));
    tokio::spawn(async move {
        // Between two events only the closed channel tells that nobody reads.
        tokio::select! {
            _ = writing => {}
            () = closed.closed() => {}
        }
    });
    let events = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive"));
    ([("x-accel-buffering", "no")], sse).into_response()
}
