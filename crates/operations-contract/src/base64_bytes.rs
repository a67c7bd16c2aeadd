use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

/// Bytes that are base64 on the wire: the standard alphabet, padded when written.
///
/// When read, padding may be absent, line breaks and spaces are skipped (`base64 FILE` breaks its lines), and a
/// `data:…;base64,` prefix, which browsers put there, is dropped. In memory they are the bytes themselves, and
/// cloning shares them, so that a picture in a job's log costs its own size once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64Bytes(Bytes);

/// Written padded, read with or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Base64Bytes {
    /// The shared buffer.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Takes the shared buffer out.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Decodes base64 text.
    ///
    /// # Errors
    /// A sentence that says where the text stops being base64.
    pub fn decode(text: &str) -> Result<Self, String> {
        let text = match text.strip_prefix("data:") {
            Some(url) => match url.split_once(";base64,") {
                Some((_, encoded)) => encoded,
                None => return Err("a data: URL must hold base64".to_owned()),
            },
            None => text,
        };
        let text: Cow<'_, str> = if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
            Cow::Owned(text.chars().filter(|char| !char.is_ascii_whitespace()).collect())
        } else {
            Cow::Borrowed(text)
        };
        match LENIENT.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Self(bytes.into())),
            Err(error) => Err(format!("not base64: {error}")),
        }
    }

    /// The base64 text.
    pub fn encode(&self) -> String {
        LENIENT.encode(&self.0)
    }
}

impl<T: Into<Bytes>> From<T> for Base64Bytes {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Base64Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Pictures are megabytes; a log line wants only their size.
impl fmt::Debug for Base64Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64Bytes({} bytes)", self.0.len())
    }
}

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode())
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Base64Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a base64 string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64Bytes, E> {
                Base64Bytes::decode(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl JsonSchema for Base64Bytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Base64Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "contentEncoding": "base64"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_paste_is_read() {
        for text in ["aGVsbG8=", "aGVsbG8", "aGVs\nbG8=\n", "data:image/png;base64,aGVsbG8="] {
            assert_eq!(&*Base64Bytes::decode(text).unwrap(), b"hello", "{text:?}");
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in ["a*b=", "data:image/png,hello", "a", "äöü", "aGVsbG8==="] {
            assert!(Base64Bytes::decode(text).is_err(), "{text:?}");
        }
    }
}
