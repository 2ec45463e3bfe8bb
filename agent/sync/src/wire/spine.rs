//! What binds the TCP connections of one link together.
//!
//! Over QUIC one connection is the link and its streams are lanes. Over TCP every lane is a connection of its own, and
//! one more, the *spine*, stands for the link: it lives as long as the link does, carries signs of life, and says why
//! the link ends. Whoever dialled the spine dials all lanes, for the other side may not reach him; so the other side
//! asks for a lane where it wants to open one.
//!
//! ```text
//! spine   Knock::Link ─▶ ◀─ Spine::Welcome(link)   then Beat, Echo and Close both ways, ◀─ Ask
//! lane    Knock::Lane(link) ─▶                     then as over QUIC, beginning with a Hello
//! ```
//!
//! Where neither side can be dialled, both dial a relay, which joins two connections into one; what is said on that is
//! TLS between both ends again, and begins with a knock as if one had dialled the other:
//!
//! ```text
//! source       Knock::Relay(ticket) ─▶ relay ◀─ Knock::Relay(ticket)   destination
//!                              ◀─ Joined    Joined ─▶
//! ```
//!
//! The id of a link is no secret that opens anything: a lane joins only the link of the host whose certificate it shows.

use common::relay::RELAY_TICKET_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::codec::Message;
use crate::frame::FrameKind;
use crate::wire::error_code::ErrorCode;

/// The longest reason of a close.
pub const REASON_BYTES_MAX: usize = 1024;

/// What the side that accepted a spine calls the link: 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkId(pub [u8; 16]);

/// The first frame of every TCP connection, from whoever dialled it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Knock {
    /// It is the spine of a new link.
    Link {
        /// [`crate::wire::hello::PROTOCOL_VERSION`].
        version: u32,
    },
    /// It is a lane.
    Lane {
        /// The link that it belongs to.
        link: LinkId,
        /// Whether it is the answer to [`Spine::Ask`]; else the side that dialled opens it.
        is_asked: bool,
    },
    /// It asks to be joined to one that the other end of a ticket dials: whoever is dialled is a relay.
    Relay {
        /// The coordinator's signed ticket for the relay.
        #[serde(with = "crate::byte_string")]
        ticket: Vec<u8>,
    },
}

/// What is said on a spine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spine {
    /// The answer to [`Knock::Link`].
    Welcome {
        /// What lanes are to name.
        link: LinkId,
    },
    /// Asks the side that dialled to dial one more lane.
    Ask,
    /// A sign of life, answered at once.
    Beat {
        /// Comes back.
        number: u64,
    },
    /// The answer to a [`Spine::Beat`].
    Echo {
        /// Which one.
        number: u64,
    },
    /// From a relay: what follows comes from the other end.
    Joined,
    /// The link ends.
    Close {
        /// To branch on.
        code: ErrorCode,
        /// For people.
        reason: String,
    },
}

impl Message for Knock {
    const KIND: FrameKind = FrameKind::Knock;

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Link { version: _ } | Self::Lane { link: _, is_asked: _ } => true,
            Self::Relay { ticket } => ticket.len() <= RELAY_TICKET_BYTES_MAX,
        }
    }
}

impl Message for Spine {
    const KIND: FrameKind = FrameKind::Spine;

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Close { code: _, reason } => reason.len() <= REASON_BYTES_MAX,
            Self::Welcome { .. } | Self::Ask | Self::Beat { .. } | Self::Echo { .. } | Self::Joined => true,
        }
    }
}
