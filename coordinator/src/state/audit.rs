//! Who changed what, and what was refused to whom, chained by hash.
//!
//! A change writes its line with the same command; refusals arrive as commands of their own, already coalesced by who
//! proposes them. Transitions of steps are no audit. A run of lines is closed as a page; its lines leave the state only
//! by a command that the leader proposes once a quorum has the page as a file, and only if the hash that was reported
//! is the page's. What remains of a page here is where it ends and in which hash, and that for the newest pages only:
//! each page names the hash that it follows, so the oldest one that is known here vouches for all before it.
//!
//! When pages cannot leave, because disks are full, the state fills up to a bound; then changes by principals are
//! refused: what cannot be audited is not done.

use std::sync::Arc;

use common::audit::line::{Line, genesis, link};
use common::digest::Digest;
use common::failure::FailureKind;
use common::id::{NodeName, TenantId};
use common::principal::Principal;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

use super::Applied;
use super::effect::Effect;
use super::refusal::Refusal;
use super::stamp::Stamp;

/// Lines that the state holds before it takes no more changes: twice what stays here when pages can leave.
pub const LINES_MAX: usize = 20_000;
/// Lines of one page; a file of it has a few hundred KiB.
pub const PAGE_LINES_MAX: u64 = 4_096;
/// Pages whose lines have left and that are known here: enough for a list of some weeks; about 12 KiB.
pub const PAGES_MAX: usize = 64;
/// Refusals in one command; more wait for the next.
pub const REFUSED_MAX: usize = 64;
/// Longest text of a line; a refusal may quote what a peer sent.
const TEXT_BYTES_MAX: usize = 512;
/// What parts the salts of lines from all other derived values.
const SALT_CONTEXT: &str = "drover audit salt v1";

/// What a line says, without its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// Whose.
    pub tenant: TenantId,
    /// Who, as the writing side knew them; a principal, or nobody known.
    pub principal: String,
    /// From where.
    pub address: Option<String>,
    /// What was asked for.
    pub action: String,
    /// Of what.
    pub object: String,
    /// Why it was refused; none when it was done.
    pub refused: Option<String>,
    /// How often.
    pub count: u32,
}

/// A line as the first version of the log holds it; nothing writes it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Whose.
    pub tenant: TenantId,
    /// Who.
    pub principal: String,
    /// What was asked for.
    pub action: String,
    /// Of what.
    pub object: String,
    /// Why it was refused.
    pub refused: Option<String>,
    /// How often within the minute.
    pub count: u32,
}

impl From<Note> for Deed {
    fn from(note: Note) -> Self {
        let Note { tenant, principal, action, object, refused, count } = note;
        Self { tenant, principal, address: None, action, object, refused, count }
    }
}

/// What a coordinator asks of the audit; nobody else may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Writes what was refused, at most [`REFUSED_MAX`].
    Refused(Vec<Deed>),
    /// Closes a page, which begins where the last one ended.
    Close {
        /// Its last line.
        last: u64,
    },
    /// Lets the lines of a page leave the state: a quorum has them as a file.
    Leave {
        /// The page's first line.
        first: u64,
        /// The hash of its last line, as those who have it reported.
        head: Digest,
        /// Who has it.
        nodes: Vec<NodeName>,
    },
}

/// A page that was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Its first line.
    pub first: u64,
    /// Its last line.
    pub last: u64,
    /// The hash that it follows.
    pub previous: Digest,
    /// The hash of its last line.
    pub head: Digest,
}

/// The end of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    head: Digest,
    count: u64,
    lines: RedBlackTreeMapSync<u64, Arc<Line>>,
    pages: RedBlackTreeMapSync<u64, Page>,
}

impl Default for Audit {
    fn default() -> Self {
        let (lines, pages) = (RedBlackTreeMapSync::new_sync(), RedBlackTreeMapSync::new_sync());
        Self { head: genesis(), count: 0, lines, pages }
    }
}

impl Audit {
    /// Returns the hash of the last line, which covers every line.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// Returns how many lines were ever written.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the lines that are here, oldest first.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &Arc<Line>> {
        self.lines.values()
    }

    /// Returns the lines that are here from `first` to `last`.
    pub fn lines_between(&self, first: u64, last: u64) -> impl DoubleEndedIterator<Item = &Arc<Line>> {
        self.lines.range(first..=last.max(first)).map(|(_, line)| line)
    }

    /// Returns a line that is here.
    pub fn line(&self, number: u64) -> Option<&Arc<Line>> {
        self.lines.get(&number)
    }

    /// Returns the pages that are known here, oldest first.
    pub fn pages(&self) -> impl DoubleEndedIterator<Item = &Page> {
        self.pages.values()
    }

    /// Returns a page by its first line.
    pub fn page(&self, first: u64) -> Option<&Page> {
        self.pages.get(&first)
    }

    /// Returns where the pages that are known here begin: the line before them, and its hash.
    pub fn edge(&self) -> (u64, Digest) {
        self.pages.first().map_or((0, genesis()), |(_, page)| (page.first - 1, page.previous))
    }

    /// Returns how many pages are known here.
    pub fn pages_len(&self) -> usize {
        self.pages.size()
    }

    /// Returns how many lines are here.
    pub fn lines_len(&self) -> usize {
        self.lines.size()
    }

    /// Whether the lines of a page are still here.
    pub fn holds(&self, page: &Page) -> bool {
        self.lines.contains_key(&page.first)
    }

    /// Returns the first line that belongs to no page yet; it may not be written yet.
    pub fn first_open(&self) -> u64 {
        self.pages.last().map_or(1, |(_, page)| page.last + 1)
    }

    /// Refuses a change while there is no room for its line.
    pub(super) fn check_room(&self, stamp: &Stamp) -> Result<(), Refusal> {
        // What a coordinator does by itself is rare, and some of it makes room.
        if self.lines.size() < LINES_MAX || matches!(stamp.principal, Principal::Node { .. }) {
            return Ok(());
        }
        let message = format!(
            "the audit cannot be written: {LINES_MAX} lines wait until a quorum of coordinators has stored the oldest page"
        );
        let hint = "make room in `audit/` of the coordinators' state directories; their logs say what stands against it";
        Err(Refusal::new(FailureKind::Exhausted, message, hint))
    }

    /// Applies what a coordinator asks.
    pub(super) fn apply(
        &mut self,
        stamp: &Stamp,
        secret: &[u8],
        command: Command,
    ) -> Result<Applied, Refusal> {
        if !matches!(stamp.principal, Principal::Node { .. }) {
            let hint = "refusals and pages are the coordinators' own";
            return Err(Refusal::new(FailureKind::Denied, "nobody writes the audit by asking for it", hint));
        }
        match command {
            Command::Refused(deeds) => {
                if deeds.len() > REFUSED_MAX || self.lines.size() + deeds.len() > LINES_MAX {
                    let message = format!("{} refusals do not fit the audit now", deeds.len());
                    return Err(Refusal::new(FailureKind::Exhausted, message, "they are refused anyway"));
                }
                for deed in deeds {
                    self.write(stamp, secret, deed);
                }
                Ok(Applied::done())
            }
            Command::Close { last } => self.close(last),
            Command::Leave { first, head, nodes } => self.leave(first, head, &nodes),
        }
    }

    /// Writes a line; `secret` is something that is the same on every coordinator and known to nobody else.
    pub(super) fn write(&mut self, stamp: &Stamp, secret: &[u8], deed: Deed) {
        let Deed { tenant, principal, address, action, object, refused, count } = deed;
        self.count += 1;
        let mut line = Line {
            number: self.count,
            at: stamp.wall,
            index: stamp.index,
            tenant,
            principal: cut(principal),
            address: address.map(cut),
            action: cut(action),
            object: cut(object),
            refused: refused.map(cut),
            count,
            salt: salt(secret, self.count, self.head),
            previous: self.head,
            hash: self.head,
        };
        line.hash = link(self.head, line.number, line.digest());
        self.head = line.hash;
        self.lines.insert_mut(line.number, Arc::new(line));
    }

    fn close(&mut self, last: u64) -> Result<Applied, Refusal> {
        let first = self.first_open();
        let length = (last + 1).saturating_sub(first);
        let (Some(begin), Some(end)) = (self.lines.get(&first), self.lines.get(&last)) else {
            return Err(stale(format!("lines {first} to {last} are no page of the audit")));
        };
        if length == 0 || length > PAGE_LINES_MAX {
            return Err(stale(format!("a page has 1 to {PAGE_LINES_MAX} lines, and not {length}")));
        }
        let page = Page { first, last, previous: begin.previous, head: end.hash };
        self.pages.insert_mut(first, page);
        Ok(Applied::done().effect(Effect::AuditChanged))
    }

    fn leave(&mut self, first: u64, head: Digest, nodes: &[NodeName]) -> Result<Applied, Refusal> {
        let page = self.pages.get(&first).filter(|page| self.holds(page)).cloned();
        let Some(page) = page else {
            return Err(stale(format!("no page of the audit begins with line {first}")));
        };
        let is_oldest = self.lines.first().is_some_and(|(oldest, _)| *oldest == first);
        if page.head != head || nodes.is_empty() || !is_oldest {
            return Err(stale(format!(
                "the page of line {first} was not reported as it is, or is not the oldest"
            )));
        }
        for number in page.first..=page.last {
            self.lines.remove_mut(&number);
        }
        let held = self.pages.values().rev().take_while(|page| self.holds(page)).count();
        while self.pages.size() > held + PAGES_MAX
            && let Some((first, _)) = self.pages.first()
        {
            let first = *first;
            self.pages.remove_mut(&first);
        }
        Ok(Applied::done().effect(Effect::AuditChanged))
    }

    /// Makes the chain out of what a snapshot holds.
    pub(super) fn restore(&mut self, head: Digest, count: u64) {
        (self.head, self.count) = (head, count);
    }

    /// Puts a line of a snapshot back.
    pub(super) fn restore_line(&mut self, line: Line) {
        self.lines.insert_mut(line.number, Arc::new(line));
    }

    /// Puts a page of a snapshot back.
    pub(super) fn restore_page(&mut self, page: Page) {
        self.pages.insert_mut(page.first, page);
    }
}

/// A salt that every replica draws alike and nobody outside can guess.
fn salt(secret: &[u8], number: u64, previous: Digest) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(SALT_CONTEXT);
    hasher.update(&number.to_le_bytes());
    hasher.update(previous.as_bytes());
    hasher.update(secret);
    hasher.finalize().into()
}

fn stale(message: String) -> Refusal {
    Refusal::new(FailureKind::Conflict, message, "look at the audit again; a page may have turned meanwhile")
}

fn cut(mut text: String) -> String {
    super::step::cut(&mut text, TEXT_BYTES_MAX);
    text
}

#[cfg(test)]
mod tests {
    use common::audit::line::Entry;
    use common::audit::walk::Walk;
    use common::clock::WallMs;

    use super::*;

    fn stamp() -> Stamp {
        let principal = Principal::Node { name: "coordinator-1".parse().unwrap() };
        Stamp { index: 7, epoch: 1, wall: WallMs(1), principal, address: None }
    }

    fn deed(object: impl ToString) -> Deed {
        Deed {
            tenant: TenantId::default_tenant(),
            principal: "user:default/root".to_owned(),
            address: Some("192.0.2.1".to_owned()),
            action: "migration.cancel".to_owned(),
            object: object.to_string(),
            refused: None,
            count: 1,
        }
    }

    fn with(lines: usize) -> Audit {
        let mut audit = Audit::default();
        for number in 0..lines {
            audit.write(&stamp(), b"secret", deed(number));
        }
        audit
    }

    #[test]
    fn pages_close_in_order_and_leave_only_by_their_hash() {
        let mut audit = with(10);
        let nodes = vec!["coordinator-1".parse().unwrap()];
        let apply = |audit: &mut Audit, command| audit.apply(&stamp(), b"", command).is_ok();
        assert!(
            !apply(&mut audit, Command::Close { last: 11 }) && !apply(&mut audit, Command::Close { last: 0 })
        );
        assert!(
            apply(&mut audit, Command::Close { last: 4 }) && !apply(&mut audit, Command::Close { last: 4 })
        );
        assert!(apply(&mut audit, Command::Close { last: 8 }));
        let pages: Vec<Page> = audit.pages().cloned().collect();
        assert_eq!((pages[1].first, pages[1].last, pages[1].previous), (5, 8, pages[0].head));
        let leave = |first, head, nodes| Command::Leave { first, head, nodes };
        assert!(!apply(&mut audit, leave(5, pages[1].head, nodes.clone())), "not the oldest");
        assert!(!apply(&mut audit, leave(1, pages[1].head, nodes.clone())), "another hash");
        assert!(!apply(&mut audit, leave(1, pages[0].head, Vec::new())), "nobody has it");
        let kept = audit.clone();
        assert!(apply(&mut audit, leave(1, pages[0].head, nodes.clone())));
        assert!(!apply(&mut audit, leave(1, pages[0].head, nodes)), "it left already");
        assert_eq!((audit.lines_len(), audit.count(), audit.head()), (6, 10, kept.head()));
        assert_eq!(audit.first_open(), 9);
    }

    #[test]
    fn the_newest_pages_are_known_and_vouch_for_the_others() {
        let count = PAGES_MAX + 10;
        let mut audit = with(count + 2);
        let nodes: Vec<NodeName> = vec!["coordinator-1".parse().unwrap()];
        for last in 1..=u64::try_from(count + 2).unwrap() {
            audit.apply(&stamp(), b"", Command::Close { last }).unwrap();
        }
        assert_eq!((audit.pages_len(), audit.edge()), (count + 2, (0, genesis())), "none has left yet");
        let hashes: Vec<Digest> = audit.lines().map(|line| line.hash).collect();
        for first in 1..=u64::try_from(count).unwrap() {
            let head = audit.page(first).unwrap().head;
            audit.apply(&stamp(), b"", Command::Leave { first, head, nodes: nodes.clone() }).unwrap();
        }
        // Two hold their lines; of the others the newest are known.
        assert_eq!((audit.pages_len(), audit.lines_len()), (PAGES_MAX + 2, 2));
        assert_eq!(audit.edge(), (10, hashes[9]));
        assert_eq!(audit.first_open(), u64::try_from(count).unwrap() + 3);
    }

    #[test]
    fn only_coordinators_write_by_asking() {
        let mut audit = Audit::default();
        let operator = Stamp { principal: crate::state::sample::operator(), ..stamp() };
        assert!(audit.apply(&operator, b"", Command::Refused(vec![deed("x")])).is_err());
        assert!(audit.apply(&stamp(), b"", Command::Refused(vec![deed("x"); REFUSED_MAX + 1])).is_err());
        assert!(audit.apply(&stamp(), b"", Command::Refused(vec![deed("x"); 3])).is_ok());
        assert_eq!(audit.count(), 3);
        assert_eq!(cut("ä".repeat(400)).len(), 512);
    }

    /// Prints what a line costs a request; the figure belongs into DESIGN.md, not into an assertion.
    #[test]
    fn what_a_line_costs() {
        let count = 10_000;
        let begun = common::clock::boot();
        let audit = with(count);
        let took = common::clock::boot().since(begun);
        println!("{count} lines in {took:?}: {:?} each", took / 10_000);
        assert_eq!(audit.lines_len(), count);
    }

    #[test]
    fn what_cannot_be_audited_is_refused() {
        let audit = with(LINES_MAX);
        let operator = Stamp { principal: crate::state::sample::operator(), ..stamp() };
        let refused = audit.check_room(&operator).unwrap_err();
        assert_eq!(refused.failure().kind, FailureKind::Exhausted);
        assert!(audit.check_room(&stamp()).is_ok() && with(1).check_room(&operator).is_ok());
        let mut walk = Walk::new();
        walk.begin("state", 1, Some(audit.count()));
        for line in audit.lines() {
            walk.take(&Entry::Line(Box::new(line.as_ref().clone())));
        }
        walk.end_state(audit.count(), audit.head());
        assert!(walk.finish().is_intact());
    }
}
