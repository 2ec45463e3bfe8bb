//! Walking a tree: parallel, in order, in bounded memory.
//!
//! Worker threads read directories ahead of whoever takes the listings, always the one next that will be needed
//! first. Directories are kept by their paths, whose order is that of the walk, so the listing to hand out is the one
//! with the least path of all that are waiting, under way, or done:
//!
//! ```text
//! waiting ──worker──▶ active (parts come, children go to waiting) ──least path──▶ next()
//! ```
//!
//! Workers stop ahead when so many bytes of listings are ready, except at the least path, so that there is always one
//! to hand out. Directories with very many names are sorted in spill files, and their many sub-directories wait there.
//!
//! Guarantees: the order of [`sync::listing`], each directory once, an entry that stands there during the whole walk is
//! seen. It does not follow links unless that is asked for, and then below the root only; it does not
//! read what the kernel makes up (`/proc` below a root `/`) nor, where that is asked for, other file systems, and says of a directory whether it was seen whole. What cannot be looked at is a
//! problem inside of a listing; only spill files that cannot be written, and a bug, end a walk.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use common::failure::{Failure, FailureKind};
use common::filter::Filter;
use common::rel_path::RelPath;
use sync::limits::Limits;
use sync::listing::{Listing, ListingEnd};
use sync::only::Only;
use sync::sanitize::Sanitizer;
use tree::{Dir, IoClass, TreeError};

use crate::follow::Follow;

mod feeder;
pub(crate) mod look;
mod names;
mod walk;

use crate::watch::Watched;
use feeder::Feeder;

/// Listings that are read ahead, in bytes as they are encoded: about three times that in memory.
const AHEAD_BYTES: usize = 3 * 1024 * 1024;
/// More threads than this wait for each other at the directory locks of one disk.
const WORKERS_MAX: usize = 8;

/// Devices whose kind is remembered: of further ones, which only subvolumes can be, it is asked each time.
const DEVICES_MAX: usize = 4096;

/// Why a directory is passed over where the tree ends at other file systems.
const ELSEWHERE: &str =
    "another file system is mounted there, or a subvolume, and `one_file_system` leaves it out";

/// What and how to walk.
#[derive(Clone, Debug)]
pub struct ScanSettings {
    /// What is left out.
    pub filter: Filter,
    /// Threads that read.
    pub workers: usize,
    /// Where temporary files are made for directories that are too large for memory.
    pub spill_dir: PathBuf,
    /// Which files are left out for their size or age; the source's only.
    pub limits: Limits,
    /// Whether what is mounted below the root is left out; the source's only.
    pub one_file_system: bool,
    /// How links are followed, if what they lead to comes in their place; the source's only.
    pub follow: Option<Arc<Follow>>,
    /// What is dropped or comes otherwise than it is; the source's only.
    pub sanitizer: Option<Arc<Sanitizer>>,
    /// Whether disks are used only when nobody else needs them; it may change at any time.
    pub is_idle: Arc<AtomicBool>,
    /// What is looked at, where not everything is.
    pub only: Option<Arc<Only>>,
    /// What is told of each directory before it is listed; the source's only.
    pub(crate) watched: Option<Arc<Watched>>,
}

impl ScanSettings {
    /// Returns settings for one thread.
    pub fn new(filter: Filter, spill_dir: &Path) -> Self {
        Self {
            filter,
            workers: 1,
            spill_dir: spill_dir.to_owned(),
            limits: Limits::default(),
            one_file_system: false,
            follow: None,
            sanitizer: None,
            is_idle: Arc::default(),
            only: None,
            watched: None,
        }
    }
}

/// What a walk may hold in memory.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Listings that are ready, as they are encoded.
    ahead_bytes: usize,
    /// Sub-directories of one directory; further ones wait in a file.
    children: usize,
}

const BOUNDS: Bounds = Bounds { ahead_bytes: AHEAD_BYTES, children: feeder::IN_MEMORY_MAX };

/// A walk under way; yields listings in order. Dropping it stops and joins its threads.
#[derive(Debug)]
pub struct Scan {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    root: Dir,
    /// The device of the root, whatever kind of file system it is.
    root_device: Option<u64>,
    /// Other devices that were met, with the type of those that the kernel makes up.
    devices: Mutex<BTreeMap<u64, Option<String>>>,
    settings: ScanSettings,
    bounds: Bounds,
    state: Mutex<State>,
    /// Told when a worker may have something to do.
    work: Condvar,
    /// Told when a listing may be ready.
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<RelPath, Waiting>,
    active: BTreeMap<RelPath, Active>,
    running: usize,
    ready_bytes: usize,
    is_stopped: bool,
    failure: Option<Failure>,
}

/// What has to be read.
#[derive(Debug)]
enum Waiting {
    Directory,
    /// Stands for its first directory and all that follow in one parent.
    Feeder(Box<Feeder>),
}

/// A directory that is being read, or was read and not handed out yet.
#[derive(Debug, Default)]
struct Active {
    parts: VecDeque<Listing>,
    is_finished: bool,
}

impl Scan {
    /// Begins to walk below a root.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(root: Dir, settings: ScanSettings) -> Result<Self, Failure> {
        Self::start_with(root, settings, BOUNDS)
    }

    fn start_with(root: Dir, settings: ScanSettings, bounds: Bounds) -> Result<Self, Failure> {
        let count = settings.workers.clamp(1, WORKERS_MAX);
        let mut state = State::default();
        state.waiting.insert(RelPath::root(), Waiting::Directory);
        let shared = Arc::new(Shared {
            root_device: root.stat_self().ok().map(|stat| stat.dev),
            devices: Mutex::new(BTreeMap::new()),
            root,
            settings,
            bounds,
            state: Mutex::new(state),
            work: Condvar::new(),
            ready: Condvar::new(),
        });
        let mut scan = Self { shared, workers: Vec::with_capacity(count) };
        for _ in 0..count {
            let shared = Arc::clone(&scan.shared);
            let worker = std::thread::Builder::new().name("scan".to_owned()).spawn(move || work(&shared));
            scan.workers.push(worker.map_err(|error| Failure::of(FailureKind::Exhausted, &error))?);
        }
        Ok(scan)
    }
}

impl Iterator for Scan {
    type Item = Result<Listing, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.shared.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Some(Err(failure.clone()));
            }
            if state.waiting.is_empty() && state.active.is_empty() {
                return None;
            }
            if let Some(listing) = state.take_ready() {
                self.shared.work.notify_all();
                return Some(Ok(listing));
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.shared.lock().is_stopped = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // What a worker that panicked had to say was said when it happened.
            worker.join().ok();
        }
    }
}

impl State {
    /// Whether nothing comes before this path.
    fn is_least(&self, path: &RelPath) -> bool {
        self.active.first_key_value().is_none_or(|(first, _)| first >= path)
            && self.waiting.first_key_value().is_none_or(|(first, _)| first >= path)
    }

    /// Whether somebody who takes listings can only wait for one of this directory.
    fn is_wanted(&self, path: &RelPath) -> bool {
        self.is_least(path) && self.active.get(path).is_none_or(|active| active.parts.is_empty())
    }

    /// Takes the next part, if it is there.
    fn take_ready(&mut self) -> Option<Listing> {
        let path = self.active.first_key_value()?.0.clone();
        if !self.is_least(&path) {
            return None;
        }
        let active = self.active.get_mut(&path)?;
        let listing = active.parts.pop_front()?;
        if active.parts.is_empty() && active.is_finished {
            self.active.remove(&path);
        }
        self.ready_bytes -= bytes_of(&listing);
        Some(listing)
    }
}

/// About what a listing takes when encoded.
fn bytes_of(listing: &Listing) -> usize {
    64 + listing.path.as_bytes().len()
        + listing.entries.iter().map(sync::entry::Entry::encoded_bytes).sum::<usize>()
        + listing.problems.iter().map(|problem| problem.name.len() + problem.why.len()).sum::<usize>()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below leaves a whole state behind, so a poisoned lock holds one too.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns why a directory is passed over: the kernel makes its file system up, or it is another one than the
    /// root's where only that one is asked for.
    fn passed_over(&self, dir: &Dir) -> Option<String> {
        let device = dir.stat_self().ok()?.dev;
        if self.root_device.is_none_or(|root| root == device) {
            return None;
        }
        if let Some(fs_type) = self.made_up(dir, device) {
            return Some(format!(
                "a file system of type {fs_type} is mounted there, which the kernel makes up"
            ));
        }
        self.settings.one_file_system.then(|| ELSEWHERE.to_owned())
    }

    /// Returns the type of the file system of a directory, if the kernel makes it up.
    fn made_up(&self, dir: &Dir, device: u64) -> Option<String> {
        // Whole values are inserted, so a poisoned lock holds one too.
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = devices.get(&device) {
            return known.clone();
        }
        let found = dir.file_system().ok().flatten().filter(tree::FileSystem::is_pseudo);
        let fs_type = found.map(|found| found.fs_type);
        if devices.len() < DEVICES_MAX {
            devices.insert(device, fs_type.clone());
        }
        fs_type
    }

    /// Opens a directory, through links where they are followed.
    fn open(&self, path: &RelPath) -> Result<Dir, TreeError> {
        let opened = self.root.open_beneath(path.as_bytes());
        let (Some(follow), Err(error)) = (&self.settings.follow, &opened) else { return opened };
        if !error.is_symlink() && !error.is_wrong_kind() {
            return opened;
        }
        match follow.reach(&self.root, path) {
            Ok(reached) => reached.parent.open_dir(&reached.name),
            Err(_changed_meanwhile) => opened,
        }
    }

    fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        state.failure.get_or_insert(failure);
        state.is_stopped = true;
        self.work.notify_all();
        self.ready.notify_all();
    }

    /// Waits for the next directory to read; nothing when the walk is over.
    fn next_directory(&self) -> Option<RelPath> {
        let mut state = self.lock();
        loop {
            if state.is_stopped || (state.waiting.is_empty() && state.running == 0) {
                self.work.notify_all();
                self.ready.notify_all();
                return None;
            }
            let may_go = |path: &RelPath| state.ready_bytes < self.bounds.ahead_bytes || state.is_least(path);
            let first = state.waiting.first_key_value().map(|(path, _)| path.clone()).filter(may_go);
            let Some(path) = first else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            match state.waiting.remove(&path) {
                Some(Waiting::Feeder(feeder)) => {
                    if let Err(error) = feeder.feed(&mut state) {
                        drop(state);
                        self.fail(spill_failed(&error));
                        return None;
                    }
                }
                Some(Waiting::Directory) | None => {
                    state.running += 1;
                    state.active.insert(path.clone(), Active::default());
                    return Some(path);
                }
            }
        }
    }

    /// Hands in a part with the directories that it names; waits while enough is ready. Says whether to go on.
    fn publish(&self, listing: Listing, children: Vec<RelPath>, feeder: Option<Feeder>) -> bool {
        let mut state = self.lock();
        let bytes = bytes_of(&listing);
        while state.ready_bytes >= self.bounds.ahead_bytes
            && !state.is_wanted(&listing.path)
            && !state.is_stopped
        {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_stopped {
            return false;
        }
        state.ready_bytes += bytes;
        state.waiting.extend(children.into_iter().map(|path| (path, Waiting::Directory)));
        if let Some(feeder) = feeder {
            state.waiting.insert(feeder.first(), Waiting::Feeder(Box::new(feeder)));
        }
        let is_last = listing.end != ListingEnd::More;
        let path = listing.path.clone();
        if let Some(active) = state.active.get_mut(&path) {
            active.parts.push_back(listing);
            active.is_finished = is_last;
        }
        state.running -= usize::from(is_last);
        self.work.notify_all();
        self.ready.notify_all();
        true
    }
}

fn work(shared: &Shared) {
    let guard = PanicGuard(shared);
    let mut class = IoClass::of_this_thread();
    while let Some(path) = shared.next_directory() {
        class.set_idle(shared.settings.is_idle.load(Ordering::Relaxed));
        if let Err(error) = walk::read_directory(shared, path) {
            shared.fail(spill_failed(&error));
        }
    }
    drop(guard);
}

/// Ends the walk when a worker panics; otherwise whoever waits for a listing would wait for ever.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Failure::new(FailureKind::Bug, "a thread that reads directories panicked"));
        }
    }
}

fn spill_failed(error: &io::Error) -> Failure {
    Failure::new(FailureKind::Exhausted, format!("cannot sort a large directory on disk: {error}"))
        .hint("Free some space in the agent's state directory.")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use sync::listing::ListingOrder;
    use tree::Root;

    use super::*;

    fn settings(spill: &Path, workers: usize) -> ScanSettings {
        ScanSettings { workers, ..ScanSettings::new(Filter::default(), spill) }
    }

    /// Walks, checks the order, and returns the paths of all entries and how directories ended that are not whole.
    fn scan(root: &Path, workers: usize, bounds: Bounds) -> (Vec<RelPath>, Vec<(RelPath, ListingEnd)>) {
        let spill = tempfile::tempdir().unwrap();
        let dir = Root::open(root).unwrap().dir();
        let mut order = ListingOrder::new();
        let (mut paths, mut ends) = (Vec::new(), Vec::new());
        for listing in Scan::start_with(dir, settings(spill.path(), workers), bounds).unwrap() {
            let listing = listing.unwrap();
            order.accept(&listing).unwrap();
            paths.extend(listing.entries.iter().map(|entry| listing.path.join(&entry.name).unwrap()));
            if !matches!(listing.end, ListingEnd::Complete | ListingEnd::More) {
                ends.push((listing.path, listing.end));
            }
        }
        order.finish().unwrap();
        (paths, ends)
    }

    fn grow(root: &Path, depth: u32) -> usize {
        let mut count = 0;
        for number in 0..4 {
            let path = root.join(format!("d{number}"));
            std::fs::create_dir(&path).unwrap();
            std::fs::write(root.join(format!("f{number}")), "x").unwrap();
            count += 2 + if depth > 0 { grow(&path, depth - 1) } else { 0 };
        }
        count
    }

    #[test]
    fn every_number_of_workers_and_every_window_give_the_same_walk() {
        let root = tempfile::tempdir().unwrap();
        let count = grow(root.path(), 3);
        let (expected, _) = scan(root.path(), 1, BOUNDS);
        assert_eq!(expected.len(), count);
        for workers in [1, 2, 3, 8] {
            for ahead_bytes in [0, 1, 500, 5_000, AHEAD_BYTES] {
                for children in [2, 100] {
                    let bounds = Bounds { ahead_bytes, children };
                    assert_eq!(scan(root.path(), workers, bounds).0, expected, "{workers} {bounds:?}");
                }
            }
        }
    }

    #[test]
    fn a_very_wide_directory_keeps_its_order() {
        let root = tempfile::tempdir().unwrap();
        let count = 2 * feeder::FED_AT_ONCE + 30;
        for number in 0..count {
            std::fs::create_dir(root.path().join(format!("{number}"))).unwrap();
        }
        std::fs::write(root.path().join("3/file"), "x").unwrap();
        std::fs::write(root.path().join("99/file"), "x").unwrap();
        for children in [0, 1, 10, 50, count] {
            let bounds = Bounds { ahead_bytes: 10_000, children };
            assert_eq!(scan(root.path(), 2, bounds).0.len(), count + 2, "{children}");
        }
    }

    #[test]
    fn a_very_wide_directory_is_not_read_ahead_without_end() {
        let (folder, spill) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for number in 0..5_000 {
            std::fs::write(folder.path().join(format!("{number}")), "").unwrap();
        }
        let ahead_bytes = 100_000;
        let dir = tree::Root::open(folder.path()).unwrap().dir();
        let scan =
            Scan::start_with(dir, settings(spill.path(), 1), Bounds { ahead_bytes, ..BOUNDS }).unwrap();
        while scan.shared.lock().ready_bytes < ahead_bytes {
            std::thread::yield_now();
        }
        for _ in 0..10_000 {
            // One part of a thousand entries takes it over the bound.
            assert!(scan.shared.lock().ready_bytes < 3 * ahead_bytes);
            std::thread::yield_now();
        }
        let entries: usize = scan.map(|listing| listing.unwrap().entries.len()).sum();
        assert_eq!(entries, 5_000);
    }

    #[test]
    fn a_walk_that_nobody_wants_any_more_stops() {
        let root = tempfile::tempdir().unwrap();
        grow(root.path(), 3);
        let spill = tempfile::tempdir().unwrap();
        let dir = Root::open(root.path()).unwrap().dir();
        let mut scan =
            Scan::start_with(dir, settings(spill.path(), 4), Bounds { ahead_bytes: 100, ..BOUNDS }).unwrap();
        assert!(scan.next().unwrap().unwrap().path.is_root());
    }

    #[test]
    fn what_the_kernel_makes_up_is_passed_over() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let points = ["proc", "ram"].map(|name| root.path().join(name));
        for (point, fs_type) in points.iter().zip(["proc", "tmpfs"]) {
            std::fs::create_dir(point).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            if let Err(errno) = rustix::mount::mount("none", point, fs_type, flags, None) {
                crate::mounted_test::skipped(&format!("cannot mount {fs_type}: {errno}"));
                return;
            }
        }
        std::fs::write(points[1].join("file"), "content").unwrap();
        let (paths, ends) = scan(root.path(), 2, BOUNDS);
        for point in &points {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["proc", "ram", "ram/file"]);
        assert!(
            matches!(&ends[..], [(path, ListingEnd::PassedOver { why })]
            if path.as_bytes() == b"proc" && why.contains("type proc")),
            "{ends:?}"
        );
    }

    #[test]
    fn only_a_real_stage_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32, has_marker: bool| {
            let path = root.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            if has_marker {
                std::fs::write(path.join("marker"), "x").unwrap();
            }
        };
        make(".drover-m1-real", 0o700, true);
        make(".drover-m1-open", 0o755, true);
        make(".drover-m1-bare", 0o700, false);
        let spill = tempfile::tempdir().unwrap();
        let dir = Root::open(root.path()).unwrap().dir();
        let listing = Scan::start(dir, settings(spill.path(), 1)).unwrap().next().unwrap().unwrap();
        let names: Vec<&[u8]> = listing.entries.iter().map(|entry| entry.name.as_slice()).collect();
        assert_eq!(names, [&b".drover-m1-bare"[..], b".drover-m1-open"]);
        assert_eq!(listing.stages[0].0, b".drover-m1-real");
    }

    #[test]
    fn a_directory_that_vanished_is_told_as_such() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..50 {
            std::fs::create_dir(root.path().join(format!("{number:02}"))).unwrap();
        }
        let spill = tempfile::tempdir().unwrap();
        let dir = Root::open(root.path()).unwrap().dir();
        // Nothing is read ahead, so the last directory is still to be opened when the first listing is out.
        let mut scan =
            Scan::start_with(dir, settings(spill.path(), 1), Bounds { ahead_bytes: 0, ..BOUNDS }).unwrap();
        scan.next().unwrap().unwrap();
        std::fs::remove_dir(root.path().join("48")).unwrap();
        std::fs::remove_dir(root.path().join("49")).unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("49")).unwrap();
        let ends: Vec<ListingEnd> = scan.map(|listing| listing.unwrap().end).collect();
        assert_eq!(
            ends[ends.len() - 3..],
            [ListingEnd::Complete, ListingEnd::Vanished, ListingEnd::Vanished]
        );
    }
}
