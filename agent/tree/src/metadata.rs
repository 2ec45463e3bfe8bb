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

#[cfg(test)]
mod tests {
    use super::Metadata;
    use crate::applied::Attribute;
    use crate::dir::Dir;
    use crate::name::Name;
    use crate::scratch::{as_nobody, is_root, name, on_each_kernel, plain};
    use crate::stat::{DeviceKind, Kind, Time, device_number};
    use crate::xattr::Xattrs;

    /// An ACL as the kernel stores it: owner, user 1234, group, mask, others.
    fn acl(group_and_mask: u8) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, rights, id) in [
            (1_u16, 7_u8, u32::MAX),
            (2, 4, 1234),
            (4, group_and_mask, u32::MAX),
            (16, group_and_mask, u32::MAX),
            (32, 0, u32::MAX),
        ] {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&u16::from(rights).to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    /// `cap_net_bind_service+ep` as the kernel stores it.
    fn capability() -> Vec<u8> {
        [0x0200_0001_u32, 1 << 10, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn xattrs(entries: &[(&str, Vec<u8>)]) -> Xattrs {
        Xattrs::new(entries.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect())
            .unwrap()
    }

    fn rich() -> Metadata {
        Metadata {
            uid: 1234,
            gid: 2345,
            mode: 0o6750,
            mtime: Time { seconds: 1_234_567_890, nanos: 987_654_321 },
            xattrs: xattrs(&[
                ("security.capability", capability()),
                ("system.posix_acl_access", acl(5)),
                ("trusted.drover", vec![0, 255, 10]),
                ("user.empty", vec![]),
                ("user.long", vec![7; 2000]),
            ]),
        }
    }

    fn found(dir: &Dir, name: &Name) -> Metadata {
        let stat = dir.stat(name).unwrap();
        let xattrs = dir.xattrs(name).unwrap();
        Metadata { uid: stat.uid, gid: stat.gid, mode: stat.mode, mtime: stat.mtime, xattrs }
    }

    fn check(dir: &Dir, at: &Name, wanted: &Metadata) {
        let applied = dir.apply(at, wanted, None).unwrap();
        assert!(applied.is_complete(), "{:?}", applied.problems);
        let found = found(dir, at);
        let mode = if dir.stat(at).unwrap().kind == Kind::Symlink { 0o777 } else { wanted.mode };
        assert_eq!(found, Metadata { mode, ..wanted.clone() });
    }

    #[test]
    fn everything_of_a_file_survives() {
        if !is_root() {
            return;
        }
        on_each_kernel(|scratch| {
            let dir = &scratch.dir;
            let new = dir.create_file(&name("f"), 0o600).unwrap();
            new.write_at(b"x", 0).unwrap();
            let applied = new.set_metadata(&rich()).unwrap();
            assert!(applied.is_complete(), "{:?}", applied.problems);
            assert_eq!(found(dir, &name("f")), rich());
            assert_eq!(dir.open_file(&name("f")).unwrap().xattrs().unwrap(), rich().xattrs);
            // Another owner: set-id bits and capabilities would be gone in the wrong order.
            check(dir, &name("f"), &Metadata { uid: 4321, ..rich() });
            check(dir, &name("f"), &Metadata { gid: 5432, ..rich() });
            check(dir, &name("f"), &Metadata { mode: 0o4711, xattrs: Xattrs::default(), ..rich() });
            check(dir, &name("f"), &plain(0o644));
            check(dir, &name("f"), &rich());
        });
    }

    #[test]
    fn everything_of_the_other_kinds_survives() {
        if !is_root() {
            return;
        }
        on_each_kernel(|scratch| {
            let dir = &scratch.dir;
            let sub = dir.create_dir(&name("d"), 0o700).unwrap();
            dir.create_symlink(&name("l"), scratch.outside.join("victim").as_os_str().as_encoded_bytes())
                .unwrap();
            dir.create_fifo(&name("p"), 0o600).unwrap();
            dir.create_socket(&name("s"), 0o600).unwrap();
            dir.create_device(&name("c"), DeviceKind::Character, device_number(1, 3), 0o600).unwrap();
            dir.create_device(&name("b"), DeviceKind::Block, device_number(259, 70_000), 0o600).unwrap();
            let outside = std::fs::metadata(scratch.outside.join("victim")).unwrap();
            let special = Metadata { xattrs: xattrs(&[("trusted.x", vec![1])]), ..rich() };
            for kind in ["l", "p", "s", "c", "b"] {
                check(dir, &name(kind), &special);
                check(dir, &name(kind), &Metadata { mode: 0o600, uid: 0, ..special.clone() });
            }
            assert_eq!(dir.stat(&name("b")).unwrap().rdev, device_number(259, 70_000));
            let of_dir = xattrs(&[
                ("system.posix_acl_access", acl(5)),
                ("system.posix_acl_default", acl(4)),
                ("user.d", vec![1]),
            ]);
            let wanted = Metadata { mode: 0o3750, xattrs: of_dir, ..rich() };
            check(dir, &name("d"), &wanted);
            assert_eq!(sub.xattrs_self().unwrap(), wanted.xattrs);
            assert!(sub.apply_self(&plain(0o711)).unwrap().is_complete());
            assert_eq!(found(dir, &name("d")), plain(0o711));
            let after = std::fs::metadata(scratch.outside.join("victim")).unwrap();
            assert_eq!(format!("{outside:?}"), format!("{after:?}"), "the link was followed");
        });
    }

    #[test]
    fn what_is_right_already_is_not_touched() {
        on_each_kernel(|scratch| {
            let new = scratch.dir.create_file(&name("f"), 0o600).unwrap();
            assert!(new.set_metadata(&plain(0o640)).unwrap().is_changed);
            let before = new.stat().unwrap();
            assert!(!new.set_metadata(&plain(0o640)).unwrap().is_changed);
            assert!(!scratch.dir.apply(&name("f"), &plain(0o640), None).unwrap().is_changed);
            assert_eq!(new.stat().unwrap(), before, "the ctime would tell");
        });
    }

    #[test]
    fn an_inherited_acl_does_not_stay() {
        on_each_kernel(|scratch| {
            let sub = scratch.dir.create_dir(&name("d"), 0o755).unwrap();
            let inherits =
                Metadata { xattrs: xattrs(&[("system.posix_acl_default", acl(7))]), ..plain(0o755) };
            if !sub.apply_self(&inherits).unwrap().is_complete() {
                crate::scratch::skipped("no ACLs here");
                return;
            }
            let new = sub.create_file(&name("f"), 0o600).unwrap();
            assert!(!sub.xattrs(&name("f")).unwrap().is_empty());
            assert!(new.set_metadata(&plain(0o640)).unwrap().is_complete());
            assert_eq!(found(&sub, &name("f")), plain(0o640));
            sub.remove_default_acl().unwrap();
            sub.remove_default_acl().unwrap();
            assert!(sub.xattrs_self().unwrap().is_empty());
        });
    }

    #[test]
    fn without_its_owner_nothing_is_armed() {
        on_each_kernel(|scratch| {
            let new = scratch.dir.create_file(&name("f"), 0o600).unwrap();
            let wanted = Metadata {
                uid: u32::MAX,
                mode: 0o6755,
                xattrs: xattrs(&[("security.capability", capability())]),
                ..plain(0)
            };
            let problems = new.set_metadata(&wanted).unwrap().problems;
            let attributes: Vec<_> = problems.iter().map(|problem| problem.attribute.to_string()).collect();
            assert_eq!(attributes, ["owner", "mode", "security.capability"]);
            let stat = new.stat().unwrap();
            assert_eq!((stat.mode, stat.mtime), (0o755, wanted.mtime));
            assert!(scratch.dir.xattrs(&name("f")).unwrap().is_empty());
        });
    }

    #[test]
    fn each_attribute_fails_for_itself() {
        on_each_kernel(|scratch| {
            std::fs::set_permissions(&scratch.path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
                .unwrap();
            let wanted = Metadata {
                xattrs: xattrs(&[("trusted.x", vec![1]), ("user.x", vec![1])]),
                uid: 65534,
                gid: 65534,
                ..rich()
            };
            as_nobody(|| {
                let new = scratch.dir.create_file(&name("f"), 0o600).unwrap();
                let problems = new.set_metadata(&wanted).unwrap().problems;
                assert_eq!(problems.len(), 1, "{problems:?}");
                assert_eq!(problems[0].attribute, Attribute::Xattr(b"trusted.x".to_vec()));
                assert!(problems[0].error.is_permission());
                assert_eq!(new.stat().unwrap().mtime, wanted.mtime);
            });
        });
    }

    #[test]
    fn another_inode_is_not_touched() {
        on_each_kernel(|scratch| {
            std::fs::write(scratch.path.join("f"), b"").unwrap();
            let stat = scratch.dir.stat(&name("f")).unwrap();
            let other = scratch.dir.apply(&name("f"), &plain(0o600), Some((stat.dev, stat.ino + 1)));
            assert!(other.unwrap_err().is_replaced());
            assert_eq!(scratch.dir.stat(&name("f")).unwrap(), stat);
            let same = scratch.dir.apply(&name("f"), &plain(0o600), Some((stat.dev, stat.ino)));
            assert!(same.unwrap().is_complete());
        });
    }

    /// A pinned inode is worked on even when a link to the outside has taken its name.
    #[test]
    fn a_name_swapped_for_a_link_changes_nothing_outside() {
        on_each_kernel(|scratch| {
            std::fs::write(scratch.path.join("f"), b"").unwrap();
            let pinned = scratch.dir.pin(&name("f")).unwrap();
            std::fs::rename(scratch.path.join("f"), scratch.path.join("g")).unwrap();
            std::os::unix::fs::symlink(scratch.outside.join("victim"), scratch.path.join("f")).unwrap();
            let outside = std::fs::metadata(scratch.outside.join("victim")).unwrap();
            let wanted = Metadata { xattrs: xattrs(&[("user.x", vec![1])]), ..plain(0o4711) };
            assert!(pinned.apply(&wanted, None).unwrap().is_complete());
            assert_eq!(found(&scratch.dir, &name("g")), wanted);
            let _link_has_no_user_attributes = scratch.dir.apply(&name("f"), &wanted, None).unwrap();
            assert!(scratch.dir.xattrs(&name("f")).unwrap().is_empty());
            let after = std::fs::metadata(scratch.outside.join("victim")).unwrap();
            assert_eq!(format!("{outside:?}"), format!("{after:?}"));
        });
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        on_each_kernel(|scratch| {
            let new = scratch.dir.create_file(&name("f"), 0o600).unwrap();
            for (seconds, nanos) in [(0, 1), (-1, 999_999_999), (2_147_483_648, 0), (4_000_000_000, 5)] {
                let wanted = Metadata { mtime: Time { seconds, nanos }, ..plain(0o600) };
                assert!(new.set_metadata(&wanted).unwrap().is_complete());
                assert_eq!(new.stat().unwrap().mtime, wanted.mtime);
            }
            // The kernel's marks for "now" and "leave it" are no times of a peer.
            for nanos in [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2, u32::MAX] {
                let wanted = Metadata { mtime: Time { seconds: 5, nanos }, ..plain(0o600) };
                assert_eq!(new.set_metadata(&wanted).unwrap().problems.len(), 1);
                assert_eq!(new.stat().unwrap().mtime.seconds, 4_000_000_000);
            }
        });
    }
}
