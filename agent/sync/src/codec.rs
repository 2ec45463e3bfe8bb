//! Messages to frames and back: postcard bodies, total and bounded.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{FrameError, FrameKind, HEADER_BYTES, Header};

/// A message that travels as one frame.
pub trait Message: Serialize + DeserializeOwned {
    /// The kind of its frame.
    const KIND: FrameKind;

    /// Whether every value inside is within its bounds; asked on both sides.
    fn is_within_bounds(&self) -> bool;
}

/// Appends a message as a frame.
///
/// # Errors
/// When it is longer than its kind allows or holds a value out of bounds; then nothing is appended.
pub fn encode<M: Message>(message: &M, out: &mut Vec<u8>) -> Result<(), FrameError> {
    if !message.is_within_bounds() {
        return Err(FrameError::Bounds(M::KIND));
    }
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let written = postcard::to_extend(message, Tail { out }).map(|_tail| ());
    let framed = written.or(Err(FrameError::Body(M::KIND))).and_then(|()| {
        let header = Header { kind: M::KIND, body_bytes: out.len() - start - HEADER_BYTES }.to_bytes()?;
        out[start..start + HEADER_BYTES].copy_from_slice(&header);
        Ok(())
    });
    if framed.is_err() {
        out.truncate(start);
    }
    framed
}

/// Reads the body of a frame.
///
/// # Errors
/// When it is of another kind, does not hold the message and nothing else, or a value is out of bounds.
pub fn decode<M: Message>(header: Header, body: &[u8]) -> Result<M, FrameError> {
    if header.kind != M::KIND {
        return Err(FrameError::Misplaced { wanted: M::KIND, found: header.kind });
    }
    let (message, rest) = postcard::take_from_bytes::<M>(body).or(Err(FrameError::Body(M::KIND)))?;
    if !rest.is_empty() {
        return Err(FrameError::Body(M::KIND));
    }
    if !message.is_within_bounds() {
        return Err(FrameError::Bounds(M::KIND));
    }
    Ok(message)
}

/// Takes one frame off the front of some bytes; nothing when there are none.
///
/// # Errors
/// As [`decode`], and when the bytes end inside of the frame.
pub fn take<M: Message>(bytes: &mut &[u8]) -> Result<Option<M>, FrameError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(FrameError::Cut)?;
    let header = Header::parse(*head)?;
    let (body, rest) = rest.split_at_checked(header.body_bytes).ok_or(FrameError::Cut)?;
    *bytes = rest;
    decode(header, body).map(Some)
}

/// Lets postcard write behind what a vector holds already.
struct Tail<'a> {
    out: &'a mut Vec<u8>,
}

impl Extend<u8> for Tail<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.out.extend(bytes);
    }
}
