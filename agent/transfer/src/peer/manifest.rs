//! Receiving the source's tree.

use std::fmt;

use common::failure::{Failure, FailureKind};
use common::shutdown::Shutdown;
use sync::codec;
use sync::frame::{FrameError, FrameKind};
use sync::listing::{ListingEnd, ListingOrder};
use sync::only::Only;
use sync::wire::error_code::ErrorCode;
use sync::wire::manifest::{End, Item, split_block};
use tokio::sync::mpsc;
use zstd::bulk::Decompressor;

use crate::breach::{breach, shown};
use crate::lane::{LaneError, LaneReceiver};
use crate::peer::Ended;
use crate::peer::demand::Demand;

/// Compressed blocks that wait to be taken: 256 KiB of entries each before compression.
const BLOCKS_WAITING: usize = 8;

/// The source's tree, item by item, checked: listings come in order, whole, and only where they were announced.
///
/// After the `End` item it yields nothing more. Blocks are decoded by whoever calls; that is for threads, not for
/// async code.
pub struct ManifestReceiver {
    blocks: mpsc::Receiver<Result<Vec<u8>, Failure>>,
    ended: Ended,
    decompressor: Option<Decompressor<'static>>,
    /// The block that is being read, and how far it is.
    raw: Vec<u8>,
    at: usize,
    order: Option<ListingOrder>,
    counted: End,
    is_begun: bool,
    /// What was read and not taken yet.
    held: Option<Item>,
}

/// How a manifest begins, before its first item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// The watch that the source has put on its tree.
    pub(crate) watch: Option<u64>,
    /// What it looked at, where that is not everything.
    pub(crate) only: Option<Only>,
    /// Why it looks at everything, where less was asked for; for people.
    pub(crate) why: Option<String>,
}

impl fmt::Debug for ManifestReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestReceiver").field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl ManifestReceiver {
    pub(super) fn start(mut receiver: LaneReceiver, demand: Demand, ended: Ended, tasks: &Shutdown) -> Self {
        receiver.count_in(demand.taken());
        let (sender, blocks) = mpsc::channel(BLOCKS_WAITING);
        let task_ended = ended.clone();
        tasks.spawn(async move {
            if let Err(error) = read_blocks(receiver, &sender, &demand).await {
                task_ended.lane(&error);
                // Nobody waits for it when the receiver is gone.
                sender.send(Err(task_ended.failure())).await.ok();
            }
        });
        Self {
            blocks,
            ended,
            decompressor: None,
            raw: Vec::new(),
            at: 0,
            order: Some(ListingOrder::new()),
            counted: End::default(),
            is_begun: false,
            held: None,
        }
    }

    /// Waits for the beginning; what comes then is checked by it. To be called first.
    ///
    /// # Errors
    /// As for an item.
    pub(crate) fn begin(&mut self) -> Result<Beginning, Failure> {
        let mut beginning = Beginning::default();
        let too_much = || breach("its manifest is broken: it looked at more names than it may");
        loop {
            match self.next_item()? {
                Some(Item::Unwatched(why)) if beginning == Beginning::default() => {
                    beginning.why = Some(shown(&why));
                }
                Some(Item::Watched(number)) if beginning.watch.is_none() => {
                    beginning.watch = Some(number);
                }
                Some(Item::Only(looks)) if beginning.watch.is_some() && beginning.why.is_none() => {
                    let only = beginning.only.get_or_insert_default();
                    if !looks.iter().all(|look| only.add(look)) {
                        return Err(too_much());
                    }
                }
                first => {
                    self.order =
                        Some(beginning.only.clone().map_or_else(ListingOrder::new, ListingOrder::of_only));
                    self.held = first.map(|item| self.check(item)).transpose()?;
                    return Ok(beginning);
                }
            }
        }
    }

    /// Waits for the next item; nothing after the last.
    ///
    /// # Errors
    /// When the connection ended before the manifest did, or the source broke the protocol.
    pub fn blocking_next(&mut self) -> Result<Option<Item>, Failure> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let item = self.next_item()?.map(|item| self.check(item)).transpose();
        item.inspect_err(|failure| self.ended.end(ErrorCode::Protocol, failure.clone()))
    }

    /// Waits for the next item, which is not checked yet.
    fn next_item(&mut self) -> Result<Option<Item>, Failure> {
        loop {
            let item = self.take();
            let item = item.inspect_err(|failure| self.ended.end(ErrorCode::Protocol, failure.clone()))?;
            if item.is_some() || self.order.is_none() {
                return Ok(item);
            }
            let block = self.blocks.blocking_recv();
            let block =
                block.ok_or_else(|| self.ended.failure_or_breach("its manifest stops before its end"))??;
            self.unpack(&block)
                .inspect_err(|failure| self.ended.end(ErrorCode::Protocol, failure.clone()))?;
        }
    }

    fn unpack(&mut self, block: &[u8]) -> Result<(), Failure> {
        let (raw_bytes, compressed) = split_block(block).map_err(breach)?;
        if self.decompressor.is_none() {
            self.decompressor =
                Some(Decompressor::new().map_err(|error| Failure::of(FailureKind::Bug, &error))?);
        }
        let Some(decompressor) = &mut self.decompressor else { return Ok(()) };
        self.raw.clear();
        self.raw.reserve(raw_bytes);
        let written = decompressor.decompress_to_buffer(compressed, &mut self.raw);
        if written.ok() != Some(raw_bytes) {
            return Err(breach(FrameError::Body(FrameKind::ManifestBlock)));
        }
        self.at = 0;
        Ok(())
    }

    /// Takes the next item off the block; one at a time, for items take many times the memory of their bytes.
    fn take(&mut self) -> Result<Option<Item>, Failure> {
        let mut rest = self.raw.get(self.at..).unwrap_or_default();
        let item = codec::take::<Item>(&mut rest).map_err(breach)?;
        self.at = self.raw.len() - rest.len();
        Ok(item)
    }

    fn check(&mut self, mut item: Item) -> Result<Item, Failure> {
        let broken = |text: &str| breach(format!("its manifest is broken: {text}"));
        let order = self.order.as_mut().ok_or_else(|| broken("it goes on after its end"))?;
        match &mut item {
            Item::Head(_) if self.is_begun => return Err(broken("it begins twice")),
            Item::Head(_) => self.is_begun = true,
            Item::Listing(_) | Item::End(_) if !self.is_begun => {
                return Err(broken("it has no beginning"));
            }
            Item::Names(_) | Item::Sanitized(_) => {}
            Item::Watched(_) | Item::Unwatched(_) | Item::Only(_) => {
                return Err(broken("what is looked at is told too late"));
            }
            Item::Listing(listing) => {
                order.accept(listing).map_err(breach)?;
                for problem in &mut listing.problems {
                    problem.why = shown(&problem.why);
                }
                if let ListingEnd::Unreadable { why } | ListingEnd::PassedOver { why } = &mut listing.end {
                    *why = shown(why);
                }
                self.counted.entries += listing.entries.len() as u64;
                self.counted.directories += u64::from(listing.end != ListingEnd::More);
            }
            Item::End(end) => {
                if *end != self.counted {
                    return Err(broken("its totals do not fit its listings"));
                }
                let order = self.order.take().unwrap_or_default();
                order.finish().map_err(breach)?;
            }
        }
        Ok(item)
    }
}

async fn read_blocks(
    mut receiver: LaneReceiver,
    sender: &mpsc::Sender<Result<Vec<u8>, Failure>>,
    demand: &Demand,
) -> Result<(), LaneError> {
    let _debt = demand.owe();
    loop {
        let mut body = Vec::new();
        let Some(header) = receiver.frame(&mut body).await? else { return Ok(()) };
        if header.kind != FrameKind::ManifestBlock {
            let wanted = FrameKind::ManifestBlock;
            return Err(FrameError::Misplaced { wanted, found: header.kind }.into());
        }
        let _held_up = demand.hold_up();
        if sender.send(Ok(body)).await.is_err() {
            return Ok(());
        }
    }
}
