//! What the passes of these tests bring.

use Wanted::{Absent, Directory, File, Link, Symlink};

use super::world::Ground;

/// What the source has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    File(&'static str, u32),
    Directory(u32),
    Symlink(&'static str),
    /// A further name of the group's anchor.
    Link(&'static str),
    Absent,
}

/// A path and what the source has there, parents before children.
pub(super) type Step = (&'static str, Wanted);

/// The wanted tree of the first pass.
pub(super) fn first_pass(ground: Ground) -> Vec<Step> {
    on(ground, &FIRST, &FIRST_IN_DOMAINS)
}

/// What a later pass finds changed at the source.
pub(super) fn second_pass(ground: Ground) -> Vec<Step> {
    on(ground, &SECOND, &SECOND_IN_DOMAINS)
}

fn on(ground: Ground, everywhere: &[Step], in_domains: &[Step]) -> Vec<Step> {
    let in_domains = if ground.has_domains { in_domains } else { &[] };
    [everywhere, in_domains].concat()
}

const FIRST: [Step; 19] = [
    ("becomes-directory", Directory(0o750)),
    ("becomes-directory/child", File("in a new directory", 0o600)),
    ("becomes-file/inner/x", Absent),
    ("becomes-file/inner", Absent),
    ("becomes-file", File("was a directory", 0o644)),
    ("gone/below/file", Absent),
    ("gone/below", Absent),
    ("gone", Absent),
    ("kept/deep/new", File("new and deep", 0o755)),
    ("kept/deep/replaced", File("deep and new", 0o600)),
    ("link", Symlink("new/target")),
    ("linked-1", Link("anchor-a")),
    ("linked-3", Link("anchor-a")),
    ("metadata", File("same content", 0o2755)),
    ("new", File("brand new", 0o640)),
    ("new-directory", Directory(0o711)),
    ("new-directory/a", File("a", 0o600)),
    ("new-directory/c", File("came with its directory", 0o4755)),
    ("replaced", File("new content", 0o600)),
];

const FIRST_IN_DOMAINS: [Step; 15] = [
    ("disk/becomes-file/inner/x", Absent),
    ("disk/becomes-file/inner", Absent),
    ("disk/becomes-file", File("was a directory", 0o644)),
    ("disk/gone/file", Absent),
    ("disk/gone", Absent),
    ("disk/linked-1", Link("anchor-d")),
    ("disk/linked-2", Link("anchor-d")),
    ("kept/bound/deep/new", File("new, deep and bound", 0o755)),
    ("disk/metadata", File("same content", 0o2755)),
    ("disk/new", File("brand new", 0o640)),
    ("new-too", File("brand new too", 0o640)),
    ("disk/new-directory", Directory(0o711)),
    ("disk/new-directory/a", File("a", 0o600)),
    ("disk/replaced", File("new on the disk", 0o600)),
    ("kept/bound/replaced", Symlink("new/target")),
];

const SECOND: [Step; 6] = [
    ("becomes-file", Directory(0o755)),
    ("kept/deep/new", File("changed since", 0o755)),
    ("metadata", File("other content", 0o600)),
    ("new", Absent),
    ("new-directory/a", File("b", 0o600)),
    ("new-directory/b", Directory(0o755)),
];

const SECOND_IN_DOMAINS: [Step; 5] = [
    ("disk/becomes-file", Directory(0o755)),
    ("disk/metadata", File("other content", 0o600)),
    ("kept/bound/deep/new", File("changed since", 0o755)),
    ("disk/new", Absent),
    ("disk/replaced", File("newer on the disk", 0o600)),
];
