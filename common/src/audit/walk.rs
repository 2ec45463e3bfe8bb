//! Following the chain from its first line to its last, and naming what does not hold.
//!
//! Files are given in their order, lines in the order in which they stand. The walk keeps a few hashes and the numbers
//! that are missing, so that its memory does not grow with the chain. It goes on after damage: each damaged place is
//! named once, with the number of the line and the file, and what follows is judged by itself.

use std::collections::BTreeMap;

use super::file::page_name;
use super::finding::{Damage, Finding};
use super::head::Head;
use super::line::{Entry, genesis, link};
use super::range::Ranges;
use crate::clock::WallMs;
use crate::digest::Digest;
use crate::human;

/// Findings that are told one by one; all are counted.
pub const FINDINGS_MAX: usize = 1_000;

/// A walk along the chain.
#[derive(Debug)]
pub struct Walk {
    file: String,
    /// The first line that the file should hold.
    first: u64,
    /// The last one, where that is known.
    last: Option<u64>,
    /// The number of the next line.
    expected: u64,
    /// The hashes that the next line may follow; none after a hole.
    follows: Vec<Digest>,
    missing: Ranges,
    page: Option<Unlike>,
    anchors: BTreeMap<u64, Vec<(Digest, WallMs)>>,
    verdict: Verdict,
}

/// A page whose lines end in another hash than the state holds; the next line tells which of the two was altered.
#[derive(Debug)]
struct Unlike {
    file: String,
    first: u64,
    last: u64,
    ends: Vec<Digest>,
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Lines that were looked at.
    pub lines: u64,
    /// The number of the last line.
    pub sequence: u64,
    /// Anchors whose line was there and had the anchor's hash.
    pub anchors_held: u64,
    /// What is wrong, in the order in which it was met.
    pub findings: Vec<Finding>,
    /// How much is wrong, also what is not listed.
    pub findings_total: u64,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            file: String::new(),
            first: 1,
            last: None,
            expected: 1,
            follows: vec![genesis()],
            missing: Ranges::default(),
            page: None,
            anchors: BTreeMap::new(),
            verdict: Verdict::default(),
        }
    }
}

impl Walk {
    /// Makes a walk that begins with the first line of a cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a walk that begins after a line of this number and hash.
    pub fn after(number: u64, hash: Digest) -> Self {
        Self { expected: number + 1, follows: vec![hash], ..Self::default() }
    }

    /// Adds an anchor, before the walk begins.
    pub fn anchor(&mut self, anchor: &Head) {
        if anchor.sequence > 0 {
            self.anchors.entry(anchor.sequence).or_default().push((anchor.head, anchor.at));
        }
    }

    /// Begins with the next file, which should hold the lines from `first` to `last`.
    pub fn begin(&mut self, file: &str, first: u64, last: Option<u64>) {
        file.clone_into(&mut self.file);
        (self.first, self.last) = (first, last);
        if first > self.expected {
            let message = "they stand in no file and not in the state".to_owned();
            self.note(Damage::Removed, self.expected, first - 1, message);
            (self.expected, self.follows) = (first, Vec::new());
        }
    }

    /// Begins with the next file of older pages; what lies before it stood in pages that are not there.
    pub fn begin_older(&mut self, file: &str, first: u64, last: u64) {
        self.miss_pages_before(first);
        self.begin(file, first, Some(last));
    }

    /// Notes that pages are missing, if the next line is not `first`.
    pub fn miss_pages_before(&mut self, first: u64) {
        if first > self.expected {
            self.begin(&page_name(self.expected), self.expected, Some(first - 1));
            let message = "the page is not there".to_owned();
            self.note(Damage::MissingPage, self.expected, first - 1, message);
            self.skip_unknown(first - 1);
        }
    }

    /// Passes over a file of which nothing is known but where it ends.
    pub fn skip_unknown(&mut self, last: u64) {
        (self.expected, self.follows) = (last + 1, Vec::new());
    }

    /// Passes over a file that is not there or holds something else, which has been noted.
    pub fn skip(&mut self, last: u64, head: Digest) {
        (self.expected, self.follows) = (last + 1, vec![head]);
    }

    /// Notes what is wrong with the present file.
    pub fn note(&mut self, damage: Damage, first: u64, last: u64, message: String) {
        self.note_in(damage, self.file.clone(), first, last, message);
    }

    fn note_in(&mut self, damage: Damage, file: String, first: u64, last: u64, message: String) {
        self.verdict.findings_total += 1;
        if self.verdict.findings.len() < FINDINGS_MAX {
            self.verdict.findings.push(Finding { damage, file, first, last, message });
        }
    }

    /// Takes the next line as it stands in a file.
    pub fn take_text(&mut self, text: &str) {
        if let Some(entry) = Entry::parse(text) {
            self.take(&entry);
            return;
        }
        self.verdict.lines += 1;
        let message = "it was edited: it is no line of the audit any more".to_owned();
        self.note(Damage::Edited, self.expected, self.expected, message);
        (self.expected, self.follows) = (self.expected + 1, Vec::new());
    }

    /// Takes the next line.
    pub fn take(&mut self, entry: &Entry) {
        self.verdict.lines += 1;
        let number = entry.number();
        if entry.computed(number) != entry.hash() {
            self.take_edited(entry);
            return;
        }
        if number < self.expected || self.last.is_some_and(|last| number > last) {
            self.take_misplaced(number);
            return;
        }
        self.missing.add(self.expected, number - 1);
        if number > self.expected {
            self.follows.clear();
        }
        self.judge_page(entry.previous());
        if !self.follows.is_empty() && !self.follows.contains(&entry.previous()) {
            let message =
                format!("it does not follow line {}: one of the two was rewritten", number.saturating_sub(1));
            self.note(Damage::Rewritten, number, number, message);
        }
        self.pass(number, vec![entry.hash()]);
    }

    /// Takes a line that does not have the hash that it claims.
    fn take_edited(&mut self, entry: &Entry) {
        let (claimed, expected) = (entry.number(), self.expected);
        let is_number_edited = entry.computed(expected) == entry.hash();
        let is_within = claimed > expected && self.last.is_some_and(|last| claimed <= last);
        // A number that was not altered tells where the line belongs; an altered one tells nothing.
        let number = if is_within && !is_number_edited { claimed } else { expected };
        self.missing.add(expected, number - 1);
        let what = if is_number_edited { "its number was edited" } else { "it was edited" };
        let message = format!("{what}: it does not have the hash that it claims");
        self.note(Damage::Edited, number, number, message);
        // What follows was chained onto the line as it was: by the hash that it claims, unless that was edited.
        let mut ends = vec![entry.hash(), entry.computed(number)];
        if let Entry::Line(line) = entry {
            ends.extend(self.follows.iter().map(|previous| link(*previous, number, line.digest())));
        }
        self.pass(number, ends);
    }

    /// Takes a line that stands where it does not belong.
    fn take_misplaced(&mut self, number: u64) {
        let is_of_file = number >= self.first && self.last.is_none_or(|last| number <= last);
        if !is_of_file {
            let message = "it belongs into another file".to_owned();
            self.note(Damage::Reordered, number, number, message);
        } else if self.missing.take(number) {
            let message = format!("it stands after line {}", self.expected - 1);
            self.note(Damage::Reordered, number, number, message);
        } else {
            self.note(Damage::Duplicated, number, number, "it is there twice".to_owned());
        }
    }

    /// Goes past a line whose hash is one of `ends`.
    fn pass(&mut self, number: u64, ends: Vec<Digest>) {
        for (head, at) in self.anchors.remove(&number).unwrap_or_default() {
            if ends.contains(&head) {
                self.verdict.anchors_held += 1;
                continue;
            }
            let message = format!(
                "the anchor of {} says otherwise: lines up to here were rewritten since",
                human::moment(at)
            );
            self.note(Damage::Anchor, number, number, message);
        }
        (self.expected, self.follows) = (number + 1, ends);
    }

    /// Tells by the first line after a page whether the page or its hash in the state was altered.
    fn judge_page(&mut self, previous: Digest) {
        let Some(page) = self.page.take() else { return };
        let Unlike { file, first, last, ends } = page;
        if ends.contains(&previous) {
            let message = "they are whole, but the state holds another hash for this page".to_owned();
            self.note_in(Damage::PageHash, file, first, last, message);
        } else {
            self.note_in(Damage::Rewritten, file, first, last, unlike());
        }
    }

    /// Ends a page, of which the state says how far it goes and in which hash it ends.
    pub fn end_page(&mut self, last: u64, head: Digest) {
        self.end_lines(last, "the file ends before them");
        if !self.follows.is_empty() && !self.follows.contains(&head) {
            let (file, first, ends) = (self.file.clone(), self.first, self.follows.clone());
            self.page = Some(Unlike { file, first, last, ends });
        }
        self.follows.push(head);
    }

    /// Ends a page, of which only the next one says in which hash it ends.
    pub fn end_older_page(&mut self, last: u64) {
        self.end_lines(last, "the file ends before them");
    }

    /// Ends the lines that the state holds.
    pub fn end_state(&mut self, last: u64, head: Digest) {
        self.end_lines(last, "the state counts them and does not hold them");
        if !self.follows.is_empty() && !self.follows.contains(&head) {
            let message = "the state holds another hash for the end of the chain".to_owned();
            self.note(Damage::Head, last, last, message);
        }
    }

    /// Ends an export by the signed head at its end, if it is there.
    pub fn end_export(&mut self, head: Option<&Head>) {
        let Some(head) = head else {
            self.end_lines(self.expected.saturating_sub(1), "");
            let message =
                "the file ends here, without the signed head that every export ends with".to_owned();
            self.note(Damage::Truncated, self.expected, self.expected, message);
            return;
        };
        self.end_lines(head.sequence, "the file ends before them");
        let is_other = head.sequence + 1 != self.expected
            || (!self.follows.is_empty() && !self.follows.contains(&head.head));
        if is_other {
            let message = format!("the signed head of line {} does not fit the lines", head.sequence);
            self.note(Damage::Head, head.sequence, head.sequence, message);
        }
    }

    /// Names what is missing up to `last`.
    fn end_lines(&mut self, last: u64, why: &str) {
        for (first, last) in self.missing.drain() {
            let message = if first == last { "it was removed" } else { "they were removed" };
            self.note(Damage::Removed, first, last, message.to_owned());
        }
        if self.expected <= last {
            self.note(Damage::Truncated, self.expected, last, why.to_owned());
            (self.expected, self.follows) = (last + 1, Vec::new());
        }
    }

    /// Ends the walk.
    pub fn finish(mut self) -> Verdict {
        if let Some(Unlike { file, first, last, ends: _ }) = self.page.take() {
            self.note_in(Damage::Rewritten, file, first, last, unlike());
        }
        let sequence = self.expected.saturating_sub(1);
        for (number, anchors) in std::mem::take(&mut self.anchors) {
            for (_, at) in anchors {
                let message = format!(
                    "the anchor of {} covers it, and the chain ends at line {sequence}: its end was removed",
                    human::moment(at)
                );
                self.note(Damage::Anchor, number, number, message);
            }
        }
        self.verdict.sequence = sequence;
        self.verdict
    }
}

fn unlike() -> String {
    "they are well formed, but end in another hash than the state holds for this page: from some line on they were rewritten"
        .to_owned()
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.findings_total == 0
    }
}
