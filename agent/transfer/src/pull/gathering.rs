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

#[cfg(test)]
mod tests {
    use sync::entry::{Entry as Source, Kind};
    use tree::{Dir, Name, Root};

    use super::*;
    use crate::assembly::Held;
    use crate::commit::{Effect, Staged};
    use crate::domain::HOME;
    use crate::pull::Landing;

    fn path(text: &str) -> RelPath {
        RelPath::try_from(text.as_bytes().to_vec()).unwrap()
    }

    fn directory(bench: &Dir, text: &str) -> (Item, Arc<Assembly>) {
        let name = Name::new(text.replace('/', "-")).unwrap();
        bench.create_dir(&name, 0o700).unwrap();
        let assembly = Assembly::new(bench.clone(), name.clone(), Held::default());
        (item(bench, text, Some(Arc::clone(&assembly))), assembly)
    }

    fn item(bench: &Dir, text: &str, assembly: Option<Arc<Assembly>>) -> Item {
        let name = Name::new("x").unwrap();
        let staged = Staged {
            dir: bench.clone(),
            name,
            is_anchor: false,
            is_synced: true,
            assembly: assembly.clone(),
        };
        let new = Box::new(Source {
            name: Vec::new(),
            kind: Kind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: sync::stamp::Time { seconds: 0, nanos: 0 },
            ctime: sync::stamp::Time { seconds: 0, nanos: 0 },
            dev: 0,
            ino: 0,
            nlink: 1,
            xattrs: Vec::new(),
        });
        let effect = Effect::Install { staged, new, digest: None, seen: None };
        let item = Item::new(path(text), HOME, effect, Landing::Place);
        Item { cost: Some(100), assembly, ..item }
    }

    fn file(bench: &Dir, text: &str, assembly: &Arc<Assembly>) -> Item {
        let seat = assembly.seat();
        assert!(seat.take().unwrap().is_some());
        Item { seat: Some(seat), ..item(bench, text, None) }
    }

    fn names(group: &[Item]) -> Vec<String> {
        group.iter().map(|item| item.task.path.to_string()).collect()
    }

    #[test]
    fn a_directory_waits_for_its_files_and_comes_before_them() {
        let folder = tempfile::tempdir().unwrap();
        let bench = Root::open(folder.path()).unwrap().dir();
        let mut gathering = Gathering::default();
        let (first, whole) = directory(&bench, "a");
        let (second, open) = directory(&bench, "b");
        gathering.push(first).unwrap();
        gathering.push(second).unwrap();
        let promised = open.seat();
        for text in ["a/1", "a/2", "a/3"] {
            gathering.push(file(&bench, text, &whole)).unwrap();
        }
        gathering.push(file(&bench, "b/1", &open)).unwrap();
        gathering.push(item(&bench, "c", None)).unwrap();
        whole.seal();
        open.seal();
        gathering.choose(false);
        assert!(gathering.is_whole());
        assert_eq!(names(&gathering.take()), ["a", "a/1", "a/2", "a/3", "c"]);
        assert_eq!((gathering.len(), gathering.bytes()), (2, 200));
        // What is begun before it is closed belongs to it; what comes later is staged by itself.
        assert!(promised.take().unwrap().is_some());
        gathering.choose(true);
        assert!(!gathering.is_whole());
        assert!(open.seat().take().unwrap().is_none());
        gathering.push(Item { seat: Some(promised), ..item(&bench, "b/2", None) }).unwrap();
        assert!(gathering.is_whole());
        assert_eq!(names(&gathering.take()), ["b", "b/1", "b/2"]);
        assert!(gathering.is_empty());
    }

    #[test]
    fn what_is_needed_comes_though_it_is_not_full() {
        let folder = tempfile::tempdir().unwrap();
        let bench = Root::open(folder.path()).unwrap().dir();
        let mut gathering = Gathering::default();
        let (above, open) = directory(&bench, "a");
        let (below, whole) = directory(&bench, "a/b");
        let (other, waiting) = directory(&bench, "other");
        let promised = [open.seat(), waiting.seat()];
        gathering.push(above).unwrap();
        gathering.push(below).unwrap();
        gathering.push(other).unwrap();
        gathering.push(file(&bench, "a/b/1", &whole)).unwrap();
        whole.seal();
        gathering.choose(false);
        assert_eq!(names(&gathering.take()), ["a", "a/b", "a/b/1"]);
        assert!(open.is_closed() && !waiting.is_closed());
        // A file that could not be made is not waited for.
        assert!(promised[1].take().unwrap().is_some());
        gathering.choose(true);
        assert!(!gathering.is_whole());
        promised[1].give_back();
        assert!(gathering.is_whole());
        assert_eq!(names(&gathering.take()), ["other"]);
        let stray = file(&bench, "nowhere/1", &whole_again(&bench));
        assert!(gathering.push(stray).is_err());
    }

    fn whole_again(bench: &Dir) -> Arc<Assembly> {
        directory(bench, "again").1
    }
}
