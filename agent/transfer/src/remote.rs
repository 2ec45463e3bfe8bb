//! Asking the source for digests, and for its tree as it is.

use std::collections::HashMap;

use common::digest::Digest;
use common::failure::Failure;
use common::rel_path::RelPath;
use sync::entry::Entry;
use sync::listing::Listing;
use sync::wire::content::{Digested, Failed, Fetch, Reply, What};
use sync::wire::manifest::Item;

use crate::breach::breach;
use crate::owner::Owners;
use crate::peer::{ContentReceiver, FetchSender, ManifestReceiver, batch_of};

/// Lanes to the source.
pub(crate) type Content = (FetchSender, ContentReceiver);

/// Digests of the source, asked for in batches.
#[derive(Debug)]
pub(crate) struct Remote {
    fetches: FetchSender,
    content: ContentReceiver,
    next_id: u64,
}

impl Remote {
    pub(crate) fn new((fetches, content): Content) -> Self {
        Self { fetches, content, next_id: 1 }
    }

    /// Asks for the digests of some files as they are now; a file that cannot be had, or is no longer the one of its
    /// entry, has none.
    pub(crate) fn digests(&mut self, files: &[(&RelPath, &Entry)]) -> Result<Vec<Option<Digest>>, Failure> {
        let mut found = vec![None; files.len()];
        let mut fetches = Vec::with_capacity(files.len());
        let first = self.next_id;
        for (path, entry) in files {
            let id = self.next_id;
            self.next_id += 1;
            fetches.push(Fetch { id, path: (*path).clone(), stamp: entry.stamp(), what: What::Digest });
        }
        let mut indexes = (first..).zip(0..files.len());
        while !fetches.is_empty() {
            let later = fetches.split_off(batch_of(&fetches));
            let mut asked: HashMap<u64, usize> = indexes.by_ref().take(fetches.len()).collect();
            // Nobody else takes the answers, so no more is asked for than one lane holds.
            self.fetches.blocking_send(std::mem::replace(&mut fetches, later))?;
            while !asked.is_empty() {
                self.answer(&mut asked, files, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Takes one answer.
    fn answer(
        &mut self,
        asked: &mut HashMap<u64, usize>,
        files: &[(&RelPath, &Entry)],
        found: &mut [Option<Digest>],
    ) -> Result<(), Failure> {
        let unasked = || breach("it answered something that was not asked for");
        match self.content.blocking_next()?.reply {
            Reply::Digests(digests) => {
                for Digested { id, stamp, digest } in digests {
                    let index = asked.remove(&id).ok_or_else(unasked)?;
                    let expected = files[index].1.stamp();
                    found[index] = (stamp == expected).then(|| Digest::from(digest));
                }
            }
            Reply::Failed(failed) => {
                for Failed { id, why: _ } in failed {
                    asked.remove(&id).ok_or_else(unasked)?;
                }
            }
            Reply::Pack(_)
            | Reply::Range(_)
            | Reply::Delta(_)
            | Reply::Unlike(_)
            | Reply::Values(_)
            | Reply::Confirmed(_)
            | Reply::Same(_)
            | Reply::Have(_) => {
                return Err(unasked());
            }
        }
        Ok(())
    }
}

/// The source's tree as it is, its owners in this host's numbers.
#[derive(Debug)]
pub(crate) struct PeerListings {
    manifest: ManifestReceiver,
    owners: Owners,
    root: Entry,
}

impl PeerListings {
    pub(crate) fn new(mut manifest: ManifestReceiver, mut owners: Owners) -> Result<Self, Failure> {
        loop {
            match manifest.blocking_next()? {
                Some(Item::Names(names)) => owners.learn(names)?,
                Some(Item::Head(head)) => {
                    let mut root = head.root;
                    owners.apply(&RelPath::root(), &mut root)?;
                    return Ok(Self { manifest, owners, root });
                }
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

    pub(crate) fn root(&self) -> &Entry {
        &self.root
    }

    fn next_listing(&mut self) -> Result<Option<Listing>, Failure> {
        loop {
            match self.manifest.blocking_next()? {
                Some(Item::Names(names)) => self.owners.learn(names)?,
                Some(Item::Listing(mut listing)) => {
                    self.owners.apply_all(&mut listing)?;
                    return Ok(Some(listing));
                }
                // What is out of place was refused when it came.
                Some(
                    Item::Head(_)
                    | Item::Sanitized(_)
                    | Item::End(_)
                    | Item::Watched(_)
                    | Item::Unwatched(_)
                    | Item::Only(_),
                ) => {}
                None => return Ok(None),
            }
        }
    }
}

impl Iterator for PeerListings {
    type Item = Result<Listing, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_listing().transpose()
    }
}
