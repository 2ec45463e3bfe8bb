//! Text with meaning: colours where they are wanted, and foreign names that cannot steer a terminal.
//!
//! Whatever is pushed is escaped, so no command has to remember to; a line ends only where [`Text::end_line`] says so.

use common::human::printable;

/// What a piece of text means, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing special.
    Plain,
    /// A heading or the thing looked for.
    Strong,
    /// Worth less attention.
    Faint,
    /// As it should be.
    Good,
    /// Worth a look.
    Caution,
    /// Wrong.
    Bad,
}

impl Meaning {
    /// The SGR parameters of a terminal.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Strong => Some("1"),
            Self::Faint => Some("2"),
            Self::Good => Some("32"),
            Self::Caution => Some("33"),
            Self::Bad => Some("1;31"),
        }
    }
}

/// One piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Escaped already.
    Span(Meaning, String),
    /// The end of a line.
    LineEnd,
}

/// Lines of text with meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    pieces: Vec<Piece>,
}

impl Text {
    /// Makes a text without any line.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Makes a text of one plain line.
    pub(crate) fn line(text: impl AsRef<str>) -> Self {
        let mut line = Self::new();
        line.plain(text).end_line();
        line
    }

    /// Adds a piece.
    pub(crate) fn push(&mut self, meaning: Meaning, text: impl AsRef<str>) -> &mut Self {
        self.pieces.push(Piece::Span(meaning, printable(text.as_ref())));
        self
    }

    /// Adds a plain piece.
    pub(crate) fn plain(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.push(Meaning::Plain, text)
    }

    /// Ends the line.
    pub(crate) fn end_line(&mut self) -> &mut Self {
        self.pieces.push(Piece::LineEnd);
        self
    }

    /// Adds a line of a name, padded so that values stand below each other, and its value.
    pub(crate) fn field(&mut self, name: &str, meaning: Meaning, value: impl AsRef<str>) -> &mut Self {
        self.push(Meaning::Faint, format!("  {name:<12}")).push(meaning, value).end_line()
    }

    /// Adds another text's lines.
    pub(crate) fn append(&mut self, other: Self) -> &mut Self {
        self.pieces.extend(other.pieces);
        self
    }

    /// Returns the text as it goes out.
    pub(crate) fn render(&self, is_colored: bool) -> String {
        let mut shown = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::LineEnd => shown.push('\n'),
                Piece::Span(meaning, text) => match meaning.code().filter(|_| is_colored) {
                    Some(code) => shown.push_str(&format!("\x1b[{code}m{text}\x1b[0m")),
                    None => shown.push_str(text),
                },
            }
        }
        // A column padded for what follows it leaves blanks where nothing does; a question ends in one on purpose.
        let Some((ended, open)) = shown.rsplit_once('\n') else { return shown };
        let lines: Vec<&str> = ended.split('\n').map(str::trim_end).chain([open]).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_escaped_and_colours_are_not() {
        let mut text = Text::new();
        text.push(Meaning::Bad, "a\x1b]0;owned\x07b\n").end_line();
        assert_eq!(text.render(false), "a\\u{1b}]0;owned\\u{7}b\\n\n");
        assert_eq!(text.render(true), "\x1b[1;31ma\\u{1b}]0;owned\\u{7}b\\n\x1b[0m\n");
    }

    #[test]
    fn blanks_end_no_line_but_a_question() {
        let mut text = Text::new();
        text.plain("a  ").end_line().end_line().plain("why? ");
        assert_eq!(text.render(false), "a\n\nwhy? ");
        assert_eq!(Text::new().plain("why? ").render(false), "why? ");
        assert_eq!(Text::line("a ").render(false), "a\n");
        assert_eq!(Text::new().render(false), "");
    }

    #[test]
    fn fields_stand_below_each_other() {
        let mut text = Text::new();
        text.field("id", Meaning::Plain, "b7").field("status", Meaning::Good, "completed");
        assert_eq!(text.render(false), "  id          b7\n  status      completed\n");
    }
}
