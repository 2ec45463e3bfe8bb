//! The ledger in the order of listings, however large it is.
//!
//! Records are gathered up to a bound, sorted, and written as a run into the stage's `spill/`; the runs are merged
//! while they are read. A small ledger never leaves memory.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::vec;

use common::failure::Failure;
use common::rel_path::RelPath;
use sync::entry::Entry;
use sync::stamp::Time;
use tree::{Dir, Name};

use super::frame::{FrameReader, FrameWriter};
use super::log::SettledRecords;
use super::record::{Change, Settled, listing_order};
use crate::trouble::of_stage;

/// Records gathered in memory: about 16 MiB of usual ones.
const RUN_RECORDS_MAX: usize = 32 * 1024;

/// All that was done to one path, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct History {
    /// The path.
    pub(crate) path: RelPath,
    /// At least one.
    pub(crate) changes: Vec<Settled>,
}

impl History {
    /// Returns what stands there if nobody else touched it, with its change time.
    pub(crate) fn standing(&self) -> Option<(&Entry, Option<Time>)> {
        let last = self.changes.last()?;
        Some((last.intent.change.new()?, last.ctime))
    }

    /// Returns the digest of the content that this migration wrote last, with the inode that holds it.
    pub(crate) fn written(&self) -> Option<(common::digest::Digest, &Entry)> {
        self.changes.iter().rev().find_map(|settled| match &settled.intent.change {
            Change::Create { new, digest, .. } | Change::Replace { new, digest, .. } => {
                Some(((*digest)?, new))
            }
            Change::Remove { .. } | Change::Metadata { .. } => None,
        })
    }

    /// Whether what stands there with this inode was made by this migration.
    pub(crate) fn is_ours(&self, ino: u64) -> bool {
        self.changes.iter().any(|settled| match &settled.intent.change {
            Change::Create { new, .. } | Change::Replace { new, .. } => new.ino == ino,
            Change::Remove { .. } | Change::Metadata { .. } => false,
        })
    }

    /// Returns what stood there before the migration; nothing if nothing did.
    pub(crate) fn original(&self) -> Option<&Entry> {
        self.changes.first()?.intent.change.old()
    }

    /// Returns the number under which the original is in `undo/`, and what it is; none if it is still in its place or
    /// never was.
    pub(crate) fn kept(&self) -> Option<(u64, &Entry)> {
        let original = self.original()?;
        let (seq, old) = self.all_kept().next()?;
        // A first change of metadata knows better how it looked; unless somebody replaced the inode after that.
        Some((seq, if (old.dev, old.ino) == (original.dev, original.ino) { original } else { old }))
    }

    /// Returns what else is in `undo/`: what somebody put in the place of ours before a later pass.
    pub(crate) fn kept_between(&self) -> impl Iterator<Item = u64> {
        let original = self.kept().map(|(seq, _old)| seq);
        self.all_kept().map(|(seq, _old)| seq).filter(move |seq| Some(*seq) != original)
    }

    fn all_kept(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.changes.iter().filter_map(|settled| {
            let Settled { intent, .. } = settled;
            let old = intent.change.old().filter(|_old| intent.change.keeps_old())?;
            Some((intent.seq, old))
        })
    }
}

/// Histories of paths in the order of listings.
#[derive(Debug)]
pub(crate) struct Histories {
    runs: Vec<Run>,
    heads: BinaryHeap<Head>,
    peeked: Option<History>,
}

#[derive(Debug)]
enum Run {
    Memory(vec::IntoIter<Settled>),
    File(Box<FrameReader<Settled>>),
}

impl Run {
    fn next(&mut self) -> Result<Option<Settled>, Failure> {
        match self {
            Self::Memory(records) => Ok(records.next()),
            Self::File(reader) => reader.next(),
        }
    }
}

/// The first record of a run that was not merged yet; the heap's greatest is the first in order.
#[derive(Debug)]
struct Head {
    settled: Settled,
    run: usize,
}

fn order(first: &Settled, second: &Settled) -> Ordering {
    listing_order(&first.intent.path, &second.intent.path).then(first.intent.seq.cmp(&second.intent.seq))
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        order(&other.settled, &self.settled)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl Histories {
    /// Sorts records; runs go to `spill`, under names that begin with `label`.
    pub(crate) fn sort(records: Option<SettledRecords>, spill: &Dir, label: &str) -> Result<Self, Failure> {
        Self::sort_in_runs(records, spill, label, RUN_RECORDS_MAX)
    }

    fn sort_in_runs(
        records: Option<SettledRecords>,
        spill: &Dir,
        label: &str,
        run_records_max: usize,
    ) -> Result<Self, Failure> {
        let mut runs = Vec::new();
        let mut gathered = Vec::new();
        if let Some(mut records) = records {
            while let Some(settled) = records.next()? {
                gathered.push(settled);
                if gathered.len() >= run_records_max {
                    gathered.sort_by(order);
                    runs.push(write_run(&mut gathered, spill, &format!("{label}-{}", runs.len()))?);
                }
            }
        }
        gathered.sort_by(order);
        runs.push(Run::Memory(gathered.into_iter()));
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (run, records) in runs.iter_mut().enumerate() {
            heads.extend(records.next()?.map(|settled| Head { settled, run }));
        }
        Ok(Self { runs, heads, peeked: None })
    }

    /// Returns the next path's history without taking it.
    pub(crate) fn peek(&mut self) -> Result<Option<&History>, Failure> {
        if self.peeked.is_none() {
            self.peeked = self.merge()?;
        }
        Ok(self.peeked.as_ref())
    }

    /// Takes the next path's history.
    pub(crate) fn next(&mut self) -> Result<Option<History>, Failure> {
        match self.peeked.take() {
            Some(history) => Ok(Some(history)),
            None => self.merge(),
        }
    }

    /// Takes the history of a path, passing over those that come before it in the order of listings.
    pub(crate) fn find(&mut self, path: &RelPath) -> Result<Option<History>, Failure> {
        while let Some(history) = self.peek()? {
            match listing_order(&history.path, path) {
                Ordering::Less => drop(self.next()?),
                Ordering::Equal => return self.next(),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    fn merge(&mut self) -> Result<Option<History>, Failure> {
        let Some(first) = self.take_head()? else { return Ok(None) };
        let mut history = History { path: first.intent.path.clone(), changes: vec![first] };
        while self.heads.peek().is_some_and(|head| head.settled.intent.path == history.path) {
            history.changes.extend(self.take_head()?);
        }
        Ok(Some(history))
    }

    fn take_head(&mut self) -> Result<Option<Settled>, Failure> {
        let Some(Head { settled, run }) = self.heads.pop() else { return Ok(None) };
        if let Some(next) = self.runs[run].next()? {
            self.heads.push(Head { settled: next, run });
        }
        Ok(Some(settled))
    }
}

fn write_run(gathered: &mut Vec<Settled>, spill: &Dir, name: &str) -> Result<Run, Failure> {
    let name = Name::new(name).expect("a label of ours without slash");
    match spill.unlink(&name) {
        Err(error) if !error.is_not_found() => return Err(of_stage(&error)),
        _ => {}
    }
    let mut writer = FrameWriter::new(spill.create_append(&name).map_err(|error| of_stage(&error))?);
    for settled in gathered.drain(..) {
        writer.write(&settled)?;
    }
    let file = writer.finish()?;
    // Held open and unnamed: it is gone with its reader, also after a crash of the next start.
    spill.unlink(&name).map_err(|error| of_stage(&error))?;
    Ok(Run::File(Box::new(FrameReader::forwards(file, 0))))
}
