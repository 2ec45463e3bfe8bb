//! Where a root is, in terms that two agents can compare.
//!
//! Two names may lead to one folder: through links, through bind mounts, through two containers on one
//! machine. A place therefore says three things: the inode of the root and of each directory above it,
//! the position of the root within its file system, and the file systems mounted below it.
//! Inodes find nesting under links; positions find it under bind mounts, where the directories above
//! differ; the mounts below find a root that shows up inside of another.

use crate::mount::{Mount, below};

/// One directory of one running machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The kernel's boot id: the same in all containers of a machine, another after a reboot.
    pub boot_id: String,
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
}

/// A directory by its file system and its path within that file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The file system, as `major:minor`.
    pub device: String,
    /// The path from the file system's own root.
    pub path: Vec<u8>,
}

/// Where a root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The root itself.
    pub identity: Identity,
    /// Every directory above it, the nearest first, up to `/`.
    pub ancestors: Vec<Identity>,
    /// Its position within its file system, where `/proc` tells.
    pub position: Option<Position>,
    /// What is mounted below it, as far as this machine tells.
    pub mounts: Vec<Position>,
}

/// How two roots lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// They are one folder.
    Same,
    /// The first is inside of the second.
    Inside,
    /// The second is inside of the first.
    Contains,
    /// Some folder is in both, through a mount.
    Overlaps,
    /// They have nothing in common, or are on different machines.
    Apart,
}

impl Place {
    /// Says how this root lies to another.
    #[must_use]
    pub fn relation(&self, other: &Self) -> Relation {
        if self.identity.boot_id != other.identity.boot_id {
            return Relation::Apart;
        }
        if self.identity == other.identity || (self.position.is_some() && self.position == other.position) {
            return Relation::Same;
        }
        if self.is_inside(other) {
            return Relation::Inside;
        }
        if other.is_inside(self) {
            return Relation::Contains;
        }
        let is_shared = |mine: &Position| other.positions().any(|theirs| mine.is_nested(theirs));
        if self.positions().any(is_shared) { Relation::Overlaps } else { Relation::Apart }
    }

    fn is_inside(&self, other: &Self) -> bool {
        self.ancestors.contains(&other.identity)
            || self
                .position
                .as_ref()
                .is_some_and(|mine| other.positions().any(|theirs| mine.is_below(theirs)))
    }

    fn positions(&self) -> impl Iterator<Item = &Position> {
        self.position.iter().chain(&self.mounts)
    }
}

impl Position {
    fn is_below(&self, other: &Self) -> bool {
        self.device == other.device && below(&self.path, &other.path).is_some()
    }

    fn is_nested(&self, other: &Self) -> bool {
        self.is_below(other) || other.is_below(self)
    }

    /// Returns the position of the directory that is seen at `path` through `mount`.
    pub(crate) fn through(mount: &Mount, path: &[u8]) -> Option<Self> {
        let rest = below(path, &mount.point)?;
        let mut position = mount.root.clone();
        if !rest.is_empty() {
            if position.last() != Some(&b'/') {
                position.push(b'/');
            }
            position.extend_from_slice(rest);
        }
        Some(Self { device: mount.device.clone(), path: position })
    }

    /// Returns where a mount begins.
    pub(crate) fn of(mount: &Mount) -> Self {
        Self { device: mount.device.clone(), path: mount.root.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Place, Position, Relation};

    fn identity(ino: u64) -> Identity {
        Identity { boot_id: "boot".into(), dev: 1, ino }
    }

    fn position(path: &str) -> Position {
        Position { device: "8:1".into(), path: path.into() }
    }

    fn place(ino: u64, ancestors: &[u64], path: &str, mounts: &[&str]) -> Place {
        Place {
            identity: identity(ino),
            ancestors: ancestors.iter().copied().map(identity).collect(),
            position: Some(position(path)),
            mounts: mounts.iter().copied().map(position).collect(),
        }
    }

    fn check(first: &Place, second: &Place, expected: Relation) {
        let mirrored = match expected {
            Relation::Inside => Relation::Contains,
            Relation::Contains => Relation::Inside,
            same => same,
        };
        assert_eq!(first.relation(second), expected);
        assert_eq!(second.relation(first), mirrored);
    }

    #[test]
    fn notices_nesting_under_any_name() {
        let data = place(10, &[2], "/data", &[]);
        check(&data, &data, Relation::Same);
        check(&place(11, &[10, 2], "/data/x", &[]), &data, Relation::Inside);
        check(&place(12, &[2], "/database", &[]), &data, Relation::Apart);
        // A bind mount of /data/x on /mnt has other ancestors.
        check(&place(11, &[5, 2], "/data/x", &[]), &data, Relation::Inside);
        // /other is mounted somewhere below /data.
        let with_mount = place(10, &[2], "/data", &["/other"]);
        check(&place(13, &[2], "/other/y", &[]), &with_mount, Relation::Inside);
        // Only a part of /other is.
        let with_part = place(10, &[2], "/data", &["/other/part"]);
        check(&place(14, &[2], "/other", &[]), &with_part, Relation::Overlaps);
        let elsewhere = Place { identity: Identity { boot_id: "b".into(), dev: 1, ino: 10 }, ..data.clone() };
        check(&data, &elsewhere, Relation::Apart);
    }
}
