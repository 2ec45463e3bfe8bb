//! Every damage, in every place that a file step keeps something, before every later change.
//!
//! Whatever stands in the stage or in the agent's memory of it is cut, flipped, emptied, removed or grown; then the step
//! is run again, proven, or undone. Each must end right, or say what is wrong in one sentence with a hint, and never
//! leave a file that is neither the old one nor the new one.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use common::step::StepKind;
use common::step::file::FileOutput;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tests::alteration::{alterations, altered, cases};
use transfer::KillPoint;

use crate::destination;
use crate::hosts::Hosts;
use crate::snapshot::Snapshot;
use crate::world::{Way, World, differing_trees, of_kind};

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Halved,
    Emptied,
    Flipped,
    Removed,
    Grown,
}

const DAMAGES: [Damage; 5] =
    [Damage::Halved, Damage::Emptied, Damage::Flipped, Damage::Removed, Damage::Grown];

/// What is done afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    RunAgain,
    Verify,
    Undo,
}

impl Damage {
    fn apply(self, path: &Path) {
        let length = fs::metadata(path).unwrap().len();
        let open = || OpenOptions::new().read(true).write(true).open(path).unwrap();
        match self {
            Self::Halved => open().set_len(length / 2).unwrap(),
            Self::Emptied => open().set_len(0).unwrap(),
            Self::Flipped => {
                let (file, at) = (open(), length / 2);
                let mut byte = [0];
                if file.read_at(&mut byte, at).unwrap() == 1 {
                    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
                }
            }
            Self::Removed => fs::remove_file(path).unwrap(),
            Self::Grown => {
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(&[0xa5; 100]).unwrap();
            }
        }
    }
}

/// Returns every file that a migration keeps beside the tree, by a name that is the same in every run.
///
/// What stands in `undo/` is the customer's: its damage is the loss of that file, and has a case of its own.
fn places(world: &World) -> BTreeMap<String, PathBuf> {
    let mut places = BTreeMap::new();
    for path in destination::staged_files(&world.destination()) {
        let text = path.to_string_lossy().into_owned();
        let (_, below) = text.split_once("/.drover-").unwrap();
        let (_, name) = below.split_once('/').unwrap();
        if !name.starts_with("undo/") && !name.starts_with("counters.") {
            places.insert(name.to_owned(), path);
        }
    }
    let mut pending = vec![world.state_dir()];
    while let Some(path) = pending.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => pending.extend(entries.flatten().map(|entry| entry.path())),
            Err(_file) => {
                let name = path.strip_prefix(world.state_dir()).unwrap().display().to_string();
                places.insert(format!("memory:{name}"), path);
            }
        }
    }
    places
}

/// Runs the copy in a fresh world.
async fn copied(hosts: &Arc<Hosts>) -> World {
    let mut world = differing_trees(hosts);
    let copied = world.attempt(of_kind(StepKind::FileCopy), Way::Run, KillPoint::default()).await;
    copied.outcome.unwrap();
    world
}

/// Returns a path at which neither what was found nor what was brought stands.
fn neither_old_nor_new(now: &Snapshot, found: &Snapshot, done: &Snapshot) -> Option<String> {
    let is_wrong = |(path, line): &(&PathBuf, &String)| {
        // Directories that were worked in have times of their own until the end.
        !line.starts_with('4') && found.get(*path) != Some(line) && done.get(*path) != Some(line)
    };
    let (path, line) = now.iter().find(is_wrong)?;
    Some(format!("{} is neither old nor new: {line}", path.display()))
}

/// What was before, what the copy made of it, and what the proof of that says.
struct Truth {
    found: Snapshot,
    done: Snapshot,
    proven: FileOutput,
}

impl Truth {
    /// Returns what is wrong with an end.
    fn complaint(&self, later: Later, outcome: Result<String, Failure>, now: &Snapshot) -> Option<String> {
        let Self { found, done, proven } = self;
        let output = match outcome {
            Err(failure) => {
                let is_told = failure.kind != FailureKind::Bug
                    && failure.hint.as_ref().is_some_and(|hint| !hint.is_empty());
                return match is_told {
                    true => neither_old_nor_new(now, found, done),
                    false => Some(format!("not told well: {failure:?}")),
                };
            }
            Ok(output) => output,
        };
        let wanted = if later == Later::Undo { found } else { done };
        if now != wanted {
            return Some(format!("it said that it was well, and it was not: {now:?}"));
        }
        if later != Later::Verify {
            return None;
        }
        let output: FileOutput = serde_json::from_str(&output).unwrap();
        let is_whole = (output.files_total, output.bytes_total) == (proven.files_total, proven.bytes_total);
        (output.is_verified && !is_whole).then(|| format!("proven, but only in part: {output:?}"))
    }
}

/// What the copy of the fixture makes, undamaged.
async fn truth(hosts: &Arc<Hosts>) -> (Truth, Vec<String>) {
    let found = differing_trees(hosts).state();
    let mut whole = copied(hosts).await;
    let (done, names) = (whole.state(), places(&whole).into_keys().collect::<Vec<_>>());
    assert!(names.len() > 5, "{names:?}");
    let proven = whole.attempt(of_kind(StepKind::FileVerify), Way::Run, KillPoint::default()).await;
    let proven: FileOutput = serde_json::from_str(&proven.outcome.unwrap()).unwrap();
    assert!(proven.is_verified);
    (Truth { found, done, proven }, names)
}

impl Later {
    /// Does it, and returns how that ended.
    async fn follow(self, world: &mut World) -> Result<String, Failure> {
        let (kind, way) = match self {
            Self::RunAgain => (StepKind::FileCopy, Way::Run),
            Self::Verify => (StepKind::FileVerify, Way::Run),
            Self::Undo => (StepKind::FileCopy, Way::Undo),
        };
        world.attempt(of_kind(kind), way, KillPoint::default()).await.outcome
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_in_every_place_ends_right_or_is_told() {
    let hosts = Arc::new(Hosts::open());
    let (truth, names) = truth(&hosts).await;
    let mut complaints = Vec::new();
    for name in &names {
        for damage in DAMAGES {
            for later in [Later::RunAgain, Later::Verify, Later::Undo] {
                let mut world = copied(&hosts).await;
                damage.apply(&places(&world)[name]);
                let outcome = later.follow(&mut world).await;
                let complaint = truth.complaint(later, outcome, &world.state());
                complaints.extend(complaint.map(|text| format!("{name} {damage:?}, then {later:?}: {text}")));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn any_alteration_of_a_record_ends_right_or_is_told() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hosts = {
        let _runtime = runtime.enter();
        Arc::new(Hosts::open())
    };
    let (truth, mut names) = runtime.block_on(truth(&hosts));
    // Frames bear a check. A document does not: another name in it that reads as well is another name.
    names.retain(|name| !name.ends_with(".json") && name != "marker" && name != "passes" && name != "fence");
    assert!(names.contains(&"ledger".to_owned()), "{names:?}");
    let laters = prop_oneof![Just(Later::RunAgain), Just(Later::Verify), Just(Later::Undo)];
    let run = |(place, alterations, later): (prop::sample::Index, Vec<_>, Later)| {
        let name = place.get(&names);
        let complaint = runtime.block_on(async {
            let mut world = copied(&hosts).await;
            let path = &places(&world)[name];
            fs::write(path, altered(&fs::read(path).unwrap(), &alterations)).unwrap();
            let outcome = later.follow(&mut world).await;
            truth.complaint(later, outcome, &world.state())
        });
        prop_assert_eq!(complaint, None, "{}", name);
        Ok(())
    };
    let plans = (any::<prop::sample::Index>(), alterations(), laters);
    TestRunner::new(cases(50)).run(&plans, run).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_undo_needs_and_does_not_find_is_told() {
    let hosts = Arc::new(Hosts::open());
    let found = differing_trees(&hosts).state();
    let kept = |world: &World| {
        let staged = destination::staged_files(&world.destination());
        staged.into_iter().filter(|path| path.to_string_lossy().contains("/undo/")).collect::<Vec<_>>()
    };
    let whole = copied(&hosts).await;
    let done = whole.state();
    let count = kept(&whole).len();
    assert!(count > 1, "nothing is kept for an undo");
    for place in 0..count {
        let mut world = copied(&hosts).await;
        let mut paths = kept(&world);
        paths.sort();
        fs::remove_file(&paths[place]).unwrap();
        let ended = world.attempt(of_kind(StepKind::FileCopy), Way::Undo, KillPoint::default()).await;
        let failure = ended.outcome.expect_err("what was kept is gone, and nobody said so");
        assert_eq!(failure.kind, FailureKind::Stuck, "{failure:?}");
        assert!(failure.hint.is_some(), "{failure:?}");
        assert_eq!(neither_old_nor_new(&world.state(), &found, &done), None);
    }
}
