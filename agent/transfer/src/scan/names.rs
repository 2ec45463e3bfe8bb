//! The names of one directory, sorted; on disk when there are very many.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::Path;
use std::vec;

use tree::{Kind, Name, RawEntry};

use crate::spill;

/// Names that are sorted in memory: about ten megabytes for each worker.
const IN_MEMORY_MAX: usize = 100_000;
/// Read from each sorted run at once.
const RUN_BUFFER_BYTES: usize = 32 * 1024;

/// One name, as the directory tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FoundName {
    pub(super) name: Vec<u8>,
    pub(super) ino: u64,
    /// Whether it is a directory, where the directory tells.
    pub(super) is_directory: Option<bool>,
}

/// Sorted names.
#[derive(Debug)]
pub(super) enum SortedNames {
    Memory(vec::IntoIter<FoundName>),
    Spilled { runs: Vec<BufReader<File>>, heads: BinaryHeap<Reverse<(FoundName, usize)>> },
}

/// Takes names in any order.
#[derive(Debug)]
pub(super) struct NameSorter<'a> {
    directory: &'a Path,
    names: Vec<FoundName>,
    runs: Vec<File>,
    in_memory_max: usize,
}

impl From<RawEntry> for FoundName {
    fn from(entry: RawEntry) -> Self {
        let is_directory = match entry.kind_hint {
            Kind::Unknown => None,
            Kind::Directory => Some(true),
            Kind::File
            | Kind::Symlink
            | Kind::Fifo
            | Kind::Socket
            | Kind::CharacterDevice
            | Kind::BlockDevice => Some(false),
        };
        Self { name: entry.name.as_bytes().to_vec(), ino: entry.ino, is_directory }
    }
}

impl FoundName {
    /// Makes a name of which nothing is known.
    pub(super) fn unseen(name: &[u8]) -> Self {
        Self { name: name.to_owned(), ino: 0, is_directory: None }
    }

    /// Returns the name to be given to the kernel.
    pub(super) fn to_name(&self) -> Option<Name> {
        Name::new(self.name.as_slice()).ok()
    }
}

impl<'a> NameSorter<'a> {
    pub(super) fn new(directory: &'a Path) -> Self {
        Self { directory, names: Vec::new(), runs: Vec::new(), in_memory_max: IN_MEMORY_MAX }
    }

    pub(super) fn push(&mut self, name: FoundName) -> io::Result<()> {
        self.names.push(name);
        if self.names.len() >= self.in_memory_max { self.spill() } else { Ok(()) }
    }

    pub(super) fn finish(mut self) -> io::Result<SortedNames> {
        if self.runs.is_empty() {
            self.names.sort_unstable();
            return Ok(SortedNames::Memory(self.names.into_iter()));
        }
        self.spill()?;
        let mut runs = Vec::with_capacity(self.runs.len());
        let mut heads = BinaryHeap::with_capacity(self.runs.len());
        for file in self.runs {
            let mut run = BufReader::with_capacity(RUN_BUFFER_BYTES, file);
            if let Some(first) = read(&mut run)? {
                heads.push(Reverse((first, runs.len())));
            }
            runs.push(run);
        }
        Ok(SortedNames::Spilled { runs, heads })
    }

    fn spill(&mut self) -> io::Result<()> {
        self.names.sort_unstable();
        let mut file = BufWriter::new(spill::temporary(self.directory)?);
        for found in self.names.drain(..) {
            // Inode numbers are below 2^62 everywhere; the two lowest bits of the record say what is known of the kind.
            let kind = match found.is_directory {
                None => 0,
                Some(false) => 1,
                Some(true) => 2,
            };
            spill::write_name(&mut file, &found.name, found.ino.wrapping_shl(2) | kind)?;
        }
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.flush()?;
        file.rewind()?;
        self.runs.push(file);
        Ok(())
    }
}

fn read(run: &mut BufReader<File>) -> io::Result<Option<FoundName>> {
    let found = |(name, number): (Vec<u8>, u64)| {
        let is_directory = match number & 3 {
            0 => None,
            kind => Some(kind == 2),
        };
        FoundName { name, ino: number >> 2, is_directory }
    };
    Ok(spill::read_name(run)?.map(found))
}

impl Iterator for SortedNames {
    type Item = io::Result<FoundName>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Memory(names) => names.next().map(Ok),
            Self::Spilled { runs, heads } => {
                let Reverse((found, run)) = heads.pop()?;
                match read(runs.get_mut(run)?) {
                    Err(error) => return Some(Err(error)),
                    Ok(Some(next)) => heads.push(Reverse((next, run))),
                    Ok(None) => {}
                }
                Some(Ok(found))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_sorted_from_memory_and_from_disk() {
        let directory = tempfile::tempdir().unwrap();
        for in_memory_max in [3, 10, 1_000] {
            let mut sorter = NameSorter::new(directory.path());
            sorter.in_memory_max = in_memory_max;
            for number in 0..100_u64 {
                let name = format!("{}", number * 37 % 100).into_bytes();
                let is_directory = [None, Some(false), Some(true)][usize::try_from(number % 3).unwrap()];
                sorter.push(FoundName { name, ino: number, is_directory }).unwrap();
            }
            let sorted: Vec<FoundName> = sorter.finish().unwrap().map(Result::unwrap).collect();
            assert_eq!(sorted.len(), 100);
            assert!(sorted.windows(2).all(|pair| pair[0].name < pair[1].name));
            let one = sorted.iter().find(|found| found.ino == 5).unwrap();
            assert_eq!((one.name.as_slice(), one.is_directory), (&b"85"[..], Some(true)));
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
