//! What the suite runs on: a broker on a disk, and the way to it that a hive has.

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use broker::{
    Broker, Claim, ClaimRequest, Clock, Ending, HiveRecord, HttpBroker, KeyId, NewJob, Offer, Outcome, PictureRef,
    Role, SqliteBroker, SqliteOptions, StoredOperation, Want, WorkKind, WorkSource, hive_routes,
};
use futures_util::StreamExt as _;
use operations_contract::{ImageFormat, ImageGenerationRequest, JobEvent, Operation};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough that no slow machine lets it run out by itself.
pub(crate) const LEASE: Duration = Duration::from_secs(2500);

/// How the hive reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In the same process.
    Direct,
    /// Over HTTP.
    Http,
    /// Over HTTP, and every third answer is lost on its way.
    Torn,
}

pub(crate) struct Bed {
    pub(crate) folder: TempDir,
    pub(crate) clock: Clock,
    pub(crate) queen: Arc<dyn Broker>,
    pub(crate) hive: Arc<dyn WorkSource>,
    way: Way,
    options: SqliteOptions,
    server: Option<Server>,
    /// Of the hive, over HTTP.
    token: Option<String>,
}

/// The queen's side of HTTP.
struct Server {
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Bed {
    pub(crate) async fn new(way: Way) -> Self {
        Self::with(way, |_| ()).await
    }

    pub(crate) async fn with(way: Way, change: impl FnOnce(&mut SqliteOptions)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut options = SqliteOptions { lease: LEASE, ..SqliteOptions::default() };
        change(&mut options);
        let (queen, hive, server, token) = open(&folder, &options, way, None).await;
        let bed = Self { folder, clock: options.clock.clone(), queen, hive, way, options, server, token };
        bed.enlist("h", 1).await;
        bed
    }

    /// The queen stops and starts.
    pub(crate) async fn restart(self) -> Self {
        let Self { folder, clock, queen, hive, way, options, server, token } = self;
        drop(hive);
        if let Some(Server { stop, serving }) = server {
            stop.cancel();
            serving.await.unwrap();
        }
        // Connections that were cut hold it a moment longer.
        while Arc::strong_count(&queen) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(queen);
        let (queen, hive, server, token) = open(&folder, &options, way, token).await;
        Self { folder, clock, queen, hive, way, options, server, token }
    }

    pub(crate) async fn enlist(&self, hive_id: &str, incarnation: u64) {
        self.hive.enlist(record(hive_id, incarnation), LEASE * 1000).await.unwrap();
    }

    /// Lets time pass and has what that brings about done.
    pub(crate) async fn leap(&self, by: Duration) {
        self.clock.leap(by);
        let nobody = ClaimRequest::new("nobody", 0, vec![any_model()], Duration::ZERO);
        assert!(self.queen.claim(nobody).await.is_err());
    }

    pub(crate) async fn submit(&self) -> String {
        self.queen.submit(job()).await.unwrap().job_id
    }

    pub(crate) async fn try_claim(&self) -> Option<Claim> {
        self.hive.claim(ClaimRequest::new("h", 1, vec![any_model()], Duration::ZERO)).await.unwrap()
    }

    pub(crate) async fn claim(&self) -> Claim {
        self.hive.claim(ClaimRequest::new("h", 1, vec![any_model()], Duration::from_secs(20))).await.unwrap().unwrap()
    }

    /// The whole log of a job that has ended.
    pub(crate) async fn log(&self, job_id: &str) -> Vec<(u64, JobEvent)> {
        let events = self.queen.watch(job_id, 0).await.unwrap();
        let events = events.map(|item| item.map(|(id, event)| (id, (*event).clone())).unwrap());
        tokio::time::timeout(Duration::from_secs(60), events.collect()).await.expect("the log has no end")
    }

    pub(crate) async fn names(&self, job_id: &str) -> Vec<&'static str> {
        self.log(job_id).await.iter().map(|(_, event)| event.name()).collect()
    }

    pub(crate) async fn picture(&self, bytes: &'static [u8]) -> Ending {
        let blob = self.hive.put_blob(bytes.into()).await.unwrap();
        Ending::Complete(Outcome::Images {
            pictures: vec![PictureRef { blob, seed: 7 }],
            format: ImageFormat::Png,
            width: Some(128),
            height: Some(128),
            model: Some("tiny-scenes".to_owned()),
        })
    }
}

type Opened = (Arc<dyn Broker>, Arc<dyn WorkSource>, Option<Server>, Option<String>);

async fn open(folder: &TempDir, options: &SqliteOptions, way: Way, token: Option<String>) -> Opened {
    let broker = Arc::new(SqliteBroker::open(folder.path(), options.clone()).await.unwrap());
    if way == Way::Direct {
        return (broker.clone(), broker, None, None);
    }
    let token = match token {
        Some(token) => token,
        None => broker.create_key("hive", Role::Hive).await.unwrap().secret,
    };
    let mut routes = hive_routes(broker.clone(), vec!["reserved".to_owned()]);
    if way == Way::Torn {
        routes = routes.layer(from_fn_with_state(Arc::new(AtomicUsize::new(1)), lose_some));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hive = HttpBroker::new(&listener.local_addr().unwrap().to_string(), &*token).unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let serving = tokio::spawn(async move {
        axum::serve(listener, routes).with_graceful_shutdown(stopped).await.unwrap();
    });
    (broker, Arc::new(hive), Some(Server { stop, serving }), Some(token))
}

/// The call was served; the connection breaks before its answer is through.
async fn lose_some(State(calls): State<Arc<AtomicUsize>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if !calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
        return response;
    }
    let broken = futures_util::stream::once(async { Err::<Bytes, _>(io::Error::other("the cable was pulled")) });
    Response::builder().header("content-length", "1000").body(Body::from_stream(broken)).unwrap()
}

pub(crate) fn record(hive_id: &str, incarnation: u64) -> HiveRecord {
    HiveRecord {
        hive_id: hive_id.to_owned(),
        incarnation,
        url: None,
        version: "1".to_owned(),
        workers: Vec::new(),
        models: vec!["tiny-scenes".to_owned()],
        kinds: vec![WorkKind::Image],
        devices: serde_json::json!({"cpu": {"cores": 2}}),
    }
}

pub(crate) fn any_model() -> Offer {
    Offer::LoadAny { kind: WorkKind::Image, except: Vec::new() }
}

pub(crate) fn operation(prompt: &str) -> Operation {
    ImageGenerationRequest { prompt: prompt.to_owned(), ..ImageGenerationRequest::default() }.into()
}

/// An operation as it lies in a row, without a broker to put images into.
pub(crate) fn stored(operation: &Operation) -> StoredOperation {
    serde_json::from_value(serde_json::json!({"operation": operation})).unwrap()
}

pub(crate) fn job() -> NewJob {
    NewJob::new(stored(&operation("a red circle")), Want::model(WorkKind::Image, "tiny-scenes"))
}

pub(crate) fn owned(owner: &str) -> NewJob {
    NewJob { owner: Some(KeyId(owner.to_owned())), ..job() }
}

pub(crate) fn step(step: u64) -> JobEvent {
    JobEvent::Progress { step, total: 20, phase: None, eta_ms: None, bytes_per_second: None }
}

pub(crate) fn started() -> JobEvent {
    JobEvent::Started { model: Some("tiny-scenes".to_owned()), worker_id: Some("w".to_owned()), attempt: 0 }
}
