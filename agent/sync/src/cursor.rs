//! What is proven received of one large file: the ranges whose bytes were written to the stage and matched their
//! chaining value.
//!
//! A cursor does not know paths or times; a changed source file gets a new one.

use common::digest::Digest;

use crate::range::{self, ChainingValue, RANGE_BYTES};

/// The ranges of one file that need not be sent again, with what proves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    size: u64,
    values: Vec<Option<ChainingValue>>,
}

/// The file is larger than memory for its ranges allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a file of this size has too many ranges")]
pub struct TooLarge;

/// What a range takes in memory.
const VALUE_BYTES: u64 = 33;
/// Ranges of one file: 66 MiB of memory, and as much again while a second read is compared.
const RANGES_MAX: u64 = 2 * 1024 * 1024;
/// The largest file: 2 TiB.
pub const FILE_BYTES_MAX: u64 = RANGES_MAX * RANGE_BYTES;

/// Returns what a cursor of a file of this size takes in memory.
pub fn memory_bytes(size: u64) -> u64 {
    range::count(size).saturating_mul(VALUE_BYTES)
}

impl Cursor {
    /// Makes a cursor of a file of which nothing is proven.
    ///
    /// # Errors
    /// When the file is too large.
    pub fn new(size: u64) -> Result<Self, TooLarge> {
        let count = range::count(size);
        let count = usize::try_from(count).ok().filter(|_| count <= RANGES_MAX).ok_or(TooLarge)?;
        Ok(Self { size, values: vec![None; count] })
    }

    /// Returns the file's size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Marks a range as proven, replacing what proved it before; says whether the file has such a range.
    pub fn mark(&mut self, index: u64, value: ChainingValue) -> bool {
        self.value_mut(index).is_some_and(|slot| {
            *slot = Some(value);
            true
        })
    }

    /// Takes a range's proof back, as when the source changed there.
    pub fn forget(&mut self, index: u64) {
        if let Some(slot) = self.value_mut(index) {
            *slot = None;
        }
    }

    /// Returns what proves a range.
    pub fn value(&self, index: u64) -> Option<ChainingValue> {
        *self.values.get(usize::try_from(index).ok()?)?
    }

    /// Returns the ranges still missing, in the order in which they should be sent.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        (0..).zip(&self.values).filter(|(_, value)| value.is_none()).map(|(index, _)| index)
    }

    /// Returns how many bytes are proven.
    pub fn proven_bytes(&self) -> u64 {
        let bytes = |index| range::bounds(self.size, index).map_or(0, |range| range.end - range.start);
        (0..).zip(&self.values).filter(|(_, value)| value.is_some()).map(|(index, _)| bytes(index)).sum()
    }

    /// Returns the digest of the file, once every range is proven.
    pub fn digest(&self) -> Option<Digest> {
        let values: Option<Vec<_>> = self.values.iter().copied().collect();
        range::root(self.size, &values?)
    }

    fn value_mut(&mut self, index: u64) -> Option<&mut Option<ChainingValue>> {
        self.values.get_mut(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cursor, FILE_BYTES_MAX, TooLarge};
    use crate::range::{ChainingValue, RANGE_BYTES, chaining_value};

    #[test]
    fn a_complete_cursor_gives_the_digest() {
        let content = vec![5; usize::try_from(2 * RANGE_BYTES + 9).unwrap()];
        let mut cursor = Cursor::new(content.len() as u64).unwrap();
        for (index, piece) in (0..).zip(content.chunks(usize::try_from(RANGE_BYTES).unwrap())) {
            assert_eq!(cursor.digest(), None);
            assert!(cursor.mark(index, chaining_value(index, piece)));
        }
        assert_eq!(cursor.proven_bytes(), content.len() as u64);
        assert_eq!(cursor.digest().unwrap().as_bytes(), blake3::hash(&content).as_bytes());
        cursor.forget(1);
        assert_eq!(cursor.missing().collect::<Vec<_>>(), [1]);
        assert_eq!((cursor.value(1), cursor.digest()), (None, None));
    }

    #[test]
    fn ranges_that_no_file_has_are_not_marked_and_too_large_files_have_none() {
        let mut cursor = Cursor::new(2 * RANGE_BYTES).unwrap();
        assert!(!cursor.mark(2, ChainingValue([9; 32])) && !cursor.mark(u64::MAX, ChainingValue([9; 32])));
        assert_eq!((cursor.proven_bytes(), Cursor::new(FILE_BYTES_MAX + 1)), (0, Err(TooLarge)));
    }
}
