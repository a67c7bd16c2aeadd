//! A job from the first event to the last, with Ctrl-C on the way.

use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use job_server::client::Client;
use operations_contract::{ApiError, Completion, JobEvent};
use tokio::sync::mpsc;

/// Ctrl-C and SIGTERM, caught from the start, so that none is lost between two waits.
pub(crate) struct Interrupts(mpsc::UnboundedReceiver<()>);

impl Interrupts {
    pub(crate) fn catch() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                interrupted().await;
                if sender.send(()).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Runs something that may be given up at any moment.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            () = self.next() => Err(Failure::new(Exit::Interrupted, "interrupted")),
        }
    }
}

#[cfg(unix)]
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How a job is followed.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Ctrl-C cancels the job; otherwise only the following ends.
    pub(crate) cancel_on_interrupt: bool,
    /// `each` prints events, so that the last one needs no telling.
    pub(crate) prints_events: bool,
}

/// Follows a job to its last event. `each` sees every event before it is drawn. The first Ctrl-C cancels the job and
/// waits for it to say so, the second leaves it.
pub(crate) async fn follow(
    client: &Client,
    job_id: &str,
    interrupts: &mut Interrupts,
    progress: &mut Progress,
    Manner { cancel_on_interrupt, prints_events }: Manner,
    mut each: impl FnMut(u64, &JobEvent, &Progress) -> Result<(), Failure>,
) -> Result<Completion, Failure> {
    let mut events = client.events(job_id, 0);
    let mut cancelling = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = interrupts.next() => {
                if cancelling || !cancel_on_interrupt {
                    let hint = format!("it may run on; stop it with: rbee job cancel {job_id}");
                    return Err(Failure::new(Exit::Interrupted, format!("left {job_id}")).hint(hint));
                }
                cancelling = true;
                progress.note("cancelling; Ctrl-C again leaves at once");
                client.cancel_job(job_id).await?;
                continue;
            }
        };
        let Some((id, event)) = event? else {
            return Err(Failure::new(Exit::Failed, format!("the stream of {job_id} ended without a last event")));
        };
        if let Err(failure) = each(id, &event, progress) {
            // Whoever read the events has gone, and nobody is left to want the picture.
            if cancel_on_interrupt && !event.is_terminal() {
                let _ = client.cancel_job(job_id).await;
            }
            return Err(failure);
        }
        progress.event(&event);
        match event {
            JobEvent::Complete(completion) => return Ok(completion),
            JobEvent::Error { code, message, param } => {
                let mut failure = Failure::from(ApiError { code, message, param });
                // The request was accepted: whatever it is, it is not the command line that was wrong.
                if failure.exit != Exit::Usage {
                    failure.exit = Exit::Failed;
                }
                failure.told = prints_events;
                return Err(failure);
            }
            JobEvent::Cancelled {} => {
                let failure = Failure::new(Exit::Interrupted, format!("{job_id} was cancelled"));
                return Err(Failure { told: prints_events, ..failure });
            }
            _ => {}
        }
    }
}
