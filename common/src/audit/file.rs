//! Files of lines: pages, which coordinators keep, and exports, which leave the cluster.
//!
//! Both are JSON lines: a header, then the lines. A page ends where the state says; an export ends with a signed head.

use std::io::{self, BufRead, Read};

use serde::{Deserialize, Serialize};

use super::finding::Damage;
use super::head::Head;
use super::line::{Entry, Line};
use super::walk::Walk;
use crate::digest::Digest;

/// The version of pages and exports.
pub const FILE_VERSION: u32 = 1;
/// The longest line that is believed: four texts of 512 bytes, each byte escaped, and hashes.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// The first line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the file.
    pub drover_audit: u32,
    /// The cluster's id.
    pub cluster: String,
    /// The number of the first line.
    pub first: u64,
    /// The number of the last line of a page; an export's is in its signed head.
    pub last: Option<u64>,
    /// The hash that the first line follows.
    pub previous: Digest,
}

/// Which page is meant, as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageClaim {
    /// What its file begins with.
    pub header: Header,
    /// The number of its last line.
    pub last: u64,
    /// The hash of its last line.
    pub head: Digest,
}

/// Which older page is meant, whose hash the state does not know any more: the page after it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderPage {
    /// The cluster's id.
    pub cluster: String,
    /// The number of its first line, after which its file is named.
    pub first: u64,
    /// The last line that it may have: the next file begins behind it.
    pub last_max: u64,
}

/// Returns the name of a page's file.
pub fn page_name(first: u64) -> String {
    format!("page-{first:020}.jsonl")
}

/// Returns the number of a page's first line out of its file's name.
pub fn page_of_name(name: &str) -> Option<u64> {
    name.strip_prefix("page-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// Returns a page as a file.
///
/// # Errors
/// When a line has no JSON form, which none of ours has.
pub fn render_page<'line>(
    header: &Header,
    lines: impl Iterator<Item = &'line Line>,
) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string(header)?;
    text.push('\n');
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    Ok(text)
}

/// Walks along a page.
///
/// # Errors
/// When it cannot be read.
pub fn check_page(walk: &mut Walk, file: &str, claim: &PageClaim, mut from: impl BufRead) -> io::Result<()> {
    let (first, last) = (claim.header.first, claim.last);
    walk.begin(file, first, Some(last));
    let header = next_line(&mut from)?;
    let is_header = header.as_deref().is_some_and(|text| is_exactly(text, &claim.header));
    let mut line = next_line(&mut from)?;
    if !is_header {
        let begins = line.as_deref().and_then(Entry::parse).map(|entry| entry.number());
        if begins != Some(first) {
            let message = "the file holds something else than this page".to_owned();
            walk.note(Damage::Header, first, last, message);
            walk.skip(last, claim.head);
            return Ok(());
        }
        walk.note(Damage::Header, first, last, "the first line of the file was edited".to_owned());
    }
    while let Some(text) = line {
        walk.take_text(&text);
        line = next_line(&mut from)?;
    }
    walk.end_page(last, claim.head);
    Ok(())
}

/// Reads the header of a page's file; none when it is not written as ours are.
///
/// # Errors
/// When it cannot be read.
pub fn header_of(from: &mut impl BufRead) -> io::Result<Option<Header>> {
    let text = next_line(from)?.unwrap_or_default();
    let header: Option<Header> = serde_json::from_str(&text).ok();
    Ok(header.filter(|header| is_exactly(&text, header)))
}

/// Walks along an older page, which must only follow the one before it and be followed by the one behind it.
///
/// # Errors
/// When it cannot be read.
pub fn check_older_page(
    walk: &mut Walk,
    file: &str,
    page: &OlderPage,
    mut from: impl BufRead,
) -> io::Result<()> {
    let OlderPage { cluster, first, last_max } = page;
    let header = header_of(&mut from)?.filter(|header| {
        let is_last = header.last.is_some_and(|last| (*first..=*last_max).contains(&last));
        header.drover_audit == FILE_VERSION && header.cluster == *cluster && header.first == *first && is_last
    });
    let last = header.as_ref().and_then(|header| header.last).unwrap_or(*last_max);
    walk.begin_older(file, *first, last);
    let mut line = next_line(&mut from)?;
    let begins = line.as_deref().and_then(Entry::parse);
    let fits = header.zip(begins.as_ref()).is_some_and(|(header, line)| header.previous == line.previous());
    if !fits {
        if begins.is_some_and(|line| line.number() != *first) {
            let message = "the file holds something else than this page".to_owned();
            walk.note(Damage::Header, *first, last, message);
            walk.skip_unknown(last);
            return Ok(());
        }
        walk.note(Damage::Header, *first, last, "the first line of the file was edited".to_owned());
    }
    while let Some(text) = line {
        walk.take_text(&text);
        line = next_line(&mut from)?;
    }
    walk.end_older_page(last);
    Ok(())
}

/// Walks along an export; returns its header and its signed head, as far as they are there.
///
/// # Errors
/// When it cannot be read.
pub fn check_export(
    walk: &mut Walk,
    file: &str,
    mut from: impl BufRead,
) -> io::Result<(Option<Header>, Option<Head>)> {
    walk.begin(file, 1, None);
    let mut export = Export::default();
    while let Some(text) = next_line(&mut from)? {
        export.take(walk, &text);
    }
    Ok(export.end(walk))
}

/// An export as its lines come.
#[derive(Debug, Default)]
pub struct Export {
    is_begun: bool,
    header: Option<Header>,
    head: Option<Head>,
}

impl Export {
    /// Takes the next line of the file.
    pub fn take(&mut self, walk: &mut Walk, text: &str) {
        if !self.is_begun {
            self.is_begun = true;
            let header = serde_json::from_str::<Header>(text).ok();
            self.header =
                header.filter(|header| header.drover_audit == FILE_VERSION && is_exactly(text, header));
            if self.header.is_some() {
                return;
            }
            walk.note(Damage::Header, 1, 1, "the first line of the file was edited".to_owned());
            if Entry::parse(text).is_none() {
                return;
            }
        }
        if self.head.is_some() {
            let message = "there is more after the signed head".to_owned();
            walk.note(Damage::Header, 1, 1, message);
            return;
        }
        match Head::parse(text) {
            Some(head) => self.head = Some(head),
            None => walk.take_text(text),
        }
    }

    /// Ends the file.
    pub fn end(self, walk: &mut Walk) -> (Option<Header>, Option<Head>) {
        walk.end_export(self.head.as_ref());
        (self.header, self.head)
    }
}

fn is_exactly(text: &str, header: &Header) -> bool {
    serde_json::to_string(header).is_ok_and(|own| own == text)
}

/// Reads a line without its end; what is no text of a bearable length becomes a line that nothing accepts.
///
/// # Errors
/// When reading fails.
pub fn next_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
    if read == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        return Ok(Some(String::from_utf8(bytes).unwrap_or_default()));
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length == LINE_BYTES_MAX) {
        // The rest of it is passed over, piece by piece.
        loop {
            bytes.clear();
            let read = from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            if read == 0 || bytes.last() == Some(&b'\n') {
                return Ok(Some(String::new()));
            }
        }
    }
    // Every line of ours ends: one that does not was cut, and the file with it.
    Ok(None)
}
