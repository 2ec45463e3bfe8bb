//! Frames: how messages follow each other on a lane.
//!
//! ```text
//! kind u8 │ format u8 │ body length u32 LE │ body
//! ```
//!
//! The kind gives the largest body; a longer one is refused before anything is reserved for it. Raw content follows
//! some frames (see [`crate::wire`]); its length stands in the frame and is bounded there.

/// Bytes before every body.
pub const HEADER_BYTES: usize = 6;

/// The version of all bodies of this crate.
pub const FORMAT: u8 = 1;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// [`crate::wire::hello::Hello`]: the first frame of every lane.
    Hello,
    /// [`crate::wire::control::ToSource`].
    ToSource,
    /// [`crate::wire::control::ToDestination`].
    ToDestination,
    /// A compressed block of [`crate::wire::manifest::Item`]s.
    ManifestBlock,
    /// [`crate::wire::manifest::Item`], inside of a block.
    ManifestItem,
    /// [`crate::wire::content::Request`].
    Request,
    /// [`crate::wire::content::Reply`].
    Reply,
    /// [`crate::wire::spine::Knock`]: the first frame of every TCP connection.
    Knock,
    /// [`crate::wire::spine::Spine`].
    Spine,
}

impl FrameKind {
    /// Returns the number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::ToSource => 2,
            Self::ToDestination => 3,
            Self::ManifestBlock => 4,
            Self::ManifestItem => 5,
            Self::Request => 6,
            Self::Reply => 7,
            Self::Knock => 16,
            Self::Spine => 17,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::ToSource,
            3 => Self::ToDestination,
            4 => Self::ManifestBlock,
            5 => Self::ManifestItem,
            6 => Self::Request,
            7 => Self::Reply,
            16 => Self::Knock,
            17 => Self::Spine,
            _ => return None,
        })
    }

    /// Returns the largest body.
    pub fn bytes_max(self) -> usize {
        match self {
            // A ticket, and a filter of at most 1 000 patterns of at most 1 024 bytes.
            Self::Hello => 2 * 1024 * 1024,
            Self::ToSource | Self::ToDestination => 64 * 1024,
            // A part of at most 512 KiB plus one entry with the largest attributes, compressed or not.
            Self::ManifestBlock | Self::ManifestItem => 4 * 1024 * 1024,
            // As many requests as one batch may hold, with long paths.
            Self::Request => 2 * 1024 * 1024,
            // A pack's 256 files with 256 extents each, or 1 024 chaining values.
            Self::Reply => 2 * 1024 * 1024,
            // Whoever knocks has a certificate of the cluster, and a reason has at most 1 KiB.
            Self::Knock | Self::Spine => 2 * 1024,
        }
    }
}

/// The bytes before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body holds.
    pub kind: FrameKind,
    /// How long it is.
    pub body_bytes: usize,
}

/// Why bytes are not a frame, or a value does not fit into one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte is no kind of ours.
    #[error("{0} is not a kind of frame")]
    Kind(u8),
    /// A kind that may not stand here.
    #[error("a {found:?} frame stands where a {wanted:?} frame must")]
    Misplaced {
        /// What must stand here.
        wanted: FrameKind,
        /// What came.
        found: FrameKind,
    },
    /// A version that this build does not read.
    #[error("format {0} of the data protocol is not known to this version")]
    Format(u8),
    /// The body is longer than its kind allows.
    #[error("a {kind:?} frame of {bytes} bytes is longer than allowed")]
    TooLong {
        /// The kind.
        kind: FrameKind,
        /// Its length.
        bytes: usize,
    },
    /// The body does not hold what its kind says, or holds more.
    #[error("a {0:?} frame does not hold what it should")]
    Body(FrameKind),
    /// The bytes end inside of a frame.
    #[error("a frame is cut off")]
    Cut,
    /// A value inside is out of its bounds.
    #[error("a {0:?} frame holds a value out of bounds")]
    Bounds(FrameKind),
}

impl Header {
    /// Returns the bytes that stand before the body.
    ///
    /// # Errors
    /// When the body is longer than its kind allows.
    pub fn to_bytes(self) -> Result<[u8; HEADER_BYTES], FrameError> {
        let too_long = || FrameError::TooLong { kind: self.kind, bytes: self.body_bytes };
        if self.body_bytes > self.kind.bytes_max() {
            return Err(too_long());
        }
        let [a, b, c, d] = u32::try_from(self.body_bytes).or(Err(too_long()))?.to_le_bytes();
        Ok([self.kind.number(), FORMAT, a, b, c, d])
    }

    /// Reads the bytes before a body.
    ///
    /// # Errors
    /// When they announce nothing that this version reads.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [number, format, a, b, c, d] = bytes;
        let kind = FrameKind::from_number(number).ok_or(FrameError::Kind(number))?;
        if format != FORMAT {
            return Err(FrameError::Format(format));
        }
        let length = u32::from_le_bytes([a, b, c, d]);
        let body_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if body_bytes > kind.bytes_max() {
            return Err(FrameError::TooLong { kind, bytes: body_bytes });
        }
        Ok(Self { kind, body_bytes })
    }
}
