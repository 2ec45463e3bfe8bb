//! Giving back what an undo finds kept, and the metadata of what never left its place.

use common::failure::Failure;
use sync::entry::Entry;
use tree::{Applied, Dir, Name, Problem, TreeError};

use crate::commit::kept_name;
use crate::ledger::Kept;
use crate::stage::Stage;
use crate::standing::metadata;
use crate::trouble::{is_fatal, of_stage};

/// Something that is kept: the `undo/` that holds it, and its name there.
pub(crate) struct Place {
    undo: Dir,
    name: Name,
    /// Its device and number.
    inode: (u64, u64),
}

/// Returns where something is kept, if it is there.
pub(crate) fn place_of(stage: &Stage, kept: Kept) -> Result<Option<Place>, Failure> {
    let (undo, name) = (stage.domains.get(kept.domain)?.undo.clone(), kept_name(kept.seq));
    let stands = undo.stat_if_exists(&name).map_err(|error| of_stage(&error))?;
    Ok(stands.map(|stat| Place { undo, name, inode: (stat.dev, stat.ino) }))
}

/// Gives what is kept its name and its metadata back, over a file of ours if one still stands there; says what of the
/// metadata could not be set.
pub(crate) fn return_kept(
    kept: &Place,
    parent: &Dir,
    name: &Name,
    original: &Entry,
) -> Result<Option<String>, Failure> {
    let Place { undo, name: kept, inode } = kept;
    if original.kind.is_directory() {
        // One that is read-only gets another parent only before it gets its mode back.
        let dir = undo.open_dir(kept).map_err(|error| of_stage(&error))?;
        dir.open_for_writing()
            .and_then(|_modes| undo.rename_over(kept, parent, name))
            .map_err(|error| of_stage(&error))?;
        return set(parent, name, original, *inode);
    }
    // Before it is seen again: it may have been taken out of its owner's quota.
    let unset = set(undo, kept, original, *inode)?;
    undo.rename_over(kept, parent, name).map_err(|error| of_stage(&error))?;
    Ok(unset)
}

/// Moves what is kept, no directory, to a name where nothing stands.
pub(crate) fn move_kept(kept: &Place, parent: &Dir, name: &Name) -> Result<(), TreeError> {
    let Place { undo, name: kept, .. } = kept;
    match undo.rename_noreplace(kept, parent, name) {
        // A link replaces nothing either.
        Err(error) if error.is_unsupported() => {
            undo.hard_link(kept, parent, name)?;
            undo.unlink(kept)
        }
        renamed => renamed,
    }
}

/// Gives what is kept the metadata that it had, where it is kept; what cannot be set is left.
pub(crate) fn dress_kept(kept: &Place, original: &Entry) -> Result<(), Failure> {
    set(&kept.undo, &kept.name, original, kept.inode).map(drop)
}

/// Sets the metadata of this inode (device, number); says what could not be set, also because another stands there.
pub(crate) fn set(
    parent: &Dir,
    name: &Name,
    wanted: &Entry,
    inode: (u64, u64),
) -> Result<Option<String>, Failure> {
    let Ok(wanted) = metadata(wanted) else { return Ok(None) };
    match parent.apply(name, &wanted, Some(inode)) {
        Ok(applied) => unset(&applied),
        Err(error) if error.is_replaced() || error.is_not_found() => {
            Ok(Some("something else was put in its place meanwhile".to_owned()))
        }
        Err(error) => Err(of_stage(&error)),
    }
}

/// Returns the first attribute that could not be set, and why.
///
/// # Errors
/// When the disk is full or broken: the undo is to be run again when it is not.
pub(crate) fn unset(applied: &Applied) -> Result<Option<String>, Failure> {
    if let Some(problem) = applied.problems.iter().find(|problem| is_fatal(&problem.error)) {
        return Err(of_stage(&problem.error));
    }
    Ok(applied.problems.first().map(|Problem { attribute, error }| {
        format!("its {attribute} cannot be set: {}", common::failure::chain(error))
    }))
}
