//! Where a hive's work comes from: it claims jobs that its workers could do, and tells what came of them.
//!
//! Each ready worker has a task of its own that claims one job after the other for it. Beside them one task claims what
//! would need a new worker, and one what is asked of the hive itself. A claim is held by an [`Assignment`], which keeps
//! it alive and carries its events.

mod assignment;
mod load;
mod operator;
mod serve;

pub use assignment::Assignment;
pub use operator::{HiveOperator, Operator, Reporter};

use crate::hive::Hive;
use broker::{BrokerError, Claim, ClaimRequest, GiveBack, HiveRecord, Offer, WorkKind, WorkSource};
use futures_util::FutureExt as _;
use job_server::CancellationToken;
use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How long a hive is in the registry without saying again that it lives.
const TTL: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long one claim waits for work.
const PATIENCE: Duration = Duration::from_secs(25);
/// A broker that is away is asked again after so long.
const AWAY: Duration = Duration::from_secs(1);
/// How long giving back may take when the hive stops.
const LEAVING: Duration = Duration::from_secs(5);

/// The working side of a hive. Clones are the same agent.
#[derive(Debug, Clone)]
pub struct Agent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hive: Hive,
    source: Arc<dyn WorkSource>,
    operator: Arc<dyn Operator>,
    incarnation: u64,
    url: Option<String>,
    /// Nothing more is claimed.
    closing: CancellationToken,
    /// What still runs is given back.
    leaving: CancellationToken,
    /// Why it is given back then.
    why: Mutex<GiveBack>,
    /// Workers that have a task which claims for them.
    served: Mutex<HashSet<String>>,
    /// Models for which a worker is about to be started.
    loading: Mutex<HashSet<(WorkKind, String)>>,
    /// Jobs whose last worker died before it took them.
    unheard: Mutex<HashSet<String>>,
    /// Jobs that hear of a download that another has begun.
    companions: AtomicUsize,
    /// Held by the one who waits for room or starts a worker: what he counts on nobody else takes meanwhile.
    room: tokio::sync::Mutex<()>,
    /// Claims that are held now; counts for those who wait until none is.
    holding: watch::Sender<usize>,
    tasks: TaskTracker,
}

impl Agent {
    /// Enlists the hive and begins to work. What is asked of the hive itself goes to `operator`. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// Another process runs under this hive's id, or the broker refuses it; one that is away is waited for.
    pub async fn start(
        hive: Hive,
        source: Arc<dyn WorkSource>,
        operator: Arc<dyn Operator>,
        url: Option<String>,
    ) -> Result<Self, BrokerError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let agent = Self(Arc::new(Shared {
            hive,
            source,
            operator,
            incarnation: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            url,
            closing: CancellationToken::new(),
            leaving: CancellationToken::new(),
            why: Mutex::new(GiveBack::HiveStopping),
            served: Mutex::default(),
            loading: Mutex::default(),
            unheard: Mutex::default(),
            companions: AtomicUsize::new(0),
            room: tokio::sync::Mutex::default(),
            holding: watch::Sender::new(0),
            tasks: TaskTracker::new(),
        }));
        while let Err(error) = agent.enlist().await {
            if !error.is_passing() {
                return Err(error);
            }
            tracing::warn!("cannot enlist yet: {error}");
            tokio::time::sleep(AWAY).await;
        }
        for task in [agent.clone().heartbeat().boxed(), agent.clone().load().boxed(), agent.clone().operate().boxed()] {
            let closing = agent.0.closing.clone();
            agent.0.tasks.spawn(async move {
                tokio::select! {
                    () = closing.cancelled() => {}
                    () = task => {}
                }
            });
        }
        Ok(agent)
    }

    /// Claims nothing more, gives what runs `grace`, gives back for the reason `why` what still runs then, and takes
    /// the hive out of the registry.
    pub async fn stop(&self, grace: Duration, why: GiveBack) {
        let shared = &self.0;
        shared.closing.cancel();
        let idle = async {
            let mut holding = shared.holding.subscribe();
            // The sender lives in this agent.
            let _ = holding.wait_for(|count| *count == 0).await;
        };
        if tokio::time::timeout(grace, idle).await.is_err() {
            *shared.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        }
        shared.leaving.cancel();
        shared.tasks.close();
        let leaving = async {
            shared.tasks.wait().await;
            shared.source.retire(shared.hive.id(), shared.incarnation).await
        };
        match tokio::time::timeout(LEAVING, leaving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the hive could not retire: {error}"),
            Err(_) => tracing::warn!("the hive could not give back all that it held in time; its leases run out"),
        }
    }

    /// How many jobs are held now.
    pub fn holding(&self) -> usize {
        *self.0.holding.borrow()
    }

    async fn enlist(&self) -> Result<(), BrokerError> {
        let shared = &self.0;
        let record: HiveRecord = shared.hive.record(shared.incarnation, shared.url.clone());
        shared.source.enlist(record, TTL).await
    }

    async fn heartbeat(self) {
        let mut changes = self.0.hive.changes();
        loop {
            if let Err(error) = self.enlist().await {
                tracing::warn!("the hive could not say that it lives: {error}");
            }
            self.serve_new_workers();
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
    }

    /// Claims for as long as the agent works; `None` after a pause or a failure that passes.
    async fn claim(&self, offers: Vec<Offer>) -> Option<Claim> {
        let shared = &self.0;
        let request = ClaimRequest::new(shared.hive.id(), shared.incarnation, offers, PATIENCE);
        match shared.source.claim(request).await {
            Ok(claim) => claim,
            Err(error) => {
                tracing::warn!("cannot claim: {error}");
                if matches!(error, BrokerError::NotEnlisted { .. })
                    && let Err(error) = self.enlist().await
                {
                    tracing::warn!("cannot enlist again: {error}");
                }
                tokio::time::sleep(AWAY).await;
                None
            }
        }
    }

    /// Claims what is asked of the hive itself; each is done beside the others.
    async fn operate(self) {
        loop {
            let Some(claim) = self.claim(vec![Offer::Hive]).await else { continue };
            let holding = self.hold(claim);
            let shared = self.0.clone();
            self.0.tasks.spawn(async move { holding.operate(&*shared.operator, &shared.leaving).await });
        }
    }

    fn hold(&self, claim: Claim) -> Holding {
        Holding { assignment: Assignment::hold(claim, self.0.source.clone()), _count: Count::new(self.0.clone()) }
    }

    fn why(&self) -> GiveBack {
        self.0.why()
    }
}

impl Shared {
    fn why(&self) -> GiveBack {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn served(&self) -> MutexGuard<'_, HashSet<String>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loading(&self) -> MutexGuard<'_, HashSet<(WorkKind, String)>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An assignment that is counted as held.
struct Holding {
    assignment: Assignment,
    _count: Count,
}

struct Count(Arc<Shared>);

impl Count {
    fn new(shared: Arc<Shared>) -> Self {
        shared.holding.send_modify(|count| *count += 1);
        Self(shared)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.holding.send_modify(|count| *count -= 1);
    }
}
