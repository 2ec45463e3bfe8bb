//! The source's listings, their owners in this host's numbers.

use common::failure::{Failure, FailureKind};
use common::rel_path::RelPath;
use sync::entry::{Entry, Kind};
use sync::listing::Listing;
use sync::wire::manifest::Item;

use super::Pass;
use crate::owner::Owners;
use crate::peer::ManifestReceiver;
use crate::tally::add;

/// Yields listings as the planner joins them.
#[derive(Debug)]
pub(super) struct SourceListings<'a> {
    pass: &'a Pass,
    manifest: ManifestReceiver,
    owners: Owners,
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
                Some(Item::Names(names)) => owners.learn(names),
                Some(Item::Listing(_) | Item::End(_)) | None => {
                    return Err(Failure::new(FailureKind::Bug, "the source's manifest has no beginning"));
                }
            }
        };
        Ok(Self { pass, manifest, owners, root: head.root })
    }

    /// Returns the source's root.
    pub(super) fn root(&mut self) -> Result<Entry, Failure> {
        let mut root = self.root.clone();
        map(&mut self.owners, &RelPath::root(), &mut root)?;
        Ok(root)
    }

    fn next_listing(&mut self) -> Result<Option<Listing>, Failure> {
        loop {
            self.pass.flow.check()?;
            match self.manifest.blocking_next()? {
                Some(Item::Names(names)) => self.owners.learn(names),
                Some(Item::Listing(mut listing)) => {
                    self.take(&mut listing)?;
                    return Ok(Some(listing));
                }
                Some(Item::Head(_)) | None => return Ok(None),
                Some(Item::End(_)) => {
                    self.pass.counters.is_scan_complete.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
        }
    }

    fn take(&mut self, listing: &mut Listing) -> Result<(), Failure> {
        let (mut files, mut directories, mut bytes) = (0, 0, 0);
        for entry in &mut listing.entries {
            let path =
                listing.path.join(&entry.name).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
            map(&mut self.owners, &path, entry)?;
            match entry.kind {
                Kind::Directory => directories += 1,
                _ => files += 1,
            }
            bytes += entry.size();
        }
        let counters = &self.pass.counters;
        add(&counters.files_total, files);
        add(&counters.directories_total, directories);
        add(&counters.bytes_total, bytes);
        self.pass.flow.know(bytes);
        Ok(())
    }
}

fn map(owners: &mut Owners, path: &RelPath, entry: &mut Entry) -> Result<(), Failure> {
    let owned = owners.map(path, entry)?;
    (entry.uid, entry.gid, entry.xattrs) = (owned.uid, owned.gid, owned.xattrs);
    Ok(())
}

impl Iterator for SourceListings<'_> {
    type Item = Result<Listing, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_listing().transpose()
    }
}
