use super::wire::{Append, AskCancelled, Enlist, Finish, IsCancelled, LONGEST_POLL, Refusal, Retire, Return, millis};
use crate::{
    Appended, AttemptId, BlobId, BrokerError, Claim, ClaimRequest, Ending, GiveBack, HiveRecord, Lease, WorkSource,
};
use async_trait::async_trait;
use bytes::Bytes;
use operations_contract::{ApiError, JobEvent};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::{Duration, Instant};

/// Establishing a connection to a machine of the house takes milliseconds.
const CONNECT: Duration = Duration::from_secs(5);
/// No answer takes longer, beyond what it was told to wait.
const ANSWER: Duration = Duration::from_secs(20);
/// A call is repeated for so long; a queen that restarts is back by then.
const RETRY: Duration = Duration::from_secs(15);
/// Nobody waits longer; a clock can be told to.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The broker of a queen on another machine, as a hive sees it. Broken connections are made again for a while and the
/// call repeated; then it is [`BrokerError::Unreachable`].
#[derive(Clone)]
pub struct HttpBroker {
    http: reqwest::Client,
    url: String,
    token: String,
    retry: Duration,
}

/// A log never shows a token.
impl fmt::Debug for HttpBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBroker").field("url", &self.url).finish_non_exhaustive()
    }
}

impl HttpBroker {
    /// The broker of the queen at `url` (`http://queen.local:7833`), asked with a hive's token.
    ///
    /// # Errors
    /// [`BrokerError::Invalid`] where the url is none that can be spoken to.
    pub fn new(url: &str, token: impl Into<String>) -> Result<Self, BrokerError> {
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let wrong = |reason: String| BrokerError::invalid(format!("{url:?} is no address of a queen: {reason}"));
        let base = reqwest::Url::parse(&with_scheme).map_err(|error| wrong(error.to_string()))?;
        if base.scheme() != "http" {
            return Err(wrong(format!("only http:// is spoken, got {}://", base.scheme())));
        }
        // A proxy from the environment is for the world outside, not for the machines of the house.
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT).build();
        let http = http.map_err(|error| wrong(error.to_string()))?;
        Ok(Self { http, url: base.as_str().trim_end_matches('/').to_owned(), token: token.into(), retry: RETRY })
    }

    /// The same broker, whose calls are repeated for so long.
    #[must_use]
    pub fn patient_for(mut self, retry: Duration) -> Self {
        self.retry = retry;
        self
    }

    async fn call<T: DeserializeOwned>(&self, name: &str, body: &impl Serialize) -> Result<T, BrokerError> {
        self.call_patiently(name, body, Duration::ZERO).await?.ok_or_else(|| self.unreachable("its answer is empty"))
    }

    async fn tell(&self, name: &str, body: &impl Serialize) -> Result<(), BrokerError> {
        self.call_patiently::<serde_json::Value>(name, body, Duration::ZERO).await.map(drop)
    }

    /// Asks, and waits `patience` longer for the answer than usually; `None` where there is none.
    async fn call_patiently<T: DeserializeOwned>(
        &self,
        name: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<Option<T>, BrokerError> {
        let json = serde_json::to_vec(body).map_err(|error| BrokerError::invalid(error.to_string()))?;
        let (status, bytes) = self.send(Method::POST, name, Some(json.into()), patience).await?;
        if status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|error| self.unreachable(&format!("its answer cannot be read: {error}")))
    }

    /// One call, sent until there is an answer.
    async fn send(
        &self,
        method: Method,
        name: &str,
        body: Option<Bytes>,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), BrokerError> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.send_once(&method, name, body.clone(), patience).await {
                // A queen that stops is one that starts again soon.
                Err(error @ (BrokerError::Unreachable { .. } | BrokerError::Stopping)) => error,
                answer => return answer,
            };
            if begun.elapsed() + pause > self.retry + patience {
                return Err(error);
            }
            tracing::debug!("{name} is sent again in {} ms: {error}", pause.as_millis());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn send_once(
        &self,
        method: &Method,
        name: &str,
        body: Option<Bytes>,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), BrokerError> {
        let url = format!("{}/v1/hive/{name}", self.url);
        let mut request = self.http.request(method.clone(), url).bearer_auth(&self.token).timeout(ANSWER + patience);
        if let Some(body) = body {
            let kind = if *method == Method::PUT { "application/octet-stream" } else { "application/json" };
            request = request.header(reqwest::header::CONTENT_TYPE, kind).body(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&cause(&error)))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&cause(&error)))?;
        if status.is_success() {
            return Ok((status, bytes));
        }
        if let Ok(Refusal { broker, .. }) = serde_json::from_slice(&bytes) {
            return Err(broker);
        }
        let error = ApiError::from_response(status.as_u16(), &bytes);
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => BrokerError::Unauthorized { message: error.message },
            StatusCode::NOT_FOUND => BrokerError::invalid(format!("{} is no queen of ours: {error}", self.url)),
            _ => self.unreachable(&error.message),
        })
    }

    /// Asks again and again, each time for as long as one request may be kept waiting.
    async fn claim_in_parts(&self, request: ClaimRequest) -> Result<Option<Claim>, BrokerError> {
        let until = Instant::now() + request.patience.min(LONGEST);
        loop {
            let patience = until.saturating_duration_since(Instant::now()).min(LONGEST_POLL);
            let part = ClaimRequest { patience, ..request.clone() };
            let claim = self.call_patiently("claim", &part, patience).await?;
            if claim.is_some() || until <= Instant::now() {
                return Ok(claim);
            }
        }
    }

    fn unreachable(&self, reason: &str) -> BrokerError {
        BrokerError::Unreachable { url: self.url.clone(), reason: reason.to_owned() }
    }
}

/// A claim whose future was dropped before the answer came. What it may have got is asked for under the same id, and
/// given back.
struct Abandoned<'a> {
    broker: &'a HttpBroker,
    request: Option<ClaimRequest>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        // Without a runtime the lease brings it back.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let broker = self.broker.clone();
        runtime.spawn(async move {
            let nothing_new = ClaimRequest { offers: Vec::new(), patience: Duration::ZERO, ..request };
            if let Ok(Some(claim)) = broker.claim_in_parts(nothing_new).await
                && let Err(error) = broker.give_back(&claim.attempt, GiveBack::Unused).await
            {
                tracing::warn!("{} that nobody waited for comes back when its lease runs out: {error}", claim.attempt);
            }
        });
    }
}

#[async_trait]
impl WorkSource for HttpBroker {
    async fn enlist(&self, hive: HiveRecord, ttl: Duration) -> Result<(), BrokerError> {
        self.tell("enlist", &Enlist { hive, ttl_ms: millis(ttl) }).await
    }

    async fn retire(&self, hive_id: &str, incarnation: u64) -> Result<(), BrokerError> {
        self.tell("retire", &Retire { hive_id: hive_id.to_owned(), incarnation }).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Option<Claim>, BrokerError> {
        let mut abandoned = Abandoned { broker: self, request: Some(request.clone()) };
        let claim = self.claim_in_parts(request).await;
        abandoned.request = None;
        claim
    }

    async fn renew(&self, attempt: &AttemptId) -> Result<Lease, BrokerError> {
        self.call("renew", attempt).await
    }

    async fn cancelled(&self, attempt: &AttemptId, patience: Duration) -> Result<bool, BrokerError> {
        let until = Instant::now() + patience.min(LONGEST);
        loop {
            let patience = until.saturating_duration_since(Instant::now()).min(LONGEST_POLL);
            let ask = AskCancelled { attempt: attempt.clone(), patience_ms: millis(patience) };
            let answer = self.call_patiently::<IsCancelled>("cancelled", &ask, patience).await?;
            let cancelled = answer.is_some_and(|answer| answer.cancelled);
            if cancelled || until <= Instant::now() {
                return Ok(cancelled);
            }
        }
    }

    async fn append(&self, attempt: &AttemptId, sequence: u64, events: Vec<JobEvent>) -> Result<Appended, BrokerError> {
        self.call("append", &Append { attempt: attempt.clone(), sequence, events }).await
    }

    async fn finish(&self, attempt: &AttemptId, ending: Ending) -> Result<(), BrokerError> {
        self.tell("finish", &Finish { attempt: attempt.clone(), ending }).await
    }

    async fn give_back(&self, attempt: &AttemptId, why: GiveBack) -> Result<(), BrokerError> {
        self.tell("give_back", &Return { attempt: attempt.clone(), why }).await
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId, BrokerError> {
        let hashed = bytes.clone();
        let id = tokio::task::spawn_blocking(move || BlobId::of(&hashed)).await.map_err(|_| BrokerError::Stopping)?;
        self.send(Method::PUT, &format!("blobs/{id}"), Some(bytes), Duration::ZERO).await?;
        Ok(id)
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes, BrokerError> {
        let (_, bytes) = self.send(Method::GET, &format!("blobs/{id}"), None, Duration::ZERO).await?;
        let hashed = bytes.clone();
        let read = tokio::task::spawn_blocking(move || BlobId::of(&hashed)).await.map_err(|_| BrokerError::Stopping)?;
        if read != *id {
            return Err(self.unreachable(&format!("the bytes of {id} were changed on their way")));
        }
        Ok(bytes)
    }
}

/// reqwest says only what it was doing; why it failed is further down.
fn cause(error: &reqwest::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
