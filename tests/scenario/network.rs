//! The network between agents is cut and comes back.

use std::process::Command;
use std::time::Duration;

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
    /// Drops every datagram from and to a UDP port on this machine; says aloud when it cannot.
    fn udp_port(port: u16) -> Option<Self> {
        let cut = Self { table: format!("drover_test_{port}") };
        let chain = "{ type filter hook output priority 0; }";
        let port = port.to_string();
        let is_cut = nft(&["add", "table", "inet", &cut.table])
            && nft(&["add", "chain", "inet", &cut.table, "out", chain])
            && nft(&["add", "rule", "inet", &cut.table, "out", "udp", "dport", &port, "counter", "drop"])
            && nft(&["add", "rule", "inet", &cut.table, "out", "udp", "sport", &port, "counter", "drop"]);
        if !is_cut {
            skip::aloud("cutting the network needs nft and root");
            return None;
        }
        Some(cut)
    }
}

impl Cut {
    /// Returns how many datagrams the cut has swallowed.
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

#[test]
fn a_cut_network_is_waited_for() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::noise(&source, 8000, 20_000).unwrap();
    let id = cluster.migrate_detached(&source, &destination, &["--bandwidth", "4MiB"]);
    let (_, host) = cluster.json(&["host", "show", "agent-1"]);
    let address = host["facts"]["data_addresses"][0].as_str().expect("agent-1 has a data address").to_owned();
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let running =
        cluster.wait_for(&id, "some bytes", |migration| migration["bytes_done"].as_u64() > Some(2 << 20));
    assert_eq!(running["status"], "running");
    let Some(cut) = Cut::udp_port(port) else { return };
    wait::until("the cut to be felt", Duration::from_secs(60), || (cut.dropped() > 50).then_some(()));
    drop(cut);
    let migration = cluster.wait_for_end(&id);
    assert_eq!(
        (&migration["status"], &migration["verified"]),
        (&"completed".into(), &true.into()),
        "{migration:#}"
    );
    judge::assert_equal(&source, &destination);
}
