//! The way back: everything as it was before the migration, all but change times.
//!
//! The ledger is read by path. First from the top down: what was put in place of something, or newly made, goes; what
//! is kept in `undo/` comes back. Then from the leaves up: directories that the migration made go, and those that were
//! there get their owner, mode, attributes and times. Every step looks at what stands there now, so an undo that was
//! killed is simply run again. What somebody else changed or added since the commit is moved to `after/` and told.
//! In the end the ledger is removed; the stage too, unless `after/` holds something.

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use common::step::file::UndoPreview;
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use sync::subtrees::Subtrees;
use tree::{Dir, Kind, Name, Stat};

use crate::commit::durable::{Names, of_sync};
use crate::commit::{Committer, kept_name};
use crate::domain::{Domain, DomainId};
use crate::findings::FindingSink;
use crate::frame_file::{FrameReader, FrameWriter};
use crate::kept::{Place, place_of, return_kept, set, unset};
use crate::kill_point::KillPoint;
use crate::ledger::{Histories, History, Kept};
use crate::opened::Opened;
use crate::stage::Stage;
use crate::standing::{is_recorded, metadata, time};
use crate::trouble::{finding, of_stage};
use crate::undo_swap::Swap;

/// Paths after which the lease and the fence are asked again.
const BATCH: usize = 256;
const LATER: &str = "undo-later";
/// States of one path that are kept aside: one for each pass that replaced it, and each undo that was run again.
const ASIDE_MAX: u32 = 10_000;

/// A directory that is dealt with on the way up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Later {
    path: RelPath,
    /// How it was; none when the migration made it.
    original: Option<Entry>,
    /// The rename domain in which it was changed.
    domain: DomainId,
    /// Where the original is kept, when something else than this directory stood there.
    kept: Option<Kept>,
    /// The inode that the migration made, if it made it.
    made: Option<u64>,
}

/// Undoes everything that the ledger of an open stage says.
///
/// # Errors
/// When the lease or the fence is lost or the stage cannot be worked on; the undo is then to be run again.
pub(crate) fn undo_all(
    committer: &mut Committer,
    findings: &FindingSink,
    kill: &KillPoint,
) -> Result<UndoPreview, Failure> {
    let stage = committer.stage().clone();
    stage.clear_spill()?;
    let mut histories = Histories::sort(Some(committer.settled()?), &stage.spill, "undo")?;
    let later_name = Name::new(LATER).expect("a constant without slash");
    let later = stage.spill.create_append(&later_name).map_err(|error| of_stage(&error))?;
    let mut names = Names::default();
    let mut undo = Undo {
        stage: &stage,
        names: &mut names,
        findings,
        kill,
        later: FrameWriter::new(later),
        preview: UndoPreview::default(),
        swapped: Subtrees::default(),
        lost: None,
    };
    let mut is_at_end = false;
    while !is_at_end {
        let _inside = committer.enter()?;
        for _path in 0..BATCH {
            let Some(history) = histories.next()? else {
                is_at_end = true;
                break;
            };
            undo.down(&history)?;
        }
    }
    let Undo { later, mut preview, lost, .. } = undo;
    let mut reader = FrameReader::<Later>::backwards(later.finish()?);
    let mut up = Up { stage: &stage, names: &mut names, findings, kill, kept_aside: 0, lost };
    let mut is_at_end = false;
    while !is_at_end {
        let _inside = committer.enter()?;
        for _path in 0..BATCH {
            let Some(later) = reader.previous()? else {
                is_at_end = true;
                break;
            };
            up.one(&later)?;
        }
    }
    preview.kept_aside += up.kept_aside;
    let _inside = committer.enter()?;
    kill.pass()?;
    let lost = up.lost;
    names.sync()?;
    stage.domains.sync_all()?;
    match lost {
        Some(path) => Err(Failure::new(
            FailureKind::Stuck,
            format!("`{path}` cannot be put back as it was: what was kept of it is gone"),
        )
        .hint("Everything else was put back. See the findings, restore these entries from a backup, then settle.")),
        None => Ok(preview),
    }
}

/// Counts what an undo would do, without changing anything.
pub(crate) fn preview(stage: &Stage, histories: &mut Histories) -> Result<UndoPreview, Failure> {
    let mut preview = UndoPreview::default();
    while let Some(history) = histories.next()? {
        preview.entries += 1;
        let Some((parent, name)) = reach(stage, &history.path)? else { continue };
        let now = parent.stat_if_exists(&name).map_err(|error| of_stage(&error))?;
        let is_strange = now.is_some_and(|now| {
            now.kind != Kind::Directory && !is_original(&history, &now) && !history.is_ours(&now)
        });
        preview.kept_aside += u64::from(is_strange);
    }
    Ok(preview)
}

struct Undo<'a> {
    stage: &'a Stage,
    names: &'a mut Names,
    findings: &'a FindingSink,
    kill: &'a KillPoint,
    later: FrameWriter<Later>,
    preview: UndoPreview,
    /// Directories that got what another one held.
    swapped: Subtrees,
    lost: Option<RelPath>,
}

impl Undo<'_> {
    /// Deals with one path on the way down.
    fn down(&mut self, history: &History) -> Result<(), Failure> {
        self.preview.entries += 1;
        if history.path.is_root() {
            return self.put_off(history, None);
        }
        for kept in history.kept_between() {
            self.put_aside(history, kept)?;
        }
        let Some((parent, name)) = reach(self.stage, &history.path)? else {
            // Its directory was made by the migration, or somebody took it away, which is told with that one.
            return history.kept().map_or(Ok(()), |(kept, _original)| self.put_aside(history, kept));
        };
        note(self.stage, self.names, &parent)?;
        let mut opened = Opened::default();
        opened.open(&parent).map_err(|error| of_stage(&error))?;
        let swap = Swap { stage: self.stage, findings: self.findings, kill: self.kill };
        let swapped = swap.begin(history, &parent, &name)?;
        self.down_at(history, &parent, &name)?;
        if swap.end(swapped, history, &parent, &name)? {
            self.swapped.mark_or_parent(&history.path);
        }
        Ok(())
    }

    /// Deals with one path, in the directory that holds it.
    fn down_at(&mut self, history: &History, parent: &Dir, name: &Name) -> Result<(), Failure> {
        let now = parent.stat_if_exists(name).map_err(|error| of_stage(&error))?;
        match (&now, history.original()) {
            (Some(now), Some(original)) if is_original(history, now) => {
                if original.kind.is_directory() {
                    return self.put_off(history, None);
                }
                self.restore_metadata(parent, name, original, history, now)
            }
            (Some(now), _) if now.kind == Kind::Directory && history.is_made(now.ino) => {
                self.put_off(history, Some(now.ino))
            }
            _ => self.put_back(parent, name, history, now.as_ref()),
        }
    }

    /// Puts aside what is kept and has no place to go back to.
    fn put_aside(&mut self, history: &History, kept: Kept) -> Result<(), Failure> {
        let (domain, name) = (self.stage.domains.get(kept.domain)?, kept_name(kept.seq));
        if domain.undo.stat_if_exists(&name).map_err(|error| of_stage(&error))?.is_none() {
            return Ok(());
        }
        self.preview.kept_aside += 1;
        self.kill.pass()?;
        keep_aside(&domain, &domain.undo, &name, &history.path, self.findings).map(drop)
    }

    fn put_off(&mut self, history: &History, made: Option<u64>) -> Result<(), Failure> {
        self.later.write(&Later {
            path: history.path.clone(),
            domain: history.domain(),
            original: history.kept().map(|(_kept, original)| original).or(history.original()).cloned(),
            kept: history.kept().map(|(kept, _original)| kept),
            made,
        })
    }

    /// Takes away what the migration put there and gives the original its name back.
    fn put_back(
        &mut self,
        parent: &Dir,
        name: &Name,
        history: &History,
        now: Option<&Stat>,
    ) -> Result<(), Failure> {
        let kept = self.kept(history)?;
        let returns_directory = history.original().is_some_and(|original| original.kind.is_directory());
        if let Some(now) = now {
            // Somebody else's, even if a later pass set its metadata.
            if let Some((directory, _name)) = history.path.split() {
                self.swapped.advance(&directory);
            }
            let is_ours = match self.swapped.holds(&history.path) {
                true => history.is_ours_moved(now),
                false => history.is_ours(now),
            };
            if !is_ours {
                self.preview.kept_aside += 1;
                self.kill.pass()?;
                let domain = self.stage.domains.get(history.domain())?;
                if !keep_aside(&domain, parent, name, &history.path, self.findings)? {
                    if kept.is_some() {
                        self.lose(&history.path, "another file system is mounted in its place");
                    }
                    return Ok(());
                }
            } else if kept.is_none() || now.kind == Kind::Directory || returns_directory {
                self.kill.pass()?;
                parent.remove_tree(name).map_err(|error| of_stage(&error))?;
            }
        }
        match (kept, history.original()) {
            (Some((kept, original)), _) => {
                self.kill.pass()?;
                if let Some(why) = return_kept(&kept, parent, name, original)? {
                    self.lose(&history.path, &why);
                }
                if original.kind.is_directory() { self.put_off(history, None) } else { Ok(()) }
            }
            (None, Some(_)) => {
                self.lose(&history.path, "it is neither in its place nor in the stage");
                Ok(())
            }
            (_, None) => Ok(()),
        }
    }

    /// Returns what is kept of the original, if it is there.
    fn kept<'h>(&self, history: &'h History) -> Result<Option<(Place, &'h Entry)>, Failure> {
        let Some((kept, original)) = history.kept() else { return Ok(None) };
        Ok(place_of(self.stage, kept)?.map(|place| (place, original)))
    }

    /// Sets an original that never left its place back; content that somebody wrote since stays.
    fn restore_metadata(
        &mut self,
        parent: &Dir,
        name: &Name,
        original: &Entry,
        history: &History,
        now: &Stat,
    ) -> Result<(), Failure> {
        let mut wanted = original.clone();
        let committed = history.standing().map_or(original, |(entry, _ctime)| entry);
        let is_written = now.size != original.size() && original.kind.is_file();
        let is_time_of = |entry: &Entry| entry.mtime.is_kept_as(time(now.mtime), time(now.ctime));
        if is_written || !(is_time_of(committed) || is_time_of(original)) {
            wanted.mtime = time(now.mtime);
            self.findings.report(finding(
                Rule::KeptAside,
                Severity::Notice,
                &history.path,
                "its content was changed since the migration set its metadata; the content stays as it is now",
                "Nothing to do if that change was meant.",
            ));
        }
        self.kill.pass()?;
        if let Some(why) = set(parent, name, &wanted, (now.dev, now.ino))? {
            self.lose(&history.path, &why);
        }
        Ok(())
    }

    fn lose(&mut self, path: &RelPath, why: &str) {
        report_lost(self.findings, path, why);
        self.lost.get_or_insert_with(|| path.clone());
    }
}

/// The way up.
struct Up<'a> {
    stage: &'a Stage,
    names: &'a mut Names,
    findings: &'a FindingSink,
    kill: &'a KillPoint,
    kept_aside: u64,
    lost: Option<RelPath>,
}

impl Up<'_> {
    fn one(&mut self, later: &Later) -> Result<(), Failure> {
        if later.path.is_root() {
            let Some(original) = &later.original else { return Ok(()) };
            self.kill.pass()?;
            let Ok(wanted) = metadata(original) else { return Ok(()) };
            let applied = self.stage.root.apply_self(&wanted).map_err(|error| of_stage(&error))?;
            self.lose_if(later, unset(&applied)?);
            return Ok(());
        }
        let Some((parent, name)) = reach(self.stage, &later.path)? else { return Ok(()) };
        note(self.stage, self.names, &parent)?;
        let mut opened = Opened::default();
        opened.open(&parent).map_err(|error| of_stage(&error))?;
        if let Some(made) = later.made {
            self.remove_made(later, &parent, &name, made)?;
        }
        match (&later.original, later.kept, later.made) {
            (Some(original), Some(kept), Some(_)) => {
                self.return_original(later, original, kept, &parent, &name)
            }
            (Some(original), _, None) => self.restore(later, original, &parent, &name),
            (Some(_) | None, _, _) => Ok(()),
        }
    }

    /// Gives a directory that was there before its metadata back, unless somebody has put something else in its place.
    fn restore(&mut self, later: &Later, original: &Entry, parent: &Dir, name: &Name) -> Result<(), Failure> {
        let now = parent.stat_if_exists(name).map_err(|error| of_stage(&error))?;
        let Some(now) = now.filter(|now| is_recorded(original, now)) else {
            self.findings.report(finding(
                Rule::KeptAside,
                Severity::Warning,
                &later.path,
                "it was moved away while the migration was undone; what stands there now stays as it is",
                "Look who works in this tree.",
            ));
            return Ok(());
        };
        self.kill.pass()?;
        let unset = set(parent, name, original, (now.dev, now.ino))?;
        self.lose_if(later, unset);
        Ok(())
    }

    fn lose_if(&mut self, later: &Later, why: Option<String>) {
        if let Some(why) = why {
            report_lost(self.findings, &later.path, &why);
            self.lost.get_or_insert_with(|| later.path.clone());
        }
    }

    /// Removes a directory that the migration made; what others put into it goes to `after/`.
    fn remove_made(&mut self, later: &Later, parent: &Dir, name: &Name, made: u64) -> Result<(), Failure> {
        let dir = match parent.open_dir(name) {
            Ok(dir) => dir,
            Err(error) if error.is_not_found() || error.is_wrong_kind() => return Ok(()),
            Err(error) => return Err(of_stage(&error)),
        };
        if dir.stat_self().map_err(|error| of_stage(&error))?.ino != made {
            return Ok(());
        }
        let domain = self.stage.domains.get(later.domain)?;
        // What others put into it is taken out, and then it goes.
        dir.open_for_writing().map_err(|error| of_stage(&error))?;
        for entry in dir.list().map_err(|error| of_stage(&error))? {
            let entry = entry.map_err(|error| of_stage(&error))?;
            let Ok(path) = later.path.join(entry.name.as_bytes()) else { continue };
            if self.stage.domains.is_stage_name(entry.name.as_bytes()) {
                continue;
            }
            self.kept_aside += 1;
            self.kill.pass()?;
            keep_aside(&domain, &dir, &entry.name, &path, self.findings)?;
        }
        self.kill.pass()?;
        match parent.remove_dir(name) {
            Err(error) if error.is_not_empty() || error.is_busy() => {
                self.findings.report(finding(
                    Rule::KeptAside,
                    Severity::Warning,
                    &later.path,
                    "the migration made it, and it stays: something is mounted in it, or it became a part of its own",
                    "Unmount what is there and remove it by hand, if it is not wanted.",
                ));
                Ok(())
            }
            Err(error) if !error.is_not_found() => Err(of_stage(&error)),
            _ => Ok(()),
        }
    }

    fn return_original(
        &mut self,
        later: &Later,
        original: &Entry,
        kept: Kept,
        parent: &Dir,
        name: &Name,
    ) -> Result<(), Failure> {
        let Some(place) = place_of(self.stage, kept)? else {
            self.lose_if(later, Some("it is neither in its place nor in the stage".to_owned()));
            return Ok(());
        };
        self.kill.pass()?;
        let unset = return_kept(&place, parent, name, original)?;
        self.lose_if(later, unset);
        Ok(())
    }
}

/// Notes where names are changed, if directories are synced by themselves.
fn note(stage: &Stage, names: &mut Names, parent: &Dir) -> Result<(), Failure> {
    if !stage.home.disk.durable.is_by_file() {
        return Ok(());
    }
    names.note(parent).map_err(|error| of_sync(&error))
}

/// Reaches the directory that holds a path; nothing if it is gone.
fn reach(stage: &Stage, path: &RelPath) -> Result<Option<(Dir, Name)>, Failure> {
    let Some((parent, name)) = path.split() else { return Ok(None) };
    let name = Name::new(name).expect("a component of a path is a name");
    match stage.root.open_beneath(parent.as_bytes()) {
        Ok(dir) => Ok(Some((dir, name))),
        Err(error) if error.is_not_found() || error.is_wrong_kind() => Ok(None),
        Err(error) => Err(of_stage(&error)),
    }
}

/// Whether what stands there is what stood there before the migration.
pub(crate) fn is_original(history: &History, now: &Stat) -> bool {
    history.original().is_some_and(|original| is_recorded(original, now))
}

/// Moves what somebody else made or changed out of the way, where nothing is lost. Says whether it could: what is mounted
/// there, or in a domain of its own, stays and is told.
pub(crate) fn keep_aside(
    domain: &Domain,
    parent: &Dir,
    name: &Name,
    path: &RelPath,
    findings: &FindingSink,
) -> Result<bool, Failure> {
    let digest = Digest::of(path.as_bytes()).to_string();
    for number in 0..ASIDE_MAX {
        let aside = Name::new(format!("{}-{number}", &digest[..16])).expect("digits are a name");
        if domain.after.stat_if_exists(&aside).map_err(|error| of_stage(&error))?.is_some() {
            continue;
        }
        match parent.rename_over(name, &domain.after, &aside) {
            Err(error) if error.is_exdev() || error.is_busy() => {
                findings.report(finding(
                    Rule::KeptAside,
                    Severity::Warning,
                    path,
                    "it was added after the migration and stays where it is: another file system begins there",
                    "Unmount it, if it is not wanted there.",
                ));
                return Ok(false);
            }
            moved => moved.map_err(|error| of_stage(&error))?,
        }
        findings.report(finding(
            Rule::KeptAside,
            Severity::Warning,
            path,
            format!(
                "it was changed or added after the migration wrote it; it is kept as `{}/after/{aside}`",
                domain.shown
            ),
            "Look at it and take back what is needed, then settle the migration.",
        ));
        return Ok(true);
    }
    Err(Failure::new(FailureKind::Stuck, format!("`{path}` was kept aside too often"))
        .hint("Look into the stage's `after/`, take back what is needed, and run the undo again."))
}

fn report_lost(findings: &FindingSink, path: &RelPath, why: &str) {
    findings.report(finding(
        Rule::Differs,
        Severity::Error,
        path,
        format!("it cannot be put back: {why}"),
        "Restore it from a backup.",
    ));
}
