//! What waits for the end of a pass: deletes, and the metadata of directories from the leaves up.

use common::failure::Failure;
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use common::spec::MaxDelete;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::Relaxed;
use sync::diff::Difference;
use sync::entry::Entry;

use super::committing::mount_point_stays;
use super::plan::{Later, Planner};
use super::reach::no_stage;
use super::{Item, Landing, Pass, lock};
use crate::commit::{Effect, Seen};
use crate::domain::DomainId;
use crate::domains::Refusal;
use crate::frame_file::FrameReader;
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

/// Ends a pass whose content has all landed.
pub(super) fn run(planner: Planner<'_>) -> Result<(), Failure> {
    let Planner { pass, items, directories, candidates, .. } = planner;
    let send = |item: Item| pass.send(&items, item);
    let candidates = candidates.finish()?;
    if pass.params.delete && candidates.length_bytes() > 0 {
        delete(pass, FrameReader::backwards(candidates), &send)?;
    }
    finish_directories(pass, FrameReader::backwards(directories.finish()?), &send)
}

/// Removes what may go, from the leaves up.
fn delete(
    pass: &Pass,
    mut candidates: FrameReader<Candidate>,
    send: &impl Fn(Item) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if !is_allowed(pass, &mut candidates)? {
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
                send(Item { cost: Some(0), ..item })?;
            }
        }
    }
    pass.flow.wait_until_idle()
}

/// Counts what would go and asks the guard.
fn is_allowed(pass: &Pass, candidates: &mut FrameReader<Candidate>) -> Result<bool, Failure> {
    let mut count = 0_u64;
    while let Some(candidate) = candidates.previous()? {
        count += u64::from(matches!(candidate, Candidate::Entry { .. }));
    }
    let present = pass.counters.destination_entries.load(Relaxed);
    let at_source = pass.counters.files_total.load(Relaxed) + pass.counters.directories_total.load(Relaxed);
    let limit = match pass.params.max_delete {
        MaxDelete::Count(limit) => limit,
        MaxDelete::Percent(percent) => present.saturating_mul(u64::from(percent)) / 100,
    };
    let why = if !lock(&pass.passes).is_same_root(&pass.source_root) {
        "the source's root is not the directory that it was when the migration began: is its mount lost?"
            .to_owned()
    } else if at_source == 0 {
        "the source is empty".to_owned()
    } else if count > limit {
        format!("{count} of {present} entries would go, more than the {limit} allowed")
    } else {
        return Ok(true);
    };
    pass.counters.set_partial();
    // Nothing of the source is missing by this, so it is no exception for the verification.
    pass.findings.report(finding(
        Rule::NotDeleted,
        Severity::Error,
        &RelPath::root(),
        format!("nothing was removed: {why}"),
        "Look whether the source is the right one and whole; if it is, allow more with --max-delete.",
    ));
    Ok(false)
}

/// Gives directories their owner, mode, attributes and times, those that changed or that were worked in.
fn finish_directories(
    pass: &Pass,
    mut directories: FrameReader<Later>,
    send: &impl Fn(Item) -> Result<(), Failure>,
) -> Result<(), Failure> {
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
        send(Item { cost: Some(0), ..Item::new(path, domain, effect, Landing::Directory) })?;
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
