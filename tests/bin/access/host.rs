//! A host's agent of a few lines: it holds a session, answers questions about roots, and asks for secrets.

use std::sync::Mutex;

use common::digest::Digest;
use common::host::HostFacts;
use common::sealing::{self, SealingKey};
use common::step::file::{RootAnswer, RootIdentity, RootQuestion};
use common::step::{StepKind, StepVersion};
use proto::channel::agent_client;
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::question::Question;
use proto::v1::{self, AgentMessage, CoordinatorMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::site::{PATIENCE, Site};

/// An agent with an open session.
pub(crate) struct Host {
    name: String,
    outbound: mpsc::Sender<AgentMessage>,
    inbound: Streaming<CoordinatorMessage>,
    asked: u64,
}

impl Host {
    /// Joins and connects.
    pub(crate) async fn connect(site: &Site, name: &str) -> Self {
        let (way, identity) = site.join(name).await;
        let (key, peer) = (SealingKey::generate().unwrap(), identity.peer().unwrap());
        let text = sealing::signed_text(&peer.cluster, &peer.principal, key.public());
        let steps = [StepKind::FileCopy, StepKind::FileVerify];
        let facts = HostFacts {
            boot_id: format!("boot of {name}"),
            data_addresses: vec!["127.0.0.1:7443".parse().unwrap()],
            steps: steps.map(|kind| StepVersion { kind, version: 1 }).to_vec(),
            ..HostFacts::default()
        };
        let hello = v1::Hello {
            protocol: proto::PROTOCOL,
            incarnation: 1,
            facts: serde_json::to_string(&facts).unwrap(),
            held: Vec::new(),
            sealing_key: key.public().to_vec(),
            sealing_signature: identity.sign(&text).unwrap(),
        };
        let opened = Mutex::new(None);
        let session = |way| {
            let (outbound, stream) = mpsc::channel(64);
            outbound.try_send(AgentMessage { message: Some(FromAgent::Hello(hello.clone())) }).unwrap();
            *opened.lock().unwrap() = Some(outbound);
            async move { agent_client(way).session(ReceiverStream::new(stream)).await }
        };
        let inbound = way.call(PATIENCE, session).await.unwrap();
        let outbound = opened.into_inner().unwrap().unwrap();
        let mut host = Self { name: name.to_owned(), outbound, inbound, asked: 0 };
        assert!(matches!(host.next().await, ToAgent::Welcome(_)));
        host
    }

    async fn send(&self, message: FromAgent) {
        self.outbound.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// Returns the next message that is no question about a root, which is answered.
    pub(crate) async fn next(&mut self) -> ToAgent {
        loop {
            let message = self.inbound.message().await.unwrap().and_then(|message| message.message);
            match message.unwrap_or_else(|| panic!("the session of {} has ended", self.name)) {
                ToAgent::Question(v1::Question { number, question: Some(Question::Root(question)) }) => {
                    let answer = Some(v1::answer::Answer::Document(self.root(&question)));
                    self.send(FromAgent::Answer(v1::Answer { number, answer })).await;
                }
                ToAgent::Serve(_) | ToAgent::PeerSeen(_) | ToAgent::RevokedHosts(_) => {}
                other => return other,
            }
        }
    }

    /// Sends a heartbeat that renews a lease, and waits until it is answered.
    pub(crate) async fn renew(&mut self, lease: v1::HeldLease) {
        self.asked += 1;
        let renew = vec![lease];
        self.send(FromAgent::Heartbeat(v1::Heartbeat { number: self.asked, renew, wall_ms: 0 })).await;
        match self.next().await {
            ToAgent::Renewed(v1::Renewed { leases, .. }) => assert_eq!(leases.len(), 1, "the lease was lost"),
            other => panic!("{} got {other:?}", self.name),
        }
    }

    /// Asks for a secret by the right that a ticket gives, and waits until it is here, sealed.
    pub(crate) async fn open(&mut self, reference: &str, ticket: &[u8]) {
        self.asked += 1;
        let right = Some(v1::open_secret::Right::Ticket(ticket.to_vec()));
        let request = v1::OpenSecret { number: self.asked, reference: reference.to_owned(), right };
        self.send(FromAgent::OpenSecret(request)).await;
        match self.next().await {
            ToAgent::OpenedSecret(v1::OpenedSecret {
                answer: Some(v1::opened_secret::Answer::Sealed(_)),
                ..
            }) => {}
            other => panic!("{} got {other:?}", self.name),
        }
    }

    fn root(&self, question: &str) -> String {
        let RootQuestion { path, .. } = serde_json::from_str(question).unwrap();
        let identity = |path: &str| RootIdentity {
            boot_id: format!("boot of {}", self.name),
            device: 1,
            inode: u64::from_le_bytes(Digest::of(path.as_bytes()).as_bytes()[..8].try_into().unwrap()),
        };
        let answer = RootAnswer {
            exists: true,
            canonical_path: path.clone(),
            identity: Some(identity(&path)),
            ancestors: Vec::new(),
            missing: Vec::new(),
            free_bytes: 1 << 40,
            free_inodes: 1 << 20,
            fs_type: "ext4".to_owned(),
            findings: Vec::new(),
        };
        serde_json::to_string(&answer).unwrap()
    }
}
