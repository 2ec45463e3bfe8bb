//! The report for programs: the view itself.

use crate::view::ReportView;

/// Returns the report as one JSON document with a line end.
pub fn render(view: &ReportView) -> String {
    // A view is made of texts, numbers and lists, all of which JSON can hold.
    let mut text = serde_json::to_string_pretty(view).unwrap_or_default();
    text.push('\n');
    text
}
