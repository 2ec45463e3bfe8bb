//! Every way to damage a chain, and what the walk calls it.

use super::file::{
    FILE_VERSION, Header, OlderPage, PageClaim, check_export, check_older_page, check_page, page_name,
    render_page,
};
use super::head::{HEAD_VERSION, Head};
use super::line::tests::{chain, redacted};
use super::line::{Entry, Line, genesis, link};
use super::walk::{Verdict, Walk};
use crate::clock::WallMs;
use crate::digest::Digest;

/// A chain of ten lines: two pages of four in files, two lines and the pages' hashes in the state.
struct Store {
    pages: Vec<(String, PageClaim, Vec<String>)>,
    lines: Vec<Line>,
    head: Digest,
    count: u64,
}

fn header(first: u64, last: Option<u64>, previous: Digest) -> Header {
    Header { drover_audit: FILE_VERSION, cluster: "c1".to_owned(), first, last, previous }
}

fn texts(lines: &[Line], header: &Header) -> Vec<String> {
    render_page(header, lines.iter()).unwrap().lines().map(str::to_owned).collect()
}

impl Store {
    fn new() -> Self {
        let lines = chain(10);
        let page = |from: usize| {
            let lines = &lines[from..from + 4];
            let (first, last, head) = (lines[0].number, lines[3].number, lines[3].hash);
            let header = header(first, Some(last), lines[0].previous);
            (page_name(first), PageClaim { header: header.clone(), last, head }, texts(lines, &header))
        };
        Self { pages: vec![page(0), page(4)], head: lines[9].hash, count: 10, lines: lines[8..].to_vec() }
    }

    fn walk(&self, anchors: &[Head]) -> Verdict {
        let mut walk = Walk::new();
        for anchor in anchors {
            walk.anchor(anchor);
        }
        for (name, claim, texts) in &self.pages {
            let text: String = texts.iter().map(|line| format!("{line}\n")).collect();
            check_page(&mut walk, name, claim, text.as_bytes()).unwrap();
        }
        walk.begin("state", 9, Some(self.count));
        for line in &self.lines {
            walk.take(&Entry::Line(Box::new(line.clone())));
        }
        walk.end_state(self.count, self.head);
        walk.finish()
    }

    /// Alters a line of the first page as somebody would who does not know of hashes.
    fn alter(&mut self, number: usize, alter: impl Fn(&mut Line)) {
        let text = &mut self.pages[0].2[number];
        let Some(Entry::Line(mut line)) = Entry::parse(text) else { panic!("a line") };
        alter(&mut line);
        *text = Entry::Line(line).to_text().unwrap();
    }

    /// Rewrites the first page from a line on, with hashes that fit.
    fn rewrite(&mut self, from: usize, through: usize) {
        let Some(Entry::Line(before)) = Entry::parse(&self.pages[0].2[from - 1]) else { panic!("a line") };
        let mut previous = before.hash;
        for number in from..=through {
            self.alter(number, |line| {
                line.object = "forged".to_owned();
                line.previous = previous;
                line.hash = link(previous, line.number, line.digest());
            });
            let Some(Entry::Line(line)) = Entry::parse(&self.pages[0].2[number]) else { panic!("a line") };
            previous = line.hash;
        }
    }
}

fn named(verdict: &Verdict) -> Vec<String> {
    assert_eq!(verdict.findings_total, u64::try_from(verdict.findings.len()).unwrap());
    let named = |finding: &super::finding::Finding| {
        let file = finding.file.trim_start_matches("page-0000000000000000000").trim_end_matches(".jsonl");
        format!("{} {file}:{}-{}", finding.damage.as_str(), finding.first, finding.last)
    };
    verdict.findings.iter().map(named).collect()
}

fn check(what: &str, damage: impl Fn(&mut Store), expected: &[&str]) {
    let mut store = Store::new();
    damage(&mut store);
    assert_eq!(named(&store.walk(&[])), expected, "{what}");
}

#[test]
fn an_untouched_chain_is_intact() {
    let verdict = Store::new().walk(&[]);
    assert_eq!((verdict.lines, verdict.sequence, verdict.is_intact()), (10, 10, true), "{verdict:?}");
}

#[test]
fn each_edited_field_names_its_line() {
    type Alter = fn(&mut Line);
    let fields: [(&str, Alter); 13] = [
        ("number", |line| line.number = 4),
        ("at", |line| line.at.0 += 1),
        ("index", |line| line.index += 1),
        ("tenant", |line| line.tenant = "other".parse().unwrap()),
        ("principal", |line| line.principal.push('x')),
        ("address", |line| line.address = None),
        ("action", |line| line.action.push('x')),
        ("object", |line| line.object.push('x')),
        ("refused", |line| line.refused = Some("no".to_owned())),
        ("count", |line| line.count += 1),
        ("salt", |line| line.salt = Digest::of(b"x")),
        ("previous", |line| line.previous = Digest::of(b"x")),
        ("hash", |line| line.hash = Digest::of(b"x")),
    ];
    for (field, alter) in fields {
        // The first, one in the middle, the last of a page.
        for number in [1, 2, 4] {
            if field == "number" && number == 4 {
                continue;
            }
            let named = format!("edited 1:{number}-{number}");
            check(field, |store| store.alter(number, alter), &[&named]);
        }
    }
    check("number beyond the page", |store| store.alter(2, |line| line.number = 4000), &["edited 1:2-2"]);
    check("no line at all", |store| store.pages[0].2[2] = "{}".to_owned(), &["edited 1:2-2"]);
    check("other spelling", |store| store.pages[0].2[2].insert(1, ' '), &["edited 1:2-2"]);
    check("in the state", |store| store.lines[0].object.push('x'), &["edited state:9-9"]);
}

#[test]
fn lines_that_are_gone_or_elsewhere_are_named() {
    check("first removed", |store| drop(store.pages[0].2.remove(1)), &["removed 1:1-1"]);
    check("removed", |store| drop(store.pages[0].2.drain(2..4)), &["removed 1:2-3"]);
    check("truncated", |store| store.pages[0].2.truncate(3), &["truncated 1:3-4"]);
    check("emptied", |store| store.pages[0].2.clear(), &["header altered 1:1-4"]);
    check("only the header", |store| store.pages[0].2.truncate(1), &["truncated 1:1-4"]);
    check("swapped lines", |store| store.pages[0].2.swap(2, 3), &["reordered 1:2-2"]);
    check(
        "moved to the end",
        |store| {
            let line = store.pages[0].2.remove(1);
            store.pages[0].2.push(line);
        },
        &["reordered 1:1-1"],
    );
    check(
        "duplicated",
        |store| {
            let line = store.pages[0].2[2].clone();
            store.pages[0].2.insert(3, line);
        },
        &["duplicated 1:2-2"],
    );
    check(
        "of another page",
        |store| {
            let line = store.pages[1].2[2].clone();
            store.pages[0].2.insert(3, line);
        },
        &["reordered 1:6-6"],
    );
    check("state cut", |store| drop(store.lines.pop()), &["truncated state:10-10"]);
    check("state without its first", |store| drop(store.lines.remove(0)), &["removed state:9-9"]);
    check(
        "removed and edited",
        |store| {
            store.alter(3, |line| line.object.push('x'));
            store.pages[0].2.remove(2);
        },
        &["edited 1:3-3", "removed 1:2-2"],
    );
}

#[test]
fn pages_and_hashes_that_do_not_fit_are_named() {
    check(
        "swapped pages",
        |store| {
            let first = std::mem::take(&mut store.pages[0].2);
            store.pages[0].2 = std::mem::replace(&mut store.pages[1].2, first);
        },
        &["header altered 1:1-4", "header altered 5:5-8"],
    );
    check("header", |store| store.pages[0].2[0] = "{}".to_owned(), &["header altered 1:1-4"]);
    check(
        "the state's hash of a page",
        |store| store.pages[0].1.head = Digest::of(b"x"),
        &["page hash altered 1:1-4"],
    );
    check(
        "the state's hash of the last page",
        |store| store.pages[1].1.head = Digest::of(b"x"),
        &["page hash altered 5:5-8"],
    );
    check("the state's head", |store| store.head = Digest::of(b"x"), &["head altered state:10-10"]);
    check("one line rewritten", |store| store.rewrite(2, 2), &["rewritten 1:3-3"]);
    check("rewritten to the end of the page", |store| store.rewrite(2, 4), &["rewritten 1:1-4"]);
}

fn anchor(sequence: u64, head: Digest) -> Head {
    Head {
        drover_audit_head: HEAD_VERSION,
        cluster: "c1".to_owned(),
        tenant: None,
        sequence,
        head,
        at: WallMs(0),
        signature: String::new(),
    }
}

#[test]
fn an_anchor_shows_what_was_written_anew() {
    let lines = chain(10);
    let store = Store::new();
    let verdict = store.walk(&[anchor(0, genesis()), anchor(3, lines[2].hash), anchor(9, lines[8].hash)]);
    assert_eq!((verdict.anchors_held, verdict.is_intact()), (2, true), "{verdict:?}");
    let verdict = store.walk(&[anchor(3, Digest::of(b"x")), anchor(9, lines[8].hash)]);
    assert_eq!(named(&verdict), ["contradicts an anchor 1:3-3"]);
    let verdict = store.walk(&[anchor(12, lines[8].hash)]);
    assert_eq!(named(&verdict), ["contradicts an anchor state:12-12"]);
}

#[test]
fn an_export_of_the_first_form_is_verified_without_the_others_lines() {
    let lines = chain(6);
    let mut texts: Vec<String> = vec![serde_json::to_string(&header(1, None, genesis())).unwrap()];
    for line in &lines {
        let entry =
            if line.number.is_multiple_of(2) { redacted(line) } else { Entry::Line(Box::new(line.clone())) };
        texts.push(entry.to_text().unwrap());
    }
    texts.push(serde_json::to_string(&anchor(6, lines[5].hash)).unwrap());
    let walked = |texts: &[String]| {
        let mut walk = Walk::new();
        let text: String = texts.iter().map(|line| format!("{line}\n")).collect();
        let _ends = check_export(&mut walk, "export", text.as_bytes()).unwrap();
        named(&walk.finish())
    };
    assert!(walked(&texts).is_empty());
    type Tamper = fn(&mut Vec<String>);
    let tampered: [(&str, Tamper, &[&str]); 7] = [
        (
            "a foreign line replaced",
            |texts| texts[2] = texts[2].replacen("\"digest\":\"", "\"digest\":\"0", 1),
            &["edited export:2-2"],
        ),
        ("an own line edited", |texts| texts[3] = texts[3].replace("web3", "web4"), &["edited export:3-3"]),
        ("removed", |texts| drop(texts.remove(4)), &["removed export:4-4"]),
        ("cut", |texts| texts.truncate(5), &["truncated export:5-5"]),
        ("cut before the head", |texts| drop(texts.remove(6)), &["truncated export:6-6"]),
        ("without a header", |texts| drop(texts.remove(0)), &["header altered export:1-1"]),
        ("more after the head", |texts| texts.push(texts[1].clone()), &["header altered export:1-1"]),
    ];
    for (what, tamper, expected) in tampered {
        let mut texts = texts.clone();
        tamper(&mut texts);
        assert_eq!(walked(&texts), expected, "{what}");
    }
}

/// Walks along the two pages as older ones, of which the state knows no hash any more.
fn walk_older(store: &Store) -> Vec<String> {
    let mut walk = Walk::new();
    for (place, (name, claim, texts)) in store.pages.iter().enumerate() {
        if texts.is_empty() {
            continue;
        }
        let last_max = if place == 0 && !store.pages[1].2.is_empty() { 4 } else { 8 };
        let page = OlderPage { cluster: "c1".to_owned(), first: claim.header.first, last_max };
        let text: String = texts.iter().map(|line| format!("{line}\n")).collect();
        check_older_page(&mut walk, name, &page, text.as_bytes()).unwrap();
    }
    walk.miss_pages_before(9);
    walk.begin("state", 9, Some(store.count));
    for line in &store.lines {
        walk.take(&Entry::Line(Box::new(line.clone())));
    }
    walk.end_state(store.count, store.head);
    named(&walk.finish())
}

#[test]
fn older_pages_are_held_by_those_that_follow_them() {
    type Harm = fn(&mut Store);
    let cases: [(&str, Harm, &[&str]); 12] = [
        ("nothing", |_| {}, &[]),
        ("a line edited", |store| store.alter(2, |line| line.object.push('x')), &["edited 1:2-2"]),
        ("a line removed", |store| drop(store.pages[0].2.remove(2)), &["removed 1:2-2"]),
        ("lines swapped", |store| store.pages[0].2.swap(2, 3), &["reordered 1:2-2"]),
        ("cut", |store| store.pages[0].2.truncate(3), &["truncated 1:3-4"]),
        ("its header", |store| store.pages[0].2[0] = "{}".to_owned(), &["header altered 1:1-4"]),
        (
            "a hash in its header",
            |store| {
                let header = header(1, Some(4), Digest::of(b"x"));
                store.pages[0].2[0] = serde_json::to_string(&header).unwrap();
            },
            &["header altered 1:1-4"],
        ),
        ("the first page is gone", |store| store.pages[0].2.clear(), &["page missing 1:1-4"]),
        ("the last page is gone", |store| store.pages[1].2.clear(), &["page missing 5:5-8"]),
        (
            "another page in its place",
            |store| {
                let first = std::mem::take(&mut store.pages[0].2);
                store.pages[0].2 = std::mem::replace(&mut store.pages[1].2, first);
            },
            &["header altered 1:1-4", "header altered 5:5-8"],
        ),
        // Whole and well formed, but what follows it was chained onto something else.
        ("rewritten to its end", |store| store.rewrite(2, 4), &["rewritten 5:5-5"]),
        ("one line rewritten", |store| store.rewrite(2, 2), &["rewritten 1:3-3"]),
    ];
    for (what, harm, expected) in cases {
        let mut store = Store::new();
        harm(&mut store);
        assert_eq!(walk_older(&store), expected, "{what}");
    }
}
