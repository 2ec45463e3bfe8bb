//! An operator's document, YAML or TOML, into one tree that knows where everything stands.
//!
//! The tree is all that is read of either language, so that a key is refused with line and column in both. YAML's
//! anchors and tags are refused: a spec is short, and what stands there is what is meant. `spec` turns the tree into a
//! [`MigrationSpec`](crate::spec::MigrationSpec).

mod fields;
mod sanitize;
pub mod spec;
mod toml;
mod yaml;

use std::fmt;

/// The largest document; a spec takes a few KiB.
pub const BYTES_MAX: usize = 1024 * 1024;
/// The deepest nesting.
const DEPTH_MAX: usize = 32;

/// A language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
}

impl Form {
    /// Returns the language that a file's name says; YAML where it says nothing.
    pub fn of_name(name: &str) -> Self {
        let is_toml =
            name.rsplit_once('.').is_some_and(|(_, extension)| extension.eq_ignore_ascii_case("toml"));
        if is_toml { Self::Toml } else { Self::Yaml }
    }
}

/// Where something stands, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in letters.
    pub column: usize,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub at: Place,
    /// What, a sentence without its full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at: Place { line, column }, message } = self;
        write!(f, "line {line}, column {column}: {message}")
    }
}

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Something that stands there without quotes: a number, a word, a truth; empty for nothing.
    Plain(String),
    /// A text in quotes or a block.
    Text(String),
    List(Vec<Node>),
    /// Keys in their order.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) at: Place,
    pub(crate) name: String,
}

/// Reads a document into its tree.
pub(crate) fn parse(text: &str, form: Form) -> Result<Node, Problem> {
    if text.len() > BYTES_MAX {
        return Err(problem(Place { line: 1, column: 1 }, "the document is larger than 1 MiB"));
    }
    match form {
        Form::Yaml => yaml::parse(text),
        Form::Toml => toml::parse(text),
    }
}

pub(crate) fn problem(at: Place, message: impl Into<String>) -> Problem {
    Problem { at, message: message.into() }
}

impl Value {
    fn noun(&self) -> &'static str {
        match self {
            Self::Plain(text) if text.is_empty() => "nothing",
            Self::Plain(_) => "a plain value",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}
