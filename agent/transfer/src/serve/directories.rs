//! Directories that are held for the files asked for next.

use std::sync::Arc;

use common::rel_path::RelPath;
use tree::{Dir, Name, ReadFile, TreeError};

use crate::follow::Follow;

/// Files come in the order of the walk, so few are enough; each holds a descriptor.
const HELD_MAX: usize = 8;

/// Recently used directories of one thread.
#[derive(Debug)]
pub(super) struct Directories {
    root: Dir,
    follow: Option<Arc<Follow>>,
    /// The most recently used one last.
    held: Vec<(Vec<u8>, Dir)>,
}

/// Why a path leads to no file.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// It is gone, or something else stands in its place.
    Vanished,
    /// It cannot be read.
    Unreadable(TreeError),
}

impl From<TreeError> for NotOpened {
    fn from(error: TreeError) -> Self {
        let is_gone = error.is_not_found() || error.is_wrong_kind() || error.is_symlink();
        if is_gone { Self::Vanished } else { Self::Unreadable(error) }
    }
}

impl Directories {
    pub(super) fn new(root: Dir, follow: Option<Arc<Follow>>) -> Self {
        Self { root, follow, held: Vec::new() }
    }

    /// Opens a regular file below the root, through no link unless links are followed.
    pub(super) fn open(&mut self, path: &RelPath) -> Result<ReadFile, NotOpened> {
        let opened = self.open_itself(path);
        match (&self.follow, &opened) {
            (Some(follow), Err(NotOpened::Vanished)) => {
                let reached = follow.reach(&self.root, path).map_err(|_unfollowed| NotOpened::Vanished)?;
                Ok(reached.parent.open_file(&reached.name)?)
            }
            _ => opened,
        }
    }

    fn open_itself(&mut self, path: &RelPath) -> Result<ReadFile, NotOpened> {
        let bytes = path.as_bytes();
        let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
            None => (&bytes[..0], bytes),
        };
        // The root has no name, and a name longer than any file system takes is nowhere.
        let name = Name::new(name).map_err(|_error| NotOpened::Vanished)?;
        if let Some(held) = self.held.iter().position(|(path, _)| path == parent) {
            let (path, dir) = self.held.remove(held);
            if let Ok(file) = dir.open_file(&name) {
                self.held.push((path, dir));
                return Ok(file);
            }
            // The directory that is held may no longer be the one at this path: look again.
        }
        let dir = self.root.open_beneath(parent)?;
        let file = dir.open_file(&name);
        if self.held.len() >= HELD_MAX {
            self.held.remove(0);
        }
        self.held.push((parent.to_vec(), dir));
        Ok(file?)
    }
}
