//! Reading the audit: lists, newest first, and the whole of it, oldest first. A page at a time is in memory.
//!
//! Tenants are walls here too. Who may not see the whole cluster's audit is told nothing of how many lines others have:
//! no numbers of lines, a list goes on from a place that only the coordinators can read, and an export is the tenant's
//! own chain.

use std::sync::Arc;

use common::audit::file::{FILE_VERSION, Header, PageClaim, page_name};
use common::audit::line::{Line, genesis};
use common::audit::own::OwnChain;
use common::clock::WallMs;
use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use tokio::sync::mpsc;

use super::exchange::blocking;
use super::pages::{Missing, claim};
use super::verify::signed_head;
use crate::hub::{self, Hub};
use crate::state::State;
use crate::vault::envelope::{self, hex};

/// Pages that one call for a list looks into; a list with a rare filter takes several calls.
const PAGES_PER_CALL: usize = 16;
/// Bytes of an export in one message.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes of one answer to a call for a list, below the largest message.
const LIST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Digits of such a place: an envelope of eight bytes has 129.
const PLACE_DIGITS_MAX: usize = 512;
/// What the place is sealed for from which a list goes on, before the tenant.
const PLACE_CONTEXT: &str = "drover place in the audit for tenant ";

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
    let older = pages_up_to(hub, &state, last, PAGES_PER_CALL + 1).await?;
    let is_end = older.len() <= PAGES_PER_CALL;
    for page in older.into_iter().take(PAGES_PER_CALL) {
        let page = page.map_err(|missing| absent(hub, missing))?;
        for line in lines_of(hub, page).await?.iter().rev().filter(|line| line.number <= last) {
            if !gathering.take(line) {
                return Ok(ended(gathering));
            }
        }
    }
    if is_end {
        gathering.part.next = None;
    }
    Ok(ended(gathering))
}

fn ended(gathering: Gathering<'_>) -> Part {
    let part = gathering.part;
    Part { next: part.next.filter(|next| *next > 1), lines: part.lines }
}

/// Returns the text of the place before which a list goes on: sealed, so that it tells a tenant nothing.
///
/// # Errors
/// When this node lacks the cluster key.
pub fn place_text(hub: &Hub, tenant: &TenantId, before: u64) -> Result<String, Failure> {
    let context = format!("{PLACE_CONTEXT}{tenant}");
    let sealed = envelope::seal(&hub.cluster_key()?, &context, &before.to_le_bytes());
    sealed.map(|sealed| hex(&sealed)).map_err(|error| Failure::of(FailureKind::Bug, &error))
}

/// Reads the text of a place; none when it is not one that was given to this tenant.
pub fn place_of(hub: &Hub, tenant: &TenantId, text: &str) -> Option<u64> {
    if text.len() > PLACE_DIGITS_MAX || !text.is_ascii() {
        return None;
    }
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let sealed: Vec<u8> = digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<_>>()?;
    let key = hub.keyring.key(hub::key_id(&sealed).ok()?).ok()?;
    let opened = envelope::open(&key, &format!("{PLACE_CONTEXT}{tenant}"), &sealed).ok()?;
    Some(u64::from_le_bytes(opened.expose().as_slice().try_into().ok()?))
}

/// Returns the newest pages that hold lines up to this one and left the state, newest first, at most `max`.
async fn pages_up_to(
    hub: &Hub,
    state: &State,
    last: u64,
    max: usize,
) -> Result<Vec<Result<PageClaim, Missing>>, Failure> {
    let audit = state.audit();
    let known = audit.pages().rev().filter(|page| page.first <= last && !audit.holds(page));
    let known: Vec<_> = known.take(max).map(|page| Ok(claim(state, page))).collect();
    if known.len() == max {
        return Ok(known);
    }
    let (files, cluster, edge) = (hub.audit.files.clone(), state.cluster().id.clone(), audit.edge());
    let older = move || {
        let is_wanted = |page: &Result<PageClaim, Missing>| {
            page.as_ref().map_or(true, |claim| claim.header.first <= last)
        };
        let more = max - known.len();
        Ok(known.into_iter().chain(files.older(&cluster, edge)?.filter(is_wanted).take(more)).collect())
    };
    let found: std::io::Result<_> = blocking(older).await?;
    found.map_err(|error| Failure::of(FailureKind::Exhausted, &error))
}

fn absent(hub: &Hub, Missing(last, _): Missing) -> Failure {
    let message =
        format!("the page of the audit that ends with line {last} is not on `{}`, or is altered", hub.name);
    Failure::new(FailureKind::Corrupt, message).hint("see `ctl audit verify`")
}

async fn lines_of(hub: &Hub, page: PageClaim) -> Result<Vec<Line>, Failure> {
    let (files, name) = (hub.audit.files.clone(), page_name(page.header.first));
    let read = blocking(move || files.lines(&page)).await?;
    read.map_err(|error| {
        let message = format!("the page {name} of the audit on `{}` cannot be believed: {error}", hub.name);
        Failure::new(FailureKind::Corrupt, message).hint(
            "see `ctl audit verify`; once the file is moved away, it is fetched again from another coordinator",
        )
    })
}

/// Sends the chain of a tenant as lines of JSON, or that of the cluster.
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
    let mut own = tenant.map(|tenant| OwnChain::new(tenant.clone()));
    let mut text = |line: &Line| {
        let own = own.as_mut().map(|own| own.take(line));
        let shown = own.as_ref().map_or(Some(line), Option::as_ref);
        shown.map(serde_json::to_string).transpose().map_err(bug)
    };
    let pages = pages_up_to(hub, &state, u64::MAX, usize::MAX).await.map_err(Some)?;
    for page in pages.into_iter().rev() {
        let page = page.map_err(|missing| Some(absent(hub, missing)))?;
        for line in lines_of(hub, page).await.map_err(Some)? {
            if let Some(text) = text(&line)? {
                writer.line(&text).await?;
            }
        }
    }
    for line in audit.lines() {
        if let Some(text) = text(line)? {
            writer.line(&text).await?;
        }
    }
    let end = own.map_or((audit.count(), audit.head()), |own| own.end());
    let head = signed_head(hub, tenant, end).map_err(Some)?;
    writer.line(&serde_json::to_string(&head).map_err(bug)?).await?;
    writer.flush().await
}
