//! The command line as a whole: what is understood, what is refused, and the help.

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_and_flag_has_help() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path} has no help");
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some() || argument.is_hide_set(),
                "{path} {} has no help",
                argument.get_id()
            );
        }
        command.get_subcommands().for_each(|command| check(command, &path));
    }
    check(&Cli::command(), "");
}

/// Returns the help of a command and of all below it, as a terminal of 100 columns shows it.
fn help(command: &mut clap::Command, path: &str, text: &mut String) {
    let path = format!("{path}{}", command.get_name());
    let shown = command.clone().render_long_help().to_string();
    // The global options are the same everywhere and stand at the root.
    let own = if path == "ctl" { shown.as_str() } else { shown.split("\nGlobal options:").next().unwrap() };
    text.push_str(&format!("=== {path} ===\n{own}\n"));
    for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        help(command, &format!("{path} "), text);
    }
}

/// `DROVER_WRITE_GOLDEN=1 cargo test -p ctl the_help` writes the file anew; read the difference as prose.
#[test]
fn the_help_is_what_was_agreed() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut shown = String::new();
    help(&mut command, "", &mut shown);
    let shown: String = shown.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/help.txt");
    if std::env::var_os("DROVER_WRITE_GOLDEN").is_some() {
        std::fs::write(&golden, &shown).unwrap();
    }
    let agreed = std::fs::read_to_string(&golden).unwrap();
    for (at, (shown, agreed)) in shown.lines().zip(agreed.lines()).enumerate() {
        assert_eq!(shown, agreed, "line {} of {}", at + 1, golden.display());
    }
    assert_eq!(shown.len(), agreed.len());
}

#[test]
fn a_line_without_a_command_is_refused() {
    let failure = usage_failure(&parse("ctl --output json").unwrap_err());
    assert_eq!((failure.message.as_str(), failure.kind.exit_code()), ("no command was given", 2));
}

#[test]
fn global_flags_stand_anywhere() {
    for line in ["ctl --output json list", "ctl list --output json", "ctl list --output=json -v --yes"] {
        assert_eq!(parse(line).unwrap().global.output, Format::Json, "{line}");
    }
}

#[test]
fn what_is_not_served_is_unknown() {
    for line in [
        "ctl migrate a:/x b:/x --database mysql://x",
        "ctl migrate a:/x b:/x --database-to mysql://x",
        "ctl plan -f spec.yaml",
        "ctl list -q -v",
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_refused_command_line_is_one_failure() {
    let failure = usage_failure(&parse("ctl migrat").unwrap_err());
    assert_eq!(failure.message, "unrecognized subcommand 'migrat'");
    assert_eq!(failure.hint.as_deref(), Some("a similar subcommand exists: 'migrate'"));
    assert_eq!(failure.kind.exit_code(), 2);
}

#[test]
fn json_is_asked_for_even_where_nothing_else_is_understood() {
    let asked = |line: &str| is_json_asked(line.split_whitespace().map(OsString::from));
    assert!(asked("ctl lst --output json") && asked("ctl --output=json lst"));
    assert!(!asked("ctl lst --output human") && !asked("ctl lst -- --output json"));
}
