//! Tables that fit the width.

use common::human::printable;

use super::style::{Meaning, Text};

/// Blanks between two columns.
const GAP: usize = 2;

/// No column is cut below this many characters, so that what is left can still be told apart.
const CUT_MIN: usize = 8;

/// How a column is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Begins at the left; never cut.
    Left,
    /// Ends at the right, for numbers; never cut.
    Right,
    /// Begins at the left; cut when the table is wider than the terminal.
    Flexible,
}

/// Rows below headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Layout)>,
    rows: Vec<Vec<(Meaning, String)>>,
}

impl Table {
    /// Makes a table without rows.
    pub(crate) fn new(columns: &[(&'static str, Layout)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = (Meaning, String)>) {
        let cells: Vec<_> = cells.into_iter().map(|(meaning, text)| (meaning, printable(&text))).collect();
        debug_assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// Returns the table for a terminal of this width, or uncut when there is none.
    pub(crate) fn render(&self, width: Option<usize>) -> Text {
        let widths = self.widths(width);
        let mut text = Text::new();
        let headings = self.columns.iter().map(|(title, _)| (Meaning::Faint, *title));
        self.line(&mut text, &widths, headings);
        for row in &self.rows {
            self.line(&mut text, &widths, row.iter().map(|(meaning, cell)| (*meaning, cell.as_str())));
        }
        text
    }

    /// Adds one line.
    fn line<'a>(&self, text: &mut Text, widths: &[usize], cells: impl Iterator<Item = (Meaning, &'a str)>) {
        for (at, ((meaning, cell), (_, layout))) in cells.zip(&self.columns).enumerate() {
            if at > 0 {
                text.plain(" ".repeat(GAP));
            }
            let cell = cut(cell, widths[at]);
            let padding = " ".repeat(widths[at] - cell.chars().count());
            match layout {
                Layout::Right => text.plain(padding).push(meaning, cell),
                Layout::Left | Layout::Flexible => text.push(meaning, cell).plain(padding),
            };
        }
        text.end_line();
    }

    /// Returns how wide each column is.
    fn widths(&self, width: Option<usize>) -> Vec<usize> {
        let widest = |at: usize, title: &str| {
            let cells = self.rows.iter().map(|row| row[at].1.chars().count());
            cells.chain([title.chars().count()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> =
            self.columns.iter().enumerate().map(|(at, (title, _))| widest(at, title)).collect();
        let Some(width) = width else { return widths };
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        while total(&widths) > width {
            let flexible = self.columns.iter().enumerate().filter(|(_, column)| column.1 == Layout::Flexible);
            let Some((at, _)) = flexible.max_by_key(|(at, _)| widths[*at]) else { break };
            if widths[at] <= CUT_MIN {
                break;
            }
            widths[at] -= 1;
        }
        widths
    }
}

/// Returns a text of at most `width` characters that shows where it was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table =
            Table::new(&[("ID", Layout::Left), ("FILES", Layout::Right), ("SOURCE", Layout::Flexible)]);
        table.row([
            (Meaning::Plain, "b7".to_owned()),
            (Meaning::Plain, "12".to_owned()),
            (Meaning::Plain, "web1:/var/www/shop".to_owned()),
        ]);
        table.row([
            (Meaning::Plain, "long".to_owned()),
            (Meaning::Plain, "1 000 000".to_owned()),
            (Meaning::Plain, "web1:/\n".to_owned()),
        ]);
        table
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(
            table().render(None).render(false),
            "ID        FILES  SOURCE\nb7           12  web1:/var/www/shop\nlong  1 000 000  web1:/\\n\n"
        );
    }

    #[test]
    fn only_flexible_columns_are_cut_and_not_to_nothing() {
        let shown = table().render(Some(30)).render(false);
        assert!(shown.lines().all(|line| line.chars().count() <= 30), "{shown}");
        assert!(shown.contains("web1:/var/ww…"), "{shown}");
        let narrow = table().render(Some(5)).render(false);
        assert!(narrow.contains("1 000 000") && narrow.contains("web1:/v…"), "{narrow}");
    }
}
