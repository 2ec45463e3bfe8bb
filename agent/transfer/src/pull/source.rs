//! The source's listings, their owners in this host's numbers.

use common::failure::Failure;
use common::rel_path::RelPath;
use sync::entry::{Entry, Kind};
use sync::listing::Listing;
use sync::wire::manifest::Item;

use super::Pass;
use crate::breach::breach;
use crate::manifest::ManifestWriter;
use crate::owner::Owners;
use crate::peer::ManifestReceiver;
use crate::tally::add;

/// Yields listings as the planner joins them.
#[derive(Debug)]
pub(super) struct SourceListings<'a> {
    pass: &'a Pass,
    manifest: ManifestReceiver,
    owners: Owners,
    /// Written along, and handed to the pass at the end.
    writer: Option<ManifestWriter>,
    root: Entry,
}

impl<'a> SourceListings<'a> {
    /// Waits for the beginning of the manifest.
    pub(super) fn new(
        pass: &'a Pass,
        mut manifest: ManifestReceiver,
        mut owners: Owners,
    ) -> Result<Self, Failure> {
        let head = loop {
            match manifest.blocking_next()? {
                Some(Item::Head(head)) => break head,
                Some(Item::Names(names)) => owners.learn(names)?,
                Some(Item::Listing(_) | Item::Sanitized(_) | Item::End(_)) | None => {
                    return Err(breach("its manifest has no beginning"));
                }
            }
        };
        super::lock(&pass.passes).begin(&pass.stage.dir, pass.number, head.started, &pass.source_root)?;
        let mut root = head.root;
        owners.apply(&RelPath::root(), &mut root)?;
        let writer = Some(ManifestWriter::create(&pass.stage, pass.number, root.clone())?);
        Ok(Self { pass, manifest, owners, writer, root })
    }

    /// Returns the source's root, its owner in this host's numbers.
    pub(super) fn root(&self) -> &Entry {
        &self.root
    }

    fn next_listing(&mut self) -> Result<Option<Listing>, Failure> {
        loop {
            self.pass.flow.check()?;
            match self.manifest.blocking_next()? {
                Some(Item::Names(names)) => self.owners.learn(names)?,
                Some(Item::Listing(mut listing)) => {
                    self.take(&mut listing)?;
                    if let Some(writer) = &mut self.writer {
                        writer.write(&listing)?;
                    }
                    return Ok(Some(listing));
                }
                Some(Item::Head(_)) | None => return Ok(None),
                Some(Item::Sanitized(files)) => *super::lock(&self.pass.counters.sanitized) = files,
                Some(Item::End(_)) => {
                    *super::lock(&self.pass.manifest) = self.writer.take();
                    self.pass.counters.is_scan_complete.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
        }
    }

    fn take(&mut self, listing: &mut Listing) -> Result<(), Failure> {
        self.owners.apply_all(listing)?;
        let (mut files, mut directories, mut bytes) = (0, 0, 0_u64);
        for entry in &listing.entries {
            match entry.kind {
                Kind::Directory => directories += 1,
                _ => files += 1,
            }
            // A group of hard links counts once, when the group is known.
            bytes = bytes.saturating_add(if entry.is_hard_link() { 0 } else { entry.size() });
        }
        let counters = &self.pass.counters;
        add(&counters.files_total, files);
        add(&counters.directories_total, directories);
        add(&counters.bytes_total, bytes);
        self.pass.flow.know(bytes);
        Ok(())
    }
}

impl Iterator for SourceListings<'_> {
    type Item = Result<Listing, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_listing().transpose()
    }
}
