//! What earlier versions of the program wrote, read with today's code.
//!
//! One file for each durable or wire format below `fixtures/VERSION/`, never changed once it is there. Formats that are
//! private to a crate are read by a test of that crate; the table says by which. A fixture for a new format is written
//! by `DROVER_WRITE_FIXTURES=1 cargo test -p transfer -p agent -p coordinator -p tests fixtures`, which writes only what
//! is missing.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

mod documents;
mod messages;
mod sample;
mod state;
mod ticket;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A fixture, and the source of the test that reads it.
struct Fixture {
    path: &'static str,
    reader: &'static str,
}

const fn of(path: &'static str, reader: &'static str) -> Fixture {
    Fixture { path, reader }
}

const STATE: &str = "tests/compat/state.rs";
const DOCUMENTS: &str = "tests/compat/documents.rs";
const MESSAGES: &str = "tests/compat/messages.rs";
const TICKET: &str = "tests/compat/ticket.rs";
const STAGE: &str = "agent/transfer/src/fixture_test.rs";
const MANIFEST: &str = "agent/transfer/src/manifest.rs";
const SIDE_CAR: &str = "agent/transfer/src/pull/sidecar.rs";
const JOURNAL: &str = "agent/src/journal/mod.rs";
const LOG: &str = "coordinator/src/raft/log_store.rs";

/// Every fixture; by path.
const FIXTURES: &[Fixture] = &[
    of("1/agent.toml", DOCUMENTS),
    of("1/authority.der", TICKET),
    of("1/begun.json", STAGE),
    of("1/commands.frames", STATE),
    of("1/contexts.toml", DOCUMENTS),
    of("1/coordinator.toml", DOCUMENTS),
    of("1/counters-deduplicated.frames", STAGE),
    of("1/counters.frames", STAGE),
    of("1/error-view.json", DOCUMENTS),
    of("1/exceptions.frames", MANIFEST),
    of("1/failure.json", DOCUMENTS),
    of("1/file-output.json", DOCUMENTS),
    of("1/file-params.json", DOCUMENTS),
    of("1/from-agent.messages", MESSAGES),
    of("1/hello.messages", STAGE),
    of("1/host-facts.json", DOCUMENTS),
    of("1/journal-caught-up.record", JOURNAL),
    of("1/journal-failed.record", JOURNAL),
    of("1/journal-findings.record", JOURNAL),
    of("1/journal-running.record", JOURNAL),
    of("1/journal-so-far.record", JOURNAL),
    of("1/journal-succeeded.record", JOURNAL),
    of("1/ledger.frames", STAGE),
    of("1/log-blank.record", LOG),
    of("1/log-command.record", LOG),
    of("1/log-membership.record", LOG),
    of("1/manifest.frames", MANIFEST),
    of("1/marker.json", STAGE),
    of("1/passes.json", STAGE),
    of("1/plan.json", DOCUMENTS),
    of("1/progress.json", DOCUMENTS),
    of("1/report.json", DOCUMENTS),
    of("1/side-car.frames", SIDE_CAR),
    of("1/spec.json", DOCUMENTS),
    of("1/stage.json", STAGE),
    of("1/ticket.bin", TICKET),
    of("1/to-agent.messages", MESSAGES),
    of("1/to-destination.messages", STAGE),
    of("1/to-source.messages", STAGE),
    of("1/vote.record", LOG),
    of("2/commands.frames", STATE),
    of("2/snapshot.bin", STATE),
    of("3/snapshot.bin", STATE),
    of("4/snapshot.bin", STATE),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/fixtures")
}

/// Returns a fixture; one that is missing is written, if `DROVER_WRITE_FIXTURES` asks for it.
fn fixture(path: &str, today: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    assert!(FIXTURES.iter().any(|fixture| fixture.path == path), "{path} is not in the table");
    let file = folder().join(path);
    if std::env::var_os("DROVER_WRITE_FIXTURES").is_some() && !file.exists() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, today()).unwrap();
    }
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn the_table_and_the_folder_agree() {
    let mut present = BTreeSet::new();
    for version in std::fs::read_dir(folder()).unwrap().map(Result::unwrap) {
        for file in std::fs::read_dir(version.path()).unwrap().map(Result::unwrap) {
            let (version, file) = (version.file_name(), file.file_name());
            present.insert(format!("{}/{}", version.display(), file.display()));
        }
    }
    let listed: BTreeSet<String> = FIXTURES.iter().map(|fixture| fixture.path.to_owned()).collect();
    assert_eq!(listed.len(), FIXTURES.len(), "a fixture is listed twice");
    let missing: Vec<_> = listed.difference(&present).collect();
    let unlisted: Vec<_> = present.difference(&listed).collect();
    assert!(missing.is_empty() && unlisted.is_empty(), "missing: {missing:?}; not listed: {unlisted:?}");
}

#[test]
fn every_fixture_has_a_reader() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for Fixture { path, reader } in FIXTURES {
        let text = std::fs::read_to_string(root.join(reader)).unwrap();
        let name = path.rsplit('/').next().unwrap();
        assert!(text.contains(&format!("{name}\"")), "{reader} does not read {path}");
    }
}
