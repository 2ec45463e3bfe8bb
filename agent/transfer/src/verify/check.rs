//! Judging entries: batch by batch, content read by several threads, everything told in order.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::human;
use common::phase::Scope;
use common::progress::Progress;
use common::rel_path::RelPath;
use common::spec::ValidationLevel;
use common::step::file::{FileOutput, FileParams, Proof};
use sync::diff::Difference;
use sync::entry::Entry;
use tree::{Dir, TreeError};

use super::basis::{Basis, describe, expected, is_same_state};
use super::digest::TreeDigest;
use super::links::Links;
use super::weight::{Proven, Weights};
use crate::content::{Read, read};
use crate::context::StepContext;
use crate::passes::Passes;
use crate::pull::flow::held_bytes;
use crate::remote::{Content, Remote};

/// Entries in a batch.
const BATCH: usize = 512;
/// Content, paths and attributes in a batch, after which it is closed: keeps the threads busy and a stop quick.
const BATCH_BYTES: u64 = 64 * 1024 * 1024;
/// Threads that read.
const READERS: usize = 2;

/// One entry of the source's tree, with all that is known of it.
#[derive(Debug)]
pub(super) struct Element {
    pub(super) path: RelPath,
    /// As the pass saw it.
    pub(super) source: Entry,
    /// What stands at the destination.
    pub(super) found: Option<Entry>,
    pub(super) basis: Basis,
    /// Why the pass could not bring it as asked.
    pub(super) exception: Option<Rule>,
}

/// Judges elements in their order.
pub(super) struct Checker<'a> {
    pub(super) ctx: &'a StepContext,
    root: Dir,
    remote: Option<Remote>,
    is_strict: bool,
    /// Only what was touched since this pass, if the scope says so.
    since_pass: Option<u32>,
    batch: Vec<Element>,
    batch_bytes: u64,
    /// None when only a part of the tree is looked at.
    links: Option<Links>,
    weights: Option<Weights>,
    source_digest: TreeDigest,
    destination_digest: TreeDigest,
    /// Files and bytes to be looked at, where that is known beforehand.
    totals: Option<(u64, u64)>,
    scope: Scope,
    passes: Option<Passes>,
    /// Whether the source's entries are what it has now, and not what a pass saw.
    is_now: bool,
    output: FileOutput,
    pub(super) is_verified: bool,
    pub(super) is_partial: bool,
    /// Entries whose time the destination keeps in whole seconds only.
    cut_times: u64,
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        ctx: &'a StepContext,
        params: &FileParams,
        root: Dir,
        content: Option<Content>,
        spill: &Dir,
    ) -> Self {
        Self {
            totals: None,
            passes: None,
            is_now: false,
            scope: params.scope,
            ctx,
            links: (params.scope == Scope::Whole).then(|| Links::new(spill)),
            weights: Some(Weights::new(spill)),
            root,
            remote: content.map(Remote::new),
            is_strict: params.validation_level == ValidationLevel::Strict,
            since_pass: None,
            batch: Vec::new(),
            batch_bytes: 0,
            source_digest: TreeDigest::new(),
            destination_digest: TreeDigest::new(),
            output: FileOutput::default(),
            is_verified: true,
            is_partial: false,
            cut_times: 0,
        }
    }

    /// Notes what is known beforehand: the last pass, all passes, and whether the source is looked at anew.
    pub(super) fn known(&mut self, pass: u32, passes: Option<Passes>, is_now: bool) {
        let is_whole = self.scope == Scope::Whole;
        self.totals = passes.as_ref().and_then(Passes::totals).filter(|_totals| is_whole);
        // What came before was proven while the source was live.
        let since = passes.as_ref().and_then(Passes::further_from).unwrap_or(pass);
        self.since_pass = (!is_whole).then_some(since);
        (self.passes, self.is_now) = (passes, is_now);
    }

    /// Judges the root itself.
    pub(super) fn root(&mut self, source: &Entry, found: &Entry) -> Result<(), Failure> {
        let path = RelPath::root();
        let mut expected = source.clone();
        self.keep_time(&mut expected, source, found);
        self.source_digest.add(&path, &expected, None);
        self.destination_digest.add(&path, found, None);
        let difference = Difference::between(source, found);
        if !difference.is_none() {
            self.differs(&path, &describe(source, found));
        }
        Ok(())
    }

    /// Takes the next element.
    pub(super) fn push(&mut self, element: Element) -> Result<(), Failure> {
        if self.since_pass.is_some_and(|since| element.basis.pass().is_none_or(|pass| pass < since)) {
            return Ok(());
        }
        let held = held_bytes(&element.path, [&element.source].into_iter().chain(&element.found));
        self.batch_bytes = self.batch_bytes.saturating_add(element.source.size()).saturating_add(held);
        self.batch.push(element);
        if self.batch.len() >= BATCH || self.batch_bytes >= BATCH_BYTES { self.judge() } else { Ok(()) }
    }

    /// Judges the rest and writes down how it went.
    pub(super) fn finish(mut self, output: &mut FileOutput) -> Result<(), Failure> {
        self.judge()?;
        self.judge_links()?;
        self.report_times();
        if let Some(weights) = self.weights.take() {
            weights.finish(&mut self.output)?;
        }
        self.tell(true);
        *output = FileOutput { version: output.version, ..self.output };
        output.source_digest = Some(self.source_digest.finish());
        output.destination_digest = Some(self.destination_digest.finish());
        output.is_verified = self.is_verified && output.proof.unproven_files == 0;
        output.is_partial = self.is_partial;
        Ok(())
    }

    /// Judges how names share inodes.
    fn judge_links(&mut self) -> Result<(), Failure> {
        let Some(links) = self.links.take() else { return Ok(()) };
        for (path, shares_wrongly) in links.finish()? {
            let message = if shares_wrongly {
                "it is a further name of a file that is another one at the source"
            } else {
                "it is a file of its own, and a further name of another one at the source"
            };
            self.differs(&path, message);
        }
        Ok(())
    }

    fn tell(&self, is_complete: bool) {
        let Proof { content_files, content_bytes, metadata_files, metadata_bytes, .. } = self.output.proof;
        let (files_done, bytes_done) =
            (content_files + metadata_files, content_bytes.saturating_add(metadata_bytes));
        // Names of one inode are counted in the end, and what was not proven is not done: then all that was is the whole.
        let known = self.totals.filter(|_known| !is_complete);
        let (files_total, bytes_total) = known.unwrap_or((files_done, bytes_done));
        self.ctx.progress.send_modify(|progress| {
            *progress = Progress {
                files_done,
                files_total: files_total.max(files_done),
                bytes_done,
                bytes_total: bytes_total.max(bytes_done),
                is_scan_complete: is_complete || known.is_some(),
                ..*progress
            };
        });
    }

    fn judge(&mut self) -> Result<(), Failure> {
        self.ctx.lease.check()?;
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let mut reads = self.read(&batch);
        // What was not read to the end for a stop is not judged.
        self.ctx.lease.check()?;
        let remote = self.ask(&batch)?;
        for (index, (element, remote)) in batch.into_iter().zip(remote).enumerate() {
            self.element(&element, reads[index].take(), remote)?;
        }
        self.tell(false);
        Ok(())
    }

    /// Whether the content of an element is to be read here.
    fn is_read(&self, element: &Element) -> bool {
        let is_written = matches!(element.basis, Basis::Written { .. });
        element.found.as_ref().is_some_and(|found| found.kind.is_file() && element.source.kind.is_file())
            && (is_written || self.remote.is_some())
    }

    /// Reads what is to be read, by several threads.
    fn read(&self, batch: &[Element]) -> Vec<Option<Result<Read, TreeError>>> {
        let results: Vec<Mutex<Option<Result<Read, TreeError>>>> =
            batch.iter().map(|_element| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Relaxed);
                let Some(element) = batch.get(index) else { return };
                if !self.is_read(element) || self.ctx.lease.stop().is_cancelled() {
                    continue;
                }
                let result =
                    read(&self.root, &element.path, self.is_strict, || !self.ctx.lease.stop().is_cancelled());
                *results[index].lock().unwrap_or_else(PoisonError::into_inner) = result.transpose();
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..READERS {
                scope.spawn(work);
            }
            work();
        });
        results.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// Asks the source for the digests of what is to be read on both sides.
    fn ask(&mut self, batch: &[Element]) -> Result<Vec<Option<Digest>>, Failure> {
        let is_asked: Vec<bool> = batch.iter().map(|element| self.is_read(element)).collect();
        let mut found = vec![None; batch.len()];
        let Some(remote) = &mut self.remote else { return Ok(found) };
        let files: Vec<_> = batch
            .iter()
            .zip(&is_asked)
            .filter(|(_element, is_asked)| **is_asked)
            .map(|(element, _is_asked)| (&element.path, &element.source))
            .collect();
        let mut digests = remote.digests(&files)?.into_iter();
        for (slot, is_asked) in found.iter_mut().zip(is_asked) {
            if is_asked {
                *slot = digests.next().flatten();
            }
        }
        Ok(found)
    }

    fn element(
        &mut self,
        element: &Element,
        read: Option<Result<Read, TreeError>>,
        remote: Option<Digest>,
    ) -> Result<(), Failure> {
        let Element { path, source, found, basis, exception } = element;
        let is_directory = source.kind.is_directory();
        let counter =
            if is_directory { &mut self.output.directories_total } else { &mut self.output.files_total };
        *counter += 1;
        let Some(found) = found else {
            return self.missing(element);
        };
        if !is_directory
            && exception.is_none()
            && let Some(links) = &mut self.links
        {
            links.push(path, source, found)?;
        }
        let mut expected = if self.is_now { source.clone() } else { expected(source, basis) };
        self.keep_time(&mut expected, source, found);
        let mut is_proven = self.compare(path, &expected, found, basis, *exception);
        let mut content = None;
        match read {
            Some(Ok(read)) => {
                let (is_good, digest) = self.content(path, found, basis, &read, remote)?;
                is_proven &= is_good;
                content = digest;
                self.destination_digest.add(path, found, digest.map(|_proven| read.digest));
            }
            Some(Err(error)) => {
                is_proven = false;
                self.differs(path, &format!("it cannot be read: {}", common::failure::chain(&error)));
                self.destination_digest.add(path, found, None);
            }
            None => self.destination_digest.add(path, found, None),
        }
        self.source_digest.add(path, &expected, content);
        if !is_directory {
            self.prove(source, is_proven && exception.is_none(), content.is_some())?;
        }
        Ok(())
    }

    /// Expects of a time what the destination's file system keeps of it.
    fn keep_time(&mut self, expected: &mut Entry, source: &Entry, found: &Entry) {
        if expected.mtime.is_kept_as(found.mtime, found.ctime) {
            expected.mtime = found.mtime;
            self.cut_times += u64::from(source.mtime != found.mtime);
        }
    }

    /// Tells once what all of a file system's entries have lost.
    fn report_times(&mut self) {
        if self.cut_times == 0 {
            return;
        }
        self.is_partial = true;
        let entries = human::count(self.cut_times);
        self.report(
            Rule::Attribute,
            Severity::Warning,
            &RelPath::root(),
            &format!("its file system keeps times in whole seconds; fractions lost: {entries}"),
            "Move to a file system with finer times (ext4: inodes of 256 bytes) if something there needs them.",
        );
    }

    fn prove(&mut self, source: &Entry, is_proven: bool, is_by_content: bool) -> Result<(), Failure> {
        let proven = match (is_proven, is_by_content) {
            (true, true) => Proven::ByContent,
            (true, false) => Proven::ByMetadata,
            (false, _) => Proven::Not,
        };
        match &mut self.weights {
            Some(weights) => weights.count(&mut self.output, source, proven),
            None => Err(Failure::new(FailureKind::Bug, "something is counted after the end")),
        }
    }

    /// Deals with an entry that is not at the destination.
    fn missing(&mut self, element: &Element) -> Result<(), Failure> {
        let Element { path, source, basis, exception, .. } = element;
        if *exception == Some(Rule::Vanished) {
            // It is not at the source either: nothing is owed.
            self.output.files_total -= u64::from(!source.kind.is_directory());
            return Ok(());
        }
        self.source_digest.add(path, source, None);
        if exception.is_none() {
            match basis {
                Basis::Unchanged => self.differs(path, "it is missing at the destination"),
                Basis::Written { .. } | Basis::Made { .. } => {
                    self.conflict(path, "it was removed at the destination since the migration wrote it");
                }
            }
        }
        self.is_verified = false;
        self.is_partial |= exception.is_some();
        if !source.kind.is_directory() {
            self.prove(source, false, false)?;
        }
        Ok(())
    }

    /// Compares what can be compared without reading; says whether it holds.
    fn compare(
        &mut self,
        path: &RelPath,
        expected: &Entry,
        found: &Entry,
        basis: &Basis,
        exception: Option<Rule>,
    ) -> bool {
        if exception.is_some_and(|rule| rule != Rule::Vanished) {
            // The copy has told why; it is not told twice.
            self.is_verified = false;
            self.is_partial = true;
            return false;
        }
        let difference = Difference::between(expected, found);
        if basis.is_touched(found) && !expected.kind.is_directory() {
            self.conflict(path, "somebody else wrote to it at the destination since the migration did");
            return false;
        }
        if difference.is_none() {
            return true;
        }
        let differs = describe(expected, found);
        if (matches!(basis, Basis::Unchanged) || expected.kind.is_directory()) && !self.may_be_newer(expected)
        {
            self.conflict(path, &format!("it was changed at the destination: {differs}"));
        } else {
            self.differs(path, &differs);
        }
        false
    }

    /// Whether an entry of the source may have been changed since the last pass saw it.
    fn may_be_newer(&self, source: &Entry) -> bool {
        self.is_now && self.passes.as_ref().is_none_or(|passes| passes.is_newer(source))
    }

    /// Compares content; returns whether it holds, and the digest that it is proven by.
    fn content(
        &mut self,
        path: &RelPath,
        found: &Entry,
        basis: &Basis,
        read: &Read,
        remote: Option<Digest>,
    ) -> Result<(bool, Option<Digest>), Failure> {
        if let Basis::Written { digest, .. } = basis {
            if *digest == read.digest {
                return Ok((self.remote_agrees(path, read.digest, remote), Some(*digest)));
            }
            if is_same_state(found, &read.stat) && !basis.is_touched(found) {
                return Err(self.corrupt(path));
            }
            // If it was touched before the scan, that was told already.
            if !is_same_state(found, &read.stat) {
                self.conflict(path, "somebody else wrote to it at the destination while it was verified");
            }
            return Ok((false, None));
        }
        if !is_same_state(found, &read.stat) {
            self.conflict(path, "somebody else wrote to it at the destination while it was verified");
            return Ok((false, None));
        }
        match remote {
            Some(remote) if remote == read.digest => Ok((true, Some(remote))),
            Some(_) => {
                self.differs(
                    path,
                    "its content differs from the source's, although size and time are the same",
                );
                Ok((false, None))
            }
            None => {
                self.unread(path);
                Ok((false, None))
            }
        }
    }

    /// Compares with the source's present content, where that was read too. A source that went on is no fault here.
    fn remote_agrees(&mut self, path: &RelPath, own: Digest, remote: Option<Digest>) -> bool {
        if self.remote.is_none() || remote.is_none() || remote == Some(own) {
            return true;
        }
        self.differs(
            path,
            "its content differs from the source's, although size and times there are as they were",
        );
        false
    }
}
