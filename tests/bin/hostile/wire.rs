//! Frames without the checks of the honest side.

use serde::Serialize;

/// Numbers of frame kinds on the wire.
pub(crate) const HELLO: u8 = 1;
pub(crate) const TO_SOURCE: u8 = 2;
pub(crate) const TO_DESTINATION: u8 = 3;
pub(crate) const MANIFEST_BLOCK: u8 = 4;
pub(crate) const MANIFEST_ITEM: u8 = 5;
pub(crate) const REQUEST: u8 = 6;
pub(crate) const REPLY: u8 = 7;

/// Returns the bytes before a body, whatever they say.
pub(crate) fn header(kind: u8, length: u32) -> Vec<u8> {
    let mut bytes = vec![kind, 1];
    bytes.extend(length.to_le_bytes());
    bytes
}

/// Returns bytes as a frame.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, u32::try_from(body.len()).unwrap());
    bytes.extend_from_slice(body);
    bytes
}

/// Returns a value as a frame, whether or not it may be sent.
pub(crate) fn message<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
    frame(kind, &postcard::to_allocvec(value).unwrap())
}

/// Returns items' frames as one compressed block, which says that it holds `raw_bytes`.
pub(crate) fn block_of(raw: &[u8], raw_bytes: usize) -> Vec<u8> {
    let mut body = u32::try_from(raw_bytes).unwrap().to_le_bytes().to_vec();
    body.extend(zstd::bulk::compress(raw, 1).unwrap());
    frame(MANIFEST_BLOCK, &body)
}

/// Returns items' frames as one block.
pub(crate) fn block(raw: &[u8]) -> Vec<u8> {
    block_of(raw, raw.len())
}
