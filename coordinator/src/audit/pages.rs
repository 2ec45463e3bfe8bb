//! Pages as files: written whole or not at all, readable by this program's user only.
//!
//! A file of a page has the lines as they were in the state; what it must be is known from the page's hash there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use common::atomic_file;
use common::audit::file::{
    FILE_VERSION, Header, PageClaim, check_page, header_of, next_line, page_name, page_of_name, render_page,
};
use common::audit::line::{Entry, Line, genesis};
use common::audit::walk::Walk;
use common::digest::Digest;

use crate::state::State;
use crate::state::audit::Page;

/// The bytes of a page that travel in one message.
pub const PIECE_BYTES: u64 = 1024 * 1024;
/// The largest page that is taken from another node: the most lines with the longest texts, each byte escaped, are
/// about twice this; real ones have a thousandth of it.
pub const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The directory of pages.
#[derive(Clone, Debug)]
pub struct PageFiles {
    directory: PathBuf,
}

/// Pages that the state does not know any more, newest first. Each is known by the hash that the one behind it follows,
/// as the files' headers say; whether a file holds that is looked at where it is read.
#[derive(Debug)]
pub struct OlderPages {
    files: PageFiles,
    held: BTreeSet<u64>,
    cluster: String,
    /// Where the next one ends, and in which hash.
    end: (u64, Digest),
}

/// A page that stands in no file here, or in one whose header is not its own: where it ends, and in which hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(pub u64, pub Digest);

impl Iterator for OlderPages {
    type Item = Result<PageClaim, Missing>;

    fn next(&mut self) -> Option<Self::Item> {
        let (last, head) = self.end;
        if last == 0 {
            return None;
        }
        let nearest = self.held.range(1..=last).next_back();
        let header = nearest.and_then(|first| self.files.header(*first, last, &self.cluster));
        let Some(header) = header else {
            // Nothing says what stood before it.
            self.end = (0, genesis());
            return Some(Err(Missing(last, head)));
        };
        self.end = (header.first - 1, header.previous);
        Some(Ok(PageClaim { header, last, head }))
    }
}

/// Returns what the state says of a page.
pub fn claim(state: &State, page: &Page) -> PageClaim {
    let Page { first, last, previous, head } = page;
    let header = Header {
        drover_audit: FILE_VERSION,
        cluster: state.cluster().id.clone(),
        first: *first,
        last: Some(*last),
        previous: *previous,
    };
    PageClaim { header, last: *last, head: *head }
}

/// Returns a page whose lines the state still holds, as a file.
///
/// # Errors
/// When a line has no JSON form, which none of ours has.
pub fn render(state: &State, page: &Page) -> io::Result<String> {
    let lines = state.audit().lines_between(page.first, page.last);
    Ok(render_page(&claim(state, page).header, lines.map(AsRef::as_ref))?)
}

/// Whether these bytes are the page.
pub fn is_page(claim: &PageClaim, from: impl Read) -> bool {
    let mut walk = Walk::after(claim.header.first - 1, claim.header.previous);
    let name = page_name(claim.header.first);
    check_page(&mut walk, &name, claim, BufReader::new(from)).is_ok() && walk.finish().is_intact()
}

impl PageFiles {
    /// Opens the directory, which is made when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("audit");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory })
    }

    /// Returns the first lines of the pages that are here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<BTreeSet<u64>> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&self.directory)? {
            found.extend(entry?.file_name().to_str().and_then(page_of_name));
        }
        Ok(found)
    }

    /// Returns the pages that end with this line and hash, and before it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn older(&self, cluster: &str, end: (u64, Digest)) -> io::Result<OlderPages> {
        let (files, held, cluster) = (self.clone(), self.list()?, cluster.to_owned());
        Ok(OlderPages { files, held, cluster, end })
    }

    /// Returns the first line of the page that ends with this one, as its file says.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn ending(&self, cluster: &str, last: u64) -> io::Result<Option<u64>> {
        let page = self.older(cluster, (last, genesis()))?.next();
        Ok(page.and_then(Result::ok).map(|claim| claim.header.first))
    }

    /// Returns the header of a page's file, if it is one of this page.
    fn header(&self, first: u64, last: u64, cluster: &str) -> Option<Header> {
        let header = header_of(&mut BufReader::new(self.file(first).ok()?)).ok()??;
        let Header { drover_audit, cluster: of, first: begins, last: ends, previous: _ } = &header;
        let is_own =
            *drover_audit == FILE_VERSION && of == cluster && *begins == first && *ends == Some(last);
        is_own.then_some(header)
    }

    /// Opens the file of a page.
    ///
    /// # Errors
    /// When it is not there or cannot be opened.
    pub fn file(&self, first: u64) -> io::Result<File> {
        File::open(self.path(first))
    }

    /// Writes a page, durably.
    ///
    /// # Errors
    /// When it cannot be written; then nothing is there.
    pub fn write(&self, first: u64, content: &[u8]) -> io::Result<()> {
        atomic_file::write(&self.path(first), content, 0o600)
    }

    /// Whether a page is here as the state knows it.
    pub fn holds(&self, claim: &PageClaim) -> bool {
        self.file(claim.header.first).is_ok_and(|file| is_page(claim, file))
    }

    /// Returns a piece of a page's file; empty at its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn piece(&self, first: u64, offset: u64) -> io::Result<Vec<u8>> {
        let mut file = self.file(first)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(PIECE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns the lines of a page.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what the state knows.
    pub fn lines(&self, claim: &PageClaim) -> io::Result<Vec<Line>> {
        let altered = || io::Error::new(io::ErrorKind::InvalidData, "the file is not what was written");
        if !self.holds(claim) {
            return Err(altered());
        }
        let mut from = BufReader::new(self.file(claim.header.first)?);
        let _header = next_line(&mut from)?;
        let mut lines = Vec::new();
        while let Some(text) = next_line(&mut from)? {
            match Entry::parse(&text) {
                Some(Entry::Line(line)) => lines.push(*line),
                Some(Entry::Redacted(_)) | None => return Err(altered()),
            }
        }
        Ok(lines)
    }

    /// Returns where a page stands.
    pub fn path(&self, first: u64) -> PathBuf {
        self.directory.join(page_name(first))
    }
}
