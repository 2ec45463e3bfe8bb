//! What earlier migrations of this tenant brought to this host, as one pass uses it: see [`crate::index`].
//!
//! With the wish for a small file goes what is held of that name and size, as two bytes of each digest. A source whose
//! file begins with these two answers with a proof that it has the content, and no bytes; the same is computed here over
//! the file that is held, so neither the index nor the source is believed. Where that is not it, the bytes are asked for.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use common::digest::Digest;
use common::rel_path::RelPath;
use sync::pack;
use sync::range::RANGE_BYTES;
use sync::wire::content::{HELD_MAX, Have, Layout, What};
use tree::{Dir, Name, Root};

use super::lock;
use crate::commit::{Effect, Task};
use crate::index::{Held, Index, Record, key_of};
use crate::recent::Recent;
use crate::serve::WORTH_BYTES_MIN;
use crate::standing::time;

/// Files that landed, until they become a run: about 6 MiB.
const GATHERED_MAX: usize = 32 * 1024;
/// Roots of earlier migrations that are held open.
const ROOTS_MAX: usize = 64;
/// Answers that came to nothing, beyond those that were of use, after which nothing is hinted at any more: each of them
/// costs a question.
const IN_VAIN_MAX: u64 = 64;

/// What is held, for one connection.
#[derive(Debug)]
pub(crate) struct Known {
    /// Nothing where there is no place for it.
    index: Option<Arc<Index>>,
    nonce: [u8; 32],
    /// The destination's root.
    root: String,
    gathered: Mutex<Vec<Record>>,
    /// Roots, as far as they are there.
    roots: Mutex<Recent<Arc<str>, Option<Dir>>>,
    of_use: AtomicU64,
    in_vain: AtomicU64,
}

impl Known {
    /// Begins a pass.
    pub(crate) fn new(index: Option<Arc<Index>>, nonce: [u8; 32], root: String) -> Self {
        Self {
            index,
            nonce,
            root,
            gathered: Mutex::new(Vec::new()),
            roots: Mutex::new(Recent::new(ROOTS_MAX)),
            of_use: AtomicU64::new(0),
            in_vain: AtomicU64::new(0),
        }
    }

    /// Returns how a small file is asked for.
    pub(super) fn hint(&self, path: &RelPath, size: u64) -> What {
        let mut prefixes = [None; HELD_MAX];
        if self.in_vain.load(Relaxed) > self.of_use.load(Relaxed).saturating_add(IN_VAIN_MAX) {
            return What::Whole;
        }
        let mut count = 0;
        for held in self.find(path, size) {
            let prefix = Some(held.record.prefix());
            if count < HELD_MAX && !prefixes.contains(&prefix) && self.open_root(&held.root).is_some() {
                prefixes[count] = prefix;
                count += 1;
            }
        }
        if count > 0 { What::Held { prefixes } } else { What::Whole }
    }

    /// Reads the file that a proof is of into `content`, and returns its digest; nothing if there is none here.
    pub(super) fn read(&self, path: &RelPath, have: &Have, content: &mut Vec<u8>) -> Option<Digest> {
        let is_it = |content: &[u8]| {
            let proof = pack::content_proof(&self.nonce, &Layout::Dense, content.len(), content);
            blake3::Hash::from_bytes(proof) == blake3::Hash::from_bytes(have.proof)
        };
        let found = self.find(path, have.stamp.size).into_iter().find_map(|held| {
            let is_named = held.record.prefix() == have.prefix;
            (is_named && self.read_held(&held, content).is_some() && is_it(content))
                .then(|| Digest::of(content))
        });
        if found.is_some() { &self.of_use } else { &self.in_vain }.fetch_add(1, Relaxed);
        found
    }

    fn find(&self, path: &RelPath, size: u64) -> Vec<Held> {
        match &self.index {
            Some(index) if (WORTH_BYTES_MIN..=RANGE_BYTES).contains(&size) => {
                let mut found = index.find(key_of(path, size));
                // Two names and sizes may have one key.
                found.retain(|held| held.record.size == size);
                found
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Reads a file that looks as it did when it was noted.
    fn read_held(&self, held: &Held, content: &mut Vec<u8>) -> Option<()> {
        let Record { size, ino, mtime, path, .. } = &held.record;
        let (parent, name) = path.split()?;
        let name = Name::new(name).ok()?;
        let file = self.open_root(&held.root)?.open_beneath(parent.as_bytes()).ok()?.open_file(&name).ok()?;
        let stat = file.opened();
        if stat.size != *size || stat.ino != *ino || time(stat.mtime) != *mtime {
            return None;
        }
        let length = usize::try_from(*size).ok()?;
        content.resize(length, 0);
        (file.read_at(content, 0).ok()? == length).then_some(())
    }

    fn open_root(&self, path: &Arc<str>) -> Option<Dir> {
        let mut roots = lock(&self.roots);
        if let Some(known) = roots.get(path) {
            return known.clone();
        }
        let root = Root::open(Path::new(path.as_ref())).ok().map(|root| root.dir());
        roots.insert(Arc::clone(path), root.clone());
        root
    }

    /// Returns what is to be noted of a task once it is done.
    pub(super) fn record_of(&self, task: &Task) -> Option<Record> {
        let Effect::Install { new, digest: Some(digest), .. } = &task.effect else { return None };
        let is_kept = self.index.is_some() && (WORTH_BYTES_MIN..=RANGE_BYTES).contains(&new.size());
        is_kept.then(|| Record::new(task.path.clone(), new.size(), new.ino, new.mtime, digest))
    }

    /// Notes a file that landed.
    pub(super) fn note(&self, record: Record) {
        let mut gathered = lock(&self.gathered);
        gathered.push(record);
        if gathered.len() >= GATHERED_MAX {
            let full = std::mem::take(&mut *gathered);
            drop(gathered);
            self.add(full);
        }
    }

    /// Writes what was noted, at the end of a pass, however it ended: what landed is there.
    pub(super) fn write(&self) {
        let gathered = std::mem::take(&mut *lock(&self.gathered));
        self.add(gathered);
    }

    fn add(&self, records: Vec<Record>) {
        if let Some(index) = &self.index {
            index.add(&self.root, records);
        }
    }
}
