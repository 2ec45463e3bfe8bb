//! Sorting more than fits into memory.
//!
//! Values are gathered up to a bound, sorted, and written as a run into the stage's `spill/`; the runs are merged while
//! they are read. What is small never leaves memory. Equal values keep the order in which they came.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::vec;

use common::failure::Failure;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tree::{Dir, Name};

use crate::frame_file::{FrameReader, FrameWriter};
use crate::trouble::of_stage;

/// Values gathered in memory: about 16 MiB of usual records.
const RUN_VALUES_MAX: usize = 32 * 1024;

/// Takes values in any order.
#[derive(Debug)]
pub(crate) struct Sorter<T> {
    spill: Dir,
    label: String,
    gathered: Vec<T>,
    runs: Vec<Run<T>>,
    run_values_max: usize,
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
            runs: Vec::new(),
            run_values_max: RUN_VALUES_MAX,
        }
    }

    /// Takes a value.
    pub(crate) fn push(&mut self, value: T) -> Result<(), Failure> {
        self.gathered.push(value);
        if self.gathered.len() >= self.run_values_max { self.write_run() } else { Ok(()) }
    }

    /// Begins to yield all that was taken.
    pub(crate) fn finish(mut self) -> Result<Sorted<T>, Failure> {
        self.gathered.sort();
        self.runs.push(Run::Memory(self.gathered.into_iter()));
        let mut heads = BinaryHeap::with_capacity(self.runs.len());
        for (run, values) in self.runs.iter_mut().enumerate() {
            heads.extend(values.next()?.map(|value| Head { value, run }));
        }
        Ok(Sorted { runs: self.runs, heads })
    }

    fn write_run(&mut self) -> Result<(), Failure> {
        self.gathered.sort();
        let name =
            Name::new(format!("{}-{}", self.label, self.runs.len())).expect("a label of ours without slash");
        match self.spill.unlink(&name) {
            Err(error) if !error.is_not_found() => return Err(of_stage(&error)),
            _ => {}
        }
        let mut writer = FrameWriter::new(self.spill.create_append(&name).map_err(|error| of_stage(&error))?);
        for value in self.gathered.drain(..) {
            writer.write(&value)?;
        }
        let file = writer.finish()?;
        // Held open and unnamed: it is gone with its reader.
        self.spill.unlink(&name).map_err(|error| of_stage(&error))?;
        self.runs.push(Run::File(Box::new(FrameReader::forwards(file, 0))));
        Ok(())
    }
}

impl<T: Ord + DeserializeOwned> Sorted<T> {
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

    #[test]
    fn many_runs_are_one_order() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Root::open(folder.path()).unwrap().dir();
        let mut sorter = Sorter::new(&spill, "numbers");
        sorter.run_values_max = 10;
        let values: Vec<u64> = (0..1005).map(|number| number * 7919 % 1013).collect();
        for value in &values {
            sorter.push(*value).unwrap();
        }
        let mut sorted = sorter.finish().unwrap();
        let mut expected = values;
        expected.sort_unstable();
        assert_eq!(sorted.peek(), Some(&expected[0]));
        for value in expected {
            assert_eq!(sorted.next().unwrap(), Some(value));
        }
        assert_eq!(sorted.next().unwrap(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
