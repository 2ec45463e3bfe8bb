//! What is proven received of one large file.
//!
//! A cursor names the ranges whose bytes were written to the stage and matched their chaining value. It may lag behind
//! the disk and never runs ahead of it: the destination writes first and marks afterwards, so a crash costs the ranges
//! since the last save and nothing else.
//!
//! Merging is commutative, associative and idempotent, so cursors may arrive late or twice; a range that two cursors
//! prove differently is proven by neither. A cursor does not know paths or times; a changed source file gets a new one.
//!
//! It is saved as a log of fixed records behind a head, so that marking a range appends 48 bytes. A torn tail is cut.

use common::digest::Digest;

use crate::range::{self, ChainingValue, RANGE_BYTES};

/// The version of the saved form.
const VERSION: u32 = 1;
const MAGIC: [u8; 4] = *b"dcur";
/// Bytes of the head: magic, version, size, check.
pub const HEAD_BYTES: usize = 24;
/// Bytes of one record: index, value, check.
pub const RECORD_BYTES: usize = 48;
const CHECK_BYTES: usize = 8;

/// The ranges of one file that need not be sent again, with what proves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    size: u64,
    values: Vec<Proof>,
    proven: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Missing,
    Proven(ChainingValue),
    /// Two cursors contradict each other; stays so through every merge.
    Disputed,
}

/// Why a cursor cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// The saved bytes are no cursor, or of a later version.
    #[error("not a saved cursor of this version")]
    Form,
    /// The cursors are of files of different sizes.
    #[error("cursors of files of different sizes")]
    Size,
    /// The file is larger than memory for its ranges allows.
    #[error("a file of this size has too many ranges")]
    TooLarge,
}

/// What a range takes in memory.
const PROOF_BYTES: u64 = 33;
/// Ranges of one file: 66 MiB of memory, and as much again while a second read is compared.
const RANGES_MAX: u64 = 2 * 1024 * 1024;
/// The largest file: 2 TiB.
pub const FILE_BYTES_MAX: u64 = RANGES_MAX * RANGE_BYTES;

/// Returns what a cursor of a file of this size takes in memory.
pub fn memory_bytes(size: u64) -> u64 {
    range::count(size).saturating_mul(PROOF_BYTES)
}

impl Cursor {
    /// Makes a cursor of a file of which nothing is proven.
    ///
    /// # Errors
    /// When the file is too large.
    pub fn new(size: u64) -> Result<Self, CursorError> {
        let count = range::count(size);
        let count =
            usize::try_from(count).ok().filter(|_| count <= RANGES_MAX).ok_or(CursorError::TooLarge)?;
        Ok(Self { size, values: vec![Proof::Missing; count], proven: 0 })
    }

    /// Returns the file's size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Marks a range as proven, replacing what proved it before; says whether the file has such a range.
    pub fn mark(&mut self, index: u64, value: ChainingValue) -> bool {
        let Some(proof) = self.proof_mut(index) else { return false };
        let was_proven = matches!(proof, Proof::Proven(_));
        *proof = Proof::Proven(value);
        self.proven += u64::from(!was_proven);
        true
    }

    /// Takes a range's proof back, as when the source changed there.
    pub fn forget(&mut self, index: u64) {
        let Some(proof) = self.proof_mut(index) else { return };
        let was_proven = matches!(proof, Proof::Proven(_));
        *proof = Proof::Missing;
        self.proven -= u64::from(was_proven);
    }

    /// Returns what proves a range.
    pub fn value(&self, index: u64) -> Option<ChainingValue> {
        match self.values.get(usize::try_from(index).ok()?)? {
            Proof::Proven(value) => Some(*value),
            Proof::Missing | Proof::Disputed => None,
        }
    }

    /// Returns the ranges still missing, in the order in which they should be sent.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        (0..)
            .zip(&self.values)
            .filter(|(_, proof)| !matches!(proof, Proof::Proven(_)))
            .map(|(index, _)| index)
    }

    /// Whether every range is proven.
    pub fn is_complete(&self) -> bool {
        usize::try_from(self.proven).is_ok_and(|proven| proven == self.values.len())
    }

    /// Returns how many bytes are proven.
    pub fn proven_bytes(&self) -> u64 {
        let bytes = |index| range::bounds(self.size, index).map_or(0, |range| range.end - range.start);
        (0..)
            .zip(&self.values)
            .filter(|(_, proof)| matches!(proof, Proof::Proven(_)))
            .map(|(index, _)| bytes(index))
            .sum()
    }

    /// Returns the digest of the file, once every range is proven.
    pub fn digest(&self) -> Option<Digest> {
        let value = |proof: &Proof| match proof {
            Proof::Proven(value) => Some(*value),
            Proof::Missing | Proof::Disputed => None,
        };
        let values: Option<Vec<_>> = self.values.iter().map(value).collect();
        range::root(self.size, &values?)
    }

    /// Adds what another cursor of the same file proves.
    ///
    /// # Errors
    /// When it is of a file of another size.
    pub fn merge(&mut self, other: &Self) -> Result<(), CursorError> {
        if self.size != other.size {
            return Err(CursorError::Size);
        }
        for (mine, theirs) in self.values.iter_mut().zip(&other.values) {
            *mine = match (*mine, *theirs) {
                (Proof::Missing, proof) | (proof, Proof::Missing) => proof,
                (Proof::Proven(a), Proof::Proven(b)) if a == b => Proof::Proven(a),
                (Proof::Proven(_) | Proof::Disputed, Proof::Proven(_) | Proof::Disputed) => Proof::Disputed,
            };
        }
        let count = self.values.iter().filter(|proof| matches!(proof, Proof::Proven(_))).count();
        self.proven = u64::try_from(count).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Returns the head of the saved form.
    pub fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&VERSION.to_le_bytes());
        head[8..16].copy_from_slice(&self.size.to_le_bytes());
        let check = check(&head[..16]);
        head[16..].copy_from_slice(&check);
        head
    }

    /// Returns the saved form of the whole.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.head().to_vec();
        for (index, proof) in (0..).zip(&self.values) {
            if let Proof::Proven(value) = proof {
                bytes.extend_from_slice(&record(index, *value));
            }
        }
        bytes
    }

    /// Reads the saved form: a head and any number of records, of which later ones win; a torn tail is cut.
    ///
    /// # Errors
    /// When the head is not one of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, CursorError> {
        let (head, mut rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(CursorError::Form)?;
        let is_ours =
            head[..4] == MAGIC && head[4..8] == VERSION.to_le_bytes() && head[16..] == check(&head[..16]);
        let size = head[8..16].first_chunk::<8>().filter(|_| is_ours).ok_or(CursorError::Form)?;
        let mut cursor = Self::new(u64::from_le_bytes(*size))?;
        while let Some((record, after)) = rest.split_first_chunk::<RECORD_BYTES>() {
            let Some((index, value)) = read_record(record) else { break };
            if !cursor.mark(index, value) {
                break;
            }
            rest = after;
        }
        Ok(cursor)
    }

    fn proof_mut(&mut self, index: u64) -> Option<&mut Proof> {
        self.values.get_mut(usize::try_from(index).ok()?)
    }
}

/// Returns the record that marks a range, to be appended to the saved form.
pub fn record(index: u64, value: ChainingValue) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&index.to_le_bytes());
    record[8..40].copy_from_slice(&value.0);
    let check = check(&record[..40]);
    record[40..].copy_from_slice(&check);
    record
}

fn read_record(record: &[u8; RECORD_BYTES]) -> Option<(u64, ChainingValue)> {
    let index = u64::from_le_bytes(*record.first_chunk()?);
    let value = ChainingValue(*record[8..40].first_chunk()?);
    (record[40..] == check(&record[..40])).then_some((index, value))
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Cursor, CursorError, HEAD_BYTES, RECORD_BYTES};
    use crate::range::{ChainingValue, RANGE_BYTES, chaining_value, count};

    const SIZE: u64 = 12 * RANGE_BYTES + 5;

    fn cursors() -> impl Strategy<Value = Cursor> {
        proptest::collection::vec((0..count(SIZE), 0_u8..3), 0..20).prop_map(|marks| {
            let mut cursor = Cursor::new(SIZE).unwrap();
            for (index, value) in marks {
                assert!(cursor.mark(index, ChainingValue([value; 32])));
            }
            cursor
        })
    }

    fn merged(a: &Cursor, b: &Cursor) -> Cursor {
        let mut both = a.clone();
        both.merge(b).unwrap();
        both
    }

    proptest! {
        #[test]
        fn merging_obeys_its_laws(a in cursors(), b in cursors(), c in cursors()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &a), a.clone());
            prop_assert!(merged(&a, &b).missing().all(|index| a.value(index) != b.value(index) || a.value(index).is_none()));
        }

        #[test]
        fn a_saved_cursor_comes_back_up_to_its_torn_tail(cursor in cursors(), cut in 0..RECORD_BYTES) {
            let mut bytes = cursor.encode();
            prop_assert_eq!(Cursor::decode(&bytes).unwrap(), cursor.clone());
            if bytes.len() > HEAD_BYTES && cut > 0 {
                bytes.truncate(bytes.len() - cut);
                let torn = Cursor::decode(&bytes).unwrap();
                prop_assert_eq!(merged(&torn, &cursor), cursor.clone());
                prop_assert_eq!(torn.missing().count(), cursor.missing().count() + 1);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_not_believed() {
        let mut cursor = Cursor::new(SIZE).unwrap();
        cursor.mark(3, ChainingValue([9; 32]));
        let mut bytes = cursor.encode();
        bytes[HEAD_BYTES + 20] ^= 1;
        assert_eq!(Cursor::decode(&bytes).unwrap().value(3), None);
        bytes[9] ^= 1;
        assert_eq!(Cursor::decode(&bytes), Err(CursorError::Form));
        assert_eq!(Cursor::new(u64::MAX), Err(CursorError::TooLarge));
    }

    #[test]
    fn a_complete_cursor_gives_the_digest() {
        let content = vec![5; usize::try_from(2 * RANGE_BYTES + 9).unwrap()];
        let mut cursor = Cursor::new(content.len() as u64).unwrap();
        for (index, piece) in (0..).zip(content.chunks(usize::try_from(RANGE_BYTES).unwrap())) {
            assert_eq!(cursor.digest(), None);
            cursor.mark(index, chaining_value(index, piece));
        }
        assert!(cursor.is_complete());
        assert_eq!(cursor.proven_bytes(), content.len() as u64);
        assert_eq!(cursor.digest().unwrap().as_bytes(), blake3::hash(&content).as_bytes());
        cursor.forget(1);
        assert_eq!(cursor.missing().collect::<Vec<_>>(), [1]);
    }
}
