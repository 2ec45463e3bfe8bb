//! The content lanes: what the destination wants, and what it gets.
//!
//! A lane answers its requests in their order, except that small files of one batch travel together in packs.
//! Several lanes are served in parallel. A reply with `stored_bytes` is followed by exactly so many raw bytes.

use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};

use crate::codec::Message;
use crate::frame::FrameKind;
use crate::pack::{EXTENTS_MAX, PACK_BYTES_MAX, PACK_FILES_MAX};
use crate::range::{ChainingValue, RANGE_BYTES};
use crate::stamp::Stamp;
use crate::wire::delta::{Basis, DeltaReply, Unlike};

/// Requests in one batch.
pub const BATCH_MAX: usize = 1024;
/// Requests of one connection that may be unanswered.
pub const OUTSTANDING_MAX: usize = 8_192;
/// Chaining values in one reply: 32 KiB, for 1 GiB of the file.
pub const VALUES_MAX: usize = 1024;
/// The longest path that may be asked for; deeper trees are reached, but not by names this long.
pub const PATH_BYTES_MAX: usize = 1024 * 1024;
/// Contents that a destination may name as held in one wish.
pub const HELD_MAX: usize = 4;
/// The longest text for people.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// A batch of wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is wanted, answered in this order.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, BATCH_MAX>")]
    pub fetches: Vec<Fetch>,
}

/// One wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The destination's number for it; comes back in the answer.
    pub id: u64,
    /// The file.
    pub path: RelPath,
    /// The file as the manifest or an earlier answer showed it.
    pub stamp: Stamp,
    /// What of it.
    pub what: What,
}

/// What is wanted of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// All of it, in a pack; only for files of at most [`crate::range::RANGE_BYTES`]. It may have changed since the
    /// stamp: the answer has its own.
    ///
    /// Where the same content was sent on this connection before, the answer may say so instead: see [`Same`].
    Whole,
    /// The range of this index below the stamp's size. Sent as it is now, whatever its times; the inode and at least
    /// the size must be as in the stamp.
    Range {
        /// Its index.
        index: u64,
    },
    /// The digest of the whole content, of any size.
    Digest,
    /// Whether what was read in ranges is one state: see [`Confirmed`].
    Confirm,
    /// As [`What::Whole`], and always the bytes themselves: what was sent before is of no use any more.
    Bytes,
    /// A range as above, for a destination that has something like it; may be answered as if it had been asked for
    /// plainly.
    Delta {
        /// Its index.
        index: u64,
        /// What the destination has.
        basis: Basis,
    },
    /// As [`What::Whole`]. The destination holds files of this name and size: where one of them may be this one, the
    /// answer may be a proof instead, see [`Have`].
    Held {
        /// The first two bytes of their digests, as a little endian number.
        prefixes: [Option<u16>; HELD_MAX],
    },
}

impl What {
    /// Whether a small file's content is wanted, in whatever form.
    pub fn is_small_file(&self) -> bool {
        matches!(self, Self::Whole | Self::Bytes | Self::Held { prefixes: _ })
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Small files; raw bytes follow.
    Pack(Pack),
    /// A range of a large file; raw bytes follow.
    Range(RangeReply),
    /// Digests that were asked for.
    Digests(#[serde(deserialize_with = "crate::bounded::list::<_, _, BATCH_MAX>")] Vec<Digested>),
    /// Chaining values of a second read, before a [`Confirmed`] with `is_reread`.
    Values(Values),
    /// The end of a `Confirm`.
    Confirmed(Confirmed),
    /// Wishes that cannot be granted.
    Failed(#[serde(deserialize_with = "crate::bounded::list::<_, _, BATCH_MAX>")] Vec<Failed>),
    /// Small files whose content was sent before.
    Same(#[serde(deserialize_with = "crate::bounded::list::<_, _, BATCH_MAX>")] Vec<Same>),
    /// A range without what the destination has; raw bytes follow.
    Delta(DeltaReply),
    /// A range that was asked for by blocks and has too few of them: to be asked for otherwise.
    Unlike(Unlike),
    /// Small files that the destination seems to hold.
    Have(#[serde(deserialize_with = "crate::bounded::list::<_, _, BATCH_MAX>")] Vec<Have>),
}

impl Reply {
    /// Returns how many raw bytes follow.
    pub fn stored_bytes(&self) -> usize {
        match self {
            Self::Pack(pack) => pack.stored_bytes,
            Self::Range(range) => range.stored_bytes,
            Self::Delta(delta) => delta.stored_bytes,
            Self::Digests(_)
            | Self::Values(_)
            | Self::Confirmed(_)
            | Self::Failed(_)
            | Self::Same(_)
            | Self::Unlike(_)
            | Self::Have(_) => 0,
        }
    }

    /// Returns how many wishes it answers.
    pub fn wishes(&self) -> usize {
        match self {
            Self::Pack(pack) => pack.files.len(),
            Self::Digests(digests) => digests.len(),
            Self::Failed(failed) => failed.len(),
            Self::Same(same) => same.len(),
            Self::Have(have) => have.len(),
            Self::Range(_) | Self::Delta(_) | Self::Unlike(_) | Self::Confirmed(_) => 1,
            Self::Values(_) => 0,
        }
    }
}

/// How raw bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coding {
    /// As they are.
    Plain,
    /// One zstd frame.
    Zstd,
}

/// Small files whose data extents follow one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The files, in the order of their bytes.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, PACK_FILES_MAX>")]
    pub files: Vec<PackedFile>,
    /// How the bytes are stored.
    pub coding: Coding,
    /// Bytes that follow.
    pub stored_bytes: usize,
    /// Bytes once decoded: the sum of the files' data.
    pub content_bytes: usize,
}

/// One file of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedFile {
    /// The wish.
    pub id: u64,
    /// The file as it was while it was read; its size is the length of the content.
    pub stamp: Stamp,
    /// Where data is.
    pub layout: Layout,
    /// BLAKE3 of the whole content, holes read as zeros.
    pub digest: [u8; 32],
}

/// A small file whose content is that of another one, which travelled in a pack of this connection.
///
/// The destination makes it from what it got then, as an inode of its own. Lanes overtake each other, so the other one
/// may come later than this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Same {
    /// The wish.
    pub id: u64,
    /// The file as it was while it was read.
    pub stamp: Stamp,
    /// Where data is.
    pub layout: Layout,
    /// BLAKE3 of the whole content.
    pub digest: [u8; 32],
    /// The wish that was answered with the bytes.
    pub of: u64,
}

/// A small file that begins with the digest of one that the destination holds.
///
/// Whoever knows only that digest cannot make the proof: it is computed over the content, with the nonce that the
/// destination has drawn for this connection. The destination computes the same over what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// The wish.
    pub id: u64,
    /// The file as it was while it was read.
    pub stamp: Stamp,
    /// Where data is.
    pub layout: Layout,
    /// Which of the prefixes is that of its digest.
    pub prefix: u16,
    /// Keyed BLAKE3 of the whole content, holes read as zeros.
    pub proof: [u8; 32],
}

/// Where in a file or range data is; the rest is holes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// All of it is data.
    Dense,
    /// Only these, in order and not touching each other.
    Sparse(#[serde(deserialize_with = "crate::bounded::list::<_, _, EXTENTS_MAX>")] Vec<Extent>),
}

/// A piece of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where it begins in the file or range.
    pub offset: u32,
    /// Its length.
    pub length: u32,
}

/// One range of a large file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeReply {
    /// The wish.
    pub id: u64,
    /// The range's index.
    pub index: u64,
    /// The file as it was after the read.
    pub stamp: Stamp,
    /// The range's length, holes included.
    pub length: u32,
    /// Where in it data is.
    pub layout: Layout,
    /// Its BLAKE3 chaining value at its offset, holes read as zeros.
    pub value: ChainingValue,
    /// How the bytes are stored.
    pub coding: Coding,
    /// Bytes that follow.
    pub stored_bytes: usize,
}

/// The digest of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digested {
    /// The wish.
    pub id: u64,
    /// The file as it was while it was read.
    pub stamp: Stamp,
    /// BLAKE3 of its content.
    pub digest: [u8; 32],
}

/// Chaining values of a second read of a file that was read in ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// The wish.
    pub id: u64,
    /// The index of the first.
    pub first: u64,
    /// One for each range below the stamp's size.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, VALUES_MAX>")]
    pub values: Vec<ChainingValue>,
}

/// The answer to `Confirm`.
///
/// When the file is as in the stamp, and its times are older than the connection, nothing was read again and the
/// ranges are one state. Otherwise the bytes below
/// the stamp's size were read a second time and their chaining values came before this: where all are equal to those
/// of the first read, what was read is believed as the state at that size (a log that only grew); the ranges that
/// differ are to be fetched again under `stamp`, and confirmed again. A file that shrank or was replaced is
/// [`Why::Changed`] instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The wish.
    pub id: u64,
    /// The file as it is now, before the second read.
    pub stamp: Stamp,
    /// Whether there was a second read.
    pub is_reread: bool,
}

/// A wish that cannot be granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The wish.
    pub id: u64,
    /// Why.
    pub why: Why,
}

/// Why a file cannot be had; none of these fails the step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It kept changing over three reads, or is no longer the file of the stamp.
    Changed {
        /// What it is now, if it is still a regular file: may be asked for under this stamp.
        stamp: Option<Stamp>,
    },
    /// It is gone.
    Vanished,
    /// It cannot be read.
    Unreadable {
        /// Why, for people.
        why: String,
    },
    /// It would have to be masked and cannot be; only where the ticket carries rules.
    Unmaskable {
        /// Why, for people.
        why: String,
    },
}

impl Message for Request {
    const KIND: FrameKind = FrameKind::Request;

    fn is_within_bounds(&self) -> bool {
        self.fetches.len() <= BATCH_MAX
            && self.fetches.iter().all(|fetch| {
                let is_asked_right = match &fetch.what {
                    What::Whole | What::Bytes | What::Held { prefixes: _ } => fetch.stamp.size <= RANGE_BYTES,
                    What::Range { index } => crate::range::bounds(fetch.stamp.size, *index).is_some(),
                    What::Delta { index, basis } => {
                        crate::range::bounds(fetch.stamp.size, *index).is_some() && basis.is_within_bounds()
                    }
                    What::Confirm | What::Digest => true,
                };
                is_asked_right && fetch.path.as_bytes().len() <= PATH_BYTES_MAX
            })
    }
}

impl Message for Reply {
    const KIND: FrameKind = FrameKind::Reply;

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Pack(pack) => pack.is_within_bounds(),
            Self::Range(range) => range.is_within_bounds(),
            Self::Delta(delta) => delta.is_within_bounds(),
            Self::Unlike(unlike) => unlike.is_within_bounds(),
            Self::Digests(digests) => {
                digests.len() <= BATCH_MAX && digests.iter().all(|digested| digested.stamp.is_possible())
            }
            Self::Values(values) => values.values.len() <= VALUES_MAX,
            Self::Confirmed(confirmed) => confirmed.stamp.is_possible(),
            Self::Failed(failed) => {
                failed.len() <= BATCH_MAX
                    && failed.iter().all(|failed| match &failed.why {
                        Why::Unreadable { why } | Why::Unmaskable { why } => why.len() <= TEXT_BYTES_MAX,
                        Why::Changed { stamp } => stamp.is_none_or(|stamp| stamp.is_possible()),
                        Why::Vanished => true,
                    })
            }
            Self::Same(same) => {
                same.len() <= BATCH_MAX && same.iter().all(|same| is_small_file(&same.stamp, &same.layout))
            }
            Self::Have(have) => {
                have.len() <= BATCH_MAX && have.iter().all(|have| is_small_file(&have.stamp, &have.layout))
            }
        }
    }
}

impl Pack {
    fn is_within_bounds(&self) -> bool {
        let mut data = 0_usize;
        for file in &self.files {
            match file.layout.data_bytes(file.stamp.size) {
                Some(bytes) => data = data.saturating_add(bytes),
                None => return false,
            }
        }
        self.files.len() <= PACK_FILES_MAX
            && self.files.iter().all(|file| file.stamp.is_possible())
            && data == self.content_bytes
            && is_stored(self.coding, self.stored_bytes, self.content_bytes)
    }
}

/// Whether there can be a small file like this.
fn is_small_file(stamp: &Stamp, layout: &Layout) -> bool {
    stamp.size <= RANGE_BYTES && stamp.is_possible() && layout.data_bytes(stamp.size).is_some()
}

impl RangeReply {
    /// Returns how many bytes there are once decoded.
    pub fn content_bytes(&self) -> usize {
        self.layout.data_bytes(u64::from(self.length)).unwrap_or(0)
    }

    fn is_within_bounds(&self) -> bool {
        u64::from(self.length) <= RANGE_BYTES
            && self.stamp.is_possible()
            && self
                .layout
                .data_bytes(u64::from(self.length))
                .is_some_and(|content| is_stored(self.coding, self.stored_bytes, content))
    }
}

/// Whether content of this length may be stored so.
pub(super) fn is_stored(coding: Coding, stored_bytes: usize, content_bytes: usize) -> bool {
    content_bytes <= PACK_BYTES_MAX
        && match coding {
            Coding::Plain => stored_bytes == content_bytes,
            Coding::Zstd => stored_bytes < content_bytes,
        }
}

impl Layout {
    /// Returns how many bytes of data there are in `length` bytes; nothing when the extents cannot be.
    pub fn data_bytes(&self, length: u64) -> Option<usize> {
        let extents = match self {
            Self::Dense => return usize::try_from(length).ok().filter(|length| *length <= PACK_BYTES_MAX),
            Self::Sparse(extents) => extents,
        };
        if extents.len() > EXTENTS_MAX || length > RANGE_BYTES {
            return None;
        }
        let (mut end, mut data) = (0_u64, 0_usize);
        for extent in extents {
            if u64::from(extent.offset) < end || extent.length == 0 {
                return None;
            }
            end = u64::from(extent.offset) + u64::from(extent.length);
            data += usize::try_from(extent.length).ok()?;
        }
        (end <= length).then_some(data)
    }
}
