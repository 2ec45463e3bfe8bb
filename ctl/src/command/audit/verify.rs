//! `ctl audit verify`.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use common::audit::file::{Export as Checked, check_export, next_line};
use common::audit::finding::{Damage, Finding};
use common::audit::head::Head;
use common::audit::view::{AuditVerifyView, NodeAuditView};
use common::audit::walk::{FINDINGS_MAX, Walk};
use common::failure::{Failure, FailureKind};
use common::human;
use common::id::TenantId;
use common::tls;
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use super::call::{self, Export};
use crate::client::Client;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// Anchors that are believed to be in one file; one a minute makes half a million a year.
const ANCHORS_MAX: usize = 5_000_000;

/// Check the audit from its first line to its last, on every coordinator, and name every line that was altered
///
/// Each coordinator walks along its own files and state, and ctl itself walks along what the leader sends. With
/// --anchor, the chain must also fit what was anchored earlier. Exit code 0 means that nothing was altered, 8 that
/// something was, 11 that a coordinator could not be asked.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// A file of anchors, as the coordinator's setting `audit.anchor_file` or a webhook collected them; for an export of
    /// one tenant, the last lines of earlier ones
    #[arg(long, value_name = "FILE")]
    anchor: Option<PathBuf>,
    /// Check this export instead, without asking the cluster
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// The answer.
#[derive(Debug, Default, Serialize)]
struct Answer {
    /// Whether nothing was altered, as far as it could be looked at.
    intact: bool,
    /// Lines from the first to the last.
    lines: u64,
    /// Where the chain ends.
    head: Option<Head>,
    /// Whether the head bears the cluster's signature; none where no context says by which certificate to tell.
    signed: Option<bool>,
    /// Anchors that the chain fits.
    anchors: u64,
    /// What each coordinator found along its own copy.
    nodes: Vec<NodeAuditView>,
    /// What ctl found.
    findings: Vec<Finding>,
    findings_total: u64,
}

impl Answer {
    fn note(&mut self, damage: Damage, file: &str, line: u64, message: String) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            let file = file.to_owned();
            self.findings.push(Finding { damage, file, first: line, last: line, message });
        }
    }
}

/// Runs `ctl audit verify`.
pub(crate) async fn run(context: &CommandContext, args: VerifyArgs) -> Result<u8, CommandError> {
    let authority = authority(context);
    let (mut answer, mut walk) = (Answer::default(), Walk::new());
    let anchors = match &args.anchor {
        Some(path) => read_anchors(path)?,
        None => Vec::new(),
    };
    for anchor in &anchors {
        walk.anchor(anchor);
    }
    let cluster = match &args.file {
        Some(path) => walk_file(walk, path, &mut answer)?,
        None => walk_cluster(walk, &context.client()?, &mut answer).await?,
    };
    check_signatures(&mut answer, &anchors, cluster.as_deref(), authority.ok().as_ref())?;
    answer.intact = answer.findings_total == 0 && answer.nodes.iter().all(|node| node.findings_total == 0);
    context.output.answer(&answer, text)?;
    let is_unasked = answer.nodes.iter().any(|node| node.failure.is_some());
    Ok(match (answer.intact, is_unasked) {
        (false, _) => FailureKind::Corrupt.exit_code(),
        (true, true) => FailureKind::Unreachable.exit_code(),
        (true, false) => 0,
    })
}

/// Returns the certificate of the cluster's authority, out of the context.
fn authority(context: &CommandContext) -> Result<CertificateDer<'static>, CommandError> {
    let known = context.settings.context()?;
    let certificates = tls::certificates_of_pem(&known.ca_certificate)
        .map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    let absent = || Failure::new(FailureKind::Invalid, "the context holds no certificate of the cluster");
    Ok(certificates.into_iter().next().ok_or_else(absent)?)
}

/// Reads a file of anchors, one in each line.
fn read_anchors(path: &Path) -> Result<Vec<Head>, CommandError> {
    let reading = |error: &std::io::Error| CommandError::io("reading", path.display(), error);
    let mut from = BufReader::new(File::open(path).map_err(|error| reading(&error))?);
    let mut anchors = Vec::new();
    while let Some(text) = next_line(&mut from).map_err(|error| reading(&error))? {
        if text.trim().is_empty() {
            continue;
        }
        let Some(anchor) = Head::parse(&text) else {
            let message = format!("{}: line {} is no anchor", path.display(), anchors.len() + 1);
            return Err(CommandError::invalid(
                message,
                "name the file that the setting `audit.anchor_file` names",
            ));
        };
        anchors.push(anchor);
        if anchors.len() > ANCHORS_MAX {
            let message = format!("{} holds more than {ANCHORS_MAX} anchors", path.display());
            return Err(CommandError::invalid(message, "split the file"));
        }
    }
    Ok(anchors)
}

/// Walks along an export in a file; returns the cluster that its header names.
fn walk_file(mut walk: Walk, path: &Path, answer: &mut Answer) -> Result<Option<String>, CommandError> {
    let reading = |error: &std::io::Error| CommandError::io("reading", path.display(), error);
    let from = BufReader::new(File::open(path).map_err(|error| reading(&error))?);
    let name = path.display().to_string();
    let (header, head) = check_export(&mut walk, &name, from).map_err(|error| reading(&error))?;
    take(answer, walk, head);
    Ok(header.map(|header| header.cluster))
}

/// Has every node walk along its own copy, and walks along what the leader sends; returns the cluster.
async fn walk_cluster(
    mut walk: Walk,
    client: &Client,
    answer: &mut Answer,
) -> Result<Option<String>, CommandError> {
    let AuditVerifyView { head, nodes } = call::verify(client).await?;
    let cluster = head.cluster.clone();
    let is_found = nodes.iter().any(|node| node.findings_total > 0);
    answer.nodes = nodes;
    walk.begin("export", 1, None);
    let mut checked = Checked::default();
    let mut sent = Ok(());
    match Export::begin(client, true).await {
        Ok(mut export) => loop {
            match export.next().await {
                Ok(Some(lines)) => lines.lines().for_each(|line| checked.take(&mut walk, line)),
                Ok(None) => break,
                Err(failure) => {
                    sent = Err(failure);
                    break;
                }
            }
        },
        Err(failure) => sent = Err(failure),
    }
    match sent {
        Ok(()) => {
            let (_, ends) = checked.end(&mut walk);
            take(answer, walk, ends.or(Some(head)));
        }
        // A leader whose own pages are damaged cannot send them; what is wrong with them is told already.
        Err(_) if is_found => answer.head = Some(head),
        Err(failure) => return Err(failure.into()),
    }
    Ok(Some(cluster))
}

fn take(answer: &mut Answer, walk: Walk, head: Option<Head>) {
    let verdict = walk.finish();
    answer.lines = verdict.lines;
    answer.anchors = verdict.anchors_held;
    answer.findings_total += verdict.findings_total;
    answer.findings.extend(verdict.findings);
    answer.head = head;
}

/// Checks who signed the head and the anchors, where the certificate to tell by is known.
fn check_signatures(
    answer: &mut Answer,
    anchors: &[Head],
    cluster: Option<&str>,
    authority: Option<&CertificateDer<'_>>,
) -> Result<(), CommandError> {
    let foreign = anchors.iter().find(|anchor| cluster.is_some_and(|cluster| anchor.cluster != cluster));
    if let (Some(anchor), Some(cluster)) = (foreign, cluster) {
        let message = format!("the anchors are of cluster {}, and the audit is of {cluster}", anchor.cluster);
        return Err(CommandError::invalid(message, "name the anchors of this cluster"));
    }
    let whose = |tenant: &Option<TenantId>| match tenant {
        None => "the cluster".to_owned(),
        Some(tenant) => format!("tenant {tenant}"),
    };
    let head = answer.head.as_ref();
    if let Some((anchor, head)) =
        head.and_then(|head| Some((anchors.iter().find(|it| it.tenant != head.tenant)?, head)))
    {
        let message = format!(
            "the anchors are of {}, and the audit is of {}",
            whose(&anchor.tenant),
            whose(&head.tenant)
        );
        return Err(CommandError::invalid(
            message,
            "an export of one tenant fits the last lines of its earlier exports; export with --all-tenants for the cluster's",
        ));
    }
    let Some(authority) = authority else { return Ok(()) };
    if let Some(head) = answer.head.clone() {
        let is_signed = head.is_signed_by(authority);
        answer.signed = Some(is_signed);
        if !is_signed {
            let message = "the cluster of the context did not sign the head of the chain".to_owned();
            answer.note(Damage::Signature, "head", head.sequence, message);
        }
    }
    for anchor in anchors.iter().filter(|anchor| !anchor.is_signed_by(authority)) {
        let message = format!("the cluster did not sign the anchor of {}", human::moment(anchor.at));
        answer.note(Damage::Signature, "anchor", anchor.sequence, message);
    }
    Ok(())
}

fn text(answer: &Answer) -> Text {
    let mut text = Text::new();
    let sequence = answer.head.as_ref().map_or(0, |head| head.sequence);
    if answer.intact {
        text.push(Meaning::Good, "intact").plain(format!(": {}", human::plural(sequence, "line")));
        if answer.anchors > 0 {
            text.plain(format!(", {}", human::plural(answer.anchors, "anchor")));
        }
        text.end_line();
    } else {
        text.push(Meaning::Bad, "altered").plain(": the audit is not what was written").end_line();
    }
    if let Some(head) = &answer.head {
        text.push(Meaning::Faint, "  head: ").plain(head.head.to_string()).end_line();
    }
    if answer.signed.is_none() {
        text.push(Meaning::Caution, "  the signature was not checked: ")
            .plain("no context says by what")
            .end_line();
    }
    for node in &answer.nodes {
        text.push(Meaning::Strong, format!("  {}", node.node));
        match &node.failure {
            Some(failure) => text.push(Meaning::Bad, " was not asked: ").plain(&failure.message).end_line(),
            None => text
                .plain(format!(
                    ": {} in {} and its state",
                    human::plural(node.lines, "line"),
                    human::plural(node.pages, "page")
                ))
                .end_line(),
        };
        for finding in &node.findings {
            line(&mut text, &format!("    {finding}"));
        }
    }
    for finding in &answer.findings {
        line(&mut text, &format!("  {finding}"));
    }
    text
}

fn line(text: &mut Text, finding: &str) {
    text.push(Meaning::Bad, finding).end_line();
}

#[cfg(test)]
mod tests {
    use common::digest::Digest;

    use super::*;

    #[test]
    fn a_finding_names_file_and_line() {
        let mut answer = Answer { signed: Some(true), intact: true, ..Answer::default() };
        assert_eq!(text(&answer).render(false), "intact: 0 lines\n");
        answer.intact = false;
        answer.nodes.push(NodeAuditView {
            node: "coordinator-2".parse().unwrap(),
            pages: 3,
            lines: 3_000,
            sequence: 3_000,
            head: Some(Digest::of(b"")),
            findings: vec![Finding {
                damage: Damage::Edited,
                file: "page-1.jsonl".to_owned(),
                first: 7,
                last: 7,
                message: "it was edited".to_owned(),
            }],
            findings_total: 1,
            failure: None,
        });
        assert_eq!(
            text(&answer).render(false),
            "altered: the audit is not what was written\n  coordinator-2: 3 000 lines in 3 pages and its state\n    page-1.jsonl: line 7: it was edited\n"
        );
    }
}
