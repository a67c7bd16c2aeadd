use super::Fault;
use crate::BrokerError;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// Step n brings a database of version n to version n + 1. Steps that were released are never changed.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql"), include_str!("schema-2.sql")];

/// "rbee", so that a database of another program is not taken for ours.
const APPLICATION_ID: i64 = 0x7262_6565;

/// Statements that are kept prepared.
const STATEMENTS: usize = 128;

/// A write-ahead log that grew beyond this is cut back.
const LOG_BYTES: i64 = 64 * 1024 * 1024;

/// Opens the database for its one writer, and brings its schema up to date.
pub(super) fn open_writer(path: &Path) -> Result<Connection, BrokerError> {
    let open = || -> Result<Connection, Fault> {
        let mut db = Connection::open(path)?;
        prepare(&db)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "full")?;
        db.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
        migrate(&mut db, path)?;
        Ok(db)
    };
    open().map_err(|fault| fault.at(path))
}

/// Opens the database for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection, BrokerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let db = Connection::open_with_flags(path, flags)?;
        prepare(&db)?;
        Ok::<_, Fault>(db)
    };
    open().map_err(|fault| fault.at(path))
}

fn prepare(db: &Connection) -> Result<(), Fault> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.busy_timeout(Duration::from_secs(5))?;
    Ok(())
}

fn migrate(db: &mut Connection, path: &Path) -> Result<(), Fault> {
    let number = |db: &Connection, name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) = (number(db, "user_version")?, number(db, "application_id")?);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let shown = path.display().to_string();
    if application != APPLICATION_ID && (tables > 0 || application != 0) {
        return Err(BrokerError::Corrupt { path: shown, reason: "it is another program's database".to_owned() }.into());
    }
    if version > known {
        return Err(BrokerError::Newer { path: shown, found: version, known }.into());
    }
    for (step, sql) in (0..).zip(MIGRATIONS).skip(usize::try_from(version).unwrap_or(0)) {
        let change = db.transaction()?;
        change.execute_batch(sql)?;
        change.pragma_update(None, "application_id", APPLICATION_ID)?;
        change.pragma_update(None, "user_version", step + 1_i64)?;
        change.commit()?;
    }
    Ok(())
}

/// What SQLite failed with, in our words.
pub(super) fn storage(path: &Path, error: &rusqlite::Error) -> BrokerError {
    let path = path.display().to_string();
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => BrokerError::Corrupt { path, reason },
        Some(ErrorCode::DiskFull) => BrokerError::DiskFull { path },
        _ => BrokerError::Storage { path, reason },
    }
}
