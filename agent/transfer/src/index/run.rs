//! A run file: records sorted by key, written once and never changed.
//!
//! ```text
//! head: version, roots │ block of 16 records │ block │ … │ tail: half of each key, place of each block
//! ```
//!
//! Each part is a frame with a check. The halves of the keys are in memory, so that what is not held is known without
//! reading, and what is held takes one read. The version is 1.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tree::{AppendFile, Dir, Name, TreeError};

use super::record::Record;
use crate::frame_file::{decode, encode};

const VERSION: u32 = 1;
/// Records in a block: about two kibibytes, which are read for each one that is found.
const BLOCK_RECORDS: usize = 16;
/// Written at once.
const WRITE_BYTES: usize = 256 * 1024;
/// The longest part: the tail of the largest run takes 5 MiB, and its head as much if all roots have the longest paths.
const FRAME_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// Roots in one run.
pub(super) const ROOTS_MAX: usize = 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    roots: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Tail {
    /// The upper half of each key, little endian, in order.
    #[serde(with = "sync::byte_string")]
    keys: Vec<u8>,
    /// Where each block begins, and where the last one ends.
    blocks: Vec<u64>,
}

/// A run that can be asked.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: Name,
    pub(super) roots: Vec<Arc<str>>,
    file: AppendFile,
    keys: Vec<u32>,
    blocks: Vec<u64>,
}

/// What is wrong with a run that cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("it is not whole")]
    Torn,
    #[error("it was written by another version of the agent")]
    Version,
    #[error(transparent)]
    Io(#[from] TreeError),
}

/// Returns the half of a key that is in memory.
fn half(key: u64) -> u32 {
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

impl Run {
    /// Opens a run.
    pub(super) fn open(dir: &Dir, name: Name) -> Result<Self, Damage> {
        let file = dir.open_append(&name)?;
        let length = file.length_bytes();
        let word = |offset: u64| -> Result<u32, Damage> {
            let mut word = [0; 4];
            let count = file.read_at(&mut word, offset)?;
            Some(u32::from_le_bytes(word))
                .filter(|payload| count == 4 && *payload <= FRAME_BYTES_MAX)
                .ok_or(Damage::Torn)
        };
        let head: Head = part(&file, 0, frame_bytes(word(0)?))?;
        if head.version != VERSION {
            return Err(Damage::Version);
        }
        let tail_bytes = frame_bytes(word(length.checked_sub(4).ok_or(Damage::Torn)?)?);
        let tail: Tail = part(&file, length.checked_sub(tail_bytes).ok_or(Damage::Torn)?, tail_bytes)?;
        let (keys, _rest) = tail.keys.as_chunks::<4>();
        let keys: Vec<u32> = keys.iter().map(|key| u32::from_le_bytes(*key)).collect();
        // What the check holds for was written so; a block that is not where it should be is found out when it is read.
        if tail.blocks.len() != keys.len().div_ceil(BLOCK_RECORDS) + 1 {
            return Err(Damage::Torn);
        }
        let roots = head.roots.into_iter().map(Arc::from).collect();
        Ok(Self { name, roots, file, keys, blocks: tail.blocks })
    }

    /// Returns how many records there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns how many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len().saturating_sub(1)
    }

    /// Returns the records of a block.
    pub(super) fn block(&self, number: usize) -> Result<Vec<Record>, Damage> {
        let (Some(start), Some(end)) = (self.blocks.get(number), self.blocks.get(number + 1)) else {
            return Err(Damage::Torn);
        };
        let bytes = end.checked_sub(*start).filter(|bytes| *bytes <= frame_bytes(FRAME_BYTES_MAX));
        part(&self.file, *start, bytes.ok_or(Damage::Torn)?)
    }

    /// Returns the records of a key, at most so many.
    pub(super) fn find(&self, key: u64, max: usize) -> Result<Vec<Record>, Damage> {
        let mut found = Vec::new();
        let first = self.keys.partition_point(|half_of| *half_of < half(key));
        if self.keys.get(first) != Some(&half(key)) {
            return Ok(found);
        }
        for number in first / BLOCK_RECORDS..self.blocks() {
            for record in self.block(number)? {
                if record.key > key || found.len() >= max {
                    return Ok(found);
                }
                if record.key == key {
                    found.push(record);
                }
            }
        }
        Ok(found)
    }
}

fn frame_bytes(payload: u32) -> u64 {
    u64::from(payload) + crate::frame_file::OVERHEAD_BYTES as u64
}

fn part<T: serde::de::DeserializeOwned>(file: &AppendFile, start: u64, bytes: u64) -> Result<T, Damage> {
    let mut frame = vec![0; usize::try_from(bytes).or(Err(Damage::Torn))?];
    let count = file.read_at(&mut frame, start)?;
    frame.truncate(count);
    decode(&frame).ok_or(Damage::Torn)
}

/// Writes a run.
#[derive(Debug)]
pub(super) struct RunWriter {
    file: AppendFile,
    gathered: Vec<u8>,
    block: Vec<Record>,
    tail: Tail,
}

impl RunWriter {
    /// Begins a run in a new file.
    pub(super) fn new(file: AppendFile, roots: &[Arc<str>]) -> Result<Self, common::failure::Failure> {
        let head = Head { version: VERSION, roots: roots.iter().map(ToString::to_string).collect() };
        let mut gathered = Vec::new();
        encode(&head, &mut gathered)?;
        Ok(Self { file, gathered, block: Vec::with_capacity(BLOCK_RECORDS), tail: Tail::default() })
    }

    /// Takes the next record, in order.
    pub(super) fn push(&mut self, record: Record) -> Result<(), common::failure::Failure> {
        self.tail.keys.extend_from_slice(&half(record.key).to_le_bytes());
        self.block.push(record);
        if self.block.len() >= BLOCK_RECORDS { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), common::failure::Failure> {
        self.tail.blocks.push(self.file.length_bytes() + self.gathered.len() as u64);
        encode(&self.block, &mut self.gathered)?;
        self.block.clear();
        if self.gathered.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    /// Writes the rest, and the tail.
    pub(super) fn finish(mut self) -> Result<(), common::failure::Failure> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.tail.blocks.push(self.file.length_bytes() + self.gathered.len() as u64);
        encode(&self.tail, &mut self.gathered)?;
        self.write()
    }

    fn write(&mut self) -> Result<(), common::failure::Failure> {
        self.file.append(&self.gathered).map_err(|error| crate::trouble::of_stage(&error))?;
        self.gathered.clear();
        Ok(())
    }
}
