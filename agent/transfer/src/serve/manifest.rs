//! Sending the tree.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use common::failure::{Failure, FailureKind};
use common::filter::Filter;
use common::shutdown::Shutdown;
use sync::acl;
use sync::byte_string::ByteString;
use sync::codec;
use sync::entry::Entry;
use sync::frame::{FrameKind, Header};
use sync::limits::Limits;
use sync::listing::{Listing, ListingEnd};
use sync::only::{Look, Only};
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{ScanRequest, Watch};
use sync::wire::manifest::{BLOCK_BYTES, End, Head, Item, LOOKS_IN_ITEM_MAX, Names};
use tokio::sync::mpsc;
use zstd::bulk::Compressor;

use crate::account::Accounts;
use crate::lane::LaneSender;
use crate::scan::look::describe;
use crate::scan::{Scan, ScanSettings};
use crate::serve::outgoing::{self, Outgoing, UNITS_WAITING};
use crate::serve::{Session, describe_lane, now};
use crate::standing::look_at_self;
use crate::watch::Watched;

const LEVEL: i32 = 1;
/// Owners that are remembered as told; a tree with more of them hears some names again.
const TOLD_MAX: usize = 65_536;

/// Scans and sends, to the end.
pub(super) async fn serve(
    session: Arc<Session>,
    sender: LaneSender,
    request: ScanRequest,
    tasks: &Shutdown,
) -> Result<(), (ErrorCode, String)> {
    let (units, waiting) = mpsc::channel(UNITS_WAITING);
    let scanned = Arc::clone(&session);
    let scanning = tasks
        .spawn(async move { tokio::task::spawn_blocking(move || scan(&scanned, &request, units)).await });
    let written = outgoing::write(&session, sender, waiting).await;
    match scanning.await {
        Ok(Ok(Ok(()))) => written.map_err(|error| (ErrorCode::Internal, describe_lane(&error))),
        Ok(Ok(Err(failure))) => Err((ErrorCode::Root, failure.message)),
        Ok(Err(_)) | Err(_) => Err((ErrorCode::Internal, "the scan ended in a bug".to_owned())),
    }
}

fn scan(session: &Session, request: &ScanRequest, units: mpsc::Sender<Outgoing>) -> Result<(), Failure> {
    if request.copy_links && session.follow.is_none() {
        let message = "links are not followed where `sanitize` has rules";
        return Err(Failure::new(FailureKind::Invalid, message));
    }
    let filter = Filter::new(&patterns(&request.exclude), &patterns(&request.include))
        .map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    let filter = match &request.without {
        Some(path) => filter.without(path),
        None => filter,
    };
    let unreadable = |error: tree::TreeError| {
        Failure::new(FailureKind::Invalid, format!("the source's root cannot be read: {}", describe(&error)))
    };
    let mut blocks = Blocks::new(units)?;
    let watching = Watching::begin(session, request);
    watching.tell(&mut blocks)?;
    let started = now();
    if watching.only.is_none() {
        // So that writes through mappings show in the times that the scan reads; a watch does not see them at all.
        session.root.sync_fs().map_err(unreadable)?;
    }
    let root = look_at_self(&session.root).map_err(unreadable)?;
    let mut owners = SeenOwners::default();
    let mut known = Accounts::default();
    let names = owners.names_of(std::slice::from_ref(&root), &mut known)?;
    blocks.push(&Item::Names(names))?;
    blocks.push(&Item::Head(Head { started, root }))?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let spill_dir = session.settings.state_dir.clone();
    let mut end = End::default();
    let sanitizer = session.sanitizer.clone();
    let Watching { watched, only, why: _ } = watching;
    let ScanRequest { exclude: _, include: _, without: _, watch: _, limits, one_file_system, copy_links } =
        *request;
    let follow = session.follow.clone().filter(|_follow| copy_links);
    let is_idle = Arc::clone(&session.is_idle);
    let only = only.map(Arc::new);
    let settings = ScanSettings {
        filter,
        workers,
        spill_dir,
        limits,
        one_file_system,
        follow,
        sanitizer,
        is_idle,
        only,
        watched,
    };
    for listing in Scan::start(session.root.clone(), settings)? {
        let listing = listing?;
        end.entries += listing.entries.len() as u64;
        end.directories += u64::from(listing.end != ListingEnd::More);
        session.throttle.wait();
        push_listing(&mut blocks, listing, &mut owners, &mut known)?;
        if session.is_stopped() {
            return Err(gone());
        }
    }
    if let Some(sanitizer) = &session.sanitizer {
        blocks.push(&Item::Sanitized(sanitizer.counts()))?;
    }
    blocks.push(&Item::End(end))?;
    blocks.flush()
}

/// How the tree is watched, and what of it is looked at.
#[derive(Default)]
struct Watching {
    watched: Option<Arc<Watched>>,
    only: Option<Only>,
    /// Why everything is looked at, where less was asked for.
    why: Option<String>,
}

impl Watching {
    /// Begins before anything is looked at, so that what changes later is for the next pass.
    fn begin(session: &Session, request: &ScanRequest) -> Self {
        let (whose, watches) = (&session.whose, &session.watches);
        let why = match request.watch {
            Watch::No => {
                watches.end(whose);
                return Self::default();
            }
            Watch::Begin => None,
            Watch::Since(number) => match watches.take(whose, number, &session.root) {
                Ok((watched, only)) => return Self { watched: Some(watched), only: Some(only), why: None },
                Err(why) => Some(why),
            },
        };
        watches.end(whose);
        let has_rules = request.copy_links || request.one_file_system || request.limits != Limits::default();
        let may_be = match (&session.sanitizer, session.is_network_fs) {
            // What a rule counts, it counts over the whole tree.
            (Some(_), _) => Err("files are masked, replaced or left out by `sanitize`".to_owned()),
            (None, true) => Err("other machines may write to its file system".to_owned()),
            // What a link leads to changes where nobody watches, and what is left out is no entry of the last pass.
            (None, false) if has_rules => {
                Err("links are followed, or files left out for size, age or file system".to_owned())
            }
            (None, false) => Ok(()),
        };
        match may_be.and_then(|()| watches.begin(whose, &session.root)) {
            Ok(watched) => Self { watched: Some(watched), only: None, why },
            Err(cannot) => Self { why: Some(cannot), ..Self::default() },
        }
    }

    /// Says so, before all other items.
    fn tell(&self, blocks: &mut Blocks) -> Result<(), Failure> {
        self.why.iter().try_for_each(|why| blocks.push(&Item::Unwatched(why.clone())))?;
        let Some(watched) = &self.watched else { return Ok(()) };
        blocks.push(&Item::Watched(watched.number))?;
        let Some(only) = &self.only else { return Ok(()) };
        let looks: Vec<Look> = only.looks().collect();
        // One part also where nothing changed: without any, everything is looked at.
        blocks.push(&Item::Only(looks.iter().take(LOOKS_IN_ITEM_MAX).cloned().collect()))?;
        looks
            .chunks(LOOKS_IN_ITEM_MAX)
            .skip(1)
            .try_for_each(|part| blocks.push(&Item::Only(part.to_vec())))?;
        // The destination begins to look.
        blocks.flush()
    }
}

fn push_listing(
    blocks: &mut Blocks,
    listing: Listing,
    owners: &mut SeenOwners,
    known: &mut Accounts,
) -> Result<(), Failure> {
    let names = owners.names_of(&listing.entries, known)?;
    if !names.is_empty() {
        blocks.push(&Item::Names(names))?;
    }
    blocks.push(&Item::Listing(listing))
}

fn patterns(texts: &[ByteString]) -> Vec<&[u8]> {
    texts.iter().map(|text| text.0.as_slice()).collect()
}

fn gone() -> Failure {
    Failure::new(FailureKind::Cancelled, "the destination is gone")
}

/// Numbers whose names were sent already.
#[derive(Debug, Default)]
struct SeenOwners {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

impl SeenOwners {
    /// Returns the names of numbers that are met for the first time.
    fn names_of(&mut self, entries: &[Entry], known: &mut Accounts) -> Result<Names, Failure> {
        let mut names = Names::default();
        if self.users.len() + self.groups.len() > TOLD_MAX {
            *self = Self::default();
        }
        for entry in entries {
            self.user(entry.uid, known, &mut names)?;
            self.group(entry.gid, known, &mut names)?;
            for (_, value) in entry.xattrs.iter().filter(|(name, _)| acl::is_acl(&name.0)) {
                for owner in acl::owners(&value.0).unwrap_or_default() {
                    match owner {
                        acl::Owner::User(number) => self.user(number, known, &mut names)?,
                        acl::Owner::Group(number) => self.group(number, known, &mut names)?,
                    }
                }
            }
        }
        Ok(names)
    }

    fn user(&mut self, number: u32, known: &mut Accounts, names: &mut Names) -> Result<(), Failure> {
        if self.users.insert(number)
            && let Some(name) = known.user_name(number)?
        {
            names.users.push((number, ByteString(name)));
        }
        Ok(())
    }

    fn group(&mut self, number: u32, known: &mut Accounts, names: &mut Names) -> Result<(), Failure> {
        if self.groups.insert(number)
            && let Some(name) = known.group_name(number)?
        {
            names.groups.push((number, ByteString(name)));
        }
        Ok(())
    }
}

/// Gathers items to blocks and hands them to the lane.
struct Blocks {
    units: mpsc::Sender<Outgoing>,
    compressor: Compressor<'static>,
    raw: Vec<u8>,
}

impl Blocks {
    fn new(units: mpsc::Sender<Outgoing>) -> Result<Self, Failure> {
        let compressor =
            Compressor::new(LEVEL).map_err(|error| Failure::of(FailureKind::Exhausted, &error))?;
        Ok(Self { units, compressor, raw: Vec::with_capacity(BLOCK_BYTES) })
    }

    fn push(&mut self, item: &Item) -> Result<(), Failure> {
        codec::encode(item, &mut self.raw).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        // While the lane has nothing to do, small blocks are better than late ones.
        let is_hungry = self.units.capacity() == UNITS_WAITING && self.raw.len() >= BLOCK_BYTES / 16;
        if is_hungry || self.raw.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let bug = |error: &dyn std::error::Error| Failure::of(FailureKind::Bug, error);
        let compressed = self.compressor.compress(&self.raw).map_err(|error| bug(&error))?;
        let header = Header { kind: FrameKind::ManifestBlock, body_bytes: 4 + compressed.len() };
        let mut frame = header.to_bytes().map_err(|error| bug(&error))?.to_vec();
        let raw_bytes = u32::try_from(self.raw.len()).map_err(|error| bug(&error))?;
        frame.extend_from_slice(&raw_bytes.to_le_bytes());
        self.raw.clear();
        let unit = Outgoing { frame: frame.into(), raw: Bytes::from(compressed) };
        self.units.blocking_send(unit).map_err(|_closed| gone())
    }
}
