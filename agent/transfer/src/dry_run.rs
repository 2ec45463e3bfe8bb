//! A dry run: what a copy would do, itemised, with nothing changed at the destination, not even a stage made.
//!
//! The list is a file in the agent's state directory, one line of JSON for each entry that would be changed:
//!
//! ```text
//! {"path":"a/b","action":"replace","kind":"file","bytes":4711,"why":["size","time"]}
//! ```
//!
//! Actions are `create`, `replace`, `metadata`, `link` and `delete`. A file that would be a further name of one that
//! comes before it in the list is a `link`. Reasons are those of rsync's `-i`: `kind`, `size`, `target` of a link, `time`,
//! `mode`, `owner`, `group`, `acl`, `attributes`, `content` where it is compared, and `link` where names share an inode
//! that should not, or do not and should. The root is the path `.`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::clock;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use common::spec::Compression;
use common::step::file::{FileOutput, FileParams, VERSION};
use serde::Serialize;
use sync::acl;
use sync::diff::{Decision, Difference, Found, Join};
use sync::entry::{Entry, Kind};
use sync::limits::LeftOut;
use sync::listing::{Listing, ListingEnd};
use sync::sanitize::UNMASKED_HINT;
use sync::subtrees::Subtrees;
use tree::Root;

use crate::backup;
use crate::breach::name_source;
use crate::capacity::{Capacity, PlaceId};
use crate::content::read;
use crate::context::StepContext;
use crate::copy::{peer_of, stopped};
use crate::endpoint::Endpoint;
use crate::in_the_way::{Fate, fate, is_in_the_way};
use crate::left_out::{found_left_out, left_out};
use crate::memory::Memory;
use crate::owner::Owners;
use crate::peer::ManifestReceiver;
use crate::reach;
use crate::remote::{Content, PeerListings, Remote};
use crate::removal::{self, Removal};
use crate::request::{content_of, filter_of, request_of};
use crate::scan::{Scan, ScanSettings};
use crate::standing::look_at_self;
use crate::trouble::{finding, is_fatal, of_stage};
use crate::way_back::open_root;

/// The list's name.
const LIST: &str = "dry-run.jsonl";
/// Threads that scan the destination.
const SCAN_WORKERS: usize = 2;
/// Files that are compared by content at once.
const COMPARED_AT_ONCE: usize = 256;
/// Inodes of hard links that are remembered; above, a further name is listed like a file of its own.
const LINKED_INODES_MAX: usize = 100_000;
/// Entries of one directory that wait until it is known whether the source could list it whole.
const EXTRAS_MAX: usize = 100_000;

/// One line of the list.
#[derive(Debug, Serialize)]
struct Line<'a> {
    path: String,
    action: &'a str,
    kind: &'a str,
    bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    why: Vec<&'a str>,
}

/// Lists what a copy with these parameters would do.
pub(crate) async fn dry_run(
    ctx: StepContext,
    endpoint: &Endpoint,
    params: FileParams,
) -> Result<FileOutput, Failure> {
    let began = clock::boot();
    let memory = Memory::open(&ctx.state_dir, &ctx.migration)?;
    let peer = peer_of(&ctx)?.clone();
    let source = reach::open(&ctx, endpoint, &memory, Compression::Auto, params.transport).await?;
    let manifest = source.manifest(request_of(&params)).await?;
    let content = if params.checksum { Some(content_of(&source, &params, None).await?) } else { None };
    let is_stopped = Arc::new(AtomicBool::new(false));
    let stop = ctx.lease.stop().clone();
    let job = Job { ctx, params, memory, is_stopped: Arc::clone(&is_stopped) };
    let mut work = tokio::task::spawn_blocking(move || job.run(manifest, content));
    let (done, wire) = tokio::select! {
        done = &mut work => (done, source.finish().await.0),
        () = stop.cancelled() => {
            is_stopped.store(true, Relaxed);
            let wire = source.finish().await.0;
            (work.await, wire)
        }
    };
    let done = done.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let mut output = done.map_err(|failure| name_source(failure, &peer))?;
    output.bytes_on_wire = wire;
    output.duration_ms = u64::try_from(clock::boot().since(began).as_millis()).unwrap_or(u64::MAX);
    Ok(output)
}

struct Job {
    ctx: StepContext,
    params: FileParams,
    memory: Memory,
    is_stopped: Arc<AtomicBool>,
}

/// The destination's side: a scan, or nothing where there is no root yet.
enum Present {
    Scan(Scan, Root),
    Nothing,
}

impl Iterator for Present {
    type Item = Result<Listing, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Scan(scan, _root) => scan.next(),
            Self::Nothing => None,
        }
    }
}

impl Job {
    fn run(self, manifest: ManifestReceiver, content: Option<Content>) -> Result<FileOutput, Failure> {
        let _class = self.ctx.io_class();
        let path = self.memory.list(LIST);
        let file = File::create(&path).map_err(|error| unwritable(&path, &error))?;
        let mut listings = PeerListings::new(manifest, Owners::new(&self.params)?)?;
        let root = open_root(&self.params.destination_root)?;
        let present = match &root {
            Some(root) => {
                let settings = ScanSettings {
                    workers: SCAN_WORKERS,
                    ..ScanSettings::new(filter_of(&self.params)?, self.memory.folder())
                };
                Present::Scan(Scan::start(root.dir(), settings)?, root.clone())
            }
            None => Present::Nothing,
        };
        let capacity =
            Capacity::new(root.as_ref(), Path::new(&self.params.destination_root), self.params.delete);
        let mut list = Itemiser {
            job: &self,
            root,
            capacity,
            file: BufWriter::new(file),
            remote: content.map(Remote::new),
            waiting: Vec::new(),
            extras: Vec::new(),
            linked: HashMap::new(),
            whole: Subtrees::default(),
            emptied: 0,
            present: 0,
            only_device: None,
            left_out: [0; 2],
            output: FileOutput { version: VERSION, ..FileOutput::default() },
        };
        list.root(listings.root().clone())?;
        let mut here = RelPath::root();
        for decision in Join::new(&mut listings, present) {
            if self.is_stopped.load(Relaxed) {
                return Err(stopped(&self.ctx));
            }
            match decision? {
                Decision::Began { path, is_at_destination, .. } => {
                    list.capacity.enter(&path, is_at_destination);
                    list.whole.advance(&path);
                    here = path;
                }
                Decision::Entry(found) => list.found(&here, found)?,
                Decision::Stage { .. } => {}
                Decision::Ended { path, source, .. } => list.ended(&path, source)?,
            }
        }
        list.finish(&path)
    }
}

/// An entry that the source does not have, as far as it is listed.
struct Extra {
    name: Vec<u8>,
    kind: &'static str,
    bytes: u64,
}

struct Itemiser<'a> {
    job: &'a Job,
    root: Option<Root>,
    capacity: Capacity,
    file: BufWriter<File>,
    remote: Option<Remote>,
    /// Files that look the same and are to be compared, without their attributes.
    waiting: Vec<(RelPath, Entry, PlaceId)>,
    /// Entries of the open directory that the source does not have.
    extras: Vec<Extra>,
    /// Inodes of the source with several names, and what the destination has at the first of them.
    linked: HashMap<(u64, u64), Option<(u64, u64)>>,
    /// Directories that would stay with all that they hold.
    whole: Subtrees,
    /// Directories that would be emptied to make room for something else: each is a delete by itself.
    emptied: u64,
    /// Entries at the destination.
    present: u64,
    /// The device of the root, where nothing is removed on others.
    only_device: Option<u64>,
    /// Files that would be left out for their size, and for their age.
    left_out: [u64; 2],
    output: FileOutput,
}

impl Itemiser<'_> {
    fn found(&mut self, here: &RelPath, found: Found) -> Result<(), Failure> {
        let join = |name: &[u8]| here.join(name).map_err(|error| Failure::of(FailureKind::Bug, &error));
        self.capacity.found(&found);
        match found {
            Found::Missing { source } => {
                let path = join(&source.name)?;
                self.count(&source);
                let is_further = self.is_further_name(&source, None).is_some();
                self.bring(&path, &source, "create", Vec::new(), is_further)
            }
            Found::Both { source, destination } => {
                let path = join(&source.name)?;
                self.present += 1;
                self.count(&source);
                self.both(path, source, &destination)
            }
            Found::Extra { destination } => {
                self.present += 1;
                let path = join(&destination.name)?;
                let stays = backup::stays(&self.job.params.rules, &path)
                    || self.only_device.is_some_and(|device| device != destination.dev);
                if self.job.params.delete && !stays && !self.whole.holds(&path) {
                    let (kind, bytes) = (destination.kind.as_str(), destination.size());
                    self.extras.push(Extra { name: destination.name, kind, bytes });
                }
                if self.extras.len() >= EXTRAS_MAX { self.write_extras(here) } else { Ok(()) }
            }
            Found::Unknown { destination: _ } => {
                self.present += 1;
                Ok(())
            }
            Found::Problem { source, destination, .. } => {
                if let Some(reason) = source.as_ref().and_then(|problem| left_out(&self.job.params, problem))
                {
                    self.left_out[usize::from(reason == LeftOut::ByAge)] += 1;
                    return Ok(());
                }
                for problem in [source, destination].into_iter().flatten() {
                    self.output.is_partial = true;
                    let path = join(&problem.name)?;
                    let (rule, message, hint) = if problem.is_unmasked() {
                        (Rule::NotSanitized, format!("it would be left out: {}", problem.why), UNMASKED_HINT)
                    } else {
                        let hint = "It would be left out. Look at it on its host.";
                        (Rule::Unreadable, format!("it could not be looked at: {}", problem.why), hint)
                    };
                    let finding = finding(rule, Severity::Error, &path, message, hint);
                    self.job.ctx.findings.report(finding);
                }
                Ok(())
            }
        }
    }

    fn count(&mut self, source: &Entry) {
        if source.kind.is_directory() {
            self.output.directories_total += 1;
            return;
        }
        self.output.files_total += 1;
        if !source.is_hard_link() || !self.linked.contains_key(&(source.dev, source.ino)) {
            self.output.bytes_total = self.output.bytes_total.saturating_add(source.size());
        }
    }

    /// Compares the root itself.
    fn root(&mut self, source: Entry) -> Result<(), Failure> {
        let Some(root) = &self.root else { return Ok(()) };
        let present = look_at_self(&root.dir()).map_err(|error| of_stage(&error))?;
        self.only_device = self.job.params.rules.one_file_system.then_some(present.dev);
        let why = words(&source, &present);
        if why.is_empty() {
            return Ok(());
        }
        let (path, kind) = (RelPath::root().to_string(), source.kind.as_str());
        self.line(&Line { path, action: "metadata", kind, bytes: 0, why })
    }

    /// Notes a name of an inode with several; returns what the destination has at the first of them, if this is a
    /// further one.
    fn is_further_name(&mut self, source: &Entry, present: Option<(u64, u64)>) -> Option<Option<(u64, u64)>> {
        if !source.is_hard_link() {
            return None;
        }
        let inode = (source.dev, source.ino);
        if let Some(first) = self.linked.get(&inode) {
            return Some(*first);
        }
        if self.linked.len() < LINKED_INODES_MAX {
            self.linked.insert(inode, present);
        }
        None
    }

    fn bring(
        &mut self,
        path: &RelPath,
        source: &Entry,
        action: &str,
        why: Vec<&str>,
        is_further: bool,
    ) -> Result<(), Failure> {
        let (action, bytes) = if is_further { ("link", 0) } else { (action, source.size()) };
        if !source.kind.is_directory() {
            self.output.files_sent += 1;
            self.output.bytes_sent = self.output.bytes_sent.saturating_add(bytes);
        }
        self.line(&Line { path: path.to_string(), action, kind: source.kind.as_str(), bytes, why })
    }

    fn both(&mut self, path: RelPath, source: Entry, destination: &Entry) -> Result<(), Failure> {
        let difference = Difference::between(&source, destination);
        let is_directory = source.kind.is_directory();
        let inode = (destination.dev, destination.ino);
        let first = self.is_further_name(&source, Some(inode));
        if is_in_the_way(destination, &source) && !self.makes_room(&path, &source)? {
            return Ok(());
        }
        let mut why = words(&source, destination);
        let is_kept = !difference.kind && (is_directory || !difference.needs_content());
        // What shares its inode with others than at the source gets another one.
        let is_linked = match first {
            Some(first) => first == Some(inode),
            None => source.is_hard_link() || is_directory || !destination.is_hard_link(),
        };
        if !is_linked {
            why.push("link");
        }
        if !is_kept || !is_linked {
            return self.bring(&path, &source, "replace", why, first.is_some());
        }
        if !difference.is_none() {
            if !is_directory {
                self.output.metadata_changed += 1;
            }
            let (path, kind) = (path.to_string(), source.kind.as_str());
            return self.line(&Line { path, action: "metadata", kind, bytes: 0, why });
        }
        if is_directory {
            return Ok(());
        }
        if self.remote.is_some() && source.kind.is_file() && source.size() > 0 && first.is_none() {
            let source = Entry { xattrs: Vec::new(), ..source };
            self.waiting.push((path, source, self.capacity.here()));
            return if self.waiting.len() >= COMPARED_AT_ONCE { self.compare() } else { Ok(()) };
        }
        self.output.files_unchanged += 1;
        Ok(())
    }

    /// Whether a directory would make room for something else; tells if not.
    fn makes_room(&mut self, path: &RelPath, source: &Entry) -> Result<bool, Failure> {
        let Some(root) = &self.root else { return Ok(true) };
        let (message, hint) = match fate(&root.dir(), path, &self.job.params, false) {
            Ok(Fate::Replaced) => return Ok(true),
            Ok(Fate::Emptied) => {
                self.emptied += 1;
                return Ok(true);
            }
            Ok(Fate::Stays(reason)) => (reason.message(source), reason.hint()),
            Err(error) if is_fatal(&error) => return Err(of_stage(&error)),
            Err(error) => (common::failure::chain(&error), "Look at it at the destination."),
        };
        self.output.is_partial = true;
        self.whole.mark_or_parent(path);
        self.job.ctx.findings.report(finding(Rule::InTheWay, Severity::Error, path, message, hint));
        Ok(false)
    }

    /// Compares by content what looks the same.
    fn compare(&mut self) -> Result<(), Failure> {
        let waiting = std::mem::take(&mut self.waiting);
        let (Some(remote), Some(root)) = (&mut self.remote, &self.root) else { return Ok(()) };
        let asked: Vec<_> = waiting.iter().map(|(path, source, _place)| (path, source)).collect();
        let digests = remote.digests(&asked)?;
        let dir = root.dir();
        for ((path, source, place), digest) in waiting.iter().zip(digests) {
            let proceed = || !self.job.ctx.lease.stop().is_cancelled();
            let own = read(&dir, path, false, proceed).ok().flatten().map(|read| read.digest);
            if digest.is_some() && own == digest {
                self.output.files_unchanged += 1;
            } else {
                self.capacity.bring(*place, source);
                self.bring(path, source, "replace", vec!["content"], false)?;
            }
        }
        Ok(())
    }

    fn ended(&mut self, here: &RelPath, source: Option<ListingEnd>) -> Result<(), Failure> {
        if source.is_none_or(|end| end == ListingEnd::Complete) {
            return self.write_extras(here);
        }
        self.extras.clear();
        Ok(())
    }

    fn write_extras(&mut self, here: &RelPath) -> Result<(), Failure> {
        for Extra { name, kind, bytes } in std::mem::take(&mut self.extras) {
            self.output.deleted += 1;
            let path = here.join(&name).map_err(|error| Failure::of(FailureKind::Bug, &error))?.to_string();
            self.line(&Line { path, action: "delete", kind, bytes, why: Vec::new() })?;
        }
        Ok(())
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        let path = Path::new(LIST);
        serde_json::to_writer(&mut self.file, line)
            .map_err(|error| unwritable(path, &error.into()))
            .and_then(|()| self.file.write_all(b"\n").map_err(|error| unwritable(path, &error)))
    }

    fn finish(mut self, path: &Path) -> Result<FileOutput, Failure> {
        self.compare()?;
        self.file.flush().map_err(|error| unwritable(path, &error))?;
        let removal = Removal {
            count: self.output.deleted + self.emptied,
            present: self.present,
            at_source: self.output.files_total + self.output.directories_total,
            is_same_source: true,
        };
        let refusal = if removal.count > 0 { removal.refusal(self.job.params.max_delete) } else { None };
        if let Some(why) = refusal {
            let message = format!("nothing would be removed: {why}");
            let root = RelPath::root();
            let finding = finding(Rule::NotDeleted, Severity::Warning, &root, message, removal::HINT);
            self.job.ctx.findings.report(finding);
        }
        let [by_size, by_age] = self.left_out;
        if let Some(finding) = found_left_out(by_size, by_age) {
            self.job.ctx.findings.report(finding);
        }
        for shortfall in self.capacity.shortfalls(&BTreeMap::new()) {
            self.job.ctx.findings.report(shortfall.finding());
        }
        self.output.list_file = Some(LIST.to_owned());
        self.output.findings_total = self.job.ctx.findings.totals().total;
        Ok(self.output)
    }
}

/// Says what differs.
fn words(source: &Entry, destination: &Entry) -> Vec<&'static str> {
    let Difference { kind, content, mtime, mode, uid, gid, xattrs: _ } =
        Difference::between(source, destination);
    let content_word = if matches!(source.kind, Kind::Symlink { .. }) { "target" } else { "size" };
    let differing = |is_acl: bool| {
        let of = |entry: &Entry| {
            let mut xattrs = entry.xattrs.clone();
            xattrs.retain(|(name, _value)| acl::is_acl(&name.0) == is_acl);
            xattrs
        };
        of(source) != of(destination)
    };
    [
        (kind, "kind"),
        (content, content_word),
        (mtime, "time"),
        (mode, "mode"),
        (uid, "owner"),
        (gid, "group"),
        (differing(true), "acl"),
        (differing(false), "attributes"),
    ]
    .into_iter()
    .filter(|(differs, _word)| *differs)
    .map(|(_differs, word)| word)
    .collect()
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Exhausted, format!("failed to write the list {}: {error}", path.display()))
        .hint("Make room in the agent's state directory.")
}

#[cfg(test)]
mod tests {
    use common::step::file::ListQuestion;

    use crate::pair::Pair;
    use crate::snapshot::snapshot;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_touched_and_everything_is_listed() {
        let mut pair = Pair::new();
        for (name, content) in [("new", "1"), ("longer", "12"), ("same-look", "ab")] {
            std::fs::write(pair.source_root.join(name), content).unwrap();
        }
        std::fs::hard_link(pair.source_root.join("new"), pair.source_root.join("new-2")).unwrap();
        pair.params.dry_run = true;
        let (output, findings) = pair.copy().await;
        assert_eq!((output.unwrap().files_sent, findings.len()), (4, 0));
        assert!(!pair.destination_root.exists(), "the root was made");

        std::fs::create_dir(&pair.destination_root).unwrap();
        std::fs::write(pair.destination_root.join("longer"), "1").unwrap();
        std::fs::write(pair.destination_root.join("extra"), "1").unwrap();
        std::fs::write(pair.destination_root.join("same-look"), "xy").unwrap();
        let mtime = std::fs::metadata(pair.source_root.join("same-look")).unwrap().modified().unwrap();
        std::fs::File::options()
            .write(true)
            .open(pair.destination_root.join("same-look"))
            .unwrap()
            .set_modified(mtime)
            .unwrap();
        let before = snapshot(&pair.destination_root);
        (pair.params.delete, pair.params.checksum) = (true, true);
        let (output, _findings) = pair.copy().await;
        let output = output.unwrap();
        assert_eq!(snapshot(&pair.destination_root), before);
        assert_eq!(std::fs::read_dir(&pair.destination_root).unwrap().count(), 3, "a stage was made");
        assert_eq!((output.files_sent, output.deleted, output.bytes_sent), (4, 1, 5));

        let question =
            ListQuestion { migration: "m1".parse().unwrap(), list_file: output.list_file.unwrap() };
        let list = crate::way_back::open_list(&pair.state_dir, &question).unwrap();
        let text = std::io::read_to_string(list).unwrap();
        let mut actions: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| format!("{} {}", line["action"].as_str().unwrap(), line["path"].as_str().unwrap()))
            .collect();
        actions.sort();
        assert_eq!(
            actions,
            ["create new", "delete extra", "link new-2", "metadata .", "replace longer", "replace same-look"]
        );
        pair.close().await;
    }
}
