//! Removing a tree of ours: a stage, its `undo/`, its `after/`.
//!
//! Nothing is followed and no mount is entered. Memory grows with the depth only, and descriptors do not:
//! the upper levels of a deep tree are closed and found again as `..` of a held directory, by inode.

use crate::dir::{Dir, open_directory};
use crate::error::{Cause, Context, Result, TreeError};
use crate::listing::Listing;
use crate::mount::mount_id;
use crate::name::Name;
use crate::stat::{Kind, Stat};

/// How many levels are held open at once, each with two descriptors and a listing of 32 KiB.
const LEVELS_HELD_MAX: usize = 32;

/// How often a directory is listed again because it was not empty when it should have been.
const PASSES_MAX: u32 = 4;

const OP: &str = "remove tree";

impl Dir {
    /// Removes a name and, if it is a directory, everything below it; returns how many names are gone.
    ///
    /// A name that does not exist is no error. It stops at the first thing that cannot be removed, and may
    /// be called again.
    pub fn remove_tree(&self, name: &Name) -> Result<u64> {
        let mount = mount_id(self.fd()).on(OP, name)?;
        let mut removal = Removal { top: self.clone(), mount, removed: 0, stack: Vec::new() };
        if !removal.unlinked(self, name)? {
            removal.descend(self, name)?;
            removal.run()?;
        }
        Ok(removal.removed)
    }
}

struct Removal {
    /// The directory that holds the tree; it stays.
    top: Dir,
    mount: u64,
    removed: u64,
    stack: Vec<Level>,
}

/// One directory on the way down.
struct Level {
    name: Name,
    dev: u64,
    ino: u64,
    passes: u32,
    /// Closed while too many levels are below it.
    held: Option<(Dir, Listing)>,
}

impl Removal {
    fn run(&mut self) -> Result<()> {
        while let Some(mut level) = self.stack.pop() {
            let Some((dir, mut listing)) = level.held.take() else {
                return Err(Cause::Replaced).on(OP, &level.name);
            };
            let found = self.empty(&dir, &mut listing)?;
            match found {
                Some(name) => {
                    level.held = Some((dir.clone(), listing));
                    self.stack.push(level);
                    self.descend(&dir, &name)?;
                }
                None => self.leave(level, &dir)?,
            }
        }
        Ok(())
    }

    /// Unlinks what the listing yields up to the next directory, whose name is returned.
    fn empty(&mut self, dir: &Dir, listing: &mut Listing) -> Result<Option<Name>> {
        for entry in listing {
            let entry = entry?;
            if entry.kind_hint == Kind::Directory || !self.unlinked(dir, &entry.name)? {
                return Ok(Some(entry.name));
            }
        }
        Ok(None)
    }

    /// Removes a name unless it is a directory; says whether it is gone.
    fn unlinked(&mut self, dir: &Dir, name: &Name) -> Result<bool> {
        match dir.unlink(name) {
            Ok(()) => self.removed += 1,
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                // Linux answers EISDIR, others EPERM; only a look decides.
                return match dir.stat_if_exists(name)? {
                    Some(stat) if stat.kind == Kind::Directory => Ok(false),
                    Some(_other) => Err(error),
                    None => Ok(true),
                };
            }
        }
        Ok(true)
    }

    /// Opens a directory to be emptied; one that vanished or was swapped for something else is done with.
    fn descend(&mut self, parent: &Dir, name: &Name) -> Result<()> {
        let dir = match parent.open_dir(name) {
            Ok(dir) => dir,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.is_symlink() => return self.unlinked(parent, name).map(|_gone| ()),
            Err(error) => return Err(error),
        };
        let stat = dir.stat_self()?;
        let mount = stat.mount_id.map_or_else(|| mount_id(dir.fd()), Ok).on(OP, name)?;
        if mount != self.mount {
            return Err(Cause::Mounted).on(OP, name);
        }
        let dir = make_writable(dir, &stat)?;
        let listing = dir.list()?;
        self.stack.push(Level {
            name: name.clone(),
            dev: stat.dev,
            ino: stat.ino,
            passes: 0,
            held: Some((dir, listing)),
        });
        if let Some(upper) = self.stack.len().checked_sub(LEVELS_HELD_MAX + 1) {
            self.stack[upper].held = None;
        }
        Ok(())
    }

    /// Removes a directory that was emptied; lists it again if something was added meanwhile.
    fn leave(&mut self, mut level: Level, dir: &Dir) -> Result<()> {
        let parent = self.parent_of(dir)?;
        match parent.remove_dir(&level.name) {
            Ok(()) => self.removed += 1,
            Err(error) if error.is_not_found() => {}
            Err(error) if error.is_not_empty() && level.passes < PASSES_MAX => {
                level.passes += 1;
                level.held = Some((dir.clone(), dir.list()?));
                self.stack.push(level);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Returns the directory above, which is on top of the stack; opens it again if it was closed.
    fn parent_of(&mut self, dir: &Dir) -> Result<Dir> {
        let Some(upper) = self.stack.last_mut() else { return Ok(self.top.clone()) };
        if let Some((parent, _listing)) = &upper.held {
            return Ok(parent.clone());
        }
        let (fd, is_readable) = open_directory(dir.fd(), c"..").on(OP, &upper.name)?;
        let parent = Dir::hold(fd, is_readable, dir.kernel());
        if !parent.stat_self()?.is_inode(upper.dev, upper.ino) {
            return Err(Cause::Replaced).on(OP, &upper.name);
        }
        upper.held = Some((parent.clone(), parent.list()?));
        Ok(parent)
    }
}

/// Gives the owner the rights to empty a directory of ours; as root they are there.
fn make_writable(dir: Dir, stat: &Stat) -> Result<Dir, TreeError> {
    if dir.is_readable() && stat.mode & 0o700 == 0o700 {
        return Ok(dir);
    }
    dir.handle().set_mode(0o700).on_self("set mode")?;
    let (fd, is_readable) = open_directory(dir.fd(), c".").on_self("open directory")?;
    Ok(Dir::hold(fd, is_readable, dir.kernel()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::{Level, Removal};
    use crate::kernel::Kernel;
    use crate::scratch::{Mounted, Scratch, as_nobody, is_root, name, on_each_kernel};

    #[test]
    fn removes_everything_and_follows_nothing() {
        on_each_kernel(|scratch| {
            let stage = scratch.path.join("stage");
            for sub in ["a/b/c", "a/d", "e"] {
                std::fs::create_dir_all(stage.join(sub)).unwrap();
                symlink(&scratch.outside, stage.join(sub).join("link")).unwrap();
                symlink("../..", stage.join(sub).join("up")).unwrap();
                std::fs::hard_link(scratch.outside.join("victim"), stage.join(sub).join("hard")).unwrap();
            }
            for index in 0..3000 {
                std::fs::write(stage.join(format!("a/file-{index}")), b"").unwrap();
            }
            scratch.dir.open_beneath(b"stage/e").unwrap().create_fifo(&name("fifo"), 0o600).unwrap();
            assert_eq!(scratch.dir.remove_tree(&name("stage")).unwrap(), 3000 + 3 * 3 + 6 + 1);
            assert_eq!(scratch.dir.remove_tree(&name("stage")).unwrap(), 0);
            assert_eq!(scratch.dir.list().unwrap().count(), 0);
        });
    }

    #[test]
    fn a_link_or_file_is_removed_itself() {
        on_each_kernel(|scratch| {
            symlink(&scratch.outside, scratch.path.join("link")).unwrap();
            assert_eq!(scratch.dir.remove_tree(&name("link")).unwrap(), 1);
        });
    }

    /// The levels that were closed on the way down are found again.
    #[test]
    fn deep_and_bushy() {
        on_each_kernel(|scratch| {
            let mut here = scratch.dir.create_dir(&name("stage"), 0o700).unwrap();
            let open_before = std::fs::read_dir("/proc/self/fd").unwrap().count();
            for _level in 0..300 {
                for sibling in ["a", "z"] {
                    here.create_dir(&name(sibling), 0o700).unwrap().create_file(&name("f"), 0o600).unwrap();
                }
                here = here.create_dir(&name("m"), 0o700).unwrap();
            }
            drop(here);
            assert_eq!(scratch.dir.remove_tree(&name("stage")).unwrap(), 300 * 5 + 1);
            // Other tests run beside this one.
            assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < open_before + 200);
        });
    }

    /// A directory that was moved elsewhere leads up to another one, where nothing may be removed.
    #[test]
    fn a_closed_level_is_found_by_inode_only() {
        on_each_kernel(|scratch| {
            let upper = scratch.dir.create_dir(&name("upper"), 0o700).unwrap();
            let moved = upper.create_dir(&name("moved"), 0o700).unwrap();
            let stat = upper.stat_self().unwrap();
            let level = Level { name: name("upper"), dev: stat.dev, ino: stat.ino, passes: 0, held: None };
            let mut removal = Removal { top: scratch.dir.clone(), mount: 0, removed: 0, stack: vec![level] };
            assert_eq!(removal.parent_of(&moved).unwrap().stat_self().unwrap().ino, stat.ino);
            removal.stack[0].held = None;
            upper.rename_noreplace(&name("moved"), &scratch.dir, &name("moved")).unwrap();
            assert!(removal.parent_of(&moved).unwrap_err().is_replaced());
        });
    }

    #[test]
    fn a_mount_is_not_entered() {
        if !is_root() {
            return;
        }
        for kernel in [Kernel::detect(), Kernel::oldest()] {
            let scratch = Scratch::new(kernel);
            let point = scratch.path.join("stage/a/mnt");
            std::fs::create_dir_all(&point).unwrap();
            {
                // The same file system, so that the device number tells nothing.
                let Some(_mounted) = Mounted::bind(&scratch.outside, &point) else { return };
                assert!(scratch.dir.remove_tree(&name("stage")).unwrap_err().is_mounted());
                scratch.assert_confined();
            }
            assert_eq!(scratch.dir.remove_tree(&name("stage")).unwrap(), 3);
            scratch.assert_confined();
        }
    }

    #[test]
    fn an_unwritable_directory_of_ours_is_no_obstacle() {
        on_each_kernel(|scratch| {
            std::fs::set_permissions(&scratch.path, PermissionsExt::from_mode(0o777)).unwrap();
            as_nobody(|| {
                let stage = scratch.dir.create_dir(&name("stage"), 0o700).unwrap();
                let sub = stage.create_dir(&name("sub"), 0o700).unwrap();
                sub.create_file(&name("f"), 0o600).unwrap();
                sub.handle().set_mode(0).unwrap();
                stage.handle().set_mode(0o500).unwrap();
                assert_eq!(scratch.dir.remove_tree(&name("stage")).unwrap(), 3);
            });
        });
    }
}
