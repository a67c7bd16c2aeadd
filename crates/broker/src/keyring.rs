//! Keys in memory: checking one costs no disk.
//!
//! A secret is 160 random bits. Nobody finds it by trying, so that a plain SHA-256 of it may be stored: a slow hash
//! protects secrets that people choose, and would only slow every request here.

use crate::blob::hex;
use crate::{BrokerError, KeyId, KeyRecord, Role};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// So that a key that leaked into a log or a repository is recognised, and by which tool.
const PREFIX: &str = "rbee_";
const SECRET_BYTES: usize = 20;
const NAME_BYTES: usize = 64;
/// Its use is noted once in this time.
const NOTED_MS: u64 = 60_000;

/// A key as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct KeyRow {
    pub(crate) record: KeyRecord,
    pub(crate) sha256: [u8; 32],
}

/// Every key.
#[derive(Debug, Default)]
pub(crate) struct Keyring(RwLock<HashMap<KeyId, KeyRow>>);

/// Whose secret it is, and whether its use is worth noting on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) id: KeyId,
    pub(crate) role: Role,
    pub(crate) note: bool,
}

impl Keyring {
    pub(crate) fn new(rows: Vec<KeyRow>) -> Self {
        Self(RwLock::new(rows.into_iter().map(|row| (row.record.id.clone(), row)).collect()))
    }

    pub(crate) fn insert(&self, row: KeyRow) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(row.record.id.clone(), row);
    }

    pub(crate) fn remove(&self, id: &KeyId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn list(&self) -> Vec<KeyRecord> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<KeyRecord> = keys.values().map(|row| row.record.clone()).collect();
        list.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        list
    }

    /// Whose secret this is. The id in it is no secret and is looked up; the rest is compared in constant time.
    pub(crate) fn check(&self, secret: &str, now_ms: u64) -> Option<Known> {
        let (id, _) = secret.strip_prefix(PREFIX)?.split_once('_')?;
        let id = KeyId(id.to_owned());
        let given: [u8; 32] = Sha256::digest(secret).into();
        let (role, note) = {
            let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let row = keys.get(&id)?;
            if !bool::from(row.sha256.ct_eq(&given)) {
                return None;
            }
            (row.record.role, row.record.last_used_ms.is_none_or(|last| now_ms.saturating_sub(last) >= NOTED_MS))
        };
        if note && let Some(row) = self.0.write().unwrap_or_else(PoisonError::into_inner).get_mut(&id) {
            row.record.last_used_ms = Some(now_ms);
        }
        Some(Known { id, role, note })
    }
}

/// A new key, and the secret that belongs to it.
pub(crate) fn draw(name: &str, role: Role, created_ms: u64) -> Result<(KeyRow, String), BrokerError> {
    let name = name.trim();
    let plain = |char: char| !char.is_control();
    if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(plain) {
        let message = format!("a key's name has 1 to {NAME_BYTES} bytes and no control characters, got {name:?}");
        return Err(BrokerError::invalid(message));
    }
    // Version 4 ids are drawn from the system's generator: 122 random bits each.
    let id = hex(&Uuid::new_v4().into_bytes()[..6]);
    let mut random = Sha256::new();
    random.update(Uuid::new_v4().as_bytes());
    random.update(Uuid::new_v4().as_bytes());
    let secret = format!("{PREFIX}{id}_{}", hex(&random.finalize()[..SECRET_BYTES]));
    let record = KeyRecord { id: KeyId(id), name: name.to_owned(), role, created_ms, last_used_ms: None };
    Ok((KeyRow { record, sha256: Sha256::digest(&secret).into() }, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_is_known() {
        let (row, secret) = draw("laptop", Role::User, 7).unwrap();
        let id = row.record.id.clone();
        let keyring = Keyring::new(vec![row]);
        assert_eq!(keyring.check(&secret, 10), Some(Known { id: id.clone(), role: Role::User, note: true }));
        assert_eq!(keyring.check(&secret, 11), Some(Known { id: id.clone(), role: Role::User, note: false }));
        let mut wrong = secret.clone();
        let last = if wrong.ends_with('0') { '1' } else { '0' };
        wrong.pop();
        wrong.push(last);
        for text in [&*wrong, &secret[..secret.len() - 1], &secret[5..], "", "rbee_", &format!("rbee_{id}_")] {
            assert_eq!(keyring.check(text, 12), None, "{text}");
        }
        keyring.remove(&id);
        assert_eq!(keyring.check(&secret, 13), None);
    }

    #[test]
    fn no_two_secrets_are_alike() {
        let secrets: std::collections::HashSet<_> = (0..100).map(|_| draw("x", Role::Admin, 0).unwrap().1).collect();
        assert_eq!(secrets.len(), 100);
        assert!(secrets.iter().all(|secret| secret.len() == PREFIX.len() + 12 + 1 + 2 * SECRET_BYTES));
    }

    #[test]
    fn a_name_is_plain() {
        for name in ["", "  ", "a\nb", &"x".repeat(65)] {
            assert!(draw(name, Role::User, 0).is_err(), "{name:?}");
        }
    }
}
