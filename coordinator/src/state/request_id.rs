//! The id that a caller gives a request, so that a repeated one is known.

use common::failure::FailureKind;

use super::refusal::Refusal;

/// Longest id of a request; those of `ctl` have a quarter of it.
const BYTES_MAX: usize = 128;

/// Refuses an id that tells no request from another, or that is larger than what it is the id of.
pub(super) fn check(request_id: &str) -> Result<(), Refusal> {
    if (1..=BYTES_MAX).contains(&request_id.len()) {
        return Ok(());
    }
    let message = format!("a request id has 1 to {BYTES_MAX} bytes");
    Err(Refusal::new(FailureKind::Invalid, message, "this is a fault of the caller"))
}
