//! The only writer to the terminal.
//!
//! An answer goes to standard output: for people as text, or as exactly one JSON document. Everything else goes to
//! standard error: progress, notes, questions, and errors unless JSON was asked for. What cannot be written to standard
//! error is lost without a word; what cannot be written to standard output ends the command.

use std::io::{self, IsTerminal, Write};

use common::failure::{Failure, FailureKind, SUPPORT_CONTACT};
use common::human;
use common::secret::Secret;
use common::view::ErrorView;
use serde::Serialize;

use crate::failure::{CommandError, of_output};

pub(crate) mod line;
pub(crate) mod pace;
pub(crate) mod progress;
mod prompt;
pub(crate) mod style;
pub(crate) mod table;

use progress::Progress;
use style::{Meaning, Text};

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON document.
    Json,
}

/// How much is said besides the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Errors only.
    Quiet,
    /// Progress and notes.
    Normal,
    /// Also what is done on the way.
    Verbose,
}

/// Whether somebody agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// `--yes` was given.
    Given,
    /// A person can be asked.
    Ask,
    /// Nobody can be asked.
    Nobody,
}

/// Where answers, notes and questions go.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    verbosity: Verbosity,
    is_answer_colored: bool,
    is_note_colored: bool,
    /// Of the terminal that answers go to.
    answer_width: Option<usize>,
    /// Of the terminal that notes go to.
    note_width: Option<usize>,
    consent: Consent,
}

impl Output {
    /// Makes the output of this process; `is_color_wanted` says what flags and environment say.
    pub(crate) fn new(format: Format, verbosity: Verbosity, is_color_wanted: bool, is_yes: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_note_terminal = io::stderr().is_terminal();
        let consent = match (is_yes, io::stdin().is_terminal() && is_note_terminal) {
            (true, _) => Consent::Given,
            (false, true) => Consent::Ask,
            (false, false) => Consent::Nobody,
        };
        Self {
            format,
            verbosity,
            is_answer_colored: is_color_wanted && is_terminal,
            is_note_colored: is_color_wanted && is_note_terminal,
            answer_width: is_terminal.then(|| width(io::stdout())).flatten(),
            note_width: is_note_terminal.then(|| width(io::stderr()).unwrap_or(80)),
            consent,
        }
    }

    /// Whether answers are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether only errors are wanted besides the answer.
    pub(crate) fn is_quiet(&self) -> bool {
        self.verbosity == Verbosity::Quiet
    }

    /// Whether what is done on the way is wanted too.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbosity == Verbosity::Verbose
    }

    /// Returns the width that tables must fit, when answers go to a terminal.
    pub(crate) fn width(&self) -> Option<usize> {
        self.answer_width
    }

    /// Returns whether somebody agreed, or can be asked.
    pub(crate) fn consent(&self) -> Consent {
        self.consent
    }

    /// Writes the answer: `value` as JSON, or the text that `human` makes of it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn answer<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T) -> Text,
    ) -> Result<(), CommandError> {
        match self.format {
            Format::Json => self.document(value),
            Format::Human => self.raw(human(value).render(self.is_answer_colored).as_bytes()),
        }
    }

    /// Writes one JSON document.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<(), CommandError> {
        let mut text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::of(FailureKind::Bug, &error).context("answer", "JSON"))?;
        text.push('\n');
        self.json(&text)
    }

    /// Writes JSON that was made elsewhere.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn json(&self, text: &str) -> Result<(), CommandError> {
        self.raw(json_printable(text).as_bytes())
    }

    /// Writes text to standard output while an answer is not complete, as the lines of a long list.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn part(&self, text: &Text) -> Result<(), CommandError> {
        self.raw(text.render(self.is_answer_colored).as_bytes())
    }

    /// Writes bytes of ours as they are: a document, a script.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| of_output(&error))
    }

    /// Says something besides the answer, unless quiet.
    pub(crate) fn note(&self, text: &Text) {
        if !self.is_quiet() {
            self.say(text);
        }
    }

    /// Says what is done on the way, when verbose.
    pub(crate) fn detail(&self, text: impl AsRef<str>) {
        if self.is_verbose() {
            let mut line = Text::new();
            line.push(Meaning::Faint, text).end_line();
            self.say(&line);
        }
    }

    /// Writes to standard error; nobody is told when nobody reads.
    fn say(&self, text: &Text) {
        write_note(&text.render(self.is_note_colored));
    }

    /// Returns what shows how far a migration is.
    pub(crate) fn progress(&self) -> Progress {
        match (self.verbosity, self.note_width) {
            (Verbosity::Quiet, _) => Progress::silent(),
            (Verbosity::Normal | Verbosity::Verbose, Some(width)) => Progress::bar(width),
            (Verbosity::Normal | Verbosity::Verbose, None) => Progress::lines(),
        }
    }

    /// Asks a person to agree to `sentence`; agreed without a question when `--yes` was given.
    ///
    /// # Errors
    /// When nobody can be asked, or the answer was no.
    pub(crate) fn confirm(&self, sentence: &str) -> Result<(), CommandError> {
        match self.consent {
            Consent::Given => Ok(()),
            Consent::Nobody => Err(Failure::new(
                FailureKind::Invalid,
                format!("{sentence} Nobody can be asked, because this is not a terminal"),
            )
            .hint("agree with --yes")
            .into()),
            Consent::Ask => {
                let mut question = Text::new();
                question.push(Meaning::Strong, sentence).end_line().plain("Continue? [y/N] ");
                self.say(&question);
                let mut input = io::stdin().lock();
                match prompt::wait(&input).and_then(|()| prompt::is_yes(&mut input)) {
                    Ok(true) => Ok(()),
                    Ok(false) => {
                        Err(Failure::new(FailureKind::Cancelled, "not agreed; nothing was done").into())
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        write_note("\n");
                        Err(Failure::new(FailureKind::Cancelled, "interrupted; nothing was done").into())
                    }
                    Err(error) => Err(CommandError::io("reading", "the answer", &error)),
                }
            }
        }
    }

    /// Asks a person for a value without showing it; nothing when there is no terminal to ask on.
    ///
    /// # Errors
    /// When the terminal cannot be read, or the question was interrupted.
    pub(crate) fn ask_secret(&self, question: &str) -> Result<Option<Secret<Vec<u8>>>, CommandError> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        // It is asked for whatever the verbosity: the command waits for it.
        self.say(Text::new().plain(question));
        let answer = prompt::unseen_line(&mut io::stdin().lock());
        write_note("\n");
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(Failure::new(FailureKind::Cancelled, "interrupted; nothing was done").into())
            }
            Err(error) => Err(CommandError::io("reading", "the value", &error)),
        }
    }

    /// Shows why a command ended, and returns its exit code.
    pub(crate) fn failure(&self, failure: &Failure) -> u8 {
        let view = view_of(failure);
        match self.format {
            // Nothing can be done when not even the error can be written.
            Format::Json if self.document(&view).is_err() => {}
            Format::Json => {}
            Format::Human => self.say(&failure_text(&view, self.is_verbose())),
        }
        view.exit_code
    }
}

/// Returns JSON that means the same and cannot steer a terminal: JSON itself leaves some control characters as they are.
fn json_printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        // Such letters stand in texts only; between texts, JSON has line ends and blanks.
        if letter == '\n' || human::is_printable(letter) {
            shown.push(letter);
        } else {
            shown.push_str(&format!("\\u{:04x}", u32::from(letter)));
        }
    }
    shown
}

/// Writes to standard error.
fn write_note(text: &str) {
    let mut out = io::stderr().lock();
    if out.write_all(text.as_bytes()).is_ok() && out.flush().is_err() {
        // Nobody reads notes; the answer's own errors are told.
    }
}

/// Returns the document of a failure: whom to ask is shown beside it, not as one of its nouns.
pub(crate) fn view_of(failure: &Failure) -> ErrorView {
    let mut error = failure.clone();
    let contact = error.context.iter().position(|(field, _)| field == SUPPORT_CONTACT);
    let support_contact = contact.map(|at| error.context.remove(at).1);
    ErrorView { exit_code: error.kind.exit_code(), error, support_contact }
}

/// Returns a failure for people: what, where, what to do, whom to ask.
pub(crate) fn failure_text(view: &ErrorView, is_verbose: bool) -> Text {
    let failure = &view.error;
    let mut text = Text::new();
    text.push(Meaning::Bad, "error").plain(format!(" ({}): {}", failure.kind, failure.message)).end_line();
    for (field, value) in &failure.context {
        text.push(Meaning::Faint, format!("  {field}: "));
        // A piece of a log has lines of its own.
        let is_long = value.contains('\n');
        if is_long {
            text.end_line();
        }
        for line in value.lines() {
            text.plain(if is_long { "    " } else { "" }).plain(line).end_line();
        }
    }
    if let Some(hint) = &failure.hint {
        text.push(Meaning::Strong, "  hint: ").plain(hint).end_line();
    }
    if failure.kind == FailureKind::Bug {
        text.push(Meaning::Strong, "  hint: ").plain("this is a bug of Drover; please report it").end_line();
    }
    if let Some(contact) = &view.support_contact {
        text.push(Meaning::Faint, "  support: ").plain(contact).end_line();
    }
    if is_verbose {
        text.push(Meaning::Faint, format!("  exit code: {}", view.exit_code)).end_line();
    }
    text
}

/// Returns how many columns a terminal has.
fn width(terminal: impl std::os::fd::AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An output where nobody can be asked.
    pub(crate) fn nobody() -> Output {
        Output {
            format: Format::Json,
            verbosity: Verbosity::Quiet,
            is_answer_colored: false,
            is_note_colored: false,
            answer_width: None,
            note_width: None,
            consent: Consent::Nobody,
        }
    }

    #[test]
    fn an_error_says_what_where_and_what_to_do() {
        let failure = Failure::new(FailureKind::NotFound, "host `web9` is not registered")
            .hint("see `ctl host list`")
            .context("host", "web9")
            .context(SUPPORT_CONTACT, "ops@example.com");
        let view = view_of(&failure);
        assert_eq!((view.exit_code, view.support_contact.as_deref()), (4, Some("ops@example.com")));
        assert_eq!(
            failure_text(&view, false).render(false),
            "error (not found): host `web9` is not registered\n  host: web9\n  hint: see `ctl host list`\n  support: ops@example.com\n"
        );
    }

    #[test]
    fn json_means_the_same_and_cannot_steer_a_terminal() {
        let value = serde_json::json!({"name": "a\u{9b}2J\u{7f}\u{202e}\u{1b}ä"});
        let shown = json_printable(&serde_json::to_string_pretty(&value).unwrap());
        assert!(shown.chars().all(|letter| letter == '\n' || human::is_printable(letter)), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn where_nobody_can_be_asked_the_flag_is_named() {
        let output = nobody();
        let Err(CommandError::Failure(failure)) = output.confirm("This deletes.") else {
            panic!("nobody agreed")
        };
        assert_eq!((failure.kind.exit_code(), failure.hint.as_deref()), (2, Some("agree with --yes")));
        assert!(Output { consent: Consent::Given, ..output }.confirm("This deletes.").is_ok());
    }
}
