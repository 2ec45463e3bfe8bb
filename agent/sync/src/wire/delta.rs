//! A range of a large file for a destination that holds something like it: what differs, and not the whole.
//!
//! The destination says with its wish what it has, in one of two forms, and the source answers with the bytes that are
//! not there. Whatever comes, the range is proven by its chaining value; where it is not what it should be, the
//! destination asks for it plainly. So XXH3 and MD4 do no harm, whoever makes them collide.
//!
//! 1. [`Basis::Blocks`]: a hash for each block at the same place. Costs least on both sides, and finds pages that were
//!    rewritten in databases and images.
//! 2. [`Basis::Rolling`]: librsync's signature of a window, for content that has moved.
//!
//! A range of which much is not found by the first form may have moved, and is answered with [`Unlike`] and no content: a few bytes
//! of it, by which the destination may find where in its file they stand.

use serde::{Deserialize, Serialize};

use crate::pack::PACK_BYTES_MAX;
use crate::range::{ChainingValue, RANGE_BYTES};
use crate::stamp::Stamp;
use crate::wire::content::{Coding, Layout, is_stored};

/// Bytes in a block that is compared at its place.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of a block's hash: XXH3 of 64 bits, little endian.
pub const HASH_BYTES: usize = 8;
/// Blocks in a range.
pub const BLOCKS_MAX: usize = 256;
/// Bytes in a block of a signature.
pub const ROLLING_BLOCK_BYTES: usize = 2048;
/// Bytes of the strong hash in a signature: fewer would find what is not there.
pub const ROLLING_HASH_BYTES: usize = 8;
/// Bytes of a block in a signature: the weak hash and the strong one.
pub const ROLLING_ENTRY_BYTES: usize = 4 + ROLLING_HASH_BYTES;
/// The most that a signature is made of: a range with half of one before and behind it.
pub const WINDOW_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Samples of a range.
pub const SAMPLES_MAX: usize = 4;
/// Bytes of one sample.
pub const SAMPLE_BYTES: usize = 32;

/// What a destination has in the place of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Basis {
    /// The hashes of the blocks at the same places, from the range's start on; fewer where its file ends before.
    Blocks(#[serde(with = "crate::byte_string")] Vec<u8>),
    /// The blocks of a signature of a window, without its head.
    Rolling(#[serde(with = "crate::byte_string")] Vec<u8>),
}

impl Basis {
    /// Returns how many bytes it takes on the wire.
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Self::Blocks(bytes) | Self::Rolling(bytes) => bytes.len(),
        }
    }

    pub(super) fn is_within_bounds(&self) -> bool {
        match self {
            Self::Blocks(hashes) => {
                !hashes.is_empty()
                    && hashes.len().is_multiple_of(HASH_BYTES)
                    && hashes.len() / HASH_BYTES <= BLOCKS_MAX
            }
            Self::Rolling(entries) => {
                !entries.is_empty()
                    && entries.len().is_multiple_of(ROLLING_ENTRY_BYTES)
                    && entries.len() / ROLLING_ENTRY_BYTES <= WINDOW_BYTES_MAX / ROLLING_BLOCK_BYTES
            }
        }
    }
}

/// A range without what the destination has; raw bytes follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaReply {
    /// The wish.
    pub id: u64,
    /// The range's index.
    pub index: u64,
    /// The file as it was after the read.
    pub stamp: Stamp,
    /// The range's length, holes included.
    pub length: u32,
    /// Where in it data is; the rest is holes, which read as zeros.
    pub layout: Layout,
    /// Its BLAKE3 chaining value at its offset.
    pub value: ChainingValue,
    /// What the content is.
    pub form: Form,
    /// How the bytes are stored.
    pub coding: Coding,
    /// Bytes that follow.
    pub stored_bytes: usize,
    /// Bytes once decoded.
    pub content_bytes: usize,
}

/// In which form a range comes: that of the basis that it was asked with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// One bit for each block of the range, lowest first: set where it is as the hash says. The content is the other
    /// blocks, one after the other.
    Blocks(#[serde(with = "crate::byte_string")] Vec<u8>),
    /// The content is librsync's delta against the window.
    Rolling,
}

impl DeltaReply {
    pub(super) fn is_within_bounds(&self) -> bool {
        let length = self.length as usize;
        let is_content_right = match &self.form {
            Form::Blocks(same) => missing_bytes(same, length) == Some(self.content_bytes),
            Form::Rolling => self.content_bytes < length,
        };
        (1..=RANGE_BYTES).contains(&u64::from(self.length))
            && self.stamp.is_possible()
            && self.layout.data_bytes(u64::from(self.length)).is_some()
            && is_content_right
            && self.content_bytes <= PACK_BYTES_MAX
            && is_stored(self.coding, self.stored_bytes, self.content_bytes)
    }
}

/// Whether the bit of a block is set.
pub fn is_same(same: &[u8], block: usize) -> bool {
    same.get(block / 8).is_some_and(|bits| bits >> (block % 8) & 1 == 1)
}

/// Returns how many bytes of a range of this length are in blocks whose bits are not set; nothing when there are not
/// as many bits as blocks.
pub fn missing_bytes(same: &[u8], length: usize) -> Option<usize> {
    let blocks = length.div_ceil(BLOCK_BYTES);
    let has_none_beyond = (blocks..same.len().saturating_mul(8)).all(|block| !is_same(same, block));
    if same.len() != blocks.div_ceil(8) || !has_none_beyond {
        return None;
    }
    let bytes_of = |block: usize| BLOCK_BYTES.min(length - block * BLOCK_BYTES);
    Some((0..blocks).filter(|block| !is_same(same, *block)).map(bytes_of).sum())
}

/// A range of which the destination has too little at the same places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlike {
    /// The wish.
    pub id: u64,
    /// Some bytes of it, in the order of their places; none where all of it is too uniform to be found again.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, SAMPLES_MAX>")]
    pub samples: Vec<Sample>,
}

impl Unlike {
    pub(super) fn is_within_bounds(&self) -> bool {
        self.samples.len() <= SAMPLES_MAX
            && self.samples.iter().all(|sample| u64::from(sample.offset) < RANGE_BYTES)
    }
}

/// A few bytes of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Where in the range they stand.
    pub offset: u32,
    /// They.
    pub bytes: [u8; SAMPLE_BYTES],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_blocks_must_agree() {
        let length = 9 * BLOCK_BYTES + 100;
        assert_eq!(missing_bytes(&[0, 0], length), Some(length));
        assert_eq!(missing_bytes(&[0xff, 3], length), Some(0));
        assert_eq!(missing_bytes(&[0xff, 1], length), Some(100));
        assert_eq!(missing_bytes(&[0xff, 2], length), Some(BLOCK_BYTES));
        assert_eq!(missing_bytes(&[0xff, 4], length), None);
        assert_eq!(missing_bytes(&[0xff], length), None);
        assert_eq!(missing_bytes(&[0xff, 3, 0], length), None);
        assert_eq!(missing_bytes(&[], 0), Some(0));
    }

    #[test]
    fn a_basis_is_whole_entries_of_one_window() {
        let is_right = |basis: Basis| basis.is_within_bounds();
        assert!(is_right(Basis::Blocks(vec![0; HASH_BYTES * BLOCKS_MAX])));
        assert!(!is_right(Basis::Blocks(vec![0; HASH_BYTES * (BLOCKS_MAX + 1)])));
        assert!(!is_right(Basis::Blocks(vec![0; HASH_BYTES + 1])));
        assert!(!is_right(Basis::Blocks(Vec::new())));
        let entries = WINDOW_BYTES_MAX / ROLLING_BLOCK_BYTES;
        assert!(is_right(Basis::Rolling(vec![0; ROLLING_ENTRY_BYTES * entries])));
        assert!(!is_right(Basis::Rolling(vec![0; ROLLING_ENTRY_BYTES * (entries + 1)])));
        assert!(!is_right(Basis::Rolling(vec![0; 5])));
        assert!(!is_right(Basis::Rolling(Vec::new())));
    }

    #[test]
    fn a_reply_is_bounded_by_its_range() {
        let reply = |form: Form, length: u32, content_bytes: usize| DeltaReply {
            id: 1,
            index: 0,
            stamp: Stamp {
                ino: 1,
                size: 1,
                mtime: crate::stamp::Time::default(),
                ctime: crate::stamp::Time::default(),
            },
            length,
            layout: Layout::Dense,
            value: ChainingValue([0; 32]),
            form,
            coding: Coding::Plain,
            stored_bytes: content_bytes,
            content_bytes,
        };
        assert!(reply(Form::Blocks(vec![1]), 8192, 4096).is_within_bounds());
        assert!(!reply(Form::Blocks(vec![1]), 8192, 4095).is_within_bounds());
        assert!(!reply(Form::Blocks(vec![4]), 8192, 8192).is_within_bounds());
        assert!(reply(Form::Rolling, 8192, 8191).is_within_bounds());
        assert!(!reply(Form::Rolling, 8192, 8192).is_within_bounds());
        assert!(!reply(Form::Rolling, 0, 0).is_within_bounds());
        assert!(!reply(Form::Rolling, u32::MAX, 1).is_within_bounds());
        let bomb = DeltaReply { coding: Coding::Zstd, stored_bytes: 9, ..reply(Form::Rolling, 8192, 9) };
        assert!(!bomb.is_within_bounds());
    }
}
