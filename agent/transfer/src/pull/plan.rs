//! Deciding entry by entry, in order, what has to be done, and handing it on.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, SyncSender};

use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::diff::{Decision, Difference, Found, Join};
use sync::entry::{Entry, Kind};
use sync::listing::ListingEnd;
use sync::range::{self, RANGE_BYTES};
use sync::stamp::Stamp;
use sync::subtrees::Subtrees;
use sync::wire::content::{Fetch, What};

use super::ask::Ask;
use super::ending::{self, Candidate};
use super::flow::unusual_bytes;
use super::large::Large;
use super::likeness::Likenesses;
use super::links::{self, LinkName};
use super::put_off::spilled;
use super::{Again, Compare, Item, Landing, Pass, RangeWish, Small, Wish, data_of, lock, room};
use crate::assembly::Assembly;
use crate::commit::{Effect, Seen};
use crate::domain::{DomainId, HOME};
use crate::external_sort::Sorter;
use crate::frame_file::FrameWriter;
use crate::in_the_way::is_in_the_way;
use crate::ledger::{Histories, History};
use crate::manifest::ManifestFile;
use crate::scan::Scan;
use crate::staged::Workbench;
use crate::standing::look_at_self;
use crate::tally::add;
use crate::trouble::{finding, of_stage};

/// A directory whose metadata is set at the end of the pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Later {
    pub(super) path: RelPath,
    pub(super) wanted: Entry,
}

/// The planner's thread.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    pub(super) pass: &'a Pass,
    pub(super) histories: Histories,
    asks: Sender<Ask>,
    pub(super) items: SyncSender<Item>,
    pub(super) bench: Workbench,
    pub(super) directories: FrameWriter<Later>,
    pub(super) candidates: FrameWriter<Candidate>,
    /// What takes the place of directories, once these are empty.
    pub(super) instead: FrameWriter<Again>,
    /// Directories that are to be emptied for that: each is a delete by itself.
    pub(super) emptied: u64,
    pub(super) open: Option<Open>,
    pub(super) links: Sorter<LinkName>,
    /// Large files that stand here, for those that are to come.
    pub(super) likenesses: Likenesses,
    /// Whether files that look the same may have to be compared by content.
    compares: bool,
    /// Directories that stay with all that they hold.
    pub(super) whole: Subtrees,
    /// Rename domains, other than the root's, in whose stages something may be on its way.
    pub(super) in_flight: BTreeSet<DomainId>,
    /// Directories that are filled in the stage, and whose listings have not come yet.
    pub(super) ahead: HashMap<RelPath, Arc<Assembly>>,
    /// The device of the root, where nothing is removed on others.
    pub(super) only_device: Option<u64>,
}

/// The directory whose entries are being decided.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) path: RelPath,
    pub(super) is_at_source: bool,
    pub(super) is_at_destination: bool,
    pub(super) is_touched: bool,
    /// Of a directory that is filled in the stage.
    pub(super) assembly: Option<Arc<Assembly>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(assembly) = &self.assembly {
            assembly.seal();
        }
    }
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        pass: &'a Pass,
        histories: Histories,
        asks: Sender<Ask>,
        items: SyncSender<Item>,
    ) -> Result<Self, Failure> {
        *lock(&pass.again) = Some(spilled(pass, "again")?);
        Ok(Self {
            pass,
            histories,
            asks,
            items,
            bench: Workbench::new("planner")?,
            directories: spilled(pass, "directories")?,
            candidates: spilled(pass, "deletes")?,
            instead: spilled(pass, "instead")?,
            emptied: 0,
            links: Sorter::new(&pass.stage.spill, "links"),
            likenesses: Likenesses::default(),
            compares: pass.params.checksum || pass.sanitizer.is_some() || !lock(&pass.passes).is_first(),
            open: None,
            whole: Subtrees::default(),
            in_flight: BTreeSet::new(),
            ahead: HashMap::new(),
            only_device: match pass.params.rules.one_file_system {
                true => Some(look_at_self(&pass.stage.root).map_err(|error| of_stage(&error))?.dev),
                false => None,
            },
        })
    }

    /// Decides the whole tree.
    pub(super) fn run(&mut self, listings: ManifestFile, scan: Scan) -> Result<(), Failure> {
        let root = Later { path: RelPath::root(), wanted: listings.head.root.clone() };
        self.directories.write(&root)?;
        for decision in Join::new(listings, scan) {
            self.pass.flow.check()?;
            match decision? {
                Decision::Began { path, is_at_source, is_at_destination } => {
                    self.whole.advance(&path);
                    let assembly = self.assembly_of(&path);
                    let is_touched = false;
                    self.open = Some(Open { path, is_at_source, is_at_destination, is_touched, assembly });
                }
                Decision::Entry(found) => self.entry(found)?,
                Decision::Stage { name, is_at_source } => self.stage(&name, is_at_source)?,
                Decision::Ended { path, source, destination } => self.ended(&path, source, destination)?,
            }
        }
        Ok(())
    }

    /// Puts a name of a group of hard links off until the whole group is known.
    fn linked(&mut self, path: RelPath, source: Entry, destination: Option<Entry>) -> Result<(), Failure> {
        let Some(domain) = self.prepare(&path)? else { return Ok(()) };
        let history = self.histories.find(&path)?;
        let seen = match destination {
            Some(destination) => match self.replaceable(&path, &source, destination, history.as_ref())? {
                Some(seen) => Some(Box::new(seen)),
                None => return Ok(()),
            },
            None => None,
        };
        let is_doubtful =
            self.compares && source.kind.is_file() && self.is_doubtful(&path, &source, history.as_ref());
        self.links.push(LinkName { path, domain, source, seen, is_doubtful })
    }

    /// Waits for all that was asked for, then does what had to wait.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.likenesses.complete();
        self.fetch_again()?;
        ending::delete(&mut self)?;
        let instead = std::mem::replace(&mut self.instead, spilled(self.pass, "instead")?);
        self.fetch_spilled(instead.finish()?)?;
        links::run(&mut self)?;
        self.pass.is_all_asked.store(true, Relaxed);
        self.asks.send(Ask::End).ok();
        ending::finish_directories(self)
    }

    fn here(&self) -> Result<&Open, Failure> {
        self.open.as_ref().ok_or_else(|| Failure::new(FailureKind::Bug, "an entry before its directory"))
    }

    pub(super) fn path_of(&self, name: &[u8]) -> Result<RelPath, Failure> {
        self.here()?.path.join(name).map_err(|error| Failure::of(FailureKind::Bug, &error))
    }

    fn entry(&mut self, found: Found) -> Result<(), Failure> {
        match found {
            Found::Missing { source } => {
                let path = self.path_of(&source.name)?;
                if source.is_hard_link() {
                    self.linked(path, source, None)
                } else {
                    self.bring(path, source, None)
                }
            }
            Found::Both { source, destination } => {
                add(&self.pass.counters.destination_entries, 1);
                let path = self.path_of(&source.name)?;
                self.likenesses.see(&path, &destination, false);
                if source.is_hard_link() {
                    self.linked(path, source, Some(destination))
                } else {
                    self.both(path, source, destination)
                }
            }
            Found::Extra { destination } => {
                add(&self.pass.counters.destination_entries, 1);
                self.extra(destination)
            }
            Found::Unknown { destination: _ } => {
                add(&self.pass.counters.destination_entries, 1);
                Ok(())
            }
            Found::Problem { source, destination, source_entry: _, destination_entry: _ } => {
                self.unseen(source, destination)
            }
        }
    }

    /// Brings something that the destination lacks, or has in another form.
    fn bring(&mut self, path: RelPath, source: Entry, seen: Option<Box<Seen>>) -> Result<(), Failure> {
        let Some(domain) = self.prepare(&path)? else { return Ok(()) };
        match source.kind {
            Kind::File { size, .. } if size > 0 => {
                let has_none = seen.is_none() && size > RANGE_BYTES && !self.likenesses.is_complete();
                let wanted = Again { path, domain, source, seen, is_anchor: false, times_asked: 0 };
                // What may be like it is known when the whole tree was seen.
                if has_none && self.pass.counters.destination_entries.load(Relaxed) > 0 {
                    return self.pass.ask_again(&wanted);
                }
                self.fetch(wanted)
            }
            _ => self.place(path, domain, &source, seen),
        }
    }

    /// Asks for the content of a file.
    pub(super) fn fetch(&mut self, wanted: Again) -> Result<(), Failure> {
        if wanted.source.size() > RANGE_BYTES {
            return self.fetch_large(wanted);
        }
        let seat = self.seat(&wanted);
        let Again { path, domain, source, seen, is_anchor, times_asked } = wanted;
        let cost = source.size().saturating_add(weight_of(&path, &source, seen.as_deref()));
        let stamp = source.stamp();
        let what = self.pass.known.hint(&path, stamp.size);
        self.pass.flow.acquire(cost)?;
        let small = Small { path: path.clone(), domain, source, seen, is_anchor, times_asked, cost, seat };
        let id = self.pass.wish(Wish::Small(Box::new(small)));
        self.ask(Fetch { id, path, stamp, what })
    }

    fn fetch_large(&mut self, wanted: Again) -> Result<(), Failure> {
        let Again { path, domain, source, seen, is_anchor, times_asked } = wanted;
        let blocks = data_of(&source);
        let likeness = if seen.is_none() { self.likenesses.find(&path, source.size()) } else { None };
        let begun = Large::begin_in(self.pass, domain, path.clone(), source, seen, likeness)?;
        let Some(mut large) = begun else { return Ok(()) };
        (large.is_anchor, large.times_asked) = (is_anchor, times_asked);
        room::check(self.pass, domain, blocks.saturating_sub(large.proven_bytes()))?;
        self.pass.flow.acquire(large.cost)?;
        if times_asked == 0 {
            add(&self.pass.counters.bytes_done, large.proven_bytes());
        }
        let large = Arc::new(large);
        let (stamp, missing) = large.begin();
        if missing.is_empty() {
            let id = self.pass.wish(Wish::Confirm(large));
            return self.ask(Fetch { id, path, stamp, what: What::Confirm });
        }
        for index in missing {
            let cost = match large.has_sidecar() {
                true => Some(range::bounds(stamp.size, index).map_or(0, |bounds| bounds.end - bounds.start)),
                false => None,
            };
            if let Some(cost) = cost {
                self.pass.flow.acquire(cost)?;
            }
            let (asked, what) = large.first_wish(index);
            let wanted = RangeWish { large: Arc::clone(&large), index, cost, asked };
            self.ask(self.pass.wish_range(wanted, stamp, what))?;
        }
        Ok(())
    }

    fn ask(&self, fetch: Fetch) -> Result<(), Failure> {
        self.asks.send(Ask::Fetch(fetch)).or_else(|_ended| self.pass.flow.check())
    }

    fn both(&mut self, path: RelPath, source: Entry, destination: Entry) -> Result<(), Failure> {
        let difference = Difference::between(&source, &destination);
        if source.kind.is_directory() && !difference.kind {
            if !difference.is_none() {
                self.directories.write(&Later { path, wanted: source })?;
            }
            return Ok(());
        }
        // One that shares its inode here, and not at the source, gets an inode of its own.
        let needs_content = difference.needs_content() || destination.is_hard_link();
        let may_be_doubtful = source.kind.is_file() && source.size() > 0 && self.compares;
        let history = if needs_content || may_be_doubtful { self.histories.find(&path)? } else { None };
        if needs_content {
            let Some(seen) = self.replaceable(&path, &source, destination, history.as_ref())? else {
                return Ok(());
            };
            let is_in_the_way = is_in_the_way(&seen.entry, &source);
            let seen = Some(Box::new(seen));
            if !is_in_the_way {
                return self.bring(path, source, seen);
            }
            let Some(domain) = self.prepare(&path)? else { return Ok(()) };
            return self.instead.write(&Again {
                path,
                domain,
                source,
                seen,
                is_anchor: false,
                times_asked: 0,
            });
        }
        if may_be_doubtful && self.is_doubtful(&path, &source, history.as_ref()) {
            let is_ours = history.is_some_and(|history| history.is_ours(&destination));
            return self.compare(path, source, Seen { entry: destination, is_ours });
        }
        // What is the same needs no stage.
        let domain = match difference.is_none() {
            true => Some(HOME),
            false => self.domain_of(&path)?,
        };
        match domain.and_then(|domain| same_content(self.pass, domain, path, source, destination)) {
            Some(item) => self.send(item),
            None => Ok(()),
        }
    }

    /// Whether a file that looks the same must be compared by content.
    fn is_doubtful(&self, path: &RelPath, source: &Entry, history: Option<&History>) -> bool {
        let wrote = history.and_then(|history| Some(history.changes.last()?.intent.pass));
        self.pass.params.checksum
            || self.pass.is_sanitized(path)
            || self.pass.is_network_source
            || lock(&self.pass.passes).is_doubtful(source, wrote)
    }

    fn compare(&mut self, path: RelPath, source: Entry, seen: Seen) -> Result<(), Failure> {
        // Whatever comes of it, something may be changed in this directory.
        let Some(domain) = self.prepare(&path)? else { return Ok(()) };
        let cost = weight_of(&path, &source, Some(&seen));
        self.pass.flow.acquire(cost)?;
        let stamp = source.stamp();
        let compare = Compare { path: path.clone(), domain, source, seen: Box::new(seen), cost };
        let id = self.pass.wish(Wish::Compare(Box::new(compare)));
        self.ask(Fetch { id, path, stamp, what: What::Digest })
    }

    /// Has a group of hard links compared by one of its names.
    pub(super) fn compare_group(
        &self,
        path: RelPath,
        stamp: Stamp,
        group: Vec<LinkName>,
    ) -> Result<(), Failure> {
        self.pass.flow.acquire(links::weight(&group))?;
        let id = self.pass.wish(Wish::Group(group));
        self.ask(Fetch { id, path, stamp, what: What::Digest })
    }

    fn stage(&mut self, name: &[u8], is_at_source: bool) -> Result<(), Failure> {
        if !is_at_source && self.pass.stage.domains.is_stage_name(name) {
            return Ok(());
        }
        let path = self.path_of(name)?;
        let side = if is_at_source { "source" } else { "destination" };
        self.pass.findings.report(finding(
            Rule::Stage,
            Severity::Notice,
            &path,
            format!("the stage of another migration at the {side} was passed over"),
            "It goes when that migration is settled.",
        ));
        Ok(())
    }

    fn ended(
        &mut self,
        path: &RelPath,
        source: Option<ListingEnd>,
        destination: Option<ListingEnd>,
    ) -> Result<(), Failure> {
        self.open = None;
        for (end, rule, side) in
            [(&source, Rule::Unreadable, "source"), (&destination, Rule::Unwritable, "destination")]
        {
            match end {
                Some(ListingEnd::Unreadable { why }) => {
                    let message = format!("the directory could not be read at the {side}: {why}");
                    let hint = "Nothing below it was removed. Give the agent the right to read it.";
                    self.pass.except(rule, Severity::Error, path, message, hint);
                }
                Some(ListingEnd::PassedOver { why }) => {
                    // Nothing is missing by this, so it is no exception for the verification.
                    self.pass.findings.report(finding(
                        rule,
                        Severity::Notice,
                        path,
                        format!("it was passed over at the {side}: {why}"),
                        "Nothing to do: what is in it is no part of the tree.",
                    ));
                }
                Some(ListingEnd::Vanished) if side == "source" => {
                    let message = "the directory vanished while the source was read";
                    let hint = "Nothing to do if it was removed on purpose.";
                    self.pass.except(Rule::Vanished, Severity::Notice, path, message, hint);
                }
                Some(_) | None => {}
            }
        }
        let is_complete = source.is_none_or(|end| end == ListingEnd::Complete);
        if self.pass.params.delete && !is_complete {
            self.candidates.write(&Candidate::Incomplete { path: path.clone() })?;
        }
        Ok(())
    }

    pub(super) fn send(&self, item: Item) -> Result<(), Failure> {
        self.pass.send(&self.items, item)
    }
}

/// Returns what something weighs in the flow beside its content, beyond what is usual.
pub(super) fn weight_of(path: &RelPath, source: &Entry, seen: Option<&Seen>) -> u64 {
    unusual_bytes(path, [source].into_iter().chain(seen.map(|seen| &seen.entry)))
}

/// Counts something whose content is the same on both sides, or returns what sets its metadata.
pub(super) fn same_content(
    pass: &Pass,
    domain: DomainId,
    path: RelPath,
    source: Entry,
    destination: Entry,
) -> Option<Item> {
    let bytes = source.size();
    if Difference::between(&source, &destination).is_none() {
        add(&pass.counters.files_unchanged, 1);
        pass.counters.done(bytes);
        return None;
    }
    let effect = Effect::Metadata { seen: Box::new(destination), wanted: Box::new(source) };
    Some(Item::new(path, domain, effect, Landing::Metadata { bytes }))
}
