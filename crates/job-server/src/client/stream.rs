use super::sse::{Parser, RawEvent};
use super::{Client, ClientError};
use operations_contract::{Job, JobEvent};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The events of one job. A connection that breaks is made again with `Last-Event-ID`, so that none is missed and
/// none comes twice.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    job_id: String,
    last_id: u64,
    patience: Duration,
    connection: Option<(reqwest::Response, Parser)>,
    waiting: VecDeque<RawEvent>,
    failing_since: Option<Instant>,
    ended: bool,
}

/// A server says at least a comment every 15 seconds; after three of them the connection is dead.
const SILENCE: Duration = Duration::from_secs(50);
/// How long a server may be away before the stream gives up, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl EventStream {
    pub(super) fn new(client: Client, job_id: &str, after: u64) -> Self {
        Self {
            client,
            job_id: job_id.to_owned(),
            last_id: after,
            patience: PATIENCE,
            connection: None,
            waiting: VecDeque::new(),
            failing_since: None,
            ended: false,
        }
    }

    /// Gives up after the server was away for so long.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The next event with its id; `None` after the terminal one. May be dropped while it waits and asked again.
    ///
    /// # Errors
    /// The server refuses (there is no such job), was away for too long, or speaks nonsense.
    pub async fn next(&mut self) -> Result<Option<(u64, JobEvent)>, ClientError> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(raw) = self.waiting.pop_front() {
                if let Some(event) = self.accept(&raw)? {
                    return Ok(Some(event));
                }
                continue;
            }
            if self.ended {
                return Ok(None);
            }
            match self.read().await {
                Ok(()) => self.failing_since = None,
                Err(ClientError::Unreachable { url, reason }) => {
                    self.connection = None;
                    let since = *self.failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() + pause > self.patience {
                        return Err(ClientError::Unreachable { url, reason });
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Events that were seen already, and such as newer servers may have, are passed over.
    fn accept(&mut self, raw: &RawEvent) -> Result<Option<(u64, JobEvent)>, ClientError> {
        let id = raw.id.unwrap_or(self.last_id + 1);
        if id <= self.last_id {
            return Ok(None);
        }
        let event = match serde_json::from_str::<JobEvent>(&raw.data) {
            Ok(event) => event,
            Err(error) if error.to_string().contains("unknown variant") => {
                self.last_id = id;
                return Ok(None);
            }
            Err(error) => return Err(self.client.nonsense(format!("event {id}: {error}"))),
        };
        self.last_id = id;
        self.ended = event.is_terminal();
        Ok(Some((id, event)))
    }

    /// Reads on until at least something came; connects first where that is needed.
    async fn read(&mut self) -> Result<(), ClientError> {
        let lost = |client: &Client, reason: &str| ClientError::Unreachable {
            url: client.url().to_owned(),
            reason: reason.to_owned(),
        };
        if self.connection.is_none() {
            let connecting = tokio::time::timeout(SILENCE, self.connect()).await;
            let response = connecting.map_err(|_| lost(&self.client, "it took too long to answer"))??;
            self.connection = Some((response, Parser::default()));
        }
        let Some((response, parser)) = &mut self.connection else {
            return Ok(());
        };
        let chunk = match tokio::time::timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => {
                return Err(lost(&self.client, "it closed the stream in the middle of the job"));
            }
            Ok(Err(error)) => return Err(self.client.unreachable(&error)),
            Err(_) => return Err(lost(&self.client, "it fell silent")),
        };
        let waiting = &mut self.waiting;
        let pushed = parser.push(&chunk, |event| waiting.push_back(event));
        pushed.map_err(|_| self.client.nonsense("an event without end".to_owned()))
    }

    async fn connect(&self) -> Result<reqwest::Response, ClientError> {
        let url = self.client.at(&["v1", "jobs", &self.job_id, "stream"]);
        let mut request = self.client.http.get(url);
        if self.last_id > 0 {
            request = request.header("Last-Event-ID", self.last_id);
        }
        self.client.send(request).await
    }

    /// The job as it stands on the server that is listened to.
    ///
    /// # Errors
    /// As [`Client::job`].
    pub async fn job(&self) -> Result<Job, ClientError> {
        self.client.job(&self.job_id).await
    }
}
