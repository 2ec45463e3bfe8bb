//! The index of one tenant.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::failure::Failure;
use tree::{Dir, Name, TreeError};

use super::merge::Merge;
use super::record::Record;
use super::run::{Damage, Run, RunWriter};
use crate::trouble::of_stage;

/// Runs that are asked one after the other; more become one.
const RUNS_MAX: usize = 8;
/// Run files that are looked at when an index is opened; a crash in the middle of a merge leaves one more than there were.
const OPENED_MAX: usize = 64;
/// Records of one tenant: about 130 MiB on disk and 5 MiB in memory.
const RECORDS_MAX: usize = 1_000_000;
/// Records of one key that are looked at.
pub(crate) const FOUND_MAX: usize = 8;
const RUN: &str = "run-";
const BESIDE: &str = "new-";

/// A file that was here when it was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The root below which it was.
    pub(crate) root: Arc<str>,
    /// The file.
    pub(crate) record: Record,
}

/// Which contents a tenant's migrations brought to this host, and where they were then.
#[derive(Debug)]
pub(crate) struct Index {
    dir: Dir,
    state: Mutex<State>,
    /// Held by whoever adds a run or merges.
    adding: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    runs: Vec<Arc<Run>>,
    /// The number of the next run.
    next: u64,
}

impl Index {
    /// Opens the index in a folder; what cannot be read is removed.
    pub(crate) fn open(dir: Dir) -> Result<Self, TreeError> {
        let mut numbers = Vec::new();
        for entry in dir.list()? {
            let name = entry?.name;
            let number = name.as_bytes().strip_prefix(RUN.as_bytes());
            match number.and_then(|number| std::str::from_utf8(number).ok()?.parse::<u64>().ok()) {
                Some(number) => numbers.push(number),
                // What a kill left of a run that was being written.
                None => drop(dir.unlink(&name)),
            }
        }
        numbers.sort_unstable();
        let index = Self { dir, state: Mutex::default(), adding: Mutex::new(()) };
        let mut state = index.state();
        state.next = numbers.last().map_or(0, |last| last.saturating_add(1));
        let first = numbers.len().saturating_sub(OPENED_MAX);
        for number in numbers.drain(..first) {
            index.dir.unlink(&name_of(RUN, number)).ok();
        }
        for number in numbers {
            let name = name_of(RUN, number);
            match Run::open(&index.dir, name.clone()) {
                Ok(run) => state.runs.push(Arc::new(run)),
                Err(damage) => index.drop_damaged(&name, &damage),
            }
        }
        drop(state);
        Ok(index)
    }

    /// Returns files that had this key, the latest first.
    pub(crate) fn find(&self, key: u64) -> Vec<Held> {
        let runs = self.state().runs.clone();
        let mut found = Vec::new();
        for run in runs.iter().rev() {
            match run.find(key, FOUND_MAX - found.len()) {
                Ok(records) => found.extend(records.into_iter().filter_map(|record| {
                    let root = run.roots.get(usize::try_from(record.root).ok()?)?;
                    Some(Held { root: Arc::clone(root), record })
                })),
                Err(damage) => {
                    self.state().runs.retain(|other| !Arc::ptr_eq(other, run));
                    self.drop_damaged(&run.name, &damage);
                }
            }
            if found.len() >= FOUND_MAX {
                break;
            }
        }
        found
    }

    /// Adds files below one root. That it cannot be written is a line in the log.
    pub(crate) fn add(&self, root: &str, mut records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        records.sort_by_key(|record| record.key);
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = records.into_iter();
        self.write(&[Arc::from(root)], || Ok(records.next()), 0);
        let runs = self.state().runs.clone();
        if runs.len() > RUNS_MAX {
            self.merge(&runs);
        }
    }

    fn merge(&self, runs: &[Arc<Run>]) {
        match Merge::new(runs, RECORDS_MAX) {
            Ok(mut merge) => {
                let roots = merge.roots.clone();
                self.write(&roots, || merge.next(), runs.len());
            }
            // Which run it is shows when it is asked; to begin anew is cheaper than to find out.
            Err(damage) => self.drop_all(&damage),
        }
    }

    /// Writes a run, which takes the place of so many of the oldest.
    fn write(
        &self,
        roots: &[Arc<str>],
        next: impl FnMut() -> Result<Option<Record>, Damage>,
        replaced: usize,
    ) {
        let number = self.state().next;
        let (beside, name) = (name_of(BESIDE, number), name_of(RUN, number));
        match self.write_beside(&beside, &name, roots, next) {
            Ok(run) => {
                let mut state = self.state();
                state.next += 1;
                let replaced = replaced.min(state.runs.len());
                let gone: Vec<Arc<Run>> = state.runs.drain(..replaced).collect();
                state.runs.push(Arc::new(run));
                drop(state);
                for run in gone {
                    self.dir.unlink(&run.name).ok();
                }
            }
            Err(Unwritten::Damaged(damage)) => self.drop_all(&damage),
            Err(Unwritten::Failed(failure)) => {
                self.dir.unlink(&beside).ok();
                tracing::warn!(%failure, "index of content not written");
            }
        }
    }

    fn write_beside(
        &self,
        beside: &Name,
        name: &Name,
        roots: &[Arc<str>],
        mut next: impl FnMut() -> Result<Option<Record>, Damage>,
    ) -> Result<Run, Unwritten> {
        self.dir.unlink(beside).ok();
        let file = self.dir.create_append(beside).map_err(|error| of_stage(&error))?;
        let mut writer = RunWriter::new(file, roots)?;
        while let Some(record) = next().map_err(Unwritten::Damaged)? {
            writer.push(record)?;
        }
        writer.finish()?;
        self.dir.rename_over(beside, &self.dir, name).map_err(|error| of_stage(&error))?;
        Run::open(&self.dir, name.clone()).map_err(Unwritten::Damaged)
    }

    fn drop_damaged(&self, name: &Name, damage: &Damage) {
        let run = String::from_utf8_lossy(name.as_bytes()).into_owned();
        tracing::warn!(%run, reason = %common::failure::chain(damage), "a part of the index of content was dropped");
        self.dir.unlink(name).ok();
    }

    fn drop_all(&self, damage: &Damage) {
        let runs = std::mem::take(&mut self.state().runs);
        for run in runs {
            self.drop_damaged(&run.name, damage);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock holds a whole list: it is changed by single calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a run was not written.
#[derive(Debug)]
enum Unwritten {
    /// What was to be merged cannot be read.
    Damaged(Damage),
    Failed(Failure),
}

impl From<Failure> for Unwritten {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn name_of(prefix: &str, number: u64) -> Name {
    Name::new(format!("{prefix}{number}")).expect("a constant and digits are a name")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use common::rel_path::RelPath;
    use sync::stamp::Time;
    use tree::Root;

    use super::super::key_of;
    use super::*;

    fn open(folder: &Path) -> Index {
        Index::open(Root::open(folder).unwrap().dir()).unwrap()
    }

    fn record(path: &str, size: u64, content: &str) -> Record {
        let path = RelPath::try_from(path.as_bytes().to_vec()).unwrap();
        Record::new(path, size, 7, Time::default(), &common::digest::Digest::of(content.as_bytes()))
    }

    fn find(index: &Index, name: &str, size: u64) -> Vec<(String, String)> {
        let found = index.find(key_of(&RelPath::try_from(name.as_bytes().to_vec()).unwrap(), size));
        let shown = |held: Held| (held.root.to_string(), held.record.path.to_string());
        found.into_iter().map(shown).collect()
    }

    fn files(folder: &Path) -> Vec<String> {
        let name =
            |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_added_is_found_by_name_and_size_the_latest_first_also_later() {
        let folder = tempfile::tempdir().unwrap();
        let index = open(folder.path());
        for round in 0..30_u64 {
            let records = (0..500).map(|number| {
                record(&format!("site{round}/file-{number}"), number, &format!("{} {number}", round / 10))
            });
            index.add(&format!("/srv/{}", round / 3), records.collect());
            let runs = files(folder.path()).len();
            assert!(runs <= RUNS_MAX + 1 && runs == index.state().runs.len(), "{runs} runs");
        }
        for index in [&index, &open(folder.path())] {
            for number in [0, 17, 499] {
                let found = find(index, &format!("elsewhere/file-{number}"), number);
                assert_eq!(found[0], ("/srv/9".to_owned(), format!("site29/file-{number}")));
                assert!(found.len() <= FOUND_MAX);
                // Of each content that the name had there is one.
                for site in ["site1", "site2"] {
                    assert!(found.iter().any(|(_, path)| path.starts_with(site)), "{found:?}");
                }
            }
            assert_eq!(find(index, "file-17", 18), []);
            assert_eq!(find(index, "file-18x", 18), []);
        }
    }

    #[test]
    fn what_a_kill_left_is_cleared_and_damage_costs_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let index = open(folder.path());
        for name in ["a", "b", "c"] {
            let more = (0..100).map(|number| record(&format!("{name}/{number}"), 9, "x"));
            index.add("/srv", more.chain([record(name, 5, name)]).collect());
        }
        drop(index);
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("new-3"), b"half a run").unwrap();
        let whole = std::fs::read(at("run-0")).unwrap();
        std::fs::write(at("run-0"), &whole[..whole.len() / 2]).unwrap();
        std::fs::write(at("run-7"), vec![0x5a; 5000]).unwrap();
        std::fs::write(at("run-8"), b"").unwrap();
        let index = open(folder.path());
        assert_eq!(files(folder.path()), ["run-1", "run-2"]);
        assert_eq!((find(&index, "a", 5).len(), find(&index, "b", 5).len()), (0, 1));
        // One that was damaged since it was opened is noticed when it is read.
        let mut bytes = std::fs::read(at("run-1")).unwrap();
        bytes.fill(0);
        std::fs::write(at("run-1"), bytes).unwrap();
        assert_eq!((find(&index, "b", 5).len(), find(&index, "c", 5).len()), (0, 1));
        index.add("/srv", vec![record("d", 5, "d")]);
        assert_eq!(find(&index, "d", 5).len(), 1);
        assert!(files(folder.path()).iter().all(|name| name.starts_with("run-")));
    }

    #[test]
    fn there_is_a_bound_to_what_is_kept_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let index = open(folder.path());
        for round in 0..4 {
            index.add("/srv", (0..100).map(|number| record(&format!("{round}-{number}"), 5, "")).collect());
        }
        let mut merge = Merge::new(&index.state().runs, 250).unwrap();
        let mut rounds = [0; 4];
        let mut before = 0;
        while let Some(record) = merge.next().unwrap() {
            assert!(record.key >= before);
            before = record.key;
            rounds[usize::from(record.path.as_bytes()[0] - b'0')] += 1;
        }
        assert_eq!(rounds, [0, 50, 100, 100]);
    }
}
