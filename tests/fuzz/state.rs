//! The coordinator's state: commands that its log may hold, and snapshots on a disk that damages them.

use std::path::Path;

use common::clock::WallMs;
use common::id::TenantId;
use common::principal::Principal;
use coordinator::state::stamp::Stamp;
use coordinator::state::{Command, State, snapshot};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tests::alteration::{alterations, altered, cases};

use crate::draw::draw;

fn fixture(path: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/fixtures");
    std::fs::read(folder.join(path)).unwrap()
}

/// Applies a command as the first person, as if it had been allowed.
fn apply(state: &mut State, index: u64, command: Command) {
    let stamp = Stamp {
        index,
        epoch: state.cluster().epoch,
        wall: WallMs(1_700_000_000_000 + index),
        principal: Principal::Person { tenant: TenantId::default_tenant(), name: "root".to_owned() },
        address: None,
    };
    // A refusal is an answer.
    drop(state.apply(stamp, command));
}

#[test]
fn altered_snapshots_are_refused() {
    let whole = fixture("4/snapshot.bin");
    snapshot::read(&mut whole.as_slice()).unwrap();
    let longer = [whole.as_slice(), &whole[whole.len() - 34..]].concat();
    assert!(snapshot::read(&mut longer.as_slice()).is_err(), "something stands behind its end");
    let run = |alterations: Vec<_>| {
        let bytes = altered(&whole, &alterations);
        let read = snapshot::read(&mut bytes.as_slice());
        prop_assert!(bytes == whole || read.is_err(), "it was read");
        Ok(())
    };
    TestRunner::new(cases(1_000)).run(&alterations(), run).unwrap();
}

#[test]
fn any_command_is_applied_or_refused_and_its_snapshot_reads_the_same() {
    let begun = snapshot::read(&mut fixture("4/snapshot.bin").as_slice()).unwrap();
    let chances = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..12);
    let run = |chances: Vec<Vec<u8>>| {
        let mut state = begun.clone();
        for (index, chance) in (1_000..).zip(&chances) {
            let Some(command) = draw::<Command>(chance) else { continue };
            let bytes = snapshot::encode_command(&command).unwrap();
            apply(&mut state, index, snapshot::decode_command(&bytes).unwrap());
        }
        let mut written = Vec::new();
        snapshot::write(&state, &mut written).unwrap();
        let again = snapshot::read(&mut written.as_slice()).unwrap();
        let mut rewritten = Vec::new();
        snapshot::write(&again, &mut rewritten).unwrap();
        prop_assert_eq!(written, rewritten);
        Ok(())
    };
    TestRunner::new(cases(300)).run(&chances, run).unwrap();
}

#[test]
fn altered_commands_are_an_error_or_a_command() {
    let chance = proptest::collection::vec(any::<u8>(), 0..300);
    let run = |(chance, alterations): (Vec<u8>, Vec<_>)| {
        let Some(command) = draw::<Command>(&chance) else { return Ok(()) };
        let bytes = altered(&snapshot::encode_command(&command).unwrap(), &alterations);
        drop(snapshot::decode_command(&bytes));
        drop(snapshot::decode_addressed(&bytes));
        Ok(())
    };
    TestRunner::new(cases(1_000)).run(&(chance, alterations()), run).unwrap();
}
