//! Several runs as one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use super::record::Record;
use super::run::{Damage, ROOTS_MAX, Run};

/// Records of one key and digest that are kept: should the first file be gone, there is another.
const ALIKE_MAX: usize = 2;

/// The records of several runs in order, those of a later run first where keys are the same, and few that are alike.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) roots: Vec<Arc<str>>,
    sources: Vec<Source>,
    /// The next record of each source: its key, and how old the source is.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    /// The digests of the present key, with how often they came.
    key: u64,
    seen: Vec<([u8; 32], usize)>,
}

#[derive(Debug)]
struct Source {
    run: Arc<Run>,
    /// For each root of the run its number in the result.
    roots: Vec<u32>,
    next_block: usize,
    waiting: VecDeque<Record>,
    /// How many of its records may be kept, and how many there were.
    keeps: usize,
    passed: usize,
}

impl Merge {
    /// Begins with runs of which the oldest comes first; of these something is left out where all would be too many.
    pub(super) fn new(runs: &[Arc<Run>], records_max: usize) -> Result<Self, Damage> {
        let mut merge = Self {
            roots: Vec::new(),
            sources: Vec::new(),
            heads: BinaryHeap::new(),
            key: 0,
            seen: Vec::new(),
        };
        let mut numbers: HashMap<Arc<str>, u32> = HashMap::new();
        let mut room = records_max;
        for run in runs.iter().rev() {
            let new = run.roots.iter().filter(|root| !numbers.contains_key(*root)).count();
            if room == 0 || numbers.len() + new > ROOTS_MAX {
                break;
            }
            let mut roots = Vec::with_capacity(run.roots.len());
            for root in &run.roots {
                let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                roots.push(*numbers.entry(Arc::clone(root)).or_insert_with(|| {
                    merge.roots.push(Arc::clone(root));
                    next
                }));
            }
            let keeps = run.len().min(room);
            room -= keeps;
            let run = Arc::clone(run);
            merge.sources.push(Source {
                run,
                roots,
                next_block: 0,
                waiting: VecDeque::new(),
                keeps,
                passed: 0,
            });
        }
        for number in 0..merge.sources.len() {
            merge.look(number)?;
        }
        Ok(merge)
    }

    /// Returns the next record that is kept.
    pub(super) fn next(&mut self) -> Result<Option<Record>, Damage> {
        while let Some(Reverse((key, number))) = self.heads.pop() {
            let Some(record) = self.sources[number].waiting.pop_front() else { continue };
            self.look(number)?;
            if key != self.key {
                (self.key, self.seen) = (key, Vec::new());
            }
            match self.seen.iter_mut().find(|(digest, _)| *digest == record.digest) {
                Some((_, count)) if *count >= ALIKE_MAX => continue,
                Some((_, count)) => *count += 1,
                None => self.seen.push((record.digest, 1)),
            }
            return Ok(Some(record));
        }
        Ok(None)
    }

    /// Has a source wait with its next record.
    fn look(&mut self, number: usize) -> Result<(), Damage> {
        let source = &mut self.sources[number];
        while source.waiting.is_empty() && source.next_block < source.run.blocks() {
            let block = source.run.block(source.next_block)?;
            source.next_block += 1;
            let (all, keeps) = (source.run.len().max(1), source.keeps);
            for mut record in block {
                // What is left out is spread over all of it.
                let is_kept = source.passed * keeps / all != (source.passed + 1) * keeps / all;
                source.passed += 1;
                let root = usize::try_from(record.root).ok().and_then(|root| source.roots.get(root));
                record.root = *root.ok_or(Damage::Torn)?;
                if is_kept {
                    source.waiting.push_back(record);
                }
            }
        }
        if let Some(first) = source.waiting.front() {
            self.heads.push(Reverse((first.key, number)));
        }
        Ok(())
    }
}
