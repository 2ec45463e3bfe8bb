//! Deciding entry by entry, in order, what has to be done, and handing it on.

use std::sync::mpsc::{Sender, SyncSender};

use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::diff::{Decision, Difference, Found, Join};
use sync::entry::{Entry, Kind};
use sync::listing::ListingEnd;
use sync::range::RANGE_BYTES;
use sync::wire::content::{Fetch, What};
use tree::Name;

use super::ask::Ask;
use super::committing::{landing_of, unwritable};
use super::ending::{self, Candidate};
use super::source::SourceListings;
use super::{Item, Landing, Pass, Wish};
use crate::commit::{Effect, Seen, Staged, Task};
use crate::frame_file::FrameWriter;
use crate::ledger::{Histories, History};
use crate::scan::Scan;
use crate::staged::{Made, Workbench};
use crate::standing::look_at_self;
use crate::tally::add;
use crate::trouble::{finding, is_fatal, of_stage};

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
    histories: Histories,
    asks: Sender<Ask>,
    pub(super) items: SyncSender<Item>,
    bench: Workbench,
    pub(super) directories: FrameWriter<Later>,
    pub(super) candidates: FrameWriter<Candidate>,
    open: Option<Open>,
    /// The directory that a file took the place of, with all that was in it.
    replaced: Option<RelPath>,
}

/// The directory whose entries are being decided.
#[derive(Debug)]
struct Open {
    path: RelPath,
    is_at_source: bool,
    is_at_destination: bool,
    is_touched: bool,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        pass: &'a Pass,
        histories: Histories,
        asks: Sender<Ask>,
        items: SyncSender<Item>,
    ) -> Result<Self, Failure> {
        let spill = |name: &str| {
            let name = Name::new(name).expect("a constant without slash");
            pass.stage.spill.create_append(&name).map_err(|error| of_stage(&error))
        };
        Ok(Self {
            pass,
            histories,
            asks,
            items,
            bench: Workbench::open(&pass.stage, "planner")?,
            directories: FrameWriter::new(spill("directories")?),
            candidates: FrameWriter::new(spill("deletes")?),
            open: None,
            replaced: None,
        })
    }

    /// Decides the whole tree.
    pub(super) fn run(&mut self, listings: SourceListings<'_>, scan: Scan) -> Result<(), Failure> {
        let root = Later { path: RelPath::root(), wanted: listings.root().clone() };
        self.directories.write(&root)?;
        for decision in Join::new(listings, scan) {
            self.pass.flow.check()?;
            match decision? {
                Decision::Began { path, is_at_source, is_at_destination } => {
                    self.open = Some(Open { path, is_at_source, is_at_destination, is_touched: false });
                }
                Decision::Entry(found) => self.entry(found)?,
                Decision::Stage { name, is_at_source } => self.stage(&name, is_at_source)?,
                Decision::Ended { path, source, destination } => self.ended(&path, source, destination)?,
            }
        }
        Ok(())
    }

    /// Waits for all that was asked for, then does what had to wait.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let flow = &self.pass.flow;
        flow.wait_until_idle()?;
        self.pass.is_all_asked.store(true, std::sync::atomic::Ordering::Relaxed);
        self.asks.send(Ask::End).ok();
        ending::run(self)
    }

    fn here(&self) -> Result<&Open, Failure> {
        self.open.as_ref().ok_or_else(|| Failure::new(FailureKind::Bug, "an entry before its directory"))
    }

    fn path_of(&self, name: &[u8]) -> Result<RelPath, Failure> {
        self.here()?.path.join(name).map_err(|error| Failure::of(FailureKind::Bug, &error))
    }

    fn entry(&mut self, found: Found) -> Result<(), Failure> {
        match found {
            Found::Missing { source } => {
                let path = self.path_of(&source.name)?;
                self.bring(path, source, None)
            }
            Found::Both { source, destination } => {
                add(&self.pass.counters.destination_entries, 1);
                let path = self.path_of(&source.name)?;
                self.both(path, source, destination)
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
                for (problem, rule, side) in
                    [(source, Rule::Unreadable, "source"), (destination, Rule::Unwritable, "destination")]
                {
                    let Some(problem) = problem else { continue };
                    let path = self.path_of(&problem.name)?;
                    let message = format!("it could not be looked at at the {side}: {}", problem.why);
                    let hint = format!("Look at it on the {side} host, then run the migration again.");
                    self.pass.except(rule, Severity::Error, &path, message, hint);
                }
                Ok(())
            }
        }
    }

    /// Brings something that the destination lacks, or has in another form.
    fn bring(&mut self, path: RelPath, source: Entry, seen: Option<Box<Seen>>) -> Result<(), Failure> {
        self.touch()?;
        match source.kind {
            Kind::File { size, .. } if size > 0 => self.fetch(path, source, seen),
            _ => self.place(path, &source, seen),
        }
    }

    fn fetch(&mut self, path: RelPath, source: Entry, seen: Option<Box<Seen>>) -> Result<(), Failure> {
        let size = source.size();
        if size > RANGE_BYTES {
            return self.fetch_large(path, source, seen);
        }
        self.pass.flow.acquire(size)?;
        let stamp = source.stamp();
        let id = self.pass.wish(Wish { path: path.clone(), source, seen, cost: size });
        self.ask(Fetch { id, path, stamp, what: What::Whole })
    }

    fn fetch_large(
        &mut self,
        _path: RelPath,
        _source: Entry,
        _seen: Option<Box<Seen>>,
    ) -> Result<(), Failure> {
        Err(Failure::new(FailureKind::Unsupported, "large files come next"))
    }

    fn ask(&self, fetch: Fetch) -> Result<(), Failure> {
        self.asks.send(Ask::Fetch(fetch)).or_else(|_ended| self.pass.flow.check())
    }

    /// Makes something without content.
    fn place(&mut self, path: RelPath, source: &Entry, seen: Option<Box<Seen>>) -> Result<(), Failure> {
        if source.kind.is_directory() {
            self.directories.write(&Later { path: path.clone(), wanted: source.clone() })?;
        }
        let Made { dir, name, mut entry, problems } = match self.bench.place(source) {
            Ok(made) => made,
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => {
                unwritable(self.pass, &path, &error);
                return Ok(());
            }
        };
        entry.nlink = source.nlink;
        let digest = source.kind.is_file().then(|| common::digest::Digest::of(b""));
        let staged = Staged { dir, name, is_anchor: false };
        let effect = Effect::Install { staged, new: Box::new(entry), digest, seen };
        let landing = landing_of(source);
        self.send(Item { task: Task { path, effect }, landing, cost: None, problems })
    }

    fn both(&mut self, path: RelPath, source: Entry, destination: Entry) -> Result<(), Failure> {
        let difference = Difference::between(&source, &destination);
        if source.kind.is_directory() && !difference.kind {
            if !difference.is_none() {
                self.directories.write(&Later { path, wanted: source })?;
            }
            return Ok(());
        }
        if difference.needs_content() {
            let history = self.histories.find(&path)?;
            let Some(seen) = self.replaceable(&path, &source, destination, history.as_ref())? else {
                return Ok(());
            };
            return self.bring(path, source, Some(Box::new(seen)));
        }
        if difference.is_metadata() {
            let bytes = source.size();
            let effect = Effect::Metadata { seen: Box::new(destination), wanted: Box::new(source) };
            let landing = Landing::Metadata { bytes };
            return self.send(Item {
                task: Task { path, effect },
                landing,
                cost: None,
                problems: Vec::new(),
            });
        }
        add(&self.pass.counters.files_unchanged, 1);
        self.pass.counters.done(source.size());
        Ok(())
    }

    /// Says whether what stands there may be replaced; a directory with entries only when extra ones are deleted.
    fn replaceable(
        &mut self,
        path: &RelPath,
        source: &Entry,
        destination: Entry,
        history: Option<&History>,
    ) -> Result<Option<Seen>, Failure> {
        let is_ours = history.is_some_and(|history| history.is_ours(destination.ino));
        if destination.kind.is_directory() && !source.kind.is_directory() {
            let dir = self.pass.stage.root.open_beneath(path.as_bytes()).map_err(|error| of_stage(&error))?;
            let is_empty = dir.list().map_err(|error| of_stage(&error))?.next().is_none();
            let may_go = self.pass.params.delete && self.pass.params.exclude.is_empty();
            if !is_empty && !may_go && !is_ours {
                self.pass.except(
                    Rule::InTheWay,
                    Severity::Error,
                    path,
                    format!("a directory that is not empty stands where a {} shall be", source.kind.as_str()),
                    "Remove it at the destination, or run with --delete and without --exclude.",
                );
                return Ok(None);
            }
            self.replaced = Some(path.clone());
        }
        Ok(Some(Seen { entry: destination, is_ours }))
    }

    fn extra(&mut self, destination: Entry) -> Result<(), Failure> {
        let path = self.path_of(&destination.name)?;
        let is_gone_already = self.replaced.as_ref().is_some_and(|replaced| path.is_within(replaced));
        if !self.pass.params.delete || is_gone_already {
            return Ok(());
        }
        self.touch()?;
        let history = self.histories.find(&path)?;
        let is_ours = history.is_some_and(|history| history.is_ours(destination.ino));
        self.candidates.write(&Candidate::Entry { path, entry: destination, is_ours })
    }

    fn stage(&mut self, name: &[u8], is_at_source: bool) -> Result<(), Failure> {
        if !is_at_source && name == self.pass.stage.name().as_bytes() {
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

    /// Before the first change of what a directory of the destination holds: records how it looks, and has its times
    /// set back at the end.
    fn touch(&mut self) -> Result<(), Failure> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.is_touched || !open.is_at_destination {
            return Ok(());
        }
        open.is_touched = true;
        let (path, is_at_source) = (open.path.clone(), open.is_at_source);
        let dir = match self.pass.stage.root.open_beneath(path.as_bytes()) {
            Ok(dir) => dir,
            // It is gone since the scan; what was to be changed in it will say so.
            Err(error) if error.is_not_found() || error.is_wrong_kind() => return Ok(()),
            Err(error) => return Err(of_stage(&error)),
        };
        let mut seen = look_at_self(&dir).map_err(|error| of_stage(&error))?;
        seen.name = path.split().map(|(_parent, name)| name.to_vec()).unwrap_or_default();
        if is_at_source && !path.is_root() {
            self.directories.write(&Later { path: path.clone(), wanted: seen.clone() })?;
        }
        let effect = Effect::Touch { seen: Box::new(seen) };
        self.send(Item {
            task: Task { path, effect },
            landing: Landing::Touch,
            cost: None,
            problems: Vec::new(),
        })
    }

    pub(super) fn send(&self, item: Item) -> Result<(), Failure> {
        self.items.send(item).or_else(|_ended| self.pass.flow.check())
    }
}
