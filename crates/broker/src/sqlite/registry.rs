//! Hives and keys.

use super::Fault;
use super::core::Core;
use super::rows;
use crate::keyring::KeyRow;
use crate::{BrokerError, HiveRecord, KeyId, KeyRecord, Role};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::time::Duration;

impl Core {
    pub(super) fn enlist(&mut self, hive: &HiveRecord, ttl: Duration) -> Result<(), Fault> {
        let now_ms = self.now_ms();
        let known = self
            .db
            .prepare_cached("SELECT incarnation FROM hives WHERE hive_id = ?1 AND expires_ms > ?2")?
            .query_row(params![hive.hive_id, now_ms], |row| row.get::<_, u64>(0))
            .optional()?;
        if known.is_some_and(|known| known > hive.incarnation) {
            return Err(BrokerError::Superseded { hive_id: hive.hive_id.clone() }.into());
        }
        let expires_ms = now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        // Beyond what SQLite can count is never.
        let expires_ms = expires_ms.min(i64::MAX as u64);
        self.db
            .prepare_cached(
                "INSERT INTO hives (hive_id, incarnation, record, expires_ms) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (hive_id) DO UPDATE SET incarnation = ?2, record = ?3, expires_ms = ?4",
            )?
            .execute(params![hive.hive_id, hive.incarnation, rows::to_json(hive)?, expires_ms])?;
        self.take_away(
            |held| held.hive_id == hive.hive_id && held.incarnation != hive.incarnation,
            |held| format!("the hive {} was started anew", held.hive_id),
        )
    }

    pub(super) fn retire(&mut self, hive_id: &str, incarnation: u64) -> Result<(), Fault> {
        self.db
            .prepare_cached("DELETE FROM hives WHERE hive_id = ?1 AND incarnation = ?2")?
            .execute(params![hive_id, incarnation])?;
        self.take_away(
            |held| held.hive_id == hive_id && held.incarnation == incarnation,
            |held| format!("the hive {} has left", held.hive_id),
        )
    }

    pub(super) fn bind_hive(&mut self, hive_id: &str, key: &KeyId) -> Result<(), Fault> {
        match owner(&self.db, hive_id)? {
            Some(owner) if owner == *key => {}
            Some(_) => return Err(BrokerError::NotIts { hive_id: hive_id.to_owned() }.into()),
            None => {
                self.db
                    .prepare_cached("INSERT INTO hive_owners (hive_id, key) VALUES (?1, ?2)")?
                    .execute(params![hive_id, key.0])?;
            }
        }
        Ok(())
    }

    pub(super) fn release_hive(&mut self, hive_id: &str) -> Result<(), Fault> {
        self.db.prepare_cached("DELETE FROM hive_owners WHERE hive_id = ?1")?.execute([hive_id])?;
        Ok(())
    }

    pub(super) fn insert_key(&mut self, record: &KeyRecord, sha256: &[u8; 32]) -> Result<(), Fault> {
        let name = &record.name;
        if self.db.prepare_cached("SELECT 1 FROM keys WHERE name = ?1")?.exists([name])? {
            return Err(BrokerError::NameTaken { name: name.clone() }.into());
        }
        self.db
            .prepare_cached("INSERT INTO keys (id, name, role, sha256, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![record.id.0, name, record.role.as_str(), sha256, record.created_ms])?;
        Ok(())
    }

    /// The id of the key that was taken away.
    pub(super) fn revoke_key(&mut self, name_or_id: &str) -> Result<Option<KeyId>, Fault> {
        let id = self
            .db
            .prepare_cached("DELETE FROM keys WHERE name = ?1 OR id = ?1 RETURNING id")?
            .query_row([name_or_id], |row| row.get::<_, String>(0))
            .optional()?;
        if let Some(id) = &id {
            self.db.prepare_cached("DELETE FROM hive_owners WHERE key = ?1")?.execute([id])?;
        }
        Ok(id.map(KeyId))
    }

    pub(super) fn key_used(&mut self, id: &KeyId, used_ms: u64) -> Result<(), Fault> {
        self.db.prepare_cached("UPDATE keys SET last_used_ms = ?2 WHERE id = ?1")?.execute(params![id.0, used_ms])?;
        Ok(())
    }
}

/// Whose token a hive's id belongs to.
pub(super) fn owner(db: &Connection, hive_id: &str) -> Result<Option<KeyId>, Fault> {
    let mut query = db.prepare_cached("SELECT key FROM hive_owners WHERE hive_id = ?1")?;
    Ok(query.query_row([hive_id], |row| row.get(0)).optional()?.map(KeyId))
}

/// The hives whose time has not run out at `now_ms`.
pub(super) fn hives(db: &Connection, now_ms: u64) -> Result<Vec<HiveRecord>, Fault> {
    let mut query = db.prepare_cached("SELECT record FROM hives WHERE expires_ms > ?1 ORDER BY hive_id")?;
    let rows = query.query_map([now_ms], |row| rows::json(row, 0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every key with the hash of its secret.
pub(super) fn keys(db: &Connection) -> Result<Vec<KeyRow>, Fault> {
    let mut query = db.prepare("SELECT id, name, role, sha256, created_ms, last_used_ms FROM keys")?;
    let rows = query.query_map([], |row| {
        let role: String = row.get(2)?;
        let record = KeyRecord {
            id: KeyId(row.get(0)?),
            name: row.get(1)?,
            // A role that a newer rbee has may do here what the least one may.
            role: Role::from_word(&role).unwrap_or(Role::User),
            created_ms: row.get(4)?,
            last_used_ms: row.get(5)?,
        };
        Ok(KeyRow { record, sha256: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
