//! A stage that is being made or removed: what to do when that was cut short.
//!
//! Making a stage and removing it takes several steps, and between them the root has another modification time than it
//! had, or holds a directory that no marker explains. So what is about to be done is recorded in the agent's state
//! directory first, and the next attempt, undo or settling ends it before it does anything else.
//!
//! Only what the record names is touched: a directory of that name that this agent's user owns and that is empty but for
//! a marker, directories that were missing when the record was written and are empty now, and a modification time that
//! was set while we worked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use tree::{CreatedDir, Dir, Name, Root};

use crate::fence;
use crate::memory::Memory;
use crate::stage::{Created, MARKER, is_whole, restore_times};
use crate::trouble::of_stage;

/// The kernel stamps with a clock that ticks some milliseconds behind.
const STAMP_BEFORE: Duration = Duration::from_secs(2);
/// Longer than making a stage or removing an empty one takes on any disk that works.
const STAMP_AFTER: Duration = Duration::from_secs(60);

/// What is begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Begun {
    version: u32,
    /// The stage's name in the root.
    name: String,
    /// When.
    at: WallMs,
    /// The root as it is to be when the stage is not there; nothing when it did not exist.
    root: Option<Entry>,
    /// What of the root's path did not exist, outermost first.
    missing: Vec<PathBuf>,
    /// The directories that go with the stage, when it is removed.
    removed: Vec<Created>,
}

const VERSION: u32 = 1;
/// A marker that is being written.
pub(crate) const MARKER_NEW: &str = "marker.new";

impl Begun {
    /// A stage is about to be made.
    pub(crate) fn making(name: &Name, root: Option<Entry>, missing: Vec<PathBuf>) -> Self {
        let name = name.to_string();
        Self { version: VERSION, name, at: clock::wall(), root, missing, removed: Vec::new() }
    }

    /// A stage, empty but for its marker, is about to be removed, and with it the directories that were made for it.
    pub(crate) fn removing(name: &Name, root: Entry, removed: Vec<Created>) -> Self {
        let name = name.to_string();
        Self { version: VERSION, name, at: clock::wall(), root: Some(root), missing: Vec::new(), removed }
    }
}

/// Ends what an earlier attempt began with a stage and could not end, if there is such a thing.
///
/// Afterwards there is a whole stage, or none and no trace of it.
///
/// # Errors
/// When something cannot be removed; then it is tried again the next time.
pub(crate) fn end(path: &Path, memory: &Memory) -> Result<(), Failure> {
    let Some(begun) = memory.begun()? else { return Ok(()) };
    let mut created: Vec<CreatedDir> = begun.removed.iter().map(CreatedDir::from).collect();
    created.extend(Root::found_of(&begun.missing).map_err(|error| of_stage(&error))?);
    let root = match Root::open(path) {
        Ok(root) => Some(root.dir()),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(of_stage(&error)),
    };
    if let Some(root) = root {
        let name =
            Name::new(begun.name.as_bytes()).map_err(|error| Failure::of(FailureKind::Conflict, &error))?;
        if is_whole(&root, &name)? {
            restore(&root, &begun)?;
            return memory.ended();
        }
        remove_own(&root, &name)?;
        restore(&root, &begun)?;
        root.sync_dir().map_err(|error| of_stage(&error))?;
        memory.forget()?;
    }
    Root::remove_created(&created).map_err(|error| of_stage(&error))?;
    memory.ended()
}

/// Removes what a stage without its marker can be: a directory of ours that holds a half-written marker at most, or the
/// lock of somebody who came too late. The owner of the root's files may have put something else at that name, which stays.
fn remove_own(root: &Dir, name: &Name) -> Result<(), Failure> {
    let Ok(stage) = root.open_dir(name) else { return Ok(()) };
    let stat = stage.stat_self().map_err(|error| of_stage(&error))?;
    if stat.uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    for part in [MARKER, MARKER_NEW].into_iter().chain(fence::PARTS) {
        match stage.unlink(&Name::new(part).expect("a constant without slash")) {
            Err(error) if !error.is_not_found() => return Err(of_stage(&error)),
            _ => {}
        }
    }
    drop(stage);
    match root.remove_dir(name) {
        Err(error) if !error.is_not_found() && !error.is_not_empty() => Err(of_stage(&error)),
        _ => Ok(()),
    }
}

/// Gives the root its time back, unless somebody else has changed the root since.
fn restore(root: &Dir, begun: &Begun) -> Result<(), Failure> {
    let Some(before) = &begun.root else { return Ok(()) };
    let now = root.stat_self().map_err(|error| of_stage(&error))?.mtime;
    let seconds = u64::try_from(now.seconds).unwrap_or(0);
    let earliest = begun.at.before(STAMP_BEFORE).0 / 1000;
    let latest = begun.at.after(STAMP_AFTER).0 / 1000;
    if (earliest..=latest).contains(&seconds) {
        restore_times(root, before)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use common::id::MigrationId;

    use super::*;
    use crate::kill_point::KillPoint;
    use crate::pair::assert_same;
    use crate::snapshot::snapshot;
    use crate::stage::Stage;

    /// A folder that holds what the roots of the tests are in, with a time nobody could set by accident.
    struct World {
        folder: tempfile::TempDir,
        migration: MigrationId,
        memory: Memory,
    }

    impl World {
        fn new(has_root: bool) -> (Self, PathBuf) {
            let folder = tempfile::tempdir().unwrap();
            let migration: MigrationId = "m1".parse().unwrap();
            let memory = Memory::open(&folder.path().join("state"), &migration).unwrap();
            let outer = folder.path().join("outer");
            fs::create_dir(&outer).unwrap();
            let root = if has_root { outer.clone() } else { outer.join("a/b") };
            if has_root {
                fs::write(outer.join("file"), b"stays").unwrap();
                let long_ago = std::time::UNIX_EPOCH + Duration::new(900_000_000, 123_456_789);
                fs::File::open(&outer).unwrap().set_modified(long_ago).unwrap();
            }
            (Self { folder, migration, memory }, root)
        }

        fn outer(&self) -> PathBuf {
            self.folder.path().join("outer")
        }

        fn find(&self, root: &Path) -> Option<Stage> {
            Stage::find(&Root::open(root).unwrap(), &self.migration, &self.memory).unwrap()
        }
    }

    /// Compares what is there, all but times when the root itself was made and unmade again.
    fn assert_as_before(world: &World, has_root: bool, when: &str) {
        let left: Vec<_> =
            fs::read_dir(world.outer()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        if has_root {
            assert_eq!(left, ["file"], "{when}");
            let modified = fs::metadata(world.outer()).unwrap().modified().unwrap();
            let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
            assert_eq!(since, Duration::new(900_000_000, 123_456_789), "{when}");
        } else {
            assert!(left.is_empty(), "{when}: {left:?}");
        }
    }

    #[test]
    fn making_that_was_cut_short_is_ended_without_a_trace() {
        for has_root in [true, false] {
            for number in 0.. {
                let (world, root) = World::new(has_root);
                let kill = KillPoint::at(number);
                let made = Stage::make(&root, &world.migration, &world.memory, &kill);
                if !kill.was_hit() {
                    assert!(number > 5 && made.is_ok());
                    break;
                }
                end(&root, &world.memory).unwrap();
                assert!(world.memory.begun().unwrap().is_none());
                // What is whole is found, whatever was still to be done about it.
                if let Some(stage) = root.exists().then(|| world.find(&root)).flatten() {
                    stage.remove_without_trace(&world.memory, &KillPoint::default()).unwrap();
                }
                assert_as_before(&world, has_root, &format!("killed at {number}"));
                end(&root, &world.memory).unwrap();
            }
        }
    }

    #[test]
    fn removing_that_was_cut_short_is_ended_without_a_trace() {
        for has_root in [true, false] {
            for number in 0.. {
                let (world, root) = World::new(has_root);
                let none = KillPoint::default();
                let stage = Stage::make(&root, &world.migration, &world.memory, &none).unwrap();
                let kill = KillPoint::at(number);
                stage.remove_without_trace(&world.memory, &kill).ok();
                if !kill.was_hit() {
                    assert!(number > 5);
                    assert_as_before(&world, has_root, "removed");
                    break;
                }
                end(&root, &world.memory).unwrap();
                if let Some(stage) = root.exists().then(|| world.find(&root)).flatten() {
                    stage.remove_without_trace(&world.memory, &none).unwrap();
                }
                assert_as_before(&world, has_root, &format!("killed at {number}"));
                assert!(world.memory.begun().unwrap().is_none() && world.memory.stage().unwrap().is_none());
            }
        }
    }

    #[test]
    fn what_somebody_put_at_the_name_stays() {
        let (world, root) = World::new(true);
        let name = Name::new(".drover-m1-000000000000").unwrap();
        let before = crate::standing::look_at_self(&Root::open(&root).unwrap().dir()).unwrap();
        world.memory.begin(&Begun::making(&name, Some(before), Vec::new())).unwrap();
        fs::create_dir(root.join(".drover-m1-000000000000")).unwrap();
        fs::write(root.join(".drover-m1-000000000000/precious"), b"theirs").unwrap();
        let original = snapshot(&root.join(".drover-m1-000000000000"));
        end(&root, &world.memory).unwrap();
        assert_same(&snapshot(&root.join(".drover-m1-000000000000")), &original, "theirs");
    }
}
