//! The audit as an auditor meets it: pages, nodes that were away, tampering, anchors, floods and a full disk.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::{mount, wait};

/// How long pages may take to reach every node on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Small pages, so that a few changes turn some over.
const SMALL_PAGES: &str = "\n[audit]\npage_lines = 8\nlines_kept = 8\n";

/// Starts a cluster of coordinators whose settings end with this.
fn start(coordinators: u32, settings: &str) -> Cluster {
    let cluster = Cluster::start(0, coordinators);
    let _down = cluster.ctl(&["dev", "down", "--dir"], &[&cluster.cluster_directory()]).expect_code(0);
    for number in 1..=coordinators {
        let file = settings_file(&cluster, number);
        fs::OpenOptions::new().append(true).open(file).unwrap().write_all(settings.as_bytes()).unwrap();
    }
    cluster.up();
    cluster
}

fn settings_file(cluster: &Cluster, number: u32) -> PathBuf {
    cluster.cluster_directory().join(format!("coordinator-{number}/settings.toml"))
}

fn state_dir(cluster: &Cluster, number: u32) -> PathBuf {
    cluster.cluster_directory().join(format!("coordinator-{number}/state"))
}

/// Returns the files of the pages of a node, oldest first.
fn pages(cluster: &Cluster, number: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(state_dir(cluster, number).join("audit")) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    found.sort();
    found
}

/// Makes so many changes, each of which is a line.
fn change(cluster: &Cluster, prefix: &str, count: usize) {
    for number in 0..count {
        let name = format!("{prefix}{number}");
        let _enrolled = cluster.ctl(&["host", "enroll", &name], &[]).expect_code(0);
    }
}

fn verify(cluster: &Cluster, more: &[&str]) -> (Option<i32>, Value) {
    cluster.json(&[&["audit", "verify"], more].concat())
}

/// Waits until each of these nodes has at least so many pages.
fn wait_for_pages(cluster: &Cluster, nodes: &[u32], count: usize) {
    wait::until("pages on every node", PATIENCE, || {
        nodes.iter().all(|node| pages(cluster, *node).len() >= count).then_some(())
    });
}

fn leader(cluster: &Cluster) -> String {
    wait::until("a leader", PATIENCE, || {
        let outcome = cluster.ctl(&["--output", "json", "cluster", "status"], &[]);
        let status = (outcome.code == Some(0)).then(|| outcome.json())?;
        status["leader"].as_str().map(str::to_owned)
    })
}

/// Returns the findings of all nodes and of ctl as `file first-last damage`.
fn findings(answer: &Value) -> Vec<String> {
    let of_nodes = answer["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|node| node["findings"].as_array().cloned().unwrap_or_default());
    let own = answer["findings"].as_array().cloned().unwrap_or_default();
    let named = |finding: Value| {
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}-{} {}", text("file"), finding["first"], finding["last"], text("damage"))
    };
    of_nodes.chain(own).map(named).collect()
}

#[test]
fn every_node_gets_every_page_whoever_was_away() {
    let cluster = start(3, SMALL_PAGES);
    change(&cluster, "first", 20);
    wait_for_pages(&cluster, &[1, 2, 3], 2);
    // One is away while pages are turned over, and the leader dies on the way.
    let first = leader(&cluster);
    let away: u32 = (1..=3).find(|number| format!("coordinator-{number}") != first).unwrap();
    cluster.kill(&format!("coordinator-{away}"));
    let before = pages(&cluster, away).len();
    change(&cluster, "second", 30);
    let others: Vec<u32> = (1..=3).filter(|number| *number != away).collect();
    wait_for_pages(&cluster, &others, before + 3);
    cluster.kill(&first);
    cluster.up();
    change(&cluster, "third", 10);
    let most = pages(&cluster, others[0]).len();
    wait_for_pages(&cluster, &[1, 2, 3], most);
    let (code, answer) = verify(&cluster, &[]);
    assert_eq!((code, &answer["intact"]), (Some(0), &Value::from(true)), "{answer:#}");
    assert_eq!(answer["nodes"].as_array().map(Vec::len), Some(3), "{answer:#}");
    // Every change is there once, with who and from where, however often pages were turned.
    let (_, lines) = cluster.json(&["audit", "list", "--all", "--action", "host.invite"]);
    let lines = lines.as_array().unwrap();
    assert_eq!(lines.len(), 60);
    assert!(lines.iter().all(|line| line["address"] == "127.0.0.1" && line["principal"] != ""), "{lines:#?}");
    // What a node refuses is a line too, whoever leads.
    for number in 1..=3 {
        let settings = fs::read_to_string(settings_file(&cluster, number)).unwrap();
        let address = settings.lines().find_map(|line| line.strip_prefix("listen_raft = ")).unwrap();
        let mut stream = std::net::TcpStream::connect(address.trim_matches('"')).unwrap();
        stream.write_all(&[0xff; 64]).unwrap();
    }
    wait::until("a line of each node's refusal", PATIENCE, || {
        let (_, lines) = cluster.json(&["audit", "list", "--action", "connect", "--object", "port raft"]);
        (lines.as_array()?.len() >= 3).then_some(())
    });
    for number in 1..=3 {
        for page in pages(&cluster, number) {
            assert_eq!(
                fs::metadata(&page).unwrap().permissions().mode() & 0o777,
                0o600,
                "{}",
                page.display()
            );
        }
    }
    let one = fs::read(&pages(&cluster, 1)[0]).unwrap();
    assert_eq!(one, fs::read(&pages(&cluster, 2)[0]).unwrap(), "pages are the same everywhere");
    // Whoever removes a page finds it back, fetched and checked.
    let lost = pages(&cluster, away)[0].clone();
    fs::remove_file(&lost).unwrap();
    wait::until("the page to be fetched again", PATIENCE, || (fs::read(&lost).ok()? == one).then_some(()));
}

#[test]
fn pages_that_the_state_forgot_are_kept_fetched_and_checked_all_the_same() {
    // Each line is a page, and the state knows the newest 64.
    let cluster = start(3, "\n[audit]\npage_lines = 1\nlines_kept = 1\n");
    let away = (1..=3).find(|number| format!("coordinator-{number}") != leader(&cluster)).unwrap();
    cluster.kill(&format!("coordinator-{away}"));
    fs::remove_dir_all(state_dir(&cluster, away).join("audit")).unwrap();
    change(&cluster, "web", 75);
    let present = if away == 1 { 2 } else { 1 };
    wait_for_pages(&cluster, &[present], 75);
    cluster.up();
    wait_for_pages(&cluster, &[1, 2, 3], 75);
    let (code, answer) = verify(&cluster, &[]);
    assert_eq!((code, findings(&answer)), (Some(0), Vec::new()), "{answer:#}");
    let (_, lines) = cluster.json(&["audit", "list", "--all", "--action", "host.invite"]);
    assert_eq!(lines.as_array().map(Vec::len), Some(75));

    let page = pages(&cluster, away)[2].clone();
    let (name, whole) = (page.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&page).unwrap());
    fs::remove_file(&page).unwrap();
    wait::until("an old page to be fetched again", PATIENCE, || {
        (fs::read(&page).ok()? == whole).then_some(())
    });
    let text = String::from_utf8(whole.clone()).unwrap();
    fs::write(&page, text.replacen("\"principal\":\"", "\"principal\":\"x", 1)).unwrap();
    let (code, answer) = verify(&cluster, &[]);
    assert_eq!((code, findings(&answer)), (Some(8), vec![format!("{name} 3-3 edited")]), "{answer:#}");
    fs::write(&page, &whole).unwrap();
    assert_eq!(verify(&cluster, &[]).0, Some(0));
}

#[test]
fn what_is_altered_is_named_by_line_and_file() {
    let cluster = start(1, SMALL_PAGES);
    change(&cluster, "web", 30);
    wait_for_pages(&cluster, &[1], 3);
    // Lines leave the state when the leader finds their page in its file, which it looks for after it closed another;
    // the second of these is closed only when it has looked after the first.
    for (group, count) in [("more", 4), ("last", 5)] {
        change(&cluster, group, 8);
        wait_for_pages(&cluster, &[1], count);
    }
    let page = pages(&cluster, 1)[1].clone();
    let name = page.file_name().unwrap().to_str().unwrap().to_owned();
    let whole = fs::read_to_string(&page).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let text = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    let tampered = [
        ("edited", whole.replacen("user:default/", "user:default/x", 1), format!("{name} 9-9 edited")),
        ("removed", text(&[&lines[..4], &lines[5..]].concat()), format!("{name} 12-12 removed")),
        ("reordered", text(&swapped), format!("{name} 11-11 reordered")),
        ("truncated", text(&lines[..6]), format!("{name} 14-16 truncated")),
        ("swapped", fs::read_to_string(&pages(&cluster, 1)[0]).unwrap(), format!("{name} 9-16 header")),
    ];
    for (what, content, expected) in tampered {
        fs::write(&page, content).unwrap();
        let (code, answer) = verify(&cluster, &[]);
        assert_eq!(code, Some(8), "{what}: {answer:#}");
        assert_eq!(findings(&answer), [expected], "{what}");
        let outcome = cluster.ctl(&["audit", "verify"], &[]).expect_code(8);
        assert!(outcome.stdout.contains(&name), "{}", outcome.stdout);
    }
    fs::write(&page, &whole).unwrap();
    let (code, answer) = verify(&cluster, &[]);
    assert_eq!(code, Some(0), "{answer:#}");
    // On a node alone, a page that is removed is gone.
    fs::remove_file(&page).unwrap();
    let (code, answer) = verify(&cluster, &[]);
    assert_eq!((code, findings(&answer)), (Some(8), vec![format!("{name} 9-16 missing_page")]));
}

#[test]
fn anchors_and_exports_are_checked_without_the_cluster() {
    let anchors = tempfile::tempdir().unwrap();
    let anchors = anchors.path().join("anchors.jsonl");
    let settings =
        format!("{SMALL_PAGES}anchor_minutes = 1\nanchor_file = {:?}\n", anchors.display().to_string());
    let cluster = start(1, &settings);
    change(&cluster, "web", 20);
    // A restarted leader anchors at once what was written since.
    cluster.kill("coordinator-1");
    cluster.up();
    wait::until("an anchor of the changes", PATIENCE, || {
        let text = fs::read_to_string(&anchors).ok()?;
        let last: Value = serde_json::from_str(text.lines().last()?).ok()?;
        (last["sequence"].as_u64()? > 20).then_some(())
    });
    let shown = anchors.display().to_string();
    let (code, answer) = verify(&cluster, &["--anchor", &shown]);
    assert_eq!(code, Some(0), "{answer:#}");
    assert!(answer["anchors"].as_u64() > Some(0) && answer["signed"] == true, "{answer:#}");

    let export = cluster.path("audit.jsonl");
    let exported = export.display().to_string();
    let _done = cluster.ctl(&["audit", "export", "--file", &exported], &[]).expect_code(0);
    let (code, refused) = verify(&cluster, &["--file", &exported, "--anchor", &shown]);
    assert_eq!(code, Some(2), "anchors of the cluster do not fit a tenant's chain: {refused:#}");
    let last = fs::read_to_string(&export).unwrap().lines().last().unwrap().to_owned();
    let kept = cluster.path("kept.jsonl");
    fs::write(&kept, format!("{last}\n")).unwrap();
    change(&cluster, "later", 2);
    let _done = cluster.ctl(&["audit", "export", "--file", &exported], &[]).expect_code(0);
    let (code, answer) = verify(&cluster, &["--file", &exported, "--anchor", &kept.display().to_string()]);
    assert_eq!(
        (code, &answer["anchors"]),
        (Some(0), &Value::from(1)),
        "what was signed is found: {answer:#}"
    );
    let _done = cluster.ctl(&["audit", "export", "--all-tenants", "--file", &exported], &[]).expect_code(0);
    let whole = fs::read_to_string(&export).unwrap();
    let stdout = cluster.ctl(&["audit", "export", "--all-tenants"], &[]).expect_code(0).stdout;
    assert_eq!(stdout.lines().nth(5), whole.lines().nth(5));
    cluster.kill("coordinator-1");
    let offline = |more: &[&str]| verify(&cluster, &[&["--file", &exported], more].concat());
    let (code, answer) = offline(&["--anchor", &shown]);
    assert_eq!((code, &answer["signed"]), (Some(0), &Value::from(true)), "{answer:#}");
    fs::write(&export, whole.replacen("\"object\":\"web3\"", "\"object\":\"web4\"", 1)).unwrap();
    let (code, answer) = offline(&[]);
    assert_eq!((code, findings(&answer).len()), (Some(8), 1), "{answer:#}");
    let cut: String = whole.lines().take(12).map(|line| format!("{line}\n")).collect();
    fs::write(&export, cut).unwrap();
    assert_eq!(findings(&offline(&[]).1), [format!("{exported} 12-12 truncated")]);
    // An anchor that was altered bears no signature, and one of another chain does not fit.
    fs::write(&export, &whole).unwrap();
    let forged = fs::read_to_string(&anchors).unwrap().replace("\"sequence\":", "\"sequence\":1");
    fs::write(&anchors, forged).unwrap();
    assert_eq!(offline(&["--anchor", &shown]).0, Some(8));
    cluster.up();
}

#[test]
fn a_full_disk_refuses_changes_and_nothing_else() {
    let cluster = start(1, SMALL_PAGES);
    let disk = cluster.path("disk");
    fs::create_dir(&disk).unwrap();
    let Some(_mounted) = mount::small_ext4(&cluster.path("disk.img"), &disk, 256) else { return };
    cluster.kill("coordinator-1");
    let state = disk.join("state");
    let moved = std::process::Command::new("cp").arg("-a").arg(state_dir(&cluster, 1)).arg(&state).status();
    assert!(moved.unwrap().success());
    let file = settings_file(&cluster, 1);
    let settings = fs::read_to_string(&file).unwrap();
    let settings =
        settings.replace(&state_dir(&cluster, 1).display().to_string(), &state.display().to_string());
    fs::write(&file, settings).unwrap();
    cluster.up();
    change(&cluster, "before", 1);
    let ballast = disk.join("ballast");
    let filled = std::process::Command::new("fallocate").args(["-l", "180M"]).arg(&ballast).status();
    assert!(filled.unwrap().success());
    // The file system is asked at most once a second.
    let refused = wait::until("a change to be refused", PATIENCE, || {
        let outcome = cluster.ctl(&["host", "enroll", "web1"], &[]);
        (outcome.code != Some(0)).then_some(outcome)
    });
    let refused = refused.expect_code(9);
    assert!(
        refused.stderr.contains("disk is full") && refused.stderr.contains("make room"),
        "{}",
        refused.stderr
    );
    let _read = cluster.ctl(&["host", "list"], &[]).expect_code(0);
    assert_eq!(verify(&cluster, &[]).0, Some(0));
    fs::remove_file(&ballast).unwrap();
    wait::until("changes to be possible again", PATIENCE, || {
        (cluster.ctl(&["host", "enroll", "web1"], &[]).code == Some(0)).then_some(())
    });
    let _down = cluster.ctl(&["dev", "down", "--dir"], &[&cluster.cluster_directory()]).expect_code(0);
}
