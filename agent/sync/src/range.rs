//! Ranges of large files, each verifiable by itself: BLAKE3 subtrees.
//!
//! A range of [`RANGE_BYTES`] at a multiple of that is a whole subtree of the file's BLAKE3 tree, whatever the file's
//! size; its chaining value can be computed and checked without the rest, and the values of all ranges give the
//! digest of the file.

use std::fmt;
use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use common::digest::Digest;
use serde::{Deserialize, Serialize};

/// Bytes in a range; a power of two of BLAKE3's chunks. Files up to this size travel whole.
pub const RANGE_BYTES: u64 = 1024 * 1024;

/// The BLAKE3 chaining value of a range at its place in a file larger than one range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChainingValue(pub [u8; 32]);

impl fmt::Debug for ChainingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainingValue({})", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// Returns how many ranges a file of this size has; one of at most [`RANGE_BYTES`] has none, for it travels whole.
pub fn count(size: u64) -> u64 {
    if size <= RANGE_BYTES { 0 } else { size.div_ceil(RANGE_BYTES) }
}

/// Returns the bytes of a range; nothing when the file has no such range.
pub fn bounds(size: u64, index: u64) -> Option<Range<u64>> {
    if index >= count(size) {
        return None;
    }
    let start = index.checked_mul(RANGE_BYTES)?;
    Some(start..size.min(start.saturating_add(RANGE_BYTES)))
}

/// Returns the chaining value of the range with this index, whose bytes these are.
///
/// Empty bytes, or more than a range has, are of no range; their value equals that of nothing.
pub fn chaining_value(index: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = RangeHasher::new(index);
    hasher.update(bytes);
    hasher.finish()
}

/// Computes a chaining value piece by piece.
#[derive(Debug)]
pub struct RangeHasher {
    hasher: blake3::Hasher,
    room: usize,
    is_empty: bool,
}

impl RangeHasher {
    /// Begins the range with this index; one beyond what a file can have is of no range.
    pub fn new(index: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(index.wrapping_mul(RANGE_BYTES));
        Self { hasher, room: RANGE_USIZE, is_empty: true }
    }

    /// Adds bytes; those beyond the range's end are left out, so that a wrong length shows as a wrong value.
    pub fn update(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.room)];
        self.room -= bytes.len();
        self.is_empty &= bytes.is_empty();
        self.hasher.update(bytes);
    }

    /// Adds zeros, as a hole reads.
    pub fn update_zeros(&mut self, mut count: usize) {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        while count > 0 {
            let piece = count.min(ZEROS.len());
            self.update(&ZEROS[..piece]);
            count -= piece;
        }
    }

    /// Returns the value.
    pub fn finish(self) -> ChainingValue {
        if self.is_empty { ChainingValue([0; 32]) } else { ChainingValue(self.hasher.finalize_non_root()) }
    }
}

const RANGE_USIZE: usize = 1024 * 1024;

/// Returns the digest of a file from the values of all its ranges; nothing when their number is not that of the size.
pub fn root(size: u64, values: &[ChainingValue]) -> Option<Digest> {
    if values.len() < 2 || u64::try_from(values.len()).ok()? != count(size) {
        return None;
    }
    let (left, right) = halves(size, values)?;
    let hash = merge_subtrees_root(&subtree(left.0, left.1)?, &subtree(right.0, right.1)?, Mode::Hash);
    Some(Digest::from(hash))
}

type Part<'a> = (u64, &'a [ChainingValue]);

fn halves(size: u64, values: &[ChainingValue]) -> Option<(Part<'_>, Part<'_>)> {
    let left_bytes = left_subtree_len(size);
    let (left, right) = values.split_at_checked(usize::try_from(left_bytes / RANGE_BYTES).ok()?)?;
    Some(((left_bytes, left), (size - left_bytes, right)))
}

fn subtree(size: u64, values: &[ChainingValue]) -> Option<[u8; 32]> {
    if let [value] = values {
        return Some(value.0);
    }
    let (left, right) = halves(size, values)?;
    Some(merge_subtrees_non_root(&subtree(left.0, left.1)?, &subtree(right.0, right.1)?, Mode::Hash))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ChainingValue, RANGE_BYTES, bounds, chaining_value, count, root};

    fn values(content: &[u8]) -> Vec<ChainingValue> {
        let size = content.len() as u64;
        let piece = |index| {
            let range = bounds(size, index).unwrap();
            chaining_value(
                index,
                &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()],
            )
        };
        (0..count(size)).map(piece).collect()
    }

    fn content(size: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn ranges_give_the_digest_of_the_whole(size in RANGE_BYTES + 1..9 * RANGE_BYTES, seed: u8) {
            let content = content(usize::try_from(size).unwrap(), seed);
            let expected = blake3::hash(&content);
            prop_assert_eq!(*root(size, &values(&content)).unwrap().as_bytes(), *expected.as_bytes());
        }
    }

    #[test]
    fn edges() {
        for size in
            [RANGE_BYTES + 1, 2 * RANGE_BYTES - 1, 2 * RANGE_BYTES, 2 * RANGE_BYTES + 1, 4 * RANGE_BYTES]
        {
            let content = content(usize::try_from(size).unwrap(), 7);
            assert_eq!(root(size, &values(&content)).unwrap().as_bytes(), blake3::hash(&content).as_bytes());
        }
        assert_eq!((count(0), count(RANGE_BYTES), count(RANGE_BYTES + 1)), (0, 0, 2));
        assert_eq!(bounds(RANGE_BYTES + 1, 1), Some(RANGE_BYTES..RANGE_BYTES + 1));
        assert_eq!(bounds(RANGE_BYTES + 1, 2), None);
        assert_eq!(root(RANGE_BYTES, &[ChainingValue([0; 32])]), None);
        assert_eq!(root(3 * RANGE_BYTES, &[ChainingValue([0; 32]); 2]), None);
        assert_eq!(bounds(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn a_flipped_byte_or_another_place_shows() {
        let mut content = content(1024 * 1024, 1);
        let value = chaining_value(1, &content);
        assert_ne!(value, chaining_value(2, &content));
        content[77] ^= 1;
        assert_ne!(value, chaining_value(1, &content));
        assert_eq!(chaining_value(0, &[]), ChainingValue([0; 32]));
    }
}
