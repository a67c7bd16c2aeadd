//! One file, until it is whole: broken connections are taken up again where they broke.

use super::meter::Meter;
use super::part::{Damaged, Part};
use crate::catalogue;
use crate::error::{Error, Result};
use crate::hub::{Answer, Fault, Hub, Planned, Tries, strong_etag};
use crate::lock::FileLock;
use bytes::BytesMut;
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use operations_contract::ModelFile;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// What is written at once.
const BLOCK: usize = 1 << 20;
/// A connection that brought so much was worth it: failures before it count no more.
const PROGRESS: u64 = 64 << 10;

/// Where a file lies while it comes, and when it is whole.
pub(super) struct Place {
    pub part: PathBuf,
    pub whole: PathBuf,
}

impl Place {
    pub(super) fn new(staging: &Path, path: &str) -> Self {
        Self { part: staging.join("parts").join(path), whole: staging.join(catalogue::FILES).join(path) }
    }

    /// Bytes that are here already.
    pub(super) fn bytes(&self) -> u64 {
        [&self.whole, &self.part]
            .iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|about| about.len())
            .max()
            .unwrap_or(0)
    }

    /// Beside the part: the name of the content that it is of, where nothing else tells.
    fn tag(&self) -> PathBuf {
        let mut name = self.part.clone().into_os_string();
        name.push(".etag");
        name.into()
    }
}

/// Downloads one file.
pub(super) async fn fetch(
    hub: &Hub,
    file: &Planned,
    place: Place,
    lock: &Arc<FileLock>,
    meter: &Meter,
) -> Result<ModelFile> {
    let place = Arc::new(place);
    let mut part = open(file, &place, lock).await?;
    meter.found(part.length());
    let mut size = file.size;
    let mut tries = Tries::new(hub.patience());
    let mut damaged_before = false;
    loop {
        if size.is_none_or(|size| part.length() < size) {
            let before = part.length();
            let (kept, brought) = receive(hub, file, &place, part, &mut size, meter).await?;
            part = kept;
            if let Err(fault) = brought {
                if part.length().saturating_sub(before) >= PROGRESS {
                    tries.progressed();
                }
                tries.pause(fault).await?;
                continue;
            }
        }
        let digest = file.digest.clone();
        let (back, sum) = blocking(move || {
            let sum = part.finish(digest.as_ref())?;
            Ok((part, sum))
        })
        .await?;
        part = back;
        match sum {
            Ok(sha256) => {
                let bytes = part.length();
                drop(part);
                let place = Arc::clone(&place);
                blocking(move || settle(&place)).await?;
                return Ok(ModelFile { path: file.path.clone(), bytes, sha256: Some(sha256) });
            }
            Err(Damaged { digest, expected, got }) if damaged_before => {
                part.restart()?;
                return Err(Error::Checksum { file: file.what.clone(), digest, expected, got });
            }
            Err(_) => {
                tracing::warn!("{} arrived damaged; it is downloaded once more", file.what);
                damaged_before = true;
                meter.lost(part.length());
                part.restart()?;
            }
        }
    }
}

/// Opens what has arrived: the whole of it, where it was complete when something broke off.
async fn open(file: &Planned, place: &Arc<Place>, lock: &Arc<FileLock>) -> Result<Part> {
    let (place, lock) = (Arc::clone(place), Arc::clone(lock));
    let (size, digest) = (file.size, file.digest.clone());
    blocking(move || {
        for path in [&place.part, &place.whole] {
            catalogue::make(path.parent().unwrap_or(path))?;
        }
        if place.whole.exists() {
            // Summed up again: the machine may have lost power before it was on the disk.
            fs::rename(&place.whole, &place.part).map_err(|source| Error::io(&place.part, source))?;
        }
        // Without a sum and without the name of the content nothing tells that the rest would fit.
        if digest.is_none() && !place.tag().exists() {
            let _ = fs::remove_file(&place.part);
        }
        Part::open(&place.part, size, digest.as_ref(), lock)
    })
    .await
}

/// Takes one connection for as far as it goes.
async fn receive(
    hub: &Hub,
    file: &Planned,
    place: &Place,
    mut part: Part,
    size: &mut Option<u64>,
    meter: &Meter,
) -> Result<(Part, Result<(), Fault>)> {
    let tag = if file.digest.is_none() { fs::read_to_string(place.tag()).ok() } else { None };
    let mut answer = match hub.open(file, part.length(), tag.as_deref()).await {
        Ok(answer) => answer,
        Err(fault) => return Ok((part, Err(fault))),
    };
    if part.length() > 0 && !continues(&answer, part.length()) {
        // The whole comes, of this content or of a newer one.
        meter.lost(part.length());
        part.restart()?;
    }
    if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
        let reason = "it has less of the file than it said".to_owned();
        return Ok((part, Err(Fault::Again { host: answer.host, reason, after: None })));
    }
    if file.digest.is_none() {
        match strong_etag(&answer.headers) {
            Some(tag) => fs::write(place.tag(), tag).map_err(|source| Error::io(&place.tag(), source))?,
            None => drop(fs::remove_file(place.tag())),
        }
    }
    if let Some(announced) = whole_length(&answer.headers, part.length()) {
        match *size {
            Some(expected) if expected != announced => {
                let reason = format!("{} has {announced} bytes, not {expected}", file.what);
                return Err(Error::BadAnswer { host: answer.host, reason });
            }
            Some(_) => {}
            None => {
                meter.announced(announced);
                *size = Some(announced);
            }
        }
    }
    let mut buffer = BytesMut::with_capacity(BLOCK);
    let result = loop {
        match answer.next().await {
            Ok(Some(piece)) => {
                let arrived = part.length() + (buffer.len() + piece.len()) as u64;
                if let Some(size) = size.filter(|size| arrived > *size) {
                    let reason = format!("{} goes on after its {size} bytes", file.what);
                    return Err(Error::BadAnswer { host: answer.host, reason });
                }
                meter.arrived(piece.len() as u64);
                buffer.extend_from_slice(&piece);
                if buffer.len() >= BLOCK {
                    part = write(part, buffer.split()).await?;
                }
            }
            Ok(None) => break Ok(()),
            Err(fault) => break Err(fault),
        }
    };
    part = write(part, buffer).await?;
    let short = size.is_some_and(|size| part.length() < size);
    let result = match result {
        Ok(()) if short => {
            Err(Fault::Again { host: answer.host, reason: "the answer ended early".to_owned(), after: None })
        }
        result => result,
    };
    Ok((part, result))
}

/// Whether an answer is the rest of the file, from the byte `from` on.
fn continues(answer: &Answer, from: u64) -> bool {
    let range = answer.headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    answer.status == StatusCode::PARTIAL_CONTENT
        && range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()) == Some(from)
}

/// The length of the whole file, where the answer tells it.
fn whole_length(headers: &HeaderMap, from: u64) -> Option<u64> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text(CONTENT_RANGE) {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => text(CONTENT_LENGTH)?.parse::<u64>().ok()?.checked_add(from),
    }
}

async fn write(mut part: Part, bytes: BytesMut) -> Result<Part> {
    if bytes.is_empty() {
        return Ok(part);
    }
    blocking(move || {
        part.append(&bytes)?;
        Ok(part)
    })
    .await
}

fn settle(place: &Place) -> Result<()> {
    fs::rename(&place.part, &place.whole).map_err(|source| Error::io(&place.whole, source))?;
    let _ = fs::remove_file(place.tag());
    Ok(())
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err(Error::Cancelled))
}
