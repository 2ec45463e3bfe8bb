//! Taking the keys of a mapping, with everything that is wrong told at once.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::{Key, Node, Place, Problem, Value, problem};
use crate::human;

/// Edits that a key may be away from a known one to be taken for it.
const TYPO_MAX: usize = 3;

/// What a mapping may hold.
pub(super) struct Known {
    /// Keys that are served.
    pub(super) served: &'static [&'static str],
    /// Keys that are known and come later; `false` asks for nothing and is taken.
    pub(super) later: &'static [&'static str],
}

/// A mapping whose keys are taken one by one.
pub(super) struct Fields<'a> {
    pub(super) at: Place,
    /// What stands before its keys in sentences, as `source.`.
    path: String,
    entries: &'a [(Key, Node)],
}

/// Everything that is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, at: Place, message: impl Into<String>) {
        self.0.push(problem(at, message));
    }
}

impl<'a> Fields<'a> {
    /// Looks at a mapping; unknown keys and those that come later are told.
    pub(super) fn of(node: &'a Node, path: &str, known: &Known, problems: &mut Problems) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let name = path.trim_end_matches('.');
            let what = if name.is_empty() { "a spec".to_owned() } else { format!("`{name}`") };
            problems.add(node.at, format!("{what} is a mapping of keys, and this is {}", node.value.noun()));
            return None;
        };
        for (key, value) in entries {
            let name = key.name.as_str();
            if known.served.contains(&name) {
                continue;
            }
            let asks_for_nothing =
                matches!(&value.value, Value::Plain(text) if text.is_empty() || text == "false");
            if known.later.contains(&name) {
                if !asks_for_nothing {
                    problems.add(key.at, format!("`{path}{name}` is known and not served yet"));
                }
                continue;
            }
            let all = known.served.iter().chain(known.later);
            let nearest =
                all.min_by_key(|known| edits(name, known)).filter(|known| edits(name, known) <= TYPO_MAX);
            let hint = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
            problems.add(key.at, format!("there is no key `{path}{name}`{hint}"));
        }
        Some(Self { at: node.at, path: path.to_owned(), entries })
    }

    /// Returns what stands under a key.
    pub(super) fn get(&self, name: &str) -> Option<&'a Node> {
        let found = self.entries.iter().find(|(key, _)| key.name == name);
        found.map(|(_, node)| node).filter(|node| node.value != Value::Plain(String::new()))
    }

    /// Returns what stands under a key that must be there.
    pub(super) fn need(&self, name: &str, problems: &mut Problems) -> Option<&'a Node> {
        let found = self.get(name);
        if found.is_none() {
            problems.add(self.at, format!("`{}{name}` is missing", self.path));
        }
        found
    }

    /// Reads a value by its text.
    pub(super) fn parse<T: FromStr<Err: Display>>(&self, name: &str, problems: &mut Problems) -> Option<T> {
        self.read(name, problems, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// Reads a value by its text, in some way.
    pub(super) fn read<T>(
        &self,
        name: &str,
        problems: &mut Problems,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.get(name)?;
        let text = text(node, &format!("{}{name}", self.path), problems)?;
        read(text).map_err(|error| problems.add(node.at, format!("`{}{name}`: {error}", self.path))).ok()
    }

    /// Reads a truth; `default` when the key is absent.
    pub(super) fn truth(&self, name: &str, default: bool, problems: &mut Problems) -> bool {
        let read = |text: &str| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("`{other}` is neither true nor false")),
        };
        self.read(name, problems, read).unwrap_or(default)
    }

    /// Reads a duration, which has a unit.
    pub(super) fn duration_ms(&self, name: &str, problems: &mut Problems) -> Option<u64> {
        self.read(name, problems, parse_duration_ms)
    }

    /// Reads a duration; a number alone is milliseconds.
    pub(super) fn duration_or_ms(&self, name: &str, problems: &mut Problems) -> Option<u64> {
        self.read(name, problems, |text| text.parse().or_else(|_no_number| parse_duration_ms(text)))
    }

    /// Reads a list of texts; one text alone is a list of one.
    pub(super) fn texts(&self, name: &str, problems: &mut Problems) -> Vec<String> {
        let path = format!("{}{name}", self.path);
        let Some(node) = self.get(name) else { return Vec::new() };
        match &node.value {
            Value::List(items) => {
                items.iter().filter_map(|item| text(item, &path, problems).map(str::to_owned)).collect()
            }
            Value::Plain(_) | Value::Text(_) | Value::Map(_) => {
                text(node, &path, problems).map(str::to_owned).into_iter().collect()
            }
        }
    }
}

fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let duration: Duration = human::parse_duration(text).map_err(|error| error.to_string())?;
    Ok(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn text<'a>(node: &'a Node, path: &str, problems: &mut Problems) -> Option<&'a str> {
    match &node.value {
        Value::Plain(text) | Value::Text(text) => Some(text),
        other @ (Value::List(_) | Value::Map(_)) => {
            problems.add(node.at, format!("`{path}` is a single value, and this is {}", other.noun()));
            None
        }
    }
}

/// Returns how many letters must be changed, added or removed to turn one word into another.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // A key that somebody mistyped is short; a long one is near nothing.
    for (above, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, other) in to.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = change.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[to.len()].max(from.chars().count().saturating_sub(64))
}

#[cfg(test)]
mod tests {
    use super::edits;

    #[test]
    fn edits_are_counted() {
        for (from, to, expected) in
            [("", "", 0), ("abc", "abc", 0), ("exclud", "exclude", 1), ("hots", "host", 2), ("a", "xyz", 3)]
        {
            assert_eq!(edits(from, to), expected, "{from} {to}");
        }
    }
}
