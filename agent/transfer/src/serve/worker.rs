//! The thread behind one content lane: it reads what is asked for, in order, and hands it to the lane's writer.

use std::sync::Arc;

use bytes::Bytes;
use common::failure::{Failure, FailureKind};
use sync::codec;
use sync::range::{self, RANGE_BYTES};
use sync::wire::content::{
    Coding, Confirmed, Digested, Failed, Fetch, Pack, PackedFile, RangeReply, Reply, Request, VALUES_MAX,
    Values, What, Why,
};
use tokio::sync::mpsc;
use tree::ReadFile;

use crate::buffer::Buffer;
use crate::compress::UnitCompressor;
use crate::scan::look::{describe, stamp_of};
use crate::serve::Session;
use crate::serve::directories::{Directories, NotOpened};
use crate::serve::outgoing::Outgoing;
use crate::serve::pack::OpenPack;
use crate::serve::read;

/// Digests and refusals that are gathered before they are sent, unless the batch ends before.
const GATHERED_MAX: usize = 256;

pub(super) struct Worker {
    session: Arc<Session>,
    units: mpsc::Sender<Outgoing>,
    directories: Directories,
    compressor: UnitCompressor,
    pack: OpenPack,
    digests: Vec<Digested>,
    failed: Vec<Failed>,
}

/// Why a thread stops early.
enum Stop {
    /// The peer is gone, or the session ends.
    Gone,
    /// A bug.
    Failed(Failure),
}

impl Worker {
    pub(super) fn new(session: Arc<Session>, units: mpsc::Sender<Outgoing>) -> Result<Self, Failure> {
        let compressor =
            UnitCompressor::new().map_err(|error| Failure::of(FailureKind::Exhausted, &error))?;
        let directories = Directories::new(session.root.clone());
        let pack = OpenPack::new(&session.buffers);
        Ok(Self { session, units, directories, compressor, pack, digests: Vec::new(), failed: Vec::new() })
    }

    /// Serves batches until there are no more.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) -> Result<(), Failure> {
        while let Some(request) = requests.blocking_recv() {
            match self.batch(request) {
                Ok(()) => {}
                Err(Stop::Gone) => return Ok(()),
                Err(Stop::Failed(failure)) => return Err(failure),
            }
        }
        Ok(())
    }

    fn batch(&mut self, request: Request) -> Result<(), Stop> {
        for fetch in request.fetches {
            if self.session.is_stopped() {
                return Err(Stop::Gone);
            }
            let file = match self.directories.open(&fetch.path) {
                Ok(file) => file,
                Err(NotOpened::Vanished) => {
                    self.fail(fetch.id, Why::Vanished)?;
                    continue;
                }
                Err(NotOpened::Unreadable(error)) => {
                    self.fail(fetch.id, Why::Unreadable { why: describe(&error) })?;
                    continue;
                }
            };
            match fetch.what {
                What::Whole => self.whole(&fetch, &file)?,
                What::Range { index } => self.range(&fetch, index, &file)?,
                What::Digest => self.digest(&fetch, &file)?,
                What::Confirm => self.confirm(&fetch, &file)?,
            }
        }
        self.send_pack()?;
        self.send_digests()?;
        self.send_failed()
    }

    fn whole(&mut self, fetch: &Fetch, file: &ReadFile) -> Result<(), Stop> {
        if self.pack.is_full_for(file.opened().size) {
            self.send_pack()?;
        }
        // The file may grow before it is read, up to what is left in the pack; beyond that it goes the way of a
        // changed file and is asked for again.
        let room = RANGE_BYTES - self.pack.content.len() as u64;
        match read::whole(file, room, &mut self.pack.content) {
            Ok(read::Whole { stamp, layout, digest }) => {
                self.pack.files.push(PackedFile { id: fetch.id, stamp, layout, digest });
                Ok(())
            }
            Err(why) => self.fail(fetch.id, why),
        }
    }

    fn range(&mut self, fetch: &Fetch, index: u64, file: &ReadFile) -> Result<(), Stop> {
        let opened = stamp_of(file.opened());
        let bounds = range::bounds(fetch.stamp.size, index);
        let Some(bounds) = bounds.filter(|_| fetch.stamp.may_have_grown_into(&opened)) else {
            return self.fail(fetch.id, Why::Changed { stamp: Some(opened) });
        };
        let length = u32::try_from(bounds.end - bounds.start).unwrap_or(u32::MAX);
        let mut content = self.session.buffers.take();
        let read = read::data(file, bounds.start, length, &mut content);
        let stat = file.stat();
        let (layout, stamp) = match (read, stat) {
            (Ok(Some(layout)), Ok(stat)) => (layout, stamp_of(&stat)),
            (Ok(None), Ok(stat)) => {
                return self.fail(fetch.id, Why::Changed { stamp: Some(stamp_of(&stat)) });
            }
            (Err(error), _) | (_, Err(error)) => return self.fail(fetch.id, read::unreadable(&error)),
        };
        let mut reply = RangeReply {
            id: fetch.id,
            index,
            stamp,
            length,
            layout,
            value: range::ChainingValue([0; 32]),
            coding: Coding::Plain,
            stored_bytes: content.len(),
        };
        reply.value = sync::pack::range_value(&reply, &content);
        self.session.counter.content(content.len(), 1);
        let stored = self.compress(&content);
        if let Some(stored) = &stored {
            (reply.coding, reply.stored_bytes) = (Coding::Zstd, stored.len());
        }
        self.send(&Reply::Range(reply), stored.unwrap_or(content))
    }

    fn digest(&mut self, fetch: &Fetch, file: &ReadFile) -> Result<(), Stop> {
        let mut buffer = self.session.buffers.take();
        let session = &self.session;
        let proceed = |count| {
            session.counter.digest(count);
            !session.is_stopped()
        };
        match read::digest(file, &mut buffer, proceed).ok_or(Stop::Gone)? {
            Ok((stamp, digest)) => self.digests.push(Digested { id: fetch.id, stamp, digest }),
            Err(why) => return self.fail(fetch.id, why),
        }
        if self.digests.len() >= GATHERED_MAX { self.send_digests() } else { Ok(()) }
    }

    fn confirm(&mut self, fetch: &Fetch, file: &ReadFile) -> Result<(), Stop> {
        let now = stamp_of(file.opened());
        // Ranges were read since the connection began, perhaps while a call that wrote to them was under way.
        if now == fetch.stamp && !read::is_recent(&now, self.session.began) {
            let confirmed = Confirmed { id: fetch.id, stamp: now, is_reread: false };
            return self.send(&Reply::Confirmed(confirmed), Buffer::default());
        }
        if !fetch.stamp.may_have_grown_into(&now) {
            return self.fail(fetch.id, Why::Changed { stamp: Some(now) });
        }
        let mut buffer = self.session.buffers.take();
        let mut values = Values { id: fetch.id, first: 0, values: Vec::new() };
        for index in 0..range::count(fetch.stamp.size) {
            let Some(bounds) = range::bounds(fetch.stamp.size, index) else { break };
            let length = usize::try_from(bounds.end - bounds.start).unwrap_or(usize::MAX);
            buffer.resize(length, 0);
            match file.read_at(&mut buffer, bounds.start) {
                Ok(count) if count == length => {}
                Ok(_) => {
                    return self
                        .fail(fetch.id, Why::Changed { stamp: file.stat().ok().as_ref().map(stamp_of) });
                }
                Err(error) => return self.fail(fetch.id, read::unreadable(&error)),
            }
            self.session.counter.digest(length);
            values.values.push(range::chaining_value(index, &buffer));
            if values.values.len() == VALUES_MAX {
                let next = Values { id: fetch.id, first: index + 1, values: Vec::new() };
                self.send(&Reply::Values(std::mem::replace(&mut values, next)), Buffer::default())?;
            }
            if self.session.is_stopped() {
                return Err(Stop::Gone);
            }
        }
        self.send(&Reply::Values(values), Buffer::default())?;
        let confirmed = Confirmed { id: fetch.id, stamp: now, is_reread: true };
        self.send(&Reply::Confirmed(confirmed), Buffer::default())
    }

    fn fail(&mut self, id: u64, why: Why) -> Result<(), Stop> {
        self.failed.push(Failed { id, why });
        if self.failed.len() >= GATHERED_MAX { self.send_failed() } else { Ok(()) }
    }

    fn send_pack(&mut self) -> Result<(), Stop> {
        let Some((pack, content)) = self.pack.take() else { return Ok(()) };
        self.session.counter.content(content.len(), pack.files.len());
        let stored = self.compress(&content);
        let pack = match &stored {
            Some(stored) => Pack { coding: Coding::Zstd, stored_bytes: stored.len(), ..pack },
            None => pack,
        };
        self.send(&Reply::Pack(pack), stored.unwrap_or(content))
    }

    fn send_digests(&mut self) -> Result<(), Stop> {
        if self.digests.is_empty() {
            return Ok(());
        }
        let digests = std::mem::take(&mut self.digests);
        self.send(&Reply::Digests(digests), Buffer::default())
    }

    fn send_failed(&mut self) -> Result<(), Stop> {
        if self.failed.is_empty() {
            return Ok(());
        }
        let failed = std::mem::take(&mut self.failed);
        self.send(&Reply::Failed(failed), Buffer::default())
    }

    /// Returns the compressed form where that is the better one.
    fn compress(&mut self, content: &[u8]) -> Option<Buffer> {
        let mut stored = self.session.buffers.take();
        let coding = self.compressor.compress(content, &mut stored, &self.session.meter);
        (coding == Coding::Zstd).then_some(stored)
    }

    fn send(&mut self, reply: &Reply, raw: Buffer) -> Result<(), Stop> {
        let mut frame = Vec::new();
        codec::encode(reply, &mut frame)
            .map_err(|error| Stop::Failed(Failure::of(FailureKind::Bug, &error)))?;
        let unit = Outgoing { frame: frame.into(), raw: Bytes::from_owner(raw) };
        self.units.blocking_send(unit).or(Err(Stop::Gone))
    }
}
