//! What only a broker on a disk can meet.

use crate::bed::job;
use broker::{Broker as _, BrokerError, SqliteBroker, SqliteOptions, WorkSource as _};
use std::fs;
use tempfile::TempDir;

async fn open(folder: &TempDir) -> Result<SqliteBroker, BrokerError> {
    SqliteBroker::open(folder.path(), SqliteOptions::default()).await
}

#[tokio::test]
async fn a_second_queen_on_the_same_folder_is_refused() {
    let folder = TempDir::new().unwrap();
    let first = open(&folder).await.unwrap();
    let error = open(&folder).await.unwrap_err();
    assert!(matches!(error, BrokerError::Locked { .. }), "{error}");
    drop(first);
    open(&folder).await.unwrap();
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_told() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("broker.sqlite"), "this is a letter to my aunt, not a database. ".repeat(100))
        .unwrap();
    let error = open(&folder).await.unwrap_err();
    assert!(matches!(error, BrokerError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("broker.sqlite"), "{error}");

    let folder = TempDir::new().unwrap();
    let other = rusqlite::Connection::open(folder.path().join("broker.sqlite")).unwrap();
    other.execute_batch("CREATE TABLE recipes (cake TEXT)").unwrap();
    let error = open(&folder).await.unwrap_err();
    assert!(error.to_string().contains("another program's"), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_rbee_is_left_alone() {
    let folder = TempDir::new().unwrap();
    drop(open(&folder).await.unwrap());
    let database = rusqlite::Connection::open(folder.path().join("broker.sqlite")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let error = open(&folder).await.unwrap_err();
    assert!(matches!(error, BrokerError::Newer { found: 99, .. }), "{error}");
}

#[tokio::test]
async fn a_page_that_was_overwritten_is_an_error_and_no_panic() {
    let folder = TempDir::new().unwrap();
    let broker = open(&folder).await.unwrap();
    for _ in 0..200 {
        broker.submit(job()).await.unwrap();
    }
    drop(broker);
    let path = folder.path().join("broker.sqlite");
    let mut bytes = fs::read(&path).unwrap();
    for byte in &mut bytes[4096..] {
        *byte = !*byte;
    }
    fs::write(&path, bytes).unwrap();
    let error = open(&folder).await.unwrap_err();
    assert!(matches!(error, BrokerError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = SqliteBroker::open(file.join("data"), SqliteOptions::default()).await.unwrap_err();
    assert!(matches!(&error, BrokerError::Storage { path, .. } if path.contains("file")), "{error}");
}

/// A full disk, as SQLite meets it: the database may not grow. Which statement of a submission meets it depends on the pages.
#[tokio::test]
async fn a_full_disk_refuses_new_jobs_and_loses_none() {
    for pages in 50..60 {
        let folder = TempDir::new().unwrap();
        let options = SqliteOptions { most_pages: Some(pages), ..SqliteOptions::default() };
        let broker = SqliteBroker::open(folder.path(), options).await.unwrap();
        let mut accepted = Vec::new();
        let error = loop {
            match broker.submit(job()).await {
                Ok(submitted) => accepted.push(submitted.job_id),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, BrokerError::DiskFull { .. }), "{error}");
        assert!(!accepted.is_empty());
        assert_eq!(broker.counts().await.unwrap().queued, accepted.len(), "with {pages} pages");
        drop(broker);
        let broker = open(&folder).await.unwrap();
        for id in &accepted {
            broker.job(id).await.unwrap();
        }
        assert_eq!(broker.counts().await.unwrap().queued, accepted.len());
        broker.submit(job()).await.unwrap();
    }
}

#[tokio::test]
async fn half_a_blob_is_swept_at_the_next_start() {
    let folder = TempDir::new().unwrap();
    let broker = open(&folder).await.unwrap();
    let id = broker.put_blob(b"whole"[..].into()).await.unwrap();
    assert_eq!(broker.put_blob(b"whole"[..].into()).await.unwrap(), id);
    drop(broker);
    let half = folder.path().join("blobs/unfinished/x");
    fs::write(&half, "ha").unwrap();
    let broker = open(&folder).await.unwrap();
    assert!(!half.exists());
    assert_eq!(&broker.blob(&id).await.unwrap()[..], b"whole");
    assert_eq!(fs::read_dir(folder.path().join("blobs/unfinished")).unwrap().count(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_what_was_asked_for() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    let _broker = SqliteBroker::open(&path, SqliteOptions::default()).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
}
