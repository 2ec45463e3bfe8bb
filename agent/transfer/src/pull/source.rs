//! Taking the source's tree in, ahead of the planner: its owners in this host's numbers, into the stage's manifest.
//!
//! The planner reads that file as it grows. So the whole of the source is known as soon as it has been scanned, however
//! far the content is, and memory stays flat.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;

use common::failure::Failure;
use common::rel_path::RelPath;
use sync::entry::Kind;
use sync::listing::Listing;
use sync::wire::manifest::{Head, Item};

use super::forecast::Forecast;
use super::{Pass, lock};
use crate::breach::breach;
use crate::manifest::{ManifestWriter, Written};
use crate::owner::Owners;
use crate::peer::ManifestReceiver;
use crate::tally::add;

/// Takes everything in, tells how far the manifest can be read, and lets the pass land when it is known to fit.
pub(super) fn run(
    pass: &Pass,
    mut manifest: ManifestReceiver,
    mut owners: Owners,
    mut forecast: Forecast,
    told: &Sender<Written>,
) -> Result<(), Failure> {
    let head = begin(&mut manifest, &mut owners)?;
    let is_further = pass.is_further();
    lock(&pass.passes).begin(&pass.stage.dir, pass.number, head.started, &pass.source_root, is_further)?;
    let mut root = head.root;
    owners.apply(&RelPath::root(), &mut root)?;
    let mut writer = ManifestWriter::create(&pass.stage, pass.number, root)?;
    // Nobody listens when the planner has failed; then the pass has, too.
    let tell = |written| told.send(written).ok();
    loop {
        pass.flow.check()?;
        match manifest.blocking_next()? {
            Some(Item::Names(names)) => owners.learn(names)?,
            Some(Item::Listing(mut listing)) => {
                owners.apply_all(&mut listing)?;
                count(pass, &listing);
                forecast.count(&listing);
                writer.write(&listing)?.map(|length| tell(Written::UpTo(length)));
            }
            Some(Item::Sanitized(files)) => *lock(&pass.counters.sanitized) = files,
            Some(Item::End(_)) => break,
            Some(Item::Head(_) | Item::Watched(_) | Item::Unwatched(_) | Item::Only(_)) | None => {
                return Err(breach("its manifest has no end"));
            }
        }
    }
    let length = writer.flush()?;
    tell(Written::Whole(length));
    pass.counters.is_scan_complete.store(true, Relaxed);
    forecast.judge(pass, length)?;
    pass.flow.let_go();
    *lock(&pass.manifest) = Some(writer);
    Ok(())
}

fn begin(manifest: &mut ManifestReceiver, owners: &mut Owners) -> Result<Head, Failure> {
    loop {
        match manifest.blocking_next()? {
            Some(Item::Head(head)) => return Ok(head),
            Some(Item::Names(names)) => owners.learn(names)?,
            Some(
                Item::Listing(_)
                | Item::Sanitized(_)
                | Item::End(_)
                | Item::Watched(_)
                | Item::Unwatched(_)
                | Item::Only(_),
            )
            | None => return Err(breach("its manifest has no beginning")),
        }
    }
}

fn count(pass: &Pass, listing: &Listing) {
    let (mut files, mut directories, mut bytes) = (0, 0, 0_u64);
    for entry in &listing.entries {
        match entry.kind {
            Kind::Directory => directories += 1,
            _ => files += 1,
        }
        // A group of hard links counts once, when the group is known.
        bytes = bytes.saturating_add(if entry.is_hard_link() { 0 } else { entry.size() });
    }
    let counters = &pass.counters;
    add(&counters.entries_seen, files + directories);
    if pass.only.is_none() {
        add(&counters.files_total, files);
        add(&counters.directories_total, directories);
        add(&counters.bytes_total, bytes);
    }
    pass.flow.know(bytes);
}
