//! Ranges of large files that come: as they are, as what differs from the old body, or not yet.

use common::failure::Failure;
use sync::wire::content::{RangeReply, What};
use sync::wire::delta::{DeltaReply, Unlike};
use tree::TreeError;

use super::apply::Applier;
use super::committing::unwritable;
use super::large::Next;
use super::old_body::Asked;
use super::{RangeWish, Wish, unasked};
use crate::tally::add;

impl Applier<'_> {
    /// Takes a range that came whole.
    pub(super) fn range(&mut self, range: &RangeReply, content: &[u8]) -> Result<(), Failure> {
        let wanted = self.take_range(range.id)?;
        if wanted.index != range.index {
            return Err(unasked());
        }
        if wanted.asked != Asked::Plainly {
            wanted.large.compared(range.length, 0);
        }
        let taken = wanted.large.take(range, content)?;
        self.range_came(wanted, range.length, taken)
    }

    fn take_range(&self, id: u64) -> Result<RangeWish, Failure> {
        match self.pass.take_wish(id)? {
            Wish::Range(wanted) => Ok(wanted),
            _ => Err(unasked()),
        }
    }

    /// Puts a range together from the old body and what differs.
    pub(super) fn delta(&mut self, delta: &DeltaReply, content: &[u8]) -> Result<(), Failure> {
        let wanted = self.take_range(delta.id)?;
        if wanted.index != delta.index {
            return Err(unasked());
        }
        let Some(taken) = wanted.large.take_delta(wanted.asked, delta, content)? else {
            // The old body has changed since it was read, or a hash was that of something else.
            let what = What::Range { index: wanted.index };
            return self.ask_range(RangeWish { asked: Asked::Plainly, ..wanted }, what);
        };
        let alike = delta.length.saturating_sub(u32::try_from(content.len()).unwrap_or(u32::MAX));
        wanted.large.compared(delta.length, alike);
        // What came before and is taken again was counted then.
        if taken.is_ok() && !wanted.large.is_again() {
            let data = delta.layout.data_bytes(u64::from(delta.length)).unwrap_or(0);
            let from_here = data.saturating_sub(content.len()) as u64;
            add(&self.pass.counters.bytes_deduplicated, from_here);
            add(&self.pass.counters.data_deduplicated, from_here);
        }
        self.range_came(wanted, delta.length, taken)
    }

    /// Asks in another way for a range of which hardly anything is where it was looked for.
    pub(super) fn unlike(&mut self, unlike: &Unlike) -> Result<(), Failure> {
        let wanted = self.take_range(unlike.id)?;
        let proceed = || self.pass.flow.check().is_ok();
        let (asked, what) = wanted.large.next_wish(wanted.index, wanted.asked, &unlike.samples, &proceed)?;
        self.ask_range(RangeWish { asked, ..wanted }, what)
    }

    fn ask_range(&self, wanted: RangeWish, what: What) -> Result<(), Failure> {
        let stamp = wanted.large.stamp();
        self.ask(self.pass.wish_range(wanted, stamp, what))
    }

    fn range_came(
        &mut self,
        wanted: RangeWish,
        length: u32,
        taken: Result<Next, TreeError>,
    ) -> Result<(), Failure> {
        let RangeWish { large, cost, .. } = wanted;
        if !large.is_again() {
            add(&self.pass.counters.bytes_done, u64::from(length));
        }
        let next = match taken {
            Ok(next) => next,
            Err(error) => {
                let (is_first, next) = large.fail();
                if is_first {
                    unwritable(self.pass, &large.path, &error);
                }
                next
            }
        };
        if let Some(cost) = cost {
            self.pass.flow.release(cost);
        }
        self.next(&large, next)
    }
}
