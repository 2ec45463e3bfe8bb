//! What a kind of step is tried on: a fixture for each, found by the kind.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::step::Step;
use agent::step::registry::STEPS;
use common::failure::Failure;
use common::finding::Finding;
use common::progress::Progress;
use common::shutdown::Shutdown;
use common::spec::MaxDelete;
use common::step::StepKind;
use common::step::file::FileParams;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use transfer::KillPoint;

use crate::destination;
use crate::hosts::{Attempt, Hosts, Which, text};
use crate::snapshot::Snapshot;

/// What stands in files and attributes, and must turn up nowhere else.
pub(crate) const SECRET: &str = "contract-secret-51c0ffee";
/// Longer than any step here takes; one that does not end has broken a promise.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(120);

/// How a world is made.
type Fixture = fn(&Arc<Hosts>) -> World;

/// How the world of a kind is made. A kind without a line here fails the suite.
pub(crate) const FIXTURES: &[(StepKind, Fixture)] = &[
    (StepKind::FileCatchUp, differing_trees),
    (StepKind::FileCopy, differing_trees),
    (StepKind::FileFinish, differing_trees),
    (StepKind::FileVerify, copied_trees),
];

/// Two trees, the parameters of a step between them, and its attempts so far.
pub(crate) struct World {
    hosts: Arc<Hosts>,
    folder: tempfile::TempDir,
    params: FileParams,
    attempts: u32,
}

/// How an attempt ended, with everything that it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Result<String, Failure>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) progress: Vec<Progress>,
    pub(crate) ticket: Vec<u8>,
}

/// Run or undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Run,
    Undo,
}

fn write(root: &Path, name: &str, content: &str, seconds: i64) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    set_time(&path, seconds);
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A source, and a destination that differs from it in every way that a step can change: new, other content, other
/// metadata, another kind, other links, too much.
pub(crate) fn differing_trees(hosts: &Arc<Hosts>) -> World {
    let folder = tempfile::tempdir().unwrap();
    let (source, destination) = (folder.path().join("source"), folder.path().join("destination"));
    for root in [&source, &destination] {
        write(root, "same/kept", "the same on both sides", 1_000);
        write(root, "group/one", "one inode", 2_000);
    }
    write(&source, "new/file", SECRET, 3_000);
    write(&source, "same/changed", "the new content", 4_000);
    write(&destination, "same/changed", "the old content, which is longer", 3_999);
    write(&source, "same/mode", "the mode differs", 5_000);
    write(&destination, "same/mode", "the mode differs", 5_000);
    fs::set_permissions(source.join("same/mode"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(source.join("group/one"), source.join("group/two")).unwrap();
    write(&destination, "group/two", "two inodes", 2_001);
    write(&destination, "extra/file", "only here", 6_000);
    write(&destination, "kind", "a file here", 7_000);
    fs::create_dir(source.join("kind")).unwrap();
    symlink("same/kept", source.join("link")).unwrap();
    set_time(&source.join("link"), 8_000);
    write(&source, "empty", "", 9_000);
    let note = format!("{SECRET}-attribute");
    rustix::fs::lsetxattr(source.join("new/file"), "user.note", note.as_bytes(), XattrFlags::empty()).ok();
    for (root, second) in [(&source, 10_000), (&destination, 20_000)] {
        for directory in ["same", "group", "new", "extra", "kind", ""] {
            let path = root.join(directory);
            if path.is_dir() {
                set_time(&path, second);
            }
        }
    }
    fs::create_dir(folder.path().join("state")).unwrap();
    let params = FileParams {
        delete: true,
        max_delete: MaxDelete::Percent(100),
        numeric_ids: true,
        ..FileParams::between(&text(&source), &text(&destination))
    };
    World { hosts: Arc::clone(hosts), folder, params, attempts: 0 }
}

/// The same after a copy, for steps that look at what was brought.
fn copied_trees(hosts: &Arc<Hosts>) -> World {
    let mut world = differing_trees(hosts);
    let copy = of_kind(StepKind::FileCopy);
    let ended = std::thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(world.attempt(copy, Way::Run, KillPoint::default()))
        };
        scope.spawn(run).join().unwrap()
    });
    ended.outcome.unwrap();
    world
}

/// Returns the registered kind.
pub(crate) fn of_kind(kind: StepKind) -> &'static dyn Step {
    *STEPS.iter().find(|step| step.descriptor().kind == kind).unwrap()
}

impl World {
    pub(crate) fn destination(&self) -> PathBuf {
        self.folder.path().join("destination")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    /// Returns what stands at the destination.
    pub(crate) fn state(&self) -> Snapshot {
        destination::look(&self.destination())
    }

    /// Makes a fresh attempt.
    pub(crate) fn begin(&mut self, step: &dyn Step, kill: KillPoint) -> Attempt {
        self.attempts += 1;
        self.hosts.attempt(Which {
            step: &format!("{}-1", step.descriptor().kind),
            number: self.attempts,
            state_dir: self.folder.path().join("state"),
            params: &self.params,
            kill,
        })
    }

    /// Runs an attempt to its end.
    pub(crate) async fn attempt(&mut self, step: &'static dyn Step, way: Way, kill: KillPoint) -> Ended {
        let attempt = self.begin(step, kill);
        self.attend(step, way, attempt, |_keeper| ()).await
    }

    /// Runs a prepared attempt to its end; `meanwhile` is called once it is under way.
    pub(crate) async fn attend(
        &self,
        step: &'static dyn Step,
        way: Way,
        attempt: Attempt,
        meanwhile: impl FnOnce(&transfer::LeaseKeeper),
    ) -> Ended {
        let Attempt { mut context, keeper, mut progress, mut findings, ticket } = attempt;
        let params = agent::step::write(&self.params).unwrap();
        let work = match way {
            Way::Run => step.run(context, self.hosts.destination.clone(), params),
            Way::Undo => {
                context.peer = None;
                step.undo(context, params)
            }
        };
        let mut work = Shutdown::new().spawn(work);
        meanwhile(&keeper);
        let deadline = tokio::time::sleep(ATTEMPT_DEADLINE);
        tokio::pin!(deadline);
        let mut told = Vec::new();
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut work => break outcome.unwrap(),
                Ok(()) = progress.changed() => told.push(*progress.borrow_and_update()),
                () = &mut deadline => panic!("the step does not end"),
            }
        };
        told.push(*progress.borrow());
        drop(keeper);
        let mut said = Vec::new();
        while let Ok(finding) = findings.try_recv() {
            said.push(finding);
        }
        Ended { outcome, findings: said, progress: told, ticket }
    }
}
