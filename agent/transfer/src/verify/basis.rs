//! What the ledger says of an entry, and what follows from it for what must stand there.

use common::digest::Digest;
use sync::diff::Difference;
use sync::entry::{Entry, Kind};
use sync::stamp::Time;
use tree::Stat;

use crate::ledger::History;
use crate::standing::{is_as_recorded, time};

/// What the ledger says of a path.
#[derive(Clone, Debug)]
pub(super) enum Basis {
    /// This migration wrote its content.
    Written { digest: Digest, entry: Box<Entry>, ctime: Option<Time>, pass: u32 },
    /// This migration made it, or set its metadata.
    Made { entry: Box<Entry>, ctime: Option<Time>, pass: u32 },
    /// It was there already.
    Unchanged,
}

impl Basis {
    /// Returns what a history says.
    pub(super) fn of(history: Option<&History>) -> Self {
        let Some((history, (entry, ctime))) =
            history.and_then(|history| Some((history, history.standing()?)))
        else {
            return Self::Unchanged;
        };
        let pass = history.changes.last().map_or(0, |settled| settled.intent.pass);
        let entry = Box::new(entry.clone());
        match history.written() {
            Some((written, digest)) if written.ino == entry.ino => {
                Self::Written { digest, entry, ctime, pass }
            }
            Some(_) | None => Self::Made { entry, ctime, pass },
        }
    }

    /// Returns the pass that did it last.
    pub(super) fn pass(&self) -> Option<u32> {
        match self {
            Self::Written { pass, .. } | Self::Made { pass, .. } => Some(*pass),
            Self::Unchanged => None,
        }
    }

    /// Whether somebody else touched what this migration left there.
    pub(super) fn is_touched(&self, found: &Entry) -> bool {
        match self {
            Self::Written { entry, ctime, .. } | Self::Made { entry, ctime, .. } => {
                !is_as_recorded(entry, *ctime, found.into())
            }
            Self::Unchanged => false,
        }
    }
}

/// Returns how the entry shall look: as the source's, with the size and time of what was really read there.
pub(super) fn expected(source: &Entry, basis: &Basis) -> Entry {
    let mut expected = source.clone();
    if let Basis::Written { entry, .. } = basis {
        if let (Kind::File { size, .. }, Kind::File { size: written, .. }) = (&mut expected.kind, &entry.kind)
        {
            *size = *written;
        }
        expected.mtime = entry.mtime;
    }
    expected
}

/// Whether a file is still as the scan saw it.
pub(super) fn is_same_state(found: &Entry, stat: &Stat) -> bool {
    stat.is_inode(found.dev, found.ino) && time(stat.ctime) == found.ctime
}

/// Says what differs.
pub(super) fn describe(difference: Difference) -> String {
    let Difference { kind, content, mtime, mode, uid, gid, xattrs } = difference;
    let names = [
        (kind, "its kind"),
        (content, "its size or text"),
        (mtime, "its time"),
        (mode, "its mode"),
        (uid, "its owner"),
        (gid, "its group"),
        (xattrs, "its attributes"),
    ];
    let list: Vec<_> = names.into_iter().filter(|(differs, _)| *differs).map(|(_, name)| name).collect();
    format!("{} differs from the source's", list.join(", "))
}
