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

#[cfg(test)]
mod tests {
    use common::rel_path::RelPath;
    use proptest::prelude::*;

    use super::{Message, decode, encode, take};
    use crate::frame::{FrameError, FrameKind, HEADER_BYTES, Header};
    use crate::stamp::{Stamp, Time};
    use crate::wire::content::{Extent, Fetch, Have, Layout, Reply, Request, Same, What};
    use crate::wire::control::{Cost, Counters, Sparing, ToDestination, ToSource};
    use crate::wire::error_code::ErrorCode;
    use crate::wire::hello::Hello;
    use crate::wire::manifest::{End, Item};
    use crate::wire::spine::{Knock, LinkId, Spine};

    fn round_trip<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
        let mut bytes = b"before".to_vec();
        encode(message, &mut bytes).unwrap();
        let mut rest = &bytes[6..];
        assert_eq!(take::<M>(&mut rest).unwrap().as_ref(), Some(message));
        assert_eq!(take::<M>(&mut rest), Ok(None));
        assert_eq!(take::<M>(&mut &bytes[6..bytes.len() - 1]), Err(FrameError::Cut));
    }

    fn request(path: Vec<u8>, what: What, size: u64) -> Request {
        let stamp = Stamp { ino: 1, size, mtime: Time::default(), ctime: Time::default() };
        Request { fetches: vec![Fetch { id: 7, path: RelPath::try_from(path).unwrap(), stamp, what }] }
    }

    #[test]
    fn messages_come_back() {
        round_trip(&Hello::Content);
        round_trip(&Hello::ContentThroughLinks);
        round_trip(&ToSource::Limit { bytes_per_s: Some(9) });
        round_trip(&ToSource::Spare(Sparing { max_load: Some(400), is_idle: true }));
        round_trip(&ToDestination::Cost(Cost { cpu_permille: 9, is_throttled: true, ..Cost::default() }));
        round_trip(&ToDestination::Counters(Counters { wire_bytes: u64::MAX, ..Counters::default() }));
        round_trip(&Item::End(End { entries: 3, directories: 1 }));
        round_trip(&request(b"a/b".to_vec(), What::Whole, 5));
        round_trip(&Reply::Digests(Vec::new()));
        round_trip(&Knock::Lane { link: LinkId([7; 16]), is_asked: true });
        round_trip(&Spine::Close { code: ErrorCode::Busy, reason: "r".repeat(1024) });
    }

    /// The bytes of released versions: another encoding needs another format number.
    #[test]
    fn bytes_stay_what_they_are() {
        let mut bytes = Vec::new();
        encode(&request(b"a/b".to_vec(), What::Range { index: 1 }, 1024 * 1024 + 1), &mut bytes).unwrap();
        let body = [1, 7, 3, b'a', b'/', b'b', 1, 0x81, 0x80, 0x40, 0, 0, 0, 0, 1, 1];
        assert_eq!(bytes, [&[6, 1, 16, 0, 0, 0][..], &body].concat());
    }

    #[test]
    fn values_out_of_bounds_are_refused_on_both_sides() {
        let too_large = request(b"a".to_vec(), What::Whole, 1024 * 1024 + 1);
        assert_eq!(encode(&too_large, &mut Vec::new()), Err(FrameError::Bounds(FrameKind::Request)));
        assert_eq!(
            encode(&request(b"a".to_vec(), What::Range { index: 2 }, 1024 * 1024 + 1), &mut Vec::new()),
            Err(FrameError::Bounds(FrameKind::Request))
        );
        // `a/../b`, by hand.
        let body = [1, 7, 6, b'a', b'/', b'.', b'.', b'/', b'b', 1, 0, 0, 0, 0, 0, 0];
        let header = Header { kind: FrameKind::Request, body_bytes: body.len() };
        assert_eq!(decode::<Request>(header, &body), Err(FrameError::Body(FrameKind::Request)));
        assert_eq!(
            decode::<Reply>(header, &body),
            Err(FrameError::Misplaced { wanted: FrameKind::Reply, found: FrameKind::Request })
        );
        assert_eq!(
            Header::parse([1, 1, 0, 0, 0, 0xff]).unwrap_err(),
            FrameError::TooLong { kind: FrameKind::Hello, bytes: 0xff00_0000 }
        );
        assert_eq!(Header::parse([1, 2, 0, 0, 0, 0]).unwrap_err(), FrameError::Format(2));
        assert_eq!(Header::parse([99, 1, 0, 0, 0, 0]).unwrap_err(), FrameError::Kind(99));
    }

    #[test]
    fn the_same_content_is_that_of_a_small_file() {
        let same = |size, layout| {
            let stamp = Stamp { ino: 1, size, mtime: Time::default(), ctime: Time::default() };
            Reply::Same(vec![Same { id: 1, stamp, layout, digest: [7; 32], of: 2 }])
        };
        let end = |offset| Layout::Sparse(vec![Extent { offset, length: 4 }]);
        let have = |size, layout| {
            let stamp = Stamp { ino: 1, size, mtime: Time::default(), ctime: Time::default() };
            Reply::Have(vec![Have { id: 1, stamp, layout, prefix: 0xffff, proof: [7; 32] }])
        };
        round_trip(&have(5, Layout::Dense));
        round_trip(&request(b"a".to_vec(), What::Held { prefixes: [Some(7), None, Some(0xffff), None] }, 5));
        round_trip(&Hello::ContentProven { nonce: [9; 32] });
        assert_eq!(
            encode(&have(1024 * 1024 + 1, Layout::Dense), &mut Vec::new()),
            Err(FrameError::Bounds(FrameKind::Reply))
        );
        round_trip(&same(1024 * 1024, Layout::Dense));
        round_trip(&same(9, end(5)));
        for bad in [same(1024 * 1024 + 1, Layout::Dense), same(9, end(6)), same(u64::MAX, end(0))] {
            assert_eq!(encode(&bad, &mut Vec::new()), Err(FrameError::Bounds(FrameKind::Reply)));
        }
        let too_large = request(b"a".to_vec(), What::Bytes, 1024 * 1024 + 1);
        assert_eq!(encode(&too_large, &mut Vec::new()), Err(FrameError::Bounds(FrameKind::Request)));
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let sparse = |extents: &[(u32, u32)]| {
            Layout::Sparse(
                extents.iter().map(|(offset, length)| Extent { offset: *offset, length: *length }).collect(),
            )
        };
        assert_eq!(sparse(&[(0, 4), (4, 4)]).data_bytes(8), Some(8));
        assert_eq!(sparse(&[(0, 4), (3, 4)]).data_bytes(8), None);
        assert_eq!(sparse(&[(4, 5)]).data_bytes(8), None);
        assert_eq!(sparse(&[(4, 0)]).data_bytes(8), None);
        assert_eq!(sparse(&[(u32::MAX, u32::MAX)]).data_bytes(8), None);
        assert_eq!(Layout::Dense.data_bytes(u64::MAX), None);
    }

    fn decodes_without_panic<M: Message>(kind: FrameKind, body: &[u8]) {
        let outcome = decode::<M>(Header { kind, body_bytes: body.len() }, body);
        if let Ok(message) = outcome {
            assert!(message.is_within_bounds());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_message(body in proptest::collection::vec(any::<u8>(), 0..400), small in proptest::collection::vec(0_u8..4, 0..200)) {
            for body in [&body, &small] {
                decodes_without_panic::<Hello>(FrameKind::Hello, body);
                decodes_without_panic::<ToSource>(FrameKind::ToSource, body);
                decodes_without_panic::<ToDestination>(FrameKind::ToDestination, body);
                decodes_without_panic::<Item>(FrameKind::ManifestItem, body);
                decodes_without_panic::<Request>(FrameKind::Request, body);
                decodes_without_panic::<Reply>(FrameKind::Reply, body);
                decodes_without_panic::<Knock>(FrameKind::Knock, body);
                decodes_without_panic::<Spine>(FrameKind::Spine, body);
                let mut rest = body.as_slice();
                while let Ok(Some(_)) = take::<Reply>(&mut rest) {}
            }
        }

        #[test]
        fn any_header_is_an_error_or_within_its_bound(bytes in any::<[u8; HEADER_BYTES]>()) {
            if let Ok(header) = Header::parse(bytes) {
                prop_assert!(header.body_bytes <= header.kind.bytes_max());
                prop_assert_eq!(header.to_bytes().unwrap(), bytes);
            }
        }
    }
}
