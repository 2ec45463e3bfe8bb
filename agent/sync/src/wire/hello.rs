//! The first frame of every lane.

use common::filter::{self, PATTERNS_MAX};
use common::rel_path::RelPath;
use common::spec::{COMPRESSION_LEVELS, Compression};
use serde::{Deserialize, Serialize};

use crate::byte_string::ByteString;
use crate::codec::Message;
use crate::frame::FrameKind;
use crate::limits::Limits;
use crate::wire::content::PATH_BYTES_MAX;

/// The version of the data protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 2;
/// The longest ticket; one with long roots takes about 10 KiB.
pub const TICKET_BYTES_MAX: usize = 32 * 1024;

/// What a lane is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// The first lane of a connection.
    Control(Open),
    /// Asks for a scan of the whole tree, once.
    Manifest(ScanRequest),
    /// Asks for content.
    Content,
    /// The first lane of a connection that the source made: the destination opens the others.
    Offer(Offer),
    /// Asks for content of which the destination may hold some: with this nonce the source proves that it has it, too.
    ContentProven {
        /// Drawn for this connection.
        nonce: [u8; 32],
    },
    /// Asks for content, also through links below the root; where the manifest was asked for so.
    ContentThroughLinks,
}

/// From a source that dialled its destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The coordinator's signed ticket.
    #[serde(with = "crate::byte_string")]
    pub ticket: Vec<u8>,
    /// Counts the starts of the source's agent.
    pub incarnation: u64,
}

/// Asks for access; what it may be is in the ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The coordinator's signed ticket.
    #[serde(with = "crate::byte_string")]
    pub ticket: Vec<u8>,
    /// Bytes per second that the source may send.
    pub bandwidth_limit: Option<u64>,
    /// Whether content shall be compressed.
    pub compression: Compression,
}

/// What a scan leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRequest {
    /// Patterns of what is left out; see [`common::filter`].
    #[serde(deserialize_with = "crate::bounded::list::<_, _, PATTERNS_MAX>")]
    pub exclude: Vec<ByteString>,
    /// Patterns of what is kept although an exclude matches.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, PATTERNS_MAX>")]
    pub include: Vec<ByteString>,
    /// Whether less than everything is asked for.
    pub watch: Watch,
    /// Which files are left out besides.
    pub limits: Limits,
    /// Whether what is mounted below the root is left out.
    pub one_file_system: bool,
    /// Whether what a link leads to comes in its place.
    pub copy_links: bool,
    /// A path that is left out whatever patterns say: at the destination, earlier versions are kept there.
    pub without: Option<RelPath>,
}

/// What of a tree is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Watch {
    /// Everything.
    #[default]
    No,
    /// Everything, and it shall be watched from before the scan begins.
    Begin,
    /// What changed since it was asked for last, by the watch of this number; everything, if that is not known.
    Since(u64),
}

impl Message for Hello {
    const KIND: FrameKind = FrameKind::Hello;

    fn is_within_bounds(&self) -> bool {
        let is_pattern = |pattern: &ByteString| pattern.0.len() <= filter::PATTERN_BYTES_MAX;
        match self {
            Self::Control(Open { version: _, ticket, bandwidth_limit: _, compression }) => {
                let is_level = match compression {
                    Compression::Level(level) => COMPRESSION_LEVELS.contains(level),
                    Compression::Auto | Compression::Off => true,
                };
                ticket.len() <= TICKET_BYTES_MAX && is_level
            }
            Self::Manifest(ScanRequest {
                exclude,
                include,
                limits,
                one_file_system: _,
                copy_links: _,
                without,
                watch: _,
            }) => {
                exclude.len() + include.len() <= filter::PATTERNS_MAX
                    && exclude.iter().chain(include).all(is_pattern)
                    && limits.is_possible()
                    && without.as_ref().is_none_or(|path| path.as_bytes().len() <= PATH_BYTES_MAX)
            }
            Self::Content | Self::ContentThroughLinks | Self::ContentProven { nonce: _ } => true,
            Self::Offer(Offer { version: _, ticket, incarnation: _ }) => ticket.len() <= TICKET_BYTES_MAX,
        }
    }
}
