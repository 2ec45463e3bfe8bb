//! Comparing blocks at the same places.

use sync::wire::delta::{BLOCK_BYTES, HASH_BYTES, is_same, missing_bytes};

/// So many blocks in a row that are not the same may have moved: 128 KiB.
const MOVED_RUN: usize = 32;

/// Returns the hashes of the blocks of what stands in the place of a range; `length` is that of the range. A block that
/// `old` does not hold in whole has none, nor has any after it.
pub(crate) fn hashes(old: &[u8], length: usize) -> Vec<u8> {
    let whole = |block: &&[u8]| block.len() == BLOCK_BYTES || old.len() >= length;
    let held = &old[..old.len().min(length)];
    held.chunks(BLOCK_BYTES).take_while(whole).flat_map(hash).collect()
}

fn hash(block: &[u8]) -> [u8; HASH_BYTES] {
    twox_hash::XxHash3_64::oneshot(block).to_le_bytes()
}

/// Compares a range with hashes: returns a bit for each block, set where it is the same; and whether content seems to
/// have moved: fewer than half of the blocks that have a hash are the same, or many in a row are not.
pub(crate) fn compare(range: &[u8], hashes: &[u8]) -> (Vec<u8>, bool) {
    let mut same = vec![0; range.len().div_ceil(BLOCK_BYTES).div_ceil(8)];
    let (mut compared, mut count, mut run, mut longest_run) = (0, 0, 0, 0);
    for (number, (block, wanted)) in range.chunks(BLOCK_BYTES).zip(hashes.chunks(HASH_BYTES)).enumerate() {
        compared += 1;
        if hash(block) == wanted {
            same[number / 8] |= 1 << (number % 8);
            (count, run) = (count + 1, 0);
        } else {
            run += 1;
            longest_run = longest_run.max(run);
        }
    }
    (same, count * 2 < compared || longest_run >= MOVED_RUN)
}

/// Appends the blocks of a range that are not the same.
pub(crate) fn missing(range: &[u8], same: &[u8], out: &mut Vec<u8>) {
    for (number, block) in range.chunks(BLOCK_BYTES).enumerate() {
        if !is_same(same, number) {
            out.extend_from_slice(block);
        }
    }
}

/// Puts a range together: `range` holds what stood in its place, and gets the blocks that are missing. Nothing when
/// the bytes are not those that are missing.
pub(crate) fn fill(range: &mut [u8], same: &[u8], mut missing: &[u8]) -> Option<()> {
    if missing_bytes(same, range.len()) != Some(missing.len()) {
        return None;
    }
    for (number, block) in range.chunks_mut(BLOCK_BYTES).enumerate() {
        if !is_same(same, number) {
            let (bytes, rest) = missing.split_at_checked(block.len())?;
            block.copy_from_slice(bytes);
            missing = rest;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_changed_is_missing() {
        let old: Vec<u8> = (0..BLOCK_BYTES * 9 + 70).map(|at| u8::try_from(at / 97 % 251).unwrap()).collect();
        let mut new = old.clone();
        (new[5], new[BLOCK_BYTES * 4]) = (255, 255);
        let (same, has_moved) = compare(&new, &hashes(&old, new.len()));
        assert!(!has_moved);
        let mut sent = Vec::new();
        missing(&new, &same, &mut sent);
        assert_eq!(sent.len(), BLOCK_BYTES * 2);
        let mut range = old.clone();
        fill(&mut range, &same, &sent).unwrap();
        assert_eq!(range, new);
        assert_eq!(fill(&mut range, &same, &sent[1..]), None);

        // It ends within the range: its last block is another one.
        let cut = &old[..BLOCK_BYTES * 3 + 9];
        assert_eq!(hashes(cut, new.len()).len(), 3 * HASH_BYTES);
        assert_eq!(hashes(cut, cut.len()).len(), 4 * HASH_BYTES);
        assert_eq!(hashes(&old, BLOCK_BYTES + 1).len(), 2 * HASH_BYTES);
    }

    #[test]
    fn half_of_it_or_a_long_run_has_moved() {
        let old: Vec<u8> = (0..BLOCK_BYTES * 100).map(|at| u8::try_from(at / 97 % 251).unwrap()).collect();
        let has_moved = |changed: &[usize]| {
            let mut new = old.clone();
            changed.iter().for_each(|block| new[block * BLOCK_BYTES] ^= 1);
            compare(&new, &hashes(&old, new.len())).1
        };
        assert!(!has_moved(&[]));
        assert!(!has_moved(&(0..50).map(|number| number * 2).collect::<Vec<_>>()));
        assert!(has_moved(&(0..51).map(|number| number * 100 / 51).collect::<Vec<_>>()));
        assert!(!has_moved(&(69..100).collect::<Vec<_>>()));
        assert!(has_moved(&(68..100).collect::<Vec<_>>()));
        // Behind the old one's end there is nothing that could have moved.
        let (_same, has_moved) = compare(&old, &hashes(&old[..BLOCK_BYTES * 10], old.len()));
        assert!(!has_moved);
    }

    proptest! {
        #[test]
        fn any_two_contents_and_any_answer(
            old in proptest::collection::vec(0_u8..3, 0..20_000),
            new in proptest::collection::vec(0_u8..3, 1..20_000),
            same in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            let (bits, _has_moved) = compare(&new, &hashes(&old, new.len()));
            let mut sent = Vec::new();
            missing(&new, &bits, &mut sent);
            let mut range = old.clone();
            range.resize(new.len(), 0);
            fill(&mut range, &bits, &sent).unwrap();
            prop_assert_eq!(&range, &new);
            // A hostile one neither panics nor writes elsewhere.
            fill(&mut range, &same, &sent);
        }
    }
}
