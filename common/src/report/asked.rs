//! What was asked for, as a report says it.

use crate::human;
use crate::owner_map::OwnerMap;
use crate::rules::Rules;
use crate::spec::{CatchUpSpec, Cutover, MaxDelete, MigrationSpec};

use super::{exact_bytes, milliseconds};

/// Returns names and values.
pub(super) fn facts(spec: &MigrationSpec) -> Vec<(&'static str, String)> {
    let yes_no = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let patterns = |patterns: &[String]| {
        if patterns.is_empty() { "none".to_owned() } else { patterns.join(", ") }
    };
    let delete = match (spec.transfer.delete, spec.transfer.max_delete) {
        (false, _) => "no".to_owned(),
        (true, MaxDelete::Percent(percent)) => format!("yes, up to {percent} % of the entries"),
        (true, MaxDelete::Count(count)) => format!("yes, up to {} entries", human::count(count)),
    };
    let mut facts = vec![
        ("Dry run", yes_no(spec.options.dry_run)),
        ("Delete what the source lacks", delete),
        ("Left out", patterns(&spec.source.exclude)),
        ("Kept although left out", patterns(&spec.source.include)),
        ("Compare content", yes_no(spec.transfer.checksum)),
        ("Owners by number", yes_no(spec.transfer.numeric_ids)),
        (
            "Limit on the wire",
            spec.transfer.bandwidth_limit.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
        ),
        ("Compression", spec.transfer.compression.to_string()),
        ("Transport", spec.transfer.transport.to_string()),
        ("Relay", spec.transfer.relay.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
        ("Catch up", catch_up(spec.transfer.catch_up)),
        ("Undo on failure", yes_no(spec.options.rollback_on_failure)),
        ("Way back after the end", milliseconds(spec.rollback_window_ms())),
    ];
    facts.extend(rules(&spec.transfer.rules));
    facts
}

/// Returns the rules that were asked for.
fn rules(rules: &Rules) -> Vec<(&'static str, String)> {
    let Rules {
        max_size,
        min_size,
        changed_since,
        changed_before,
        one_file_system,
        copy_links,
        backup_dir,
        usermap,
        groupmap,
    } = rules;
    let map = |map: &OwnerMap| (!map.is_empty()).then(|| map.to_string());
    let asked = [
        ("Largest file", max_size.map(exact_bytes)),
        ("Smallest file", min_size.map(exact_bytes)),
        ("Files changed since", changed_since.map(human::moment)),
        ("Files changed before", changed_before.map(human::moment)),
        ("Only the root's file system", one_file_system.then(|| "yes".to_owned())),
        ("Links are followed", copy_links.then(|| "yes".to_owned())),
        ("Earlier versions are kept in", backup_dir.as_ref().map(ToString::to_string)),
        ("Users become", map(usermap)),
        ("Groups become", map(groupmap)),
    ];
    asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn catch_up(asked: Option<CatchUpSpec>) -> String {
    let Some(CatchUpSpec { threshold_ms, max_passes, cutover }) = asked else { return "no".to_owned() };
    let until = match cutover {
        Cutover::Auto => "then the last pass",
        Cutover::Manual => "then until a person cuts over",
    };
    format!("until the freeze is at most {}, at most {max_passes} times; {until}", milliseconds(threshold_ms))
}
