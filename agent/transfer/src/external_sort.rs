//! Sorting more than fits into memory.
//!
//! Values are gathered up to a bound, sorted, and written as a run into the stage's `spill/`; the runs are merged while
//! they are read. Of many runs some are merged before, so that neither descriptors nor buffers grow with what is sorted.
//! What is small never leaves memory. Equal values keep the order in which they came.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::vec;

use common::failure::{Failure, FailureKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tree::{Dir, Name};

use crate::frame_file::{FrameReader, FrameWriter};
use crate::trouble::of_stage;

/// Values gathered in memory: about 8 MiB of usual records, which take more there than in a file.
const RUN_VALUES_MAX: usize = 16 * 1024;
/// What they may take when they are written, however many they are: a record of one entry may be a mebibyte.
const RUN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Runs of one level that become one of the next: with a buffer of 64 KiB each, and half a million records in each of
/// the second level, two levels are all that any tree needs. A verification has four sorters at once.
const MERGED_RUNS: usize = 32;

/// Takes values in any order.
#[derive(Debug)]
pub(crate) struct Sorter<T> {
    spill: Dir,
    label: String,
    gathered: Vec<T>,
    gathered_bytes: usize,
    /// Runs in files with how often they were merged, which never rises from one to the next.
    runs: Vec<(u32, Run<T>)>,
    files: usize,
    run_values_max: usize,
    run_bytes_max: usize,
}

#[derive(Debug)]
enum Run<T> {
    Memory(vec::IntoIter<T>),
    File(Box<FrameReader<T>>),
}

impl<T: DeserializeOwned> Run<T> {
    fn next(&mut self) -> Result<Option<T>, Failure> {
        match self {
            Self::Memory(values) => Ok(values.next()),
            Self::File(reader) => reader.next(),
        }
    }
}

/// Yields values in order.
#[derive(Debug)]
pub(crate) struct Sorted<T> {
    runs: Vec<Run<T>>,
    heads: BinaryHeap<Head<T>>,
}

/// The first value of a run that was not yielded yet; the heap's greatest is the first in order.
#[derive(Debug)]
struct Head<T> {
    value: T,
    run: usize,
}

impl<T: Ord> Ord for Head<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.value.cmp(&self.value).then(other.run.cmp(&self.run))
    }
}

impl<T: Ord> PartialOrd for Head<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for Head<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T: Ord> Eq for Head<T> {}

impl<T: Ord + Serialize + DeserializeOwned> Sorter<T> {
    /// Makes a sorter whose runs go to `spill`, under names that begin with `label`.
    pub(crate) fn new(spill: &Dir, label: &str) -> Self {
        Self {
            spill: spill.clone(),
            label: label.to_owned(),
            gathered: Vec::new(),
            gathered_bytes: 0,
            runs: Vec::new(),
            files: 0,
            run_values_max: RUN_VALUES_MAX,
            run_bytes_max: RUN_BYTES_MAX,
        }
    }

    /// Takes a value.
    pub(crate) fn push(&mut self, value: T) -> Result<(), Failure> {
        let bytes = postcard::serialize_with_flavor(&value, postcard::ser_flavors::Size::default());
        self.gathered_bytes += bytes.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        self.gathered.push(value);
        let is_full = self.gathered.len() >= self.run_values_max || self.gathered_bytes >= self.run_bytes_max;
        if is_full { self.write_gathered() } else { Ok(()) }
    }

    /// Begins to yield all that was taken.
    pub(crate) fn finish(mut self) -> Result<Sorted<T>, Failure> {
        self.gathered.sort();
        let runs = self.runs.into_iter().map(|(_level, run)| run);
        Sorted::of(runs.chain([Run::Memory(self.gathered.into_iter())]).collect())
    }

    fn write_gathered(&mut self) -> Result<(), Failure> {
        self.gathered.sort();
        self.gathered_bytes = 0;
        let mut gathered = std::mem::take(&mut self.gathered).into_iter();
        self.write_run(0, || Ok(gathered.next()))?;
        while let Some(level) = self.full_level() {
            let merged = self.runs.split_off(self.runs.len() - MERGED_RUNS);
            let mut merged = Sorted::of(merged.into_iter().map(|(_level, run)| run).collect())?;
            self.write_run(level + 1, || merged.next())?;
        }
        Ok(())
    }

    /// Returns the level of the last runs, if there are enough of it.
    fn full_level(&self) -> Option<u32> {
        let first = self.runs.len().checked_sub(MERGED_RUNS)?;
        let level = self.runs[first].0;
        self.runs.last().is_some_and(|(last, _run)| *last == level).then_some(level)
    }

    fn write_run(
        &mut self,
        level: u32,
        mut next: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<(), Failure> {
        let name =
            Name::new(format!("{}-{}", self.label, self.files)).expect("a label of ours without slash");
        self.files += 1;
        match self.spill.unlink(&name) {
            Err(error) if !error.is_not_found() => return Err(of_stage(&error)),
            _ => {}
        }
        let mut writer = FrameWriter::new(self.spill.create_append(&name).map_err(|error| of_stage(&error))?);
        while let Some(value) = next()? {
            writer.write(&value)?;
        }
        let file = writer.finish()?;
        // Held open and unnamed: it is gone with its reader.
        self.spill.unlink(&name).map_err(|error| of_stage(&error))?;
        self.runs.push((level, Run::File(Box::new(FrameReader::forwards(file, 0)))));
        Ok(())
    }
}

impl<T: Ord + DeserializeOwned> Sorted<T> {
    /// Begins to yield what is in runs, each in order.
    fn of(mut runs: Vec<Run<T>>) -> Result<Self, Failure> {
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (run, values) in runs.iter_mut().enumerate() {
            heads.extend(values.next()?.map(|value| Head { value, run }));
        }
        Ok(Self { runs, heads })
    }

    /// Holds nothing.
    pub(crate) fn none() -> Self {
        Self { runs: Vec::new(), heads: BinaryHeap::new() }
    }

    /// Takes the next value.
    pub(crate) fn next(&mut self) -> Result<Option<T>, Failure> {
        let Some(Head { value, run }) = self.heads.pop() else { return Ok(None) };
        if let Some(next) = self.runs[run].next()? {
            self.heads.push(Head { value: next, run });
        }
        Ok(Some(value))
    }

    /// Looks at the next value.
    pub(crate) fn peek(&self) -> Option<&T> {
        self.heads.peek().map(|head| &head.value)
    }
}

#[cfg(test)]
mod tests {
    use tree::Root;

    use super::*;

    /// A value whose order is that of its first part alone.
    #[derive(Clone, Debug, Serialize, serde::Deserialize)]
    struct Numbered(u64, usize, Vec<u8>);

    impl Ord for Numbered {
        fn cmp(&self, other: &Self) -> Ordering {
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Numbered {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Numbered {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other) == Ordering::Equal
        }
    }

    impl Eq for Numbered {}

    /// Sorts some thousand values in runs of three, and returns how many runs were there at once.
    fn check(value: impl Fn(u64, usize) -> Numbered, set: impl Fn(&mut Sorter<Numbered>)) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let spill = Root::open(folder.path()).unwrap().dir();
        let mut sorter = Sorter::new(&spill, "numbers");
        set(&mut sorter);
        let values: Vec<_> = (0..)
            .map(|number| number * 7919 % 1013)
            .zip(0..3 * 1100 + 2)
            .map(|(key, at)| value(key, at))
            .collect();
        let mut runs_max = 0;
        for value in &values {
            sorter.push(value.clone()).unwrap();
            runs_max = runs_max.max(sorter.runs.len());
            assert!(sorter.gathered.len() < 3, "more is in memory than may be");
        }
        let mut sorted = sorter.finish().unwrap();
        let mut expected = values;
        expected.sort();
        assert_eq!(sorted.peek(), Some(&expected[0]));
        for value in expected {
            let found = sorted.next().unwrap().unwrap();
            assert_eq!((found.0, found.1), (value.0, value.1), "equal values keep their order");
        }
        assert_eq!(sorted.next().unwrap(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        runs_max
    }

    #[test]
    fn many_runs_are_one_order_and_few_files() {
        let runs = check(|key, at| Numbered(key, at, Vec::new()), |sorter| sorter.run_values_max = 3);
        // Of 1 100 runs one was merged twice.
        assert!(runs <= 2 * MERGED_RUNS, "{runs} files were open at once");
    }

    #[test]
    fn large_values_close_a_run_before_it_is_full() {
        check(|key, at| Numbered(key, at, vec![7; 100]), |sorter| sorter.run_bytes_max = 300);
    }
}
