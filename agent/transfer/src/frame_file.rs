//! Frames in files of ours: `length u32 | check u64 | payload | length u32`, all little endian.
//!
//! The check is the beginning of BLAKE3 over length and payload: a torn or damaged frame ends the file. The second
//! length lets a file be read backwards.

use std::marker::PhantomData;

use common::failure::{Failure, FailureKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tree::AppendFile;

use crate::trouble::of_stage;

/// The longest payload: an entry with the largest attributes, twice, and a path.
const PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a frame that are not payload.
pub(crate) const OVERHEAD_BYTES: usize = 4 + 8 + 4;
/// What is read at once: a merge reads dozens of files.
const READ_BYTES: usize = 64 * 1024;
/// What is gathered before it is written.
const WRITE_BYTES: usize = 256 * 1024;

/// Appends a value as a frame.
pub(crate) fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), Failure> {
    let start = out.len();
    out.extend_from_slice(&[0; 12]);
    let payload = postcard::to_allocvec(value)
        .map_err(|error| Failure::new(FailureKind::Bug, format!("failed to write a record: {error}")))?;
    let length = u32::try_from(payload.len()).ok().filter(|_length| payload.len() <= PAYLOAD_BYTES_MAX);
    let Some(length) = length else {
        out.truncate(start);
        return Err(Failure::new(FailureKind::Unsupported, "a record is too large for the ledger"));
    };
    out.extend_from_slice(&payload);
    out.extend_from_slice(&length.to_le_bytes());
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 12].copy_from_slice(&check(length, &payload));
    Ok(())
}

/// Returns the value of one frame; nothing if it is not whole, or holds something else.
pub(crate) fn decode<T: DeserializeOwned>(frame: &[u8]) -> Option<T> {
    let (length, rest) = frame.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (payload, tail) = rest.split_last_chunk::<4>()?;
    let is_whole = length == tail && u32::from_le_bytes(*length) as usize == payload.len();
    if !is_whole || check(u32::from_le_bytes(*length), payload) != *sum {
        return None;
    }
    postcard::from_bytes(payload).ok()
}

fn check(length: u32, payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

/// Writes frames to a spill file of a stage, gathered; nothing is synced.
#[derive(Debug)]
pub(crate) struct FrameWriter<T> {
    file: AppendFile,
    gathered: Vec<u8>,
    of: PhantomData<fn(T)>,
}

impl<T: Serialize> FrameWriter<T> {
    /// Writes at the end of a file.
    pub(crate) fn new(file: AppendFile) -> Self {
        Self { file, gathered: Vec::new(), of: PhantomData }
    }

    /// Writes one value.
    pub(crate) fn write(&mut self, value: &T) -> Result<(), Failure> {
        encode(value, &mut self.gathered)?;
        if self.gathered.len() >= WRITE_BYTES { self.flush().map(drop) } else { Ok(()) }
    }

    /// Whether nothing was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.file.length_bytes() == 0
    }

    /// Returns the file with everything in it.
    pub(crate) fn finish(mut self) -> Result<AppendFile, Failure> {
        self.flush()?;
        Ok(self.file)
    }

    /// Writes what was gathered; returns how long the file is now.
    pub(crate) fn flush(&mut self) -> Result<u64, Failure> {
        self.file.append(&self.gathered).map_err(|error| of_stage(&error))?;
        self.gathered.clear();
        Ok(self.file.length_bytes())
    }
}

/// Reads frames of a file, forwards or backwards.
#[derive(Debug)]
pub(crate) struct FrameReader<T> {
    file: AppendFile,
    /// Where the next frame begins (forwards) or the last one read began (backwards).
    offset: u64,
    buffer: Vec<u8>,
    buffer_offset: u64,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> FrameReader<T> {
    /// Reads forwards from an offset.
    pub(crate) fn forwards(file: AppendFile, offset: u64) -> Self {
        Self { file, offset, buffer: Vec::new(), buffer_offset: 0, of: PhantomData }
    }

    /// Reads backwards from the end.
    pub(crate) fn backwards(file: AppendFile) -> Self {
        let offset = file.length_bytes();
        Self { file, offset, buffer: Vec::new(), buffer_offset: 0, of: PhantomData }
    }

    /// Returns where the next frame begins: after the last whole one.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Notes that somebody else has appended to the file, which has whole frames up to this length now.
    pub(crate) fn grow(&mut self, length_bytes: u64) {
        self.file.grow(length_bytes);
        // It may hold the beginning of a frame that is whole only now.
        self.buffer.clear();
    }

    /// Returns the file.
    pub(crate) fn into_file(self) -> AppendFile {
        self.file
    }

    /// Returns the next value; nothing at the end or at a frame that is not whole.
    pub(crate) fn next(&mut self) -> Result<Option<T>, Failure> {
        self.next_where(|_payload| true)
    }

    /// Returns the next value of those whose payload is wanted. The others are passed over by their length only, which
    /// is for files that were read whole before.
    pub(crate) fn next_where(&mut self, is_wanted: impl Fn(&[u8]) -> bool) -> Result<Option<T>, Failure> {
        let (length, sum, payload_bytes) = loop {
            let Some(head) = self.bytes(self.offset, 12)? else { return Ok(None) };
            let (Some(length), Some(sum)) = (head.first_chunk::<4>(), head[4..].first_chunk::<8>()) else {
                return Ok(None);
            };
            let (length, sum) = (u32::from_le_bytes(*length), *sum);
            let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
            if payload_bytes > PAYLOAD_BYTES_MAX {
                return Ok(None);
            }
            let Some(frame) = self.bytes(self.offset, payload_bytes + OVERHEAD_BYTES)? else {
                return Ok(None);
            };
            if is_wanted(&frame[12..12 + payload_bytes]) {
                break (length, sum, payload_bytes);
            }
            self.offset += (payload_bytes + OVERHEAD_BYTES) as u64;
        };
        let frame_bytes = payload_bytes + OVERHEAD_BYTES;
        let Some(frame) = self.bytes(self.offset, frame_bytes)? else { return Ok(None) };
        let payload = &frame[12..12 + payload_bytes];
        if check(length, payload) != sum {
            return Ok(None);
        }
        let value = postcard::from_bytes(payload).map_err(|error| {
            Failure::new(FailureKind::Unsupported, format!("a record of the stage cannot be read: {error}"))
                .hint("It was written by another version of the agent; use that one.")
        })?;
        self.offset += frame_bytes as u64;
        Ok(Some(value))
    }

    /// Returns the value before the last one; nothing at the start.
    pub(crate) fn previous(&mut self) -> Result<Option<T>, Failure> {
        let Some(tail_offset) = self.offset.checked_sub(4) else { return Ok(None) };
        let Some(tail) = self.bytes_before(tail_offset, 4)? else { return Ok(None) };
        let Some(length) = tail.first_chunk::<4>() else { return Ok(None) };
        let frame_bytes = u64::from(u32::from_le_bytes(*length)) + OVERHEAD_BYTES as u64;
        let Some(start) = self.offset.checked_sub(frame_bytes) else { return Ok(None) };
        let end = self.offset;
        self.preload_before(start, end)?;
        self.offset = start;
        let value = self.next()?;
        self.offset = start;
        Ok(value)
    }

    /// Returns bytes of the file, nothing if it ends before them.
    fn bytes(&mut self, offset: u64, length: usize) -> Result<Option<&[u8]>, Failure> {
        if !self.holds(offset, length) {
            self.load(offset, length.max(READ_BYTES))?;
        }
        Ok(self.held(offset, length))
    }

    /// As [`Self::bytes`], loading what stands before, for reading backwards.
    fn bytes_before(&mut self, offset: u64, length: usize) -> Result<Option<&[u8]>, Failure> {
        self.preload_before(offset, offset + length as u64)?;
        Ok(self.held(offset, length))
    }

    fn preload_before(&mut self, start: u64, end: u64) -> Result<(), Failure> {
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        if self.holds(start, length) {
            return Ok(());
        }
        let from = end.saturating_sub(READ_BYTES as u64).min(start);
        self.load(from, usize::try_from(end - from).unwrap_or(usize::MAX))
    }

    fn holds(&self, offset: u64, length: usize) -> bool {
        offset >= self.buffer_offset
            && offset + length as u64 <= self.buffer_offset + self.buffer.len() as u64
    }

    fn held(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset.checked_sub(self.buffer_offset)?).ok()?;
        self.buffer.get(start..start.checked_add(length)?)
    }

    fn load(&mut self, offset: u64, length: usize) -> Result<(), Failure> {
        let available = self.file.length_bytes().saturating_sub(offset);
        let length = length.min(usize::try_from(available).unwrap_or(usize::MAX));
        self.buffer.resize(length, 0);
        self.buffer_offset = offset;
        let count = self.file.read_at(&mut self.buffer, offset).map_err(|error| of_stage(&error))?;
        self.buffer.truncate(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tree::{Name, Root};

    use super::*;

    #[test]
    fn reads_forwards_backwards_and_up_to_a_torn_end() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Root::open(folder.path()).unwrap().dir();
        let name = Name::new("frames").unwrap();
        let values: Vec<Vec<u8>> =
            (0..3000_u32).map(|number| vec![number.to_le_bytes()[0]; number as usize % 700]).collect();
        let mut writer = FrameWriter::new(dir.create_append(&name).unwrap());
        for value in &values {
            writer.write(value).unwrap();
        }
        let length = writer.finish().unwrap().length_bytes();

        let mut reader = FrameReader::<Vec<u8>>::backwards(dir.open_append(&name).unwrap());
        for value in values.iter().rev() {
            assert_eq!(reader.previous().unwrap().as_ref(), Some(value));
        }
        assert_eq!(reader.previous().unwrap(), None);

        let mut reader = FrameReader::<Vec<u8>>::forwards(dir.open_append(&name).unwrap(), 0);
        for value in &values {
            assert_eq!(reader.next().unwrap().as_ref(), Some(value));
        }
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(reader.offset(), length);

        let mut torn = dir.open_append(&name).unwrap();
        torn.truncate(length - 1).unwrap();
        let mut reader = FrameReader::<Vec<u8>>::forwards(torn, 0);
        let mut count = 0;
        while reader.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, values.len() - 1);
    }
}
