//! Reading one directory.

use std::io;

use common::rel_path::RelPath;
use sync::byte_string::ByteString;
use sync::entry::Entry;
use sync::listing::{Listing, ListingEnd, PART_BYTES_MAX, PART_ENTRIES_MAX, Problem};
use sync::sanitize::Treatment;
use tree::{Dir, TreeError};

use crate::follow::{Follow, Reached, Unfollowed};
use crate::marker;
use crate::scan::Shared;
use crate::scan::feeder::{Feeder, FeederBuilder};
use crate::scan::look::{self, NotSeen};
use crate::scan::names::{FoundName, NameSorter, SortedNames};

/// Reads a directory and publishes it part by part.
///
/// # Errors
/// When a spill file fails; all else is in the listing.
pub(super) fn read_directory(shared: &Shared, path: RelPath) -> io::Result<()> {
    let opened = shared.open(&path).and_then(|dir| {
        if let Some(watched) = &shared.settings.watched {
            watched.add(&path, &dir);
        }
        dir.list().map(|list| (dir, list))
    });
    let (dir, list) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let listing = Listing { end: end_of(&error), ..empty(&path, 0) };
            shared.publish(listing, Vec::new(), None);
            return Ok(());
        }
    };
    if let Some(why) = shared.passed_over(&dir) {
        shared.publish(Listing { end: ListingEnd::PassedOver { why }, ..empty(&path, 0) }, Vec::new(), None);
        return Ok(());
    }
    let mut end = ListingEnd::Complete;
    let mut sorter = NameSorter::new(&shared.settings.spill_dir);
    match shared.settings.only.as_ref().and_then(|only| only.names(&path)) {
        Some(names) => names.map(|name| FoundName::unseen(name)).try_for_each(|name| sorter.push(name))?,
        None => {
            for found in list {
                match found {
                    Ok(found) => sorter.push(found.into())?,
                    Err(error) => end = ListingEnd::Unreadable { why: look::describe(&error) },
                }
            }
        }
    }
    let mut reader = Reader { shared, path, dir, children_total: 0, builder: None };
    reader.publish_parts(sorter.finish()?, end)
}

fn end_of(error: &TreeError) -> ListingEnd {
    if error.is_not_found() || error.is_symlink() {
        return ListingEnd::Vanished;
    }
    ListingEnd::Unreadable { why: look::describe(error) }
}

fn empty(path: &RelPath, part: u32) -> Listing {
    Listing {
        path: path.clone(),
        part,
        entries: Vec::new(),
        problems: Vec::new(),
        stages: Vec::new(),
        end: ListingEnd::More,
    }
}

struct Reader<'a> {
    shared: &'a Shared,
    path: RelPath,
    dir: Dir,
    children_total: usize,
    builder: Option<FeederBuilder>,
}

/// What became of one name.
enum Seen {
    Entry(Entry),
    Problem(Problem),
    Stage(Vec<u8>),
    /// Gone, or left out by the filter.
    Nothing,
}

impl Reader<'_> {
    fn publish_parts(&mut self, mut names: SortedNames, end: ListingEnd) -> io::Result<()> {
        let mut part = 0;
        loop {
            let batch: Vec<FoundName> = names.by_ref().take(PART_ENTRIES_MAX).collect::<io::Result<_>>()?;
            let is_last = batch.len() < PART_ENTRIES_MAX;
            let mut parts = self.look_at(batch, &mut part);
            let last = is_last.then(|| parts.pop().unwrap_or_else(|| empty(&self.path, part)));
            for listing in parts {
                let children = self.children(&listing)?;
                if !self.shared.publish(listing, children, None) {
                    return Ok(());
                }
            }
            if let Some(listing) = last {
                let children = self.children(&listing)?;
                let builder = self.builder.take();
                let feeder: Option<Feeder> = builder.map(|builder| builder.finish(&self.path)).transpose()?;
                self.shared.publish(Listing { end, ..listing }, children, feeder);
                return Ok(());
            }
        }
    }

    /// Looks at names and returns full parts and the rest.
    fn look_at(&self, batch: Vec<FoundName>, part: &mut u32) -> Vec<Listing> {
        // In the order of inodes, which is the order on most disks; it matters when they are cold.
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_unstable_by_key(|index| batch[*index].ino);
        let mut seen: Vec<Seen> = batch.iter().map(|_| Seen::Nothing).collect();
        for index in order {
            seen[index] = self.look_at_one(&batch[index]);
        }
        let mut parts = Vec::new();
        let mut listing = empty(&self.path, *part);
        let mut bytes = 0;
        for one in seen {
            match one {
                Seen::Entry(entry) => {
                    bytes += entry.encoded_bytes();
                    listing.entries.push(entry);
                }
                Seen::Problem(problem) => listing.problems.push(problem),
                Seen::Stage(name) => listing.stages.push(ByteString(name)),
                Seen::Nothing => {}
            }
            if bytes >= PART_BYTES_MAX {
                *part += 1;
                bytes = 0;
                parts.push(std::mem::replace(&mut listing, empty(&self.path, *part)));
            }
        }
        if !listing.entries.is_empty() || !listing.problems.is_empty() || !listing.stages.is_empty() {
            *part += 1;
            parts.push(listing);
        }
        parts
    }

    fn look_at_one(&self, found: &FoundName) -> Seen {
        let filter = &self.shared.settings.filter;
        let leaves_out = |is_directory| filter.leaves_out(&self.path, &found.name, is_directory);
        if found.is_directory.is_some_and(leaves_out) {
            return Seen::Nothing;
        }
        let problem = |why| Seen::Problem(Problem { name: found.name.clone(), why });
        let Some(name) = found.to_name() else {
            return problem("its name is not one that can be given to a system call".to_owned());
        };
        let stat = match self.dir.stat(&name) {
            Ok(stat) => stat,
            Err(error) if error.is_not_found() => return Seen::Nothing,
            Err(error) => return problem(look::describe(&error)),
        };
        let followed = match &self.shared.settings.follow {
            Some(follow) if stat.kind == tree::Kind::Symlink => match self.follow(follow, &found.name) {
                Ok(reached) => Some(reached),
                // A pattern may leave the link out.
                Err(_unfollowed) if leaves_out(false) => return Seen::Nothing,
                Err(unfollowed) => return problem(unfollowed.why()),
            },
            Some(_) | None => None,
        };
        let (dir, at, stat) = match &followed {
            Some(reached) => (&reached.parent, &reached.name, reached.stat),
            None => (&self.dir, &name, stat),
        };
        let is_directory = stat.kind == tree::Kind::Directory;
        if found.is_directory != Some(is_directory) && leaves_out(is_directory) {
            return Seen::Nothing;
        }
        if is_directory && marker::is_stage(dir, at, &stat) {
            return Seen::Stage(found.name.clone());
        }
        let treatment = match &self.shared.settings.sanitizer {
            None => Treatment::Kept,
            Some(sanitizer) => sanitizer.treatment(&self.path, &found.name, is_directory),
        };
        if let (Treatment::Dropped(number), Some(sanitizer)) = (&treatment, &self.shared.settings.sanitizer) {
            sanitizer.count(*number);
            return Seen::Nothing;
        }
        match look::entry_at(dir, at, &stat) {
            Ok(mut entry) if entry.is_well_formed() => {
                if followed.is_some() {
                    // It is a file of its own, whatever else the inode is called.
                    (entry.name, entry.nlink) = (found.name.clone(), 1);
                }
                if let Some(watched) = self.shared.settings.watched.as_ref().filter(|_| entry.is_hard_link())
                    && let Ok(path) = self.path.join(&found.name)
                {
                    watched.note_link(path);
                }
                if let Some(reason) = self.shared.settings.limits.judge(&entry) {
                    return Seen::Problem(reason.problem(&found.name));
                }
                let treated = self.shared.settings.sanitizer.as_ref();
                match treated.map_or(Ok(()), |sanitizer| sanitizer.treat(&treatment, &mut entry)) {
                    Ok(()) => Seen::Entry(entry),
                    Err(why) => problem(why),
                }
            }
            Ok(_) => problem("it has attributes that cannot be carried over".to_owned()),
            Err(NotSeen::Vanished) => Seen::Nothing,
            Err(NotSeen::Unreadable(why)) => problem(why),
        }
    }

    /// Returns what a link leads to: below the root, and to no directory that the link is in.
    fn follow(&self, follow: &Follow, name: &[u8]) -> Result<Reached, Unfollowed> {
        let path = self.path.join(name).map_err(|_error| Unfollowed::Dangling)?;
        let reached = follow.reach(&self.shared.root, &path)?;
        if reached.stat.kind == tree::Kind::Directory {
            follow.check_circle(&self.shared.root, &path, &reached.path)?;
        }
        Ok(reached)
    }

    /// Returns the directories of a part that wait in memory; further ones go to the spill file.
    fn children(&mut self, listing: &Listing) -> io::Result<Vec<RelPath>> {
        let mut children = Vec::new();
        let only = self.shared.settings.only.as_ref();
        for entry in listing.entries.iter().filter(|entry| entry.kind.is_directory()) {
            let path = self.path.join(&entry.name).map_err(io::Error::other)?;
            if only.is_some_and(|only| !only.descends(&path)) {
                continue;
            }
            self.children_total += 1;
            if self.children_total <= self.shared.bounds.children {
                children.push(path);
            } else if let Some(builder) = &mut self.builder {
                builder.push(&entry.name)?;
            } else {
                self.builder = Some(FeederBuilder::new(&self.shared.settings.spill_dir, &entry.name)?);
            }
        }
        Ok(children)
    }
}
