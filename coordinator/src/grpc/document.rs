//! Documents and pages, as answers carry them.

use common::failure::{Failure, FailureKind};
use proto::status::to_status;
use proto::v1::{Document, Page};
use tonic::{Response, Status};

/// What a handler answers with.
pub type Answer<T> = Result<Response<T>, Status>;

/// Writes a document.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn document(value: &impl serde::Serialize) -> Result<Document, Status> {
    let document = serde_json::to_string(value);
    document.map(|document| Document { document }).map_err(|error| Status::internal(error.to_string()))
}

/// Answers with a document.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn answer(value: &impl serde::Serialize) -> Answer<Document> {
    document(value).map(Response::new)
}

/// Answers with a page.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn page(items: &impl serde::Serialize, next: Option<String>) -> Answer<Page> {
    let Document { document } = document(items)?;
    Ok(Response::new(Page { document, next: next.unwrap_or_default() }))
}

/// Reads the document of a call.
///
/// # Errors
/// When it is not what the call takes.
pub fn from_document<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Status> {
    let unread = |error| {
        let message = format!("what is asked for cannot be read: {error}");
        to_status(&Failure::new(FailureKind::Invalid, message).hint("install the same version everywhere"))
    };
    serde_json::from_str(text).map_err(unread)
}

/// Reads where a page begins; nothing for the first.
///
/// # Errors
/// When it is nothing that a page before this one said.
pub fn from<T: std::str::FromStr>(text: &str) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |_error| Status::invalid_argument("`from` is not what a page before this one said");
    text.parse().map(Some).map_err(invalid)
}
