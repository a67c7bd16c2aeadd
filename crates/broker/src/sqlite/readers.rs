use super::Fault;
use super::live::lock;
use super::schema::open_reader;
use crate::BrokerError;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// So many read at once.
const READERS: usize = 4;

/// Connections that read, beside the one that writes.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    room: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), room: Semaphore::new(READERS) }
    }

    /// Reads what one moment's state of the database holds.
    pub(super) async fn read<T, F>(self: &Arc<Self>, work: F) -> Result<T, BrokerError>
    where
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
        T: Send + 'static,
    {
        let _room = self.room.acquire().await.map_err(|_| BrokerError::Stopping)?;
        let readers = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            let idle = lock(&readers.idle).pop();
            let mut db = match idle {
                Some(db) => db,
                None => open_reader(&readers.path)?,
            };
            let read = || {
                let moment = db.transaction()?;
                work(&moment)
            };
            let result = { read }().map_err(|fault| fault.at(&readers.path));
            lock(&readers.idle).push(db);
            result
        });
        reading.await.map_err(|_| BrokerError::Stopping)?
    }
}
