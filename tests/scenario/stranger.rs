//! Strangers on every port of real processes: garbage, broken and old TLS, credentials that are none, and floods.
//!
//! Whatever comes: it is refused, costs a bounded number of files and bytes, nobody goes down, and who belongs there is
//! served meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::tls::{ALPN_DATA, ALPN_GRPC};
use rustix::process::Pid;
use tests::cluster::Cluster;
use tests::stranger::{self, Credentials, Stranger, half_open, pelt, principals, shout};
use tests::{memory, tree, wait};

/// The most that a process may take.
const PEAK_BYTES_MAX: u64 = 150 << 20;
/// Handshakes beside each other at the ports of a coordinator, and some for what is served meanwhile.
const FILES_MAX: usize = 256 + 32 + 64;
const DEADLINE: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 24 * 3_600_000;

/// A cluster under attack, and what its processes held before.
struct Siege {
    cluster: Cluster,
    stranger: Stranger,
    victims: Vec<(&'static str, Pid, usize)>,
}

impl Siege {
    fn new() -> Self {
        let cluster = Cluster::start(2, 1);
        tree::plain(&cluster.path("shop"), 20, 500).unwrap();
        let stranger = Stranger::of(&cluster);
        let processes = cluster.processes();
        let victim = |name: &'static str| {
            memory::forget_peak(processes[name]);
            (name, processes[name], memory::open_files(processes[name]))
        };
        let victims = ["coordinator-1", "agent-1"].map(victim).to_vec();
        Self { cluster, stranger, victims }
    }

    /// Asserts that who belongs there is served: a question, and a whole migration.
    fn assert_serves(&self, attack: &str) {
        let (code, hosts) = self.cluster.json(&["host", "list"]);
        assert_eq!(code, Some(0), "{attack}: {hosts:#}");
        let to = self.cluster.path(&attack.replace(' ', "-"));
        let (code, migration) = self.cluster.migrate(&self.cluster.path("shop"), &to, &[]);
        assert_eq!(code, Some(0), "{attack}: {migration:#}");
    }

    /// Asserts that nobody died and nobody took more than it may.
    fn assert_bounded(&self, attack: &str, more_files: usize) {
        let processes = self.cluster.processes();
        for (name, pid, files) in &self.victims {
            assert_eq!(processes.get(*name), Some(pid), "{attack}: {name} died");
            let (peak, open) = (memory::peak_bytes(*pid), memory::open_files(*pid));
            assert!(peak < PEAK_BYTES_MAX, "{attack}: {name} took {} MiB", peak >> 20);
            assert!(open < files + more_files, "{attack}: {name} has {open} files open, before {files}");
        }
    }
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    tree::bytes(seed, bytes)
}

#[test]
fn garbage_is_dropped_by_every_port() {
    let siege = Siege::new();
    let Stranger { api, raft, data, .. } = siege.stranger;
    let old = stranger::hello_of_tls_1_2();
    // What is said, and what must come back if not silence: an alert of seven bytes, fatal.
    let cases: [(_, _, Option<&[u8]>); 9] = [
        ("nothing", Vec::new(), None),
        ("zeros", vec![0; 4096], None),
        ("noise", noise(70_000, 1), None),
        ("a web request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), None),
        ("plain http/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), None),
        ("ssh", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), None),
        ("an endless record", [&[22, 3, 1, 0xff, 0xff][..], &noise(70_000, 2)].concat(), None),
        ("half a hello", old[..40].to_vec(), None),
        ("TLS 1.2", old, Some(&[21, 3, 3, 0, 2, 2, 70])),
    ];
    for address in [api, raft] {
        for (case, said, expected) in &cases {
            let answer = shout(address, said);
            assert!(answer.len() < 100, "{case}: {address} answered with {} bytes", answer.len());
            if let Some(expected) = expected {
                assert_eq!(answer, *expected, "{case} at {address}");
            }
        }
    }
    // Datagrams: noise, noise that looks like the first packet of a connection, and of a version that nobody speaks.
    for length in [1, 20, 300, 1_200, 6_000] {
        pelt(
            data,
            (0..200).map(|seed| {
                let mut datagram = noise(length, seed);
                datagram[0] = [datagram[0], 0xc3, 0x40][usize::try_from(seed % 3).unwrap()];
                datagram
            }),
        );
    }
    siege.assert_serves("garbage");
    siege.assert_bounded("garbage", 16);
}

/// Certificates, each with what is wrong with it.
fn wrong_credentials(stranger: &Stranger) -> Vec<(String, Credentials)> {
    let now = clock::wall().0;
    let mut cases = Vec::new();
    for principal in principals() {
        cases.push((format!("{principal}, expired"), stranger.issued(&principal, WallMs(now - 91 * DAY_MS))));
        cases.push((
            format!("{principal}, not yet valid"),
            stranger.issued(&principal, WallMs(now + 9 * DAY_MS)),
        ));
        cases.push((format!("{principal}, self-signed"), stranger.forged(&principal, true)));
        cases.push((format!("{principal}, of another authority"), stranger.forged(&principal, false)));
    }
    cases
}

#[test]
fn credentials_that_are_none_open_no_port() {
    let siege = Siege::new();
    let Siege { stranger, cluster, .. } = &siege;
    let now = clock::wall();
    let [node, person, agent] = principals();
    let ctl = |credentials: &Credentials, address: SocketAddr| {
        let contexts = stranger.context(credentials, address);
        let output = cluster.command().arg("--context-file").arg(contexts).arg("list").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (case, credentials) in wrong_credentials(stranger) {
        let (code, told) = ctl(&credentials, stranger.api);
        assert_eq!(code, Some(3), "{case}: {told}");
        assert!(told.contains("hint: "), "{case}: {told}");
        let greeted = stranger.greet(stranger.raft, stranger.calling(Some(&credentials), ALPN_GRPC));
        assert!(greeted.is_err(), "{case}: the port of the nodes answers");
        assert!(!dial(stranger, Some(&credentials), ALPN_DATA), "{case}: the data port answers");
    }
    // What is good elsewhere: no certificate, one of another role, another protocol.
    for (case, credentials, alpn) in [
        ("no certificate", None, ALPN_GRPC),
        ("another protocol", Some(stranger.issued(&node, now)), b"h3"),
        ("the data port's protocol", Some(stranger.issued(&node, now)), ALPN_DATA),
    ] {
        let config = || stranger.calling(credentials.as_ref(), alpn);
        assert!(stranger.greet(stranger.raft, config()).is_err(), "{case}: the port of the nodes answers");
        if credentials.is_some() {
            assert!(stranger.greet(stranger.api, config()).is_err(), "{case}: the port of operators answers");
        }
        assert!(!dial(stranger, credentials.as_ref(), b"h3"), "{case}: the data port answers");
    }
    for (case, principal, address) in [
        ("an agent asks as an operator", &agent, stranger.api),
        ("a node asks as an operator", &node, stranger.api),
        ("a person asks the nodes", &person, stranger.raft),
        ("an agent asks the nodes", &agent, stranger.raft),
    ] {
        let (code, told) = ctl(&stranger.issued(principal, now), address);
        assert!(code.is_some_and(|code| code != 0), "{case}: {told}");
        assert!(told.contains("hint: "), "{case}: {told}");
    }
    assert!(!dial(stranger, None, ALPN_DATA), "nobody at the data port");
    // And the negative control: what is in order is let in.
    assert_eq!(ctl(&stranger.issued(&person, now), stranger.api).0, Some(0));
    stranger.greet(stranger.raft, stranger.calling(Some(&stranger.issued(&node, now)), ALPN_GRPC)).unwrap();
    assert!(dial(stranger, Some(&stranger.issued(&agent, now)), ALPN_DATA));
    siege.assert_serves("credentials");
    siege.assert_bounded("credentials", 32);
}

/// Dials the data port and says whether it lets us past the handshake, whatever it says then.
fn dial(stranger: &Stranger, credentials: Option<&Credentials>, alpn: &[u8]) -> bool {
    let tls = stranger.calling(credentials, alpn);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(std::sync::Arc::new(tls));
        let name = "agent-1.default.agent.drover.internal";
        let Ok(connection) = endpoint.connect_with(config, stranger.data, name).unwrap().await else {
            return false;
        };
        // A client is told after its own last flight that it was refused; who is let in hears of a broken hello.
        if let Ok((mut send, _receive)) = connection.open_bi().await {
            drop(send.write_all(&[0; 16]).await);
        }
        matches!(connection.closed().await, quinn::ConnectionError::ApplicationClosed(_))
    })
}

#[test]
fn those_who_stand_still_keep_nobody_out() {
    let siege = Siege::new();
    let Stranger { api, raft, data, .. } = siege.stranger;
    let hello = stranger::hello_of_tls_1_2();
    // More than there are places for handshakes, some mute and some in the middle of a word.
    let stand = |address, count: usize| -> Vec<_> {
        (0..count)
            .map(|number| half_open(address, if number % 2 == 0 { &[] } else { &hello[..30] }))
            .collect()
    };
    let crowd = (stand(api, 900), stand(raft, 200));
    siege.assert_serves("half open");
    siege.assert_bounded("half open", FILES_MAX);
    drop(crowd);
    wait::until("the files to be closed", DEADLINE, || {
        siege.victims.iter().all(|(_, pid, files)| memory::open_files(*pid) < files + 8).then_some(())
    });

    // Past the handshake, as somebody who may join: more than there may be, each saying one byte after the other.
    let mut loris: Vec<_> = (0..540)
        .filter_map(|_| siege.stranger.greet(api, siege.stranger.calling(None, ALPN_GRPC)).ok())
        .collect();
    assert!(loris.len() <= 512, "{} strangers were let in", loris.len());
    assert!(loris.len() > 400, "only {} strangers came so far: the limit was not tried", loris.len());
    for stream in &mut loris {
        drop(std::io::Write::write_all(stream, &[0]));
    }
    siege.assert_serves("slow strangers");
    siege.assert_bounded("slow strangers", 512 + FILES_MAX);
    drop(loris);

    // First packets of connections that nobody goes on with, each from a port of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    for _ in 0..100 {
        let tls = siege.stranger.calling(None, ALPN_DATA);
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(std::sync::Arc::new(tls));
        // Its driver never runs again after this, so that nothing more is sent than the first packet.
        drop(endpoint.connect_with(config, data, "x.drover.internal").unwrap());
        runtime.block_on(async { tokio::task::yield_now().await });
    }
    siege.assert_serves("first packets");
    siege.assert_bounded("first packets", FILES_MAX);
}
