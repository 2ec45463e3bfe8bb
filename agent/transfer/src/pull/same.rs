//! Small files whose content is that of another one: made from what came before, as inodes of their own.
//!
//! The source says which wish was answered with the same bytes, and their digest. It read both files, so it gets nothing
//! for it that it does not have. Only what came on this connection can be named, and what is there now is read and
//! compared before it is written; where that is not it, the bytes are asked for.

use common::digest::Digest;
use common::failure::Failure;
use sync::pack;
use sync::wire::content::{Fetch, Layout, Same, What};

use super::apply::{Applier, Came};
use super::arrivals::{Arrival, Copy, Found};
use super::{Wish, unasked};

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
                Found::Unknown(copy) => self.ask_for_bytes(copy)?,
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
                Found::Unknown(copy) => self.ask_for_bytes(copy)?,
                Found::Coming => {}
            }
        }
        Ok(())
    }

    /// Makes a file from one that came before.
    fn copy(&mut self, arrival: &Arrival, copy: Copy) -> Result<(), Failure> {
        let digest = Digest::from(copy.same.digest);
        if digest != arrival.digest {
            return self.ask_for_bytes(copy);
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
            false => self.ask_for_bytes(copy),
        };
        self.content = content;
        done
    }

    /// Stages a file of this content, whose digest is the one that the source named.
    fn write_copy(&mut self, copy: Copy, content: &[u8]) -> Result<(), Failure> {
        let Copy { small, same } = copy;
        if same.stamp.size != content.len() as u64 {
            return self.ask_for_bytes(Copy { small, same });
        }
        let mut data = Vec::new();
        let data = match &same.layout {
            Layout::Dense => content,
            Layout::Sparse(extents) => {
                for extent in extents {
                    let start = extent.offset as usize;
                    data.extend(content.iter().skip(start).take(extent.length as usize));
                }
                // Whoever says that there is a hole where there is data would get another file.
                if pack::content_digest(&same.layout, content.len(), &data) != same.digest {
                    return self.ask_for_bytes(Copy { small, same });
                }
                &data
            }
        };
        let digest = Digest::from(same.digest);
        let came = Came { stamp: same.stamp, layout: &same.layout, data, digest, is_copied: true };
        self.small(small, &came).map(drop)
    }

    /// Asks for the bytes themselves.
    fn ask_for_bytes(&self, copy: Copy) -> Result<(), Failure> {
        let Copy { small, same: _ } = copy;
        let (path, stamp) = (small.path.clone(), small.source.stamp());
        let id = self.pass.wish(Wish::Small(Box::new(small)));
        self.ask(Fetch { id, path, stamp, what: What::Bytes })
    }
}
