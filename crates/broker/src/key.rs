use serde::{Deserialize, Serialize};
use std::fmt;

/// The id of an API key; not secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Ask for jobs, and see and cancel its own.
    User,
    /// Everything.
    Admin,
    /// Claim work, and nothing else: the token of a hive on another machine.
    Hive,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 3] = [Role::User, Role::Admin, Role::Hive];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Admin => "admin",
            Role::Hive => "hive",
        }
    }

    /// The role whose word is `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// A key that was made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// What the client sends: `Authorization: Bearer rbee_…`. It is shown once and stored nowhere.
    pub secret: String,
}

/// A log never shows a secret.
impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// Its name, which no other has.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made, in milliseconds since 1970 UTC.
    pub created_ms: u64,
    /// When it was last used, to about a minute.
    pub last_used_ms: Option<u64>,
}
