//! A hub on loopback: the API of Hugging Face as far as downloads use it, with faults on demand.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The commit that every repository is at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// What a request to a gated repository has to bear.
pub(crate) const TOKEN: &str = "hf_secret";
/// Files as large as this are in LFS, and come from the other server.
const LARGE: usize = 64 << 10;

/// What happens to the next request for a file.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection breaks after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes, and the connection stays.
    Stall(usize),
    /// Each byte of the body is another.
    Wrong,
    /// This status, with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// A redirect to this address.
    Redirect(String),
    /// The range is not looked at: the whole comes.
    Whole,
}

/// A hub and its CDN, which listens at another address. It ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct FakeHub {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
}

struct Shared {
    state: Mutex<Hub>,
    cdn: SocketAddr,
}

#[derive(Default)]
struct Hub {
    repositories: HashMap<String, BTreeMap<String, Vec<u8>>>,
    gated: bool,
    faults: HashMap<String, Vec<Fault>>,
    answers: HashMap<String, String>,
    requests: Vec<Seen>,
    /// How long the CDN waits after each 64 KiB.
    slow: Option<Duration>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    /// Whether it came to the CDN.
    pub(crate) cdn: bool,
}

impl FakeHub {
    pub(crate) async fn start() -> Self {
        let hub = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let cdn = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = hub.local_addr().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), cdn: cdn.local_addr().unwrap() });
        let app = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(revision))
            .route("/api/models/{owner}/{name}/tree/{revision}", get(tree))
            .route("/{owner}/{name}/resolve/{revision}/{*path}", get(resolve))
            .route("/files/{*path}", get(plain))
            .with_state(Arc::clone(&shared));
        let far = Router::new().route("/cdn/{owner}/{name}/{*path}", get(large)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(hub, app).await });
        tokio::spawn(async move { axum::serve(cdn, far).await });
        Self { shared, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn put(&self, repository: &str, path: &str, content: impl Into<Vec<u8>>) {
        self.state(|hub| {
            hub.repositories.entry(repository.to_owned()).or_default().insert(path.to_owned(), content.into())
        });
    }

    /// Every file of a folder.
    pub(crate) fn put_folder(&self, repository: &str, folder: &FilePath) {
        fn walk(hub: &FakeHub, repository: &str, root: &FilePath, folder: &FilePath) {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    walk(hub, repository, root, &entry);
                } else {
                    let path = entry.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                    hub.put(repository, &path, std::fs::read(&entry).unwrap());
                }
            }
        }
        walk(self, repository, folder, folder);
    }

    /// Only those who bear [`TOKEN`] may read.
    pub(crate) fn gate(&self) {
        self.state(|hub| hub.gated = true);
    }

    /// The next requests for the content of a file, or for another path, each have one of these; later ones none.
    pub(crate) fn fault(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state(|hub| hub.faults.insert(path.to_owned(), faults.into_iter().collect()));
    }

    /// What the API answers at `path` instead of the truth.
    pub(crate) fn answer(&self, path: &str, text: impl Into<String>) {
        self.state(|hub| hub.answers.insert(path.to_owned(), text.into()));
    }

    /// Contents come slowly from now on: so long after each 64 KiB.
    pub(crate) fn slow(&self, pause: Option<Duration>) {
        self.state(|hub| hub.slow = pause);
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.state(|hub| hub.requests.clone())
    }

    /// Requests for the content of `path`: to the CDN, or to the hub where it is small.
    pub(crate) fn requests_for(&self, path: &str) -> Vec<Seen> {
        let wanted = format!("/{path}");
        let mut seen = self.requests();
        seen.retain(|seen| seen.path.ends_with(&wanted) && seen.method == "GET");
        let far = seen.iter().any(|seen| seen.cdn);
        seen.retain(|seen| seen.cdn == far);
        seen
    }

    fn state<T>(&self, use_it: impl FnOnce(&mut Hub) -> T) -> T {
        use_it(&mut self.shared.state.lock().unwrap())
    }
}

pub(crate) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_blob(content: &[u8]) -> String {
    let sum = Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content).finalize();
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes down a request, and answers it where it is not to be answered as usual.
#[allow(clippy::result_large_err, reason = "an answer that is made once a request")]
fn meet(shared: &Shared, request: &Request, cdn: bool) -> Result<Option<Fault>, Response> {
    let text = |name| request.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
    let path = request.uri().path().to_owned();
    let mut hub = shared.state.lock().unwrap();
    let authorization = text(header::AUTHORIZATION);
    let method = request.method().to_string();
    hub.requests.push(Seen {
        method,
        path: path.clone(),
        range: text(header::RANGE),
        authorization: authorization.clone(),
        cdn,
    });
    if hub.gated && !cdn && authorization != Some(format!("Bearer {TOKEN}")) {
        return Err((StatusCode::UNAUTHORIZED, [("x-error-code", "GatedRepo")]).into_response());
    }
    if let Some(answer) = hub.answers.get(&path) {
        return Err(([(header::CONTENT_TYPE, "application/json")], answer.clone()).into_response());
    }
    let wanted = hub.faults.keys().find(|key| path.ends_with(key.as_str())).cloned();
    // Of a file in LFS, the fault is the CDN's.
    let is_content = cdn || !path.contains("/resolve/") || !is_large(&hub, &path);
    let fault = wanted.filter(|_| is_content).and_then(|key| {
        let faults = hub.faults.get_mut(&key)?;
        (!faults.is_empty()).then(|| faults.remove(0))
    });
    match fault {
        Some(Fault::Status(status, headers)) => {
            let mut response = StatusCode::from_u16(status).unwrap().into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, HeaderValue::from_str(&value).unwrap());
            }
            Err(response)
        }
        Some(Fault::Redirect(to)) => Err((StatusCode::FOUND, [(header::LOCATION, to)]).into_response()),
        fault => Ok(fault),
    }
}

fn is_large(hub: &Hub, path: &str) -> bool {
    hub.repositories.iter().any(|(repository, files)| {
        files.iter().any(|(file, content)| {
            content.len() >= LARGE
                && path.starts_with(&format!("/{repository}/"))
                && path.ends_with(&format!("/{file}"))
        })
    })
}

async fn revision(
    State(shared): State<Arc<Shared>>,
    Path((owner, name, _)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    if let Err(response) = meet(&shared, &request, false) {
        return response;
    }
    match shared.state.lock().unwrap().repositories.contains_key(&format!("{owner}/{name}")) {
        true => format!(r#"{{"id": "{owner}/{name}", "sha": "{COMMIT}", "siblings": []}}"#).into_response(),
        false => (StatusCode::UNAUTHORIZED, [("x-error-code", "RepoNotFound")]).into_response(),
    }
}

/// Three files a page, so that every download turns pages.
async fn tree(
    State(shared): State<Arc<Shared>>,
    Path((owner, name, _)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    if let Err(response) = meet(&shared, &request, false) {
        return response;
    }
    let from: usize = request.uri().query().and_then(|query| query.split("cursor=").nth(1)?.parse().ok()).unwrap_or(0);
    let hub = shared.state.lock().unwrap();
    let files = &hub.repositories[&format!("{owner}/{name}")];
    let entries: Vec<String> = files
        .iter()
        .skip(from)
        .take(3)
        .map(|(path, content)| {
            let lfs =
                format!(r#", "lfs": {{"oid": "{}", "size": {}, "pointerSize": 130}}"#, sha256(content), content.len());
            let lfs = if content.len() >= LARGE { lfs } else { String::new() };
            format!(
                r#"{{"type": "file", "oid": "{}", "size": {}, "path": "{path}"{lfs}}}"#,
                git_blob(content),
                content.len()
            )
        })
        .chain([r#"{"type": "directory", "oid": "0", "size": 0, "path": "folder"}"#.to_owned()])
        .collect();
    let mut response = format!("[{}]", entries.join(", ")).into_response();
    if from + 3 < files.len() {
        let next = format!("<{}?recursive=true&cursor={}>; rel=\"next\"", request.uri().path(), from + 3);
        response.headers_mut().insert(header::LINK, HeaderValue::from_str(&next).unwrap());
    }
    response
}

async fn resolve(
    State(shared): State<Arc<Shared>>,
    Path((owner, name, _, path)): Path<(String, String, String, String)>,
    request: Request,
) -> Response {
    let fault = match meet(&shared, &request, false) {
        Ok(fault) => fault,
        Err(response) => return response,
    };
    let repository = format!("{owner}/{name}");
    let content =
        shared.state.lock().unwrap().repositories.get(&repository).and_then(|files| files.get(&path)).cloned();
    let Some(content) = content else {
        return (StatusCode::NOT_FOUND, [("x-error-code", "EntryNotFound")]).into_response();
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-repo-commit", HeaderValue::from_static(COMMIT));
    if content.len() < LARGE {
        headers.insert(header::ETAG, HeaderValue::from_str(&format!("\"{}\"", git_blob(&content))).unwrap());
        return (headers, send(&request, &content, fault.as_ref(), None)).into_response();
    }
    headers.insert("x-linked-etag", HeaderValue::from_str(&format!("\"{}\"", sha256(&content))).unwrap());
    headers.insert("x-linked-size", HeaderValue::from(content.len()));
    let location = format!("http://{}/cdn/{repository}/{path}?signature=secret", shared.cdn);
    headers.insert(header::LOCATION, HeaderValue::from_str(&location).unwrap());
    (StatusCode::FOUND, headers).into_response()
}

async fn large(
    State(shared): State<Arc<Shared>>,
    Path((owner, name, path)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let fault = match meet(&shared, &request, true) {
        Ok(fault) => fault,
        Err(response) => return response,
    };
    let (content, slow) = {
        let hub = shared.state.lock().unwrap();
        (hub.repositories[&format!("{owner}/{name}")][&path].clone(), hub.slow)
    };
    send(&request, &content, fault.as_ref(), slow)
}

/// A file beside the hub, of the repository `files`: what any web server does.
async fn plain(State(shared): State<Arc<Shared>>, Path(path): Path<String>, request: Request) -> Response {
    let fault = match meet(&shared, &request, false) {
        Ok(fault) => fault,
        Err(response) => return response,
    };
    let content = shared.state.lock().unwrap().repositories.get("files").and_then(|files| files.get(&path)).cloned();
    let Some(content) = content else { return StatusCode::NOT_FOUND.into_response() };
    let tag = HeaderValue::from_str(&format!("\"{}\"", &sha256(&content)[..16])).unwrap();
    let changed = request.headers().get(header::IF_RANGE).is_some_and(|known| *known != tag);
    let fault = if changed { Some(Fault::Whole) } else { fault };
    ([(header::ETAG, tag)], send(&request, &content, fault.as_ref(), None)).into_response()
}

/// The content, from the byte on that the request names, with the fault.
fn send(request: &Request, content: &[u8], fault: Option<&Fault>, slow: Option<Duration>) -> Response {
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok());
    let range = range.filter(|_| !matches!(fault, Some(Fault::Whole)));
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let mut response = Response::new(Body::empty());
    if let Some(from) = from {
        if from >= content.len() {
            return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
        response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::from_str(&range).unwrap());
    }
    let mut rest = content[from.unwrap_or(0)..].to_vec();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(rest.len()));
    if request.method() == Method::HEAD {
        return response;
    }
    let (stop, stalls) = match fault {
        Some(Fault::Cut(bytes)) => (*bytes, false),
        Some(Fault::Stall(bytes)) => (*bytes, true),
        Some(Fault::Wrong) => {
            rest.iter_mut().for_each(|byte| *byte = !*byte);
            (usize::MAX, false)
        }
        _ => (usize::MAX, false),
    };
    let broken = stop < rest.len();
    rest.truncate(stop);
    let pieces: Vec<Vec<u8>> = rest.chunks(64 << 10).map(<[u8]>::to_vec).collect();
    let body = stream::unfold((pieces.into_iter(), false), move |(mut pieces, over)| async move {
        if let Some(piece) = pieces.next() {
            if let Some(pause) = slow {
                tokio::time::sleep(pause).await;
            }
            return Some((Ok(piece), (pieces, false)));
        }
        if over || !broken {
            return None;
        }
        if stalls {
            std::future::pending::<()>().await;
        }
        // What was sent before is to arrive before the connection breaks.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Err(std::io::Error::other("cut")), (pieces, true)))
    });
    *response.body_mut() = Body::from_stream(body);
    response
}
