//! What stands at the destination of a large file: its ranges are asked for with what it has of them.
//!
//! It is read and never believed: while it is read, somebody may write to it, cut it or replace it. What is put together
//! from it counts only with the right chaining value, and is asked for plainly otherwise.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::failure::Failure;
use common::rel_path::RelPath;
use sync::range;
use sync::wire::content::{Extent, Layout, What};
use sync::wire::delta::{BLOCK_BYTES, Basis, DeltaReply, Form, Sample};
use tree::{Dir, Name, ReadFile};

use crate::breach::breach;
use crate::buffer::{Buffer, Buffers};
use crate::delta::gauge::Gauge;
use crate::delta::{blocks, rolling, samples};

/// What is looked through before and behind where a range is expected, each.
const NEAR_BYTES: u64 = 1024 * 1024;
/// What a signature is made of before and behind where a range is expected, each.
const MARGIN_BYTES: u64 = 512 * 1024;
/// What is looked through before and behind if it is nowhere near, each.
const FAR_BYTES: u64 = 256 * 1024 * 1024;

/// The file that stands there.
#[derive(Debug)]
pub(super) struct OldBody {
    file: ReadFile,
    size: u64,
    buffers: Buffers,
    learned: Mutex<Learned>,
}

/// What its ranges have taught so far.
#[derive(Debug, Default)]
struct Learned {
    /// Where content stands in the old body, less where it stands in the new one.
    shift: i64,
    gauge: Gauge,
    /// Ranges that are not looked for far away: after each search in vain twice as many as before, for it takes as long
    /// as reading all that.
    far_wait: u32,
    far_pause: u32,
}

/// With what a range was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing.
    Plainly,
    /// Hashes of what the old body holds from here on.
    Blocks { offset: u64, is_second: bool },
    /// The signature of this window of the old body.
    Rolling { offset: u64, length: usize },
}

/// A wish for a range, and with what it asks.
type Wanted = (Asked, What);

impl OldBody {
    /// Opens what stands at a path; nothing if it is of no use.
    pub(super) fn open(root: &Dir, path: &RelPath, buffers: &Buffers) -> Option<Self> {
        let (parent, name) = path.split()?;
        let name = Name::new(name).ok()?;
        // Whatever prevents it, the file is brought without it.
        let file = root.open_beneath(parent.as_bytes()).and_then(|dir| dir.open_file(&name)).ok()?;
        Self::of(file, buffers)
    }

    /// The same for a file that is open.
    pub(super) fn of(file: ReadFile, buffers: &Buffers) -> Option<Self> {
        let size = file.opened().size;
        (size >= BLOCK_BYTES as u64).then(|| Self {
            file,
            size,
            buffers: buffers.clone(),
            learned: Mutex::default(),
        })
    }

    /// Says how to ask for a range first.
    pub(super) fn first(&self, index: u64, bounds: &Range<u64>) -> Wanted {
        let mut learned = self.lock();
        let is_worth_it = learned.gauge.is_worth_it(bounds.end - bounds.start);
        let shift = learned.shift;
        drop(learned);
        let wanted = is_worth_it.then(|| self.by_blocks(index, bounds, shift, false)).flatten();
        wanted.unwrap_or((Asked::Plainly, What::Range { index }))
    }

    /// Says how to ask for a range that has hardly anything of the blocks that it was asked for with.
    pub(super) fn next(
        &self,
        index: u64,
        bounds: &Range<u64>,
        asked: Asked,
        samples: &[Sample],
        proceed: &dyn Fn() -> bool,
    ) -> Result<Wanted, Failure> {
        let Asked::Blocks { offset, is_second } = asked else {
            return Err(breach("it answered a range that was not asked for by blocks as if it had been"));
        };
        let tried = shift_of(bounds.start, offset);
        let mut shift = tried;
        if !is_second {
            shift = self.find(bounds.start, tried, samples, proceed).unwrap_or(tried);
            if shift != tried
                && let Some(wanted) = self.by_blocks(index, bounds, shift, true)
            {
                return Ok(wanted);
            }
        }
        let wanted = self.by_signature(index, bounds, shift);
        Ok(wanted.unwrap_or((Asked::Plainly, What::Range { index })))
    }

    fn by_blocks(&self, index: u64, bounds: &Range<u64>, shift: i64, is_second: bool) -> Option<Wanted> {
        let offset = bounds.start.checked_add_signed(shift)?;
        let length = usize::try_from(bounds.end - bounds.start).ok()?;
        let old = self.read(offset, length);
        let hashes = blocks::hashes(&old, length);
        let what = What::Delta { index, basis: Basis::Blocks(hashes) };
        (!old.is_empty() && is_full(&what)).then_some((Asked::Blocks { offset, is_second }, what))
    }

    fn by_signature(&self, index: u64, bounds: &Range<u64>, shift: i64) -> Option<Wanted> {
        let window = self.around(bounds, shift, MARGIN_BYTES);
        let old = self.read(window.start, usize::try_from(window.end - window.start).ok()?);
        let what = What::Delta { index, basis: Basis::Rolling(rolling::signature(&old)) };
        (old.len() >= BLOCK_BYTES)
            .then_some((Asked::Rolling { offset: window.start, length: old.len() }, what))
    }

    /// Returns the part of the old body where a range is expected, and so much before and behind it.
    fn around(&self, bounds: &Range<u64>, shift: i64, margin: u64) -> Range<u64> {
        let at = |place: u64| place.saturating_add_signed(shift);
        let end = at(bounds.end).saturating_add(margin).min(self.size);
        at(bounds.start).saturating_sub(margin).min(end)..end
    }

    /// Looks for where content has moved to, and remembers it for the ranges that follow.
    fn find(&self, start: u64, tried: i64, samples: &[Sample], proceed: &dyn Fn() -> bool) -> Option<i64> {
        let known = self.lock().shift;
        let mut near = [known, tried].into_iter().take(if known == tried { 1 } else { 2 });
        let bounds = start..start.saturating_add(range::RANGE_BYTES);
        let found =
            near.find_map(|shift| self.search(&self.around(&bounds, shift, NEAR_BYTES), start, samples));
        let found = found.or_else(|| (known != tried).then_some(known));
        if let Some(shift) = found {
            self.lock().shift = shift;
            return Some(shift);
        }
        self.find_far(&bounds, samples, proceed)
    }

    fn find_far(&self, bounds: &Range<u64>, samples: &[Sample], proceed: &dyn Fn() -> bool) -> Option<i64> {
        let mut learned = self.lock();
        if learned.far_wait > 0 || samples.is_empty() {
            learned.far_wait = learned.far_wait.saturating_sub(1);
            return None;
        }
        learned.far_pause = learned.far_pause.saturating_mul(2).max(1);
        learned.far_wait = learned.far_pause;
        let all = self.around(bounds, learned.shift, FAR_BYTES);
        drop(learned);
        let mut at = all.start;
        while at < all.end && proceed() {
            // A sample may lie across the end of a piece.
            let end = all.end.min(at + 2 * NEAR_BYTES);
            if let Some(shift) = self.search(&(at..end), bounds.start, samples) {
                let mut learned = self.lock();
                (learned.shift, learned.far_wait, learned.far_pause) = (shift, 0, 0);
                return Some(shift);
            }
            at += 2 * NEAR_BYTES - sync::wire::delta::SAMPLE_BYTES as u64;
        }
        None
    }

    /// Looks for samples of the range that begins at `start`, and returns the shift that they tell.
    fn search(&self, window: &Range<u64>, start: u64, samples: &[Sample]) -> Option<i64> {
        let old = self.read(window.start, usize::try_from(window.end - window.start).ok()?);
        let begins = samples::locate(samples, &old)?;
        shift_of(start, window.start).checked_add(begins)
    }

    /// Puts a range together; nothing when it is not what the source has.
    pub(super) fn build(
        &self,
        asked: Asked,
        reply: &DeltaReply,
        content: &[u8],
    ) -> Result<Option<Buffer>, Failure> {
        let length = usize::try_from(reply.length).unwrap_or(0);
        let mut built = self.buffers.take();
        let made = match (asked, &reply.form) {
            (Asked::Blocks { offset, .. }, Form::Blocks(same)) => {
                built.resize(length, 0);
                self.file.read_at(&mut built, offset).ok();
                blocks::fill(&mut built, same, content)
            }
            (Asked::Rolling { offset, length: window }, Form::Rolling) => {
                rolling::apply(&self.read(offset, window), content, length, &mut built)
            }
            (
                Asked::Plainly | Asked::Blocks { .. } | Asked::Rolling { .. },
                Form::Blocks(_) | Form::Rolling,
            ) => {
                return Err(breach("it sent differences to what it was not asked with"));
            }
        };
        if made.is_none() {
            return Ok(None);
        }
        clear_holes(&mut built, &reply.layout);
        Ok((range::chaining_value(reply.index, &built) == reply.value).then_some(built))
    }

    /// Notes how much of a range was there.
    pub(super) fn came(&self, length: u64, alike: u64) {
        self.lock().gauge.came(length, alike);
    }

    /// Reads what is there: less at the end, and nothing where it cannot be read.
    fn read(&self, offset: u64, length: usize) -> Buffer {
        let mut bytes = self.buffers.take();
        bytes.resize(length, 0);
        let count = self.file.read_at(&mut bytes, offset).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }

    fn lock(&self) -> MutexGuard<'_, Learned> {
        // Each change leaves whole numbers behind.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_full(what: &What) -> bool {
    matches!(what, What::Delta { basis: Basis::Blocks(hashes), .. } if !hashes.is_empty())
}

/// Returns the shift of what stands at `new` in the new body and at `old` in the old one.
fn shift_of(new: u64, old: u64) -> i64 {
    // No file is as large as that.
    i64::try_from(old).unwrap_or(i64::MAX) - i64::try_from(new).unwrap_or(i64::MAX)
}

/// Makes zeros of what is a hole, so that what is proven is what is written.
fn clear_holes(range: &mut [u8], layout: &Layout) {
    let Layout::Sparse(extents) = layout else { return };
    let mut at = 0;
    for Extent { offset, length } in extents {
        let (start, end) = (*offset as usize, *offset as usize + *length as usize);
        if let Some(hole) = range.get_mut(at..start) {
            hole.fill(0);
        }
        at = end;
    }
    if let Some(hole) = range.get_mut(at..) {
        hole.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use sync::stamp::{Stamp, Time};
    use sync::wire::content::Coding;
    use tree::Root;

    use super::*;
    use crate::serve::differences::{self, Found};

    const MIB: usize = 1024 * 1024;

    fn noise(size: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn open(folder: &Path, old: &[u8]) -> OldBody {
        std::fs::write(folder.join("old"), old).unwrap();
        let root = Root::open(folder).unwrap().dir();
        OldBody::open(&root, &RelPath::root().join(b"old").unwrap(), &Buffers::default()).unwrap()
    }

    fn bounds_of(new: &[u8], index: u64) -> (Range<u64>, &[u8]) {
        let bounds = range::bounds(new.len() as u64, index).unwrap();
        let at = |offset: u64| usize::try_from(offset).unwrap();
        (bounds.clone(), &new[at(bounds.start)..at(bounds.end)])
    }

    /// What a source answers to a wish with a basis.
    fn answer(index: u64, range: &[u8], basis: &Basis) -> (Found, Vec<u8>) {
        let mut content = Vec::new();
        let length = u32::try_from(range.len()).unwrap();
        (differences::find(index, &Layout::Dense, length, range, basis, &mut content), content)
    }

    fn reply(index: u64, range: &[u8], form: Form, content: &[u8]) -> DeltaReply {
        DeltaReply {
            id: 1,
            index,
            stamp: Stamp { ino: 1, size: 1, mtime: Time::default(), ctime: Time::default() },
            length: u32::try_from(range.len()).unwrap(),
            layout: Layout::Dense,
            value: range::chaining_value(index, range),
            form,
            coding: Coding::Plain,
            stored_bytes: content.len(),
            content_bytes: content.len(),
        }
    }

    /// Brings a range as a pass does; returns what was made, and the bytes both ways.
    fn bring(old_body: &OldBody, index: u64, new: &[u8]) -> (Vec<u8>, usize) {
        let (bounds, range) = bounds_of(new, index);
        let length = range.len();
        let (mut asked, mut what) = old_body.first(index, &bounds);
        let mut wire = 0;
        for _ask in 0..4 {
            let What::Delta { basis, .. } = &what else {
                if asked != Asked::Plainly {
                    old_body.came(length as u64, 0);
                }
                return (range.to_vec(), wire + length);
            };
            wire += basis.encoded_bytes();
            let (found, content) = answer(index, range, basis);
            match found {
                Found::Differences { form, value: _ } => {
                    old_body.came(length as u64, (length.saturating_sub(content.len())) as u64);
                    let reply = reply(index, range, form, &content);
                    let built = old_body.build(asked, &reply, &content).unwrap().expect("it is as it was");
                    return (built.to_vec(), wire + content.len());
                }
                Found::Unlike(samples) => {
                    wire += samples.len() * 36;
                    (asked, what) = old_body.next(index, &bounds, asked, &samples, &|| true).unwrap();
                }
                Found::Nothing => what = What::Range { index },
            }
        }
        panic!("a range was asked for too often");
    }

    /// Brings a file; returns how many bytes went both ways.
    fn bring_all(old: &[u8], new: &[u8]) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let old_body = open(folder.path(), old);
        let mut wire = 0;
        for index in 0..range::count(new.len() as u64) {
            let (built, bytes) = bring(&old_body, index, new);
            assert!(built == bounds_of(new, index).1, "range {index}");
            wire += bytes;
        }
        wire
    }

    #[test]
    fn pages_that_changed_and_content_that_moved_cost_little() {
        let old = noise(12 * MIB + 333, 1);
        assert!(bring_all(&old, &old) < old.len() / 400);

        let mut pages = old.clone();
        for page in (0..pages.len() / 16_384).step_by(100) {
            pages[page * 16_384..(page + 1) * 16_384].copy_from_slice(&noise(16_384, page as u64 + 9));
        }
        assert!(bring_all(&old, &pages) < old.len() / 60);

        for at in [0, 5 * MIB + 77] {
            let inserted = [&old[..at], &noise(777, 2), &old[at..]].concat();
            let wire = bring_all(&old, &inserted);
            assert!(wire < old.len() / 100, "inserted at {at}: {wire}");
            let removed = [&old[..at], &old[at + 10_001..]].concat();
            let wire = bring_all(&old, &removed);
            assert!(wire < old.len() / 100, "removed at {at}: {wire}");
        }
        // More than what is near.
        let prepended = [&noise(5 * MIB + 9, 3)[..], &old].concat();
        let wire = bring_all(&old, &prepended);
        assert!(wire < 7 * MIB, "{wire}");
        let appended = [&old[..], &noise(2 * MIB, 4)].concat();
        assert!(bring_all(&old, &appended) < 3 * MIB);
    }

    #[test]
    fn small_edits_everywhere_are_found_by_the_signature() {
        let old = noise(4 * MIB, 1);
        let pieces = old.chunks(30_000).zip(0_u64..);
        let new: Vec<u8> = pieces.flat_map(|(piece, seed)| [piece, &noise(3, seed)].concat()).collect();
        let wire = bring_all(&old, &new);
        assert!(wire < new.len() / 6, "{wire}");
    }

    #[test]
    fn what_has_nothing_in_common_is_soon_sent_plainly() {
        let (old, new) = (noise(40 * MIB, 1), noise(40 * MIB, 2));
        let wire = bring_all(&old, &new);
        assert!(wire < new.len() + new.len() / 100, "{wire}");
    }

    #[test]
    fn zeros_are_found_and_cost_nothing() {
        let mut old = noise(6 * MIB, 1);
        old[MIB..4 * MIB].fill(0);
        let new = [&old[..2 * MIB + 5], &old[2 * MIB..]].concat();
        let wire = bring_all(&old, &new);
        assert!(wire < MIB, "{wire}");
    }

    #[test]
    fn an_old_body_that_changes_or_ends_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let old = noise(3 * MIB, 1);
        let moved = [&noise(100, 5)[..], &old].concat();
        for (new, is_moved) in [(&old, false), (&moved, true)] {
            for damage in ["none", "changed", "cut"] {
                let old_body = open(folder.path(), &old);
                let (bounds, range) = bounds_of(new, 1);
                let (mut asked, mut what) = old_body.first(1, &bounds);
                if is_moved {
                    let samples = [Sample { offset: 0, bytes: [0; 32] }];
                    (asked, what) = old_body.next(1, &bounds, asked, &samples, &|| true).unwrap();
                    assert!(matches!(asked, Asked::Rolling { .. }));
                }
                let What::Delta { basis, .. } = what else { panic!() };
                let (found, content) = answer(1, range, &basis);
                let Found::Differences { form, value: _ } = found else { panic!() };
                let file = std::fs::File::options().write(true).open(folder.path().join("old")).unwrap();
                match damage {
                    "changed" => {
                        std::os::unix::fs::FileExt::write_all_at(&file, b"!", 1_500_000).unwrap();
                    }
                    "cut" => file.set_len(1_500_000).unwrap(),
                    _ => {}
                }
                let reply = reply(1, range, form, &content);
                let built = old_body.build(asked, &reply, &content).unwrap();
                assert_eq!(built.is_some(), damage == "none", "{damage}, moved: {is_moved}");
            }
        }
    }

    #[test]
    fn answers_to_another_question_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let old = noise(3 * MIB, 1);
        let old_body = open(folder.path(), &old);
        let (bounds, range) = bounds_of(&old, 0);
        let (blocks, _what) = old_body.first(0, &bounds);
        let rolling = Asked::Rolling { offset: 0, length: MIB };
        for (asked, form) in [
            (Asked::Plainly, Form::Rolling),
            (Asked::Plainly, Form::Blocks(vec![255; 32])),
            (blocks, Form::Rolling),
            (rolling, Form::Blocks(vec![255; 32])),
        ] {
            assert!(old_body.build(asked, &reply(0, range, form, &[]), &[]).is_err());
        }
        for asked in [Asked::Plainly, rolling] {
            assert!(old_body.next(0, &bounds, asked, &[], &|| true).is_err());
        }
    }

    #[test]
    fn what_is_no_file_or_hardly_one_is_no_old_body() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("small"), b"small").unwrap();
        std::fs::create_dir(folder.path().join("directory")).unwrap();
        std::os::unix::fs::symlink("small", folder.path().join("link")).unwrap();
        let root = Root::open(folder.path()).unwrap().dir();
        for name in ["small", "directory", "link", "missing"] {
            let path = RelPath::root().join(name.as_bytes()).unwrap();
            assert!(OldBody::open(&root, &path, &Buffers::default()).is_none(), "{name}");
        }
    }

    /// Some edits of a file: places, what goes there, and what comes.
    fn edited(old: &[u8], edits: &[(usize, usize, usize)]) -> Vec<u8> {
        let mut new = old.to_vec();
        for (seed, (at, removed, inserted)) in (0..).zip(edits) {
            let at = at % new.len();
            let end = new.len().min(at + removed);
            new.splice(at..end, noise(*inserted, seed));
        }
        new
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_edits_come_whole_and_cost_their_size(
            edits in proptest::collection::vec((any::<usize>(), 0_usize..20_000, 0_usize..20_000), 0..6),
            size in 2 * MIB..5 * MIB,
            is_uniform: bool,
        ) {
            let old = if is_uniform { vec![7; size] } else { noise(size, 1) };
            let new = edited(&old, &edits);
            prop_assume!(new.len() > MIB);
            let wire = bring_all(&old, &new);
            let changed: usize = edits.iter().map(|(_, _, inserted)| inserted + 3 * 4096).sum();
            // The hashes of all, and where an edit was, the signature and what blocks have in common with it.
            let most = new.len() / 64 + changed + edits.len() * 300_000;
            prop_assert!(wire <= most, "{} bytes for {:?}", wire, edits);
        }

        #[test]
        fn any_answer_makes_the_range_or_nothing(
            bits in proptest::collection::vec(any::<u8>(), 0..40),
            content in proptest::collection::vec(any::<u8>(), 0..9000),
            extents in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..4),
            length in 0_u32..2_000_000,
            is_rolling: bool,
            offset: u64,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let old = noise(2 * MIB, 1);
            let old_body = open(folder.path(), &old);
            let range = &old[..MIB];
            let (asked, form) = if is_rolling {
                (Asked::Rolling { offset: offset % (4 * MIB as u64), length: MIB }, Form::Rolling)
            } else {
                (Asked::Blocks { offset, is_second: false }, Form::Blocks(bits))
            };
            let layout = extents.into_iter().map(|(offset, length)| Extent { offset, length }).collect();
            let hostile = DeltaReply {
                length,
                layout: Layout::Sparse(layout),
                ..reply(0, range, form, &content)
            };
            let built = old_body.build(asked, &hostile, &content).unwrap();
            if let Some(built) = built {
                prop_assert_eq!(&built[..], range);
            }
        }
    }
}
