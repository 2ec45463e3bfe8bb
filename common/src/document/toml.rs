//! TOML into the tree.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{DEPTH_MAX, Key, Node, Place, Problem, Value, problem};

pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(Place { line: 1, column: 1 }, |span| place(text, span.start));
        problem(at, error.message())
    })?;
    let at = Place { line: 1, column: 1 };
    Ok(Node { at, value: Value::Map(map(text, table.get_ref(), 0)?) })
}

fn map(text: &str, table: &DeTable<'_>, depth: usize) -> Result<Vec<(Key, Node)>, Problem> {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key = Key { at: place(text, key.span().start), name: ToString::to_string(key.get_ref()) };
        let value = node(text, value, depth + 1)?;
        Ok((key, value))
    };
    let mut entries = table.iter().map(entry).collect::<Result<Vec<_>, Problem>>()?;
    entries.sort_by_key(|(key, _)| key.at);
    Ok(entries)
}

fn node(text: &str, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Problem> {
    let at = place(text, value.span().start);
    if depth > DEPTH_MAX {
        return Err(problem(at, format!("more than {DEPTH_MAX} levels stand inside each other")));
    }
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Plain(number.to_string()),
        DeValue::Float(number) => Value::Plain(number.to_string()),
        DeValue::Boolean(truth) => Value::Plain(truth.to_string()),
        DeValue::Datetime(moment) => Value::Plain(moment.to_string()),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| node(text, item, depth + 1)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Value::Map(map(text, table, depth)?),
    };
    Ok(Node { at, value })
}

fn place(text: &str, offset: usize) -> Place {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Place { line, column }
}
