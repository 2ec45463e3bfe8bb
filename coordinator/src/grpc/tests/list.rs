//! A list that is read from an agent, and readers who lose the grant or go while it is on its way.

use std::sync::Arc;

use common::clock;
use common::failure::FailureKind;
use common::id::TenantId;
use common::role::Role;
use common::step::file::FileOutput;
use common::tls;
use proto::channel::{access_client, control_client};
use proto::v1;
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::question::Question;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::fixture::*;
use super::sessions::begin;
use crate::access::call::Call;
use crate::grpc::connection::ConnectionInfo;
use crate::grpc::{admission, list};
use crate::state::Command;
use crate::state::access::command::Command as Change;

const PASSWORD: &str = "correct horse battery";

/// Waits for the question about the list, and returns its number.
async fn asked(agent: &mut Agent) -> u64 {
    loop {
        match agent.next_but_roots().await.unwrap() {
            ToAgent::Question(v1::Question { number, question: Some(Question::ListOfMigration(_)) }) => {
                return number;
            }
            ToAgent::Grant(_) => {}
            other => panic!("{other:?} instead of a question"),
        }
    }
}

async fn send_piece(agent: &Agent, number: u64) {
    let piece = Some(v1::answer::Answer::Piece(b"{}\n".to_vec()));
    agent.send(FromAgent::Answer(v1::Answer { number, answer: piece })).await;
}

#[tokio::test]
async fn whoever_loses_the_grant_reads_no_further() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (_, mut destination) = connect(&cluster, "web2").await;
    let (made, copy) = begin(&cluster, &mut source, &mut destination).await;
    let output = FileOutput { version: 1, list_file: Some("list".to_owned()), ..FileOutput::default() };
    destination.succeed(&copy, &output).await;
    cluster.create_user("default", "eve", Role::Viewer, PASSWORD).await;
    let (certificate, key) = cluster.login("default", "eve", PASSWORD).await.unwrap();
    let eve = cluster.way_of(certificate, &key);
    let read = |way| {
        let request = v1::MigrationRequest { migration: made.id.to_string() };
        async move { control_client(way).stream_list(request).await }
    };

    let (stream, number) = tokio::join!(eve.call(PATIENCE, read), asked(&mut destination));
    let mut stream = stream.unwrap();
    send_piece(&destination, number).await;
    assert!(stream.message().await.unwrap().is_some());
    let ungrant = |way| async move {
        let (name, within) = ("eve".to_owned(), String::new());
        access_client(way).grant_user(v1::GrantUserRequest { name, within, grant: None }).await
    };
    cluster.operator.call(PATIENCE, ungrant).await.unwrap();
    send_piece(&destination, number).await;
    let refused = proto::status::to_failure(&stream.message().await.unwrap_err());
    assert_eq!(refused.kind, FailureKind::NotFound, "{refused}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_reader_who_goes_leaves_nothing_that_waits_for_the_agent() {
    let cluster = Cluster::start().await;
    cluster.create_user("default", "eve", Role::Viewer, PASSWORD).await;
    let (certificate, _) = cluster.login("default", "eve", PASSWORD).await.unwrap();
    let hub = cluster.node.hub().clone();
    let mut request = tonic::Request::new(());
    request.extensions_mut().insert(ConnectionInfo {
        peer: Some(Arc::new(tls::peer_of(&[certificate], clock::wall()).unwrap())),
        address: ([127, 0, 0, 1], 1).into(),
        cut: CancellationToken::new(),
        refusals: Arc::clone(&hub.audit.refusals),
        standing: Arc::default(),
    });
    let admitted = admission::admit(&hub, &request, Call::ReadMigration).unwrap();
    assert_eq!(admitted.check_again(&hub.state(), Call::ReadMigration), Ok(()));
    let ungrant = Change::UngrantUser {
        tenant: TenantId::default_tenant(),
        name: "eve".parse().unwrap(),
        within: TenantId::default_tenant(),
    };
    hub.propose(hub.principal(), Command::Access(ungrant)).await.unwrap();
    let now = admitted.check_again(&hub.state(), Call::ReadMigration).unwrap_err();
    assert_eq!(now.kind, FailureKind::Denied, "an export would go on");
    let (pieces, receiver) = mpsc::channel(1);
    let (lines, stream) = mpsc::channel(1);
    let handing = list::hand_on(hub, admitted, "bbbbbbbbbb".to_owned(), receiver, lines);
    drop(stream);
    // The agent says nothing, and its session lives on.
    tokio::time::timeout(PATIENCE, handing).await.unwrap();
    assert!(pieces.is_closed());
    cluster.stop().await;
}
