//! Read-only directories of an agent that is not root: its own ones are opened while names are changed in them.

use tree::{Dir, TreeError};

/// Directories that are held open at once; a descriptor is a scarce thing.
const OPENED_MAX: usize = 256;

/// Directories whose mode was changed, with the modes to be given back. What is forgotten is closed, too.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    held: Vec<(Dir, (u32, u32))>,
}

impl Opened {
    /// Has names be changed in a directory, if nothing but its own mode forbids that. The ledger must know its mode.
    pub(crate) fn open(&mut self, dir: &Dir) -> Result<(), TreeError> {
        if let Some(modes) = dir.open_for_writing()? {
            if self.held.len() >= OPENED_MAX {
                self.close()?;
            }
            self.held.push((dir.clone(), modes));
        }
        Ok(())
    }

    /// Gives all of them their modes back.
    pub(crate) fn close(&mut self) -> Result<(), TreeError> {
        self.held.drain(..).rev().try_for_each(|(dir, modes)| dir.close_for_writing(modes))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // The ledger knows how they were, should this fail.
        self.close().ok();
    }
}
