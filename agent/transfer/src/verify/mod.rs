//! `file.verify`: what stands at the destination is proven, and by how much.
//!
//! The source's tree as the last pass saw it, the destination's own scan, and the ledger are joined entry by entry:
//!
//! - what this migration wrote is read again and compared with the digest of its commit, its inode and change time with
//!   the record of it; it is never compared with the source's present state, which is live;
//! - what was there already is compared by size, time and metadata; a *deep* verification reads it on both sides.
//!
//! A digest that differs while inode and change time are as recorded is corruption and fails the step at once. An inode
//! or a change time that differs means that somebody else wrote there: a finding, and the tree is not verified.
//! After settling there is no record; then both sides are read and compared as they are.
//!
//! Where both sides are compared *now* (`ctl verify`), the source's tree is scanned anew instead, and what only the
//! destination has is told too. What this migration wrote is still held against its record.

mod basis;
mod check;
mod digest;
mod extras;
mod links;
mod telling;
mod weight;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::clock;
use common::failure::{Failure, FailureKind};
use common::finding::Rule;
use common::id::MigrationId;
use common::rel_path::RelPath;
use common::spec::{Compression, ValidationLevel};
use common::step::file::{FileOutput, FileParams, VERSION};
use sync::diff::{Decision, Found, Join};
use sync::listing::{Listing, ListingEnd};
use tree::{Dir, Root};

use crate::breach::name_source;
use crate::context::StepContext;
use crate::copy::stopped;
use crate::endpoint::Endpoint;
use crate::external_sort::{Sorted, Sorter};
use crate::ledger::{Histories, read_settled};
use crate::left_out::left_out;
use crate::manifest::{ManifestFile, read_exceptions};
use crate::memory::Memory;
use crate::owner::Owners;
use crate::passes::Passes;
use crate::reach;
use crate::remote::{Content, PeerListings};
use crate::request::{content_of, filter_of, request_of};
use crate::scan::{Scan, ScanSettings};
use crate::stage::Stage;
use crate::standing::look_at_self;
use crate::trouble::of_stage;
use crate::way_back::{open_root, run_blocking};

use basis::Basis;
use check::{Checker, Element};
use extras::Extras;

/// Threads that scan.
const SCAN_WORKERS: usize = 2;

/// Proves what stands at the destination.
///
/// With `checksum` or the level `strict`, or when the migration is settled, both sides are read through the peer.
///
/// # Errors
/// `Corrupt` when content differs from its digest although nothing says that it was changed; when the step cannot go
/// on, as for a copy; `NotFound` when the root is gone.
pub async fn run_verify(
    ctx: StepContext,
    endpoint: &Endpoint,
    params: FileParams,
) -> Result<FileOutput, Failure> {
    ctx.lease.check()?;
    let began = clock::boot();
    let memory = Memory::open(&ctx.state_dir, &ctx.migration)?;
    ctx.findings.list_in(&memory.list(VERIFY_LIST))?;
    let (path, migration, known) = (params.destination_root.clone(), ctx.migration.clone(), memory.clone());
    let (root, stage) = run_blocking(move || find(&path, &migration, &known)).await?;
    let is_deep = params.checksum || params.validation_level == ValidationLevel::Strict || stage.is_none();
    let is_now = params.compares_now || stage.is_none();
    let source = match is_deep || is_now {
        true => Some(reach::open(&ctx, endpoint, &memory, Compression::Auto, params.transport).await?),
        false => None,
    };
    let content = match &source {
        Some(source) if is_deep => Some(content_of(source, &params, None).await?),
        Some(_) | None => None,
    };
    let manifest = match &source {
        Some(source) if is_now => Some(source.manifest(request_of(&params)).await?),
        Some(_) | None => None,
    };
    let is_stopped = Arc::new(AtomicBool::new(false));
    let job = Job {
        ctx: ctx.clone(),
        params,
        memory,
        root,
        stage,
        content,
        manifest,
        is_stopped: Arc::clone(&is_stopped),
    };
    let mut work = tokio::task::spawn_blocking(move || job.run());
    let stop = ctx.lease.stop().clone();
    let (done, source) = tokio::select! {
        done = &mut work => (done, source),
        () = stop.cancelled() => {
            is_stopped.store(true, Relaxed);
            // Closes the connection, so that nothing waits for it.
            drop(source);
            (work.await, None)
        }
    };
    let done = done.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let mut output = done.map_err(|failure| match &ctx.peer {
        Some(peer) => name_source(failure, peer),
        None => failure,
    })?;
    if let Some(source) = source {
        output.bytes_on_wire = source.finish().await.0;
    }
    ctx.findings.flush()?;
    output.duration_ms = u64::try_from(clock::boot().since(began).as_millis()).unwrap_or(u64::MAX);
    Ok(output)
}

/// Opens the root, and its stage if there is one; for a thread, as the disk may stand still.
fn find(path: &str, migration: &MigrationId, memory: &Memory) -> Result<(Root, Option<Stage>), Failure> {
    let root = open_root(path)?.ok_or_else(|| gone(path))?;
    let stage = Stage::find(&root, migration, memory)?;
    Ok((root, stage))
}

/// The list of the findings of the last verification.
const VERIFY_LIST: &str = "verify-findings.jsonl";

/// The blocking half.
struct Job {
    ctx: StepContext,
    params: FileParams,
    memory: Memory,
    root: Root,
    stage: Option<Stage>,
    content: Option<Content>,
    manifest: Option<crate::peer::ManifestReceiver>,
    is_stopped: Arc<AtomicBool>,
}

/// The source's side: as the last pass saw it, or as it is.
enum Listings {
    File(Box<ManifestFile>),
    Peer(Box<PeerListings>),
}

impl Iterator for Listings {
    type Item = Result<Listing, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::File(file) => file.next(),
            Self::Peer(peer) => peer.next(),
        }
    }
}

impl Job {
    fn run(mut self) -> Result<FileOutput, Failure> {
        let _class = self.ctx.io_class();
        let spill = match &self.stage {
            Some(stage) => stage.spill.clone(),
            None => Root::open(self.memory.folder()).map_err(|error| of_stage(&error))?.dir(),
        };
        if let Some(stage) = &self.stage {
            stage.clear_spill()?;
        }
        let mut histories = self.histories()?;
        // What a pass could not bring is judged as it is, where the source is looked at anew.
        let mut exceptions = if self.manifest.is_some() { None } else { self.exceptions(&spill)? };
        let mut extras = Extras::new(&self)?;
        let (listings, root, pass) = self.listings()?;
        let settings = ScanSettings::new(filter_of(&self.params)?, self.memory.folder());
        let scan = Scan::start(self.root.dir(), ScanSettings { workers: SCAN_WORKERS, ..settings })?;
        let content = self.content.take();
        let passes = self.stage.as_ref().map(|stage| Passes::read(&stage.dir)).transpose()?;
        // Of what a pass saw, the pass has told what is wrong with it.
        let is_told = matches!(listings, Listings::File(_));
        let mut checker = Checker::new(&self.ctx, &self.params, self.root.dir(), content, &spill);
        checker.known(pass, passes, !is_told);
        checker.root(&root, &look_at_self(&self.root.dir()).map_err(|error| of_stage(&error))?)?;
        let mut here = RelPath::root();
        for decision in Join::new(listings, scan) {
            if self.is_stopped.load(Relaxed) {
                return Err(stopped(&self.ctx));
            }
            let (source, found) = match decision? {
                Decision::Began { path, is_at_source, .. } => {
                    extras.enter(is_at_source);
                    here = path;
                    continue;
                }
                Decision::Entry(Found::Extra { destination }) => {
                    extras.push(destination);
                    continue;
                }
                Decision::Ended { path, source: Some(ListingEnd::Complete), .. } => {
                    extras.tell(&path, &mut checker)?;
                    continue;
                }
                Decision::Entry(Found::Missing { source }) => (source, None),
                Decision::Entry(Found::Both { source, destination }) => (source, Some(destination)),
                Decision::Entry(Found::Problem { source_entry: Some(source), destination_entry, .. }) => {
                    (source, destination_entry)
                }
                Decision::Entry(Found::Problem { source: Some(problem), .. }) => {
                    if left_out(&self.params, &problem).is_some() {
                        continue;
                    }
                    let path = join(&here, &problem.name)?;
                    checker.unseen(&path, &problem.why, is_told);
                    continue;
                }
                Decision::Ended { path, source: Some(ListingEnd::Unreadable { why }), .. } => {
                    checker.unseen(&path, &why, is_told);
                    continue;
                }
                Decision::Entry(_) | Decision::Stage { .. } | Decision::Ended { .. } => continue,
            };
            let path = join(&here, &source.name)?;
            let history = histories.find(&path)?;
            let exception = exceptions.as_mut().map_or(Ok(None), |sorted| take_exception(sorted, &path))?;
            let basis = Basis::of(history.as_ref());
            checker.push(Element { path, source, found, basis, exception })?;
        }
        let mut output = FileOutput { version: VERSION, ..FileOutput::default() };
        checker.finish(&mut output)?;
        output.list_file = Some(VERIFY_LIST.to_owned());
        output.findings_total = self.ctx.findings.totals().total;
        Ok(output)
    }

    fn histories(&self) -> Result<Histories, Failure> {
        match &self.stage {
            Some(stage) => Histories::sort(read_settled(&stage.dir)?, &stage.spill, "verify"),
            None => Ok(Histories::none()),
        }
    }

    fn exceptions(&self, spill: &Dir) -> Result<Option<Sorted<ByPath>>, Failure> {
        let Some(stage) = &self.stage else { return Ok(None) };
        let Some(mut reader) = read_exceptions(stage)? else { return Ok(None) };
        let mut sorter = Sorter::new(spill, "exceptions");
        while let Some(exception) = reader.next()? {
            sorter.push(ByPath(exception))?;
        }
        sorter.finish().map(Some)
    }

    fn listings(&mut self) -> Result<(Listings, sync::entry::Entry, u32), Failure> {
        if let Some(manifest) = self.manifest.take() {
            let owners = Owners::new(&self.params)?;
            let listings = PeerListings::new(manifest, owners)?;
            let root = listings.root().clone();
            return Ok((Listings::Peer(Box::new(listings)), root, 0));
        }
        let stage = self.stage.as_ref();
        let file = stage.map_or(Ok(None), ManifestFile::open)?.ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                "no copy of this migration has ended, so there is nothing to verify",
            )
            .hint("Let the copy end first: retry the migration.")
        })?;
        let (root, pass) = (file.head.root.clone(), file.head.pass);
        Ok((Listings::File(Box::new(file)), root, pass))
    }
}

fn join(directory: &RelPath, name: &[u8]) -> Result<RelPath, Failure> {
    directory.join(name).map_err(|error| Failure::of(FailureKind::Bug, &error))
}

/// An exception in the order of listings.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct ByPath(crate::manifest::Exception);

impl Ord for ByPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        crate::ledger::listing_order(&self.0.path, &other.0.path).then(self.0.rule.cmp(&other.0.rule))
    }
}

impl PartialOrd for ByPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByPath {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == std::cmp::Ordering::Equal
    }
}

impl Eq for ByPath {}

/// Takes the exceptions of a path, passing over those before it; the gravest rule counts.
fn take_exception(sorted: &mut Sorted<ByPath>, path: &RelPath) -> Result<Option<Rule>, Failure> {
    let mut found = None;
    while let Some(ByPath(next)) = sorted.peek() {
        match crate::ledger::listing_order(&next.path, path) {
            std::cmp::Ordering::Greater => break,
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal if found.is_none_or(|found| found == Rule::Vanished) => {
                found = Some(next.rule);
            }
            std::cmp::Ordering::Equal => {}
        }
        sorted.next()?;
    }
    Ok(found)
}

fn gone(root: &str) -> Failure {
    Failure::new(
        FailureKind::NotFound,
        format!("the destination's root `{}` does not exist", Path::new(root).display()),
    )
    .hint("It was removed or is not mounted. Mount it, or run the migration again.")
}

#[cfg(test)]
mod tests {
    use common::finding::Rule;
    use common::spec::ValidationLevel;

    use crate::pair::Pair;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_others_did_since_is_a_conflict_and_a_settled_tree_is_compared_as_it_is() {
        let mut pair = Pair::new();
        for name in ["changed", "removed", "same"] {
            std::fs::write(pair.source_root.join(name), name).unwrap();
        }
        pair.copy().await.0.unwrap();
        std::fs::write(pair.destination_root.join("changed"), "edited!").unwrap();
        std::fs::remove_file(pair.destination_root.join("removed")).unwrap();
        let (verified, findings) = pair.verify().await;
        let verified = verified.unwrap();
        assert!(!verified.is_verified);
        assert_ne!(verified.source_digest, verified.destination_digest);
        assert_eq!((verified.proof.content_files, verified.proof.unproven_files), (1, 2));
        let objects: Vec<_> =
            findings.iter().map(|finding| (finding.rule, finding.object.as_str())).collect();
        // The root's time tells too that something was removed.
        assert_eq!(objects, [(Rule::Differs, "."), (Rule::Conflict, "changed"), (Rule::Conflict, "removed")]);

        pair.copy().await.0.unwrap();
        assert!(pair.verify().await.0.unwrap().is_verified);
        pair.params.validation_level = ValidationLevel::Strict;
        let deep = pair.verify().await.0.unwrap();
        assert!(deep.is_verified && deep.bytes_on_wire > 0);

        pair.settle();
        let (verified, findings) = pair.verify().await;
        assert_eq!(findings, []);
        let verified = verified.unwrap();
        assert!(verified.is_verified);
        assert_eq!(verified.proof.content_files, 3);
        std::fs::write(pair.source_root.join("same"), "emas").unwrap();
        let (verified, findings) = pair.verify().await;
        assert!(!verified.unwrap().is_verified);
        let objects: Vec<_> =
            findings.iter().map(|finding| (finding.rule, finding.object.as_str())).collect();
        // That its content differs too is in the list of all.
        assert_eq!(objects, [(Rule::Differs, "same")]);
        pair.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn names_must_be_linked_as_at_the_source() {
        let mut pair = Pair::new();
        for name in ["a", "c", "d"] {
            std::fs::write(pair.source_root.join(name), "same").unwrap();
        }
        std::fs::hard_link(pair.source_root.join("a"), pair.source_root.join("b")).unwrap();
        pair.copy().await.0.unwrap();
        let verified = pair.verify().await.0.unwrap();
        assert!(verified.is_verified);
        // The file with two names counts twice as a file and once as content.
        assert_eq!((verified.files_total, verified.bytes_total), (4, 12));
        assert_eq!((verified.proof.content_files, verified.proof.content_bytes), (4, 12));
        pair.settle();
        assert!(pair.verify().await.0.unwrap().is_verified);
        // The same content and times, but other links.
        let at = |name: &str| pair.destination_root.join(name);
        let times = std::fs::metadata(at("a")).unwrap().modified().unwrap();
        let root_times = std::fs::metadata(&pair.destination_root).unwrap().modified().unwrap();
        std::fs::remove_file(at("b")).unwrap();
        std::fs::write(at("b"), "same").unwrap();
        std::fs::File::options().write(true).open(at("b")).unwrap().set_modified(times).unwrap();
        let times = std::fs::metadata(pair.source_root.join("d")).unwrap().modified().unwrap();
        for root in [&pair.source_root, &pair.destination_root] {
            let file = std::fs::File::options().write(true).open(root.join("c")).unwrap();
            file.set_modified(times).unwrap();
        }
        std::fs::remove_file(at("d")).unwrap();
        std::fs::hard_link(at("c"), at("d")).unwrap();
        std::fs::File::open(&pair.destination_root).unwrap().set_modified(root_times).unwrap();
        let (verified, findings) = pair.verify().await;
        assert!(!verified.unwrap().is_verified);
        let objects: Vec<_> = findings.iter().map(|finding| finding.object.as_str()).collect();
        assert_eq!(objects, ["b", "d"]);
        pair.close().await;
    }
}
