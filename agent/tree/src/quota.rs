//! What quotas leave of a file system, and to whom.
//!
//! Quotas of users, groups and projects are asked of the block device (`quotactl`), those of btrfs subvolumes in the
//! file system's own tree. A kernel, a file system or a right that is missing means that nothing is known of a quota
//! (`ENOSYS`, `ESRCH`, `EOPNOTSUPP`, `EPERM` …): then the write itself is refused (`EDQUOT`, [`crate::TreeError::is_quota`]).

use std::collections::BTreeSet;
use std::ffi::{CString, c_uint};

use crate::dir::Dir;
use crate::mount::mount_of;
use crate::rename_domain::inherited_project;
use crate::syscall::{self, RawQuota};

/// Whom a quota binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaOf {
    /// All that a user owns.
    User(u32),
    /// All that belongs to a group.
    Group(u32),
    /// All that is in a project.
    Project(u32),
    /// A btrfs quota group: a subvolume, or at a higher level several.
    Subvolume {
        /// 0 for a subvolume itself.
        level: u64,
        /// Its number.
        id: u64,
    },
}

/// What a quota leaves; nothing where it sets no limit. Only limits that no time lets anybody pass are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Whose it is.
    pub of: QuotaOf,
    /// Bytes that may still come.
    pub bytes_left: Option<u64>,
    /// Inodes that may still come.
    pub inodes_left: Option<u64>,
}

/// The quotas of the file system that a directory is in.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    /// None where no quota is enforced.
    device: Option<CString>,
    /// Flags `FS_QUOTA_*`.
    flags: u16,
    here: Vec<Quota>,
}

/// Flags of `struct fs_quota_statv`: a quota is enforced, and not only kept.
const ENFORCED: [u16; 3] = [1 << 1, 1 << 3, 1 << 5];
const USER: c_uint = 0;
const GROUP: c_uint = 1;
const PROJECT: c_uint = 2;

/// Kinds of items in the quota tree of btrfs.
const STATUS: u32 = 240;
const INFO: u32 = 242;
const LIMIT: u32 = 244;
const RELATION: u32 = 246;
/// Quota groups above a subvolume that are asked; nobody nests more.
const GROUPS_MAX: usize = 256;

impl Dir {
    /// Returns the quotas that bind what is made in this directory, as far as the kernel tells them.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        let Ok(Some(mount)) = mount_of(self.fd()) else { return Quotas::default() };
        if mount.fs_type == "btrfs" {
            return Quotas { here: subvolume_quotas(self), ..Quotas::default() };
        }
        let device = CString::new(mount.source).ok();
        let Some((device, flags)) = device.and_then(|device| {
            let flags = syscall::quota_flags(&device).ok()?;
            Some((device, flags))
        }) else {
            return Quotas::default();
        };
        let mut found = Quotas { device: Some(device), flags, here: Vec::new() };
        let project = inherited_project(self.fd()).filter(|project| *project != 0);
        found.here.extend(project.and_then(|project| found.ask(PROJECT, project, QuotaOf::Project(project))));
        found
    }
}

impl Quotas {
    /// Whether users or groups may be bound.
    #[must_use]
    pub fn bind_owners(&self) -> bool {
        self.device.is_some() && self.flags & (ENFORCED[0] | ENFORCED[1]) != 0
    }

    /// Returns what binds everything that is made in the directory, whoever owns it.
    #[must_use]
    pub fn here(&self) -> &[Quota] {
        &self.here
    }

    /// Returns the quota of a user, if there is one.
    #[must_use]
    pub fn of_user(&self, uid: u32) -> Option<Quota> {
        self.ask(USER, uid, QuotaOf::User(uid))
    }

    /// Returns the quota of a group, if there is one.
    #[must_use]
    pub fn of_group(&self, gid: u32) -> Option<Quota> {
        self.ask(GROUP, gid, QuotaOf::Group(gid))
    }

    fn ask(&self, kind: c_uint, id: u32, of: QuotaOf) -> Option<Quota> {
        let is_enforced = ENFORCED.get(kind as usize).is_some_and(|flag| self.flags & flag != 0);
        let device = self.device.as_ref().filter(|_device| is_enforced)?;
        quota_of(&syscall::quota(device, kind, id).ok()?, of)
    }
}

/// Returns what is left of a quota, if it limits anything.
fn quota_of(raw: &RawQuota, of: QuotaOf) -> Option<Quota> {
    let left = |limit: u64, used: u64| (limit > 0).then(|| limit.saturating_sub(used));
    let bytes_left = left(raw.kib_hard.saturating_mul(1024), raw.bytes_used);
    let inodes_left = left(raw.inodes_hard, raw.inodes_used);
    (bytes_left.is_some() || inodes_left.is_some()).then_some(Quota { of, bytes_left, inodes_left })
}

/// Returns the quotas of the subvolume that a directory is in, and of the groups above it.
fn subvolume_quotas(dir: &Dir) -> Vec<Quota> {
    let Ok(subvolume) = syscall::btrfs_subvolume(dir.fd()) else { return Vec::new() };
    // Bit 0 of the flags: quotas are on.
    let is_on = item(dir, 0, STATUS, 0).is_some_and(|status| word(&status, 2) & 1 != 0);
    let mut quotas = Vec::new();
    let mut seen = BTreeSet::new();
    let mut waiting = if is_on { vec![subvolume] } else { Vec::new() };
    while let Some(group) = waiting.pop() {
        if seen.len() >= GROUPS_MAX || !seen.insert(group) {
            continue;
        }
        if let (Some(info), Some(limit)) = (item(dir, 0, INFO, group), item(dir, 0, LIMIT, group)) {
            quotas.extend(group_quota(group, &info, &limit));
        }
        // A relation stands in both directions; what is above has a higher level, in the upper bits.
        waiting.extend(parents(dir, group).into_iter().filter(|parent| parent >> 48 > group >> 48));
    }
    quotas
}

/// Reads `struct btrfs_qgroup_info_item` and `struct btrfs_qgroup_limit_item`.
fn group_quota(group: u64, info: &[u8], limit: &[u8]) -> Option<Quota> {
    let (referenced, exclusive) = (word(info, 1), word(info, 3));
    let flags = word(limit, 0);
    let left = |flag: u64, limit: u64, used: u64| (flags & flag != 0).then(|| limit.saturating_sub(used));
    let by_referenced = left(1, word(limit, 1), referenced);
    let by_exclusive = left(2, word(limit, 2), exclusive);
    let bytes_left = by_referenced.into_iter().chain(by_exclusive).min()?;
    let of = QuotaOf::Subvolume { level: group >> 48, id: group & ((1 << 48) - 1) };
    Some(Quota { of, bytes_left: Some(bytes_left), inodes_left: None })
}

fn word(item: &[u8], index: usize) -> u64 {
    let bytes = item.get(index * 8..).and_then(|rest| rest.first_chunk::<8>());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn item(dir: &Dir, object: u64, kind: u32, offset: u64) -> Option<Vec<u8>> {
    let (count, found) = syscall::btrfs_quota_items(dir.fd(), object, kind, [offset; 2]).ok()?;
    items(count, &found).next().map(|(_offset, item)| item.to_vec())
}

fn parents(dir: &Dir, group: u64) -> Vec<u64> {
    let found = syscall::btrfs_quota_items(dir.fd(), group, RELATION, [0, u64::MAX]);
    let (count, found) = found.unwrap_or_default();
    items(count, &found).map(|(parent, _item)| parent).collect()
}

/// Returns offsets and items out of what a search found.
fn items(count: u32, mut found: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    const HEAD_BYTES: usize = 32;
    (0..count).map_while(move |_index| {
        let length = found.get(28..HEAD_BYTES)?.first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let offset = word(found, 2);
        let item = found.get(HEAD_BYTES..HEAD_BYTES + length)?;
        found = &found[HEAD_BYTES + length..];
        Some((offset, item))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::root::Root;
    use crate::scratch::{is_root, skipped};

    #[test]
    fn a_quota_without_limits_is_none() {
        let of = QuotaOf::User(7);
        assert_eq!(quota_of(&RawQuota { bytes_used: 9, ..RawQuota::default() }, of), None);
        let raw = RawQuota { kib_hard: 10, bytes_used: 4096, kib_soft: 1, ..RawQuota::default() };
        assert_eq!(quota_of(&raw, of), Some(Quota { of, bytes_left: Some(6144), inodes_left: None }));
        let over = RawQuota { inodes_hard: 3, inodes_used: 5, ..RawQuota::default() };
        assert_eq!(quota_of(&over, of), Some(Quota { of, bytes_left: None, inodes_left: Some(0) }));
    }

    #[test]
    fn a_file_system_without_quotas_binds_nobody() {
        for path in ["/proc", "/dev/shm"] {
            let Ok(root) = Root::open(path.as_ref()) else { continue };
            let quotas = root.dir().quotas();
            assert!(
                !quotas.bind_owners() && quotas.here().is_empty() && quotas.of_user(0).is_none(),
                "{path}"
            );
        }
    }

    /// A file system on a loop device, gone with the test.
    struct Disk(tempfile::TempDir);

    impl Disk {
        fn make(mkfs: &[&str], size_mib: u64, options: &str) -> Option<Self> {
            let folder = tempfile::tempdir().unwrap();
            let (image, point) = (folder.path().join("image"), folder.path().join("disk"));
            std::fs::create_dir(&point).unwrap();
            std::fs::File::create(&image).unwrap().set_len(size_mib << 20).unwrap();
            let disk = Self(folder);
            let is_made = run(mkfs, &[&image]);
            (is_made && run(&["mount", "-o", &format!("loop,{options}")], &[&image, &point])).then_some(disk)
        }

        fn point(&self) -> std::path::PathBuf {
            self.0.path().join("disk")
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            run(&["umount", "-l"], &[&self.point()]);
        }
    }

    fn run(words: &[&str], paths: &[&std::path::Path]) -> bool {
        let path = "/usr/sbin:/usr/bin:/sbin:/bin";
        let output = Command::new(words[0]).args(&words[1..]).args(paths).env("PATH", path).output();
        output.is_ok_and(|output| output.status.success())
    }

    #[test]
    fn users_groups_and_projects_are_asked() {
        if !is_root() {
            return;
        }
        let ext4 =
            ["mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota"];
        let disks = [
            ("ext4", Disk::make(&ext4, 32, "usrquota,grpquota,prjquota")),
            ("xfs", Disk::make(&["mkfs.xfs", "-q"], 320, "uquota,gquota,pquota")),
        ];
        for (kind, disk) in disks {
            let Some(disk) = disk else {
                skipped(&format!("no quotas on {kind}: the kernel has none, or nothing can be mounted"));
                continue;
            };
            let quotas = || Root::open(&disk.point()).unwrap().dir().quotas();
            assert!(quotas().bind_owners(), "{kind}");
            if !run(&["setquota", "-u", "1234", "0", "2048", "0", "9"], &[&disk.point()]) {
                skipped(&format!("no program to set a quota on {kind}"));
                continue;
            }
            let file = disk.point().join("f");
            std::fs::write(&file, vec![1; 1 << 20]).unwrap();
            std::os::unix::fs::chown(&file, Some(1234), None).unwrap();
            quotas().of_user(1234).unwrap();
            assert!(run(&["sync", "-f"], &[&disk.point()]));
            let left = quotas().of_user(1234).unwrap();
            assert_eq!((left.bytes_left, left.inodes_left), (Some(1 << 20), Some(8)), "{kind}");
        }
    }

    #[test]
    fn a_subvolume_is_asked_with_the_groups_above_it() {
        let disk = is_root().then(|| Disk::make(&["mkfs.btrfs", "-q"], 160, "noatime")).flatten();
        let Some(disk) = disk else { return skipped("no btrfs can be mounted") };
        let (point, volume) = (disk.point(), disk.point().join("volume"));
        let quotas = || Root::open(&volume).unwrap().dir().quotas();
        assert!(run(&["btrfs", "subvolume", "create"], &[&volume]));
        assert!(quotas().here().is_empty(), "quotas are off");
        assert!(run(&["btrfs", "quota", "enable"], &[&point]));
        assert!(quotas().here().is_empty(), "there is no limit");
        assert!(run(&["btrfs", "qgroup", "limit", "20M"], &[&volume]));
        let id = syscall::btrfs_subvolume(Root::open(&volume).unwrap().dir().fd()).unwrap();
        let [quota] = quotas().here().to_vec()[..] else { panic!("{:?}", quotas().here()) };
        let of = QuotaOf::Subvolume { level: 0, id };
        assert_eq!((quota.of, quota.inodes_left), (of, None));
        let left = quota.bytes_left.unwrap();
        assert!((19 << 20..=20 << 20).contains(&left), "{left}");

        std::fs::write(volume.join("f"), vec![1; 5 << 20]).unwrap();
        assert!(run(&["sync", "-f"], &[&point]) && run(&["btrfs", "quota", "rescan", "-w"], &[&point]));
        let left = quotas().here()[0].bytes_left.unwrap();
        assert!((14 << 20..=15 << 20).contains(&left), "{left}");

        assert!(run(&["btrfs", "qgroup", "create", "1/7"], &[&point]));
        assert!(run(&["btrfs", "qgroup", "assign", &format!("0/{id}"), "1/7"], &[&point]));
        assert!(run(&["btrfs", "qgroup", "limit", "9M", "1/7"], &[&point]));
        let of: Vec<_> = quotas().here().iter().map(|quota| quota.of).collect();
        assert_eq!(of, [QuotaOf::Subvolume { level: 0, id }, QuotaOf::Subvolume { level: 1, id: 7 }]);
    }
}
