//! The sub-directories of a very wide directory: they wait in a file and come to memory by the hundred.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::Path;

use common::rel_path::RelPath;

use crate::scan::{State, Waiting};
use crate::spill;

/// Sub-directories of one directory that wait in memory: about half a megabyte.
pub(super) const IN_MEMORY_MAX: usize = 4096;
/// How many come to memory at once.
pub(super) const FED_AT_ONCE: usize = 128;

/// Sub-directories of one parent, in order, of which the first is known.
#[derive(Debug)]
pub(super) struct Feeder {
    parent: RelPath,
    next: RelPath,
    rest: BufReader<File>,
}

/// Gathers them.
#[derive(Debug)]
pub(super) struct FeederBuilder {
    first: Vec<u8>,
    file: BufWriter<File>,
}

impl FeederBuilder {
    pub(super) fn new(directory: &Path, first: &[u8]) -> io::Result<Self> {
        Ok(Self { first: first.to_vec(), file: BufWriter::new(spill::temporary(directory)?) })
    }

    pub(super) fn push(&mut self, name: &[u8]) -> io::Result<()> {
        spill::write_name(&mut self.file, name, 0)
    }

    pub(super) fn finish(self, parent: &RelPath) -> io::Result<Feeder> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.flush()?;
        file.rewind()?;
        let next = parent.join(&self.first).map_err(io::Error::other)?;
        Ok(Feeder { parent: parent.clone(), next, rest: BufReader::new(file) })
    }
}

impl Feeder {
    /// Returns the directory that it stands for.
    pub(super) fn first(&self) -> RelPath {
        self.next.clone()
    }

    /// Lets the next ones wait in memory, and itself before those that follow.
    pub(super) fn feed(mut self: Box<Self>, state: &mut State) -> io::Result<()> {
        for _ in 0..FED_AT_ONCE {
            let after = spill::read_name(&mut self.rest)?;
            let next =
                after.map(|(name, _)| self.parent.join(&name)).transpose().map_err(io::Error::other)?;
            let Some(next) = next else {
                state.waiting.insert(self.next, Waiting::Directory);
                return Ok(());
            };
            state.waiting.insert(std::mem::replace(&mut self.next, next), Waiting::Directory);
        }
        state.waiting.insert(self.next.clone(), Waiting::Feeder(self));
        Ok(())
    }
}
