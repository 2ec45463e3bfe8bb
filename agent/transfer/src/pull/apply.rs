//! The appliers' threads: answers of the source become staged files.

use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender};

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use sync::entry::{Entry, Kind};
use sync::pack;
use sync::range::RANGE_BYTES;
use sync::sanitize::UNMASKED_HINT;
use sync::stamp::Stamp;
use sync::wire::content::{Digested, Failed, Fetch, Layout, Pack, PackedFile, Reply, What, Why};
use tree::{Name, TreeError};

use super::arrivals::Arrival;
use super::ask::Ask;
use super::committing::unwritable;
use super::large::{Large, Next};
use super::links::{LinkName, anchor, doubtful, weight};
use super::old_body::Asked;
use super::plan::same_content;
use super::{Again, Compare, Item, Landing, Pass as Shared, RangeWish, Small, Wish, data_of, unasked};
use crate::assembly::Seat;
use crate::breach::{breach, shown};
use crate::commit::{Effect, Seen, Staged};
use crate::content::read;
use crate::domain::{Domain, DomainId};
use crate::peer::{ContentReceiver, Delivery};
use crate::staged::{Made, Workbench};
use crate::trouble::{is_fatal, of_stage};

/// Ranges that are asked for once more with hashes of what came before: their wishes wait all together, 8 MiB of them.
const COMPARED_AGAIN_MAX: usize = 4096;
/// Times that a file which is another one each time is asked for.
pub(super) const TIMES_ASKED_MAX: u32 = 3;

/// One applier.
pub(super) struct Applier<'a> {
    pub(super) pass: &'a Shared,
    bench: Workbench,
    items: &'a SyncSender<Item>,
    asks: &'a Sender<Ask>,
    /// What is read of files that are copied here.
    pub(super) content: Vec<u8>,
}

/// The content of a small file, whose digest this side has computed.
#[derive(Debug)]
pub(super) struct Came<'a> {
    pub(super) stamp: Stamp,
    pub(super) layout: &'a Layout,
    pub(super) data: &'a [u8],
    pub(super) digest: Digest,
    /// Whether it was not sent, but is that of another file.
    pub(super) is_copied: bool,
}

/// Takes answers until nothing more is wanted.
pub(super) fn run(
    pass: &Shared,
    number: usize,
    mut content: ContentReceiver,
    items: &SyncSender<Item>,
    asks: &Sender<Ask>,
) -> Result<(), Failure> {
    let bench = Workbench::new(&format!("applier-{number}"))?;
    let mut applier = Applier { pass, bench, items, asks, content: Vec::new() };
    loop {
        let Delivery { reply, content, second_read } = match content.blocking_next() {
            Ok(delivery) => delivery,
            // The lanes end when everything was asked for and answered.
            Err(_ended) if pass.is_all_asked() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        pass.flow.check()?;
        match reply {
            Reply::Pack(pack) => applier.pack(&pack, &content)?,
            Reply::Same(same) => applier.same(same)?,
            Reply::Have(have) => applier.have(have)?,
            Reply::Range(range) => applier.range(&range, &content)?,
            Reply::Delta(delta) => applier.delta(&delta, &content)?,
            Reply::Unlike(unlike) => applier.unlike(&unlike)?,
            Reply::Digests(digests) => {
                for digested in digests {
                    applier.digested(digested)?;
                }
            }
            // They come with the `Confirmed` that they belong to.
            Reply::Values(_) => return Err(unasked()),
            Reply::Confirmed(confirmed) => match pass.take_wish(confirmed.id)? {
                Wish::Confirm(large) => {
                    let next = large.confirmed(confirmed.stamp, confirmed.is_reread, &second_read)?;
                    applier.next(&large, next)?;
                }
                Wish::Small(_) | Wish::Range(_) | Wish::Compare(_) | Wish::Group(_) => {
                    return Err(unasked());
                }
            },
            Reply::Failed(failed) => {
                for Failed { id, why } in failed {
                    applier.failed(id, &why)?;
                }
            }
        }
    }
}

impl Applier<'_> {
    fn pack(&mut self, pack: &Pack, content: &[u8]) -> Result<(), Failure> {
        let files =
            pack::split(pack, content).ok_or_else(|| breach("a pack of files does not hold what it says"))?;
        for (file, data) in files {
            let PackedFile { id, stamp, layout, digest: told } = file;
            self.pass.arrivals.begin(*id, stamp.size);
            let Wish::Small(small) = self.pass.take_wish(*id)? else { return Err(unasked()) };
            let length = usize::try_from(stamp.size).unwrap_or(usize::MAX);
            let digest = Digest::from(pack::content_digest(layout, length, data));
            if digest != Digest::from(*told) {
                let message = format!(
                    "the content of `{}` does not have the digest that the source sent with it",
                    small.path
                );
                return Err(Failure::new(FailureKind::Corrupt, message)
                    .hint("It is fetched again; if this repeats, look at the memory of both hosts."));
            }
            let came = Came { stamp: *stamp, layout, data, digest, is_copied: false };
            let arrival = self.small(*small, &came)?;
            self.came(*id, arrival)?;
        }
        Ok(())
    }

    /// Stages a small file; returns where it is, if it could be written.
    pub(super) fn small(&mut self, small: Small, came: &Came<'_>) -> Result<Option<Arrival>, Failure> {
        let Small { path, domain: id, mut source, seen, mut is_anchor, times_asked, cost, seat } = small;
        let mut again = Again {
            path: path.clone(),
            domain: id,
            source: source.clone(),
            seen: seen.clone(),
            is_anchor,
            times_asked,
        };
        if is_anchor && came.stamp.ino != source.ino {
            self.pass.lose_leader(&again);
            (is_anchor, again.is_anchor) = (false, false);
        }
        let domain = self.pass.stage.domains.get(id)?;
        // It may have changed since the scan: what is written is what was read.
        source.kind = Kind::File { size: came.stamp.size, allocated_bytes: came.data.len() as u64 };
        source.mtime = came.stamp.mtime;
        let (made, seat) = match self.make(&domain, &path, seat, (&source, came.layout, came.data)) {
            Ok(made) => made,
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => {
                unwritable(self.pass, &path, &error);
                self.pass.flow.release(cost);
                return Ok(None);
            }
        };
        let arrival = Arrival::new(&made, seat.as_ref(), &path, came.digest);
        let made = if is_anchor { anchor(&domain, made, &source)? } else { made };
        let (digest, is_copied) = (came.digest, came.is_copied);
        let again = Box::new(again);
        let landed = Landed { made, digest, is_anchor, is_copied, cost, sidecar: None, again, seat };
        self.install(path, id, seen, landed)?;
        Ok(Some(arrival))
    }

    /// Makes a small file: in the directory that shall hold it if that is still in the stage.
    fn make(
        &mut self,
        domain: &Domain,
        path: &RelPath,
        seat: Option<Seat>,
        (source, layout, data): (&Entry, &Layout, &[u8]),
    ) -> Result<(Made, Option<Seat>), TreeError> {
        let name = path.split().and_then(|(_parent, name)| Name::new(name).ok());
        if let (Some(seat), Some(name)) = (seat, name)
            && let Some(dir) = seat.take()?
        {
            match Workbench::file_at(domain, &dir, &name, source, layout, data) {
                Ok(made) => return Ok((made, Some(seat))),
                Err(error) if error.is_exists() => {
                    // The file system takes it for another name of this directory: the commit says so.
                    seat.give_back();
                }
                Err(error) => {
                    match dir.unlink(&name) {
                        Err(left) if !left.is_not_found() => {
                            // It would come with the directory.
                            self.pass.flow.fail(of_stage(&left));
                        }
                        _gone => seat.give_back(),
                    }
                    return Err(error);
                }
            }
        }
        Ok((self.bench.file(domain, source, layout, data)?, None))
    }

    fn install(
        &self,
        path: RelPath,
        domain: DomainId,
        seen: Option<Box<Seen>>,
        landed: Landed,
    ) -> Result<(), Failure> {
        let Landed { made, digest, is_anchor, is_copied, cost, sidecar, again, seat } = landed;
        let Made { dir, name, entry, problems, is_synced } = made;
        // The ranges of a large file were counted one by one.
        let is_counted = entry.size() > RANGE_BYTES;
        let (bytes, data) = (entry.size(), data_of(&entry));
        let landing = Landing::Content { bytes, data, is_counted, is_copied };
        let assembly = seat.as_ref().map(|seat| Arc::clone(seat.assembly()));
        let staged = Staged { dir, name, is_anchor, is_synced, assembly };
        let effect = Effect::Install { staged, new: Box::new(entry), digest: Some(digest), seen };
        let item = Item::new(path, domain, effect, landing);
        self.send(Item { cost: Some(cost), problems, sidecar, again: Some(again), seat, ..item })
    }

    /// Goes on with a large file.
    pub(super) fn next(&mut self, large: &Arc<Large>, next: Next) -> Result<(), Failure> {
        match next {
            Next::Wait => Ok(()),
            Next::Confirm(stamp) => {
                let id = self.pass.wish(Wish::Confirm(Arc::clone(large)));
                self.ask(Fetch { id, path: large.path.clone(), stamp, what: What::Confirm })
            }
            Next::Again(stamp, indexes) => {
                let is_few = indexes.len() <= COMPARED_AGAIN_MAX;
                for index in indexes {
                    // They were in flight before; their room was given back when they were proven.
                    let large = Arc::clone(large);
                    let (asked, what) = match is_few {
                        true => large.first_wish(index),
                        false => (Asked::Plainly, What::Range { index }),
                    };
                    let wanted = RangeWish { large, index, cost: None, asked };
                    self.ask(self.pass.wish_range(wanted, stamp, what))?;
                }
                Ok(())
            }
            Next::Whole => {
                let (made, digest) = large.finish()?;
                let domain = self.pass.stage.domains.get(large.domain)?;
                let mut again = Box::new(again_of(large));
                if large.is_anchor && large.is_other_inode() {
                    self.pass.lose_leader(&again);
                    again.is_anchor = false;
                }
                let is_anchor = again.is_anchor;
                let made = if is_anchor { anchor(&domain, made, &large.source)? } else { made };
                let (path, seen) = (large.path.clone(), large.seen.clone());
                let (cost, sidecar) = (large.cost, large.sidecar());
                self.install(
                    path,
                    large.domain,
                    seen,
                    Landed { made, digest, is_anchor, is_copied: false, cost, sidecar, again, seat: None },
                )
            }
            Next::Changed => {
                report(self.pass, &large.path, &Why::Changed { stamp: None });
                self.pass.flow.release(large.cost);
                Ok(())
            }
            // Why was told, or it is asked for again, when it failed.
            Next::Failed => {
                self.pass.flow.release(large.cost);
                Ok(())
            }
        }
    }

    /// Compares a file that looks the same on both sides.
    fn digested(&mut self, digested: Digested) -> Result<(), Failure> {
        let compare = match self.pass.take_wish(digested.id)? {
            Wish::Compare(compare) => compare,
            Wish::Group(group) => return self.compared_group(group, digested),
            Wish::Small(_) | Wish::Range(_) | Wish::Confirm(_) => return Err(unasked()),
        };
        let Compare { path, domain, mut source, seen, cost } = *compare;
        let own = read(&self.pass.stage.root, &path, false, || self.pass.flow.check().is_ok());
        let is_same = digested.stamp.size == source.size()
            && own.is_ok_and(|own| own.is_some_and(|own| own.digest == Digest::from(digested.digest)));
        let again = if is_same {
            source.mtime = digested.stamp.mtime;
            if let Some(item) = same_content(self.pass, domain, path, source, seen.entry) {
                self.send(item)?;
            }
            None
        } else {
            renew(&mut source, digested.stamp);
            Some(Again { path, domain, source, seen: Some(seen), is_anchor: false, times_asked: 0 })
        };
        if let Some(again) = again {
            self.pass.ask_again(&again)?;
        }
        self.pass.flow.release(cost);
        Ok(())
    }

    /// Compares a group of hard links by the name that was asked about.
    fn compared_group(&mut self, mut group: Vec<LinkName>, digested: Digested) -> Result<(), Failure> {
        let same = doubtful(&group).and_then(|name| {
            let is_going_on = || self.pass.flow.check().is_ok();
            let own = read(&self.pass.stage.root, &name.path, false, is_going_on).ok()??;
            let is_same =
                digested.stamp == name.source.stamp() && own.digest == Digest::from(digested.digest);
            is_same.then_some(own.stat)
        });
        for name in &mut group {
            // Another inode in the place of a name of this group was not read.
            let is_it = name
                .seen
                .as_ref()
                .is_some_and(|seen| same.is_some_and(|stat| stat.is_inode(seen.entry.dev, seen.entry.ino)));
            name.is_doubtful = !is_it;
        }
        self.pass.put_compared(&group)?;
        self.pass.flow.release(weight(&group));
        Ok(())
    }

    /// Deals with what the source could not give.
    fn failed(&mut self, id: u64, why: &Why) -> Result<(), Failure> {
        match self.pass.take_wish(id)? {
            Wish::Small(small) => {
                self.came(id, None)?;
                let Small { path, domain, source, seen, is_anchor, times_asked, cost, seat: _ } = *small;
                let again = Again { path, domain, source, seen, is_anchor, times_asked };
                self.again_or_report(again, why)?;
                self.pass.flow.release(cost);
                Ok(())
            }
            Wish::Range(RangeWish { large, cost, .. }) => {
                let next = self.fail_large(&large, why)?;
                if let Some(cost) = cost {
                    self.pass.flow.release(cost);
                }
                self.next(&large, next)
            }
            Wish::Confirm(large) => {
                large.fail_whole();
                self.fail_large_first(&large, why)?;
                self.next(&large, Next::Failed)
            }
            Wish::Group(group) => {
                self.pass.put_compared(&group)?;
                self.pass.flow.release(weight(&group));
                Ok(())
            }
            Wish::Compare(compare) => {
                report(self.pass, &compare.path, why);
                self.pass.flow.release(compare.cost);
                Ok(())
            }
        }
    }

    /// Notes that a range will not come; the first of them says why.
    fn fail_large(&mut self, large: &Arc<Large>, why: &Why) -> Result<Next, Failure> {
        let (is_first, next) = large.fail();
        if is_first {
            self.fail_large_first(large, why)?;
        }
        Ok(next)
    }

    fn fail_large_first(&mut self, large: &Arc<Large>, why: &Why) -> Result<(), Failure> {
        self.again_or_report(again_of(large), why)
    }

    /// Asks once more for a file that is another one by now; else tells why it cannot be had.
    fn again_or_report(&mut self, mut again: Again, why: &Why) -> Result<(), Failure> {
        let is_other_inode =
            |why: &Why| matches!(why, Why::Changed { stamp: Some(stamp) } if stamp.ino != again.source.ino);
        if again.is_anchor && (matches!(why, Why::Vanished) || is_other_inode(why)) {
            self.pass.lose_leader(&again);
            again.is_anchor = false;
        }
        if let Why::Changed { stamp: Some(stamp) } = why
            && again.times_asked + 1 < TIMES_ASKED_MAX
        {
            again.times_asked += 1;
            renew(&mut again.source, *stamp);
            return self.pass.ask_again(&again);
        }
        report(self.pass, &again.path, why);
        Ok(())
    }

    pub(super) fn ask(&self, fetch: Fetch) -> Result<(), Failure> {
        self.asks.send(Ask::Fetch(fetch)).or_else(|_ended| self.pass.flow.check())
    }

    fn send(&self, item: Item) -> Result<(), Failure> {
        self.pass.send(self.items, item)
    }
}

/// A file that is complete in the stage.
struct Landed {
    made: Made,
    digest: Digest,
    is_anchor: bool,
    is_copied: bool,
    cost: u64,
    sidecar: Option<Name>,
    /// How to ask for it once more.
    again: Box<Again>,
    /// Where it was made in the directory that shall hold it.
    seat: Option<Seat>,
}

fn again_of(large: &Large) -> Again {
    Again {
        path: large.path.clone(),
        domain: large.domain,
        source: large.source.clone(),
        seen: large.seen.clone(),
        is_anchor: large.is_anchor,
        times_asked: large.times_asked,
    }
}

/// Makes the entry that of a file as it is now.
fn renew(source: &mut Entry, stamp: Stamp) {
    source.kind = Kind::File { size: stamp.size, allocated_bytes: stamp.size };
    (source.ino, source.mtime, source.ctime) = (stamp.ino, stamp.mtime, stamp.ctime);
}

/// Tells that a file could not be had.
fn report(pass: &Shared, path: &RelPath, why: &Why) {
    let (rule, severity, message, hint) = match why {
        Why::Vanished => (
            Rule::Vanished,
            Severity::Notice,
            "it vanished between the scan and the read".to_owned(),
            "Nothing to do if it was removed on purpose.",
        ),
        Why::Changed { stamp: _ } => (
            Rule::Changed,
            Severity::Error,
            "it changed each time it was read; nothing of it was written".to_owned(),
            "Run the migration again when it is quieter, or stop whatever writes to it.",
        ),
        Why::Unmaskable { why } => (
            Rule::NotSanitized,
            Severity::Error,
            format!("it was not copied, because it cannot be masked: {why}"),
            UNMASKED_HINT,
        ),
        Why::Unreadable { why } => (
            Rule::Unreadable,
            Severity::Error,
            format!("it could not be read at the source: {}", shown(why)),
            "Look at it on the source host, then run the migration again.",
        ),
    };
    pass.except(rule, severity, path, message, hint);
}
