//! The agent under the restrictions of its systemd unit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tests::cluster::Cluster;
use tests::{judge, skip, tree};

/// Returns the capabilities that the unit leaves to the agent, in the form that `setpriv` takes.
fn bounding_set() -> String {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/drover-agent.service");
    let text = fs::read_to_string(unit).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .expect("the unit bounds them");
    let kept =
        line.split_whitespace().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    format!("-all{}", kept.collect::<String>())
}

/// Puts a program in the place of `drover-agent` that gives up everything that the unit takes, and then runs it.
fn restrict(binaries: &Path) {
    let (agent, real) = (binaries.join("drover-agent"), binaries.join("agent-unrestricted"));
    fs::rename(&agent, &real).unwrap();
    let script = format!(
        "#!/bin/sh\nexec /usr/bin/setpriv --no-new-privs --bounding-set {} --inh-caps -all {} \"$@\"\n",
        bounding_set(),
        real.display()
    );
    fs::write(&agent, script).unwrap();
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_units_capabilities_are_enough() {
    if !skip::unless_root("dropping capabilities") {
        return;
    }
    let cluster = Cluster::start_with(2, 1, restrict);
    let (source, destination) = (cluster.path("odd"), cluster.path("moved"));
    tree::odd(&source).unwrap();
    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!(code, Some(0), "{migration:#}");
    judge::assert_equal(&source, &destination);
    let pid = cluster.processes()["agent-2"].as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "the agent runs unrestricted: {status}");
}

#[test]
fn systemd_accepts_the_units() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd");
    let units =
        ["drover-agent.service", "drover-coordinator.service"].map(|name| format!("{directory}/{name}"));
    let Ok(output) = Command::new("systemd-analyze").arg("verify").args(&units).output() else {
        skip::aloud("systemd-analyze is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // The programs themselves are not installed where the tests run.
    let complaints: Vec<&str> = said.lines().filter(|line| !line.contains("is not executable")).collect();
    assert_eq!(complaints, Vec::<&str>::new());
}
