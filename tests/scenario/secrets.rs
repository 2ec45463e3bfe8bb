//! Secrets and what they are for: kept, opened for one side of a step, used to sanitise a copy, moved under another
//! cluster key; and never found anywhere in clear.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use common::mask::Masker;
use common::sanitize::{Find, Mask, With};
use serde_json::Value;
use tests::cluster::{Cluster, Outcome};
use tests::tree;

/// Runs `ctl` with something on its standard input.
fn ctl_with(cluster: &Cluster, words: &[&str], input: &[u8]) -> Outcome {
    let mut command = cluster.command();
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that refuses before it reads closes its end.
    stdin.write_all(input).ok();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn set(cluster: &Cluster, name: &str, value: &[u8]) -> Value {
    ctl_with(cluster, &["--output", "json", "secret", "set", name], value).expect_code(0).json()
}

fn error_of(outcome: Outcome, code: i32) -> String {
    let outcome = outcome.expect_code(code);
    assert!(outcome.stderr.contains("hint"), "no hint: {}", outcome.stderr);
    outcome.stderr
}

/// Writes a spec from `agent-1` to `agent-2` with these rules and returns its path.
pub(crate) fn spec(cluster: &Cluster, source: &Path, destination: &Path, sanitize: &str) -> String {
    let path = cluster.path("spec.yaml");
    let text = format!(
        "version: 1\nsource: {{host: agent-1, paths: {{root: {}}}}}\ndestination: {{host: agent-2, paths: {{root: {}}}}}\n\
         options: {{rollback_window: 0s}}\nsanitize:\n{sanitize}",
        source.display(),
        destination.display()
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

pub(crate) fn migrate(cluster: &Cluster, spec: &str) -> (Option<i32>, Value) {
    cluster.json(&["migrate", "-f", spec, "--yes"])
}

#[test]
fn values_are_kept_as_bytes_and_never_given_back() {
    let cluster = Cluster::start(0, 1);
    assert_eq!(set(&cluster, "db", b"hunter2\n")["version"], 1);
    assert_eq!(set(&cluster, "db", b"hunter3")["version"], 2);
    let large = cluster.path("large");
    fs::write(&large, vec![0xff; 1024 * 1024]).unwrap();
    let from = large.display().to_string();
    let kept = cluster.ctl(&["secret", "set", "large", "--from-file", &from], &[]).expect_code(0);
    assert!(kept.stdout.contains("version 1"), "{}", kept.stdout);
    let listed = cluster.ctl(&["--output", "json", "secret", "list"], &[]).expect_code(0).json();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["db", "large"]);
    assert_eq!(listed[0]["versions"], serde_json::json!([1, 2]), "the version before stays");

    fs::write(&large, vec![7; 1024 * 1024 + 1]).unwrap();
    let refused = error_of(cluster.ctl(&["secret", "set", "large", "--from-file", &from], &[]), 2);
    assert!(refused.contains("1048576"), "{refused}");
    assert!(error_of(ctl_with(&cluster, &["secret", "set", "empty"], b"\n"), 2).contains("empty"));
    let absent = error_of(ctl_with(&cluster, &["secret", "rotate", "absent"], b"x"), 4);
    assert!(absent.contains("absent"), "{absent}");
    let named = cluster.ctl(&["secret", "set", "Bad Name"], &[]).expect_code(2);
    assert!(named.stderr.contains("Bad Name"), "{}", named.stderr);
    let deleted = cluster.ctl(&["secret", "delete", "db", "--yes"], &[]).expect_code(0);
    assert!(deleted.stdout.contains("deleted"), "{}", deleted.stdout);
    error_of(cluster.ctl(&["secret", "delete", "db", "--yes"], &[]), 4);
    assert_eq!(set(&cluster, "db", b"again")["version"], 3, "no version is ever sealed twice");
}

#[test]
fn a_copy_is_sanitised_before_it_leaves_its_source() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("copy"));
    fs::create_dir_all(source.join("mail")).unwrap();
    fs::create_dir_all(source.join("secret/deep")).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(source.join(name), content).unwrap();
    let dump = "INSERT INTO users VALUES (1,'eva@example.com','s:15:\"eva@example.com\"');\n".repeat(40_000);
    write("dump.sql", dump.as_bytes());
    write("mail/1.eml", b"From: eva@example.com\nTo: bob@example.org\n\nsk_live_4eC39HqLyjWD\n");
    write("config.php", b"<?php define('DB_PASSWORD', 'hunter22');");
    write("secret/deep/key", b"canary");
    write("plain.txt", b"eva@example.com stays here: no rule names this file\n");
    write("packed.sql", b"\x1f\x8b packed eva@example.com");
    fs::hard_link(source.join("mail/1.eml"), source.join("linked.txt")).unwrap();
    // A copy that an earlier move without rules has left: same size, same time, not masked.
    fs::create_dir_all(destination.join("mail")).unwrap();
    fs::copy(source.join("mail/1.eml"), destination.join("mail/1.eml")).unwrap();
    let touched = std::process::Command::new("touch")
        .arg("-r")
        .args([source.join("mail/1.eml"), destination.join("mail/1.eml")])
        .status();
    assert!(touched.unwrap().success());

    let rules = "  key: \"${secret:mask}\"\n  files:\n\
        \x20   - {match: [\"*.sql\", \"mail/**\"], action: mask, find: [email, payment_key], with: key}\n\
        \x20   - {match: config.php, action: replace, content: \"<?php\\n\"}\n\
        \x20   - {match: secret/, action: drop}\n";
    let spec = spec(&cluster, &source, &destination, rules);
    let (code, refused) = migrate(&cluster, &spec);
    assert_eq!(code, Some(4), "{refused:#}");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("ctl secret set mask"), "{refused:#}");
    set(&cluster, "mask", b"the key of this mask");

    let (code, migration) = migrate(&cluster, &spec);
    assert_eq!(code, Some(7), "what cannot be masked is told: {migration:#}");
    assert_eq!(migration["status"], "completed", "{migration:#}");
    let findings = migration["findings"].as_array().unwrap();
    let told: Vec<_> =
        findings.iter().map(|it| (it["rule"].as_str().unwrap(), it["object"].as_str().unwrap())).collect();
    assert_eq!(told, [("not_sanitized", "packed.sql")]);
    let counted: Vec<u64> =
        migration["sanitized"].as_array().unwrap().iter().map(|it| it["files"].as_u64().unwrap()).collect();
    assert_eq!(counted, [3, 1, 1], "{migration:#}");

    let read = |name: &str| fs::read(destination.join(name)).unwrap();
    assert!(!destination.join("packed.sql").exists() && !destination.join("secret").exists());
    assert_eq!(read("config.php"), b"<?php\n");
    assert_eq!(read("plain.txt"), fs::read(source.join("plain.txt")).unwrap());
    assert_eq!(read("linked.txt"), fs::read(source.join("linked.txt")).unwrap());
    let mail = String::from_utf8(read("mail/1.eml")).unwrap();
    assert!(!mail.contains("example") && !mail.contains("4eC39") && mail.contains("@"), "{mail}");
    assert_eq!(mail.len() as u64, fs::metadata(source.join("mail/1.eml")).unwrap().len());
    let masked = String::from_utf8(read("dump.sql")).unwrap();
    assert_eq!(masked.len(), dump.len());
    assert!(!masked.contains("example.com"));
    let address = masked.split('\'').nth(1).unwrap();
    assert!(mail.contains(address), "one address has one mask in every file: {address} {mail}");
    assert_eq!(masked.matches(address).count(), 80_000);

    // Again, over what stands there: nothing is sent, and the proof holds.
    fs::remove_file(source.join("packed.sql")).unwrap();
    let (code, again) = migrate(&cluster, &spec);
    assert_eq!(code, Some(0), "{again:#}");
    assert_eq!(
        (&again["files_sent"], &again["verified"]),
        (&Value::from(0), &Value::from(true)),
        "{again:#}"
    );
    let id = again["id"].as_str().unwrap();
    let (code, deep) = cluster.json(&["verify", id, "--deep"]);
    assert_eq!(code, Some(0), "{deep:#}");
    let report = cluster.ctl(&["report", id, "--format", "markdown"], &[]).expect_code(0).stdout;
    assert!(report.contains("Sanitised") && report.contains("drop secret/"), "{report}");
}

/// Returns a text with an address in each line, of so many bytes, that no compressor makes small.
fn letters(seed: u64, bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 64);
    for chunk in tree::bytes(seed, bytes).chunks(48) {
        text.extend_from_slice(b"eva@example.com ");
        text.extend(chunk.iter().map(|byte| b'a' + byte % 26));
        text.push(b'\n');
    }
    text.truncate(bytes);
    text
}

#[test]
fn masked_files_outlive_agents_that_are_killed() {
    const MIB: usize = 1024 * 1024;
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("copy"));
    fs::create_dir(&source).unwrap();
    // Below, at and above where a file travels in ranges, up to the largest that is masked; and one byte more.
    let sizes = [MIB - 1, MIB, MIB + 1, 5 * MIB + 17, 12 * MIB, 16 * MIB];
    for (seed, size) in (0..).zip(sizes) {
        fs::write(source.join(format!("{size}.sql")), letters(seed, size)).unwrap();
    }
    fs::write(source.join("over.sql"), letters(99, 16 * MIB + 1)).unwrap();
    let path = spec(
        &cluster,
        &source,
        &destination,
        "  files:\n    - {match: \"*.sql\", action: mask, find: email, with: filler}\n",
    );
    let text =
        fs::read_to_string(&path).unwrap().replace("options:", "transfer: {bandwidth_limit: 2MiB}\noptions:");
    fs::write(&path, text).unwrap();
    // At least one of the larger files, each of which is a group, gets no name before all is done.
    let gate = cluster.close_gate();
    let (code, begun) = cluster.json(&["migrate", "-f", &path, "--yes", "--detach"]);
    assert_eq!(code, Some(0), "{begun:#}");
    let id = begun["id"].as_str().unwrap();
    for (round, victim) in (1..).zip(["agent-1", "agent-2", "agent-1", "agent-2"]) {
        if round > 1 {
            gate.let_pass(1);
        }
        cluster.wait_for(id, "the next attempt to bring something", |migration| {
            let step = &migration["steps"][0];
            step["status"] == "leased"
                && step["attempts"].as_u64() >= Some(round)
                && migration["bytes_done"].as_u64() > Some(0)
        });
        cluster.kill(victim);
        cluster.up();
    }
    drop(gate);
    let migration = cluster.wait_for_end(id);
    assert_eq!(
        (&migration["status"], &migration["exit_code"]),
        (&"completed".into(), &7.into()),
        "{migration:#}"
    );
    let resent = migration["bytes_resent"].as_u64().unwrap();
    // Each kill costs what was on its way, and not what had landed.
    assert!(resent <= 4 * 4 * MIB as u64, "{resent} bytes were sent again");
    let mask = Mask { find: vec![Find::Email], regex: Vec::new(), with: With::Filler };
    let masker = Masker::new(&mask, None).unwrap();
    for (seed, size) in (0..).zip(sizes) {
        let mut expected = letters(seed, size);
        masker.mask(&mut expected);
        let found = fs::read(destination.join(format!("{size}.sql"))).unwrap();
        assert!(found == expected, "{size}.sql is not what masking it gives");
        assert!(!String::from_utf8(found).unwrap().contains("example.com"));
    }
    let findings = migration["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(
        (&findings[0]["rule"], &findings[0]["object"]),
        (&"not_sanitized".into(), &"over.sql".into()),
        "{findings:#?}"
    );
    let message = findings[0]["message"].as_str().unwrap();
    assert!(message.contains("16777217") && message.contains("16777216"), "{message}");
    assert!(!destination.join("over.sql").exists());
}

#[test]
fn a_key_that_cannot_be_had_moves_nothing() {
    let cluster = Cluster::start(2, 1);
    let (source, destination) = (cluster.path("shop"), cluster.path("copy"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a.sql"), b"eva@example.com").unwrap();
    let key = cluster.path("mask.key");
    fs::write(&key, b"canary\n").unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let rules = format!(
        "  key: \"${{file:{}}}\"\n  files:\n    - {{match: \"*.sql\", action: mask, find: email, with: key}}\n",
        key.display()
    );
    let spec = spec(&cluster, &source, &destination, &rules);
    let (code, refused) = migrate(&cluster, &spec);
    assert_eq!(code, Some(3), "{refused:#}");
    assert!(refused.to_string().contains("chmod 600"), "{refused:#}");
    assert!(!destination.join("a.sql").exists());
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let (code, migration) = migrate(&cluster, &spec);
    assert_eq!(code, Some(0), "{migration:#}");
    assert!(!fs::read_to_string(destination.join("a.sql")).unwrap().contains("example"));
}

#[test]
fn the_cluster_key_is_rotated_while_the_cluster_serves() {
    for coordinators in [1, 3] {
        let cluster = Cluster::start(2, coordinators);
        let (source, destination) = (cluster.path("shop"), cluster.path("copy"));
        fs::create_dir(&source).unwrap();
        fs::write(source.join("a.sql"), b"eva@example.com").unwrap();
        for number in 0..20 {
            set(&cluster, &format!("s{number}"), b"canary");
        }
        let before = set(&cluster, "mask", b"canary")["cluster_key"].clone();
        let rotated = cluster.ctl(&["--output", "json", "cluster", "rotate-key"], &[]).expect_code(0).json();
        assert_eq!(rotated["previous"], before, "{rotated:#}");
        assert_eq!(rotated["rewrapped"], 21, "{rotated:#}");
        let dropped = cluster.ctl(&["--output", "json", "cluster", "rotate-key", "--drop-old", "--yes"], &[]);
        assert_eq!(dropped.expect_code(0).json()["key"], rotated["key"]);
        // Every node starts with the new key alone, and opens what was sealed under the old one.
        for number in 1..=coordinators {
            cluster.kill(&format!("coordinator-{number}"));
        }
        cluster.up();
        let listed = cluster.ctl(&["--output", "json", "secret", "list"], &[]).expect_code(0).json();
        assert!(
            listed.as_array().unwrap().iter().all(|it| it["cluster_key"] == rotated["key"]),
            "{listed:#}"
        );
        let rules = "  key: \"${secret:mask}\"\n  files:\n    - {match: \"*.sql\", action: mask, find: email, with: key}\n";
        let (code, migration) = migrate(&cluster, &spec(&cluster, &source, &destination, rules));
        assert_eq!(code, Some(0), "{migration:#}");
    }
}
