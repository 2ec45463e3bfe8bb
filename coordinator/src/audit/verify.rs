//! Walking along the chain as this node has it, and asking every node to do so.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::sync::Arc;

use common::audit::file::{OlderPage, check_older_page, check_page, page_name};
use common::audit::finding::{Damage, Finding};
use common::audit::head::Head;
use common::audit::line::{Entry, genesis};
use common::audit::view::{AuditVerifyView, NodeAuditView};
use common::audit::walk::{FINDINGS_MAX, Verdict, Walk};
use common::clock;
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::view::MemberView;

use super::exchange::{self, Question, VERIFY_DEADLINE, blocking};
use super::pages::{PageFiles, claim};
use crate::hub::Hub;
use crate::raft::state_machine::Replica;
use crate::state::State;

/// What the state is called where files have names.
pub const STATE: &str = "state";

/// Returns where the chain of the cluster, or of one tenant, ends, signed.
///
/// # Errors
/// When the authority cannot be opened or cannot sign.
pub fn signed_head(hub: &Hub, tenant: Option<&TenantId>, end: (u64, Digest)) -> Result<Head, Failure> {
    let seals = hub.seals()?;
    Head::sign(&seals.ticket_key, seals.authority.cluster(), tenant, end, clock::wall())
        .map_err(|error| Failure::of(FailureKind::Bug, &error))
}

/// Walks along this node's own copy.
pub async fn own(hub: &Arc<Hub>) -> NodeAuditView {
    let (files, replica, node) = (hub.audit.files.clone(), hub.proposer.read(), hub.name.clone());
    let walked = blocking(move || {
        let pages = files.list().map_err(|error| Failure::of(FailureKind::Exhausted, &error))?;
        Ok((pages.len(), walk(&files, &pages, &replica)))
    });
    let (pages, verdict, audit) = match walked.await.and_then(|walked| walked) {
        Ok((pages, (verdict, audit))) => (pages, verdict, audit),
        Err(failure) => return NodeAuditView::unknown(node, failure),
    };
    NodeAuditView {
        node,
        pages: u64::try_from(pages).unwrap_or(u64::MAX),
        lines: verdict.lines,
        sequence: audit.0,
        head: Some(audit.1),
        findings: verdict.findings,
        findings_total: verdict.findings_total,
        failure: None,
    }
}

/// Walks along pages and state; returns also where the state says that the chain ends.
fn walk(files: &PageFiles, held: &BTreeSet<u64>, replica: &Replica) -> (Verdict, (u64, Digest)) {
    let state = &replica.state;
    let audit = state.audit();
    let mut walk = Walk::new();
    walk_older_pages(&mut walk, files, held, state);
    for page in audit.pages() {
        walk_page(&mut walk, files, state, page);
    }
    walk.begin(STATE, audit.first_open(), Some(audit.count()));
    for line in audit.lines_between(audit.first_open(), audit.count()) {
        walk.take(&Entry::Line(Box::new(line.as_ref().clone())));
    }
    walk.end_state(audit.count(), audit.head());
    (walk.finish(), (audit.count(), audit.head()))
}

/// Walks along the pages that the state does not know any more.
fn walk_older_pages(walk: &mut Walk, files: &PageFiles, held: &BTreeSet<u64>, state: &State) {
    let (edge, _) = state.audit().edge();
    for first in held.range(1..edge + 1).copied() {
        let next = held.range(first + 1..).next().copied();
        let last_max = next.map_or(edge, |next| (next - 1).min(edge));
        let (name, cluster) = (page_name(first), state.cluster().id.clone());
        let page = OlderPage { cluster, first, last_max };
        let read =
            files.file(first).and_then(|file| check_older_page(walk, &name, &page, BufReader::new(file)));
        if let Err(error) = read {
            walk.begin_older(&name, first, last_max);
            let why = format!("the page cannot be read: {error}");
            walk.note(Damage::MissingPage, first, last_max, why);
            walk.skip_unknown(last_max);
        }
    }
    walk.miss_pages_before(edge + 1);
}

fn walk_page(walk: &mut Walk, files: &PageFiles, state: &State, page: &crate::state::audit::Page) {
    let (name, claim) = (page_name(page.first), claim(state, page));
    let why = match files.file(page.first) {
        Ok(file) => match check_page(walk, &name, &claim, BufReader::new(file)) {
            Ok(()) => return,
            Err(error) => format!("the page cannot be read: {error}"),
        },
        // Its lines are in the state, and it will be written in a moment.
        Err(_) if state.audit().holds(page) => {
            walk.begin(STATE, page.first, Some(page.last));
            for line in state.audit().lines_between(page.first, page.last) {
                walk.take(&Entry::Line(Box::new(line.as_ref().clone())));
            }
            walk.end_page(page.last, page.head);
            return;
        }
        Err(error) => format!("the page is not there: {error}"),
    };
    walk.begin(&name, page.first, Some(page.last));
    walk.note(Damage::MissingPage, page.first, page.last, why);
    walk.skip(page.last, page.head);
}

/// Asks every node to walk along its own copy, and compares what they have.
///
/// # Errors
/// When the head cannot be signed.
pub async fn all(hub: &Arc<Hub>) -> Result<AuditVerifyView, Failure> {
    let mut asked = Vec::new();
    for peer in exchange::peers(hub) {
        let hub = Arc::clone(hub);
        let tasks = hub.shutdown.clone();
        asked.push(tasks.spawn(async move { ask(&hub, &peer).await }));
    }
    let mut nodes = vec![own(hub).await];
    for node in asked {
        nodes.push(node.await.map_err(|error| Failure::of(FailureKind::Bug, &error))?);
    }
    // Read last, so that no node is ahead of it.
    let state = hub.state();
    let audit = state.audit();
    for node in &mut nodes {
        compare(node, &state);
    }
    nodes.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(AuditVerifyView { head: signed_head(hub, None, (audit.count(), audit.head()))?, nodes })
}

async fn ask(hub: &Hub, peer: &MemberView) -> NodeAuditView {
    let asked: Result<String, Failure> = exchange::ask(hub, peer, VERIFY_DEADLINE, &Question::Verify).await;
    let read = asked.and_then(|text| {
        serde_json::from_str(&text).map_err(|error| Failure::of(FailureKind::Unsupported, &error))
    });
    let view: Result<NodeAuditView, Failure> = read;
    match view {
        Ok(mut view) => {
            view.node = peer.name.clone();
            view.findings.truncate(FINDINGS_MAX);
            view
        }
        Err(failure) => NodeAuditView::unknown(peer.name.clone(), failure),
    }
}

/// Notes when the chain of a node is another one than that of this node.
fn compare(node: &mut NodeAuditView, state: &State) {
    let audit = state.audit();
    let expected = match node.sequence {
        0 => Some(genesis()),
        sequence => {
            let of_page = audit.pages().find(|page| page.last == sequence).map(|page| page.head);
            audit.line(sequence).map(|line| line.hash).or(of_page)
        }
    };
    let (Some(expected), Some(actual)) = (expected, node.head) else { return };
    if expected != actual {
        node.findings_total += 1;
        node.findings.push(Finding {
            damage: Damage::Head,
            file: STATE.to_owned(),
            first: node.sequence,
            last: node.sequence,
            message: "this coordinator holds another hash for this line than the leader".to_owned(),
        });
    }
}
