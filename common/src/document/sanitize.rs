//! The block `sanitize:`.

use super::fields::{Fields, Known, Problems};
use super::{Node, Value};
use crate::mask::Masker;
use crate::sanitize::{Action, FileRule, Find, InvalidSanitize, Mask, Sanitize, With};

const SANITIZE: Known = Known { served: &["key", "files", "rows"], later: &[] };
const RULE: Known = Known { served: &["match", "action", "content", "find", "regex", "with"], later: &[] };

/// Reads the block; nothing when something in it is wrong.
pub(super) fn sanitize(node: &Node, problems: &mut Problems) -> Option<Sanitize> {
    let before = problems.0.len();
    let fields = Fields::of(node, "sanitize.", &SANITIZE, problems)?;
    if let Some(rows) = fields.get("rows") {
        problems.add(rows.at, "`sanitize.rows` is known and not served yet: it comes with databases");
    }
    let key = fields.parse("key", problems);
    let items = match fields.get("files").map(|files| (files.at, &files.value)) {
        None => &[][..],
        Some((_, Value::List(items))) => items,
        Some((at, other)) => {
            problems.add(at, format!("`sanitize.files` is a list of rules, and this is {}", other.noun()));
            &[]
        }
    };
    let files = items.iter().filter_map(|item| rule(item, problems)).collect();
    let sanitize = Sanitize { key, key_version: None, files };
    if problems.0.len() > before {
        return None;
    }
    if let Err(error) = sanitize.check() {
        // Rules are counted from 1.
        let at = match &error {
            InvalidSanitize::Empty(number)
            | InvalidSanitize::Pattern(number, _)
            | InvalidSanitize::Nothing(number)
            | InvalidSanitize::Key(number)
            | InvalidSanitize::Mask(number, _) => items.get(number.saturating_sub(1)).map(|item| item.at),
            InvalidSanitize::Rules | InvalidSanitize::Bytes(_) => None,
        };
        problems.add(at.unwrap_or(node.at), format!("`sanitize.files`: {error}"));
        return None;
    }
    Some(sanitize)
}

fn rule(node: &Node, problems: &mut Problems) -> Option<FileRule> {
    let fields = Fields::of(node, "sanitize.files.", &RULE, problems)?;
    let patterns = fields.texts("match", problems);
    if patterns.is_empty() {
        problems.add(node.at, "`sanitize.files.match` is missing: it holds patterns as those of `exclude`");
    }
    fields.need("action", problems)?;
    let action: String = fields.parse("action", problems)?;
    let unfit = |names: &[&str], problems: &mut Problems| {
        for name in names {
            if let Some(node) = fields.get(name) {
                problems.add(node.at, format!("`{name}` has no meaning for the action `{action}`"));
            }
        }
    };
    let action = match action.as_str() {
        "drop" => {
            unfit(&["content", "find", "regex", "with"], problems);
            Action::Drop
        }
        "replace" => {
            unfit(&["find", "regex", "with"], problems);
            Action::Replace(fields.parse("content", problems).unwrap_or_default())
        }
        "mask" => {
            unfit(&["content"], problems);
            Action::Mask(mask(&fields, problems)?)
        }
        other => {
            let at = fields.get("action").map_or(node.at, |node| node.at);
            problems.add(at, format!("`{other}` is no action: drop, replace and mask are"));
            return None;
        }
    };
    Some(FileRule { patterns, action })
}

fn mask(fields: &Fields<'_>, problems: &mut Problems) -> Option<Mask> {
    let mut find = Vec::new();
    for text in fields.texts("find", problems) {
        match Find::ALL.iter().find(|(name, _)| *name == text) {
            Some((_, kind)) => find.push(*kind),
            None => {
                problems
                    .add(fields.at, format!("`{text}` cannot be found: email, payment_key and token can"));
            }
        }
    }
    let read = |text: &str| match text {
        "filler" => Ok(With::Filler),
        "key" => Ok(With::Key),
        other => Err(format!("`{other}` is neither filler nor key")),
    };
    let with = fields.read("with", problems, read).unwrap_or(With::Filler);
    let mask = Mask { find, regex: fields.texts("regex", problems), with };
    match Masker::new(&mask, None) {
        Ok(_) => Some(mask),
        Err(error) => {
            let at = fields.get("regex").map_or(fields.at, |node| node.at);
            problems.add(at, error.to_string());
            None
        }
    }
}
