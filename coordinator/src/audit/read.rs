//! Reading the audit: lists, newest first, and the whole of it, oldest first. A page at a time is in memory.

use std::sync::Arc;

use common::audit::file::{FILE_VERSION, Header, page_name};
use common::audit::line::{Entry, Line, genesis};
use common::clock::WallMs;
use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use tokio::sync::mpsc;

use super::exchange::blocking;
use super::pages::claim;
use super::verify::signed_head;
use crate::hub::Hub;
use crate::state::audit::Page;

/// Pages that one call for a list looks into; a list with a rare filter takes several calls.
const PAGES_PER_CALL: usize = 16;
/// Bytes of an export in one message.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes of one answer to a call for a list, below the largest message.
const LIST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Which lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not older than this.
    pub since: Option<WallMs>,
    /// Older than this.
    pub until: Option<WallMs>,
    /// A part of who.
    pub principal: String,
    /// A part of to what.
    pub object: String,
    /// The beginning of what.
    pub action: String,
    /// Refused ones, done ones, or both.
    pub is_refused: Option<bool>,
}

impl Filter {
    fn holds(&self, tenant: &TenantId, line: &Line) -> bool {
        line.tenant == *tenant
            && self.since.is_none_or(|since| line.at >= since)
            && self.until.is_none_or(|until| line.at < until)
            && line.principal.contains(&self.principal)
            && line.object.contains(&self.object)
            && line.action.starts_with(&self.action)
            && self.is_refused.is_none_or(|is_refused| line.refused.is_some() == is_refused)
    }
}

/// Lines, newest first, and the number of the line before which the next part begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The lines.
    pub lines: Vec<Line>,
    /// Where it goes on; none at the end.
    pub next: Option<u64>,
}

/// What is gathered for a list.
struct Gathering<'a> {
    filter: &'a Filter,
    tenant: &'a TenantId,
    limit: usize,
    bytes: usize,
    part: Part,
}

impl Gathering<'_> {
    /// Takes a line if it is wanted; says whether there is room for more.
    fn take(&mut self, line: &Line) -> bool {
        self.part.next = Some(line.number);
        if self.filter.holds(self.tenant, line) {
            let refused = line.refused.as_ref().map_or(0, String::len);
            self.bytes += 512 + 2 * (line.principal.len() + line.action.len() + line.object.len() + refused);
            self.part.lines.push(line.clone());
        }
        self.part.lines.len() < self.limit && self.bytes < LIST_BYTES_MAX
    }
}

/// Returns lines of a tenant before the line `before`, newest first.
///
/// # Errors
/// When a page cannot be read.
pub async fn list(
    hub: &Hub,
    tenant: &TenantId,
    before: Option<u64>,
    limit: usize,
    filter: &Filter,
) -> Result<Part, Failure> {
    let state = hub.state();
    let audit = state.audit();
    let last = before.unwrap_or(u64::MAX).min(audit.count() + 1).saturating_sub(1);
    let mut gathering = Gathering { filter, tenant, limit, bytes: 0, part: Part::default() };
    let first_here = audit.lines().next().map_or(audit.count() + 1, |line| line.number);
    if last >= first_here {
        for line in audit.lines_between(first_here, last).rev() {
            if !gathering.take(line) {
                return Ok(ended(gathering));
            }
        }
    }
    let older = audit.pages().rev().filter(|page| page.first <= last && !audit.holds(page));
    let older: Vec<Page> = older.take(PAGES_PER_CALL + 1).cloned().collect();
    for page in older.iter().take(PAGES_PER_CALL) {
        for line in lines_of(hub, page).await?.iter().rev().filter(|line| line.number <= last) {
            if !gathering.take(line) {
                return Ok(ended(gathering));
            }
        }
    }
    if older.len() <= PAGES_PER_CALL {
        gathering.part.next = None;
    }
    Ok(ended(gathering))
}

fn ended(gathering: Gathering<'_>) -> Part {
    let part = gathering.part;
    Part { next: part.next.filter(|next| *next > 1), lines: part.lines }
}

async fn lines_of(hub: &Hub, page: &Page) -> Result<Vec<Line>, Failure> {
    let (files, claim) = (hub.audit.files.clone(), claim(&hub.state(), page));
    let read = blocking(move || files.lines(&claim)).await?;
    read.map_err(|error| {
        let name = page_name(page.first);
        let message = format!("the page {name} of the audit on `{}` cannot be believed: {error}", hub.name);
        Failure::new(FailureKind::Corrupt, message).hint(
            "see `ctl audit verify`; once the file is moved away, it is fetched again from another coordinator",
        )
    })
}

/// Sends the whole chain as lines of JSON; those of other tenants redacted, unless `tenant` is none.
pub async fn export(hub: Arc<Hub>, tenant: Option<TenantId>, pieces: mpsc::Sender<Result<Vec<u8>, Failure>>) {
    let mut writer = Writer { pieces: &pieces, bytes: Vec::new() };
    if let Err(Some(failure)) = export_impl(&hub, tenant.as_ref(), &mut writer).await {
        drop(pieces.send(Err(failure)).await);
    }
}

/// What an export is written with; fails without a word when nobody reads any more.
struct Writer<'a> {
    pieces: &'a mpsc::Sender<Result<Vec<u8>, Failure>>,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    async fn line(&mut self, text: &str) -> Result<(), Option<Failure>> {
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(b'\n');
        if self.bytes.len() >= PIECE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Option<Failure>> {
        let bytes = std::mem::take(&mut self.bytes);
        self.pieces.send(Ok(bytes)).await.map_err(|_closed| None)
    }
}

async fn export_impl(
    hub: &Arc<Hub>,
    tenant: Option<&TenantId>,
    writer: &mut Writer<'_>,
) -> Result<(), Option<Failure>> {
    let bug = |error: serde_json::Error| Some(Failure::of(FailureKind::Bug, &error));
    let state = hub.state();
    let audit = state.audit();
    let header = Header {
        drover_audit: FILE_VERSION,
        cluster: state.cluster().id.clone(),
        first: 1,
        last: None,
        previous: genesis(),
    };
    writer.line(&serde_json::to_string(&header).map_err(bug)?).await?;
    let text = |line: &Line| {
        let is_foreign = tenant.is_some_and(|tenant| line.tenant != *tenant);
        let entry =
            if is_foreign { Entry::Redacted(line.redacted()) } else { Entry::Line(Box::new(line.clone())) };
        entry.to_text().map_err(bug)
    };
    for page in audit.pages().filter(|page| !audit.holds(page)) {
        for line in lines_of(hub, page).await.map_err(Some)? {
            writer.line(&text(&line)?).await?;
        }
    }
    for line in audit.lines() {
        writer.line(&text(line)?).await?;
    }
    let head = signed_head(hub, audit.count(), audit.head()).map_err(Some)?;
    writer.line(&serde_json::to_string(&head).map_err(bug)?).await?;
    writer.flush().await
}
