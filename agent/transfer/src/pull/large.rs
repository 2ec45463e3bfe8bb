//! Large files: fetched in ranges, each proven by its chaining value, and resumed where an earlier attempt stopped.
//!
//! The partial file stands in the stage's `large/` under the digest of its path, with a side-car beside it: a head that
//! says what it is a copy of, and one record for each range that was written and matched. A range is written first
//! and recorded afterwards, so the side-car never claims what is not there, as long as the machine runs; after a
//! reboot every recorded range is read again before it counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::human;
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::cursor::{self, Cursor};
use sync::entry::{Entry, Kind};
use sync::pack;
use sync::range::{self, ChainingValue};
use sync::stamp::Stamp;
use sync::wire::content::{Layout, RangeReply};
use tree::{AppendFile, Dir, Name, NewFile, TreeError};

use super::Pass;
use super::committing::unwritable;
use super::flow::CursorRoom;
use super::plan::weight_of;
use crate::breach::breach;
use crate::commit::Seen;
use crate::commit::durable::of_sync;
use crate::domain::{Disk, Domain, DomainId};
use crate::frame_file::{FrameReader, encode};
use crate::staged::{Made, finish_file};
use crate::trouble::{is_fatal, of_stage};

/// Files up to this size count whole as in flight until they are committed, and have no side-car.
pub(super) const WITHOUT_SIDECAR_MAX: u64 = 4 * 1024 * 1024;
/// Second reads of a file that goes on changing.
const ROUNDS_MAX: u32 = 3;
const VERSION: u32 = 1;

/// What a side-car is made of.
#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Head { version: u32, path: RelPath, stamp: Stamp, boot_id: String, ino: u64 },
    Proven { index: u64, value: ChainingValue },
}

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
        match Self::open(&domain, &pass.boot_id, path.clone(), source, seen, &|| pass.flow.check())? {
            Ok(large) => Ok(Some(Self { _room: Some(room), ..large })),
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
        let sidecar_name = sidecar_name(&name);
        let has_sidecar = source.size() > WITHOUT_SIDECAR_MAX;
        let stamp = source.stamp();
        let resumed = match has_sidecar {
            true => resume(&dir, boot_id, &name, &path, stamp, proceed)?,
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
                let cursor = new_cursor(stamp.size)?;
                let sidecar = match has_sidecar {
                    true => Some(new_sidecar(&dir, &sidecar_name, boot_id, &path, stamp, &file)?),
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

    /// Writes a range that came; an error within is about this file alone, and the range has not come then.
    pub(super) fn take(&self, reply: &RangeReply, data: &[u8]) -> Result<Result<Next, TreeError>, Failure> {
        let bounds = range::bounds(self.source.size(), reply.index)
            .filter(|bounds| bounds.end - bounds.start == u64::from(reply.length))
            .ok_or_else(|| breach("it sent a range that does not exist"))?;
        let value = pack::range_value(reply, data);
        if value != reply.value {
            return Err(Failure::new(
                FailureKind::Corrupt,
                format!("a range of `{}` does not have the digest that the source sent with it", self.path),
            )
            .hint("It is fetched again; if this repeats, look at the memory of both hosts."));
        }
        let is_refetched = self.is_again();
        match self.write(bounds.start, &reply.layout, reply.length, data, is_refetched) {
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => return Ok(Err(error)),
            Ok(()) => {}
        }
        let mut state = self.lock();
        state.cursor.mark(reply.index, value);
        if let Some(sidecar) = &mut state.sidecar {
            let mut frame = Vec::new();
            encode(&Record::Proven { index: reply.index, value }, &mut frame)?;
            sidecar.append(&frame).map_err(|error| of_stage(&error))?;
        }
        Ok(Ok(state.came()))
    }

    /// Whether what comes now replaces what came before.
    pub(super) fn is_again(&self) -> bool {
        self.times_asked > 0 || self.lock().rounds > 0
    }

    fn write(
        &self,
        start: u64,
        layout: &Layout,
        length: u32,
        data: &[u8],
        is_refetched: bool,
    ) -> Result<(), TreeError> {
        if is_refetched && *layout != Layout::Dense {
            // What was data in the read before may be a hole now.
            self.file.punch_hole(start, u64::from(length)).or_else(|error| {
                if is_fatal(&error) { Err(error) } else { self.write_zeros(start, length) }
            })?;
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        for (offset, piece) in pack::pieces(layout, length, data) {
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
            self.dir.unlink(&sidecar_name(&self.name)).ok();
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
        self.has_sidecar().then(|| sidecar_name(&self.name))
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

fn sidecar_name(name: &Name) -> Name {
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend_from_slice(b".ranges");
    Name::new(bytes).expect("a name of ours with a suffix is a name")
}

fn new_cursor(size: u64) -> Result<Cursor, Failure> {
    Cursor::new(size).map_err(|error| Failure::of(FailureKind::Unsupported, &error))
}

fn new_sidecar(
    large: &Dir,
    name: &Name,
    boot_id: &str,
    path: &RelPath,
    stamp: Stamp,
    file: &NewFile,
) -> Result<AppendFile, Failure> {
    let stat = file.stat().map_err(|error| of_stage(&error))?;
    let head = Record::Head {
        version: VERSION,
        path: path.clone(),
        stamp,
        boot_id: boot_id.to_owned(),
        ino: stat.ino,
    };
    let mut frame = Vec::new();
    encode(&head, &mut frame)?;
    let mut sidecar = large.create_append(name).map_err(|error| of_stage(&error))?;
    sidecar.append(&frame).map_err(|error| of_stage(&error))?;
    Ok(sidecar)
}

/// Opens what an earlier attempt left; nothing if it is of another file, or of another state of it.
fn resume(
    large: &Dir,
    this_boot: &str,
    name: &Name,
    wanted: &RelPath,
    now: Stamp,
    proceed: &dyn Fn() -> Result<(), Failure>,
) -> Result<Option<(NewFile, Cursor, AppendFile)>, Failure> {
    let sidecar = match large.open_append(&sidecar_name(name)) {
        Ok(sidecar) => sidecar,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(of_stage(&error)),
    };
    let mut reader = FrameReader::<Record>::forwards(sidecar, 0);
    let Some(Record::Head { version: VERSION, path, stamp, boot_id, ino }) = reader.next()? else {
        return Ok(None);
    };
    if path != *wanted || stamp != now {
        return Ok(None);
    }
    let dev = large.stat_self().map_err(|error| of_stage(&error))?.dev;
    let file = match large.open_existing_for_write(name, dev, ino) {
        Ok(file) => file,
        Err(error) if error.is_not_found() || error.is_replaced() => return Ok(None),
        Err(error) => return Err(of_stage(&error)),
    };
    let mut cursor = new_cursor(now.size)?;
    while let Some(record) = reader.next()? {
        if let Record::Proven { index, value } = record {
            cursor.mark(index, value);
        }
    }
    let whole_bytes = reader.offset();
    let mut sidecar = reader.into_file();
    sidecar.truncate(whole_bytes).map_err(|error| of_stage(&error))?;
    if boot_id != this_boot {
        read_again(&file, &mut cursor, proceed)?;
    }
    Ok(Some((file, cursor, sidecar)))
}

/// Forgets ranges that are not on the disk as they were recorded: the machine was down since.
fn read_again(
    file: &NewFile,
    cursor: &mut Cursor,
    proceed: &dyn Fn() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    for index in 0..range::count(cursor.size()) {
        proceed()?;
        let (Some(value), Some(bounds)) = (cursor.value(index), range::bounds(cursor.size(), index)) else {
            continue;
        };
        buffer.resize(usize::try_from(bounds.end - bounds.start).unwrap_or(0), 0);
        let count = file.read_at(&mut buffer, bounds.start).map_err(|error| of_stage(&error))?;
        if count < buffer.len() || range::chaining_value(index, &buffer) != value {
            cursor.forget(index);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use common::id::MigrationId;
    use sync::wire::content::Coding;

    use super::*;
    use crate::kill_point::KillPoint;
    use crate::memory::Memory;
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

    #[test]
    fn fixtures_of_side_cars_are_read() {
        let time = sync::stamp::Time { seconds: 1_700_000_000, nanos: 3 };
        let head = Record::Head {
            version: 1,
            path: RelPath::root().join(b"large").unwrap(),
            stamp: Stamp { ino: 7, size: SIZE, mtime: time, ctime: time },
            boot_id: "boot".to_owned(),
            ino: 9,
        };
        let proven = Record::Proven { index: 3, value: ChainingValue([7; 32]) };
        crate::fixture_test::frames("side-car.frames", &[head, proven]);
    }
}
