//! Telling a migration's stage from a directory that only has such a name.

use tree::{Dir, Kind, Name, Stat};

use crate::stage::{MARKER, MODE, PREFIX};

/// Whether a name is a stage of any migration: a directory of ours, or of root's, that nobody else may enter, with a
/// marker of the same owner. The owner of a home can make a directory of this name, but none that belongs to us.
pub(crate) fn is_stage(parent: &Dir, name: &Name, stat: &Stat) -> bool {
    let is_ours = |stat: &Stat| stat.uid == 0 || stat.uid == rustix::process::geteuid().as_raw();
    if !name.as_bytes().starts_with(PREFIX.as_bytes())
        || stat.kind != Kind::Directory
        || stat.mode != MODE
        || !is_ours(stat)
    {
        return false;
    }
    let Ok(marker) = Name::new(MARKER) else { return false };
    parent
        .open_dir(name)
        .and_then(|stage| stage.stat(&marker))
        .is_ok_and(|marker| marker.kind == Kind::File && is_ours(&marker))
}
