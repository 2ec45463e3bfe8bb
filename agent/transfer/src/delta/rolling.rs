//! Content that has moved: librsync's signature and delta, of windows.
//!
//! The crate gives up a weak hash that was found 1 024 times in vain, so a file of many equal blocks costs no more than
//! another one. A hostile destination can make one range cost the MD4 of 2 KiB for each of its bytes, some seconds of
//! one thread; the digest of a large file, for which it may ask as well, costs more.

use std::io::{self, Write};

use fast_rsync::{Signature, SignatureOptions};
use sync::wire::delta::{ROLLING_BLOCK_BYTES, ROLLING_HASH_BYTES};

/// Before the entries of a signature: its kind, and the bytes of a block and of a hash. Both sides know it, so that no
/// peer can say otherwise.
const HEAD_BYTES: usize = 12;
/// A delta must be smaller than this part of its range, or the range is sent: it comes with fewer steps.
const WORTH_PERCENT: usize = 90;

/// Returns the entries of the signature of a window.
pub(crate) fn signature(window: &[u8]) -> Vec<u8> {
    let mut signature = Signature::calculate(window, options()).into_serialized();
    signature.split_off(HEAD_BYTES)
}

fn options() -> SignatureOptions {
    let of = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    SignatureOptions { block_size: of(ROLLING_BLOCK_BYTES), crypto_hash_size: of(ROLLING_HASH_BYTES) }
}

/// Appends the delta of a range against a window with these entries; nothing when it is not worth it, or when they are
/// no entries.
pub(crate) fn diff(entries: &[u8], range: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut serialized = Signature::calculate(&[], options()).into_serialized();
    serialized.extend_from_slice(entries);
    let signature = Signature::deserialize(serialized).ok()?;
    let room = range.len() * WORTH_PERCENT / 100;
    fast_rsync::diff(&signature.index(), range, Limited { out, room }).ok()
}

/// Appends the range that a delta makes of a window; nothing when it makes none of this length.
pub(crate) fn apply(window: &[u8], delta: &[u8], length: usize, out: &mut Vec<u8>) -> Option<()> {
    let before = out.len();
    fast_rsync::apply_limited(window, delta, out, length).ok()?;
    (out.len() - before == length).then_some(())
}

/// Ends what takes more room than there is.
struct Limited<'a> {
    out: &'a mut Vec<u8>,
    room: usize,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self.room.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sync::wire::delta::ROLLING_ENTRY_BYTES;

    use super::*;

    fn noise(size: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_has_moved_is_found_and_what_has_not_been_there_is_not() {
        let old = noise(100_000, 1);
        let entries = signature(&old);
        assert_eq!(entries.len(), old.len().div_ceil(ROLLING_BLOCK_BYTES) * ROLLING_ENTRY_BYTES);
        let mut new = noise(333, 2);
        new.extend_from_slice(&old[..50_000]);
        new.extend_from_slice(b"in between");
        new.extend_from_slice(&old[70_001..]);
        let mut delta = Vec::new();
        diff(&entries, &new, &mut delta).unwrap();
        assert!(delta.len() < 8_000, "{}", delta.len());
        let mut made = b"before".to_vec();
        apply(&old, &delta, new.len(), &mut made).unwrap();
        assert_eq!(made[6..], new);
        assert_eq!(apply(&old, &delta, new.len() - 1, &mut Vec::new()), None);
        assert_eq!(apply(&old, &delta, new.len() + 1, &mut Vec::new()), None);
        assert_eq!(apply(&old[..9_000], &delta, new.len(), &mut Vec::new()), None);
        assert_eq!(diff(&entries, &noise(100_000, 3), &mut Vec::new()), None);
        assert_eq!(diff(&entries[1..], &new, &mut Vec::new()), None);
    }

    #[test]
    fn many_equal_blocks_end_soon() {
        // Each place has the weak hash of a block, and the strong one of none.
        let mut entries = signature(&vec![0; 64 * ROLLING_BLOCK_BYTES]);
        for entry in entries.chunks_mut(ROLLING_ENTRY_BYTES) {
            entry[4] ^= 1;
        }
        assert_eq!(diff(&entries, &vec![0; 1 << 20], &mut Vec::new()), None);
    }

    proptest! {
        #[test]
        fn any_two_contents_and_any_delta(
            old in proptest::collection::vec(0_u8..2, 0..9_000),
            new in proptest::collection::vec(0_u8..2, 1..9_000),
            hostile in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut delta = Vec::new();
            if diff(&signature(&old), &new, &mut delta).is_some() {
                let mut made = Vec::new();
                apply(&old, &delta, new.len(), &mut made).unwrap();
                prop_assert_eq!(&made, &new);
            }
            let mut out = Vec::new();
            let framed = [&0x7273_0236_u32.to_be_bytes()[..], &hostile].concat();
            for delta in [&hostile, &framed] {
                apply(&old, delta, new.len(), &mut out);
                prop_assert!(out.len() <= 2 * new.len());
            }
            diff(&hostile, &new, &mut Vec::new());
        }
    }
}
