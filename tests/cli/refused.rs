//! What is refused before anybody is asked: each with its words and its exit code.

use std::fmt::Write;

use serde_json::Value;

use crate::environment::{Environment, assert_golden};

/// Lines that `ctl` refuses by itself.
const CTL: [&str; 26] = [
    "ctl --bogus",
    "ctl migrat",
    "ctl status",
    "ctl list",
    "ctl watch b7k2m9x4qz",
    "ctl --context-file nowhere.toml list",
    "ctl --context other --context-file contexts.toml list",
    "ctl --context-file broken.toml list",
    "ctl --context-file open.toml list",
    "ctl migrate web1:/a",
    "ctl migrate web1:a web2:/b",
    "ctl migrate /a web2:/b",
    "ctl migrate web1:/a/../b web2:/b",
    "ctl migrate Web1:/a web2:/b",
    "ctl migrate web1:/a web2:/b --bandwidth 10Q",
    "ctl migrate web1:/a web2:/b --max-delete 120%",
    "ctl migrate web1:/a web2:/b --rollback-window 5y",
    "ctl migrate web1:/a web2:/b --exclude [",
    "ctl migrate web1:/a web2:/b --exclude-from nowhere",
    "ctl migrate web1:/a web2:/b --usermap www",
    "ctl migrate web1:/a web2:/b --backup-dir /kept",
    "ctl report b7k2m9x4qz --format pdf",
    "ctl --output xml list",
    "ctl completion tcsh",
    "ctl dev status --dir nowhere",
    "ctl dev down --dir nowhere",
];

/// Lines that the daemons refuse.
const DAEMONS: [&str; 9] = [
    "drover-agent",
    "drover-agent --bogus",
    "drover-agent join",
    "drover-agent serve --config nowhere.toml",
    "drover-agent serve --config broken.toml",
    "drover-coordinator",
    "drover-coordinator --bogus",
    "drover-coordinator serve --config nowhere.toml",
    "drover-coordinator serve --config broken.toml",
];

/// A context file as it is written, whose certificates are none.
const CONTEXTS: &str = "current = \"local\"\n\n[contexts.local]\ncoordinators = [\"127.0.0.1:1\"]\nca_certificate = \"\"\ncertificate = \"\"\nkey = \"\"\n";

fn environment() -> Environment {
    let environment = Environment::new();
    let write = |name: &str, text: &str, mode: u32| {
        let path = environment.home().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    write("contexts.toml", CONTEXTS, 0o600);
    write("open.toml", CONTEXTS, 0o644);
    write("broken.toml", "curent = 7\n", 0o600);
    environment
}

/// Writes down what lines print and how they end.
fn transcript(environment: &Environment, lines: &[&str]) -> String {
    let mut text = String::new();
    let home = environment.home().display().to_string();
    for line in lines {
        let run = environment.run(line);
        assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{line} is coloured");
        writeln!(text, "$ {line}").unwrap();
        for (name, printed) in [("", &run.stdout), ("! ", &run.stderr)] {
            for printed in printed.lines() {
                writeln!(text, "{}", format!("{name}{printed}").trim_end().replace(&home, "HOME")).unwrap();
            }
        }
        writeln!(text, "= {}\n", run.code.unwrap()).unwrap();
    }
    text
}

#[test]
fn golden_words_of_what_ctl_refuses() {
    assert_golden("ctl.txt", &transcript(&environment(), &CTL));
}

#[test]
fn golden_words_of_what_daemons_refuse() {
    assert_golden("daemons.txt", &transcript(&environment(), &DAEMONS));
}

#[test]
fn golden_help_of_the_daemons() {
    let environment = Environment::new();
    let mut text = String::new();
    for (program, commands) in [
        ("drover-agent", &["join", "serve"][..]),
        ("drover-coordinator", &["init", "join", "serve", "context"][..]),
    ] {
        let lines: Vec<String> = std::iter::once(format!("{program} --help"))
            .chain(commands.iter().map(|command| format!("{program} {command} --help")))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        text.push_str(&transcript(&environment, &lines));
    }
    assert_golden("help.txt", &text);
}

/// A script reads exactly one document, whatever happens, and gets the same exit code as a person.
#[test]
fn a_refusal_is_one_document() {
    let environment = environment();
    for line in CTL.into_iter().filter(|line| !line.contains("--output")) {
        let person = environment.run(line);
        let script = environment.run(&line.replacen("ctl ", "ctl --output json ", 1));
        assert_eq!(script.code, person.code, "{line}");
        let document: Value = serde_json::from_str(&script.stdout)
            .unwrap_or_else(|error| panic!("{line}: not one document ({error}): {}", script.stdout));
        assert_eq!(document["exit_code"].as_i64(), script.code.map(i64::from), "{line}");
        let error = &document["error"];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{line}: {document}");
        assert!(error["kind"].is_string() && document.get("support_contact").is_some(), "{line}: {document}");
    }
}
