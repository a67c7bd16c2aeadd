//! One request at a time: redirects, who is told the token, and which failures are worth another try.

use super::connector::{Connector, connector};
use crate::error::{Error, Result};
use crate::options::{Patience, StoreOptions, Token};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, LOCATION, RANGE, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

/// The hub redirects once, or twice where a repository has moved.
const REDIRECTS: usize = 6;
/// Fewer bytes than this within [`Patience::stall`] are as bad as none.
const TRICKLE: usize = 1024;

#[derive(Debug)]
pub(super) struct Client {
    http: hyper_util::client::legacy::Client<HttpsConnector<Connector>, Empty<Bytes>>,
    endpoint: Url,
    token: Option<Token>,
    no_roots: Option<String>,
    pub(super) patience: Patience,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub method: Verb,
    pub url: &'a Url,
    /// What messages call it.
    pub what: &'a str,
    /// From which byte on; 0 is the whole.
    pub from: u64,
    /// The rest is wanted only of the very same content, which this names.
    pub same_as: Option<&'a str>,
}

/// The two methods that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Head,
}

/// An answer, after all redirects.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    /// The headers of the last answer.
    pub headers: HeaderMap,
    /// Those of the first, in which the hub describes what it redirects to.
    pub first_headers: HeaderMap,
    /// Who answered.
    pub host: String,
    body: Incoming,
    stall: Duration,
    /// How the body broke off, where it has and that was not told yet.
    broken: Option<String>,
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It may work another time, perhaps after a while.
    Again { host: String, reason: String, after: Option<Duration> },
    /// It will not.
    Never(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Never(error)
    }
}

/// Counts failures, and says how long to wait after each.
#[derive(Debug)]
pub(crate) struct Tries {
    patience: Patience,
    failures: u32,
}

impl Client {
    pub(super) fn new(options: &StoreOptions) -> Self {
        let (connector, no_roots) = connector(options.patience.connect);
        let mut http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        http.pool_idle_timeout(Duration::from_secs(30)).pool_timer(hyper_util::rt::TokioTimer::new());
        Self {
            http: http.build(connector),
            endpoint: options.endpoint.clone(),
            token: options.token.clone(),
            no_roots,
            patience: options.patience,
        }
    }

    /// Asks once, following redirects. The token goes to the hub alone, wherever a redirect leads.
    pub(super) async fn send(&self, ask: Ask<'_>) -> Result<Answer, Fault> {
        let mut url = ask.url.clone();
        let mut first_headers = None;
        for _ in 0..=REDIRECTS {
            let response = self.send_to(&url, ask).await?;
            let (parts, body) = response.into_parts();
            let host = host(&url);
            if !parts.status.is_redirection() || parts.status == StatusCode::NOT_MODIFIED {
                let nothing_left = parts.status == StatusCode::RANGE_NOT_SATISFIABLE && ask.from > 0;
                if !parts.status.is_success() && !nothing_left {
                    return Err(self.refusal(parts.status, &parts.headers, ask.what, &url));
                }
                let first_headers = first_headers.unwrap_or_else(|| parts.headers.clone());
                let (status, headers, stall) = (parts.status, parts.headers, self.patience.stall);
                return Ok(Answer { status, headers, first_headers, host, body, stall, broken: None });
            }
            let location = parts.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.filter(|next| matches!(next.scheme(), "http" | "https") && next.host_str().is_some());
            let Some(next) = next else {
                return Err(bad(&host, "it redirects to what is no address").into());
            };
            if url.scheme() == "https" && next.scheme() == "http" {
                return Err(bad(&host, "it redirects from https to http").into());
            }
            first_headers.get_or_insert(parts.headers);
            url = next;
        }
        Err(bad(&host(ask.url), &format!("it redirects more than {REDIRECTS} times")).into())
    }

    async fn send_to(&self, url: &Url, ask: Ask<'_>) -> Result<Response<Incoming>, Fault> {
        let method = match ask.method {
            Verb::Get => Method::GET,
            Verb::Head => Method::HEAD,
        };
        let agent = concat!("rbee/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::builder().method(method).uri(url.as_str()).header(USER_AGENT, agent);
        if ask.from > 0 {
            request = request.header(RANGE, format!("bytes={}-", ask.from));
            if let Some(tag) = ask.same_as {
                request = request.header(hyper::header::IF_RANGE, tag);
            }
        }
        if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin()) {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.secret()));
        }
        let host = host(url);
        let request = request.body(Empty::new());
        let request = request.map_err(|_| bad(&host, "its address or the token cannot be written into a request"))?;
        let failed = |reason: String| Fault::Again { host: host.clone(), reason, after: None };
        match timeout(self.patience.answer, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let hint = self.no_roots.as_ref().filter(|_| url.scheme() == "https");
                Err(failed(hint.map_or_else(|| chain(&error), |hint| format!("{} ({hint})", chain(&error)))))
            }
            Err(_) => Err(failed(format!("no answer within {} s", self.patience.answer.as_secs_f64()))),
        }
    }

    /// What an answer that is no success means.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, what: &str, url: &Url) -> Fault {
        let (what, host) = (what.to_owned(), host(url));
        let code = headers.get(HeaderName::from_static("x-error-code")).and_then(|code| code.to_str().ok());
        let reason = || code.map_or_else(|| status.to_string(), |code| format!("{status}, {code}"));
        let at_hub = url.origin() == self.endpoint.origin();
        match (status, code) {
            // Signed addresses expire; the hub gives out a new one.
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) if !at_hub => {
                Fault::Again { host, reason: reason(), after: None }
            }
            // The hub does not tell strangers whether there is such a repository.
            (StatusCode::UNAUTHORIZED, Some("RepoNotFound")) => {
                let hint = match self.token {
                    Some(_) => "there is none that HF_TOKEN may see",
                    None => "there is none, or it is private: then set HF_TOKEN",
                };
                Error::NotFound { what, host, reason: hint.to_owned() }.into()
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                let repository = what.split(':').next().unwrap_or(&what).to_owned();
                let page = self.endpoint.join(&repository).map(|page| page.to_string()).unwrap_or_default();
                let hint = match (&self.token, code) {
                    (Some(_), Some("GatedRepo")) => {
                        format!("accept its conditions at {page} with the account of HF_TOKEN")
                    }
                    (Some(_), _) => "HF_TOKEN may not read it".to_owned(),
                    (None, Some("GatedRepo")) => {
                        format!("accept its conditions at {page} and set HF_TOKEN to a token of that account")
                    }
                    (None, _) => "set HF_TOKEN to a token that may read it".to_owned(),
                };
                Error::Refused { what, host, hint }.into()
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => Error::NotFound { what, host, reason: reason() }.into(),
            (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => again(host, reason(), headers),
            _ if status.is_server_error() => again(host, reason(), headers),
            _ => bad(&host, &format!("{} for {what}", reason())).into(),
        }
    }

    /// A small text, whole.
    pub(super) async fn text(&self, url: &Url, what: &str, limit: usize) -> Result<(Vec<u8>, HeaderMap)> {
        let mut tries = Tries::new(self.patience);
        loop {
            let fault = match self.text_once(url, what, limit).await {
                Ok(text) => return Ok(text),
                Err(fault) => fault,
            };
            tries.pause(fault).await?;
        }
    }

    async fn text_once(&self, url: &Url, what: &str, limit: usize) -> Result<(Vec<u8>, HeaderMap), Fault> {
        let mut answer = self.send(Ask { method: Verb::Get, url, what, from: 0, same_as: None }).await?;
        let mut text = Vec::new();
        while let Some(piece) = answer.next().await? {
            if text.len() + piece.len() > limit {
                return Err(bad(&answer.host, &format!("more than {limit} bytes for {what}")).into());
            }
            text.extend_from_slice(&piece);
        }
        Ok((text, answer.headers))
    }
}

impl Answer {
    /// The next piece of the body. One that dawdles is a failure like one that breaks off.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        if let Some(reason) = self.broken.take() {
            return Err(self.failed(reason));
        }
        let deadline = Instant::now() + self.stall;
        let mut gathered: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        loop {
            let frame = match tokio::time::timeout_at(deadline, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => break,
                // What came before is good, and goes first.
                Ok(Some(Err(error))) => {
                    self.broken = Some(format!("the connection broke: {}", chain(&error)));
                    break;
                }
                Err(_) => {
                    self.broken = Some(format!("nothing came for {} s", self.stall.as_secs_f64()));
                    break;
                }
            };
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                bytes += data.len();
                gathered.push(data);
                if bytes >= TRICKLE {
                    break;
                }
            }
        }
        match (gathered.len(), self.broken.take_if(|_| gathered.is_empty())) {
            (0, Some(reason)) => Err(self.failed(reason)),
            (0, None) => Ok(None),
            (1, _) => Ok(gathered.pop()),
            _ => Ok(Some(Bytes::from(gathered.concat()))),
        }
    }

    fn failed(&self, reason: String) -> Fault {
        Fault::Again { host: self.host.clone(), reason, after: None }
    }
}

impl Tries {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, failures: 0 }
    }

    /// There was progress: earlier failures count no more.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// There is to be no other: the fault as an error.
    pub(crate) async fn pause(&mut self, fault: Fault) -> Result<()> {
        let (host, reason, after) = match fault {
            Fault::Never(error) => return Err(error),
            Fault::Again { host, reason, after } => (host, reason, after),
        };
        self.failures += 1;
        if self.failures > self.patience.tries {
            return Err(Error::Unreachable { host, reason });
        }
        let pause = self.patience.first_pause.saturating_mul(1 << (self.failures - 1).min(16));
        let pause = after.unwrap_or(pause).min(self.patience.longest_pause);
        tracing::debug!("{host}: {reason}; trying again in {pause:?}");
        sleep(pause).await;
        Ok(())
    }
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

fn again(host: String, reason: String, headers: &HeaderMap) -> Fault {
    let after = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    Fault::Again { host, reason, after: after.map(Duration::from_secs) }
}

pub(super) fn bad(host: &str, reason: &str) -> Error {
    Error::BadAnswer { host: host.to_owned(), reason: reason.to_owned() }
}

/// Host and port; what stands behind may be secret.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
