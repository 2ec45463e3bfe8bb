//! Following the source's links, below its root only.
//!
//! A path is walked component by component through held directories, and each link in it is read and walked in the same
//! way, so the kernel never follows one: what is found is below the root whatever anybody renames meanwhile. A link
//! whose text is absolute is followed if it begins with the root's own path. What leads outside, nowhere, or around in a
//! circle is told and not followed.

use std::collections::VecDeque;
use std::path::Path;

use common::rel_path::RelPath;
use tree::{Dir, Kind, Name, Stat, TreeError};

use crate::scan::look::describe;

/// Links in one path, as for the kernel.
const LINKS_MAX: usize = 40;
/// Directories that may lead into each other by links, in one path; what is deeper is a maze.
const LINKED_DIRECTORIES_MAX: usize = 16;

/// How links of a root are followed.
#[derive(Clone, Debug)]
pub struct Follow {
    /// The root's absolute path, by which links into it may name it.
    root_path: Vec<u8>,
}

/// What a path leads to.
pub(crate) struct Reached {
    /// Its own path, without links.
    pub(crate) path: RelPath,
    /// The directory that holds it.
    pub(crate) parent: Dir,
    pub(crate) name: Name,
    pub(crate) stat: Stat,
}

/// Why a link is not followed.
#[derive(Debug)]
pub(crate) enum Unfollowed {
    /// It leads out of the root, or to the root itself.
    Outside,
    /// It leads nowhere.
    Dangling,
    /// It leads to itself, or to a directory that it is in.
    Circle,
    /// Something on the way cannot be read.
    Unreadable(TreeError),
}

impl From<TreeError> for Unfollowed {
    fn from(error: TreeError) -> Self {
        if error.is_not_found() || error.is_wrong_kind() { Self::Dangling } else { Self::Unreadable(error) }
    }
}

impl Unfollowed {
    /// Says why, for people.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Outside => "it is a link that leads out of the root, and is not followed".to_owned(),
            Self::Dangling => "it is a link that leads nowhere".to_owned(),
            Self::Circle => "it is a link that leads back to where it is, and is not followed".to_owned(),
            Self::Unreadable(error) => format!("it is a link that cannot be followed: {}", describe(error)),
        }
    }
}

impl Follow {
    /// Follows links below the root at this path.
    pub fn new(root_path: &str) -> Self {
        let bytes = Path::new(root_path).components().as_path().as_os_str().as_encoded_bytes();
        Self { root_path: bytes.to_vec() }
    }

    /// Walks to what a path below the root leads to.
    pub(crate) fn reach(&self, root: &Dir, path: &RelPath) -> Result<Reached, Unfollowed> {
        let mut ahead: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        // Where it is, without links: the directories on the way, each by its name in the one before.
        let mut way: Vec<(Name, Dir)> = Vec::new();
        let mut links = 0;
        while let Some(component) = ahead.pop_front() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    way.pop().ok_or(Unfollowed::Outside)?;
                    continue;
                }
                _ => {}
            }
            let name = Name::new(component).map_err(|_error| Unfollowed::Dangling)?;
            let here = way.last().map_or_else(|| root.clone(), |(_name, dir)| dir.clone());
            let stat = here.stat(&name)?;
            match stat.kind {
                Kind::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Unfollowed::Circle);
                    }
                    let text = here.read_link(&name)?;
                    let text = match text.first() {
                        Some(b'/') => {
                            way.clear();
                            self.below(&text).ok_or(Unfollowed::Outside)?
                        }
                        _ => text.as_slice(),
                    };
                    let components = text.split(|byte| *byte == b'/').map(<[u8]>::to_vec);
                    components.rev().for_each(|component| ahead.push_front(component));
                }
                // What is below it, or where it leads up to, is asked of it; only the last one may be anything else.
                Kind::Directory if !ahead.is_empty() => {
                    let dir = here.open_dir(&name)?;
                    way.push((name, dir));
                }
                _ if ahead.iter().any(|component| !component.is_empty()) => return Err(Unfollowed::Dangling),
                _ => return reached(&way, here, name, stat),
            }
        }
        // It ended by going up, at a directory on the way.
        let (name, _dir) = way.pop().ok_or(Unfollowed::Outside)?;
        let parent = way.last().map_or_else(|| root.clone(), |(_name, dir)| dir.clone());
        let stat = parent.stat(&name)?;
        reached(&way, parent, name, stat)
    }

    /// Checks that a directory that a path leads to is none that the path comes through, so that a walk ends.
    pub(crate) fn check_circle(
        &self,
        root: &Dir,
        path: &RelPath,
        target: &RelPath,
    ) -> Result<(), Unfollowed> {
        let mut above = path.clone();
        let mut linked = 0;
        while let Some((parent, _name)) = above.split() {
            if parent.is_root() {
                break;
            }
            let reached = self.reach(root, &parent)?;
            linked += usize::from(reached.path != parent);
            if reached.path == *target || linked > LINKED_DIRECTORIES_MAX {
                return Err(Unfollowed::Circle);
            }
            above = parent;
        }
        Ok(())
    }

    /// Returns what of an absolute text is below the root.
    fn below<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let rest = text.strip_prefix(self.root_path.as_slice())?;
        (rest.is_empty() || rest.starts_with(b"/") || self.root_path == b"/").then_some(rest)
    }
}

fn reached(way: &[(Name, Dir)], parent: Dir, name: Name, stat: Stat) -> Result<Reached, Unfollowed> {
    let mut path = RelPath::root();
    for name in way.iter().map(|(name, _dir)| name).chain([&name]) {
        path = path.join(name.as_bytes()).map_err(|_error| Unfollowed::Dangling)?;
    }
    Ok(Reached { path, parent, name, stat })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tree::Root;

    use super::*;

    #[test]
    fn links_are_followed_below_the_root_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("d/e")).unwrap();
        std::fs::write(root.join("d/e/file"), "x").unwrap();
        std::fs::write(folder.path().join("secret"), "x").unwrap();
        let links = [
            ("d/plain", "e/file".to_owned()),
            ("up", "d/e/../../d/e/file".to_owned()),
            ("chain", "d/plain".to_owned()),
            ("dir", "d/e/".to_owned()),
            ("absolute", root.join("d/e").display().to_string()),
            ("out", "../secret".to_owned()),
            ("out2", "d/../../secret".to_owned()),
            ("out3", folder.path().join("secret").display().to_string()),
            ("out4", format!("{}x/secret", root.display())),
            ("itself", "itself".to_owned()),
            ("nowhere", "d/none".to_owned()),
            ("through", "d/e/file/more".to_owned()),
            ("root", ".".to_owned()),
            ("d/e/back", "..".to_owned()),
        ];
        for (name, text) in &links {
            symlink(text, root.join(name)).unwrap();
        }
        let dir = Root::open(&root).unwrap().dir();
        let follow = Follow::new(&format!("{}/", root.display()));
        let path = |text: &str| RelPath::try_from(text.as_bytes().to_vec()).unwrap();
        let reach = |text: &str| follow.reach(&dir, &path(text)).map(|reached| reached.path.to_string());
        for (from, to) in [
            ("d/plain", "d/e/file"),
            ("up", "d/e/file"),
            ("chain", "d/e/file"),
            ("dir", "d/e"),
            ("dir/file", "d/e/file"),
            ("absolute", "d/e"),
            ("absolute/file", "d/e/file"),
            ("d/e/back", "d"),
            ("d/e/back/plain", "d/e/file"),
        ] {
            assert_eq!(reach(from).unwrap(), to, "{from}");
        }
        for out in ["out", "out2", "out3", "out4", "root"] {
            assert!(matches!(reach(out), Err(Unfollowed::Outside)), "{out}");
        }
        assert!(matches!(reach("itself"), Err(Unfollowed::Circle)));
        for none in ["nowhere", "through"] {
            assert!(matches!(reach(none), Err(Unfollowed::Dangling)), "{none}");
        }
        assert!(follow.check_circle(&dir, &path("d/e/back"), &path("d")).is_err());
        assert!(follow.check_circle(&dir, &path("dir"), &path("d/e")).is_ok());
    }
}
