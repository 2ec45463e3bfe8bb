//! Migrations that ended long ago.

use std::fs;
use std::io::Write;
use std::time::Duration;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::{tree, wait};

/// How long the leader may take to look.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn the_oldest_keep_their_totals_and_then_nothing() {
    let cluster = Cluster::start(2, 1);
    let source = cluster.path("source");
    tree::plain(&source, 20, 100).unwrap();
    let ids: Vec<String> = (0..4)
        .map(|number| {
            let (code, migration) = cluster.migrate(&source, &cluster.path(&format!("to-{number}")), &[]);
            assert_eq!(code, Some(0), "{migration:#}");
            migration["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let whole = cluster.status(&ids[1]);
    let settings = cluster.cluster_directory().join("coordinator-1/settings.toml");
    let mut settings = fs::OpenOptions::new().append(true).open(settings).unwrap();
    settings.write_all(b"\n[retention]\nwhole_max = 1\ncondensed_max = 2\n").unwrap();
    cluster.kill("coordinator-1");
    cluster.up();
    // The newest stays whole, the two before it keep their totals, the oldest is forgotten.
    wait::until("the oldest to be forgotten", PATIENCE, || {
        (cluster.ctl(&["status", &ids[0]], &[]).code == Some(4)).then_some(())
    });
    let condensed = cluster.status(&ids[1]);
    for field in ["id", "name", "status", "files_total", "bytes_total", "verified", "duration_ms", "source"] {
        assert_eq!(condensed[field], whole[field], "{field}");
    }
    assert_eq!(condensed["steps"], Value::Array(Vec::new()));
    assert!(condensed["warnings"][0].as_str().unwrap().contains("only the totals"), "{condensed:#}");
    assert!(!cluster.status(&ids[3])["steps"].as_array().unwrap().is_empty());
    let (_, listed) = cluster.json(&["list"]);
    let mut listed: Vec<&str> =
        listed.as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    let mut expected: Vec<&str> = ids[1..].iter().map(String::as_str).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    let report = cluster.ctl(&["report", &ids[1]], &[]).expect_code(0);
    assert!(report.stdout.contains("only the totals"), "{}", report.stdout);
    let refused = cluster.ctl(&["retry", &ids[1]], &[]).expect_code(5);
    assert!(refused.stderr.contains("ended long ago"), "{}", refused.stderr);
}
