//! Messages between agents and coordinators, byte by byte: they are updated one after the other.

use prost::Message;
use proto::v1;
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;

use crate::fixture;

/// Checks messages one behind the other, each behind its length.
fn messages<M: Message + Default + PartialEq + std::fmt::Debug>(path: &str, expected: &[M]) {
    let mut today = Vec::new();
    for message in expected {
        message.encode_length_delimited(&mut today).unwrap();
    }
    let bytes = fixture(path, || today.clone());
    assert_eq!(bytes, today, "{path}: the bytes of these messages have changed");
    let mut rest = bytes.as_slice();
    for message in expected {
        assert_eq!(&M::decode_length_delimited(&mut rest).unwrap(), message, "{path}");
    }
}

fn token() -> Option<v1::Token> {
    Some(v1::Token { epoch: 1, index: 42 })
}

fn held() -> v1::HeldLease {
    v1::HeldLease { migration: "b7".to_owned(), step: "file.copy-1".to_owned(), token: token() }
}

fn event(number: u64, event: v1::step_event::Event) -> FromAgent {
    let v1::HeldLease { migration, step, token } = held();
    FromAgent::Event(v1::StepEvent { number, migration, step, token, event: Some(event) })
}

#[test]
fn fixtures_of_agents_messages_are_spoken() {
    use v1::step_event::Event;
    let v1::HeldLease { migration, step, token } = held();
    let progress = v1::StepProgress { migration, step, token, progress: "{}".to_owned() };
    let failure = v1::Failure { document: "{}".to_owned() };
    let said = [
        FromAgent::Hello(v1::Hello {
            protocol: 1,
            incarnation: 7,
            facts: "{}".to_owned(),
            held: vec![held()],
            ..v1::Hello::default()
        }),
        FromAgent::Heartbeat(v1::Heartbeat { number: 3, renew: vec![held()], wall_ms: 9 }),
        FromAgent::Progress(progress),
        event(1, Event::Succeeded("{}".to_owned())),
        event(2, Event::Failed(failure)),
        event(3, Event::CaughtUpLagMs(300)),
        event(4, Event::Findings("[]".to_owned())),
        FromAgent::Facts(v1::Facts { facts: "{}".to_owned() }),
    ];
    let said = said.map(|message| v1::AgentMessage { message: Some(message) });
    messages("1/from-agent.messages", &said);
}

#[test]
fn fixtures_of_leaders_messages_are_spoken() {
    let grant = v1::Grant {
        migration: "b7".to_owned(),
        step: "file.copy-1".to_owned(),
        token: token(),
        kind: "file.copy@1".to_owned(),
        attempt: 2,
        params: "{}".to_owned(),
        inputs: std::iter::once(("a".to_owned(), "{}".to_owned())).collect(),
        ticket: vec![1, 2],
        peer: "web1".to_owned(),
        peer_addresses: vec!["10.0.0.1:7443".to_owned()],
        ttl_ms: 30_000,
        tenant: "default".to_owned(),
        ..v1::Grant::default()
    };
    let lease = v1::RenewedLease {
        token: token(),
        ticket: vec![3],
        bandwidth_limit: 9,
        max_load: None,
        idle_io: false,
    };
    let v1::HeldLease { migration, step, token } = held();
    let said = [
        ToAgent::Welcome(v1::Welcome {
            protocol: 1,
            wall_ms: 9,
            coordinators: vec!["10.0.0.1:7400".to_owned()],
            acknowledged: 5,
            reconnect_spread_ms: 6,
        }),
        ToAgent::Renewed(v1::Renewed { number: 3, leases: vec![lease] }),
        ToAgent::Grant(grant),
        ToAgent::Revoke(v1::Revoke { migration, step, token, reason: "over".to_owned() }),
        ToAgent::Acknowledge(v1::Acknowledge { number: 8 }),
    ];
    let said = said.map(|message| v1::CoordinatorMessage { message: Some(message) });
    messages("1/to-agent.messages", &said);
}
