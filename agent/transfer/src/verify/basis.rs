//! What the ledger says of an entry, and what follows from it for what must stand there.

use std::collections::BTreeSet;

use common::digest::Digest;
use common::rel_path::escape;
use sync::acl;
use sync::byte_string::ByteString;
use sync::diff::Difference;
use sync::entry::{Entry, Kind};
use sync::stamp::Time;
use tree::Stat;

use crate::ledger::History;
use crate::standing::{is_as_recorded, time};

/// Attributes of one entry that are told by name.
const ATTRIBUTES_TOLD_MAX: usize = 4;

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

/// Says how what was found differs from what the source has.
pub(super) fn describe(source: &Entry, found: &Entry) -> String {
    let Difference { kind, content, mtime, mode, uid, gid, xattrs } = Difference::between(source, found);
    let mut parts = Vec::new();
    if kind {
        parts.push(format!("it is a {} instead of a {}", found.kind.as_str(), source.kind.as_str()));
    }
    if content {
        parts.push(match (&found.kind, &source.kind) {
            (Kind::Symlink { target }, Kind::Symlink { target: wanted }) => {
                format!("its text is `{}` instead of `{}`", escape(target), escape(wanted))
            }
            _ => format!("its size is {} instead of {}", found.size(), source.size()),
        });
    }
    let time = |time: Time| format!("{}.{:09}", time.seconds, time.nanos);
    if mtime {
        parts.push(format!("its time is {} instead of {}", time(found.mtime), time(source.mtime)));
    }
    if mode {
        parts.push(format!("its mode is {:o} instead of {:o}", found.mode, source.mode));
    }
    if uid {
        parts.push(format!("its owner is {} instead of {}", found.uid, source.uid));
    }
    if gid {
        parts.push(format!("its group is {} instead of {}", found.gid, source.gid));
    }
    if xattrs {
        parts.extend(attributes(source, found));
    }
    parts.join(", ")
}

/// Says which attributes differ.
fn attributes(source: &Entry, found: &Entry) -> Vec<String> {
    let value = |entry: &Entry, name: &ByteString| {
        entry.xattrs.iter().find(|(known, _value)| known == name).map(|(_known, value)| value.clone())
    };
    let names: BTreeSet<&[u8]> =
        source.xattrs.iter().chain(&found.xattrs).map(|(name, _value)| name.0.as_slice()).collect();
    let tell = |name: &[u8]| {
        let key = ByteString(name.to_vec());
        let what = match (value(source, &key), value(found, &key)) {
            (wanted, present) if wanted == present => return None,
            (Some(_), None) => "is missing",
            (None, Some(_)) => "is not the source's",
            (Some(_), Some(_)) | (None, None) => "is another one",
        };
        let noun = if acl::is_acl(name) { "ACL" } else { "attribute" };
        Some(format!("its {noun} `{}` {what}", escape(name)))
    };
    names.into_iter().filter_map(tell).take(ATTRIBUTES_TOLD_MAX).collect()
}
