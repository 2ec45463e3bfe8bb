//! The control lane: opening, renewing, limiting, counting, parting.

use serde::{Deserialize, Serialize};

use crate::codec::Message;
use crate::frame::FrameKind;
use crate::stamp::Time;
use crate::wire::error_code::ErrorCode;
use crate::wire::hello::TICKET_BYTES_MAX;

/// How often the source sends its counters.
pub const COUNTERS_EVERY_MS: u64 = 1_000;
/// The longest text for people.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// From the destination, after [`crate::wire::hello::Open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSource {
    /// A fresh ticket of the same step.
    Renew {
        /// The coordinator's signed ticket.
        #[serde(with = "crate::byte_string")]
        ticket: Vec<u8>,
    },
    /// Changes how fast the source may send.
    Limit {
        /// Bytes per second; none lifts the limit.
        bytes_per_s: Option<u64>,
    },
    /// The last word.
    Bye(Bye),
    /// Says how the source's host is to be spared, at first and whenever that changes.
    Spare(Sparing),
}

/// How the source's host is to be spared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sparing {
    /// The load average, in hundredths, from which on nothing is read or sent; none is any.
    pub max_load: Option<u32>,
    /// Whether its disks are used only when nobody else needs them.
    pub is_idle: bool,
}

/// From the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDestination {
    /// The answer to an `Open` that is granted.
    Opened(Opened),
    /// Every second, and as the answer to a `Bye`.
    Counters(Counters),
    /// The last word, and the answer to an `Open` that is refused.
    Bye(Bye),
    /// Every second, what serving costs the source's host.
    Cost(Cost),
}

/// What serving costs the source's host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Time that its agent computed, in thousandths of one processor.
    pub cpu_permille: u32,
    /// Time in which something there waited for a disk, in thousandths.
    pub io_permille: u32,
    /// The load average of the last minute, in hundredths.
    pub load_hundredths: u32,
    /// Whether the source holds back because its load is too high.
    pub is_throttled: bool,
}

/// What the destination learns when it is let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The version that both speak.
    pub version: u32,
    /// The source's wall clock now.
    pub now: Time,
    /// The boot of the machine that the source runs on.
    pub boot_id: String,
    /// The root's device.
    pub root_dev: u64,
    /// The root's inode.
    pub root_ino: u64,
    /// The type of the root's file system.
    pub fs_type: String,
    /// Whether that file system is a network one, where times and syncs cannot be relied on.
    pub is_network_fs: bool,
}

/// What the source has sent on this connection so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Payload of all datagrams that it sent.
    pub wire_bytes: u64,
    /// Content before compression.
    pub content_bytes: u64,
    /// Files or ranges of content.
    pub content_units: u64,
    /// Bytes read for digests only.
    pub digest_bytes: u64,
}

/// Why the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// To branch on.
    pub code: ErrorCode,
    /// For people: what and why.
    pub message: String,
    /// What the operator can do; may be empty.
    pub hint: String,
}

impl Bye {
    fn is_short(&self) -> bool {
        self.message.len() <= TEXT_BYTES_MAX && self.hint.len() <= TEXT_BYTES_MAX
    }
}

impl Message for ToSource {
    const KIND: FrameKind = FrameKind::ToSource;

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Renew { ticket } => ticket.len() <= TICKET_BYTES_MAX,
            Self::Limit { bytes_per_s } => *bytes_per_s != Some(0),
            // Any load is one.
            Self::Spare(_) => true,
            Self::Bye(bye) => bye.is_short(),
        }
    }
}

impl Message for ToDestination {
    const KIND: FrameKind = FrameKind::ToDestination;

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Opened(opened) => {
                opened.boot_id.len() <= TEXT_BYTES_MAX && opened.fs_type.len() <= TEXT_BYTES_MAX
            }
            Self::Counters(_) | Self::Cost(_) => true,
            Self::Bye(bye) => bye.is_short(),
        }
    }
}
