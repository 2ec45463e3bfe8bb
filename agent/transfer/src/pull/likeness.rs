//! An old body for a large file that has none at its path: it was renamed or moved, or is a later one of several, as
//! dumps are.
//!
//! Which file may be like it is a guess by names and sizes, and costs little where it is wrong: nothing of it is
//! believed, and it is given up when it does not pay.

use common::rel_path::RelPath;
use sync::entry::Entry;
use sync::range::RANGE_BYTES;

/// Files that are remembered of a tree.
const KNOWN_MAX: usize = 1024;
/// The longest path of them.
const PATH_BYTES_MAX: usize = 1024;
/// What a candidate must score, of a hundred for its name.
const SCORE_MIN: usize = 100;
const SAME_DIRECTORY: usize = 50;
/// The source has nothing there.
const EXTRA: usize = 25;
const SAME_SIZE: usize = 25;

/// The large files of the destination, as they are met.
#[derive(Debug, Default)]
pub(super) struct Likenesses {
    known: Vec<Candidate>,
    is_complete: bool,
}

#[derive(Debug)]
struct Candidate {
    path: RelPath,
    size: u64,
    is_extra: bool,
}

impl Likenesses {
    /// Remembers a file of the destination.
    pub(super) fn see(&mut self, path: &RelPath, entry: &Entry, is_extra: bool) {
        let is_useful = entry.kind.is_file() && entry.size() > RANGE_BYTES;
        if is_useful && path.as_bytes().len() <= PATH_BYTES_MAX && self.known.len() < KNOWN_MAX {
            self.known.push(Candidate { path: path.clone(), size: entry.size(), is_extra });
        }
    }

    /// Notes that the whole tree was seen.
    pub(super) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Whether more may be known later.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns the file that is most like one of this path and size.
    pub(super) fn find(&self, path: &RelPath, size: u64) -> Option<&RelPath> {
        let candidates = self.known.iter().filter(|known| is_near(known.size, size));
        let scored = candidates.map(|known| (known.score(path, size), known));
        let scored = scored.filter(|(score, _known)| *score >= SCORE_MIN);
        let best = scored.max_by_key(|(score, known)| (*score, u64::MAX - known.size.abs_diff(size)));
        best.map(|(_score, known)| &known.path)
    }
}

impl Candidate {
    fn score(&self, path: &RelPath, size: u64) -> usize {
        let (own_parent, own_name) = self.path.split().unwrap_or_default();
        let (parent, name) = path.split().unwrap_or_default();
        let points = |holds: bool, points: usize| if holds { points } else { 0 };
        common_percent(own_name, name)
            + points(own_parent == parent, SAME_DIRECTORY)
            + points(self.is_extra, EXTRA)
            + points(self.size == size, SAME_SIZE)
    }
}

/// Whether one is at most twice the other.
fn is_near(one: u64, other: u64) -> bool {
    one / 2 <= other && other / 2 <= one
}

/// Returns how much of the longer name is a beginning or an end of both.
fn common_percent(one: &[u8], other: &[u8]) -> usize {
    let (shorter, longer) = (one.len().min(other.len()), one.len().max(other.len()));
    let same = |pair: &(&u8, &u8)| pair.0 == pair.1;
    let beginning = one.iter().zip(other).take_while(same).count();
    let end = one.iter().rev().zip(other.iter().rev()).take_while(same).count();
    (beginning + end).min(shorter) * 100 / longer.max(1)
}

#[cfg(test)]
mod tests {
    use sync::entry::Kind;

    use super::*;
    use crate::fixture_test::entry;

    const SIZE: u64 = 100 << 20;

    fn path(text: &str) -> RelPath {
        RelPath::try_from(text.as_bytes().to_vec()).unwrap()
    }

    fn found(known: &[(&str, u64, bool)], wanted: &str) -> Option<String> {
        let mut likenesses = Likenesses::default();
        for (name, size, is_extra) in known {
            let entry = entry("any", Kind::File { size: *size, allocated_bytes: *size });
            likenesses.see(&path(name), &entry, *is_extra);
        }
        likenesses.find(&path(wanted), SIZE).map(ToString::to_string)
    }

    #[test]
    fn names_and_sizes_tell_what_may_be_like_it() {
        let dumps = [("d/dump-11-19.sql", SIZE - 9, false), ("d/dump-11-20.sql", SIZE - 5, false)];
        assert_eq!(found(&dumps, "d/dump-11-21.sql").as_deref(), Some("d/dump-11-20.sql"));
        assert_eq!(found(&dumps, "d/image.raw"), None);
        assert_eq!(found(&dumps, "e/other-11-21.sql"), None);
        assert_eq!(found(&[("d/dump-11-20.sql", SIZE / 3, false)], "d/dump-11-21.sql"), None);
        // Moved, and renamed where it stands.
        assert_eq!(found(&[("a/image.raw", SIZE + 7, true)], "z/image.raw").as_deref(), Some("a/image.raw"));
        assert_eq!(found(&[("image.raw", SIZE, true)], "disk.raw").as_deref(), Some("image.raw"));
        assert_eq!(found(&[("a/x", SIZE, true)], "b/y"), None);
        assert_eq!(found(&[("a/small", 5, true)], "b/small"), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut likenesses = Likenesses::default();
        let large = entry("any", Kind::File { size: SIZE, allocated_bytes: SIZE });
        likenesses.see(&path(&format!("d/{}", "n".repeat(PATH_BYTES_MAX))), &large, true);
        assert_eq!(likenesses.known.len(), 0);
        for number in 0..KNOWN_MAX + 5 {
            likenesses.see(&path(&number.to_string()), &large, true);
        }
        assert_eq!(likenesses.known.len(), KNOWN_MAX);
        assert_eq!(common_percent(b"", b""), 0);
        assert_eq!(common_percent(b"aaa", b"aaaa"), 75);
    }
}
