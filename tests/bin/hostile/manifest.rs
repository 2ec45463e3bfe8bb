//! Manifests that no honest source sends.

use std::io::Write;
use std::iter;

use sync::byte_string::ByteString;
use sync::entry::{Entry, Kind};
use sync::listing::{Listing, ListingEnd, Problem};
use sync::stamp::Time;
use sync::wire::manifest::{End, Head, Item, Names};

use crate::attack::Attack;
use crate::tree::{Tree, directory, entry, file, link, listing, with_xattr};
use crate::wire::{MANIFEST_BLOCK, MANIFEST_ITEM, TO_DESTINATION, block, block_of, frame, header, message};

/// Frames of a manifest lane; some have no end.
pub(crate) type Frames = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// Raw items that grow to many times their bytes once they are values.
const SWOLLEN_BYTES: usize = 4 * 1024 * 1024;

/// Returns what is sent as a manifest.
pub(crate) fn frames(attack: &Attack, tree: &Tree) -> Frames {
    if let Some(frames) = of_bytes(attack, tree) {
        return frames;
    }
    let mut top = tree.top();
    let mut below = vec![listing(b"pages", tree.pages())];
    if !alter_names(attack, &mut top, &mut below) {
        alter_entries(attack, &mut top, &mut below);
    }
    let is_unordered = matches!(attack.name.as_str(), "unordered" | "duplicate");
    if !is_unordered {
        top.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let mut listings = vec![listing(b"", top)];
    below.sort_by(|a, b| a.path.cmp(&b.path));
    listings.extend(below);
    alter_listings(attack, &mut listings);
    whole(attack, listings)
}

fn item(item: &Item) -> Vec<u8> {
    message(MANIFEST_ITEM, item)
}

fn names() -> Names {
    let root = || vec![(0, ByteString(b"root".to_vec()))];
    Names { users: root(), groups: root() }
}

fn head() -> Vec<u8> {
    let mut root = directory(b"");
    root.ino = 999;
    let head = Item::Head(Head { started: Time { seconds: 2_000_000_000, nanos: 0 }, root });
    [item(&Item::Names(names())), item(&head)].concat()
}

/// Returns a manifest of these listings with a beginning and an end.
fn whole(attack: &Attack, listings: Vec<Listing>) -> Frames {
    let entries = listings.iter().map(|listing| listing.entries.len() as u64).sum();
    let mut end = End { entries, directories: listings.len() as u64 };
    if attack.name == "false-totals" {
        end.entries = u64::MAX;
    }
    let mut frames = vec![block(&head())];
    frames.extend(listings.into_iter().map(|listing| block(&item(&Item::Listing(listing)))));
    if attack.name != "no-end" {
        frames.push(block(&item(&Item::End(end))));
    }
    Box::new(frames.into_iter())
}

/// Attacks by names; says whether it was one.
fn alter_names(attack: &Attack, top: &mut Vec<Entry>, below: &mut [Listing]) -> bool {
    let bad: &[u8] = match attack.name.as_str() {
        "name-dot-dot" => b"..",
        "name-dot" => b".",
        "name-empty" => b"",
        "name-nul" => b"in\0dex",
        "name-absolute" => b"/etc/drover-was-here",
        "name-slash" => b"pages/escape",
        "name-climbing" => b"../escape",
        "name-300" => &[b'n'; 300],
        "name-2000" => &[b'n'; 2000],
        "name-terminal" => b"\x1b]0;owned\x07\x1b[2J",
        _ => return false,
    };
    match attack.aim.as_str() {
        "below" => below[0].entries.insert(0, file(bad, 5)),
        "directory" => top.insert(0, directory(bad)),
        _ => top.insert(0, file(bad, 5)),
    }
    true
}

/// Attacks by what an entry says of itself.
fn alter_entries(attack: &Attack, top: &mut Vec<Entry>, below: &mut Vec<Listing>) {
    let huge = |size| entry(b"huge", Kind::File { size, allocated_bytes: 0 });
    match attack.name.as_str() {
        "duplicate" => top.push(file(b"pages", 5)),
        "unordered" => top.reverse(),
        "link-out" => top.push(link(b"door", &attack.aim)),
        "through-link" => {
            top.push(link(b"door", &attack.aim));
            below.push(listing(b"door", vec![file(b"planted", 5)]));
        }
        "directory-where-link-was" => {
            top.push(directory(b"door"));
            below.push(listing(b"door", vec![file(b"planted", 5)]));
        }
        "hard-link-out" => {
            let (dev, ino) = attack.aim.split_once(':').unwrap_or_default();
            for name in [b"hard-1", b"hard-2"] {
                let mut entry = file(name, 5);
                (entry.dev, entry.ino, entry.nlink) = (dev.parse().unwrap_or(0), ino.parse().unwrap_or(0), 3);
                top.push(entry);
            }
        }
        name if name.starts_with("delta-") => top.push(file(b"image", 3 << 20)),
        "size-u64" => top.push(huge(u64::MAX)),
        "size-i64" => top.push(huge(i64::MAX as u64)),
        "size-2t" => top.push(huge(2 << 40)),
        "many-huge" => {
            top.extend(
                (0..100)
                    .map(|number| Entry { name: format!("huge-{number:03}").into_bytes(), ..huge(1 << 40) }),
            );
        }
        "sizes-overflow" => {
            top.extend((0..9).map(|number| Entry {
                name: format!("huge-{number}").into_bytes(),
                ..huge(i64::MAX as u64)
            }));
        }
        "owner-of-nobody" => top.push(Entry { uid: u32::MAX, mode: 0o4755, ..file(b"tool", 5) }),
        "time-of-now" => {
            top.push(Entry { mtime: Time { seconds: 0, nanos: 0x3fff_ffff }, ..file(b"tool", 5) });
        }
        "mode-beyond" => top.push(Entry { mode: 0o170_000, ..file(b"tool", 5) }),
        "xattr-3m" => top.push(with_xattr(file(b"tool", 5), "user.big", vec![7; 3 << 20])),
        "xattr-200k" => top.push(with_xattr(file(b"tool", 5), "user.big", vec![7; 200 << 10])),
        "xattr-odd" => {
            let tool = with_xattr(file(b"tool", 5), "security.drover", b"x".to_vec());
            let tool = with_xattr(tool, "system.drover", b"x".to_vec());
            top.push(with_xattr(tool, "trusted.overlay.opaque", b"y".to_vec()));
        }
        "xattr-capability" => {
            top.push(with_xattr(file(b"tool", 5), "security.capability", b"garbage".to_vec()));
        }
        "xattr-acl" => {
            top.push(with_xattr(file(b"tool", 5), "system.posix_acl_access", vec![9; 4000]));
        }
        "xattr-nul" => top.push(with_xattr(file(b"tool", 5), "user.a\0b", b"x".to_vec())),
        "setuid" => top.push(Entry { mode: 0o6755, ..file(b"tool", 5) }),
        "device" => {
            top.push(entry(b"memory", Kind::CharacterDevice { major: 1, minor: 1 }));
            top.push(entry(b"disk", Kind::BlockDevice { major: 7, minor: 200 }));
        }
        "root-odd" | "none" => {}
        _ => {}
    }
}

/// Attacks by the order and the form of listings.
fn alter_listings(attack: &Attack, listings: &mut Vec<Listing>) {
    let escaping = || vec![file(b"planted", 5)];
    match attack.name.as_str() {
        "listing-unannounced" => listings.push(listing(b"somewhere", escaping())),
        "listing-twice" => listings.push(listing(b"pages", escaping())),
        "listing-missing" => listings.truncate(1),
        "stage-name" => listings[0].stages.push(ByteString(b"../../escape".to_vec())),
        "problem-name" => {
            listings[0].problems.push(Problem { name: b"../escape".to_vec(), why: "because".to_owned() });
        }
        "problem-terminal" => {
            let why = "\u{1b}]0;owned\u{7}".repeat(300);
            listings[0].problems.push(Problem { name: b"secret".to_vec(), why });
        }
        "end-endless" => {
            listings[1].end = ListingEnd::Unreadable { why: "x".repeat(3 << 20) };
        }
        "deep" => {
            // Each directory holds the next one.
            let mut path = Vec::new();
            listings[0].entries.push(directory(&[b'd'; 200]));
            for depth in 0..400 {
                path.extend_from_slice(if depth == 0 { b"" } else { b"/" });
                path.extend_from_slice(&[b'd'; 200]);
                let entries = if depth == 399 { escaping() } else { vec![directory(&[b'd'; 200])] };
                listings.insert(depth + 1, listing(&path, entries));
            }
            listings[0].entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
        _ => {}
    }
}

/// Attacks by bytes that are no manifest, or one without end.
fn of_bytes(attack: &Attack, tree: &Tree) -> Option<Frames> {
    let one = |frame: Vec<u8>| -> Option<Frames> { Some(Box::new(iter::once(frame))) };
    let begun = |rest: Frames| -> Option<Frames> { Some(Box::new(iter::once(block(&head())).chain(rest))) };
    match attack.name.as_str() {
        "garbage-manifest" => one((0..200_000_u32).flat_map(u32::to_le_bytes).collect()),
        "garbage-block" => one(frame(MANIFEST_BLOCK, &[0xa5; 4000])),
        "frame-endless" => one(header(MANIFEST_BLOCK, u32::MAX)),
        "frame-misplaced" => one(frame(TO_DESTINATION, b"x")),
        "path-climbing" => {
            // A listing whose path climbs, by hand.
            let mut body = vec![2, 9];
            body.extend_from_slice(b"../escape");
            body.extend_from_slice(&[0, 0, 0, 0, 1]);
            begun(Box::new(iter::once(block(&frame(MANIFEST_ITEM, &body)))))
        }
        "count-endless" => {
            // A list of names that says it has 2^62 elements.
            let body = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f];
            begun(Box::new(iter::once(block(&frame(MANIFEST_ITEM, &body)))))
        }
        "bomb-block" => one(bomb()),
        "bomb-claims-4g" => one(block_of(&[0; 1000], usize::try_from(u32::MAX).ok()?)),
        "swollen-items" => {
            let empty = item(&Item::Names(Names::default()));
            let block = block(&empty.repeat(SWOLLEN_BYTES / empty.len()));
            begun(Box::new(iter::repeat_n(block, 8)))
        }
        "swollen-names" => {
            let mut body = vec![1];
            body.extend(postcard::to_allocvec(&1_000_000_u32).ok()?);
            body.extend([1, 1, b'x'].repeat(1_000_000));
            begun(Box::new(iter::repeat_n(block(&frame(MANIFEST_ITEM, &body)), 4)))
        }
        "swollen-xattrs" => begun(Box::new(iter::once(swollen_xattrs()))),
        "swollen-entries" => begun(Box::new(swollen_entries())),
        "endless-names" => begun(Box::new((0..).map(endless_names))),
        "endless-head" => Some(Box::new(iter::repeat(block(&head())))),
        "endless-entries" => begun(Box::new((0..).map(endless_entries))),
        "silence" => begun(Box::new(iter::empty())),
        "slow" => {
            let bytes: Vec<u8> =
                frames(&Attack { name: "none".to_owned(), ..attack.clone() }, tree).flatten().collect();
            Some(Box::new(bytes.into_iter().map(|byte| vec![byte])))
        }
        _ => None,
    }
}

/// A gigabyte of zeros in a block that says it holds a little.
fn bomb() -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..1024 {
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    let mut body = 1000_u32.to_le_bytes().to_vec();
    body.extend(encoder.finish().unwrap());
    frame(MANIFEST_BLOCK, &body)
}

/// One listing whose one entry has a million attributes of three bytes.
fn swollen_xattrs() -> Vec<u8> {
    let mut tool = file(b"tool", 5);
    tool.xattrs = vec![(ByteString(b"u".to_vec()), ByteString(Vec::new())); 1_000_000];
    block(&item(&Item::Listing(listing(b"", vec![tool]))))
}

/// Blocks full of parts of the root whose entries are as small as they can be.
fn swollen_entries() -> impl Iterator<Item = Vec<u8>> + Send {
    (0..4_u32).map(|number| {
        let mut raw = Vec::new();
        for part in 0..100_u32 {
            let first = (number * 100 + part) * 1024;
            let entries =
                (first..first + 1024).map(|number| entry(format!("f{number:07}").as_bytes(), Kind::Fifo));
            let mut listing = listing(b"", entries.collect());
            (listing.part, listing.end) = (number * 100 + part, ListingEnd::More);
            raw.extend(item(&Item::Listing(listing)));
        }
        block(&raw)
    })
}

/// The names of a thousand further users.
fn endless_names(number: u32) -> Vec<u8> {
    let names = (number * 1000..(number + 1) * 1000)
        .map(|id| (id, ByteString(format!("user-{id:0200}").into_bytes())));
    block(&item(&Item::Names(Names { users: names.collect(), groups: Vec::new() })))
}

/// A thousand further fifos of the root.
fn endless_entries(number: u32) -> Vec<u8> {
    let first = u64::from(number) * 1000;
    let entries = (first..first + 1000).map(|number| entry(format!("f{number:012}").as_bytes(), Kind::Fifo));
    let mut listing = listing(b"", entries.collect());
    (listing.part, listing.end) = (number, ListingEnd::More);
    block(&item(&Item::Listing(listing)))
}
