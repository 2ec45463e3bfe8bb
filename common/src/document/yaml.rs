//! YAML into the tree.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::{DEPTH_MAX, Key, Node, Place, Problem, Value, problem};

pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut reader = Reader { events: Parser::new_from_str(text) };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd, span) => return Err(problem(place(span.start), "the document is empty")),
            (event, span) => {
                let node = reader.node(event, span, 0)?;
                return reader.end().map(|()| node);
            }
        }
    }
}

struct Reader<I> {
    events: I,
}

impl<'a, I: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> Reader<I> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(problem(place(*error.marker()), error.info())),
            None => Err(problem(Place { line: 1, column: 1 }, "the document ends too early")),
        }
    }

    /// Nothing may follow the one document.
    fn end(&mut self) -> Result<(), Problem> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentEnd, _) => {}
                (_, span) => {
                    return Err(problem(
                        place(span.start),
                        "a second document begins here; write one to a file",
                    ));
                }
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        let at = place(span.start);
        if depth > DEPTH_MAX {
            return Err(problem(at, format!("more than {DEPTH_MAX} levels stand inside each other")));
        }
        let value = match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                return Err(problem(at, "tags (`!…`) are not read; write the value as it is meant"));
            }
            Event::Alias(_) => {
                return Err(problem(at, "aliases (`*…`) are not read; write the value out"));
            }
            Event::Scalar(text, style, _, None) => match style {
                ScalarStyle::Plain if text == "~" || text == "null" => Value::Plain(String::new()),
                ScalarStyle::Plain => Value::Plain(text.into_owned()),
                ScalarStyle::SingleQuoted
                | ScalarStyle::DoubleQuoted
                | ScalarStyle::Literal
                | ScalarStyle::Folded => Value::Text(text.into_owned()),
            },
            Event::SequenceStart(_, None) => Value::List(self.list(depth)?),
            Event::MappingStart(_, None) => Value::Map(self.map(depth)?),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(problem(at, "the document ends too early")),
        };
        Ok(Node { at, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Problem> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let at = place(span.start);
            let name = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(name, _, _, None) => name.into_owned(),
                _ => return Err(problem(at, "a key is a single word")),
            };
            if entries.iter().any(|(known, _)| known.name == name) {
                return Err(problem(at, format!("the key `{name}` stands here a second time")));
            }
            let (event, span) = self.next()?;
            entries.push((Key { at, name }, self.node(event, span, depth + 1)?));
        }
    }
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}
