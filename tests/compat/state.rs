//! Commands of the log and snapshots of the state.

use common::clock::WallMs;
use common::finding::{Finding, Rule, Severity};
use common::host::HostFacts;
use common::progress::Progress;
use coordinator::state::migration::{self, Act, Checkpoint, Create, Migration};
use coordinator::state::piece::Piece;
use coordinator::state::stamp::Stamp;
use coordinator::state::step::Event;
use coordinator::state::{Command, State, cluster, host, lease, secret, snapshot};

use crate::fixture;
use crate::sample::{
    digest, failure, host as name, migration as id, node, plan, roots, spec, step, tenant, token,
};

/// Each kind of command that the first version could log, in an order that a cluster could have taken.
fn commands() -> Vec<Command> {
    let mut commands = vec![Command::Cluster(cluster::Command::Init {
        id: "c1".to_owned(),
        ca_certificate: vec![1, 2],
        ca_key: vec![3],
        node: "coordinator-1".parse().unwrap(),
        node_id: 1,
        api_address: "127.0.0.1:7400".to_owned(),
        raft_address: "127.0.0.1:7401".to_owned(),
        public_key: vec![4],
    })];
    commands.extend(nodes().map(Command::Cluster));
    for host in ["web1", "web2"] {
        let of = |change| Command::Host(host::Command { tenant: tenant(), host: name(host), change });
        commands.extend(hosts().map(of));
    }
    commands.extend(migrations().map(Command::Migration));
    commands.push(Command::Lease(lease::Command::Grant {
        tenant: tenant(),
        migration: id(),
        generation: 1,
        step: step(),
        host: name("web2"),
        incarnation: 3,
        is_undo: false,
    }));
    commands.push(Command::Lease(lease::Command::End {
        tenant: tenant(),
        migration: id(),
        step: step(),
        token: token(),
        reason: "it was not renewed".to_owned(),
    }));
    commands.push(Command::Piece(piece()));
    commands
}

fn nodes() -> impl Iterator<Item = cluster::Command> {
    let node = || "coordinator-2".parse().unwrap();
    let (api_address, raft_address) = ("10.0.0.2:7400".to_owned(), "10.0.0.2:7401".to_owned());
    [
        cluster::Command::InviteNode { name: node(), token: digest(), expires: WallMs(u64::MAX) },
        cluster::Command::EnrollNode { name: node(), token: digest(), public_key: vec![5] },
        cluster::Command::NodeAddresses { name: node(), api_address, raft_address },
        cluster::Command::RemoveNode { name: node() },
    ]
    .into_iter()
}

fn hosts() -> impl Iterator<Item = host::Change> {
    [
        host::Change::Invite { token: digest(), expires: WallMs(u64::MAX) },
        host::Change::Enroll { token: digest(), public_key: vec![6] },
        host::Change::Renew { generation: 1, public_key: vec![7] },
        host::Change::Seen { generation: 2 },
        host::Change::Started { incarnation: 3 },
        host::Change::Facts(HostFacts::default()),
        host::Change::Drain(true),
        host::Change::Drain(false),
    ]
    .into_iter()
}

fn migrations() -> impl Iterator<Item = migration::Command> {
    let create = Create {
        tenant: tenant(),
        migration: id(),
        request_id: "request-1".to_owned(),
        spec: spec().into(),
        roots: roots(),
        plan: plan().into(),
        is_confirmed: true,
    };
    let progress = Progress { files_done: 1, files_total: 2, ..Progress::default() };
    let checkpoint = Checkpoint { migration: id(), step: step(), token: token(), progress };
    let mut commands = vec![
        migration::Command::Create(Box::new(create)),
        migration::Command::Progress { tenant: tenant(), checkpoints: vec![checkpoint] },
    ];
    let acts = [
        Act::Retry,
        Act::Settle,
        Act::Settled { token: token() },
        Act::SettleFailed { token: token(), failure: failure() },
        Act::Verify { step: plan().steps.remove(1) },
        Act::TimeOut,
    ];
    let act = |act| migration::Command::Act { tenant: tenant(), migration: id(), act };
    commands.extend(acts.map(act));
    let finding = Finding {
        rule: Rule::Changed,
        severity: Severity::Warning,
        object: "a/b".to_owned(),
        message: "it changed".to_owned(),
        hint: "run again".to_owned(),
    };
    let events = [
        Event::CaughtUp(9),
        Event::Findings(vec![finding]),
        Event::Failed(failure()),
        Event::Succeeded("{}".to_owned()),
    ];
    commands.extend((1..).zip(events).map(|(number, event)| migration::Command::Event {
        tenant: tenant(),
        host: name("web2"),
        number,
        migration: id(),
        step: step(),
        token: token(),
        event,
    }));
    commands.extend([Act::Rollback, Act::Cancel].map(act));
    commands.into_iter()
}

fn piece() -> Piece {
    Piece { tenant: tenant(), command: [7; 16], number: 0, count: 2, bytes: vec![1, 2, 3] }
}

/// The state that the commands give; what no longer fits is refused, as it was.
fn state() -> State {
    let mut state = State::default();
    for (index, command) in (1..).zip(commands()) {
        let stamp = Stamp {
            index,
            epoch: state.cluster().epoch,
            wall: WallMs(1_700_000_000_000 + index),
            principal: node(),
            address: None,
        };
        drop(state.apply(stamp, command));
    }
    state
}

/// The state with what the third version of snapshots added: a secret that bears a label.
fn labelled() -> State {
    let (mut state, name) = (state(), || "mask".parse().unwrap());
    let set = secret::Command::Set {
        tenant: tenant(),
        name: name(),
        version: 1,
        must_exist: false,
        request_id: "request-2".to_owned(),
        head: vec![1; 81],
        body: vec![2; 40],
    };
    let labels = [("team".parse().unwrap(), "shop".parse().unwrap())].into();
    let label = secret::Command::Label { tenant: tenant(), name: name(), labels };
    for (index, command) in (1_000..).zip([set, label]) {
        let wall = WallMs(1_700_000_000_000 + index);
        let stamp = Stamp { index, epoch: state.cluster().epoch, wall, principal: node(), address: None };
        state.apply(stamp, Command::Secret(command)).unwrap();
    }
    state
}

/// The state with what the fourth version of snapshots added: a migration that is paused.
fn controlled() -> State {
    let mut state = labelled();
    let other = || "m2".parse().unwrap();
    let mut spec = spec();
    spec.options.dry_run = true;
    let mut plan = plan();
    plan.migration = other();
    let create = Create {
        tenant: tenant(),
        migration: other(),
        request_id: "request-3".to_owned(),
        spec: spec.into(),
        roots: roots(),
        plan: plan.into(),
        is_confirmed: true,
    };
    let act = |act| migration::Command::Act { tenant: tenant(), migration: other(), act };
    for (index, command) in (2_000..).zip([migration::Command::Create(Box::new(create)), act(Act::Pause)]) {
        let wall = WallMs(1_700_000_000_000 + index);
        let stamp = Stamp { index, epoch: state.cluster().epoch, wall, principal: node(), address: None };
        state.apply(stamp, Command::Migration(command)).unwrap();
    }
    state
}

/// The migration that they make.
pub(crate) fn migration() -> Migration {
    state().migrations().get(&tenant(), &id()).unwrap().as_ref().clone()
}

fn framed(encoded: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut frames = Vec::new();
    for command in encoded {
        frames.extend_from_slice(&u32::try_from(command.len()).unwrap().to_le_bytes());
        frames.extend_from_slice(&command);
    }
    frames
}

fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (frame, rest) = rest.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        frames.push(frame);
        bytes = rest;
    }
    frames
}

#[test]
fn fixtures_of_commands_are_read() {
    let bytes = fixture("1/commands.frames", || {
        framed(commands().iter().map(|command| snapshot::encode_command(command).unwrap()))
    });
    let found: Vec<Command> =
        frames(&bytes).into_iter().map(|frame| snapshot::decode_command(frame).unwrap()).collect();
    assert_eq!(found, commands());
    let bytes = fixture("2/commands.frames", || {
        let encode = |command| snapshot::encode_addressed(command, Some("10.0.0.9")).unwrap();
        framed(commands().iter().map(encode))
    });
    for (frame, expected) in frames(&bytes).into_iter().zip(commands()) {
        let found = snapshot::decode_addressed(frame).unwrap();
        assert_eq!(found, (Some("10.0.0.9".to_owned()), expected));
    }
}

#[test]
fn fixtures_of_snapshots_are_read() {
    let bytes = fixture("2/snapshot.bin", || {
        let mut bytes = Vec::new();
        snapshot::write(&state(), &mut bytes).unwrap();
        bytes
    });
    assert_eq!(snapshot::read(&mut bytes.as_slice()).unwrap(), state());
    let bytes = fixture("3/snapshot.bin", || {
        let mut bytes = Vec::new();
        snapshot::write(&labelled(), &mut bytes).unwrap();
        bytes
    });
    assert_eq!(snapshot::read(&mut bytes.as_slice()).unwrap(), labelled());
    let bytes = fixture("4/snapshot.bin", || {
        let mut bytes = Vec::new();
        snapshot::write(&controlled(), &mut bytes).unwrap();
        bytes
    });
    assert_eq!(snapshot::read(&mut bytes.as_slice()).unwrap(), controlled());
}

#[test]
fn a_later_version_is_named_as_such() {
    let refusal = snapshot::decode_command(&[250, 0, 0]).unwrap_err();
    assert!(refusal.failure().message.contains("newer version"), "{}", refusal.failure());
    let mut bytes = Vec::new();
    snapshot::write(&State::default(), &mut bytes).unwrap();
    bytes[7] = 250;
    let error = snapshot::read(&mut bytes.as_slice()).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
}
