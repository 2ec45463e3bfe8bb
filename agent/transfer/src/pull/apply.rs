//! The appliers' threads: answers of the source become staged files.

use std::sync::mpsc::{Sender, SyncSender};

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use sync::entry::Kind;
use sync::pack;
use sync::wire::content::{Failed, Pack, PackedFile, Reply, Why};

use super::ask::Ask;
use super::committing::unwritable;
use super::{Item, Landing, Pass, Wish};
use crate::commit::{Effect, Staged, Task};
use crate::peer::{ContentReceiver, Delivery};
use crate::staged::{Made, Workbench};
use crate::trouble::{is_fatal, of_stage};

/// One applier.
struct Applier<'a> {
    pass: &'a Pass,
    bench: Workbench,
    items: &'a SyncSender<Item>,
    _asks: &'a Sender<Ask>,
}

/// Takes answers until nothing more is wanted.
pub(super) fn run(
    pass: &Pass,
    number: usize,
    mut content: ContentReceiver,
    items: &SyncSender<Item>,
    asks: &Sender<Ask>,
) -> Result<(), Failure> {
    let bench = Workbench::open(&pass.stage, &format!("applier-{number}"))?;
    let mut applier = Applier { pass, bench, items, _asks: asks };
    loop {
        let Delivery { reply, content } = match content.blocking_next() {
            Ok(delivery) => delivery,
            // The lanes end when everything was asked for and answered.
            Err(_ended) if pass.is_all_asked() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        pass.flow.check()?;
        match reply {
            Reply::Pack(pack) => applier.pack(&pack, &content)?,
            Reply::Failed(failed) => {
                for Failed { id, why } in failed {
                    applier.failed(id, &why)?;
                }
            }
            Reply::Range(_) | Reply::Digests(_) | Reply::Values(_) | Reply::Confirmed(_) => {
                return Err(Failure::new(FailureKind::Bug, "the source answered what was not asked for"));
            }
        }
    }
}

impl Applier<'_> {
    fn pack(&mut self, pack: &Pack, content: &[u8]) -> Result<(), Failure> {
        let files = pack::split(pack, content).ok_or_else(|| {
            Failure::new(FailureKind::Bug, "a pack of the source does not hold what it says")
        })?;
        for (file, data) in files {
            let wish = self.pass.take_wish(file.id)?;
            self.small(wish, file, data)?;
        }
        Ok(())
    }

    /// Stages a small file.
    fn small(&mut self, wish: Wish, file: &PackedFile, data: &[u8]) -> Result<(), Failure> {
        let Wish { path, mut source, seen, cost } = wish;
        // It may have changed since the scan: what is written is what was read.
        source.kind = Kind::File { size: file.stamp.size, allocated_bytes: data.len() as u64 };
        source.mtime = file.stamp.mtime;
        let (made, digest) = match self.bench.file(&source, &file.layout, data) {
            Ok(made) => made,
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => {
                unwritable(self.pass, &path, &error);
                self.pass.flow.release(cost);
                return Ok(());
            }
        };
        if digest != Digest::from(file.digest) {
            return Err(Failure::new(
                FailureKind::Corrupt,
                format!("the content of `{path}` does not have the digest that the source sent with it"),
            )
            .hint("It is fetched again; if this repeats, look at the memory of both hosts."));
        }
        let Made { dir, name, entry, problems } = made;
        let effect = Effect::Install {
            staged: Staged { dir, name, is_anchor: false },
            new: Box::new(entry),
            digest: Some(digest),
            seen,
        };
        let landing = Landing::Content { bytes: file.stamp.size };
        self.send(Item { task: Task { path, effect }, landing, cost: Some(cost), problems })
    }

    /// Reports what the source could not give.
    fn failed(&mut self, id: u64, why: &Why) -> Result<(), Failure> {
        let Wish { path, cost, .. } = self.pass.take_wish(id)?;
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
            Why::Unreadable { why } => (
                Rule::Unreadable,
                Severity::Error,
                format!("it could not be read at the source: {why}"),
                "Look at it on the source host, then run the migration again.",
            ),
        };
        self.pass.except(rule, severity, &path, message, hint);
        self.pass.flow.release(cost);
        Ok(())
    }

    fn send(&self, item: Item) -> Result<(), Failure> {
        self.items.send(item).or_else(|_ended| self.pass.flow.check())
    }
}
