//! Setting owner, mode, extended attributes and times in the one order that keeps them.
//!
//! A change of owner drops set-id bits and file capabilities, so it comes first; the mode follows; ACLs
//! and capabilities next, for the mode would change the ACL's mask; times last, because nothing after
//! them may touch the inode.
//! If the owner cannot be set, set-id bits and capabilities are held back: they would arm a file for
//! somebody else.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::applied::{Applied, Attribute, Problem};
use crate::create::permissions;
use crate::error::{Cause, TreeError};
use crate::kernel::ProcPath;
use crate::stat::{Kind, Stat, Time};
use crate::xattr::{Attributes, CAPABILITY, Xattrs};

const SET_ID_BITS: u32 = 0o6000;

/// What an inode shall look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permission, set-id and sticky bits; not used for symbolic links, which have none.
    pub mode: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// All extended attributes; others are removed.
    pub xattrs: Xattrs,
}

/// Whether an inode can have extended attributes that nobody gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Just made where nothing is inherited: it has none.
    Fresh,
    /// It must be asked.
    Existing,
}

/// A held descriptor, by what it can be used for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handle<'a> {
    /// Opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// Held with `O_PATH`: any kind of inode.
    Path(BorrowedFd<'a>),
}

impl<'a> Handle<'a> {
    pub(crate) fn attributes(self) -> Attributes<'a> {
        match self {
            Self::Open(fd) => Attributes::Open(fd),
            Self::Path(fd) => Attributes::Path(fd),
        }
    }

    /// Makes the inode look as wanted; `name` is for messages.
    pub(crate) fn apply(self, before: Stat, wanted: &Metadata, freshness: Freshness, name: &[u8]) -> Applied {
        let mut pass = Pass { handle: self, name, is_changed: false, problems: Vec::new() };
        let owner = pass.owner(&before, wanted);
        pass.mode(&before, wanted, owner);
        if freshness == Freshness::Existing || !wanted.xattrs.is_empty() {
            pass.xattrs(&wanted.xattrs, freshness, owner);
        }
        pass.times(&before, wanted);
        Applied { before, is_changed: pass.is_changed, problems: pass.problems }
    }

    fn set_owner(self, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::Path(fd) => rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    pub(crate) fn set_mode(self, mode: u32) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, permissions(mode)),
            Self::Path(fd) => {
                let path = ProcPath::new(fd)?;
                rustix::fs::chmodat(CWD, path.as_c_str(), permissions(mode), AtFlags::empty())
            }
        }
    }

    fn set_times(self, mtime: Time) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
        };
        // 999,999,999 is the largest that is a time; above are the kernel's own marks.
        if mtime.nanos > 999_999_999 {
            return Err(Errno::INVAL);
        }
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &times),
            Self::Path(fd) => {
                let path = ProcPath::new(fd)?;
                rustix::fs::utimensat(CWD, path.as_c_str(), &times, AtFlags::empty())
            }
        }
    }
}

/// What happened to the owner, which decides what may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Kept,
    Changed,
    Failed,
}

struct Pass<'a> {
    handle: Handle<'a>,
    name: &'a [u8],
    is_changed: bool,
    problems: Vec<Problem>,
}

impl Pass<'_> {
    fn note(
        &mut self,
        op: &'static str,
        attribute: Attribute,
        outcome: Result<(), impl Into<Cause>>,
    ) -> bool {
        match outcome {
            Ok(()) => self.is_changed = true,
            Err(cause) => {
                self.problems.push(Problem { attribute, error: TreeError::new(op, self.name, cause) });
                return false;
            }
        }
        true
    }

    fn owner(&mut self, before: &Stat, wanted: &Metadata) -> Owner {
        let uid = (before.uid != wanted.uid).then_some(wanted.uid);
        let gid = (before.gid != wanted.gid).then_some(wanted.gid);
        if uid.is_none() && gid.is_none() {
            return Owner::Kept;
        }
        // All ones means "leave it" to the kernel and is nobody's number.
        let outcome = if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            Err(Errno::INVAL)
        } else {
            self.handle.set_owner(uid.map(Uid::from_raw), gid.map(Gid::from_raw))
        };
        if self.note("set owner", Attribute::Owner, outcome) { Owner::Changed } else { Owner::Failed }
    }

    fn mode(&mut self, before: &Stat, wanted: &Metadata, owner: Owner) {
        if before.kind == Kind::Symlink {
            return;
        }
        let mut mode = wanted.mode & 0o7777;
        if owner == Owner::Failed && before.kind == Kind::File && mode & SET_ID_BITS != 0 {
            mode &= !SET_ID_BITS;
            self.note("set mode", Attribute::Mode, Err(Cause::HeldBack));
        }
        let is_dropped_by_chown = owner == Owner::Changed && mode & SET_ID_BITS != 0;
        if before.mode != mode || is_dropped_by_chown {
            let outcome = self.handle.set_mode(mode);
            self.note("set mode", Attribute::Mode, outcome);
        }
    }

    fn xattrs(&mut self, wanted: &Xattrs, freshness: Freshness, owner: Owner) {
        let attributes = self.handle.attributes();
        let present = match freshness {
            Freshness::Fresh => Ok(Xattrs::default()),
            Freshness::Existing => attributes.read(),
        };
        let present = match present {
            Ok(present) => present,
            Err(cause) => {
                self.note("list attributes", Attribute::Xattr(Vec::new()), Err(cause));
                return;
            }
        };
        for (attribute, _value) in present.iter().filter(|(name, _value)| wanted.get(name).is_none()) {
            let outcome = attributes.remove_named(attribute);
            self.note("remove attribute", Attribute::Xattr(attribute.to_vec()), outcome);
        }
        for (attribute, value) in wanted.iter().filter(|(name, value)| present.get(name) != Some(*value)) {
            let outcome = if owner == Owner::Failed && attribute == CAPABILITY {
                Err(Cause::HeldBack)
            } else {
                attributes.set_named(attribute, value)
            };
            self.note("set attribute", Attribute::Xattr(attribute.to_vec()), outcome);
        }
    }

    fn times(&mut self, before: &Stat, wanted: &Metadata) {
        if before.mtime != wanted.mtime {
            let outcome = self.handle.set_times(wanted.mtime);
            self.note("set times", Attribute::Times, outcome);
        }
    }
}
