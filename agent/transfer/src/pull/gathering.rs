//! What has come to the committer and is not committed: items in the order in which they came, those of a directory that
//! is filled in the stage together with it.

use std::collections::HashMap;
use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use common::rel_path::RelPath;

use super::Item;
use crate::assembly::Assembly;

/// Items that wait for a group.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    entries: Vec<Entry>,
    /// The directories among them, by path.
    places: HashMap<RelPath, usize>,
    items: usize,
    bytes: u64,
}

/// One item, or a directory with the files that were made in it.
#[derive(Debug)]
struct Entry {
    item: Item,
    assembly: Option<Arc<Assembly>>,
    files: Vec<Item>,
    bytes: u64,
    is_chosen: bool,
}

impl Entry {
    /// Whether nothing of it is still on its way.
    fn is_whole(&self) -> bool {
        self.assembly.as_ref().is_none_or(|assembly| self.files.len() >= assembly.begun())
    }
}

impl Gathering {
    /// Takes in what came next.
    pub(super) fn push(&mut self, mut item: Item) -> Result<(), Failure> {
        let bytes = item.cost.unwrap_or(0);
        self.items += 1;
        self.bytes += bytes;
        // It has come: nothing more is to be waited for.
        if item.seat.take().is_some() {
            let parent = item.task.path.split().map(|(parent, _name)| parent);
            let place = parent.and_then(|parent| self.places.get(&parent).copied());
            let entry = place.and_then(|place| self.entries.get_mut(place));
            let entry = entry.ok_or_else(|| {
                Failure::new(FailureKind::Bug, "a file came after the directory that it was made in")
            })?;
            entry.files.push(item);
            entry.bytes += bytes;
            return Ok(());
        }
        let assembly = item.assembly.clone();
        if assembly.is_some() {
            self.places.insert(item.task.path.clone(), self.entries.len());
        }
        self.entries.push(Entry { item, assembly, files: Vec::new(), bytes, is_chosen: false });
        Ok(())
    }

    /// Returns how many items there are.
    pub(super) fn len(&self) -> usize {
        self.items
    }

    /// Returns what they weigh in the flow.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Chooses what the next group shall be: all but the directories that are still being filled. Those too if the rest
    /// is less than half, or if all is asked for. What stands in a directory never comes before it.
    pub(super) fn choose(&mut self, is_all: bool) {
        let is_ready = |entry: &Entry| entry.assembly.as_ref().is_none_or(|assembly| assembly.is_complete());
        let ready: Vec<bool> = self.entries.iter().map(|entry| is_all || is_ready(entry)).collect();
        let chosen = self.entries.iter().zip(&ready).filter(|(_entry, is_ready)| **is_ready);
        let (bytes, items) = chosen.fold((0, 0), |(bytes, items), (entry, _is_ready)| {
            (bytes + entry.bytes, items + 1 + entry.files.len())
        });
        let is_enough = bytes >= self.bytes / 2 && items >= self.items / 2;
        for (entry, is_ready) in self.entries.iter_mut().zip(ready) {
            entry.is_chosen |= is_ready || !is_enough;
        }
        for index in (0..self.entries.len()).rev() {
            if self.places.is_empty() || !self.entries[index].is_chosen {
                continue;
            }
            let parent = self.entries[index].item.task.path.split().map(|(parent, _name)| parent);
            if let Some(place) = parent.and_then(|parent| self.places.get(&parent).copied()) {
                self.entries[place].is_chosen = true;
            }
        }
        let chosen = self.entries.iter().filter(|entry| entry.is_chosen);
        chosen.filter_map(|entry| entry.assembly.as_ref()).for_each(|assembly| assembly.close());
    }

    /// Whether all that was chosen is there.
    pub(super) fn is_whole(&self) -> bool {
        self.entries.iter().filter(|entry| entry.is_chosen).all(Entry::is_whole)
    }

    /// Takes out what was chosen, each directory before its files.
    pub(super) fn take(&mut self) -> Vec<Item> {
        let mut group = Vec::with_capacity(self.items);
        self.places.clear();
        for entry in std::mem::take(&mut self.entries) {
            if entry.is_chosen {
                self.bytes -= entry.bytes;
                group.push(entry.item);
                group.extend(entry.files);
                continue;
            }
            if entry.assembly.is_some() {
                self.places.insert(entry.item.task.path.clone(), self.entries.len());
            }
            self.entries.push(entry);
        }
        self.items -= group.len();
        group
    }
}
