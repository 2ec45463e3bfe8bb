//! Long lists from a destination's agent: every change of a dry run, or every finding.
//!
//! They arrive as lines of JSON in pieces and are shown as they come, so that their length costs no memory.

use common::failure::{Failure, FailureKind};
use common::id::MigrationId;
use common::view::MigrationView;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// Fields that are shown without their name, in this order.
const LEADING: [&str; 6] = ["severity", "rule", "action", "kind", "path", "object"];

/// Shows the whole list, for people as lines and otherwise as one JSON document: an array. Returns how many lines there
/// were.
///
/// # Errors
/// When there is no list, the connection breaks, or standard output cannot be written.
pub(crate) async fn show(
    context: &CommandContext,
    client: &Client,
    migration: &MigrationId,
) -> Result<u64, CommandError> {
    let count = stream(context, client, migration, "").await?;
    if context.output.is_json() {
        context.output.raw(b"\n")?;
    }
    Ok(count)
}

/// Shows a migration as one JSON document with the whole list of what a dry run would do under `items`.
///
/// # Errors
/// As [`show`].
pub(crate) async fn document(
    context: &CommandContext,
    client: &Client,
    view: &MigrationView,
) -> Result<(), CommandError> {
    let bug = |message: String| Failure::new(FailureKind::Bug, message);
    let text = serde_json::to_string(view).map_err(|error| bug(error.to_string()))?;
    let open = text.strip_suffix('}').ok_or_else(|| bug("a migration is no JSON object".to_owned()))?;
    stream(context, client, &view.id, &format!("{open},\"items\":")).await?;
    context.output.raw(b"}\n")
}

/// Shows the list; as JSON behind an opening, which is written only when the list is there.
async fn stream(
    context: &CommandContext,
    client: &Client,
    migration: &MigrationId,
    opening: &str,
) -> Result<u64, CommandError> {
    let mut list = client.list(migration).await?;
    let is_json = context.output.is_json();
    let (mut count, mut rest) = (0, Vec::new());
    if is_json {
        context.output.json(&format!("{opening}["))?;
    }
    while let Some(piece) = list.next().await? {
        rest.extend_from_slice(&piece);
        let complete = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = rest.drain(..complete).collect();
        count += write(context, &lines, count)?;
    }
    count += write(context, &rest, count)?;
    if is_json {
        context.output.raw(b"\n]")?;
    }
    Ok(count)
}

/// Writes whole lines and returns how many there were; `before` counts those written earlier.
fn write(context: &CommandContext, lines: &[u8], before: u64) -> Result<u64, CommandError> {
    let (mut count, mut text, mut document) = (0, Text::new(), String::new());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if context.output.is_json() {
            document.push_str(if before + count == 0 { "\n" } else { ",\n" });
            document.push_str(&line_json(line));
        } else {
            text.append(line_text(line));
        }
        count += 1;
    }
    if context.output.is_json() {
        context.output.json(&document)?;
    } else {
        context.output.part(&text)?;
    }
    Ok(count)
}

/// Returns one line as a JSON value, whatever the agent sent: a line that is no JSON becomes a text.
fn line_json(line: &[u8]) -> String {
    let value = serde_json::from_slice(line);
    value.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(line).into_owned())).to_string()
}

/// Returns one line for people: what is known leads, and the rest follows with its names.
fn line_text(line: &[u8]) -> Text {
    let mut text = Text::new();
    let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(line) else {
        return Text::line(String::from_utf8_lossy(line));
    };
    let mut parts = Vec::new();
    parts.extend(LEADING.iter().filter_map(|name| fields.remove(*name)).map(|value| plain(&value)));
    text.plain(parts.join("  "));
    let named = fields.iter().filter(|(_, value)| !is_empty(value));
    let rest: Vec<String> = named.map(|(name, value)| format!("{name}={}", plain(value))).collect();
    if !rest.is_empty() {
        text.push(Meaning::Faint, format!("  {}", rest.join("  ")));
    }
    text.end_line();
    text
}

/// Whether a value says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Returns a value without the quotes of a text.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_agent_sends_the_list_stays_one_document() {
        for line in [&b"{\"path\":\"a\"}"[..], b"no json]", b"\xff\"", b"{} {}"] {
            assert!(serde_json::from_str::<Value>(&line_json(line)).is_ok(), "{line:?}");
        }
        assert_eq!(line_json(b"{\"size\":1}"), "{\"size\":1}");
    }

    #[test]
    fn what_is_known_leads_and_nothing_is_left_out() {
        let line = br#"{"path":"a\u001bb","size":12,"action":"create","hint":""}"#;
        assert_eq!(line_text(line).render(false), "create  a\\u{1b}b  size=12\n");
        assert_eq!(line_text(b"not json").render(false), "not json\n");
    }
}
