//! Three nodes in one process, with channels for a network and leaders that are killed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::clock::{self, WallMs};
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::id::NodeName;
use common::shutdown::Shutdown;
use tokio::sync::mpsc;

use super::Member;
use super::membership::{self, Admission};
use super::node::{RaftNode, RaftSettings};
use super::server::Server;
use super::state_machine::Replica;
use super::wire::{Answer, Method, Wire};
use crate::state::host;
use crate::state::sample;
use crate::state::{Applied, Command, cluster};

/// A network of nodes in one process: addresses are names, and a node that is not here is unreachable.
#[derive(Clone, Default)]
struct Net {
    servers: Arc<Mutex<BTreeMap<String, Server>>>,
    /// Who asked for pre-votes and votes, also where nobody was reached.
    polls: Arc<Mutex<Vec<(String, Method)>>>,
}

impl Net {
    fn polls(&self, id: u64, method: Method) -> usize {
        let polls = self.polls.lock().unwrap();
        polls.iter().filter(|poll| **poll == (name(id), method)).count()
    }
}

/// The way of one node into the network.
struct Way {
    net: Net,
    from: String,
}

impl Way {
    fn server(&self, address: &str) -> Result<Server, Failure> {
        let servers = self.net.servers.lock().unwrap();
        let is_cut_off = !servers.contains_key(&self.from) && servers.len() > 1;
        let server = servers.get(address).filter(|_| !is_cut_off).cloned();
        server.ok_or_else(|| Failure::new(FailureKind::Unreachable, format!("{address} is down")))
    }
}

impl Wire for Way {
    fn call(&self, address: &str, method: Method, payload: Vec<u8>) -> Answer {
        let server = self.server(address);
        if matches!(method, Method::PreVote | Method::Vote) {
            self.net.polls.lock().unwrap().push((self.from.clone(), method));
        }
        let caller: NodeName = self.from.parse().unwrap();
        Box::pin(async move {
            let server = server?;
            match method {
                Method::Append => server.append(&payload).await,
                Method::Vote => server.vote(&payload).await,
                Method::PreVote => server.pre_vote(&payload).await,
                Method::HandOver => server.hand_over(&payload).await,
                Method::Admit => server.admit(&caller, super::wire::decode(&payload)?).await,
                Method::Audit => Err(Failure::new(FailureKind::Unsupported, "there are no files here")),
                Method::HoldsKey => Ok(vec![1]),
            }
        })
    }

    fn snapshot(&self, address: &str, mut pieces: mpsc::Receiver<Vec<u8>>) -> Answer {
        let server = self.server(address);
        Box::pin(async move {
            let header = pieces.recv().await.unwrap();
            let mut receiving = server?.begin_snapshot(&header)?;
            while let Some(piece) = pieces.recv().await {
                receiving.piece(&piece).await?;
            }
            receiving.finish().await
        })
    }
}

/// One node and what it takes to stop and start it.
struct Running {
    node: RaftNode,
    shutdown: Shutdown,
}

struct Cluster {
    net: Net,
    directory: tempfile::TempDir,
    running: BTreeMap<u64, Running>,
}

fn name(id: u64) -> String {
    format!("coordinator-{id}")
}

fn member(id: u64) -> Member {
    Member { name: name(id), api_address: format!("api-{id}"), raft_address: name(id) }
}

impl Cluster {
    /// Makes a cluster of so many nodes by init, invitation and admission.
    async fn of(nodes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Self { net: Net::default(), directory, running: BTreeMap::new() };
        cluster.start(1).await;
        let first = cluster.running[&1].node.clone();
        first.members().bootstrap(1, member(1)).await.unwrap();
        cluster.leader().await;
        first.proposer().propose(sample::init(), sample::node()).await.unwrap();
        for id in 2..=nodes {
            cluster.admit(id).await;
        }
        cluster
    }

    async fn admit(&mut self, id: u64) {
        let leader = self.leader().await;
        let node_name: NodeName = name(id).parse().unwrap();
        let token = Digest::of(node_name.as_str().as_bytes());
        let proposer = leader.proposer();
        let invite =
            cluster::Command::InviteNode { name: node_name.clone(), token, expires: WallMs(u64::MAX) };
        proposer.propose(Command::Cluster(invite), sample::node()).await.unwrap();
        let enroll = cluster::Command::EnrollNode { name: node_name, token, public_key: vec![1] };
        proposer.propose(Command::Cluster(enroll), sample::node()).await.unwrap();
        self.start(id).await;
        let way = Way { net: self.net.clone(), from: name(id) };
        let admission = Admission { node_id: id, member: member(id) };
        membership::join(&way, &[name(1), name(2)], &admission).await.unwrap();
    }

    fn path(&self, id: u64) -> PathBuf {
        self.directory.path().join(name(id))
    }

    async fn start(&mut self, id: u64) {
        let way = Arc::new(Way { net: self.net.clone(), from: name(id) });
        let settings = RaftSettings { node_id: id, directory: self.path(id) };
        let shutdown = Shutdown::new();
        // The threads of sled let go of the lock of the node before a moment after its end.
        let opened = async {
            loop {
                let way: Arc<dyn Wire> = way.clone();
                match RaftNode::open(settings.clone(), way, &shutdown).await {
                    Ok(node) => return node,
                    Err(error) => println!("not open yet: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let node = tokio::time::timeout(Duration::from_secs(20), opened).await.expect("it does not open");
        self.net.servers.lock().unwrap().insert(name(id), node.server().clone());
        self.running.insert(id, Running { node, shutdown });
    }

    /// Returns why a node cannot be opened, once nobody else has its files.
    async fn refused(&self, id: u64) -> Failure {
        loop {
            let way = Arc::new(Way { net: self.net.clone(), from: name(id) });
            let settings = RaftSettings { node_id: id, directory: self.path(id) };
            let shutdown = Shutdown::new();
            match RaftNode::open(settings, way, &shutdown).await {
                Err(error) => {
                    let failure = Failure::from(error);
                    if !failure.message.contains("lock") {
                        return failure;
                    }
                    tokio::task::yield_now().await;
                }
                Ok(node) => {
                    node.stop_at_once().await;
                    panic!("it opened");
                }
            }
        }
    }

    /// Cuts a node off and stops it without a word to the others.
    async fn kill(&mut self, id: u64) {
        self.net.servers.lock().unwrap().remove(&name(id));
        let Running { node, shutdown } = self.running.remove(&id).unwrap();
        shutdown.finish().await;
        node.stop_at_once().await;
        // sled holds its files until the last handle is gone.
        drop(node);
    }

    /// Waits for a node that leads.
    async fn leader(&self) -> RaftNode {
        let found = async {
            loop {
                if let Some(running) = self.running.values().find(|it| it.node.proposer().is_leader()) {
                    return running.node.clone();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("nobody leads")
    }

    fn term_of(&self, id: u64) -> u64 {
        self.running[&id].node.proposer().leadership().borrow().term
    }

    fn leader_id(&self) -> Option<u64> {
        self.running.iter().find(|(_, it)| it.node.proposer().is_leader()).map(|(id, _)| *id)
    }

    /// Writes at whoever takes it; returns how long that took.
    async fn write(&self, host: &str) -> Duration {
        let begun = clock::boot();
        let written = async {
            loop {
                for running in self.running.values() {
                    let proposed = running.node.proposer().propose(invite(host), sample::operator());
                    let proposed = tokio::time::timeout(Duration::from_secs(2), proposed).await;
                    if matches!(proposed, Ok(Ok(_))) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), written).await.expect("writes do not come back");
        clock::boot().since(begun)
    }

    /// Proposes at whoever leads until that one says yes or no.
    async fn ask(&self, command: Command) -> Result<Applied, Failure> {
        let answered = async {
            loop {
                let proposer = self.leader().await.proposer().clone();
                match proposer.propose(command.clone(), sample::operator()).await {
                    Err(failure) if failure.kind == FailureKind::Unreachable => {}
                    answer => return answer,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), answered).await.expect("nobody leads for long")
    }

    /// Returns what was agreed, from whoever leads.
    async fn agreed(&self) -> Arc<Replica> {
        let agreed = async {
            loop {
                if let Ok(replica) = self.leader().await.proposer().linearizable().await {
                    return replica;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), agreed).await.expect("nobody leads for long")
    }

    /// Waits until all nodes have applied what the leader has, and holds them against each other.
    async fn assert_equal(&self) {
        let expected = self.agreed().await;
        for running in self.running.values() {
            let mut replicas = running.node.proposer().replicas();
            let caught_up = replicas.wait_for(|replica| replica.applied >= expected.applied);
            let caught_up = tokio::time::timeout(Duration::from_secs(20), caught_up).await;
            let replica = caught_up.expect("a node lags").unwrap();
            if replica.applied == expected.applied {
                assert_eq!(replica.state, expected.state);
            }
        }
    }

    async fn stop(self) {
        for (_, Running { node, shutdown }) in self.running {
            shutdown.finish().await;
            node.stop_at_once().await;
        }
    }
}

fn invite(host: &str) -> Command {
    let change = host::Change::Invite { token: Digest::of(b"t"), expires: WallMs(u64::MAX) };
    Command::Host(host::Command { tenant: sample::tenant(), host: host.parse().unwrap(), change })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_come_back_after_every_kill_and_nothing_is_lost() {
    let mut cluster = Cluster::of(3).await;
    let mut gaps = Vec::new();
    for round in 0..6 {
        cluster.write(&format!("before-{round}")).await;
        let id = cluster.leader_id().expect("somebody has just taken a write");
        cluster.kill(id).await;
        gaps.push(cluster.write(&format!("after-{round}")).await);
        cluster.start(id).await;
        cluster.assert_equal().await;
    }
    gaps.sort();
    println!("writes came back after {gaps:?}");
    let replica = cluster.agreed().await;
    let hosts = replica.state.hosts().table();
    for round in 0..6 {
        for host in [format!("before-{round}"), format!("after-{round}")] {
            assert!(hosts.get(&sample::tenant(), &host.parse().unwrap()).is_some(), "{host} is lost");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_does_not_depose_the_leader() {
    let cluster = Cluster::of(3).await;
    cluster.write("web1").await;
    // A machine that stands still for longer than a lease elects somebody by itself, so one calm round is enough.
    for round in 0..5 {
        let leader = cluster.leader().await;
        let away = *cluster.running.keys().find(|id| Some(**id) != cluster.leader_id()).unwrap();
        let server = cluster.net.servers.lock().unwrap().remove(&name(away)).unwrap();
        let (term, votes) = (cluster.term_of(away), cluster.net.polls(away, Method::Vote));
        // Ten questions to two peers: its own timer would have raised its term by now, and with it deposed any leader.
        let asked = cluster.net.polls(away, Method::PreVote) + 10;
        let polled = async {
            while cluster.net.polls(away, Method::PreVote) < asked {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), polled).await.expect("it does not look for a leader");
        assert_eq!((cluster.term_of(away), cluster.net.polls(away, Method::Vote)), (term, votes));
        let before = (cluster.leader_id(), leader.proposer().leadership().borrow().term);
        cluster.net.servers.lock().unwrap().insert(name(away), server);
        cluster.write(&format!("back-{round}")).await;
        cluster.assert_equal().await;
        let after = (cluster.leader_id(), leader.proposer().leadership().borrow().term);
        if before == after && before.0.is_some() {
            return cluster.stop().await;
        }
        println!("round {round}: {before:?}, then {after:?}");
    }
    panic!("the leader changes whenever a node comes back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_end_hands_the_leadership_over() {
    let mut cluster = Cluster::of(3).await;
    cluster.write("web1").await;
    let id = cluster.leader_id().unwrap();
    let Running { node, shutdown } = cluster.running.remove(&id).unwrap();
    node.hand_over().await;
    // The old leader is alive and heard by all, so that only the hand-over makes another one.
    let successor = cluster.leader().await;
    assert_ne!(successor.proposer().leadership().borrow().leader, Some(member(id)));
    cluster.net.servers.lock().unwrap().remove(&name(id));
    shutdown.finish().await;
    node.stop_at_once().await;
    println!("the next write took {:?}", cluster.write("web2").await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_off_comes_back_with_its_snapshot() {
    let mut cluster = Cluster::of(3).await;
    for number in 0..20 {
        cluster.write(&format!("web-{number}")).await;
    }
    let leader = cluster.leader().await;
    leader.snapshot_now().await;
    cluster.write("after-the-snapshot").await;
    drop(leader);
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.assert_equal().await;
    let replica = cluster.agreed().await;
    assert_eq!(replica.state.hosts().table().len(), 21);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_damaged_or_gone_is_told_at_the_start() {
    let mut cluster = Cluster::of(1).await;
    for number in 0..20 {
        cluster.write(&format!("web-{number}")).await;
    }
    let leader = cluster.leader().await;
    leader.snapshot_now().await;
    leader.purge_now().await;
    drop(leader);
    cluster.kill(1).await;
    let snapshots: Vec<PathBuf> = std::fs::read_dir(cluster.path(1).join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [path] = &snapshots[..] else { panic!("{snapshots:?}") };
    let whole = std::fs::read(path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        Some(bytes)
    };
    let mut damages = vec![None, Some(Vec::new()), Some(whole[..whole.len() / 2].to_vec())];
    // The description at the front, and the state behind it.
    damages.extend((0..120).chain((120..whole.len()).step_by(whole.len() / 10)).map(flipped));
    for (number, damage) in damages.into_iter().enumerate() {
        match damage {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let refused = cluster.refused(1).await;
        let known = [FailureKind::Corrupt, FailureKind::Unsupported];
        assert!(known.contains(&refused.kind) && refused.hint.is_some(), "damage {number}: {refused:?}");
        std::fs::write(path, &whole).unwrap();
    }
    cluster.start(1).await;
    assert_eq!(cluster.agreed().await.state.hosts().table().len(), 20);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_node_gets_a_snapshot() {
    let mut cluster = Cluster::of(1).await;
    for number in 0..50 {
        cluster.write(&format!("web-{number}")).await;
    }
    let leader = cluster.leader().await;
    leader.snapshot_now().await;
    leader.purge_now().await;
    cluster.admit(2).await;
    cluster.assert_equal().await;
    assert_eq!(cluster.running[&2].node.proposer().read().state.hosts().table().len(), 50);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_command_travels_in_pieces() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    for name in ["web1", "web2"] {
        let token = Digest::of(b"t");
        for change in [
            host::Change::Invite { token, expires: WallMs(u64::MAX) },
            host::Change::Enroll { token, public_key: vec![1] },
        ] {
            let host = name.parse().unwrap();
            let command = Command::Host(host::Command { tenant: sample::tenant(), host, change });
            leader.proposer().propose(command, sample::node()).await.unwrap();
        }
    }
    let id: common::id::MigrationId = "m1".parse().unwrap();
    let mut plan = sample::plan(&id);
    plan.steps[0].params = "x".repeat(300 * 1024);
    let create = crate::state::migration::Create {
        tenant: sample::tenant(),
        migration: id.clone(),
        request_id: "r".to_owned(),
        spec: sample::spec().into(),
        roots: sample::roots(1),
        plan: plan.into(),
        is_confirmed: false,
    };
    let command = Command::Migration(crate::state::migration::Command::Create(Box::new(create)));
    leader.proposer().propose(command, sample::operator()).await.unwrap();
    let replica = leader.proposer().read();
    let migration = replica.state.migrations().get(&sample::tenant(), &id).unwrap();
    assert_eq!(migration.plan.steps[0].params.len(), 300 * 1024);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_lead_says_who_does() {
    let cluster = Cluster::of(2).await;
    cluster.leader().await;
    let leader = cluster.leader_id().unwrap();
    let follower = cluster.running.iter().find(|(id, _)| **id != leader).unwrap().1;
    let mut leadership = follower.node.proposer().leadership();
    leadership.wait_for(|seen| seen.leader.is_some()).await.unwrap();
    let refused = follower.node.proposer().propose(invite("web1"), sample::operator()).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unreachable);
    let address = refused.context.iter().find(|(field, _)| field == super::proposer::LEADER);
    assert_eq!(address.map(|(_, address)| address.clone()), Some(format!("api-{leader}")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_used_once_over_a_change_of_leaders() {
    let mut cluster = Cluster::of(3).await;
    cluster.write("web1").await;
    // The digest that `invite` makes for every host.
    let Command::Host(host::Command { change: host::Change::Invite { token, .. }, .. }) = invite("web1")
    else {
        panic!("another command")
    };
    let join = |key: &[u8]| {
        let change = host::Change::Enroll { token, public_key: key.to_vec() };
        Command::Host(host::Command { tenant: sample::tenant(), host: "web1".parse().unwrap(), change })
    };
    let first = cluster.ask(join(b"first")).await.unwrap();
    // Whoever leads at this moment is killed, so that another one answers.
    let old = loop {
        cluster.leader().await;
        if let Some(id) = cluster.leader_id() {
            break id;
        }
    };
    cluster.kill(old).await;
    let refused = cluster.ask(join(b"thief")).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unauthenticated, "{refused}");
    // The one whose answer was lost asks again, and gets the same.
    let again = cluster.ask(join(b"first")).await.unwrap();
    let generation = |outcome: &crate::state::Outcome| match outcome {
        crate::state::Outcome::Enrolled { generation, .. } => Some(*generation),
        _ => None,
    };
    assert_eq!(generation(&again.outcome), generation(&first.outcome));
    cluster.stop().await;
}
