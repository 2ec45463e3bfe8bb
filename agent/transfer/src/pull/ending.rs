//! What waits until the content of a pass has landed: deletes, and, last of all, the metadata of directories; both from
//! the leaves up.

use common::failure::Failure;
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::Relaxed;
use sync::diff::Difference;
use sync::entry::Entry;

use super::committing::mount_point_stays;
use super::plan::{Later, Planner};
use super::put_off::spilled;
use super::reach::no_stage;
use super::{Item, Landing, Pass, lock};
use crate::commit::{Effect, Seen};
use crate::domain::DomainId;
use crate::domains::Refusal;
use crate::frame_file::FrameReader;
use crate::removal::{self, Removal};
use crate::standing::{look, look_at_self};
use crate::trouble::{finding, of_stage};

/// Something that the source does not have, spilled until the pass knows whether it may go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Candidate {
    /// An entry.
    Entry {
        /// Where.
        path: RelPath,
        /// The rename domain of that place.
        domain: DomainId,
        /// As the scan saw it.
        entry: Entry,
        /// Whether this migration made it.
        is_ours: bool,
    },
    /// A directory that the source could not list whole: comes behind its entries, which stay.
    Incomplete {
        /// Which one.
        path: RelPath,
    },
}

/// Removes what may go, from the leaves up.
pub(super) fn delete(planner: &mut Planner<'_>) -> Result<(), Failure> {
    let pass = planner.pass;
    let candidates = std::mem::replace(&mut planner.candidates, spilled(pass, "deletes")?).finish()?;
    if !pass.params.delete || candidates.length_bytes() == 0 {
        return Ok(());
    }
    let mut candidates = FrameReader::backwards(candidates);
    if !is_allowed(pass, &mut candidates, planner.emptied)? {
        return Ok(());
    }
    let mut candidates = FrameReader::backwards(candidates.into_file());
    let mut incomplete: Option<RelPath> = None;
    while let Some(candidate) = candidates.previous()? {
        pass.flow.check()?;
        match candidate {
            Candidate::Incomplete { path } => incomplete = Some(path),
            Candidate::Entry { path, domain, entry, is_ours } => {
                let parent = path.split().map(|(parent, _name)| parent);
                if incomplete.is_some() && parent == incomplete {
                    continue;
                }
                // The stage in it holds the way back of what stood there.
                if entry.kind.is_directory() && pass.stage.domains.is_above_stage(&path) {
                    mount_point_stays(pass, &path);
                    continue;
                }
                let seen = Box::new(Seen { entry, is_ours });
                pass.flow.acquire(0)?;
                let item = Item::new(path, domain, Effect::Remove { seen }, Landing::Removal);
                planner.send(Item { cost: Some(0), ..item })?;
            }
        }
    }
    pass.flow.wait_until_idle()
}

/// Counts what would go and asks the guard.
fn is_allowed(pass: &Pass, candidates: &mut FrameReader<Candidate>, emptied: u64) -> Result<bool, Failure> {
    let mut count = emptied;
    while let Some(candidate) = candidates.previous()? {
        count += u64::from(matches!(candidate, Candidate::Entry { .. }));
    }
    let counters = &pass.counters;
    let removal = Removal {
        count,
        present: counters.destination_entries.load(Relaxed),
        at_source: counters.files_total.load(Relaxed) + counters.directories_total.load(Relaxed),
        is_same_source: lock(&pass.passes).is_same_root(&pass.source_root),
    };
    let Some(why) = removal.refusal(pass.params.max_delete) else { return Ok(true) };
    pass.counters.set_partial();
    // Nothing of the source is missing by this, so it is no exception for the verification.
    pass.findings.report(finding(
        Rule::NotDeleted,
        Severity::Error,
        &RelPath::root(),
        format!("nothing was removed: {why}"),
        removal::HINT,
    ));
    Ok(false)
}

/// Gives directories their owner, mode, attributes and times, those that changed or that were worked in.
pub(super) fn finish_directories(planner: Planner<'_>) -> Result<(), Failure> {
    let Planner { pass, items, directories, .. } = planner;
    let mut directories = FrameReader::<Later>::backwards(directories.finish()?);
    while let Some(Later { path, mut wanted }) = directories.previous()? {
        pass.flow.check()?;
        // Times of a parent must be set after its children were renamed and changed: in the order of the items.
        let Some(now) = present(pass, &path)? else { continue };
        if !now.kind.is_directory() {
            continue;
        }
        wanted.kind = now.kind.clone();
        if Difference::between(&wanted, &now).is_none() {
            continue;
        }
        // Of the directory itself: it may be the top of a domain.
        let domain = match pass.stage.domains.ensure(&path) {
            Ok(domain) => domain,
            Err(Refusal::Failure(failure)) => return Err(failure),
            // That it was passed over was told.
            Err(Refusal::NoStage { is_made_up: true, .. }) => continue,
            Err(Refusal::NoStage { why, is_made_up: false }) => {
                no_stage(pass, &path, &why);
                continue;
            }
        };
        let effect = Effect::Metadata { seen: Box::new(now), wanted: Box::new(wanted) };
        pass.flow.acquire(0)?;
        pass.send(&items, Item { cost: Some(0), ..Item::new(path, domain, effect, Landing::Directory) })?;
    }
    pass.flow.wait_until_idle()
}

fn present(pass: &Pass, path: &RelPath) -> Result<Option<Entry>, Failure> {
    let root = &pass.stage.root;
    let Some((parent, name)) = path.split() else {
        return look_at_self(root).map(Some).map_err(|error| of_stage(&error));
    };
    let name =
        tree::Name::new(name).map_err(|error| Failure::of(common::failure::FailureKind::Bug, &error))?;
    match root.open_beneath(parent.as_bytes()).and_then(|dir| look(&dir, &name)) {
        Ok(found) => Ok(found),
        Err(error) if error.is_not_found() || error.is_wrong_kind() => Ok(None),
        Err(error) => Err(of_stage(&error)),
    }
}
