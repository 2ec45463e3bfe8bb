//! Attacks on a destination that has an older version of a large file, with what differs from it.

use sync::range::{self, RANGE_BYTES};
use sync::wire::content::{Coding, Failed, Fetch, Layout, Reply, Why};
use sync::wire::delta::{Basis, DeltaReply, Form, Sample, Unlike};

use crate::attack::Attack;
use crate::wire::{REPLY, frame};

/// Returns the bytes that answer a wish for a range of which the destination has something.
pub(crate) fn delta(fetch: &Fetch, index: u64, basis: &Basis, attack: &Attack) -> Vec<u8> {
    let length =
        range::bounds(fetch.stamp.size, index).map_or(RANGE_BYTES, |bounds| bounds.end - bounds.start);
    let all_the_same = Form::Blocks(vec![0xff; 32]);
    let mut delta = DeltaReply {
        id: fetch.id,
        index,
        stamp: fetch.stamp,
        length: u32::try_from(length).unwrap(),
        layout: Layout::Dense,
        value: range::ChainingValue([7; 32]),
        form: all_the_same,
        coding: Coding::Plain,
        stored_bytes: 0,
        content_bytes: 0,
    };
    let mut stored = Vec::new();
    match attack.name.as_str() {
        "delta-wrong" => {}
        "delta-bits" => delta.form = Form::Blocks(vec![0xff; 33]),
        "delta-length" => delta.length -= 1,
        "delta-bomb" => {
            stored = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
            // One block is missing.
            delta.form = Form::Blocks([&[0xfe][..], &[0xff; 31]].concat());
            (delta.coding, delta.content_bytes) = (Coding::Zstd, 4096);
            stored.truncate(4000);
        }
        "delta-unasked" => (delta.form, stored) = (Form::Rolling, copies(0, 1)),
        _ if matches!(basis, Basis::Blocks(_)) || attack.name == "delta-unlike" => {
            let samples = vec![Sample { offset: 77, bytes: *b"0123456789abcdefghijklmnopqrstuv" }];
            return reply(&Reply::Unlike(Unlike { id: fetch.id, samples }));
        }
        "delta-copies" => (delta.form, stored) = (Form::Rolling, copies(u32::MAX, 1 << 20)),
        "delta-swells" => (delta.form, stored) = (Form::Rolling, copies(0, 1 << 20).repeat(9)),
        _ => (delta.form, stored) = (Form::Rolling, vec![0xa5; 4000]),
    }
    delta.stored_bytes = stored.len();
    if delta.coding == Coding::Plain {
        delta.content_bytes = stored.len();
    }
    [reply(&Reply::Delta(delta)), stored].concat()
}

/// Returns librsync's delta that copies so many bytes from there.
fn copies(offset: u32, length: u32) -> Vec<u8> {
    const COPY_4_4: u8 = 0x4f;
    let head = 0x7273_0236_u32.to_be_bytes();
    [&head[..], &[COPY_4_4], &offset.to_be_bytes(), &length.to_be_bytes(), &[0]].concat()
}

/// Returns the refusal of a range that is asked for plainly in the end.
pub(crate) fn plainly(fetch: &Fetch) -> Vec<u8> {
    let why = Why::Unreadable { why: "it is gone".to_owned() };
    reply(&Reply::Failed(vec![Failed { id: fetch.id, why }]))
}

fn reply(reply: &Reply) -> Vec<u8> {
    frame(REPLY, &postcard::to_allocvec(reply).unwrap())
}

/// Whether an attack is one of these.
pub(crate) fn is_about(attack: &Attack) -> bool {
    attack.name.starts_with("delta-")
}
