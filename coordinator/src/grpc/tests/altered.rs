//! An agent that says what it should not: every kind of its messages, altered, in a session of a host that holds a
//! lease.
//!
//! Whatever comes, the leader answers its other agents, knows what it knew of them, and lets the host come again.

use common::host::{HostFacts, HostStatus};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use prost::Message;
use proto::channel::Coordinators;
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::step_event::Event;
use proto::v1::{self, AgentMessage};

use super::alteration::{Alteration, alterations, altered, cases};
use super::fixture::{Agent, Cluster, connect};
use super::sessions::begin;
use crate::state::{State, snapshot};

/// How many messages come one after the other before the others are looked at.
const MESSAGES: usize = 12;

/// One of every kind, under a lease that is held.
fn said(grant: &v1::Grant) -> Vec<FromAgent> {
    let held =
        v1::HeldLease { migration: grant.migration.clone(), step: grant.step.clone(), token: grant.token };
    let event = |event| {
        let v1::HeldLease { migration, step, token } = held.clone();
        FromAgent::Event(v1::StepEvent { number: 1, migration, step, token, event: Some(event) })
    };
    let mut said = vec![
        event(Event::Succeeded("{\"version\":1,\"files_total\":3}".to_owned())),
        event(Event::Failed(v1::Failure { document: "{\"kind\":\"bug\",\"message\":\"no\"}".to_owned() })),
        event(Event::CaughtUpLagMs(300)),
        event(Event::Findings(
            "[{\"rule\":\"vanished\",\"severity\":\"notice\",\"object\":\"a\"}]".to_owned(),
        )),
    ];
    let v1::HeldLease { migration, step, token } = held.clone();
    let progress = "{\"files_done\":3,\"bytes_done\":9}".to_owned();
    let answer = Some(v1::answer::Answer::Document("{}".to_owned()));
    let right = Some(v1::open_secret::Right::Ticket(grant.ticket.clone()));
    let reference = "${secret:mask}".to_owned();
    said.extend([
        FromAgent::Heartbeat(v1::Heartbeat { number: 3, renew: vec![held.clone()], wall_ms: 9 }),
        FromAgent::Progress(v1::StepProgress { migration, step, token, progress }),
        FromAgent::Answer(v1::Answer { number: 1, answer }),
        FromAgent::Facts(v1::Facts { facts: "{\"boot_id\":\"x\"}".to_owned() }),
        FromAgent::OpenSecret(v1::OpenSecret { number: 2, reference, right }),
        FromAgent::Leaving(v1::Leaving::default()),
        FromAgent::Hello(v1::Hello {
            protocol: proto::PROTOCOL,
            incarnation: 1,
            facts: "{}".to_owned(),
            held: vec![held],
            sealing_key: vec![7; 32],
            sealing_signature: vec![7; 64],
        }),
    ]);
    // A new kind does not build before it is said above and named here.
    let kinds: std::collections::BTreeSet<u32> = said
        .iter()
        .map(|message| match message {
            FromAgent::Hello(_) => 0,
            FromAgent::Heartbeat(_) => 1,
            FromAgent::Progress(_) => 2,
            FromAgent::Event(_) => 3,
            FromAgent::Answer(_) => 4,
            FromAgent::Facts(_) => 5,
            FromAgent::Leaving(_) => 6,
            FromAgent::OpenSecret(_) => 7,
        })
        .collect();
    assert_eq!(kinds, (0..8).collect());
    said
}

/// Asks something and waits for the answer.
async fn is_answered(bystander: &mut Agent, number: u64) -> bool {
    bystander.send(FromAgent::Heartbeat(v1::Heartbeat { number, renew: Vec::new(), wall_ms: 0 })).await;
    loop {
        match bystander.next_but_roots().await {
            Some(ToAgent::Renewed(v1::Renewed { number: answered, .. })) if answered == number => {
                return true;
            }
            Some(_) => {}
            None => return false,
        }
    }
}

/// Returns the state as its snapshot has it.
fn written(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot::write(state, &mut bytes).unwrap();
    bytes
}

/// Returns what is known of the bystander, but for when it was heard last.
async fn known(cluster: &Cluster) -> (HostStatus, bool, Option<HostFacts>) {
    let host = cluster.host("web1").await;
    (host.status, host.connected, host.facts)
}

/// Says messages as long as the session bears it, then comes again.
async fn say(way: &Coordinators, evil: &mut Agent, messages: Vec<AgentMessage>, incarnation: u64) {
    for message in messages {
        // The leader may have ended the session, which is an answer.
        if evil.outbound.send(message).await.is_err() {
            break;
        }
    }
    *evil = Agent::connect(way, "web2", incarnation).await.unwrap();
}

#[test]
fn whatever_an_agent_says_costs_nobody_else_anything() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (cluster, mut bystander, way, mut evil, said) = runtime.block_on(async {
        let cluster = Cluster::start().await;
        let (_, mut source) = connect(&cluster, "web1").await;
        let (way, mut evil) = connect(&cluster, "web2").await;
        let (_, grant) = begin(&cluster, &mut source, &mut evil).await;
        (cluster, source, way, evil, said(&grant))
    });
    let before = runtime.block_on(known(&cluster));
    let mut number = 100;
    let plans = proptest::collection::vec((any::<prop::sample::Index>(), alterations()), MESSAGES);
    let run = |plans: Vec<(prop::sample::Index, Vec<Alteration>)>| {
        let encoded = |message: &FromAgent| AgentMessage { message: Some(message.clone()) }.encode_to_vec();
        let messages = plans
            .iter()
            .filter_map(|(which, alterations)| {
                // What is no message at all never reaches the leader's code.
                AgentMessage::decode(altered(&encoded(which.get(&said)), alterations).as_slice()).ok()
            })
            .collect();
        number += 1;
        runtime.block_on(async {
            say(&way, &mut evil, messages, u64::MAX - 1_000_000 + number).await;
            prop_assert!(is_answered(&mut bystander, number).await, "another agent's session has ended");
            prop_assert_eq!(&known(&cluster).await, &before);
            let state = cluster.node.hub().state();
            let bytes = written(&state);
            prop_assert_eq!(written(&snapshot::read(&mut bytes.as_slice()).unwrap()), bytes);
            Ok(())
        })
    };
    // The cases change the cluster, so that a smaller one would prove nothing.
    let config = proptest::test_runner::Config { max_shrink_iters: 0, ..cases(40) };
    let fails = std::cell::RefCell::new(run);
    TestRunner::new(config).run(&plans, |plans| (fails.borrow_mut())(plans)).unwrap();
    runtime.block_on(cluster.stop());
}
