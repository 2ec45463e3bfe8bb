//! A tree as a sequence of listings.
//!
//! Directories come depth first, a directory before what it holds, siblings by the bytes of their names: the order of
//! [`RelPath`]. The entries of one directory come sorted by name, sub-directories among them as entries; a directory
//! with many entries comes in several parts. Every directory that a listing names gets its own listing later, and
//! nothing else does: [`ListingOrder`] checks this for what a peer sends, in eight bytes per waiting directory.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use common::rel_path::RelPath;
use serde::{Deserialize, Deserializer, Serialize};

use crate::bounded;
use crate::byte_string::ByteString;
use crate::entry::Entry;
use crate::only::Only;

/// Entries in one part of a listing; about 100 KiB of usual entries.
pub const PART_ENTRIES_MAX: usize = 1024;
/// Encoded bytes after which a part is closed; one entry may go over it.
pub const PART_BYTES_MAX: usize = 512 * 1024;
/// Stages in one part of a listing: one is there for each migration whose way back is open.
const STAGES_MAX: usize = 4096;
/// Directories that may be announced and not yet listed: 32 MiB of memory.
const WAITING_MAX: usize = 4 * 1024 * 1024;
/// Levels of directories; a path of 4096 bytes has at most 2048, deeper trees are made by hand only.
const DEPTH_MAX: usize = 65_536;

/// One directory, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The directory.
    pub path: RelPath,
    /// Which part this is, from zero.
    pub part: u32,
    /// Entries by name.
    #[serde(deserialize_with = "entries")]
    pub entries: Vec<Entry>,
    /// Names that are there and could not be looked at, by name.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, PART_ENTRIES_MAX>")]
    pub problems: Vec<Problem>,
    /// Stages of migrations that were passed over: names of directories with a valid marker.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, STAGES_MAX>")]
    pub stages: Vec<ByteString>,
    /// Whether more parts follow, and else how it ended.
    pub end: ListingEnd,
}

/// Reads entries, as many as one part holds.
fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
    bounded::weighed(deserializer, PART_ENTRIES_MAX, PART_BYTES_MAX, Entry::encoded_bytes)
}

/// How a part of a listing ends; new ways are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListingEnd {
    /// Further parts of this directory follow.
    More,
    /// This was all of it.
    Complete,
    /// It could not be read, or not to its end; what is below is unknown.
    Unreadable {
        /// Why, for people.
        why: String,
    },
    /// It is gone or was replaced by something else since its parent was listed.
    Vanished,
    /// It was not read, because there are no files of anybody in it: a file system that the kernel makes up.
    PassedOver {
        /// Why, for people.
        why: String,
    },
}

/// A name that is there but could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The name.
    #[serde(with = "crate::byte_string")]
    pub name: Vec<u8>,
    /// Why, for people.
    pub why: String,
}

impl Problem {
    /// Whether it was left out because it cannot be sanitised.
    pub fn is_unmasked(&self) -> bool {
        self.why.starts_with(crate::sanitize::TOO_LARGE)
    }
}

/// Why a listing cannot stand where it came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// No listing announced this directory, or others come before it.
    #[error("the listing of `{path}` was not announced or is out of order")]
    Unannounced {
        /// The directory.
        path: RelPath,
    },
    /// A part is missing or names are not in order.
    #[error("the listing of `{path}` is not in order")]
    Unordered {
        /// The directory.
        path: RelPath,
    },
    /// An entry is not one that a file system can hold.
    #[error("the listing of `{path}` holds an impossible entry")]
    Malformed {
        /// The directory.
        path: RelPath,
    },
    /// More directories wait for their listing than memory allows.
    #[error("the tree is too wide or too deep at `{path}`")]
    TooMany {
        /// The directory.
        path: RelPath,
    },
    /// The sequence ended before every announced directory was listed.
    #[error("the manifest ended early")]
    Unfinished,
}

/// Checks that listings come complete and in order; holds no names, only hashes of those that are to come.
#[derive(Debug)]
pub struct ListingOrder {
    /// From the root down: each directory's children that are still to come.
    stack: Vec<Waiting>,
    /// The path of the last directory of the stack; those above it are its beginnings.
    path: Vec<u8>,
    /// The directory whose parts are coming, with the last name seen.
    open: Option<Open>,
    waiting: usize,
    is_begun: bool,
    /// What is looked at, where not everything is.
    only: Option<Only>,
}

#[derive(Debug)]
struct Waiting {
    /// How much of the path is this directory's.
    path_bytes: usize,
    children: VecDeque<u64>,
}

#[derive(Debug)]
struct Open {
    path: RelPath,
    next_part: u32,
    last_name: Vec<u8>,
    last_problem: Vec<u8>,
    children: VecDeque<u64>,
}

impl Default for ListingOrder {
    fn default() -> Self {
        Self::new()
    }
}

impl ListingOrder {
    /// Expects the root's listing first.
    pub fn new() -> Self {
        Self { stack: Vec::new(), path: Vec::new(), open: None, waiting: 0, is_begun: false, only: None }
    }

    /// Expects the root's listing first, and in all of them only what is looked at.
    pub fn of_only(only: Only) -> Self {
        Self { only: Some(only), ..Self::new() }
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// When it is not the one that must come, or holds what no file system holds.
    pub fn accept(&mut self, listing: &Listing) -> Result<(), ListingError> {
        let path = || listing.path.clone();
        if self.open.as_ref().is_none_or(|open| open.path != listing.path) {
            if self.open.is_some() || listing.part != 0 || !self.advance_to(&listing.path) {
                return Err(ListingError::Unannounced { path: path() });
            }
            self.open = Some(Open {
                path: path(),
                next_part: 0,
                last_name: Vec::new(),
                last_problem: Vec::new(),
                children: VecDeque::new(),
            });
        }
        let Some(open) = &mut self.open else { return Err(ListingError::Unannounced { path: path() }) };
        if listing.part != open.next_part {
            return Err(ListingError::Unordered { path: path() });
        }
        open.next_part =
            open.next_part.checked_add(1).ok_or_else(|| ListingError::TooMany { path: path() })?;
        self.waiting += open.take(listing, self.only.as_ref())?;
        if self.waiting > WAITING_MAX || self.stack.len() >= DEPTH_MAX {
            return Err(ListingError::TooMany { path: path() });
        }
        if listing.end != ListingEnd::More
            && let Some(open) = self.open.take()
        {
            self.path = open.path.into();
            self.stack.push(Waiting { path_bytes: self.path.len(), children: open.children });
        }
        Ok(())
    }

    /// Ends the sequence.
    ///
    /// # Errors
    /// When something that was announced did not come.
    pub fn finish(self) -> Result<(), ListingError> {
        if self.is_begun && self.open.is_none() && self.waiting == 0 {
            Ok(())
        } else {
            Err(ListingError::Unfinished)
        }
    }

    /// Whether this directory is the one whose listing must come now; if so it is waited for no longer.
    fn advance_to(&mut self, path: &RelPath) -> bool {
        while self.stack.last().is_some_and(|waiting| waiting.children.is_empty()) {
            self.stack.pop();
        }
        let Some((parent, name)) = path.split() else {
            return !std::mem::replace(&mut self.is_begun, true);
        };
        let Some(waiting) = self.stack.last_mut() else { return false };
        if self.path.get(..waiting.path_bytes) != Some(parent.as_bytes())
            || waiting.children.front() != Some(&hash(name))
        {
            return false;
        }
        waiting.children.pop_front();
        self.waiting -= 1;
        true
    }
}

impl Open {
    /// Takes the names of a part and returns how many directories it announces.
    fn take(&mut self, listing: &Listing, only: Option<&Only>) -> Result<usize, ListingError> {
        let unordered = || ListingError::Unordered { path: listing.path.clone() };
        let before = self.children.len();
        for entry in &listing.entries {
            if !entry.is_well_formed() {
                return Err(ListingError::Malformed { path: listing.path.clone() });
            }
            if entry.name <= self.last_name {
                return Err(unordered());
            }
            self.last_name.clone_from(&entry.name);
            if only.is_some_and(|only| !only.holds(&listing.path, &entry.name)) {
                return Err(ListingError::Unannounced { path: listing.path.clone() });
            }
            if entry.kind.is_directory() && is_descended(only, &listing.path, &entry.name) {
                self.children.push_back(hash(&entry.name));
            }
        }
        for problem in &listing.problems {
            if !common::rel_path::is_component(&problem.name) {
                return Err(ListingError::Malformed { path: listing.path.clone() });
            }
            if problem.name <= self.last_problem {
                return Err(unordered());
            }
            self.last_problem.clone_from(&problem.name);
        }
        Ok(self.children.len() - before)
    }
}

/// Whether the walk goes into a directory.
fn is_descended(only: Option<&Only>, parent: &RelPath, name: &[u8]) -> bool {
    only.is_none_or(|only| parent.join(name).is_ok_and(|path| only.descends(&path)))
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
