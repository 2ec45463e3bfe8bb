//! The report as Markdown that also reads well as it is.

use super::{Body, Section, document};
use crate::human::printable;
use crate::view::ReportView;

/// Returns the report.
pub fn render(view: &ReportView) -> String {
    let document = document(view);
    let mut text = format!("# {}\n\n{}\n", escape(&document.title), escape(&document.verdict));
    for section in &document.sections {
        text.push_str(&render_section(section));
    }
    text
}

fn render_section(section: &Section) -> String {
    let mut text = format!("\n## {}\n\n", section.heading);
    match &section.body {
        Body::Facts(facts) => {
            for (name, value) in facts {
                text.push_str(&format!("- {name}: {}\n", escape(value)));
            }
        }
        Body::Table { headings, rows } if !rows.is_empty() => {
            text.push_str(&format!("| {} |\n|{}\n", headings.join(" | "), "---|".repeat(headings.len())));
            for row in rows {
                let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
                text.push_str(&format!("| {} |\n", cells.join(" | ")));
            }
        }
        Body::Table { .. } => {}
    }
    if let Some(note) = &section.note {
        let gap = if text.ends_with("\n\n") { "" } else { "\n" };
        text.push_str(&format!("{gap}{}\n", escape(note)));
    }
    text
}

/// Returns text in which nothing is markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in printable(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            other => escaped.push(other),
        }
    }
    escaped
}
