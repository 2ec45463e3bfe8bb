//! What differs between two trees, as one ordered sequence of decisions.
//!
//! Both trees come as listings in their order (see [`crate::listing`]); [`Join`] walks the two like the merge of two
//! sorted lists and holds one part of each. What has to be done about a decision is the destination's matter; nothing
//! here knows deletes, owners' names or digests.
//!
//! An entry that only the destination has is [`Found::Extra`] only where the source's directory is known to be there;
//! whether that directory was listed whole is known at its [`Decision::Ended`], which comes behind its entries. Below a
//! directory that was not, and below a name that the source could not look at, everything the source does not show is
//! [`Found::Unknown`].

use std::cmp::Ordering;

use common::rel_path::RelPath;

use crate::entry::{Entry, Kind};
use crate::listing::{Listing, ListingEnd, Problem};
use crate::subtrees::Subtrees;

/// One step of the comparison of two trees.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are entries, and a box for each would cost an allocation"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A directory begins; its entries follow, then its `Ended`.
    Began {
        /// The directory.
        path: RelPath,
        /// Whether the source lists it.
        is_at_source: bool,
        /// Whether the destination lists it.
        is_at_destination: bool,
    },
    /// One name of the directory that began last.
    Entry(Found),
    /// A stage of a migration, passed over.
    Stage {
        /// Its name in the directory that began last.
        name: Vec<u8>,
        /// Whether it stands at the source.
        is_at_source: bool,
    },
    /// The directory has ended.
    Ended {
        /// The directory.
        path: RelPath,
        /// How the source's listing ended, if there was one.
        source: Option<ListingEnd>,
        /// How the destination's listing ended, if there was one.
        destination: Option<ListingEnd>,
    },
}

/// One name, as the two sides have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Only the source has it.
    Missing {
        /// The source's.
        source: Entry,
    },
    /// Both have it.
    Both {
        /// The source's.
        source: Entry,
        /// The destination's.
        destination: Entry,
    },
    /// Only the destination has it. It may be removed once its directory's `Ended` says `Complete` for the source, or
    /// no source listing for a directory that is itself extra.
    Extra {
        /// The destination's.
        destination: Entry,
    },
    /// The destination has it, and whether the source has it cannot be known.
    Unknown {
        /// The destination's.
        destination: Entry,
    },
    /// One side could not look at it.
    Problem {
        /// What the source could not look at.
        source: Option<Problem>,
        /// What the destination could not look at.
        destination: Option<Problem>,
        /// The source's entry, where only the destination could not look.
        source_entry: Option<Entry>,
        /// The destination's entry, where only the source could not look.
        destination_entry: Option<Entry>,
    },
}

/// Yields decisions out of two sequences of listings.
///
/// The first error of either sequence ends it.
#[derive(Debug)]
pub struct Join<S, D, E>
where
    S: Iterator<Item = Result<Listing, E>>,
    D: Iterator<Item = Result<Listing, E>>,
{
    source: Side<S>,
    destination: Side<D>,
    /// Directories of which the source does not show all, or nothing.
    unknown: Subtrees,
    open: Option<OpenDirectory>,
    is_failed: bool,
    error: std::marker::PhantomData<E>,
}

#[derive(Debug)]
struct OpenDirectory {
    path: RelPath,
    is_at_source: bool,
    is_at_destination: bool,
    is_below_unknown: bool,
    /// Whether more of its directories than can be noted could not be looked at by the source.
    is_unseen: bool,
}

/// One tree: its listings, and the items of the directory that is open.
#[derive(Debug)]
struct Side<I> {
    listings: I,
    /// The next listing of another directory.
    ahead: Option<Listing>,
    /// Items of the open directory, in order, the next one last.
    items: Vec<Item>,
    stages: Vec<Vec<u8>>,
    /// How the part that is loaded ends.
    end: ListingEnd,
}

#[derive(Debug)]
enum Item {
    Entry(Entry),
    Problem(Problem),
}

impl Item {
    fn name(&self) -> &[u8] {
        match self {
            Self::Entry(entry) => &entry.name,
            Self::Problem(problem) => &problem.name,
        }
    }
}

impl<I, E> Side<I>
where
    I: Iterator<Item = Result<Listing, E>>,
{
    fn new(listings: I) -> Self {
        Self { listings, ahead: None, items: Vec::new(), stages: Vec::new(), end: ListingEnd::Complete }
    }

    /// Looks at the next directory.
    fn peek(&mut self) -> Result<Option<&RelPath>, E> {
        if self.ahead.is_none() {
            self.ahead = self.listings.next().transpose()?;
        }
        Ok(self.ahead.as_ref().map(|listing| &listing.path))
    }

    /// Opens the directory that was looked at.
    fn open(&mut self) {
        if let Some(listing) = self.ahead.take() {
            self.load(listing);
        }
    }

    fn load(&mut self, listing: Listing) {
        let Listing { path: _, part: _, entries, problems, stages, end } = listing;
        self.items =
            entries.into_iter().map(Item::Entry).chain(problems.into_iter().map(Item::Problem)).collect();
        // Both lists come sorted, so this is a merge; the next one is taken off the end.
        self.items.sort_by(|a, b| b.name().cmp(a.name()));
        self.stages.extend(stages.into_iter().map(|name| name.0));
        self.end = end;
    }

    /// Makes sure that the next item of the open directory is loaded, if there is one.
    fn fill(&mut self) -> Result<(), E> {
        while self.items.is_empty() && self.end == ListingEnd::More {
            match self.listings.next().transpose()? {
                Some(listing) => self.load(listing),
                // The sequence is cut; whoever checks it says so. Nothing more is known here.
                None => self.end = ListingEnd::Unreadable { why: "the listing is cut off".to_owned() },
            }
        }
        Ok(())
    }
}

impl<S, D, E> Join<S, D, E>
where
    S: Iterator<Item = Result<Listing, E>>,
    D: Iterator<Item = Result<Listing, E>>,
{
    /// Compares two sequences of listings, each in order.
    pub fn new(source: S, destination: D) -> Self {
        Self {
            source: Side::new(source),
            destination: Side::new(destination),
            unknown: Subtrees::default(),
            open: None,
            is_failed: false,
            error: std::marker::PhantomData,
        }
    }

    fn advance(&mut self) -> Result<Option<Decision>, E> {
        let Some(open) = &self.open else { return self.begin() };
        if open.is_at_source {
            self.source.fill()?;
        }
        if open.is_at_destination {
            self.destination.fill()?;
        }
        if let Some(name) = self.source.stages.pop() {
            return Ok(Some(Decision::Stage { name, is_at_source: true }));
        }
        if let Some(name) = self.destination.stages.pop() {
            return Ok(Some(Decision::Stage { name, is_at_source: false }));
        }
        let order = match (self.source.items.last(), self.destination.items.last()) {
            (None, None) => return Ok(Some(self.end())),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(source), Some(destination)) => source.name().cmp(destination.name()),
        };
        let source = if order.is_le() { self.source.items.pop() } else { None };
        let destination = if order.is_ge() { self.destination.items.pop() } else { None };
        if let (Some(Item::Problem(_)), Some(Item::Entry(present))) = (&source, &destination)
            && present.kind == Kind::Directory
        {
            self.note_unseen(&present.name);
        }
        let is_unknown = self.open.as_ref().is_some_and(|open| open.is_below_unknown);
        Ok(found(source, destination, is_unknown).map(Decision::Entry))
    }

    fn begin(&mut self) -> Result<Option<Decision>, E> {
        let source = self.source.peek()?.cloned();
        let destination = self.destination.peek()?.cloned();
        let (path, is_at_source, is_at_destination) = match (source, destination) {
            (None, None) => return Ok(None),
            (Some(path), None) => (path, true, false),
            (None, Some(path)) => (path, false, true),
            (Some(source), Some(destination)) => match source.cmp(&destination) {
                Ordering::Less => (source, true, false),
                Ordering::Equal => (source, true, true),
                Ordering::Greater => (destination, false, true),
            },
        };
        if is_at_source {
            self.source.open();
        }
        if is_at_destination {
            self.destination.open();
        }
        self.unknown.advance(&path);
        // What the source lists itself is known, whatever is above it.
        let is_below_unknown = !is_at_source && self.unknown.holds(&path);
        self.open = Some(OpenDirectory {
            path: path.clone(),
            is_at_source,
            is_at_destination,
            is_below_unknown,
            is_unseen: false,
        });
        Ok(Some(Decision::Began { path, is_at_source, is_at_destination }))
    }

    /// Notes a directory of the destination, in the open one, of which the source cannot say what it is.
    fn note_unseen(&mut self, name: &[u8]) {
        let Some(open) = &mut self.open else { return };
        match open.path.join(name) {
            Ok(path) if !self.unknown.is_full() => self.unknown.mark(path),
            // The listing counts as one that is not whole.
            Ok(_) | Err(_) => open.is_unseen = true,
        }
    }

    fn end(&mut self) -> Decision {
        let open = self.open.take();
        let (path, is_at_source, is_at_destination, is_unseen) = open
            .map_or((RelPath::root(), false, false, false), |open| {
                (open.path, open.is_at_source, open.is_at_destination, open.is_unseen)
            });
        let mut source = is_at_source.then(|| std::mem::replace(&mut self.source.end, ListingEnd::Complete));
        if is_unseen && source == Some(ListingEnd::Complete) {
            let why = "too many of its entries could not be looked at".to_owned();
            source = Some(ListingEnd::Unreadable { why });
        }
        let destination =
            is_at_destination.then(|| std::mem::replace(&mut self.destination.end, ListingEnd::Complete));
        if source.as_ref().is_some_and(|end| *end != ListingEnd::Complete) {
            self.unknown.mark(path.clone());
        }
        Decision::Ended { path, source, destination }
    }
}

/// Says what stands at one name; nothing only when neither side has it.
fn found(source: Option<Item>, destination: Option<Item>, is_unknown: bool) -> Option<Found> {
    Some(match (source, destination) {
        (None, None) => return None,
        (Some(Item::Entry(source)), None) => Found::Missing { source },
        (None, Some(Item::Entry(destination))) if is_unknown => Found::Unknown { destination },
        (None, Some(Item::Entry(destination))) => Found::Extra { destination },
        (Some(Item::Entry(source)), Some(Item::Entry(destination))) => Found::Both { source, destination },
        (source, destination) => {
            let (source_entry, source) = parted(source);
            let (destination_entry, destination) = parted(destination);
            Found::Problem { source, destination, source_entry, destination_entry }
        }
    })
}

fn parted(item: Option<Item>) -> (Option<Entry>, Option<Problem>) {
    match item {
        Some(Item::Entry(entry)) => (Some(entry), None),
        Some(Item::Problem(problem)) => (None, Some(problem)),
        None => (None, None),
    }
}

impl<S, D, E> Iterator for Join<S, D, E>
where
    S: Iterator<Item = Result<Listing, E>>,
    D: Iterator<Item = Result<Listing, E>>,
{
    type Item = Result<Decision, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_failed {
            return None;
        }
        let next = self.advance();
        self.is_failed = next.is_err();
        next.transpose()
    }
}

/// What of two entries of one name is not the same. Times of change (`ctime`), inodes and link counts are each host's
/// own and are not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent attribute, as in rsync's itemised list"
)]
pub struct Difference {
    /// Another kind, or a device with other numbers: nothing of it can be kept.
    pub kind: bool,
    /// A file's size, or a link's text.
    pub content: bool,
    /// Last change of the content, as well as the destination can keep it.
    pub mtime: bool,
    /// Permission, set-id and sticky bits; never for links, which have none.
    pub mode: bool,
    /// The owner.
    pub uid: bool,
    /// The group.
    pub gid: bool,
    /// Extended attributes.
    pub xattrs: bool,
}

impl Difference {
    /// Compares the source's entry, its owners already translated, with the destination's.
    pub fn between(source: &Entry, destination: &Entry) -> Self {
        let (kind, content) = match (&source.kind, &destination.kind) {
            (Kind::File { size, .. }, Kind::File { size: present, .. }) => (false, size != present),
            (Kind::Symlink { target }, Kind::Symlink { target: present }) => (false, target != present),
            (wanted, present) => (wanted != present, false),
        };
        let is_link = matches!(source.kind, Kind::Symlink { .. });
        Self {
            kind,
            content,
            mtime: !source.mtime.is_kept_as(destination.mtime, destination.ctime),
            mode: source.mode != destination.mode && !is_link,
            uid: source.uid != destination.uid,
            gid: source.gid != destination.gid,
            xattrs: source.xattrs != destination.xattrs,
        }
    }

    /// Whether nothing differs.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a file's content must be taken for changed: size and time tell, as for rsync.
    pub fn needs_content(&self) -> bool {
        self.kind || self.content || self.mtime
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    use common::rel_path::RelPath;
    use proptest::prelude::*;

    use super::{Decision, Difference, Found, Join};
    use crate::byte_string::ByteString;
    use crate::entry::{Entry, Kind};
    use crate::listing::{Listing, ListingEnd, ListingOrder, Problem};
    use crate::stamp::Time;

    /// A tree: what stands at each path, the root left out.
    type Tree = BTreeMap<RelPath, Entry>;

    fn entry(name: &[u8], kind: Kind, seed: u8) -> Entry {
        // Links have no mode of their own.
        let mode = if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { u32::from(seed % 4) * 0o111 };
        Entry {
            name: name.to_vec(),
            kind,
            mode,
            uid: u32::from(seed % 3),
            gid: 0,
            mtime: Time { seconds: i64::from(seed / 64), nanos: 0 },
            ctime: Time::default(),
            dev: 1,
            ino: 1,
            nlink: 1,
            xattrs: if seed.is_multiple_of(5) {
                vec![(ByteString(b"user.a".to_vec()), ByteString(vec![seed]))]
            } else {
                Vec::new()
            },
        }
    }

    /// Trees of up to three levels over few names, so that two of them have much in common.
    fn trees() -> impl Strategy<Value = Tree> {
        let object = (proptest::collection::vec(0_usize..4, 1..4), 0_u8..4, any::<u8>());
        proptest::collection::vec(object, 0..25).prop_map(|objects| {
            const NAMES: [&[u8]; 4] = [b"a", b"a.b", b"b", b"\xff"];
            let mut tree = Tree::new();
            for (names, kind, seed) in objects {
                let mut path = RelPath::root();
                for (depth, name) in names.iter().enumerate() {
                    if let Some(parent) = tree.get(&path)
                        && parent.kind != Kind::Directory
                    {
                        break;
                    }
                    path = path.join(NAMES[*name]).unwrap();
                    let kind = match kind {
                        _ if depth + 1 < names.len() => Kind::Directory,
                        0 => Kind::Directory,
                        1 => Kind::Symlink { target: vec![b'a' + seed % 3] },
                        _ => Kind::File { size: u64::from(seed % 7), allocated_bytes: 0 },
                    };
                    tree.entry(path.clone()).or_insert_with(|| entry(NAMES[*name], kind, seed));
                }
            }
            tree
        })
    }

    fn directories(tree: &Tree) -> Vec<RelPath> {
        let below =
            tree.iter().filter(|(_, entry)| entry.kind == Kind::Directory).map(|(path, _)| path.clone());
        std::iter::once(RelPath::root()).chain(below).collect()
    }

    /// The tree as a scan tells it, in parts of this many entries; directories in `unread` could not be read.
    fn listings(tree: &Tree, part_entries: usize, unread: &BTreeSet<RelPath>) -> Vec<Listing> {
        let mut listings = Vec::new();
        for path in directories(tree) {
            if unread.iter().any(|above| path != *above && path.is_within(above)) {
                continue;
            }
            let is_unread = unread.contains(&path);
            let is_child =
                |(at, _): &(&RelPath, &Entry)| at.split().is_some_and(|(parent, _)| parent == path);
            let entries: Vec<Entry> = tree.iter().filter(is_child).map(|(_, entry)| entry.clone()).collect();
            let entries = if is_unread { Vec::new() } else { entries };
            let mut parts: Vec<Vec<Entry>> = entries.chunks(part_entries).map(<[Entry]>::to_vec).collect();
            if parts.is_empty() {
                parts.push(Vec::new());
            }
            let count = parts.len();
            for (part, entries) in parts.into_iter().enumerate() {
                let end = match part + 1 == count {
                    false => ListingEnd::More,
                    true if is_unread => ListingEnd::Unreadable { why: "test".to_owned() },
                    true => ListingEnd::Complete,
                };
                let part = u32::try_from(part).unwrap();
                listings.push(Listing {
                    path: path.clone(),
                    part,
                    entries,
                    problems: Vec::new(),
                    stages: Vec::new(),
                    end,
                });
            }
        }
        listings
    }

    fn join(source: Vec<Listing>, destination: Vec<Listing>) -> Vec<Decision> {
        let source = source.into_iter().map(Ok::<_, Infallible>);
        Join::new(source, destination.into_iter().map(Ok)).map(|decision| decision.unwrap()).collect()
    }

    /// Does what decisions ask for, as a destination with `--delete` would.
    fn act(tree: &Tree, decisions: Vec<Decision>) -> Tree {
        let mut result = tree.clone();
        let mut at = RelPath::root();
        let mut extra = Vec::new();
        for decision in decisions {
            match decision {
                Decision::Began { path, .. } => at = path,
                Decision::Entry(Found::Missing { source }) => {
                    result.insert(at.join(&source.name).unwrap(), source);
                }
                Decision::Entry(Found::Both { source, destination }) => {
                    if !Difference::between(&source, &destination).is_none() {
                        result.insert(at.join(&source.name).unwrap(), source);
                    }
                }
                Decision::Entry(Found::Extra { destination }) => {
                    extra.push(at.join(&destination.name).unwrap());
                }
                Decision::Entry(Found::Unknown { .. } | Found::Problem { .. }) | Decision::Stage { .. } => {}
                Decision::Ended { path, source, .. } => {
                    if source.is_some_and(|end| end != ListingEnd::Complete) {
                        extra.retain(|at: &RelPath| at.split().is_some_and(|(parent, _)| parent != path));
                    }
                }
            }
        }
        for path in extra {
            result.remove(&path);
        }
        result
    }

    fn is_ordered(listings: &[Listing]) -> bool {
        let mut order = ListingOrder::new();
        listings.iter().all(|listing| order.accept(listing).is_ok()) && order.finish().is_ok()
    }

    proptest! {
        #[test]
        fn diff_then_act_is_equal(source in trees(), destination in trees(), parts in 1_usize..4) {
            let nothing = BTreeSet::new();
            let (from, to) = (listings(&source, parts, &nothing), listings(&destination, 2, &nothing));
            prop_assert!(is_ordered(&from) && is_ordered(&to));
            prop_assert_eq!(&act(&destination, join(from.clone(), to)), &source);
            let again = join(from, listings(&source, 1, &nothing));
            let is_same = |decision: &Decision| match decision {
                Decision::Entry(Found::Both { source, destination }) => Difference::between(source, destination).is_none(),
                Decision::Entry(_) | Decision::Stage { .. } => false,
                Decision::Began { is_at_source, is_at_destination, .. } => *is_at_source && *is_at_destination,
                Decision::Ended { .. } => true,
            };
            prop_assert!(again.iter().all(is_same));
        }

        #[test]
        fn nothing_is_removed_below_what_could_not_be_read(source in trees(), destination in trees(), which in 0_usize..9) {
            let all = directories(&source);
            let unread = BTreeSet::from([all[which % all.len()].clone()]);
            let decisions = join(listings(&source, 2, &unread), listings(&destination, 2, &BTreeSet::new()));
            let result = act(&destination, decisions);
            for path in destination.keys().filter(|path| unread.iter().any(|above| *path != above && path.is_within(above))) {
                // The unreadable directory may itself stand where the destination has none.
                prop_assert!(result.contains_key(path), "{} is gone", path);
            }
        }

        #[test]
        fn nothing_is_removed_below_what_could_not_be_looked_at(
            source in trees(),
            destination in trees(),
            which in proptest::collection::btree_set(0_usize..9, 1..4),
        ) {
            let all: Vec<RelPath> = source.keys().cloned().collect();
            prop_assume!(!all.is_empty());
            let which: BTreeSet<RelPath> = which.into_iter().map(|at| all[at % all.len()].clone()).collect();
            let nothing = BTreeSet::new();
            let from = unseen(listings(&source, 2, &nothing), &which);
            prop_assert!(is_ordered(&from));
            let result = act(&destination, join(from, listings(&destination, 2, &nothing)));
            for path in destination.keys().filter(|path| which.iter().any(|above| path.is_within(above))) {
                prop_assert!(result.contains_key(path), "{} is gone", path);
            }
        }

        #[test]
        fn any_other_sequence_is_refused(tree in trees(), from in 0_usize..20, to in 0_usize..20) {
            let mut mixed = listings(&tree, 2, &BTreeSet::new());
            prop_assume!(mixed.len() > 1);
            let (from, to) = (from % mixed.len(), to % mixed.len());
            prop_assume!(from != to);
            let moved = mixed.remove(from);
            prop_assert!(!is_ordered(&mixed));
            mixed.insert(to, moved);
            prop_assert!(!is_ordered(&mixed));
        }
    }

    /// Has the source fail to look at some of its names: each is a problem, and has no listing.
    fn unseen(mut listings: Vec<Listing>, which: &BTreeSet<RelPath>) -> Vec<Listing> {
        listings.retain(|listing| !which.iter().any(|above| listing.path.is_within(above)));
        for listing in &mut listings {
            let path = listing.path.clone();
            let is_unseen = |entry: &mut Entry| which.contains(&path.join(&entry.name).unwrap());
            let unseen = listing.entries.extract_if(.., is_unseen);
            listing.problems =
                unseen.map(|entry| Problem { name: entry.name, why: "test".to_owned() }).collect();
        }
        listings
    }

    #[test]
    fn problems_keep_what_stands_there() {
        let file = |name: &[u8]| entry(name, Kind::File { size: 1, allocated_bytes: 0 }, 1);
        let listing = |entries, problems| Listing {
            path: RelPath::root(),
            part: 0,
            entries,
            problems,
            stages: vec![ByteString(b".drover-x-1".to_vec())],
            end: ListingEnd::Complete,
        };
        let problem = |name: &[u8]| Problem { name: name.to_vec(), why: "test".to_owned() };
        let decisions = join(
            vec![listing(vec![file(b"a"), file(b"c")], vec![problem(b"b")])],
            vec![listing(vec![file(b"a"), file(b"b")], vec![problem(b"c")])],
        );
        let found: Vec<&Found> = decisions
            .iter()
            .filter_map(|decision| if let Decision::Entry(found) = decision { Some(found) } else { None })
            .collect();
        assert_eq!(found[0], &Found::Both { source: file(b"a"), destination: file(b"a") });
        assert_eq!(
            found[1],
            &Found::Problem {
                source: Some(problem(b"b")),
                destination: None,
                source_entry: None,
                destination_entry: Some(file(b"b"))
            }
        );
        assert_eq!(
            found[2],
            &Found::Problem {
                source: None,
                destination: Some(problem(b"c")),
                source_entry: Some(file(b"c")),
                destination_entry: None
            }
        );
        assert_eq!(decisions.iter().filter(|decision| matches!(decision, Decision::Stage { .. })).count(), 2);
    }

    #[test]
    fn a_listing_with_too_many_unseen_directories_counts_as_not_whole() {
        let names: Vec<Vec<u8>> = (0..10_002).map(|number| format!("d{number:06}").into_bytes()).collect();
        let whole = |path: RelPath, entries: Vec<Entry>, problems: Vec<Problem>| Listing {
            path,
            part: 0,
            entries,
            problems,
            stages: Vec::new(),
            end: ListingEnd::Complete,
        };
        let problems =
            names.iter().map(|name| Problem { name: name.clone(), why: "test".to_owned() }).collect();
        let directories = names.iter().map(|name| entry(name, Kind::Directory, 1)).collect();
        let last = RelPath::root().join(names.last().unwrap()).unwrap();
        let file = entry(b"f", Kind::File { size: 1, allocated_bytes: 0 }, 1);
        let decisions = join(
            vec![whole(RelPath::root(), Vec::new(), problems)],
            vec![
                whole(RelPath::root(), directories, Vec::new()),
                whole(last, vec![file.clone()], Vec::new()),
            ],
        );
        let is_unreadable = |decision: &Decision| {
            matches!(decision, Decision::Ended { source: Some(ListingEnd::Unreadable { .. }), .. })
        };
        assert!(decisions.iter().any(is_unreadable));
        assert!(decisions.contains(&Decision::Entry(Found::Unknown { destination: file })));
    }

    #[test]
    fn what_differs_is_named() {
        let file = entry(b"f", Kind::File { size: 1, allocated_bytes: 9 }, 1);
        let mut other = file.clone();
        other.ino = 7;
        other.ctime = Time { seconds: 8, nanos: 8 };
        other.kind = Kind::File { size: 1, allocated_bytes: 0 };
        assert!(Difference::between(&file, &other).is_none());
        other.mtime.nanos = 1;
        assert!(Difference::between(&file, &other).needs_content());
        let link = entry(b"f", Kind::Symlink { target: b"x".to_vec() }, 1);
        let mut other = link.clone();
        other.mode = 0o777;
        assert!(Difference::between(&link, &other).is_none());
        assert!(Difference::between(&link, &file).kind);
    }
}
