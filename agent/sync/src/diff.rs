//! What differs between two trees, as one ordered sequence of decisions.
//!
//! Both trees come as listings in their order (see [`crate::listing`]); [`Join`] walks the two like the merge of two
//! sorted lists and holds one part of each. What has to be done about a decision is the destination's matter; nothing
//! here knows deletes, owners' names or digests.
//!
//! An entry that only the destination has is [`Found::Extra`] only where the source's directory is known to be there;
//! whether that directory was listed whole is known at its [`Decision::Ended`], which comes behind its entries, and
//! below a directory that was not, everything the source does not show is [`Found::Unknown`].

use std::cmp::Ordering;

use common::rel_path::RelPath;

use crate::entry::{Entry, Kind};
use crate::listing::{Listing, ListingEnd, Problem};

/// One step of the comparison of two trees.
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
    /// Directories at or above the present one that the source did not list whole.
    unknown: Vec<RelPath>,
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
            unknown: Vec::new(),
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
        while self.unknown.last().is_some_and(|above| !path.is_within(above)) {
            self.unknown.pop();
        }
        // What the source lists itself is known, whatever is above it.
        let is_below_unknown = !self.unknown.is_empty() && !is_at_source;
        self.open =
            Some(OpenDirectory { path: path.clone(), is_at_source, is_at_destination, is_below_unknown });
        Ok(Some(Decision::Began { path, is_at_source, is_at_destination }))
    }

    fn end(&mut self) -> Decision {
        let open = self.open.take();
        let (path, is_at_source, is_at_destination) = open.map_or((RelPath::root(), false, false), |open| {
            (open.path, open.is_at_source, open.is_at_destination)
        });
        let source = is_at_source.then(|| std::mem::replace(&mut self.source.end, ListingEnd::Complete));
        let destination =
            is_at_destination.then(|| std::mem::replace(&mut self.destination.end, ListingEnd::Complete));
        if source.as_ref().is_some_and(|end| *end != ListingEnd::Complete) {
            self.unknown.push(path.clone());
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
    /// Last change of the content.
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
            mtime: source.mtime != destination.mtime,
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

    /// Whether anything but kind, size, text and time differs.
    pub fn is_metadata(&self) -> bool {
        self.mode || self.uid || self.gid || self.xattrs
    }
}
