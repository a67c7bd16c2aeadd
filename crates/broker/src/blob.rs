use serde::{Deserialize, Deserializer, Serialize, de};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// The name of a blob: the SHA-256 of its bytes, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct BlobId(String);

impl BlobId {
    /// The most that one blob may have: an image that a request may bring is half of it.
    pub const MAX_BYTES: usize = 2 * operations_contract::IMAGE_BYTES;

    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)))
    }

    /// Its 64 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ids become file names: nothing but 64 hexadecimal digits is one.
impl FromStr for BlobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(format!("a blob's id is its SHA-256 in 64 lower-case hexadecimal digits, got {shown:?}"))
    }
}

impl<'de> Deserialize<'de> for BlobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_sha256() {
        // sha256sum of an empty file.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(BlobId::of(b"").as_str(), empty);
        assert_eq!(empty.parse(), Ok(BlobId::of(b"")));
    }

    #[test]
    fn no_path_is_an_id() {
        let long = "../".repeat(21) + "x";
        for text in ["", "..", &long, &"A".repeat(64), &"a".repeat(63)] {
            assert!(text.parse::<BlobId>().is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<BlobId>(r#""../../etc/passwd""#).is_err());
    }
}
