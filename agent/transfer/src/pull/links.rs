//! Hard links: groups of names that are one inode at the source become one inode here.
//!
//! All names of groups are put off until the tree was seen, and sorted by inode. For each group one inode is chosen: one
//! that stands here already and is right, or one that is fetched. It gets an *anchor*, a name in the stage, and every
//! other name is linked from there, never from a live path. So an unchanged tree that is wrongly linked, or not linked
//! at all, is noticed too, and memory holds one group at a time.

use std::cmp::Ordering;

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::diff::Difference;
use sync::entry::{Entry, Kind};
use tree::Name;

use super::flow::held_bytes;
use super::plan::{Planner, same_content};
use super::put_off::spilled;
use super::{Again, Item, Landing, Pass, lock};
use crate::commit::{Effect, Seen, Staged};
use crate::content::read;
use crate::domain::{Domain, DomainId};
use crate::frame_file::{FrameReader, FrameWriter};
use crate::ledger::listing_order;
use crate::staged::Made;
use crate::standing::look;
use crate::tally::add;
use crate::trouble::{is_fatal, of_stage};

/// Names of one inode, which are in memory together: what ext4 allows is a little less.
const GROUP_NAMES_MAX: usize = 65_536;

/// What these may take: as many names with paths of a kibibyte, or with attributes of that size.
const GROUP_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Names by which a group is asked for: the first may vanish at the source, and the next.
const LEADERS_MAX: u32 = 3;
/// Groups whose first name was gone, remembered until another one is asked for.
pub(super) const LEADERLESS_MAX: usize = 100_000;

/// A group: the source's device and inode, and the rename domain of its names.
pub(super) type Group = ((u64, u64), DomainId);

/// One name of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LinkName {
    pub(super) path: RelPath,
    /// The rename domain of its place: a link does not reach into another.
    pub(super) domain: DomainId,
    /// The source's entry; its device and inode name the group.
    pub(super) source: Entry,
    /// What stands there now.
    pub(super) seen: Option<Box<Seen>>,
    /// Whether what stands there must not be believed by size and time.
    pub(super) is_doubtful: bool,
}

impl LinkName {
    fn group(&self) -> (u64, u64) {
        (self.source.dev, self.source.ino)
    }

    fn held_bytes(&self) -> u64 {
        held_bytes(&self.path, [&self.source].into_iter().chain(self.seen.as_ref().map(|seen| &seen.entry)))
    }

    /// Returns the inode that stands there, if its content is that of the group.
    fn standing(&self) -> Option<(u64, u64)> {
        if self.is_doubtful { None } else { self.alike() }
    }

    /// Returns the inode that stands there, if it looks as if its content were that of the group.
    fn alike(&self) -> Option<(u64, u64)> {
        let seen = self.seen.as_ref()?;
        let is_alike = !Difference::between(&self.source, &seen.entry).needs_content();
        is_alike.then_some((seen.entry.dev, seen.entry.ino))
    }
}

/// Returns the name of a group by which it is to be compared, if it must not be believed by size and time alone.
pub(super) fn doubtful(group: &[LinkName]) -> Option<&LinkName> {
    if group.iter().any(|name| name.standing().is_some()) {
        return None;
    }
    group.iter().find(|name| name.alike().is_some())
}

/// Returns what a group weighs in the flow.
pub(super) fn weight(group: &[LinkName]) -> u64 {
    group.iter().map(LinkName::held_bytes).sum()
}

impl Ord for LinkName {
    fn cmp(&self, other: &Self) -> Ordering {
        let (group, other_group) = ((self.group(), self.domain), (other.group(), other.domain));
        group.cmp(&other_group).then_with(|| listing_order(&self.path, &other.path))
    }
}

impl PartialOrd for LinkName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for LinkName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for LinkName {}

/// A name that is to be linked once its group has its anchor.
#[derive(Debug, Serialize, Deserialize)]
struct Link {
    name: LinkName,
    group: (u64, u64),
}

/// Brings all groups.
pub(super) fn run(planner: &mut Planner<'_>) -> Result<(), Failure> {
    let pass = planner.pass;
    let spill = &pass.stage.spill;
    let sorter = std::mem::replace(&mut planner.links, crate::external_sort::Sorter::new(spill, "no-links"));
    let mut names = sorter.finish()?;
    let mut later = spilled(pass, "links-later")?;
    *lock(&pass.compared) = Some(spilled(pass, "links-compared")?);
    let mut before: Option<((u64, u64), RelPath)> = None;
    let mut groups = Groups::new(pass, || names.next());
    while let Some(group) = groups.next()? {
        pass.flow.check()?;
        let group = placed(planner, group)?;
        if group.is_empty() {
            continue;
        }
        match &before {
            Some((inode, elsewhere)) if *inode == group[0].group() => parted(pass, &group, elsewhere),
            Some(_) | None => before = Some((group[0].group(), group[0].path.clone())),
        }
        match doubtful(&group) {
            Some(name) => {
                let (path, stamp) = (name.path.clone(), name.source.stamp());
                planner.compare_group(path, stamp, group)?;
            }
            None => choose(planner, group, &mut later)?,
        }
    }
    pass.flow.wait_until_idle()?;
    if let Some(compared) = lock(&pass.compared).take() {
        let mut compared = FrameReader::<LinkName>::forwards(compared.finish()?, 0);
        let mut groups = Groups::new(pass, || compared.next());
        while let Some(group) = groups.next()? {
            choose(planner, group, &mut later)?;
        }
    }
    planner.fetch_again()?;
    link_all(planner, later)
}

/// Links names to the anchors of their groups.
fn link_all(planner: &mut Planner<'_>, mut later: FrameWriter<Link>) -> Result<(), Failure> {
    let pass = planner.pass;
    for round in 1..=LEADERS_MAX {
        let mut links = FrameReader::<Link>::forwards(later.finish()?, 0);
        later = spilled(pass, "links-later")?;
        let put_off = (round < LEADERS_MAX).then_some(&mut later);
        let mut linker = Linker { planner, known: None, put_off, led: None };
        while let Some(link) = links.next()? {
            pass.flow.check()?;
            linker.link(link)?;
        }
        planner.fetch_again()?;
        if later.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Returns the names of a group at whose places they can stand.
fn placed(planner: &Planner<'_>, group: Vec<LinkName>) -> Result<Vec<LinkName>, Failure> {
    let mut placed = Vec::with_capacity(group.len());
    for name in group {
        if planner.is_place_free(&name.path, &name.source, name.seen.as_deref())? {
            placed.push(name);
        }
    }
    Ok(placed)
}

/// Tells that the names of a group are in several rename domains: each of these gets an inode of its own.
fn parted(pass: &Pass, group: &[LinkName], elsewhere: &RelPath) {
    for name in group {
        pass.except(
            Rule::HardLink,
            Severity::Warning,
            &name.path,
            format!(
                "it is brought as a file of its own: `{elsewhere}`, of which it is a further name at the source, is on \
                 another file system, subvolume or project here"
            ),
            "Nothing to do if they need not share their content; else put both in one place and run the migration again.",
        );
    }
}

/// Names in order, gathered into groups: those of one inode that are in one rename domain.
struct Groups<'a, N> {
    pass: &'a Pass,
    names: N,
    ahead: Option<LinkName>,
}

impl<'a, N: FnMut() -> Result<Option<LinkName>, Failure>> Groups<'a, N> {
    fn new(pass: &'a Pass, names: N) -> Self {
        Self { pass, names, ahead: None }
    }

    fn next(&mut self) -> Result<Option<Vec<LinkName>>, Failure> {
        let first = match self.ahead.take() {
            Some(first) => Some(first),
            None => (self.names)()?,
        };
        let Some(first) = first else { return Ok(None) };
        let (mut group, mut held) = (vec![first], 0);
        while let Some(name) = (self.names)()? {
            if name.group() != group[0].group() || name.domain != group[0].domain {
                self.ahead = Some(name);
                break;
            }
            held += name.held_bytes();
            if group.len() < GROUP_NAMES_MAX && held <= GROUP_BYTES_MAX {
                group.push(name);
                continue;
            }
            let message = format!(
                "it is beyond the {GROUP_NAMES_MAX} names, or the {} MiB of paths and attributes, that one file may have here",
                GROUP_BYTES_MAX >> 20
            );
            let hint = "Leave some of the file's names out with --exclude.";
            self.pass.except(Rule::HardLink, Severity::Error, &name.path, message, hint);
        }
        Ok(Some(group))
    }
}

/// Chooses the inode of a group, has it fetched if there is none, and puts off the names that are not it.
fn choose(
    planner: &mut Planner<'_>,
    group: Vec<LinkName>,
    later: &mut FrameWriter<Link>,
) -> Result<(), Failure> {
    let pass = planner.pass;
    let (id, domain) = (group[0].group(), group[0].domain);
    let size = group[0].source.size();
    add(&pass.counters.bytes_total, size);
    pass.flow.know(size);
    let Some(leader) = leader(&group) else {
        let mut names = group.into_iter();
        let Some(first) = names.next() else { return Ok(()) };
        for name in names {
            later.write(&Link { name, group: id })?;
        }
        return bring_first(planner, first);
    };
    let mut is_counted = false;
    let mut has_anchor = false;
    for name in group {
        if name.seen.as_ref().map(|seen| (seen.entry.dev, seen.entry.ino)) != Some(leader.inode) {
            if !has_anchor {
                has_anchor = make_anchor(pass, domain, &leader, id)?;
            }
            later.write(&Link { name, group: id })?;
            continue;
        }
        let LinkName { path, source, seen, .. } = name;
        let Some(seen) = seen else { continue };
        if is_counted {
            add(&pass.counters.files_unchanged, 1);
            pass.counters.done(0);
        } else if let Some(item) = same_content(pass, domain, path, source, seen.entry) {
            planner.send(item)?;
        }
        is_counted = true;
    }
    Ok(())
}

struct Leader {
    path: RelPath,
    inode: (u64, u64),
}

/// Returns an inode that stands here, is right, and has no name outside of the group.
fn leader(group: &[LinkName]) -> Option<Leader> {
    group.iter().find_map(|candidate| {
        let inode = candidate.standing()?;
        let names = group
            .iter()
            .filter(|name| name.seen.as_ref().is_some_and(|seen| (seen.entry.dev, seen.entry.ino) == inode));
        let nlink = candidate.seen.as_ref().map_or(0, |seen| seen.entry.nlink);
        let is_own = u32::try_from(names.count()).is_ok_and(|count| count >= nlink);
        is_own.then(|| Leader { path: candidate.path.clone(), inode })
    })
}

/// Has the first name of a group brought, as its anchor.
fn bring_first(planner: &mut Planner<'_>, first: LinkName) -> Result<(), Failure> {
    let LinkName { path, domain, source, seen, .. } = first;
    planner.enter(domain)?;
    if matches!(source.kind, Kind::File { size, .. } if size > 0) {
        return planner.fetch(Again { path, domain, source, seen, is_anchor: true, times_asked: 0 });
    }
    let made = match planner.make(domain, &source)? {
        Ok(made) => {
            let stage = planner.pass.stage.domains.get(domain)?;
            Ok(anchor(&stage, made, &source)?)
        }
        Err(error) => Err(error),
    };
    let wanted = Again { path, domain, source, seen, is_anchor: true, times_asked: 0 };
    planner.install_placed(wanted, made)
}

/// Returns the name of a group's anchor.
fn anchor_name((dev, ino): (u64, u64)) -> Name {
    Name::new(format!("{dev:x}-{ino:x}")).expect("digits are a name")
}

/// Moves something staged to its group's anchor.
pub(super) fn anchor(domain: &Domain, made: Made, source: &Entry) -> Result<Made, Failure> {
    let name = anchor_name((source.dev, source.ino));
    made.dir.rename_over(&made.name, &domain.anchors, &name).map_err(|error| of_stage(&error))?;
    Ok(Made { dir: domain.anchors.clone(), name, ..made })
}

/// Gives an inode that stands in the tree an anchor; not if it is another one by now.
fn make_anchor(pass: &Pass, domain: DomainId, leader: &Leader, group: (u64, u64)) -> Result<bool, Failure> {
    let domain = pass.stage.domains.get(domain)?;
    let Some((parent, name)) = leader.path.split() else { return Ok(false) };
    let name = Name::new(name).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let linked = pass.stage.root.open_beneath(parent.as_bytes()).and_then(|dir| {
        let pinned = dir.pin(&name)?;
        if !pinned.stat()?.is_inode(leader.inode.0, leader.inode.1) {
            return Ok(false);
        }
        pinned.link_into(&domain.anchors, &anchor_name(group)).map(|()| true)
    });
    match linked {
        Ok(is_linked) => Ok(is_linked),
        Err(error) if is_fatal(&error) => Err(of_stage(&error)),
        // The names that were to be linked say so.
        Err(_error) => Ok(false),
    }
}

/// Links names to anchors, group by group.
struct Linker<'p, 'a> {
    planner: &'p mut Planner<'a>,
    /// The group of the last name, and its anchor if it has one.
    known: Option<((u64, u64), DomainId, Option<Anchor>)>,
    /// For names of groups that get another first name; none when it is too late for that.
    put_off: Option<&'p mut FrameWriter<Link>>,
    /// The group that got another first name last.
    led: Option<Group>,
}

/// An anchor as it is, with its content's digest.
type Anchor = (Entry, Option<Digest>);

impl Linker<'_, '_> {
    fn link(&mut self, link: Link) -> Result<(), Failure> {
        let pass = self.planner.pass;
        let (group, domain) = (link.group, link.name.domain);
        self.planner.enter(domain)?;
        let stage = pass.stage.domains.get(domain)?;
        if self.known.as_ref().is_none_or(|(known, of, _)| (*known, *of) != (group, domain)) {
            let found = look_at_anchor(pass, &stage, group)?;
            self.known = Some((group, domain, found));
        }
        let Some((_, _, Some((anchor, digest)))) = &self.known else {
            return self.lead(link);
        };
        let LinkName { path, source, seen, .. } = link.name;
        let mut new = anchor.clone();
        new.name.clone_from(&source.name);
        new.nlink = source.nlink;
        let (dir, name) = (stage.anchors.clone(), anchor_name(group));
        let staged = Staged { dir, name, is_anchor: true, is_synced: true, assembly: None };
        let effect = Effect::Install { staged, new: Box::new(new), digest: *digest, seen };
        pass.flow.acquire(0)?;
        self.planner.send(Item { cost: Some(0), ..Item::new(path, domain, effect, Landing::Place) })
    }

    /// Deals with a name whose group has no anchor: the group is asked for by it, if only its first name was gone.
    fn lead(&mut self, link: Link) -> Result<(), Failure> {
        let pass = self.planner.pass;
        let group = (link.group, link.name.domain);
        if let Some(put_off) = &mut self.put_off {
            if self.led == Some(group) {
                return put_off.write(&link);
            }
            if lock(&pass.leaderless).remove(&group) {
                self.led = Some(group);
                return bring_first(self.planner, link.name);
            }
        }
        pass.except(
            Rule::HardLink,
            Severity::Error,
            &link.name.path,
            "it could not be linked: the file that it is a further name of was not brought",
            "See the finding of that file, then run the migration again.",
        );
        Ok(())
    }
}

fn look_at_anchor(pass: &Pass, domain: &Domain, group: (u64, u64)) -> Result<Option<Anchor>, Failure> {
    let found = look(&domain.anchors, &anchor_name(group)).map_err(|error| of_stage(&error))?;
    let Some(entry) = found else { return Ok(None) };
    if !entry.kind.is_file() {
        return Ok(Some((entry, None)));
    }
    let path = RelPath::try_from(anchor_name(group).as_bytes().to_vec())
        .map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    match read(&domain.anchors, &path, false, || pass.flow.check().is_ok()) {
        Ok(Some(read)) => Ok(Some((entry, Some(read.digest)))),
        Ok(None) => pass.flow.check().map(|()| None),
        Err(error) if is_fatal(&error) => Err(of_stage(&error)),
        // The names that were to be linked say so.
        Err(_error) => Ok(None),
    }
}
