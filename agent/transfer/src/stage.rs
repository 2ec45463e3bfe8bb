//! The stage: a directory of ours inside of the destination's root, in which everything is made before it gets its
//! name, and in which what stood there before is kept.
//!
//! It is called `.drover-<migration>-<random>`, belongs to the agent's user, has mode 0700 and a marker file. It is
//! used again only if all of this agrees, and its device and inode with what the agent remembers: the owner of the
//! root's files can rename it away and plant another.

use std::path::Path;
use std::sync::Arc;

use common::failure::{Failure, FailureKind};
use common::id::MigrationId;
use common::rel_path::escape;
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use sync::stamp::Time;
use tree::{CreatedDir, Dir, Kind, Name, Root, TreeError};

use crate::begun::{self, Begun};
use crate::domain::Domain;
use crate::domains::Domains;
use crate::fence;
use crate::kill_point::KillPoint;
use crate::memory::{Memory, StageRecord};
use crate::standing::{look_at_self, metadata};
use crate::trouble::of_stage;

/// What every stage's name begins with.
pub(crate) const PREFIX: &str = ".drover-";
/// The marker's name.
pub(crate) const MARKER: &str = "marker";
const VERSION: u32 = 1;
/// A marker holds the root's attributes as they were, of at most 1 MiB, as JSON.
const MARKER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A stage's mode: nobody but the agent enters it.
pub(crate) const MODE: u32 = 0o700;

/// What the marker says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marker {
    version: u32,
    /// Whose stage this is.
    pub(crate) migration: MigrationId,
    /// Directories that were made for the root to exist, outermost first.
    pub(crate) created: Vec<Created>,
    /// The directory that holds the stage, as it was before.
    pub(crate) root: Entry,
    /// The name of the root's stage, in the stage of another rename domain below the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain_of: Option<String>,
}

/// A directory that was made for the root to exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Created {
    path: std::path::PathBuf,
    dev: u64,
    ino: u64,
}

/// The open stage of a migration, in its root. Those of other rename domains below the root are in `domains`.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// The root's directory.
    pub(crate) root: Dir,
    /// The stage itself; opened before anything was written, so that it reports write errors.
    pub(crate) dir: Dir,
    /// What is staged and kept of the root's own rename domain.
    pub(crate) home: Arc<Domain>,
    /// The rename domains below the root, each with a stage of its own.
    pub(crate) domains: Domains,
    /// Sorted runs and lists of the present pass.
    pub(crate) spill: Dir,
    /// What the marker says.
    pub(crate) marker: Marker,
    name: Name,
}

impl Stage {
    /// Finds the stage of a migration, by what the agent remembers or by its name.
    ///
    /// # Errors
    /// `Conflict` when the remembered stage is not there any more.
    pub(crate) fn find(
        root: &Root,
        migration: &MigrationId,
        memory: &Memory,
    ) -> Result<Option<Self>, Failure> {
        let remembered = memory.stage()?;
        let dir = root.dir();
        let prefix = format!("{PREFIX}{migration}-");
        for entry in dir.list().map_err(|error| of_stage(&error))? {
            let entry = entry.map_err(|error| of_stage(&error))?;
            if !entry.name.as_bytes().starts_with(prefix.as_bytes()) {
                continue;
            }
            let Some((stage, marker)) = open_valid(&dir, &entry.name)? else { continue };
            let stat = stage.stat_self().map_err(|error| of_stage(&error))?;
            // A reboot may give the same device another number; the inode keeps its own.
            let is_known = remembered.as_ref().is_none_or(|record| stat.ino == record.ino);
            if marker.migration != *migration || marker.domain_of.is_some() || !is_known {
                continue;
            }
            if remembered.is_none() {
                memory.remember(&StageRecord::new(entry.name.to_string(), stat.dev, stat.ino))?;
            }
            return Self::open(dir, entry.name, stage, marker).map(Some);
        }
        match remembered {
            None => Ok(None),
            Some(record) => Err(Failure::new(
                FailureKind::Conflict,
                format!("the stage `{}` of this migration is no longer in the destination's root", record.name),
            )
            .hint("Somebody moved or removed it, and with it the way back. Move it back, or settle the migration.")),
        }
    }

    /// Makes the root, if it is missing, and the stage of a migration in it. An existing root's times stay.
    pub(crate) fn make(
        path: &Path,
        migration: &MigrationId,
        memory: &Memory,
        kill: &KillPoint,
    ) -> Result<Self, Failure> {
        let name = random_name(migration)?;
        let missing = Root::missing(path).map_err(|error| of_stage(&error))?;
        let before = match Root::open(path) {
            Ok(root) => Some(look_at_self(&root.dir()).map_err(|error| of_stage(&error))?),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(of_stage(&error)),
        };
        memory.begin(&Begun::making(&name, before, missing))?;
        kill.pass()?;
        let made = Self::make_begun(path, migration, &name, memory, kill);
        if made.is_err() && kill.pass().is_ok() {
            // Nothing was done under it. What cannot be removed is told by the first failure, and tried again.
            begun::end(path, memory).ok();
        }
        made
    }

    fn make_begun(
        path: &Path,
        migration: &MigrationId,
        name: &Name,
        memory: &Memory,
        kill: &KillPoint,
    ) -> Result<Self, Failure> {
        let (root, created) = Root::create(path).map_err(|error| of_stage(&error))?;
        kill.pass()?;
        let dir = root.dir();
        let before = look_at_self(&dir).map_err(|error| of_stage(&error))?;
        let created = created.into_iter().map(Created::from).collect();
        let marker =
            Marker { version: VERSION, migration: migration.clone(), created, root: before, domain_of: None };
        let stage = dir.create_dir(name, MODE).map_err(|error| of_stage(&error))?;
        kill.pass()?;
        fill(&stage, &marker)?;
        kill.pass()?;
        let stat = stage.stat_self().map_err(|error| of_stage(&error))?;
        memory.remember(&StageRecord::new(name.to_string(), stat.dev, stat.ino))?;
        kill.pass()?;
        restore_times(&dir, &marker.root)?;
        dir.sync_dir().map_err(|error| of_stage(&error))?;
        kill.pass()?;
        memory.ended()?;
        Self::open(dir, name.clone(), stage, marker)
    }

    fn open(root: Dir, name: Name, dir: Dir, marker: Marker) -> Result<Self, Failure> {
        let spill_name = Name::new("spill").expect("a constant without slash");
        let spill = match dir.open_dir(&spill_name) {
            Err(error) if error.is_not_found() => dir.create_dir(&spill_name, MODE),
            opened => opened,
        };
        let spill = spill.map_err(|error| of_stage(&error))?;
        let domains = Domains::open(root.clone(), dir.clone(), name.clone(), marker.migration.clone())?;
        let home = Arc::clone(domains.home());
        Ok(Self { root, dir, home, domains, spill, marker, name })
    }

    /// Empties what only an attempt needs: spill files of one that was killed.
    pub(crate) fn clear_spill(&self) -> Result<(), Failure> {
        clear(&self.spill)
    }

    /// Removes the stage with all that is kept in it, and those of other rename domains. The times of the directories
    /// that hold them stay.
    pub(crate) fn remove(self, memory: &Memory, kill: &KillPoint) -> Result<(), Failure> {
        let root = look_at_self(&self.root).map_err(|error| of_stage(&error))?;
        self.remove_as(root, Vec::new(), memory, kill)
    }

    /// Removes the stage, the directories that were made for the root to exist, and every trace in the root's times.
    pub(crate) fn remove_without_trace(self, memory: &Memory, kill: &KillPoint) -> Result<(), Failure> {
        let (root, created) = (self.marker.root.clone(), self.marker.created.clone());
        self.remove_as(root, created, memory, kill)
    }

    fn remove_as(
        self,
        before: Entry,
        created: Vec<Created>,
        memory: &Memory,
        kill: &KillPoint,
    ) -> Result<(), Failure> {
        self.domains.remove(false, kill)?;
        let Self { root, name, dir, .. } = self;
        empty(&dir).map_err(|error| of_stage(&error))?;
        kill.pass()?;
        memory.begin(&Begun::removing(&name, before.clone(), created.clone()))?;
        kill.pass()?;
        dir.unlink(&marker_name()).map_err(|error| of_stage(&error))?;
        kill.pass()?;
        root.remove_dir(&name).map_err(|error| of_stage(&error))?;
        kill.pass()?;
        restore_times(&root, &before)?;
        root.sync_dir().map_err(|error| of_stage(&error))?;
        kill.pass()?;
        memory.forget()?;
        drop((root, dir));
        let created: Vec<CreatedDir> = created.iter().map(CreatedDir::from).collect();
        Root::remove_created(&created).map_err(|error| of_stage(&error))?;
        kill.pass()?;
        memory.ended()
    }
}

/// Empties a stage but for its marker, which goes last, so that a half removed stage is still known. The fence goes
/// before it: as long as anything is left that it protects, it keeps older attempts out.
pub(crate) fn empty(stage: &Dir) -> Result<(), TreeError> {
    for is_fence in [false, true] {
        for entry in stage.list()? {
            let name = entry?.name;
            let is_part = |part: &&str| part.as_bytes() == name.as_bytes();
            if !is_part(&MARKER) && fence::PARTS.iter().any(is_part) == is_fence {
                stage.remove_tree(&name)?;
            }
        }
    }
    Ok(())
}

impl Marker {
    /// Makes the marker of the stage of a rename domain below the root.
    pub(crate) fn of_domain(migration: &MigrationId, top: Entry, root_stage: &Name) -> Self {
        let domain_of = Some(escape(root_stage.as_bytes()));
        Self { version: VERSION, migration: migration.clone(), created: Vec::new(), root: top, domain_of }
    }

    /// Whether this is the marker of a rename domain of the root with this stage.
    pub(crate) fn is_of(&self, root_stage: &Name) -> bool {
        self.domain_of.as_ref().is_some_and(|name| *name == escape(root_stage.as_bytes()))
    }
}

impl From<CreatedDir> for Created {
    fn from(made: CreatedDir) -> Self {
        Self { path: made.path, dev: made.dev, ino: made.ino }
    }
}

impl From<&Created> for CreatedDir {
    fn from(made: &Created) -> Self {
        Self { path: made.path.clone(), dev: made.dev, ino: made.ino }
    }
}

/// Whether a name in the root is that of a stage with its marker.
pub(crate) fn is_whole(root: &Dir, name: &Name) -> Result<bool, Failure> {
    Ok(open_valid(root, name)?.is_some())
}

/// Opens a directory that has the name of a stage; nothing unless owner, mode and marker are those of one.
pub(crate) fn open_valid(root: &Dir, name: &Name) -> Result<Option<(Dir, Marker)>, Failure> {
    let Ok(dir) = root.open_dir(name) else { return Ok(None) };
    let stat = dir.stat_self().map_err(|error| of_stage(&error))?;
    let me = rustix::process::geteuid().as_raw();
    if stat.kind != Kind::Directory || stat.uid != me || stat.mode != MODE {
        return Ok(None);
    }
    let Ok(content) = dir.read_small(&marker_name(), MARKER_BYTES_MAX) else { return Ok(None) };
    common::version::check_json(&format!("the stage `{name}`"), &content, VERSION)?;
    let Ok(marker) = serde_json::from_slice::<Marker>(&content) else { return Ok(None) };
    Ok((marker.version == VERSION).then_some((dir, marker)))
}

/// Gives a stage its mode and its marker.
pub(crate) fn fill(stage: &Dir, marker: &Marker) -> Result<(), Failure> {
    // A default ACL of the root would be inherited by everything that is staged.
    stage.remove_default_acl().map_err(|error| of_stage(&error))?;
    let present = look_at_self(stage).map_err(|error| of_stage(&error))?;
    if present.mode != MODE {
        let mut wanted = present;
        wanted.mode = MODE;
        wanted.xattrs.retain(|(name, _value)| name.0 != b"system.posix_acl_access");
        set(stage, &wanted)?;
    }
    let content = serde_json::to_vec(marker)
        .map_err(|error| Failure::new(FailureKind::Bug, format!("failed to write a marker: {error}")))?;
    stage.write_atomic(&marker_name(), &content, 0o600).map_err(|error| of_stage(&error))
}

/// Sets a directory's times back to what they were before something of ours was made or removed in it.
pub(crate) fn restore_times(dir: &Dir, before: &Entry) -> Result<(), Failure> {
    restore_mtime(dir, before.mtime).map_err(|error| of_stage(&error))
}

/// The same, where only the time is known.
pub(crate) fn restore_mtime(dir: &Dir, mtime: Time) -> Result<(), TreeError> {
    let mut wanted = look_at_self(dir)?;
    wanted.mtime = mtime;
    // Attributes that cannot be set in any place are not what is changed here.
    let Ok(wanted) = metadata(&wanted) else { return Ok(()) };
    dir.apply_self(&wanted).map(drop)
}

fn set(dir: &Dir, wanted: &Entry) -> Result<(), Failure> {
    let wanted = metadata(wanted).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    // An attribute that this agent may not set, on a directory of somebody else, is no reason to stop.
    let applied = dir.apply_self(&wanted).map_err(|error| of_stage(&error))?;
    drop(applied);
    Ok(())
}

/// Removes everything in a directory of ours.
pub(crate) fn clear(dir: &Dir) -> Result<(), Failure> {
    for entry in dir.list().map_err(|error| of_stage(&error))? {
        let entry = entry.map_err(|error| of_stage(&error))?;
        dir.remove_tree(&entry.name).map_err(|error| of_stage(&error))?;
    }
    Ok(())
}

/// Draws the name of a stage.
pub(crate) fn random_name(migration: &MigrationId) -> Result<Name, Failure> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(FailureKind::Bug, format!("the kernel gives no random bytes: {error}"))
    })?;
    let random: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Name::new(format!("{PREFIX}{migration}-{random}")).map_err(|error| Failure::of(FailureKind::Bug, &error))
}

/// Returns the marker's name.
pub(crate) fn marker_name() -> Name {
    Name::new(MARKER).expect("a constant without slash")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{IFlags, ioctl_setflags};

    use super::*;

    #[test]
    fn the_fence_stands_as_long_as_anything_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Root::open(folder.path()).unwrap().dir();
        // Something that cannot be removed, which a removal in the order of the directory comes to last: made first on
        // some file systems, and on others anywhere.
        let stuck = (0..).find_map(|number| {
            let stuck = folder.path().join(format!("stuck-{number}"));
            std::fs::create_dir(&stuck).unwrap();
            for part in fence::PARTS {
                std::fs::write(folder.path().join(part), "").unwrap();
            }
            let names = stage.list().unwrap().map(|entry| entry.unwrap().name.to_string());
            if names.last().is_some_and(|last| stuck.ends_with(last)) {
                return Some(stuck);
            }
            empty(&stage).unwrap();
            None
        });
        let file = File::create(stuck.unwrap().join("file")).unwrap();
        if let Err(errno) = ioctl_setflags(&file, IFlags::IMMUTABLE) {
            eprintln!("skipped: a file cannot be made immutable: {errno}");
            return;
        }
        let emptied = empty(&stage);
        let left = fence::PARTS.map(|part| folder.path().join(part).exists());
        ioctl_setflags(&file, IFlags::empty()).unwrap();
        assert!(emptied.is_err());
        assert_eq!(left, [true, true]);
        empty(&stage).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
