//! Documents inside records: types of the shared vocabulary, stored as JSON text.
//!
//! Log and snapshot are postcard, which knows no field names; the shared documents grow by fields. As text, an older
//! log stays readable after such a growth, because the new fields have defaults.

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes a document as text.
///
/// # Errors
/// When the value has no JSON form or the serializer fails.
pub(super) fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let text = serde_json::to_string(value).map_err(S::Error::custom)?;
    serializer.serialize_str(&text)
}

/// Reads a document from text.
///
/// # Errors
/// When the text is not the document.
pub(super) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    serde_json::from_str(&text).map_err(D::Error::custom)
}
