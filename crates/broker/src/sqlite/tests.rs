//! What only the writer itself can meet: a transaction whose commit fails.

use super::core::Core;
use super::live::Live;
use super::writer::{Durability, Task, Waiter};
use super::{BlobDir, Fault, Options, SqliteOptions, schema};
use crate::{BrokerError, Claim, ClaimRequest, HiveRecord, NewJob, Offer, Want, WorkKind};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot::{Receiver, channel};

struct Do<F>(F);

impl<F: FnMut(&mut Core) -> Result<(), Fault> + Send> Task for Do<F> {
    fn durability(&self) -> Durability {
        Durability::Synced
    }

    fn run(&mut self, core: &mut Core) -> Result<(), rusqlite::Error> {
        match (self.0)(core) {
            Ok(()) => Ok(()),
            Err(Fault::Sql(error)) => Err(error),
            Err(Fault::No(error)) => panic!("{error}"),
        }
    }

    fn answer(self: Box<Self>, _: Result<(), BrokerError>) {}
}

fn core(folder: &TempDir) -> Core {
    let path = folder.path().join("broker.sqlite");
    let SqliteOptions { limit, lease, keep_for, keep_bytes, clock, .. } = SqliteOptions::default();
    let blobs = BlobDir::open(folder.path().join("blobs")).unwrap();
    let own_hive = Some("own".to_owned());
    let options = Options { limit, lease, keep_for, keep_bytes, clock, own_hive, blobs };
    let live = Arc::new(Live::default());
    let mut core = Core::new(schema::open_writer(&path).unwrap(), path, options, live).unwrap();
    let enlist = |core: &mut Core| {
        for hive_id in ["own", "other"] {
            let hive: HiveRecord =
                serde_json::from_value(serde_json::json!({"hive_id": hive_id, "incarnation": 1, "version": "1"}))
                    .unwrap();
            core.enlist(&hive, Duration::from_secs(1000))?;
        }
        Ok(())
    };
    core.transaction(&mut [Box::new(Do(enlist))], false).unwrap();
    core
}

fn submit(core: &mut Core) {
    let operation = serde_json::json!({"operation": {"operation": "image_generation", "prompt": "x"}});
    let stored = operation.to_string();
    let job = NewJob::new(serde_json::from_value(operation).unwrap(), Want::model(WorkKind::Image, "tiny-scenes"));
    let task = Do(move |core: &mut Core| core.submit(&job, &stored).map(drop));
    core.transaction(&mut [Box::new(task)], false).unwrap();
}

fn wait(core: &mut Core, hive_id: &str) -> Receiver<Result<Option<Claim>, BrokerError>> {
    let (reply, answer) = channel();
    let offer = Offer::LoadAny { kind: WorkKind::Image, except: Vec::new() };
    core.wait(Waiter { request: ClaimRequest::new(hive_id, 1, vec![offer], Duration::ZERO), reply });
    answer
}

/// The hive in this process is told before the commit. Where that fails, its attempt is over, and its number is not given
/// to another.
#[test]
fn who_was_told_early_is_fenced_off_when_the_disk_fails() {
    let folder = TempDir::new().unwrap();
    let mut core = core(&folder);
    submit(&mut core);
    core.db.commit_hook(Some(|| true)).unwrap();
    let mut own = wait(&mut core, "own");
    core.transaction(&mut [], true).unwrap_err();
    let early = own.try_recv().unwrap().unwrap().unwrap().attempt;
    core.db.commit_hook(None::<fn() -> bool>).unwrap();

    let mut other = wait(&mut core, "other");
    core.transaction(&mut [], true).unwrap();
    let later = other.try_recv().unwrap().unwrap().unwrap().attempt;
    assert_eq!((&later.job_id, later.number), (&early.job_id, early.number + 1));
    assert!(matches!(core.live.holding(&early, |_| ()), Err(BrokerError::Stale { .. })));
}

/// A hive elsewhere lives on when this process dies, so that it is told what is certain.
#[test]
fn a_hive_elsewhere_hears_of_a_claim_after_the_commit() {
    let folder = TempDir::new().unwrap();
    let mut core = core(&folder);
    submit(&mut core);
    core.db.commit_hook(Some(|| true)).unwrap();
    let mut other = wait(&mut core, "other");
    core.transaction(&mut [], true).unwrap_err();
    assert!(other.try_recv().unwrap().is_err());
}
