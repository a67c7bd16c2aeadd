//! The other side of the routes: how keeper, queen and hive speak to a server of ours.

mod sse;
mod stream;

pub use stream::EventStream;

use crate::span::{JOB_HEADER, header_of};
use axum::http::HeaderValue;
use operations_contract::{ApiError, Info, Job, JobList, JobResponse, JobState};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// One server of ours, spoken to over HTTP.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: reqwest::Url,
    key: Option<String>,
    job: Option<HeaderValue>,
}

/// A text that is read piece by piece.
#[derive(Debug)]
pub struct TextStream {
    client: Client,
    response: reqwest::Response,
}

impl TextStream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, ClientError> {
        self.response.chunk().await.map_err(|error| self.client.unreachable(&error))
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What was given as address is none.
    #[error("{url:?} is no address of a server: {reason}")]
    Address {
        /// What was given.
        url: String,
        /// Why it is none.
        reason: String,
    },
    /// Nobody answers.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// The server.
        url: String,
        /// What happened on the way.
        reason: String,
    },
    /// The server says no, and why.
    #[error("{0}")]
    Refused(ApiError),
    /// What answers is no server of ours.
    #[error("{url} gave an answer that cannot be read: {reason}")]
    Nonsense {
        /// The server.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl ClientError {
    /// What the server said, where it said something.
    pub fn refusal(&self) -> Option<&ApiError> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Address { .. } | Self::Unreachable { .. } | Self::Nonsense { .. } => None,
        }
    }
}

/// Establishing a connection to a machine of the house takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No answer but a stream takes long; the largest is a job with a picture in it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

impl Client {
    /// A client of the server at `url` (`http://127.0.0.1:7833`).
    ///
    /// # Errors
    /// [`ClientError::Address`]
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let wrong = |reason: String| ClientError::Address { url: url.to_owned(), reason };
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let base = reqwest::Url::parse(&with_scheme).map_err(|error| wrong(error.to_string()))?;
        if base.scheme() != "http" {
            return Err(wrong(format!("only http:// is spoken, got {}://", base.scheme())));
        }
        // A proxy from the environment is for the world outside, not for the machines of the house.
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).build();
        Ok(Self { http: http.map_err(|error| wrong(error.to_string()))?, base, key: None, job: None })
    }

    /// The same client with an API key that every request brings.
    #[must_use]
    pub fn with_key(mut self, key: Option<String>) -> Self {
        self.key = key.filter(|key| !key.is_empty());
        self
    }

    /// The same client for what is asked on behalf of a job: the server's log names it.
    #[must_use]
    pub fn on_behalf_of(mut self, job_id: &str) -> Self {
        self.job = header_of(job_id);
        self
    }

    /// The server's address, without a slash at the end.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Asks for a job: `POST /v1/jobs`. `operation` serialises to `{"operation": …}`.
    ///
    /// # Errors
    /// The server refuses it, or cannot be reached.
    pub async fn create_job(&self, operation: &(impl serde::Serialize + ?Sized)) -> Result<JobResponse, ClientError> {
        self.json(self.http.post(self.at(&["v1", "jobs"])).json(operation)).await
    }

    /// Cancels a job: `DELETE /v1/jobs/{id}`.
    ///
    /// # Errors
    /// There is no such job, or the server cannot be reached.
    pub async fn cancel_job(&self, job_id: &str) -> Result<(), ClientError> {
        self.send(self.http.delete(self.at(&["v1", "jobs", job_id])).timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// A job as it stands: `GET /v1/jobs/{id}`.
    ///
    /// # Errors
    /// There is no such job, or the server cannot be reached.
    pub async fn job(&self, job_id: &str) -> Result<Job, ClientError> {
        self.json(self.http.get(self.at(&["v1", "jobs", job_id]))).await
    }

    /// Jobs, newest first: `GET /v1/jobs`.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn jobs(&self, state: Option<JobState>, limit: Option<usize>) -> Result<JobList, ClientError> {
        let mut url = self.at(&["v1", "jobs"]);
        if let Some(state) = state {
            url.query_pairs_mut().append_pair("state", state.as_str());
        }
        if let Some(limit) = limit {
            url.query_pairs_mut().append_pair("limit", &limit.to_string());
        }
        self.json(self.http.get(url)).await
    }

    /// A picture's file: `GET /v1/jobs/{id}/images/{n}`.
    ///
    /// # Errors
    /// There is no such picture, or the server cannot be reached.
    pub async fn image(&self, job_id: &str, index: u32) -> Result<Vec<u8>, ClientError> {
        let url = self.at(&["v1", "jobs", job_id, "images", &index.to_string()]);
        let response = self.send(self.http.get(url).timeout(ANSWER_TIMEOUT)).await?;
        response.bytes().await.map(Vec::from).map_err(|error| self.unreachable(&error))
    }

    /// What the server is: `GET /v1/info`.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.json(self.http.get(self.at(&["v1", "info"]))).await
    }

    /// Whether the server can serve: `GET /ready`.
    ///
    /// # Errors
    /// [`ClientError::Refused`] says why it cannot yet; or the server cannot be reached.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.send(self.http.get(self.at(&["ready"])).timeout(CONNECT_TIMEOUT)).await.map(drop)
    }

    /// Whether the server lives: `GET /health`.
    ///
    /// # Errors
    /// It cannot be reached, or is none of ours.
    pub async fn alive(&self) -> Result<(), ClientError> {
        self.send(self.http.get(self.at(&["health"])).timeout(CONNECT_TIMEOUT)).await.map(drop)
    }

    /// Asks for what one server has beside jobs, in JSON: `GET` of the path whose parts these are.
    ///
    /// # Errors
    /// The server refuses, cannot be reached, or answers with something else.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ClientError> {
        self.json(self.http.get(self.at(path))).await
    }

    /// As [`Client::get`], with `POST` and a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl serde::Serialize,
    ) -> Result<T, ClientError> {
        self.json(self.http.post(self.at(path)).json(body)).await
    }

    /// As [`Client::get`], with `PUT` and a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl serde::Serialize,
    ) -> Result<T, ClientError> {
        self.json(self.http.put(self.at(path)).json(body)).await
    }

    /// Removes what a path names: `DELETE`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &[&str]) -> Result<(), ClientError> {
        self.send(self.http.delete(self.at(path)).timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// Reads a text as it comes, which may be without end: `GET` with a query.
    ///
    /// # Errors
    /// The server refuses or cannot be reached.
    pub async fn text(&self, path: &[&str], query: &[(&str, &str)]) -> Result<TextStream, ClientError> {
        let mut url = self.at(path);
        url.query_pairs_mut().extend_pairs(query);
        let response = self.send(self.http.get(url)).await?;
        Ok(TextStream { client: self.clone(), response })
    }

    /// A job's events from the one after `after` on (0: from the first).
    pub fn events(&self, job_id: &str, after: u64) -> EventStream {
        EventStream::new(self.clone(), job_id, after)
    }

    /// What stands between slashes may come from people; a slash in it is escaped.
    fn at(&self, segments: &[&str]) -> reqwest::Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    async fn json<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request.timeout(ANSWER_TIMEOUT)).await?;
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.nonsense(error.to_string()))
    }

    /// Sends, and turns every answer that is no success into its error.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let request = match &self.job {
            Some(job) => request.header(JOB_HEADER, job),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Err(ClientError::Refused(ApiError::from_response(status.as_u16(), &body)))
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        // The outer errors say "error sending request"; the innermost says why.
        let mut innermost: &dyn std::error::Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        ClientError::Unreachable { url: self.url().to_owned(), reason: innermost.to_string() }
    }

    fn nonsense(&self, reason: String) -> ClientError {
        ClientError::Nonsense { url: self.url().to_owned(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme_and_keeps_its_path() {
        assert_eq!(Client::new("127.0.0.1:7833").unwrap().url(), "http://127.0.0.1:7833");
        let behind = Client::new("http://house/rbee").unwrap();
        assert_eq!(behind.at(&["v1", "jobs", "a/b"]).as_str(), "http://house/rbee/v1/jobs/a%2Fb");
        for wrong in ["", "https://house", "http://", "::"] {
            assert!(matches!(Client::new(wrong), Err(ClientError::Address { .. })), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_told_apart() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Client::new(&free.to_string()).unwrap().info().await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
