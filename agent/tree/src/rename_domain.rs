//! Where a rename or a link can reach, and what is mounted where.
//!
//! The kernel answers `EXDEV` between two mounts, also of one file system (a bind mount), between two btrfs
//! subvolumes, and into a directory that hands on another project id. What decides is gathered here, so that
//! something is staged where it can be renamed from.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Context, Result};
use crate::kernel::ProcPath;
use crate::mount::{below, mount_id, mount_of, mounts};
use crate::name::Name;
use crate::stat::{Kind, stat_fd};
use crate::syscall;

/// A directory's entries can be renamed into every directory of the same domain. Numbers are of this boot only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RenameDomain {
    mount_id: u64,
    /// Tells btrfs subvolumes of one mount apart.
    dev: u64,
    /// The project that entries inherit, if they do.
    project: Option<u32>,
}

/// The file system that a directory is reached in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// The same for all mounts and subvolumes of one file system; of this boot only.
    pub id: String,
    /// The name of its type, as the kernel calls it.
    pub fs_type: String,
}

/// File systems that the kernel makes up: there is no content in them that could be moved.
const PSEUDO: [&str; 23] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "mqueue",
    "hugetlbfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "tracefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "configfs",
    "bpf",
    "pstore",
    "efivarfs",
    "binfmt_misc",
    "fusectl",
    "nsfs",
    "rpc_pipefs",
    "nfsd",
    "resctrl",
];

impl FileSystem {
    /// Whether it is one that the kernel makes up.
    #[must_use]
    pub fn is_pseudo(&self) -> bool {
        PSEUDO.contains(&self.fs_type.as_str())
    }
}

impl Dir {
    /// Returns the domain of this directory's entries.
    pub fn rename_domain(&self) -> Result<RenameDomain> {
        let stat = stat_fd(self.fd()).on_self("stat")?;
        let mount_id =
            stat.mount_id.map_or_else(|| mount_id(self.fd()), Ok).on_self("find mount of directory")?;
        Ok(RenameDomain { mount_id, dev: stat.dev, project: inherited_project(self.fd()) })
    }

    /// Returns the file system of this directory; nothing when this process does not see its mount.
    pub fn file_system(&self) -> Result<Option<FileSystem>> {
        let own = mount_of(self.fd()).on_self("find mount of directory")?;
        Ok(own.map(|mount| FileSystem { id: mount.device, fs_type: mount.fs_type }))
    }

    /// Whether something is mounted on this directory, or below it.
    pub fn holds_mounts(&self) -> Result<bool> {
        let path = self.own_path()?;
        let all = mounts().on_self("read mounts")?;
        Ok(all.iter().any(|mount| below(&mount.point, &path).is_some()))
    }

    /// Returns where something is mounted below this directory; one place of them.
    pub fn mounted_below(&self) -> Result<Option<Vec<u8>>> {
        let path = self.own_path()?;
        let mut all = mounts().on_self("read mounts")?.into_iter();
        Ok(all.find_map(|mount| {
            let is_below = below(&mount.point, &path).is_some_and(|rest| !rest.is_empty());
            is_below.then_some(mount.point)
        }))
    }

    fn own_path(&self) -> Result<Vec<u8>> {
        let path = ProcPath::new(self.fd()).on_self("read path of directory")?;
        let path = rustix::fs::readlinkat(rustix::fs::CWD, path.as_c_str(), Vec::new())
            .on_self("read path of directory")?;
        Ok(path.into_bytes())
    }

    /// Makes sure that an entry which is renamed out of this directory could be renamed back.
    ///
    /// # Errors
    /// `EXDEV` when it has another project than this directory hands on. What is neither a file nor a directory is
    /// not asked.
    pub fn check_project(&self, name: &Name) -> Result<()> {
        let Some(own) = inherited_project(self.fd()) else { return Ok(()) };
        let project = match self.stat(name)?.kind {
            Kind::File => self.open_file(name)?.project(),
            Kind::Directory => {
                syscall::fs_attributes(self.open_dir(name)?.fd()).ok().map(|found| found.project)
            }
            _ => None,
        };
        if project.is_some_and(|project| project != own) {
            return Err(Errno::XDEV).on("rename", name);
        }
        Ok(())
    }
}

/// Returns the project that entries made in a directory get, if they get the directory's.
pub(crate) fn inherited_project(fd: BorrowedFd<'_>) -> Option<u32> {
    // A file system without projects, and a directory that may only be searched, have no answer.
    let found = syscall::fs_attributes(fd).ok()?;
    found.inherits_project.then_some(found.project)
}

#[cfg(test)]
mod tests {
    use crate::kernel::Kernel;
    use crate::root::Root;
    use crate::scratch::{Mounted, Scratch, name};

    #[test]
    fn directories_of_one_mount_are_one_domain_and_a_mount_is_another() {
        let scratch = Scratch::new(Kernel::detect());
        for sub in ["a/b", "bound", "disk", "c"] {
            std::fs::create_dir_all(scratch.path.join(sub)).unwrap();
        }
        let domain = |path: &[u8]| scratch.dir.open_beneath(path).unwrap().rename_domain().unwrap();
        assert_eq!(domain(b"a/b"), domain(b""));
        assert!(!scratch.dir.open_dir(&name("a")).unwrap().holds_mounts().unwrap());
        let Some(_bound) = Mounted::bind(&scratch.path.join("a"), &scratch.path.join("bound")) else {
            return;
        };
        let Some(_disk) = Mounted::tmpfs(&scratch.path.join("disk")) else { return };
        assert_ne!(domain(b"bound"), domain(b"a"));
        assert_eq!(domain(b"bound/b"), domain(b"bound"));
        assert_ne!(domain(b"disk"), domain(b""));
        assert!(scratch.dir.holds_mounts().unwrap());
        assert!(scratch.dir.open_dir(&name("disk")).unwrap().holds_mounts().unwrap());
        assert!(!scratch.dir.open_dir(&name("c")).unwrap().holds_mounts().unwrap());
        let file_system =
            |path: &[u8]| scratch.dir.open_beneath(path).unwrap().file_system().unwrap().unwrap();
        assert_eq!(file_system(b"bound"), file_system(b"a"));
        assert_ne!(file_system(b"disk").id, file_system(b"a").id);
        assert_eq!(file_system(b"disk").fs_type, "tmpfs");
    }

    #[test]
    fn made_up_file_systems_are_told_from_disks() {
        for (path, is_pseudo) in
            [("/proc", true), ("/sys", true), ("/dev", true), ("/dev/shm", false), ("/", false)]
        {
            let Ok(root) = Root::open(path.as_ref()) else { continue };
            let file_system = root.dir().file_system().unwrap().unwrap();
            // A container may have an ordinary tmpfs as its `/dev`.
            if path != "/dev" || file_system.fs_type == "devtmpfs" {
                assert_eq!(file_system.is_pseudo(), is_pseudo, "{path}: {file_system:?}");
            }
        }
    }
}
