//! Small files whose content is that of another one: made from what came before, as inodes of their own.
//!
//! The source says which wish was answered with the same bytes, and their digest. It read both files, so it gets nothing
//! for it that it does not have. Only what came on this connection can be named, and what is there now is read and
//! compared before it is written; where that is not it, the bytes are asked for. What earlier migrations brought is
//! another matter: see [`super::known`].

use std::borrow::Cow;

use common::digest::Digest;
use common::failure::Failure;
use sync::pack;
use sync::stamp::Stamp;
use sync::wire::content::{Fetch, Have, Layout, Same, What};

use super::apply::{Applier, Came};
use super::arrivals::{Arrival, Copy, Found};
use super::{Small, Wish, unasked};

impl Applier<'_> {
    /// Takes files that are the same as others.
    pub(super) fn same(&mut self, all: Vec<Same>) -> Result<(), Failure> {
        for same in all {
            let Wish::Small(small) = self.pass.take_wish(same.id)? else { return Err(unasked()) };
            // What waits for this one would have to wait for a third; nobody could say for how long.
            self.came(same.id, None)?;
            let is_wished = |id| self.pass.is_small_wish(id);
            match self.pass.arrivals.find(Copy { small: *small, same }, is_wished) {
                Found::Here(arrival, copy) => self.copy(&arrival, copy)?,
                Found::Coming => {}
                Found::Unknown(copy) => self.ask_for_bytes(copy.small)?,
            }
        }
        Ok(())
    }

    /// Notes what became of the bytes of a wish, and goes on with what waited for them.
    pub(super) fn came(&mut self, id: u64, arrival: Option<Arrival>) -> Result<(), Failure> {
        let is_here = arrival.is_some();
        for copy in self.pass.arrivals.end(id, arrival) {
            let found = match is_here {
                true => self.pass.arrivals.find(copy, |_gone| false),
                false => Found::Unknown(copy),
            };
            match found {
                Found::Here(arrival, copy) => self.copy(&arrival, copy)?,
                Found::Unknown(copy) => self.ask_for_bytes(copy.small)?,
                Found::Coming => {}
            }
        }
        Ok(())
    }

    /// Makes a file from one that came before.
    fn copy(&mut self, arrival: &Arrival, copy: Copy) -> Result<(), Failure> {
        let digest = Digest::from(copy.same.digest);
        if digest != arrival.digest {
            return self.ask_for_bytes(copy.small);
        }
        let arrivals = &self.pass.arrivals;
        if let Some(content) = arrivals.content(&digest) {
            return self.write_copy(copy, &content);
        }
        let mut content = std::mem::take(&mut self.content);
        let done = match arrival.read(&self.pass.stage.root, &mut content) {
            true => {
                arrivals.hold(digest, &content);
                self.write_copy(copy, &content)
            }
            false => self.ask_for_bytes(copy.small),
        };
        self.content = content;
        done
    }

    /// Stages a file of this content, whose digest is the one that the source named.
    fn write_copy(&mut self, copy: Copy, content: &[u8]) -> Result<(), Failure> {
        let Copy { small, same } = copy;
        let digest = Digest::from(same.digest);
        let Some(data) = data_of(content, &digest, &same.stamp, &same.layout) else {
            return self.ask_for_bytes(small);
        };
        let came = Came { stamp: same.stamp, layout: &same.layout, data: &data, digest, is_copied: true };
        self.small(small, &came).map(drop)
    }

    /// Takes files of which this host holds a copy, as the source has proven.
    pub(super) fn have(&mut self, all: Vec<Have>) -> Result<(), Failure> {
        for have in all {
            self.pass.arrivals.begin(have.id, have.stamp.size);
            let Wish::Small(small) = self.pass.take_wish(have.id)? else { return Err(unasked()) };
            let mut content = std::mem::take(&mut self.content);
            let digest = self.pass.known.read(&small.path, &have, &mut content);
            let arrival = self.write_held(*small, &have, digest, &content);
            self.content = content;
            self.came(have.id, arrival?)?;
        }
        Ok(())
    }

    /// Stages a file of a content that was here, if it was.
    fn write_held(
        &mut self,
        small: Small,
        have: &Have,
        digest: Option<Digest>,
        content: &[u8],
    ) -> Result<Option<Arrival>, Failure> {
        let found =
            digest.and_then(|digest| Some((digest, data_of(content, &digest, &have.stamp, &have.layout)?)));
        let Some((digest, data)) = found else { return self.ask_for_bytes(small).map(|()| None) };
        let came = Came { stamp: have.stamp, layout: &have.layout, data: &data, digest, is_copied: true };
        self.small(small, &came)
    }

    /// Asks for the bytes themselves.
    fn ask_for_bytes(&self, small: Small) -> Result<(), Failure> {
        let (path, stamp) = (small.path.clone(), small.source.stamp());
        let id = self.pass.wish(Wish::Small(Box::new(small)));
        self.ask(Fetch { id, path, stamp, what: What::Bytes })
    }
}

/// Returns what of a content is data by this layout; nothing if that would be another file.
fn data_of<'a>(content: &'a [u8], digest: &Digest, stamp: &Stamp, layout: &Layout) -> Option<Cow<'a, [u8]>> {
    if stamp.size != content.len() as u64 {
        return None;
    }
    let Layout::Sparse(extents) = layout else { return Some(Cow::Borrowed(content)) };
    let mut data = Vec::new();
    for extent in extents {
        let start = usize::try_from(extent.offset).ok()?;
        data.extend_from_slice(content.get(start..)?.get(..usize::try_from(extent.length).ok()?)?);
    }
    // Somebody may say that there is a hole where there is data.
    let is_it = pack::content_digest(layout, content.len(), &data) == *digest.as_bytes();
    is_it.then_some(Cow::Owned(data))
}
