//! What stands against a plan.

use common::finding::{Finding, Rule, Severity};
use common::host::HostFacts;
use common::id::HostName;
use common::spec::MigrationSpec;
use common::step::StepKind;
use common::transport::TransportChoice;

use super::Side;
use crate::state::roots::{Overlap, Root};

/// Returns every finding against a migration between these sides.
pub(super) fn check(
    spec: &MigrationSpec,
    source: Side<'_>,
    destination: Side<'_>,
    relay: Option<&HostFacts>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for side in [source, destination] {
        let against = |found: &&Finding| found.severity == Severity::Error;
        // An agent knows the path only.
        let at =
            |found: &Finding| Finding { object: format!("{}:{}", side.host, found.object), ..found.clone() };
        findings.extend(side.root.findings.iter().filter(against).map(at));
    }
    if !source.root.exists && findings.is_empty() {
        let hint = "name a folder that exists on the source host";
        findings.push(finding(&spec.source.location.to_string(), "the source does not exist", hint));
    }
    findings.extend(check_steps(spec, destination));
    findings.extend(check_nesting(spec, source, destination));
    match (&spec.transfer.relay, relay) {
        (Some(name), Some(facts)) => findings.extend(check_relay(spec, name, facts)),
        (_, _) => findings.extend(check_ways(spec, source, destination)),
    }
    findings
}

/// The destination's agent must know the steps.
fn check_steps(spec: &MigrationSpec, destination: Side<'_>) -> Option<Finding> {
    let is_real = !spec.options.dry_run;
    let catches_up = is_real && spec.transfer.catch_up.is_some();
    let needed = [
        (StepKind::FileCopy, true),
        (StepKind::FileVerify, is_real && spec.options.verify_after),
        (StepKind::FileCatchUp, catches_up),
        (StepKind::FileFinish, catches_up),
    ];
    let knows = |kind: StepKind| {
        let version = kind.descriptor().version;
        destination.facts.steps.iter().any(|step| step.kind == kind && step.version == version)
    };
    let (missing, _) = needed.into_iter().find(|(kind, is_needed)| *is_needed && !knows(*kind))?;
    let message =
        format!("the agent of `{}` cannot run {missing}@{}", destination.host, missing.descriptor().version);
    Some(finding(destination.host.as_str(), &message, "run one version of the program on all hosts"))
}

/// The sides must not be one folder, nor one inside the other, under whatever names.
fn check_nesting(spec: &MigrationSpec, source: Side<'_>, destination: Side<'_>) -> Option<Finding> {
    let from = Root::new(source.host.clone(), source.root);
    let to = Root::new(destination.host.clone(), destination.root);
    let message = match from.overlap(&to)? {
        Overlap::Same => "source and destination are one folder",
        Overlap::Above => "the destination lies inside the source",
        Overlap::Below => "the source lies inside the destination",
    };
    let object = spec.destination.location.to_string();
    Some(finding(&object, message, "choose folders of which neither holds the other"))
}

/// The destination dials the source, or the source the destination.
fn check_ways(spec: &MigrationSpec, source: Side<'_>, destination: Side<'_>) -> Option<Finding> {
    if [source, destination].iter().any(|side| !side.facts.data_addresses.is_empty()) {
        return None;
    }
    let message = format!(
        "neither the agent of `{}` nor that of `{}` has an address for data",
        source.host, destination.host
    );
    let hint = "set `advertise_data` in agent.toml of one of both";
    Some(finding(&spec.source.location.to_string(), &message, hint))
}

/// A relay is a third host that can be dialled, and knows only TCP.
fn check_relay(spec: &MigrationSpec, name: &HostName, facts: &HostFacts) -> Option<Finding> {
    let object = name.as_str();
    if [&spec.source.location.host, &spec.destination.location.host].contains(&name) {
        let hint = "name a third host that both sides reach, or leave the relay out";
        return Some(finding(object, "the relay is one of both sides", hint));
    }
    if spec.transfer.transport == TransportChoice::Quic {
        let hint = "leave `transport` out, or the relay";
        return Some(finding(object, "a relay passes on TCP only, and QUIC is asked for", hint));
    }
    if facts.data_addresses.is_empty() {
        let message = format!("the agent of the relay `{name}` has no address for data");
        return Some(finding(object, &message, "set `advertise_data` in its agent.toml"));
    }
    None
}

/// Makes a finding that stands against the plan.
pub(super) fn finding(object: &str, message: &str, hint: &str) -> Finding {
    Finding {
        rule: Rule::Plan,
        severity: Severity::Error,
        object: object.to_owned(),
        message: message.to_owned(),
        hint: hint.to_owned(),
    }
}
