//! Noticing that a disk of the destination will not take a large file, before it is full: the forecast was made when
//! the pass began, and others write there too.

use common::failure::{Failure, FailureKind};

use super::Pass;
use crate::capacity::Needs;
use crate::domain::DomainId;
use crate::trouble::of_stage;

/// Makes sure that so much of a file that is to come now fits.
///
/// # Errors
/// `Exhausted` when it is more than what is free.
pub(super) fn check(pass: &Pass, domain: DomainId, bytes: u64) -> Result<(), Failure> {
    let domain = pass.stage.domains.get(domain)?;
    let dir = domain.disk.dir();
    let space = dir.space().map_err(|error| of_stage(&error))?;
    let packing = dir.packing().map_err(|error| of_stage(&error))?;
    let why = Needs { bytes, inodes: 0 }.too_much_for(&space, packing);
    why.map_or(Ok(()), |why| {
        let message = format!("the destination's file system is too small: {why}");
        let hint = "Make room at the destination, then retry: what has landed stays and is not sent again.";
        Err(Failure::new(FailureKind::Exhausted, message).hint(hint))
    })
}
