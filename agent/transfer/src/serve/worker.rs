//! The thread behind one content lane: it reads what is asked for, in order, and hands it to the lane's writer.

use std::sync::Arc;

use bytes::Bytes;
use common::failure::{Failure, FailureKind};
use sync::codec;
use sync::range::{self, RANGE_BYTES};
use sync::sanitize::Treatment;
use sync::stamp::Stamp;
use sync::wire::content::{
    Coding, Confirmed, Digested, Failed, Fetch, Have, Layout, Pack, PackedFile, RangeReply, Reply, Request,
    Same, VALUES_MAX, Values, What, Why,
};
use sync::wire::delta::{Basis, DeltaReply, Unlike};
use tokio::sync::mpsc;
use tree::{IoClass, ReadFile};

use crate::buffer::Buffer;
use crate::compress::UnitCompressor;
use crate::scan::look::{describe, stamp_of};
use crate::serve::Session;
use crate::serve::differences::{self, Found};
use crate::serve::directories::{Directories, NotOpened};
use crate::serve::outgoing::Outgoing;
use crate::serve::pack::OpenPack;
use crate::serve::read;
use crate::serve::sanitized::{Reader, Sanitized};

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
    same: Vec<Same>,
    have: Vec<Have>,
    /// With what possession is proven, if the destination holds anything.
    nonce: Option<[u8; 32]>,
    /// Of a session whose ticket has rules.
    sanitized: Option<Reader>,
}

/// Why a thread stops early.
enum Stop {
    /// The peer is gone, or the session ends.
    Gone,
    /// A bug.
    Failed(Failure),
}

impl Worker {
    pub(super) fn new(
        session: Arc<Session>,
        units: mpsc::Sender<Outgoing>,
        nonce: Option<[u8; 32]>,
        follows: bool,
    ) -> Result<Self, Failure> {
        let compressor = UnitCompressor::new(session.compression)
            .map_err(|error| Failure::of(FailureKind::Exhausted, &error))?;
        let directories =
            Directories::new(session.root.clone(), session.follow.clone().filter(|_follow| follows));
        let pack = OpenPack::new(&session.buffers);
        let sanitized = session.sanitizer.clone().map(Reader::new);
        Ok(Self {
            session,
            units,
            directories,
            compressor,
            pack,
            digests: Vec::new(),
            failed: Vec::new(),
            same: Vec::new(),
            have: Vec::new(),
            nonce,
            sanitized,
        })
    }

    /// Serves batches until there are no more.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) -> Result<(), Failure> {
        let mut class = IoClass::of_this_thread();
        while let Some(request) = requests.blocking_recv() {
            class.set_idle(self.session.is_idle());
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
            self.session.throttle.wait();
            if self.session.is_stopped() {
                return Err(Stop::Gone);
            }
            let treatment = match &self.sanitized {
                Some(reader) => reader.treatment(&fetch.path),
                None => Treatment::Kept,
            };
            if matches!(treatment, Treatment::Dropped(_)) {
                self.fail(fetch.id, Why::Vanished)?;
                continue;
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
            if treatment != Treatment::Kept {
                self.sanitized(&fetch, &treatment, &file)?;
                continue;
            }
            match &fetch.what {
                What::Whole | What::Bytes | What::Held { prefixes: _ } => self.whole(&fetch, &file)?,
                What::Range { index } => self.range(&fetch, *index, None, &file)?,
                What::Delta { index, basis } => self.range(&fetch, *index, Some(basis), &file)?,
                What::Digest => self.digest(&fetch, &file)?,
                What::Confirm => self.confirm(&fetch, &file)?,
            }
        }
        self.send_pack()?;
        self.send_have()?;
        self.send_same()?;
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
        let start = self.pack.content.len();
        match read::whole(file, room, &mut self.pack.content) {
            Ok(whole) => self.packed(fetch, start, whole),
            Err(why) => self.fail(fetch.id, why),
        }
    }

    /// Takes a small file whose data stands in the pack from `start` on; what was sent before leaves it again.
    fn packed(&mut self, fetch: &Fetch, start: usize, whole: read::Whole) -> Result<(), Stop> {
        let read::Whole { stamp, layout, digest } = whole;
        let id = fetch.id;
        if let Some(of) = self.session.sent.before(fetch, &stamp, digest) {
            self.pack.content.truncate(start);
            self.same.push(Same { id, stamp, layout, digest, of });
            return if self.same.len() >= GATHERED_MAX { self.send_same() } else { Ok(()) };
        }
        let prefix = u16::from_le_bytes([digest[0], digest[1]]);
        if let (What::Held { prefixes }, Some(nonce)) = (&fetch.what, &self.nonce)
            && prefixes.contains(&Some(prefix))
        {
            let length = usize::try_from(stamp.size).unwrap_or(usize::MAX);
            let proof = sync::pack::content_proof(nonce, &layout, length, &self.pack.content[start..]);
            self.pack.content.truncate(start);
            self.have.push(Have { id, stamp, layout, prefix, proof });
            return if self.have.len() >= GATHERED_MAX { self.send_have() } else { Ok(()) };
        }
        self.pack.files.push(PackedFile { id, stamp, layout, digest });
        Ok(())
    }

    fn range(
        &mut self,
        fetch: &Fetch,
        index: u64,
        basis: Option<&Basis>,
        file: &ReadFile,
    ) -> Result<(), Stop> {
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
        match basis {
            Some(basis) => self.send_differences(fetch.id, index, (stamp, length, layout), content, basis),
            None => self.send_range(fetch.id, index, (stamp, length, layout), content),
        }
    }

    /// Sends what differs from what the destination has; all of it if that is less.
    fn send_differences(
        &mut self,
        id: u64,
        index: u64,
        (stamp, length, layout): (Stamp, u32, Layout),
        content: Buffer,
        basis: &Basis,
    ) -> Result<(), Stop> {
        let mut changed = self.session.buffers.take();
        let (form, value) = match differences::find(index, &layout, length, &content, basis, &mut changed) {
            Found::Differences { form, value } => (form, value),
            Found::Unlike(samples) => {
                return self.send(&Reply::Unlike(Unlike { id, samples }), Buffer::default());
            }
            Found::Nothing => return self.send_range(id, index, (stamp, length, layout), content),
        };
        self.session.counter.content(changed.len(), 1);
        let stored = self.compress(&changed);
        let coding = if stored.is_some() { Coding::Zstd } else { Coding::Plain };
        let content_bytes = changed.len();
        let stored = stored.unwrap_or(changed);
        let stored_bytes = stored.len();
        let delta =
            DeltaReply { id, index, stamp, length, layout, value, form, coding, stored_bytes, content_bytes };
        self.send(&Reply::Delta(delta), stored)
    }

    fn send_range(
        &mut self,
        id: u64,
        index: u64,
        (stamp, length, layout): (Stamp, u32, Layout),
        content: Buffer,
    ) -> Result<(), Stop> {
        let mut reply = RangeReply {
            id,
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
            session.throttle.wait();
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

    /// Serves a file that is replaced or masked, as what it becomes.
    fn sanitized(&mut self, fetch: &Fetch, treatment: &Treatment, file: &ReadFile) -> Result<(), Stop> {
        let Some(reader) = &mut self.sanitized else { return Ok(()) };
        // What is confirmed must be as it is now.
        let served = match reader.read(&fetch.path, treatment, file, fetch.what == What::Confirm) {
            Ok(served) => served,
            Err(why) => return self.fail(fetch.id, why),
        };
        let Sanitized { stamp, content } = served.as_ref();
        match &fetch.what {
            What::Whole | What::Bytes | What::Held { prefixes: _ } => {
                if self.pack.is_full_for(stamp.size) {
                    self.send_pack()?;
                }
                if stamp.size > RANGE_BYTES {
                    return self.fail(fetch.id, Why::Changed { stamp: Some(*stamp) });
                }
                let start = self.pack.content.len();
                self.pack.content.extend_from_slice(content);
                let digest = *blake3::hash(content).as_bytes();
                self.packed(fetch, start, read::Whole { stamp: *stamp, layout: Layout::Dense, digest })
            }
            // What the destination has of it is nothing to be compared with what it gets.
            What::Range { index } | What::Delta { index, basis: _ } => {
                let bounds = range::bounds(fetch.stamp.size, *index);
                let bounds = bounds.filter(|_| fetch.stamp.may_have_grown_into(stamp));
                let part = bounds.and_then(|bounds| {
                    let end = usize::try_from(bounds.end).ok()?;
                    content.get(usize::try_from(bounds.start).ok()?..end)
                });
                let Some(part) = part else {
                    return self.fail(fetch.id, Why::Changed { stamp: Some(*stamp) });
                };
                let mut buffer = self.session.buffers.take();
                buffer.extend_from_slice(part);
                let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
                self.send_range(fetch.id, *index, (*stamp, length, Layout::Dense), buffer)
            }
            What::Digest => {
                let digest = *blake3::hash(content).as_bytes();
                self.session.counter.digest(content.len());
                self.digests.push(Digested { id: fetch.id, stamp: *stamp, digest });
                if self.digests.len() >= GATHERED_MAX { self.send_digests() } else { Ok(()) }
            }
            What::Confirm => self.confirm_sanitized(fetch, &served),
        }
    }

    /// Confirms by a second read, always: what was masked has no times of its own.
    fn confirm_sanitized(&mut self, fetch: &Fetch, served: &Sanitized) -> Result<(), Stop> {
        let Sanitized { stamp, content } = served;
        if !fetch.stamp.may_have_grown_into(stamp) {
            return self.fail(fetch.id, Why::Changed { stamp: Some(*stamp) });
        }
        let length = usize::try_from(fetch.stamp.size).unwrap_or(usize::MAX).min(content.len());
        let step = usize::try_from(RANGE_BYTES).unwrap_or(usize::MAX);
        // At most sixteen ranges: a masked file is no larger.
        let values = content[..length].chunks(step).zip(0_u64..);
        let values = values.map(|(part, index)| range::chaining_value(index, part)).collect();
        self.session.counter.digest(length);
        self.send(&Reply::Values(Values { id: fetch.id, first: 0, values }), Buffer::default())?;
        let confirmed = Confirmed { id: fetch.id, stamp: *stamp, is_reread: true };
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

    fn send_same(&mut self) -> Result<(), Stop> {
        if self.same.is_empty() {
            return Ok(());
        }
        let same = std::mem::take(&mut self.same);
        self.send(&Reply::Same(same), Buffer::default())
    }

    fn send_have(&mut self) -> Result<(), Stop> {
        if self.have.is_empty() {
            return Ok(());
        }
        let have = std::mem::take(&mut self.have);
        self.send(&Reply::Have(have), Buffer::default())
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
        let rate = self.session.meter.bytes_per_s(self.session.link.filled_bytes_per_s());
        let coding = self.compressor.compress(content, &mut stored, rate);
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
