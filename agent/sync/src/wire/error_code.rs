//! Why a connection ends: one table for QUIC's application codes and for [`crate::wire::control::Bye`].

use common::failure::FailureKind;
use serde::{Deserialize, Serialize};

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// Everything asked for was done.
    Done,
    /// The process stops; dial again later.
    ResumeLater,
    /// The step was cancelled or its lease was lost.
    Cancelled,
    /// The ticket does not allow this: forged, for another host, or for another tree.
    Denied,
    /// The ticket ran out and no fresh one came.
    Expired,
    /// The peer sent what the protocol does not allow.
    Protocol,
    /// No common version.
    Version,
    /// As many connections as this agent serves are open.
    Busy,
    /// The source's root cannot be read or is no directory.
    Root,
    /// The peer did not answer in time.
    Timeout,
    /// A bug of ours.
    Internal,
}

impl ErrorCode {
    /// Every code with its number on the wire.
    pub const ALL: [(Self, u32); 11] = [
        (Self::Done, 0),
        (Self::ResumeLater, 1),
        (Self::Cancelled, 2),
        (Self::Denied, 3),
        (Self::Expired, 4),
        (Self::Protocol, 5),
        (Self::Version, 6),
        (Self::Busy, 7),
        (Self::Root, 8),
        (Self::Timeout, 9),
        (Self::Internal, 10),
    ];

    /// Returns the number on the wire.
    pub fn number(self) -> u32 {
        Self::ALL.iter().find(|(code, _)| *code == self).map_or(10, |(_, number)| *number)
    }

    /// Returns the code of a number; an unknown one counts as a break of the protocol.
    pub fn from_number(number: u64) -> Self {
        Self::ALL
            .iter()
            .find(|(_, known)| u64::from(*known) == number)
            .map_or(Self::Protocol, |(code, _)| *code)
    }

    /// Whether the peer refuses for a reason that another attempt to connect does not change.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::Denied | Self::Protocol | Self::Version => true,
            Self::Done
            | Self::ResumeLater
            | Self::Cancelled
            | Self::Expired
            | Self::Busy
            | Self::Root
            | Self::Timeout
            | Self::Internal => false,
        }
    }

    /// Returns the kind of failure that it is for the step at the other end.
    pub fn failure_kind(self) -> FailureKind {
        match self {
            Self::Done | Self::ResumeLater => FailureKind::Unreachable,
            Self::Cancelled => FailureKind::Cancelled,
            Self::Denied => FailureKind::Denied,
            Self::Expired | Self::Timeout => FailureKind::Timeout,
            Self::Protocol | Self::Internal => FailureKind::Bug,
            Self::Version => FailureKind::Unsupported,
            Self::Busy => FailureKind::Throttled,
            Self::Root => FailureKind::Invalid,
        }
    }
}
