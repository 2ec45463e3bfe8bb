//! The report as one page of HTML: no script, nothing fetched, readable on a telephone, and it prints well.

use super::{Body, Section, document};
use crate::human::printable;
use crate::view::ReportView;

/// The whole style. On a narrow screen a row of a table becomes a block of named lines.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}\
h1{font-size:1.5rem;margin:0 0 .5rem;overflow-wrap:anywhere}\
h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid #8886}\
.verdict{padding:.6rem .8rem;border-left:.4rem solid #c70;background:#c701}\
.verdict.good{border-color:#2a2;background:#2a21}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0}\
dt{color:#888}\
dd{margin:0;overflow-wrap:anywhere}\
table{border-collapse:collapse;width:100%;font-size:.93rem}\
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid #8883;overflow-wrap:anywhere}\
th{color:#888;font-weight:600;white-space:nowrap;overflow-wrap:normal}td:first-child{min-width:9rem}td+td{min-width:5rem}\
@media(max-width:40rem){\
dl{display:block}dd{margin:0 0 .5rem}\
thead{display:none}table,tbody,tr,td{display:block}\
tr{border-bottom:1px solid #8886;padding:.4rem 0}\
td{border:0;padding:.1rem 0}td:empty{display:none}\
td::before{content:attr(data-name) ': ';color:#888}}\
@media print{body{max-width:none;font-size:10pt;padding:0}tr,dd{break-inside:avoid}h2{break-after:avoid}thead{display:table-header-group}}";

/// Returns the report.
pub fn render(view: &ReportView) -> String {
    let document = document(view);
    let title = escape(&document.title);
    let class = if document.is_good { "verdict good" } else { "verdict" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<p class=\"{class}\">{}</p>\n",
        escape(&document.verdict)
    );
    for section in &document.sections {
        page.push_str(&render_section(section));
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn render_section(section: &Section) -> String {
    let mut html = format!("<section>\n<h2>{}</h2>\n", escape(section.heading));
    match &section.body {
        Body::Facts(facts) => {
            html.push_str("<dl>\n");
            for (name, value) in facts {
                html.push_str(&format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
            }
            html.push_str("</dl>\n");
        }
        Body::Table { headings, rows } if !rows.is_empty() => {
            html.push_str("<table>\n<thead><tr>");
            headings.iter().for_each(|heading| html.push_str(&format!("<th>{}</th>", escape(heading))));
            html.push_str("</tr></thead>\n<tbody>\n");
            for row in rows {
                html.push_str("<tr>");
                for (heading, cell) in headings.iter().zip(row) {
                    html.push_str(&format!("<td data-name=\"{}\">{}</td>", escape(heading), escape(cell)));
                }
                html.push_str("</tr>\n");
            }
            html.push_str("</tbody>\n</table>\n");
        }
        Body::Table { .. } => {}
    }
    if let Some(note) = &section.note {
        html.push_str(&format!("<p>{}</p>\n", escape(note)));
    }
    html.push_str("</section>\n");
    html
}

/// Returns text in which nothing is markup, inside and outside of attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in printable(text).chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
