//! The manifest lane: a tree, in order.
//!
//! Items are framed, gathered into blocks, and each block is compressed alone: `raw length u32 LE │ zstd frame`. So
//! the reader's memory is one block, and it knows before it decompresses how much may come.

use common::rel_path::is_component;
use common::sanitize::RULES_MAX;
use serde::{Deserialize, Serialize};

use crate::byte_string::ByteString;
use crate::codec::Message;
use crate::entry::Entry;
use crate::frame::{FrameError, FrameKind};
use crate::listing::{Listing, ListingEnd, PART_ENTRIES_MAX};
use crate::only::Look;
use crate::stamp::Time;
use crate::wire::content::PATH_BYTES_MAX;

/// Raw bytes after which a block is closed; an item of the largest size may still be added.
pub const BLOCK_BYTES: usize = 256 * 1024;
/// The largest block before compression.
pub const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024 + BLOCK_BYTES;
/// Owners that one item names, of each sort; a part of a listing with an ACL on every entry has fewer.
pub const OWNERS_MAX: usize = 65_536;
/// Names that one item says are looked at; with the longest paths they fill an item.
pub const LOOKS_IN_ITEM_MAX: usize = 512;
/// The longest name of a user or a group.
const OWNER_BYTES_MAX: usize = 256;
/// The longest text for people.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// One item of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// The first item but for the names of its owners.
    Head(Head),
    /// Names of owners, before the first entry that uses their numbers.
    Names(Names),
    /// A directory or a part of it.
    Listing(Listing),
    /// The last item; without it the manifest is not whole.
    End(End),
    /// To how many files each rule of the ticket applied; before the end, and only where there are rules.
    Sanitized(#[serde(deserialize_with = "crate::bounded::list::<_, _, RULES_MAX>")] Vec<u64>),
    /// Before all others, where the tree is watched from before this scan on: the number of the watch.
    Watched(u64),
    /// In its place or before it, where everything is looked at although less was asked for: why, for people.
    Unwatched(String),
    /// Behind a watch's number: what is looked at, in parts; where there is none, everything is.
    Only(#[serde(deserialize_with = "crate::bounded::list::<_, _, LOOKS_IN_ITEM_MAX>")] Vec<Look>),
}

/// How a scan begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The source's wall clock before it synced the root's file system and scanned.
    pub started: Time,
    /// The root itself; its name is empty.
    pub root: Entry,
}

/// Names of owners; a number that no item names has none at the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Users by number.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, OWNERS_MAX>")]
    pub users: Vec<(u32, ByteString)>,
    /// Groups by number.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, OWNERS_MAX>")]
    pub groups: Vec<(u32, ByteString)>,
}

/// How a scan ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Entries in all listings.
    pub entries: u64,
    /// Directories listed, the root among them.
    pub directories: u64,
}

impl Names {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

impl Message for Item {
    const KIND: FrameKind = FrameKind::ManifestItem;

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Head(Head { started, root }) => {
                root.name.is_empty()
                    && root.kind.is_directory()
                    && root.is_well_formed_but_for_its_name()
                    && started.is_possible()
            }
            Self::Names(Names { users, groups }) => users
                .iter()
                .chain(groups)
                .all(|(_, name)| !name.0.is_empty() && name.0.len() <= OWNER_BYTES_MAX),
            Self::Listing(listing) => {
                listing.entries.len() <= PART_ENTRIES_MAX
                    && listing.problems.len() <= PART_ENTRIES_MAX
                    && listing.problems.iter().all(|problem| problem.why.len() <= TEXT_BYTES_MAX)
                    && listing.stages.iter().all(|name| is_component(&name.0))
                    && listing.path.as_bytes().len() <= PATH_BYTES_MAX
                    && match &listing.end {
                        ListingEnd::Unreadable { why } | ListingEnd::PassedOver { why } => {
                            why.len() <= TEXT_BYTES_MAX
                        }
                        ListingEnd::More | ListingEnd::Complete | ListingEnd::Vanished => true,
                    }
            }
            Self::Sanitized(counts) => counts.len() <= RULES_MAX,
            Self::End(End { entries: _, directories: _ }) | Self::Watched(_) => true,
            Self::Unwatched(why) => why.len() <= TEXT_BYTES_MAX,
            Self::Only(looks) => looks.iter().all(Look::is_possible),
        }
    }
}

/// Splits the body of a block into its raw length and its compressed bytes.
///
/// # Errors
/// When it is cut off or announces more than a block may hold.
pub fn split_block(body: &[u8]) -> Result<(usize, &[u8]), FrameError> {
    let (length, compressed) = body.split_first_chunk::<4>().ok_or(FrameError::Cut)?;
    let raw_bytes = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if raw_bytes > BLOCK_BYTES_MAX {
        return Err(FrameError::TooLong { kind: FrameKind::ManifestBlock, bytes: raw_bytes });
    }
    Ok((raw_bytes, compressed))
}
