//! Frames of the data port, of every kind that there is.

use std::cell::Cell;
use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::process::getpid;
use sync::codec::{self, Message};
use sync::frame::{FORMAT, FrameKind, HEADER_BYTES, Header};
use sync::pack;
use sync::wire::content::{Reply, Request};
use sync::wire::control::{ToDestination, ToSource};
use sync::wire::hello::Hello;
use sync::wire::manifest::{self, BLOCK_BYTES_MAX, Item};
use sync::wire::spine::{Knock, Spine};
use tests::alteration::{alterations, altered, cases};
use tests::memory;

use crate::draw::draw;

/// What all targets of this program may take together, whatever a frame announces.
const PEAK_BYTES_MAX: u64 = 512 << 20;

/// How frames of one kind are made and read.
struct Target {
    kind: FrameKind,
    /// Makes one out of chance, if that comes to one.
    make: fn(&[u8]) -> Option<Vec<u8>>,
    /// Reads what may be one, and looks at it.
    read: fn(&[u8]),
}

/// Every kind; one that is missing fails a test.
const TARGETS: [Target; 9] = [
    of::<Hello>(),
    of::<ToSource>(),
    of::<ToDestination>(),
    of::<Item>(),
    of::<Request>(),
    of::<Knock>(),
    of::<Spine>(),
    Target { kind: FrameKind::Reply, make: make::<Reply>, read: read_reply },
    Target { kind: FrameKind::ManifestBlock, make: make_block, read: read_block },
];

const fn of<M: Message + PartialEq + Debug>() -> Target {
    Target { kind: M::KIND, make: make::<M>, read: |bytes| drop(read::<M>(bytes)) }
}

fn make<M: Message>(chance: &[u8]) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    codec::encode(&draw::<M>(chance)?, &mut frame).ok()?;
    Some(frame)
}

/// Reads a frame; what it holds is within bounds and reads the same again.
fn read<M: Message + PartialEq + Debug>(mut bytes: &[u8]) -> Option<M> {
    let message = codec::take::<M>(&mut bytes).ok()??;
    assert!(message.is_within_bounds(), "{message:?}");
    let mut again = Vec::new();
    codec::encode(&message, &mut again).unwrap();
    assert_eq!(codec::take::<M>(&mut again.as_slice()), Ok(Some(message)));
    codec::take::<M>(&mut again.as_slice()).unwrap()
}

/// Of an answer also what its bytes would be laid out as.
fn read_reply(bytes: &[u8]) {
    match read::<Reply>(bytes) {
        Some(Reply::Pack(answer)) => {
            let content = vec![7; answer.content_bytes];
            let files = pack::split(&answer, &content).unwrap();
            for (file, data) in files {
                let size = usize::try_from(file.stamp.size).unwrap();
                assert!(
                    pack::pieces(&file.layout, size, data)
                        .all(|(at, piece)| at + piece.len() as u64 <= file.stamp.size)
                );
                pack::content_digest(&file.layout, size, data);
            }
        }
        Some(Reply::Range(answer)) => {
            let (length, content) = (answer.length as usize, vec![7; answer.content_bytes()]);
            let mut pieces = pack::pieces(&answer.layout, length, &content);
            assert!(pieces.all(|(at, piece)| at + piece.len() as u64 <= u64::from(answer.length)));
            pack::range_value(&answer, &content);
        }
        _ => {}
    }
}

/// Items in one compressed block.
fn make_block(chance: &[u8]) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    for chance in chance.chunks(64) {
        raw.extend(make::<Item>(chance).unwrap_or_default());
    }
    let mut body = u32::try_from(raw.len()).unwrap().to_le_bytes().to_vec();
    body.extend(zstd::bulk::compress(&raw, 1).unwrap());
    (!raw.is_empty()).then(|| framed(FrameKind::ManifestBlock, &body))
}

fn read_block(bytes: &[u8]) {
    let Some(Ok((raw_bytes, compressed))) = bytes.get(HEADER_BYTES..).map(manifest::split_block) else {
        return;
    };
    assert!(raw_bytes <= BLOCK_BYTES_MAX);
    let Ok(raw) = zstd::bulk::decompress(compressed, raw_bytes) else { return };
    let mut rest = raw.as_slice();
    while let Ok(Some(_item)) = codec::take::<Item>(&mut rest) {}
}

/// Puts a header before a body that says how long it is.
fn framed(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[kind.number(), FORMAT], &length[..], body].concat()
}

#[test]
fn every_kind_of_frame_is_a_target() {
    for number in 0..=u8::MAX {
        if let Ok(Header { kind, body_bytes: _ }) = Header::parse([number, FORMAT, 0, 0, 0, 0]) {
            assert!(TARGETS.iter().any(|target| target.kind == kind), "{kind:?} has no target here");
        }
    }
}

#[test]
fn altered_frames_are_an_error_or_a_message() {
    for target in TARGETS {
        let (made, drawn) = (Cell::new(0), Cell::new(0));
        let chance = proptest::collection::vec(any::<u8>(), 0..400);
        let run = |(chance, alterations, is_whole): (Vec<u8>, Vec<_>, bool)| {
            drawn.set(drawn.get() + 1);
            let Some(frame) = (target.make)(&chance) else { return Ok(()) };
            made.set(made.get() + 1);
            (target.read)(&frame);
            // Mostly the frame says how long it is, so that its body is read.
            let bytes = match is_whole {
                true => framed(target.kind, &altered(&frame[HEADER_BYTES..], &alterations)),
                false => altered(&frame, &alterations),
            };
            (target.read)(&bytes);
            Ok(())
        };
        let strategy = (chance, alterations(), proptest::bool::weighted(0.9));
        TestRunner::new(cases(1_000)).run(&strategy, run).unwrap();
        let (made, drawn) = (made.get(), drawn.get());
        assert!(made * 10 > drawn, "{:?}: of {drawn} only {made} were frames", target.kind);
    }
    let peak = memory::peak_bytes(getpid());
    assert!(peak < PEAK_BYTES_MAX, "{} MiB were taken", peak >> 20);
}
