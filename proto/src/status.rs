//! Failures as the status of a call, whole, and back.

use common::failure::{Failure, FailureKind, SUPPORT_CONTACT};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Metadata key of the whole failure, JSON as bytes.
const FAILURE_KEY: &str = "drover-failure-bin";

/// Metadata key of whom to ask, UTF-8 as bytes.
const CONTACT_KEY: &str = "drover-support-contact-bin";

/// Longest failure document that rides in a trailer; HTTP/2 peers refuse large ones.
const DOCUMENT_BYTES_MAX: usize = 6 * 1024;

/// Returns the status that carries `failure`.
pub fn to_status(failure: &Failure) -> Status {
    let mut status = Status::new(code(failure.kind), failure.message.chars().take(1024).collect::<String>());
    if let Ok(document) = serde_json::to_vec(failure)
        && document.len() <= DOCUMENT_BYTES_MAX
    {
        status.metadata_mut().insert_bin(FAILURE_KEY, MetadataValue::from_bytes(&document));
    }
    status
}

/// Returns the failure that a status carries, or the nearest one to its code.
pub fn to_failure(status: &Status) -> Failure {
    let document = status.metadata().get_bin(FAILURE_KEY).and_then(|value| value.to_bytes().ok());
    let carried: Option<Failure> = document.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let failure = carried.unwrap_or_else(|| Failure::new(kind(status.code()), status.message()));
    let contact = status.metadata().get_bin(CONTACT_KEY).and_then(|value| value.to_bytes().ok());
    match contact.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()) {
        Some(contact) if failure.context.iter().all(|(field, _)| field != SUPPORT_CONTACT) => {
            failure.context(SUPPORT_CONTACT, contact)
        }
        Some(_) | None => failure,
    }
}

/// Returns the metadata that names whom to ask.
pub fn support_contact(contact: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(CONTACT_KEY, MetadataValue::from_bytes(contact.as_bytes()));
    metadata
}

/// The code of a kind (style 8).
fn code(kind: FailureKind) -> Code {
    match kind {
        FailureKind::Invalid => Code::InvalidArgument,
        FailureKind::Unauthenticated => Code::Unauthenticated,
        FailureKind::Denied => Code::PermissionDenied,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::Conflict | FailureKind::Changed => Code::Aborted,
        FailureKind::Fenced | FailureKind::Stuck => Code::FailedPrecondition,
        FailureKind::Unsupported => Code::Unimplemented,
        FailureKind::Corrupt => Code::DataLoss,
        FailureKind::Exhausted | FailureKind::Throttled => Code::ResourceExhausted,
        FailureKind::Unreachable => Code::Unavailable,
        FailureKind::Timeout => Code::DeadlineExceeded,
        FailureKind::Cancelled => Code::Cancelled,
        FailureKind::Bug => Code::Internal,
    }
}

/// The kind of a code, for a status that some other layer made.
fn kind(code: Code) -> FailureKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => FailureKind::Invalid,
        Code::Unauthenticated => FailureKind::Unauthenticated,
        Code::PermissionDenied => FailureKind::Denied,
        Code::NotFound => FailureKind::NotFound,
        Code::Aborted | Code::AlreadyExists => FailureKind::Conflict,
        Code::FailedPrecondition => FailureKind::Fenced,
        Code::Unimplemented => FailureKind::Unsupported,
        Code::DataLoss => FailureKind::Corrupt,
        Code::ResourceExhausted => FailureKind::Throttled,
        Code::Unavailable => FailureKind::Unreachable,
        Code::DeadlineExceeded => FailureKind::Timeout,
        Code::Cancelled => FailureKind::Cancelled,
        Code::Ok | Code::Unknown | Code::Internal => FailureKind::Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_crosses_whole() {
        let failure = Failure::new(FailureKind::Conflict, "the root is taken")
            .hint("wait for it")
            .context("migration", "b7");
        assert_eq!(to_failure(&to_status(&failure)), failure);
    }

    #[test]
    fn whom_to_ask_arrives_with_any_failure() {
        let failure = Failure::new(FailureKind::NotFound, "there is no such thing");
        let mut status = to_status(&failure);
        *status.metadata_mut() = {
            let mut metadata = status.metadata().clone().into_headers();
            metadata.extend(support_contact("Büro 7, +49 30 1234").into_headers());
            MetadataMap::from_headers(metadata)
        };
        let context = vec![(SUPPORT_CONTACT.to_owned(), "Büro 7, +49 30 1234".to_owned())];
        assert_eq!(to_failure(&status), Failure { context, ..failure });
    }

    #[test]
    fn a_foreign_status_keeps_its_message() {
        let failure = to_failure(&Status::unavailable("connection refused"));
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Unreachable, "connection refused")
        );
    }
}
