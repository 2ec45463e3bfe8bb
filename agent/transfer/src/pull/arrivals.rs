//! Small files that came on this connection: what others of the same content are made from.
//!
//! Where each one stands is remembered, not its content; only what was asked for a second time is held in memory, as far
//! as there is room, for a core that twenty sites share is read once then. A file that stands in the live tree belongs
//! to whoever works there: it is looked at, read, and believed only if its digest is the one that it came with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use common::digest::Digest;
use common::rel_path::RelPath;
use sync::stamp::Time;
use sync::wire::content::Same;
use tree::{Dir, Name, ReadFile};

use super::{Small, lock};
use crate::assembly::{Assembly, Seat};
use crate::recent::Recent;
use crate::serve::{REMEMBERED_MAX, WORTH_BYTES_MIN};
use crate::staged::Made;
use crate::standing::time;

/// Contents in memory: the small files of a usual core.
const CONTENTS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longer ones are read again: that costs little beside writing them.
const CONTENT_BYTES_MAX: usize = 128 * 1024;

/// A small file that came and was staged.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) digest: Digest,
    size: u64,
    ino: u64,
    mtime: Time,
    path: RelPath,
    place: Place,
}

/// Where a file stands until it is committed.
#[derive(Debug)]
enum Place {
    /// In the place of a thread.
    Bench(Dir, Name),
    /// In the directory that shall hold it. That is not kept open for this: descriptors are scarce.
    Assembly(Weak<Assembly>),
}

/// A file that is to be made from another one.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) small: Small,
    pub(super) same: Same,
}

/// Where the other one is.
#[derive(Debug)]
pub(super) enum Found {
    /// It came.
    Here(Arc<Arrival>, Copy),
    /// It is still to come, and brings this one with it.
    Coming,
    /// Nobody knows; it was too long ago, or never was.
    Unknown(Copy),
}

/// What came on one connection.
#[derive(Debug)]
pub(super) struct Arrivals(Mutex<State>);

#[derive(Debug)]
struct State {
    here: Recent<u64, Arc<Arrival>>,
    /// Wishes that come now or are waited for, with what waits: bounded by the flow, for each is a wish that weighs.
    coming: HashMap<u64, Vec<Copy>>,
    contents: Contents,
}

impl Default for Arrivals {
    fn default() -> Self {
        let here = Recent::new(REMEMBERED_MAX);
        Self(Mutex::new(State { here, coming: HashMap::new(), contents: Contents::default() }))
    }
}

impl Arrivals {
    /// Notes that the bytes of a wish came and are dealt with now; [`Self::end`] must follow.
    pub(super) fn begin(&self, id: u64, size: u64) {
        if size >= WORTH_BYTES_MIN {
            self.state().coming.entry(id).or_default();
        }
    }

    /// Notes what became of a wish, and returns what waited for it.
    pub(super) fn end(&self, id: u64, arrival: Option<Arrival>) -> Vec<Copy> {
        let mut state = self.state();
        let waiting = state.coming.remove(&id);
        if let Some(arrival) = arrival.filter(|arrival| arrival.size >= WORTH_BYTES_MIN) {
            state.here.insert(id, Arc::new(arrival));
        }
        waiting.unwrap_or_default()
    }

    /// Looks for the file that another one is to be made from. If it is a small file that was asked for and has not come,
    /// which `is_wished` says, the other one waits for it.
    pub(super) fn find(&self, copy: Copy, is_wished: impl FnOnce(u64) -> bool) -> Found {
        let mut state = self.state();
        let of = copy.same.of;
        if let Some(arrival) = state.here.get(&of) {
            return Found::Here(Arc::clone(arrival), copy);
        }
        match state.coming.get_mut(&of) {
            Some(waiting) => waiting.push(copy),
            // Whoever takes that wish from now on looks here afterwards.
            None if is_wished(of) => {
                state.coming.insert(of, vec![copy]);
            }
            None => return Found::Unknown(copy),
        }
        Found::Coming
    }

    /// Returns a content that is in memory.
    pub(super) fn content(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        self.state().contents.held.get(digest).cloned()
    }

    /// Holds a content whose digest was computed here.
    pub(super) fn hold(&self, digest: Digest, content: &[u8]) {
        if content.len() <= CONTENT_BYTES_MAX {
            self.state().contents.hold(digest, content);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl Arrival {
    /// Notes a file of this digest that was staged for this path.
    pub(super) fn new(made: &Made, seat: Option<&Seat>, path: &RelPath, digest: Digest) -> Self {
        let place = match seat {
            Some(seat) => Place::Assembly(Arc::downgrade(seat.assembly())),
            None => Place::Bench(made.dir.clone(), made.name.clone()),
        };
        Self {
            digest,
            size: made.entry.size(),
            ino: made.entry.ino,
            mtime: made.entry.mtime,
            path: path.clone(),
            place,
        }
    }

    /// Reads the file into `content`; says whether that is what came.
    pub(super) fn read(&self, root: &Dir, content: &mut Vec<u8>) -> bool {
        let (parent, last) = self.path.split().unwrap_or_default();
        let last = Name::new(last).expect("a file has a name");
        let live = || root.open_beneath(parent.as_bytes()).and_then(|dir| dir.open_file(&last)).ok();
        let staged = || match &self.place {
            Place::Bench(dir, name) => dir.open_file(name).ok(),
            Place::Assembly(assembly) => assembly.upgrade()?.dir()?.open_file(&last).ok(),
        };
        // It goes from the stage into the tree once, perhaps between two looks.
        let is_it = |file: &ReadFile| {
            let stat = file.opened();
            stat.ino == self.ino && stat.size == self.size && time(stat.mtime) == self.mtime
        };
        let found: [&dyn Fn() -> Option<ReadFile>; 3] = [&live, &staged, &live];
        let Some(file) = found.iter().find_map(|open| open().filter(is_it)) else { return false };
        let Ok(size) = usize::try_from(self.size) else { return false };
        content.resize(size, 0);
        let is_whole = file.read_at(content, 0).is_ok_and(|count| count == size);
        is_whole && Digest::of(content) == self.digest
    }
}

/// Contents in memory, by digest.
#[derive(Debug, Default)]
struct Contents {
    held: HashMap<Digest, Arc<[u8]>>,
    digests: Vec<Digest>,
    bytes: usize,
}

impl Contents {
    fn hold(&mut self, digest: Digest, content: &[u8]) {
        if self.held.contains_key(&digest) {
            return;
        }
        // Any other one makes room, as good as at random: files come in the same order in each site, so the oldest would
        // always be the one that is wanted next.
        let [first, second, third, fourth, ..] = *digest.as_bytes();
        let pick = u32::from_le_bytes([first, second, third, fourth]) as usize;
        while self.bytes + content.len() > CONTENTS_BYTES_MAX && !self.digests.is_empty() {
            let gone = self.digests.swap_remove(pick % self.digests.len());
            self.bytes -= self.held.remove(&gone).map_or(0, |content| content.len());
        }
        self.bytes += content.len();
        self.digests.push(digest);
        self.held.insert(digest, content.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_in_memory_are_bounded() {
        let mut contents = Contents::default();
        for number in 0..1_500_u32 {
            let content = vec![7; 64 * 1024 + number as usize];
            contents.hold(Digest::of(&number.to_le_bytes()), &content);
            contents.hold(Digest::of(&number.to_le_bytes()), &content);
            assert!(contents.bytes <= CONTENTS_BYTES_MAX);
        }
        assert_eq!(contents.bytes, contents.held.values().map(|content| content.len()).sum::<usize>());
        assert_eq!(contents.held.len(), contents.digests.len());
        assert!(contents.held.len() > 450);
    }
}
