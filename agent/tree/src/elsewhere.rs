//! The other names of a root: the directories above it that only another mount shows.
//!
//! A bind mount hides what is above a directory. Whoever compares roots by inode alone would not see that a
//! root mounted elsewhere stands inside of another one; so the directories above it are collected under every
//! name that this process can reach it by.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::mount::{Mount, below, mount_id, mounts};
use crate::place::{Identity, Position};
use crate::root::Root;

/// Names that are looked at; a machine with more mounts of one file system is a machine of containers, whose roots
/// are found under the first of them.
const NAMES_MAX: usize = 256;

impl Root {
    /// Returns the identity of every directory above the root under every name that leads to it, each once, those of
    /// the name it was opened by first.
    pub fn ancestors_by_every_name(&self) -> Result<Vec<Identity>> {
        let identity = self.identity()?;
        let mut found = self.ancestors()?;
        for path in self.names_elsewhere()? {
            // A name may be covered by another mount or gone by now: then it leads elsewhere and says nothing.
            let Ok(other) = Self::open(&path) else { continue };
            if other.identity()? != identity {
                continue;
            }
            for ancestor in other.ancestors()? {
                if !found.contains(&ancestor) {
                    found.push(ancestor);
                }
            }
        }
        Ok(found)
    }

    /// Returns the paths that other mounts of the same file system give the root.
    fn names_elsewhere(&self) -> Result<Vec<PathBuf>> {
        let path = self.canonical_path()?;
        let id = mount_id(self.dir().fd()).on_self("find mount of root")?;
        let all = mounts().on_self("read mounts")?;
        let own = all.iter().find(|mount| mount.id == id);
        let Some(position) = own.and_then(|mount| Position::through(mount, path.as_os_str().as_bytes()))
        else {
            return Ok(Vec::new());
        };
        let others = all.iter().filter(|mount| mount.id != id && mount.device == position.device);
        Ok(others.filter_map(|mount| name_through(mount, &position.path)).take(NAMES_MAX).collect())
    }
}

/// Returns the path at which a mount shows the directory that stands at `path` in its file system.
fn name_through(mount: &Mount, path: &[u8]) -> Option<PathBuf> {
    let rest = below(path, &mount.root)?;
    Some(Path::new(OsStr::from_bytes(&mount.point)).join(OsStr::from_bytes(rest)))
}

#[cfg(test)]
mod tests {
    use crate::kernel::Kernel;
    use crate::root::Root;
    use crate::scratch::{Mounted, Scratch};

    #[test]
    fn a_bind_mount_does_not_hide_what_is_above() {
        let scratch = Scratch::new(Kernel::detect());
        let (site, elsewhere) = (scratch.path.join("site/below"), scratch.path.join("elsewhere"));
        std::fs::create_dir_all(&site).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        let Some(_mounted) = Mounted::bind(&site, &elsewhere) else { return };
        let above = Root::open(&scratch.path.join("site")).unwrap().identity().unwrap();
        let root = Root::open(&elsewhere).unwrap();
        assert!(!root.ancestors().unwrap().contains(&above));
        assert!(root.ancestors_by_every_name().unwrap().contains(&above));
    }
}
