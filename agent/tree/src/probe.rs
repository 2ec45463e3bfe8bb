//! What a file system can do, and how much room it has.
//!
//! Asked once per rename domain, before anything depends on it.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Context, Result, TreeError};
use crate::kernel::{Kernel, syncfs_reports_errors};
use crate::mount::mount_of;
use crate::name::Name;
use crate::xattr::Attributes;

/// The flag of a directory whose names are compared without case (`FS_CASEFOLD_FL`).
const CASEFOLD: u32 = 0x4000_0000;

/// File systems by the number that `statfs` gives, and whether another machine may change them.
const FILE_SYSTEMS: [(u32, &str, bool); 29] = [
    (0x0000_ef53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683e, "btrfs", false),
    (0xca45_1a4e, "bcachefs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0xf2f5_2010, "f2fs", false),
    (0x0102_1994, "tmpfs", false),
    (0x8584_58f6, "ramfs", false),
    (0x794c_7630, "overlay", false),
    (0x7371_7368, "squashfs", false),
    (0x5265_4973, "reiserfs", false),
    (0x3153_464a, "jfs", false),
    (0x0000_f15f, "ecryptfs", false),
    (0x0000_4d44, "vfat", false),
    (0x2011_bab0, "exfat", false),
    (0x5346_544e, "ntfs", false),
    (0x7366_746e, "ntfs3", false),
    (0x0000_9fa0, "proc", false),
    (0x6265_6572, "sysfs", false),
    // A daemon answers, perhaps for another machine (sshfs, glusterfs, s3fs).
    (0x6573_5546, "fuse", true),
    (0x0000_6969, "nfs", true),
    (0xff53_4d42, "cifs", true),
    (0xfe53_4d42, "smb2", true),
    (0x0102_1997, "9p", true),
    (0x00c3_6400, "ceph", true),
    (0x0bd0_0bd0, "lustre", true),
    (0x4750_4653, "gpfs", true),
    (0x0116_1970, "gfs2", true),
    (0x7461_636f, "ocfs2", true),
];

/// File systems that compare names without case whatever a flag says.
const CASE_INSENSITIVE: [&str; 4] = ["vfat", "exfat", "ntfs", "cifs"];

/// What a directory's file system can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// What the kernel can do.
    pub kernel: Kernel,
    /// Whether `sync_fs` reports write errors (Linux 5.8).
    pub syncfs_reports_errors: bool,
    /// Whether POSIX ACLs can be kept.
    pub acl: bool,
    /// Whether `user.*` attributes can be kept.
    pub user_xattr: bool,
    /// Whether another machine (or a daemon) may change it without this kernel's clock and cache.
    pub is_network_fs: bool,
    /// The name of the file system's type, or `unknown`.
    pub fs_type: &'static str,
    /// Whether names that differ in case only are one name here.
    pub is_case_insensitive: bool,
    /// Whether a rename can be made to fail if the name exists; only known after writing.
    pub rename_noreplace: Option<bool>,
    /// Whether two names can be exchanged; only known after writing.
    pub rename_exchange: Option<bool>,
    /// Whether files can share blocks; only known after writing.
    pub reflink: Option<bool>,
}

/// The room of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All bytes.
    pub bytes_total: u64,
    /// Free bytes, with those kept for root.
    pub bytes_free: u64,
    /// Free bytes for everybody.
    pub bytes_available: u64,
    /// All inodes, unless the file system makes them as needed.
    pub inodes_total: Option<u64>,
    /// Free inodes, unless the file system makes them as needed.
    pub inodes_free: Option<u64>,
}

/// How content takes room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// What a file with content takes at least; 1 where small files may share a block or stand beside their names.
    pub block_bytes: u64,
    /// Whether content may take less room than it has bytes.
    pub may_compress: bool,
}

/// File systems in which content that is written takes whole blocks.
const IN_BLOCKS: [&str; 6] = ["ext2", "ext3", "ext4", "xfs", "tmpfs", "jfs"];

impl Dir {
    /// Returns how content takes room on this directory's file system.
    pub fn packing(&self) -> Result<Packing> {
        let raw = rustix::fs::fstatvfs(self.fd()).on_self("ask for space")?;
        let mount = mount_of(self.fd()).on_self("find mount of directory")?;
        let fs_type = mount.as_ref().map_or("", |mount| mount.fs_type.as_str());
        let is_asked = mount.as_ref().is_some_and(|mount| mount.options.contains("compress"));
        Ok(Packing {
            block_bytes: if IN_BLOCKS.contains(&fs_type) { raw.f_frsize.max(1) } else { 1 },
            may_compress: is_asked || ["zfs", "bcachefs"].contains(&fs_type),
        })
    }

    /// Returns the room of this directory's file system; quotas are not counted.
    pub fn space(&self) -> Result<Space> {
        let raw = rustix::fs::fstatvfs(self.fd()).on_self("ask for space")?;
        let has_inodes = raw.f_files > 0;
        Ok(Space {
            bytes_total: raw.f_blocks.saturating_mul(raw.f_frsize),
            bytes_free: raw.f_bfree.saturating_mul(raw.f_frsize),
            bytes_available: raw.f_bavail.saturating_mul(raw.f_frsize),
            inodes_total: has_inodes.then_some(raw.f_files),
            inodes_free: has_inodes.then_some(raw.f_ffree),
        })
    }

    /// Returns what can be known without writing.
    pub fn features(&self) -> Result<Features> {
        let raw = rustix::fs::fstatfs(self.fd()).on_self("ask for the file system")?;
        let (fs_type, is_network_fs) = file_system(raw.f_type.into());
        let attributes = self.handle().attributes();
        Ok(Features {
            kernel: self.kernel(),
            syncfs_reports_errors: syncfs_reports_errors(),
            acl: is_supported(attributes, c"system.posix_acl_access"),
            user_xattr: is_supported(attributes, c"user.drover"),
            is_network_fs,
            fs_type,
            is_case_insensitive: CASE_INSENSITIVE.contains(&fs_type) || is_casefolded(self.fd()),
            rename_noreplace: None,
            rename_exchange: None,
            reflink: None,
        })
    }

    /// Returns what can be known by making and removing two files, in a directory of ours only.
    pub fn features_by_writing(&self) -> Result<Features> {
        let mut features = self.features()?;
        let names = [".probe-1", ".probe-2", ".probe-3"]
            .map(|name| Name::new(name).expect("a constant without slash"));
        let outcome = self.try_renames(&mut features, &names);
        for name in &names {
            match self.unlink(name) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        outcome.map(|()| features)
    }

    fn try_renames(&self, features: &mut Features, names: &[Name; 3]) -> Result<()> {
        let [first, second, third] = names;
        for name in names {
            // Left by a probe that was killed.
            match self.unlink(name) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        let source = self.create_file(first, 0o600)?;
        source.write_at(&[0x5a; 4096], 0)?;
        let clone = self.create_file(second, 0o600)?;
        features.reflink = Some(known(clone.reflink_from(&source.reopen()?))?);
        features.rename_exchange = Some(known(self.rename_exchange(first, self, second))?);
        features.rename_noreplace = Some(known(self.rename_noreplace(first, self, third))?);
        Ok(())
    }
}

fn known(outcome: Result<()>) -> Result<bool, TreeError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.is_unsupported() => Ok(false),
        Err(error) => Err(error),
    }
}

fn file_system(magic: i128) -> (&'static str, bool) {
    // Some machines have a signed number here.
    let magic = magic & 0xffff_ffff;
    FILE_SYSTEMS
        .iter()
        .find(|(number, _name, _is_network)| i128::from(*number) == magic)
        .map_or(("unknown", false), |(_number, name, is_network)| (name, *is_network))
}

fn is_supported(attributes: Attributes<'_>, name: &std::ffi::CStr) -> bool {
    matches!(attributes.get(name, &mut []), Ok(_) | Err(Errno::NODATA | Errno::RANGE))
}

fn is_casefolded(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::ioctl_getflags(fd).is_ok_and(|flags| flags.bits() & CASEFOLD != 0)
}

#[cfg(test)]
mod tests {
    use super::file_system;
    use crate::kernel::Kernel;
    use crate::root::Root;
    use crate::scratch::on_each_kernel;

    #[test]
    fn knows_file_systems() {
        for (magic, expected) in [
            (0xef53_i128, ("ext4", false)),
            (0x6969, ("nfs", true)),
            (0xff53_4d42, ("cifs", true)),
            (i128::from(0xff53_4d42_u32.cast_signed()), ("cifs", true)),
            (1, ("unknown", false)),
        ] {
            assert_eq!(file_system(magic), expected);
        }
    }

    #[test]
    fn asks_without_and_with_writing() {
        on_each_kernel(|scratch| {
            let read = scratch.dir.features().unwrap();
            assert_eq!(read.rename_exchange, None);
            let written = scratch.dir.features_by_writing().unwrap();
            assert!(written.reflink.is_some());
            assert_eq!((written.acl, written.fs_type), (read.acl, read.fs_type));
            if matches!(written.fs_type, "ext4" | "xfs" | "btrfs" | "tmpfs") {
                assert_eq!((written.rename_exchange, written.rename_noreplace), (Some(true), Some(true)));
            }
            if written.fs_type == "ext4" {
                assert!(written.acl && written.user_xattr && !written.is_network_fs);
            }
            assert_eq!(scratch.dir.list().unwrap().count(), 0);
            let space = scratch.dir.space().unwrap();
            assert!(space.bytes_total >= space.bytes_free && space.bytes_free >= space.bytes_available);
        });
    }

    #[test]
    fn a_read_only_place_is_asked_too() {
        let proc = Root::open_as("/proc".as_ref(), Kernel::detect()).unwrap().dir();
        let features = proc.features().unwrap();
        assert_eq!((features.fs_type, features.acl, features.user_xattr), ("proc", false, false));
        assert!(proc.features_by_writing().is_err());
    }
}
