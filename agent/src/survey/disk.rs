//! Mounted file systems that hold data.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use common::host::DiskFacts;
use common::rel_path::escape;
use rustix::fs::StatVfsMountFlags;

/// File systems that are told of; the largest panel servers have a few dozen.
const DISKS_MAX: usize = 64;
/// Types that hold data on the network: asking one whose server is gone may never return, so only its place is told.
const NETWORK: &[&str] =
    &["9p", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3"];
/// Types that hold nothing that moves.
const VIRTUAL: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
];

/// One line of the kernel's list of mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    mount_point: Vec<u8>,
    fs_type: String,
}

/// Asks the kernel for its mounts, and those on local disks for their space.
pub fn look() -> Vec<DiskFacts> {
    let list = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mounts = list.split(|&byte| byte == b'\n').filter_map(mount);
    let data = mounts.filter(|mount| !VIRTUAL.contains(&mount.fs_type.as_str()));
    // A bind mount shows a file system that stands in the list already.
    let once = data.filter(|mount| seen.insert((mount.device.clone(), mount.fs_type.clone())));
    once.filter_map(facts).take(DISKS_MAX).collect()
}

/// Asks one file system; none when it went away meanwhile, may not be looked at, or has no blocks.
fn facts(mount: Mount) -> Option<DiskFacts> {
    let mut facts = DiskFacts {
        mount_point: escape(&mount.mount_point),
        fs_type: mount.fs_type,
        size_bytes: 0,
        free_bytes: 0,
        free_inodes: 0,
        is_read_only: false,
    };
    if !NETWORK.contains(&facts.fs_type.as_str()) {
        let space = rustix::fs::statvfs(OsStr::from_bytes(&mount.mount_point)).ok()?;
        facts.size_bytes = space.f_blocks.saturating_mul(space.f_frsize);
        facts.free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        facts.free_inodes = space.f_favail;
        facts.is_read_only = space.f_flag.contains(StatVfsMountFlags::RDONLY);
        if facts.size_bytes == 0 {
            return None;
        }
    }
    Some(facts)
}

/// Reads `ID PARENT MAJOR:MINOR ROOT MOUNT_POINT OPTIONS [TAG…] - TYPE SOURCE SUPER_OPTIONS`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
    let mount_point = unescape(fields.nth(1)?);
    fields.find(|field| *field == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount { device, mount_point, fs_type })
}

/// Turns the kernel's `\040` and the like into bytes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_odd_names() {
        let line =
            b"36 35 98:0 /mnt1 /srv/with\\040space rw,noatime master:1 - ext4 /dev/root rw,errors=continue";
        let expected = Mount {
            device: "98:0".to_owned(),
            mount_point: b"/srv/with space".to_vec(),
            fs_type: "ext4".to_owned(),
        };
        assert_eq!(mount(line), Some(expected));
        assert_eq!(mount(b""), None);
        assert_eq!(mount(b"36 35 98:0 / /x rw"), None);
        assert_eq!(unescape(b"\\13"), b"\\13");
    }
}
