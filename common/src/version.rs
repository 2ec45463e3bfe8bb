//! The version that a document of ours says of itself.
//!
//! It is read before anything else of the document, because a later version may have other fields, and a document that
//! cannot be read for that reason must not be taken for a damaged one or for somebody else's.

use serde::Deserialize;

use crate::failure::{Failure, FailureKind};

/// The part that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Refuses a JSON document of a later version than `known`; `what` names it. One that says no version, or is none of
/// ours, is left to its reader.
///
/// # Errors
/// When a newer version of the program wrote it.
pub fn check_json(what: &str, bytes: &[u8], known: u32) -> Result<(), Failure> {
    match serde_json::from_slice::<Versioned>(bytes) {
        Ok(Versioned { version }) if version > known => Err(newer(what, version, known)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What is answered to a format of a later version.
pub fn newer(what: &str, found: u32, known: u32) -> Failure {
    let message = format!(
        "{what} was written by a newer version of the program: its format is {found}, and this one reads up to {known}"
    );
    Failure::new(FailureKind::Unsupported, message).hint("use the version that wrote it, or a later one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_document_is_refused_whatever_else_it_holds() {
        let later = br#"{"version":2,"fields":["nobody","knows"]}"#;
        let failure = check_json("the marker", later, 1).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.message.starts_with("the marker was written by a newer version"), "{failure}");
        assert_eq!(check_json("the marker", later, 2), Ok(()));
        assert_eq!(check_json("the marker", b"something else", 1), Ok(()));
    }
}
