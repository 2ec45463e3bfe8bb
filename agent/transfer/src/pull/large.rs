//! Large files: fetched in ranges, each proven by its chaining value, and resumed where an earlier attempt stopped.
//!
//! The partial file stands in the stage's `large/` under the digest of its path, with a side-car beside it. A range is
//! written first and recorded afterwards.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::human;
use common::rel_path::RelPath;
use sync::cursor::{self, Cursor};
use sync::entry::{Entry, Kind};
use sync::pack;
use sync::range::{self, ChainingValue};
use sync::stamp::Stamp;
use sync::wire::content::{Layout, RangeReply, What};
use sync::wire::delta::{DeltaReply, Sample};
use tree::{AppendFile, Dir, Name, NewFile, TreeError};

use super::Pass;
use super::committing::unwritable;
use super::flow::CursorRoom;
use super::old_body::{Asked, OldBody};
use super::plan::weight_of;
use super::sidecar;
use crate::breach::breach;
use crate::buffer::Buffers;
use crate::commit::Seen;
use crate::commit::durable::of_sync;
use crate::domain::{Disk, Domain, DomainId};
use crate::staged::{Made, finish_file};
use crate::trouble::{is_fatal, of_stage};

/// Files up to this size count whole as in flight until they are committed, and have no side-car.
pub(super) const WITHOUT_SIDECAR_MAX: u64 = 4 * 1024 * 1024;
/// Second reads of a file that goes on changing.
const ROUNDS_MAX: u32 = 3;

/// One large file under way.
#[derive(Debug)]
pub(crate) struct Large {
    pub(super) path: RelPath,
    pub(super) domain: DomainId,
    pub(super) source: Entry,
    pub(super) seen: Option<Box<Seen>>,
    /// What it weighs in the flow until it is committed.
    pub(super) cost: u64,
    /// Whether it is the first name of a group of hard links.
    pub(super) is_anchor: bool,
    pub(super) times_asked: u32,
    /// What stands in its place, or is like it.
    old_body: Option<OldBody>,
    /// What came, once some of it is asked for again.
    came: OnceLock<Option<OldBody>>,
    /// Whether the source masks it, so that nothing is compared.
    is_masked: bool,
    /// What its cursor takes, as long as it is under way.
    _room: Option<CursorRoom>,
    disk: Arc<Disk>,
    /// The directory of the stage that holds it.
    dir: Dir,
    name: Name,
    file: NewFile,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stamp: Stamp,
    cursor: Cursor,
    sidecar: Option<AppendFile>,
    /// Ranges that were asked for and have not come.
    outstanding: u64,
    rounds: u32,
    is_failed: bool,
}

/// What is to be done next about a large file.
#[derive(Debug)]
pub(super) enum Next {
    /// Other ranges are still to come.
    Wait,
    /// Ask whether what came is one state.
    Confirm(Stamp),
    /// These ranges changed: ask for them again, under this stamp.
    Again(Stamp, Vec<u64>),
    /// It is whole.
    Whole,
    /// It goes on changing.
    Changed,
    /// It failed before, and the last of its ranges has come now.
    Failed,
}

impl Large {
    /// Opens the file in a pass, once there is room for its cursor; nothing, and a finding, if it is too large.
    pub(super) fn begin_in(
        pass: &Pass,
        domain: DomainId,
        path: RelPath,
        source: Entry,
        seen: Option<Box<Seen>>,
        likeness: Option<&RelPath>,
    ) -> Result<Option<Self>, Failure> {
        let size = source.size();
        if size > cursor::FILE_BYTES_MAX {
            let message = format!("it has {}, and files of at most 2 TiB can be moved", human::bytes(size));
            let hint = "Leave it out with --exclude, and bring it by other means.";
            pass.except(Rule::Unwritable, Severity::Error, &path, message, hint);
            return Ok(None);
        }
        let held = weight_of(&path, &source, seen.as_deref());
        let room = pass.flow.acquire_cursor(cursor::memory_bytes(size).saturating_add(held))?;
        let domain = pass.stage.domains.get(domain)?;
        let is_masked = pass.is_sanitized(&path);
        let old_body = old_body(pass, &path, seen.as_deref(), likeness).filter(|_| !is_masked);
        match Self::open(&domain, &pass.boot_id, path.clone(), source, seen, &|| pass.flow.check())? {
            Ok(large) => Ok(Some(Self { old_body, is_masked, _room: Some(room), ..large })),
            Err(error) => {
                unwritable(pass, &path, &error);
                Ok(None)
            }
        }
    }

    /// Opens a partial file of an earlier attempt, or makes one; `proceed` is asked while an earlier one is read. An error
    /// within is about this file alone.
    pub(super) fn open(
        domain: &Domain,
        boot_id: &str,
        path: RelPath,
        source: Entry,
        seen: Option<Box<Seen>>,
        proceed: &dyn Fn() -> Result<(), Failure>,
    ) -> Result<Result<Self, TreeError>, Failure> {
        let dir = domain.large.clone();
        let key = Digest::of(path.as_bytes()).to_string();
        let name = Name::new(key[..32].to_owned()).expect("digits are a name");
        let sidecar_name = sidecar::name_of(&name);
        let has_sidecar = source.size() > WITHOUT_SIDECAR_MAX;
        let stamp = source.stamp();
        let resumed = match has_sidecar {
            true => sidecar::resume(&dir, boot_id, &name, &path, stamp, proceed)?,
            false => None,
        };
        let (file, cursor, sidecar) = match resumed {
            Some((file, cursor, sidecar)) => (file, cursor, Some(sidecar)),
            None => {
                for stale in [&name, &sidecar_name] {
                    match dir.unlink(stale) {
                        Err(error) if !error.is_not_found() => return Err(of_stage(&error)),
                        _ => {}
                    }
                }
                let file = dir.create_file(&name, 0o600).map_err(|error| of_stage(&error))?;
                match file.set_len(stamp.size) {
                    Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
                    Err(error) => return Ok(Err(error)),
                    Ok(()) => {}
                }
                let cursor = sidecar::new_cursor(stamp.size)?;
                let sidecar = match has_sidecar {
                    true => Some(sidecar::begin(&dir, &sidecar_name, boot_id, &path, stamp, &file)?),
                    false => None,
                };
                (file, cursor, sidecar)
            }
        };
        let cost = if has_sidecar { 0 } else { stamp.size };
        let state = State { stamp, cursor, sidecar, outstanding: 0, rounds: 0, is_failed: false };
        Ok(Ok(Self {
            path,
            domain: domain.id,
            disk: Arc::clone(&domain.disk),
            source,
            seen,
            cost,
            is_anchor: false,
            times_asked: 0,
            old_body: None,
            came: OnceLock::new(),
            is_masked: false,
            _room: None,
            dir,
            name,
            file,
            state: Mutex::new(state),
        }))
    }

    /// Returns the ranges to ask for, and counts them as asked.
    pub(super) fn begin(&self) -> (Stamp, Vec<u64>) {
        let mut state = self.lock();
        let missing: Vec<u64> = state.cursor.missing().collect();
        state.outstanding = missing.len() as u64;
        (state.stamp, missing)
    }

    /// Returns how many bytes an earlier attempt has brought.
    pub(super) fn proven_bytes(&self) -> u64 {
        self.lock().cursor.proven_bytes()
    }

    /// Whether every range is accounted for in the flow by itself.
    pub(super) fn has_sidecar(&self) -> bool {
        self.cost == 0
    }

    /// Returns what ranges are asked for with: of a second read only what changed since the first.
    fn old_body(&self) -> Option<&OldBody> {
        if self.lock().rounds == 0 {
            return self.old_body.as_ref();
        }
        let open = || {
            let file = if self.is_masked { None } else { self.file.reopen().ok() };
            file.and_then(|file| OldBody::of(file, &Buffers::default()))
        };
        self.came.get_or_init(open).as_ref()
    }

    /// Says how to ask for a range.
    pub(super) fn first_wish(&self, index: u64) -> (Asked, What) {
        match (self.old_body(), range::bounds(self.source.size(), index)) {
            (Some(old_body), Some(bounds)) => old_body.first(index, &bounds),
            _ => (Asked::Plainly, What::Range { index }),
        }
    }

    /// Says how to ask for a range that is not where the old body has it.
    pub(super) fn next_wish(
        &self,
        index: u64,
        asked: Asked,
        samples: &[Sample],
        proceed: &dyn Fn() -> bool,
    ) -> Result<(Asked, What), Failure> {
        match (self.old_body(), range::bounds(self.source.size(), index)) {
            (Some(old_body), Some(bounds)) => old_body.next(index, &bounds, asked, samples, proceed),
            _ => Err(breach("it compared a range that it was not asked to compare")),
        }
    }

    /// Notes how much of a range the old body had.
    pub(super) fn compared(&self, length: u32, alike: u32) {
        if let Some(old_body) = self.old_body() {
            old_body.came(u64::from(length), u64::from(alike));
        }
    }

    /// Returns the state that is asked for.
    pub(super) fn stamp(&self) -> Stamp {
        self.lock().stamp
    }

    /// Writes a range that came; an error within is about this file alone, and the range has not come then.
    pub(super) fn take(&self, reply: &RangeReply, data: &[u8]) -> Result<Result<Next, TreeError>, Failure> {
        let start = self.start_of(reply.index, reply.length)?;
        let value = pack::range_value(reply, data);
        if value != reply.value {
            return Err(Failure::new(
                FailureKind::Corrupt,
                format!("a range of `{}` does not have the digest that the source sent with it", self.path),
            )
            .hint("It is fetched again; if this repeats, look at the memory of both hosts."));
        }
        let length = usize::try_from(reply.length).unwrap_or(usize::MAX);
        let written =
            self.write(start, &reply.layout, reply.length, pack::pieces(&reply.layout, length, data));
        self.note(written, reply.index, value)
    }

    /// Writes a range that is put together from the old body; nothing when it must be asked for plainly.
    pub(super) fn take_delta(
        &self,
        asked: Asked,
        reply: &DeltaReply,
        content: &[u8],
    ) -> Result<Option<Result<Next, TreeError>>, Failure> {
        let start = self.start_of(reply.index, reply.length)?;
        let Some(old_body) = self.old_body() else {
            return Err(breach("it sent differences to nothing"));
        };
        let Some(built) = old_body.build(asked, reply, content)? else { return Ok(None) };
        let length = usize::try_from(reply.length).unwrap_or(usize::MAX);
        let pieces = pack::extents(&reply.layout, length).filter_map(|extent| {
            let at = extent.offset as usize;
            Some((u64::from(extent.offset), built.get(at..at + extent.length as usize)?))
        });
        let written = self.write(start, &reply.layout, reply.length, pieces);
        self.note(written, reply.index, reply.value).map(Some)
    }

    /// Returns where a range begins that has this length.
    fn start_of(&self, index: u64, length: u32) -> Result<u64, Failure> {
        range::bounds(self.source.size(), index)
            .filter(|bounds| bounds.end - bounds.start == u64::from(length))
            .map(|bounds| bounds.start)
            .ok_or_else(|| breach("it sent a range that does not exist"))
    }

    /// Notes a range that was written and has this value.
    fn note(
        &self,
        written: Result<(), TreeError>,
        index: u64,
        value: ChainingValue,
    ) -> Result<Result<Next, TreeError>, Failure> {
        match written {
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => return Ok(Err(error)),
            Ok(()) => {}
        }
        let mut state = self.lock();
        state.cursor.mark(index, value);
        if let Some(sidecar) = &mut state.sidecar {
            sidecar::note(sidecar, index, value)?;
        }
        Ok(Ok(state.came()))
    }

    /// Whether what comes now replaces what came before.
    pub(super) fn is_again(&self) -> bool {
        self.times_asked > 0 || self.lock().rounds > 0
    }

    fn write<'a>(
        &self,
        start: u64,
        layout: &Layout,
        length: u32,
        pieces: impl Iterator<Item = (u64, &'a [u8])>,
    ) -> Result<(), TreeError> {
        if self.is_again() && *layout != Layout::Dense {
            // What was data in the read before may be a hole now.
            self.file.punch_hole(start, u64::from(length)).or_else(|error| {
                if is_fatal(&error) { Err(error) } else { self.write_zeros(start, length) }
            })?;
        }
        for (offset, piece) in pieces {
            self.file.write_at(piece, start + offset)?;
        }
        Ok(())
    }

    fn write_zeros(&self, start: u64, length: u32) -> Result<(), TreeError> {
        let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.write_at(&zeros, start)
    }

    /// Whether what came is of another inode than the scan saw: something was renamed over it.
    pub(super) fn is_other_inode(&self) -> bool {
        self.lock().stamp.ino != self.source.ino
    }

    /// Notes that a range will not come; says whether it is the first such.
    pub(super) fn fail(&self) -> (bool, Next) {
        let mut state = self.lock();
        let was_failed = std::mem::replace(&mut state.is_failed, true);
        (!was_failed, state.came())
    }

    /// Notes that the file failed when nothing of it was asked for any more.
    pub(super) fn fail_whole(&self) {
        self.lock().is_failed = true;
    }

    /// Decides after the source's answer to a confirmation; `second` is what a second read gave, if there was one.
    pub(super) fn confirmed(
        &self,
        stamp: Stamp,
        is_reread: bool,
        second: &[ChainingValue],
    ) -> Result<Next, Failure> {
        if !is_reread {
            return Ok(Next::Whole);
        }
        if second.len() as u64 != range::count(self.source.size()) {
            return Err(breach("it sent values of ranges that do not exist"));
        }
        let mut state = self.lock();
        let changed: Vec<u64> = (0..)
            .zip(second)
            .filter(|(index, value)| state.cursor.value(*index) != Some(**value))
            .map(|(index, _value)| index)
            .collect();
        // It may have grown: what is copied is its state at the size that was seen first.
        state.stamp = Stamp { size: self.source.size(), ..stamp };
        if changed.is_empty() {
            return Ok(Next::Whole);
        }
        state.rounds += 1;
        if state.rounds >= ROUNDS_MAX {
            state.is_failed = true;
            return Ok(Next::Changed);
        }
        for index in &changed {
            state.cursor.forget(*index);
        }
        state.outstanding = changed.len() as u64;
        Ok(Next::Again(state.stamp, changed))
    }

    /// Gives a whole file its metadata.
    pub(super) fn finish(&self) -> Result<(Made, Digest), Failure> {
        let state = self.lock();
        let digest = state
            .cursor
            .digest()
            .ok_or_else(|| Failure::new(FailureKind::Bug, "a large file was finished before it was whole"))?;
        let mut wanted = self.source.clone();
        wanted.mtime = state.stamp.mtime;
        let size = state.stamp.size;
        drop(state);
        let finished = self.finish_synced(wanted, size);
        if finished.is_err() {
            // What the kernel could not write can still be read: an attempt that resumed it would believe it. The
            // failure tells.
            self.dir.unlink(&sidecar::name_of(&self.name)).ok();
        }
        finished.map(|made| (made, digest))
    }

    fn finish_synced(&self, mut wanted: Entry, size: u64) -> Result<Made, Failure> {
        // Blocks are counted when they were given out.
        self.file.sync_data().map_err(|error| of_sync(&error))?;
        let held = self.file.stat().map_err(|error| of_stage(&error))?;
        let file = self
            .dir
            .open_existing_for_write(&self.name, held.dev, held.ino)
            .map_err(|error| of_stage(&error))?;
        // What was brought by earlier attempts is not known exactly, but the file system counts blocks.
        let stat = file.stat().map_err(|error| of_stage(&error))?;
        wanted.kind = Kind::File { size, allocated_bytes: stat.blocks.saturating_mul(512) };
        finish_file(&self.dir, file, &wanted, &self.disk.durable).map_err(|error| of_sync(&error))
    }

    /// Returns the name of the side-car, to be removed once the file is committed.
    pub(super) fn sidecar(&self) -> Option<Name> {
        self.has_sidecar().then(|| sidecar::name_of(&self.name))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has failed the pass.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts a range that came, or will not come.
    fn came(&mut self) -> Next {
        self.outstanding = self.outstanding.saturating_sub(1);
        match (self.outstanding, self.is_failed) {
            (0, true) => Next::Failed,
            (0, false) => Next::Confirm(self.stamp),
            (_, _) => Next::Wait,
        }
    }
}

/// Opens what stands in the place of a file, or what is like it.
fn old_body(pass: &Pass, path: &RelPath, seen: Option<&Seen>, likeness: Option<&RelPath>) -> Option<OldBody> {
    let is_file = seen.is_some_and(|seen| seen.entry.kind.is_file());
    let old = if is_file { Some(path) } else { likeness }?;
    if pass.is_sanitized(old) { None } else { OldBody::open(&pass.stage.root, old, &pass.buffers) }
}

#[cfg(test)]
mod tests {
    use common::id::MigrationId;
    use sync::wire::content::Coding;

    use super::*;
    use crate::kill_point::KillPoint;
    use crate::memory::Memory;
    use crate::serve::differences::{self, Found};
    use crate::stage::Stage;

    const SIZE: u64 = 6 * 1024 * 1024 + 77;

    fn stage(folder: &std::path::Path) -> Stage {
        let migration: MigrationId = "m1".parse().unwrap();
        std::fs::create_dir(folder.join("root")).unwrap();
        let memory = Memory::open(folder, &migration).unwrap();
        Stage::make(&folder.join("root"), &migration, &memory, &KillPoint::default()).unwrap()
    }

    fn source() -> Entry {
        let time = sync::stamp::Time { seconds: 5, nanos: 6 };
        Entry {
            name: b"big".to_vec(),
            kind: Kind::File { size: SIZE, allocated_bytes: SIZE },
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: time,
            ctime: time,
            dev: 1,
            ino: 2,
            nlink: 1,
            xattrs: Vec::new(),
        }
    }

    fn content() -> Vec<u8> {
        (0..SIZE).map(|at| u8::try_from(at / 4099 % 251).unwrap()).collect()
    }

    fn reply(content: &[u8], index: u64) -> (RangeReply, Vec<u8>) {
        let bounds = range::bounds(SIZE, index).unwrap();
        let at = |offset: u64| usize::try_from(offset).unwrap();
        let data = content[at(bounds.start)..at(bounds.end)].to_vec();
        let reply = RangeReply {
            id: 1,
            index,
            stamp: source().stamp(),
            length: u32::try_from(data.len()).unwrap(),
            layout: Layout::Dense,
            value: range::chaining_value(index, &data),
            coding: Coding::Plain,
            stored_bytes: data.len(),
        };
        (reply, data)
    }

    fn open(stage: &Stage, boot: &str) -> Large {
        let path = RelPath::try_from(b"big".to_vec()).unwrap();
        Large::open(&stage.home, boot, path, source(), None, &|| Ok(())).unwrap().unwrap()
    }

    #[test]
    fn what_was_proven_is_not_asked_for_again_and_after_a_reboot_it_is_read_first() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, content) = (stage(folder.path()), content());
        let large = open(&stage, "boot-1");
        let (_stamp, missing) = large.begin();
        assert_eq!(missing, [0, 1, 2, 3, 4, 5, 6]);
        for index in [0, 2, 6] {
            let (reply, data) = reply(&content, index);
            assert!(matches!(large.take(&reply, &data).unwrap().unwrap(), Next::Wait));
        }
        drop(large);
        assert_eq!(open(&stage, "boot-1").begin().1, [1, 3, 4, 5]);

        let name = Name::new(Digest::of(b"big").to_string()[..32].to_owned()).unwrap();
        let stat = stage.home.large.stat(&name).unwrap();
        let file = stage.home.large.open_existing_for_write(&name, stat.dev, stat.ino).unwrap();
        file.write_at(b"lost by the power cut", 2 * 1024 * 1024).unwrap();
        assert_eq!(open(&stage, "boot-1").begin().1, [1, 3, 4, 5]);
        let large = open(&stage, "boot-2");
        assert_eq!(large.begin().1, [1, 2, 3, 4, 5]);
        for index in [1, 2, 3, 4] {
            let (reply, data) = reply(&content, index);
            large.take(&reply, &data).unwrap().unwrap();
        }
        let (last, data) = reply(&content, 5);
        assert!(matches!(large.take(&last, &data).unwrap().unwrap(), Next::Confirm(_)));
        assert!(matches!(large.confirmed(source().stamp(), false, &[]).unwrap(), Next::Whole));
        let (made, digest) = large.finish().unwrap();
        assert_eq!(digest, Digest::of(&content));
        assert_eq!(stage.home.large.read_small(&made.name, SIZE).unwrap(), content);
    }

    #[test]
    fn a_damaged_range_is_refused_and_another_state_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, content) = (stage(folder.path()), content());
        let large = open(&stage, "boot-1");
        large.begin();
        let (reply, mut data) = reply(&content, 3);
        data[5] ^= 1;
        assert_eq!(large.take(&reply, &data).unwrap_err().kind, FailureKind::Corrupt);
        data[5] ^= 1;
        large.take(&reply, &data).unwrap().unwrap();
        drop(large);
        let mut changed = source();
        changed.mtime.seconds += 1;
        let path = RelPath::try_from(b"big".to_vec()).unwrap();
        assert_eq!(
            Large::open(&stage.home, "boot-1", path, changed, None, &|| Ok(()))
                .unwrap()
                .unwrap()
                .begin()
                .1
                .len(),
            7
        );
    }

    #[test]
    fn of_a_range_that_changed_meanwhile_only_the_change_comes_again() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, mut content) = (stage(folder.path()), content());
        let large = open(&stage, "boot-1");
        large.begin();
        assert_eq!(large.first_wish(2).0, Asked::Plainly);
        for index in 0..7 {
            let (reply, data) = reply(&content, index);
            large.take(&reply, &data).unwrap().unwrap();
        }
        content[2 * 1024 * 1024 + 5_000] ^= 1;
        let values: Vec<_> = (0..7).map(|index| reply(&content, index).0.value).collect();
        let Next::Again(_, again) = large.confirmed(source().stamp(), true, &values).unwrap() else {
            panic!()
        };
        assert_eq!(again, [2]);
        let (asked, what) = large.first_wish(2);
        let What::Delta { basis, .. } = what else { panic!("{what:?}") };
        let (plain, data) = reply(&content, 2);
        let mut changed = Vec::new();
        let found = differences::find(2, &Layout::Dense, plain.length, &data, &basis, &mut changed);
        let Found::Differences { form, value } = found else { panic!("{found:?}") };
        assert_eq!(changed.len(), sync::wire::delta::BLOCK_BYTES);
        let RangeReply { id, index, stamp, length, layout, coding, .. } = plain;
        let (stored_bytes, content_bytes) = (changed.len(), changed.len());
        let delta =
            DeltaReply { id, index, stamp, length, layout, value, form, coding, stored_bytes, content_bytes };
        assert!(matches!(large.take_delta(asked, &delta, &changed), Ok(Some(Ok(Next::Confirm(_))))));
        assert_eq!(large.finish().unwrap().1, Digest::of(&content));
    }

    #[test]
    fn a_second_read_names_the_ranges_that_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, content) = (stage(folder.path()), content());
        let large = open(&stage, "boot-1");
        large.begin();
        for index in 0..7 {
            let (reply, data) = reply(&content, index);
            large.take(&reply, &data).unwrap().unwrap();
        }
        let mut values: Vec<_> = (0..7).map(|index| reply(&content, index).0.value).collect();
        values[4] = ChainingValue([9; 32]);
        let mut later = source().stamp();
        (later.size, later.mtime.seconds) = (SIZE + 100, 99);
        for _round in 1..ROUNDS_MAX {
            let Next::Again(stamp, again) = large.confirmed(later, true, &values).unwrap() else { panic!() };
            assert_eq!((stamp.size, stamp.mtime.seconds, again), (SIZE, 99, vec![4]));
            let (reply, data) = reply(&content, 4);
            assert!(matches!(large.take(&reply, &data).unwrap().unwrap(), Next::Confirm(_)));
        }
        assert!(matches!(large.confirmed(later, true, &values).unwrap(), Next::Changed));
        assert!(large.confirmed(later, true, &values[..6]).is_err());
    }
}
