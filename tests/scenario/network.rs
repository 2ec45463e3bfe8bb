//! The network between agents is cut and comes back.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::{judge, skip, tree, wait};

/// A firewall table of one test; dropping it removes the cut.
struct Cut {
    table: String,
}

/// Runs `nft` and returns whether it ended well.
fn nft(words: &[&str]) -> bool {
    let output = Command::new("nft").args(words).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output();
    output.is_ok_and(|output| output.status.success())
}

impl Cut {
    /// Drops every packet from and to a data port on this machine; says aloud when it cannot.
    fn port(port: u16) -> Option<Self> {
        let number = port.to_string();
        let ways = [("udp", "dport"), ("udp", "sport"), ("tcp", "dport"), ("tcp", "sport")];
        Self::of(&number, &ways.each_ref().map(|(protocol, side)| [*protocol, *side, number.as_str()]))
    }

    /// The same for UDP only.
    fn udp_port(port: u16) -> Option<Self> {
        let number = port.to_string();
        Self::of(&number, &[["udp", "dport", &number], ["udp", "sport", &number]])
    }

    /// Drops every packet to an address of this machine; says aloud when it cannot.
    fn address(address: Ipv4Addr) -> Option<Self> {
        let text = address.to_string();
        Self::of(&text.replace('.', "_"), &[["ip", "daddr", text.as_str()]])
    }

    fn of(name: &str, matches: &[[&str; 3]]) -> Option<Self> {
        let cut = Self { table: format!("drover_test_{name}") };
        let chain = "{ type filter hook output priority 0; }";
        let drops = |rule: &[&str; 3]| {
            let add = ["add", "rule", "inet", &cut.table, "out"];
            nft(&[&add[..], &rule[..], &["counter", "drop"]].concat())
        };
        let is_cut = nft(&["add", "table", "inet", &cut.table])
            && nft(&["add", "chain", "inet", &cut.table, "out", chain])
            && matches.iter().all(drops);
        if !is_cut {
            skip::aloud("cutting the network needs nft and root");
            return None;
        }
        Some(cut)
    }
}

impl Cut {
    /// Returns how many packets the cut has swallowed.
    fn dropped(&self) -> u64 {
        let listed = Command::new("nft")
            .args(["list", "table", "inet", &self.table])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .expect("nft ran before");
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let counts = text
            .split("counter packets ")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        counts.sum()
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        nft(&["delete", "table", "inet", &self.table]);
    }
}

/// Returns the port on which an agent is dialled by others.
fn data_port(cluster: &Cluster, agent: &str) -> u16 {
    let (_, host) = cluster.json(&["host", "show", agent]);
    let address = host["facts"]["data_addresses"][0].as_str().expect("it has a data address").to_owned();
    address.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn where_udp_is_blocked_the_move_goes_over_tcp_and_says_so() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, 300, 20_000).unwrap();
    let ports = ["agent-1", "agent-2"].map(|agent| data_port(&cluster, agent));
    let Some(cuts) = ports.map(Cut::udp_port).into_iter().collect::<Option<Vec<_>>>() else { return };
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!((code, &migration["transport"]), (Some(0), &"tcp".into()), "{migration:#}");
    judge::assert_equal(&source, &destination);
    let id = migration["id"].as_str().unwrap();
    let told = cluster.ctl(&["status", id], &[]).expect_code(0).stdout;
    assert!(told.contains("transport") && told.contains("tcp"), "{told}");
    // What was asked for is not replaced by something else.
    let (code, refused) = cluster.migrate(&source, &cluster.path("other"), &["--transport", "quic"]);
    assert_eq!(code, Some(11), "{refused:#}");
    assert_eq!(refused["errors"][0]["kind"], "unreachable", "{refused:#}");
    drop(cuts);
    let (code, migration) = cluster.migrate(&source, &cluster.path("third"), &["--transport", "quic"]);
    assert_eq!((code, &migration["transport"]), (Some(0), &"quic".into()), "{migration:#}");
}

#[test]
fn a_cut_network_is_waited_for() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, 8000, 20_000).unwrap();
    let gate = cluster.close_gate();
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "4MiB"]);
    let port = data_port(&cluster, "agent-1");
    gate.let_pass(1);
    let Some(cut) = Cut::port(port) else { return };
    drop(gate);
    wait::until("the cut to be felt", Duration::from_secs(180), || (cut.dropped() > 10).then_some(()));
    drop(cut);
    let migration = cluster.wait_for_end(&id);
    assert_eq!(
        (&migration["status"], &migration["verified"]),
        (&"completed".into(), &true.into()),
        "{migration:#}"
    );
    judge::assert_equal(&source, &destination);
}

/// An address of this machine that only this process uses, and on which no agent listens.
fn unreachable_address(agent: u8) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + agent, high, low)
}

/// Starts an agent again that names this address as the only one of its data port.
fn advertise(cluster: &Cluster, agent: &str, address: Ipv4Addr) {
    let settings = cluster.cluster_directory().join(agent).join("settings.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let listening = text.lines().find(|line| line.starts_with("listen_data")).unwrap();
    let port = listening.trim_end_matches('"').rsplit(':').next().unwrap();
    let others = text.lines().filter(|line| !line.starts_with("advertise_data")).collect::<Vec<_>>();
    let text = format!("{}\nadvertise_data = [\"{address}:{port}\"]\n", others.join("\n"));
    std::fs::write(&settings, text).unwrap();
    cluster.kill(agent);
    cluster.up();
}

#[test]
fn a_source_that_cannot_be_reached_dials_and_goes_on_dialling() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, 9000, 20_000).unwrap();
    let hidden = unreachable_address(1);
    let Some(cut) = Cut::address(hidden) else { return };
    advertise(&cluster, "agent-1", hidden);
    let gate = cluster.close_gate();
    let id = cluster.migrate_detached(&source, &destination, &[]);
    let is_told = |migration: &Value| !migration["reach"].is_null();
    gate.let_pass(2);
    let running = cluster.wait_for(&id, "the way to be told", is_told);
    assert_eq!((&running["status"], &running["reach"]), (&"running".into(), &"source dials".into()));
    assert!(cut.dropped() > 0, "the destination did not try");

    // The next attempt goes the same way.
    cluster.kill("agent-1");
    cluster.up();
    gate.let_pass(4);
    let running = cluster.wait_for(&id, "the way to be told", is_told);
    assert_eq!((&running["status"], &running["reach"]), (&"running".into(), &"source dials".into()));

    // And the one after it the usual way, where that is open.
    advertise(&cluster, "agent-1", Ipv4Addr::LOCALHOST);
    drop(gate);
    let migration = cluster.wait_for_end(&id);
    let expected = ("completed".into(), true.into(), "destination dials".into());
    assert_eq!(
        (&migration["status"], &migration["verified"], &migration["reach"]),
        (&expected.0, &expected.1, &expected.2),
        "{migration:#}"
    );
    judge::assert_equal(&source, &destination);
}

#[test]
fn where_neither_reaches_the_other_a_third_host_relays() {
    let cluster = Cluster::start(3, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, 9000, 20_000).unwrap();
    let hidden = [unreachable_address(5), unreachable_address(6)];
    let Some(cuts) = hidden.map(Cut::address).into_iter().collect::<Option<Vec<_>>>() else { return };
    advertise(&cluster, "agent-1", hidden[0]);
    advertise(&cluster, "agent-2", hidden[1]);
    let flags = ["--relay", "agent-3", "--bandwidth", "4MiB"];
    let id = cluster.migrate_detached(&source, &destination, &flags);
    let further = |bytes: u64| move |migration: &Value| migration["bytes_done"].as_u64() > Some(bytes);
    let running = cluster.wait_for(&id, "some bytes", further(4 << 20));
    assert_eq!((&running["reach"], &running["transport"]), (&"relayed".into(), &"tcp".into()));
    // The relay goes and comes back: another attempt goes on from there.
    cluster.kill("agent-3");
    cluster.up();
    let migration = cluster.wait_for_end(&id);
    assert_eq!(
        (&migration["status"], &migration["verified"], &migration["reach"]),
        (&"completed".into(), &true.into(), &"relayed".into()),
        "{migration:#}"
    );
    judge::assert_equal(&source, &destination);
    assert_eq!(
        cuts.iter().map(Cut::dropped).sum::<u64>(),
        0,
        "somebody was dialled although a relay is named"
    );
    // A relay that is none of the cluster's, or one of both sides, is refused before anything begins.
    for (relay, said) in [("agent-9", "agent-9"), ("agent-1", "one of both sides")] {
        let words = ["migrate", "--relay", relay, "--yes"];
        let (from, to) =
            (format!("agent-1:{}", source.display()), format!("agent-2:{}", destination.display()));
        let refused = cluster.ctl(&[&words[..], &[from.as_str(), to.as_str()]].concat(), &[]);
        assert!(refused.code != Some(0) && refused.stderr.contains(said), "{refused:?}");
    }
}

#[test]
fn where_neither_reaches_the_other_one_failure_says_what_to_open() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 20, 2_000).unwrap();
    let hidden = [unreachable_address(3), unreachable_address(4)];
    let Some(_cuts) = hidden.map(Cut::address).into_iter().collect::<Option<Vec<_>>>() else { return };
    advertise(&cluster, "agent-1", hidden[0]);
    advertise(&cluster, "agent-2", hidden[1]);
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!(code, Some(11), "{migration:#}");
    let errors = migration["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1, "{migration:#}");
    assert_eq!((&errors[0]["kind"], &errors[0]["retry"]), (&"unreachable".into(), &"after_operator".into()));
    assert!(errors[0]["message"].as_str().unwrap().contains(&hidden[0].to_string()), "{migration:#}");
    let hint = errors[0]["hint"].as_str().unwrap();
    assert!(hint.contains("advertise_data") && hint.contains("--relay"), "{migration:#}");
    assert!(!destination.exists(), "nothing was begun");
}
