//! What a repository holds, and which of it is to be downloaded.

use super::client::{Answer, Ask, Client, Fault, Tries, Verb, bad, host};
use crate::cache::is_commit;
use crate::error::{Error, Result};
use crate::options::{Patience, StoreOptions};
use crate::select::{self, Digest, Listed, MODEL_INDEX};
use crate::source::{Precision, Source, ending, is_safe_path};
use hyper::header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, LINK};
use operations_contract::ModelKind;
use serde::Deserialize;
use std::collections::HashSet;
use url::Url;

/// The branch that a repository is read from.
const BRANCH: &str = "main";
/// Bytes of one answer of the hub's API, of all pages together, and of a `model_index.json`.
const MAX_ANSWER: usize = 16 << 20;
const MAX_FILES: usize = 100_000;
const MAX_INDEX: usize = 1 << 20;

/// The hub, and any other server that has files.
#[derive(Debug)]
pub(crate) struct Hub {
    client: Client,
    endpoint: Url,
}

/// What is to be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub revision: Option<String>,
    pub kind: ModelKind,
    pub files: Vec<Planned>,
}

/// One file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its path in the model's folder.
    pub path: String,
    /// Where it is.
    pub url: Url,
    /// What messages call it.
    pub what: String,
    /// Its bytes, where they are known before.
    pub size: Option<u64>,
    pub digest: Option<Digest>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        let mut endpoint = options.endpoint.clone();
        // A mirror may lie below a path; what is joined to it must not replace its last part.
        if !endpoint.path().ends_with('/') {
            endpoint.set_path(&format!("{}/", endpoint.path()));
        }
        Self { client: Client::new(options), endpoint }
    }

    pub(crate) fn patience(&self) -> Patience {
        self.client.patience
    }

    /// What is to be downloaded for a source.
    pub(crate) async fn plan(&self, source: &Source) -> Result<Plan> {
        match source {
            Source::Hub { repository, file, precision } => {
                self.plan_repository(repository, file.as_deref(), *precision).await
            }
            Source::Url(url) => self.plan_url(url, &source.name()).await,
            Source::Path(path) => Err(Error::NotAModel { path: path.clone(), reason: "is on this machine".to_owned() }),
        }
    }

    /// One connection to a file, from the byte `from` on.
    pub(crate) async fn open(&self, file: &Planned, from: u64, same_as: Option<&str>) -> Result<Answer, Fault> {
        self.client.send(Ask { method: Verb::Get, url: &file.url, what: &file.what, from, same_as }).await
    }

    async fn plan_repository(&self, repository: &str, file: Option<&str>, precision: Precision) -> Result<Plan> {
        let revision = self.revision(repository).await?;
        let listing = self.tree(repository, &revision).await?;
        let unusable = |reason: String| Error::Unusable { repository: repository.to_owned(), reason };
        let is_pipeline = listing.iter().any(|listed| listed.path == MODEL_INDEX);
        let selection = match file {
            Some(file) => select::file(&listing, file),
            None if is_pipeline => {
                let url = self.file_url(repository, &revision, MODEL_INDEX)?;
                let what = format!("{repository}:{MODEL_INDEX}");
                let (index, _) = self.client.text(&url, &what, MAX_INDEX).await?;
                select::diffusers(&index, &listing, precision)
            }
            None => select::only(&listing),
        };
        let selection = selection.map_err(unusable)?;
        let mut names = HashSet::new();
        let mut files = Vec::with_capacity(selection.files.len());
        for Listed { path, size, digest } in selection.files {
            if !names.insert(path.to_lowercase()) {
                return Err(bad(&host(&self.endpoint), &format!("{repository} has {path:?} twice, but for its case")));
            }
            let url = self.file_url(repository, &revision, &path)?;
            files.push(Planned { what: format!("{repository}:{path}"), url, path, size: Some(size), digest });
        }
        Ok(Plan { revision: Some(revision), kind: selection.kind, files })
    }

    /// The commit that the branch is at.
    async fn revision(&self, repository: &str) -> Result<String> {
        let url = self.url(&["api", "models"], repository, &["revision", BRANCH])?;
        let (text, _) = self.client.text(&url, repository, MAX_ANSWER).await?;
        let wrong = |reason: &str| bad(&host(&url), &format!("{repository}: {reason}"));
        let Revision { sha } = serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
        if !is_commit(&sha) {
            return Err(wrong("its revision is no commit"));
        }
        Ok(sha)
    }

    /// Every file of the repository, page by page.
    async fn tree(&self, repository: &str, revision: &str) -> Result<Vec<Listed>> {
        let mut url = self.url(&["api", "models"], repository, &["tree", revision])?;
        url.set_query(Some("recursive=true"));
        let wrong = |reason: String| bad(&host(&self.endpoint), &format!("the files of {repository}: {reason}"));
        let mut files = Vec::new();
        loop {
            let (text, headers) = self.client.text(&url, repository, MAX_ANSWER).await?;
            let page: Vec<TreeEntry> = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
            let empty = page.is_empty();
            for entry in page.into_iter().filter(|entry| entry.kind == "file") {
                files.push(listed(entry).map_err(wrong)?);
            }
            if files.len() > MAX_FILES {
                return Err(wrong(format!("there are more than {MAX_FILES}")));
            }
            match next_page(&headers, &url) {
                Some(next) if next.origin() != url.origin() => {
                    return Err(wrong("the next page is elsewhere".to_owned()));
                }
                Some(_) if empty => return Err(wrong("an empty page is followed by another".to_owned())),
                Some(next) => url = next,
                None => return Ok(files),
            }
        }
    }

    /// A single file: its size and sum are told by a server that knows them. One that does not answer to HEAD, as signed
    /// addresses do not, tells them later or never.
    async fn plan_url(&self, url: &Url, name: &str) -> Result<Plan> {
        let kind = if ending(name) == "gguf" { ModelKind::Language } else { ModelKind::ImageFile };
        if !is_safe_path(name) || name.contains('/') {
            let reason = format!("{name:?} cannot be the name of a file");
            return Err(Error::Unusable { repository: host(url), reason });
        }
        let what = name.to_owned();
        let mut tries = Tries::new(self.client.patience);
        let answer = loop {
            match self.client.send(Ask { method: Verb::Head, url, what: &what, from: 0, same_as: None }).await {
                Ok(answer) => break Some(answer),
                Err(Fault::Never(Error::Refused { .. } | Error::BadAnswer { .. })) => break None,
                Err(fault) => tries.pause(fault).await?,
            }
        };
        let (size, digest) = answer.map_or((None, None), |answer| announced(&answer));
        let files = vec![Planned { path: name.to_owned(), url: url.clone(), what, size, digest }];
        Ok(Plan { revision: None, kind, files })
    }

    fn file_url(&self, repository: &str, revision: &str, path: &str) -> Result<Url> {
        let after: Vec<&str> = ["resolve", revision].into_iter().chain(path.split('/')).collect();
        self.url(&[], repository, &after)
    }

    /// An address at the hub, every part escaped.
    fn url(&self, before: &[&str], repository: &str, after: &[&str]) -> Result<Url> {
        let mut url = self.endpoint.clone();
        let path = url.path_segments_mut();
        let mut path = path.map_err(|()| bad(&host(&self.endpoint), "HF_ENDPOINT is no address that has paths"))?;
        path.pop_if_empty().extend(before).extend(repository.split('/')).extend(after);
        drop(path);
        Ok(url)
    }
}

/// What headers tell of a file: its bytes, and its SHA-256 where the hub has it.
fn announced(answer: &Answer) -> (Option<u64>, Option<Digest>) {
    let text = |headers: &HeaderMap, name: HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let linked = text(&answer.first_headers, HeaderName::from_static("x-linked-size"));
    let size = linked.or_else(|| text(&answer.headers, CONTENT_LENGTH)).and_then(|size| size.parse().ok());
    let etag = text(&answer.first_headers, HeaderName::from_static("x-linked-etag"));
    let sum = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase());
    (size, sum.filter(|sum| is_sha256(sum)).map(Digest::Sha256))
}

/// The name of a content, where the server gives one that is exact.
pub(crate) fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    (tag.starts_with('"') && tag.len() <= 256).then(|| tag.to_owned())
}

fn is_sha256(sum: &str) -> bool {
    sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn listed(entry: TreeEntry) -> Result<Listed, String> {
    let TreeEntry { path, size, oid, lfs, .. } = entry;
    if !is_safe_path(&path) {
        let shown: String = path.chars().take(100).collect();
        return Err(format!("{shown:?} would not stay inside its folder, or is no name of a file"));
    }
    let (size, digest) = match (lfs, oid) {
        (Some(lfs), _) if is_sha256(&lfs.oid) => (lfs.size, Some(Digest::Sha256(lfs.oid.to_ascii_lowercase()))),
        (Some(_), _) => return Err(format!("the sum of {path:?} is no SHA-256")),
        (None, Some(oid)) if is_commit(&oid) => (size, Some(Digest::GitBlob(oid.to_ascii_lowercase()))),
        (None, _) => (size, None),
    };
    Ok(Listed { path, size, digest })
}

/// `Link: <URL>; rel="next"`
fn next_page(headers: &HeaderMap, url: &Url) -> Option<Url> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let next = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    url.join(next.split_once('<')?.1.split_once('>')?.0).ok()
}
