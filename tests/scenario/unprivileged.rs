//! Agents without root: what is theirs moves whole and comes back, and what only root can do is told.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::{judge, skip, tree};

/// Whom the agents run as: nobody.
const USER: u32 = 65_534;

fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Gives a whole tree to the user.
fn give_away(root: &Path) {
    let status = Command::new("chown").args(["-hR", &format!("{USER}:{USER}")]).arg(root).status().unwrap();
    assert!(status.success());
}

/// Makes the tree with everything, but what only root can make or read.
fn make_source(root: &Path) {
    tree::odd(root).unwrap();
    fs::remove_dir_all(root.join("owners")).unwrap();
    for name in ["links/null", "links/block", "files/nobody-reads", "files/odd-mode", "attributes/link"] {
        fs::remove_file(root.join(name)).unwrap();
    }
    rustix::fs::removexattr(root.join("attributes/user"), "trusted.drover-test").unwrap();
    rustix::fs::removexattr(root.join("attributes/capability"), "security.capability").unwrap();
    write(root, "read-only/inside", "newer");
    write(root, "read-only/fresh", "fresh");
    write(root, "becomes-file", "a file");
    give_away(root);
    set_mode(&root.join("files/set-uid"), 0o4755);
    set_mode(&root.join("read-only"), 0o555);
}

/// Makes a destination in whose read-only directories everything is to be done that a pass can do.
fn make_old_destination(root: &Path) {
    write(root, "read-only/inside", "older");
    write(root, "read-only/gone", "to be removed");
    write(root, "read-only/gone-too/below", "to be removed with its directory");
    write(root, "becomes-file/read-only/below", "to be kept for the way back");
    write(root, "files/one", "older");
    give_away(root);
    let read_only = ["read-only/gone-too", "read-only", "becomes-file/read-only", "becomes-file", "files"];
    for name in read_only {
        set_mode(&root.join(name), 0o555);
    }
}

#[test]
fn what_belongs_to_the_agents_user_moves_whole_and_comes_back() {
    if !skip::unless_root("starting agents as another user") {
        return;
    }
    let cluster = Cluster::start_unprivileged(2, 1, USER);
    let (source, destination, before) = (cluster.path("shop"), cluster.path("moved"), cluster.path("before"));
    make_source(&source);
    make_old_destination(&destination);
    assert!(Command::new("cp").arg("-a").args([&destination, &before]).status().unwrap().success());

    let flags = ["--delete", "--max-delete", "100%", "--rollback-window", "1h"];
    let (code, migration) = cluster.migrate(&source, &destination, &flags);
    assert_eq!((code, &migration["verified"]), (Some(0), &true.into()), "{migration:#}");
    judge::assert_equal(&source, &destination);

    let id = migration["id"].as_str().unwrap();
    let (code, migration) = cluster.json(&["rollback", id, "--yes"]);
    assert_eq!((code, &migration["status"]), (Some(0), &"rolled_back".into()), "{migration:#}");
    judge::assert_equal(&before, &destination);
    let names: Vec<_> = fs::read_dir(&destination).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(".drover-")), "{names:?}");
}

#[test]
fn what_only_root_can_do_is_told_entry_by_entry() {
    if !skip::unless_root("starting agents as another user") {
        return;
    }
    let cluster = Cluster::start_unprivileged(2, 1, USER);
    let (source, destination) = (cluster.path("shop"), cluster.path("moved"));
    tree::plain(&source, 30, 3000).unwrap();
    write(&source, "of-somebody-else", "readable");
    write(&source, "capable", "#!/bin/true");
    let device = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, source.join("device"), kind, mode, device).unwrap();
    give_away(&source);
    lchown(source.join("of-somebody-else"), Some(33), Some(33)).unwrap();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(source.join("capable"), "security.capability", capability, flags).unwrap();

    let (code, migration) = cluster.migrate(&source, &destination, &[]);
    assert_eq!(code, Some(7), "{migration:#}");
    let findings = migration["findings"].as_array().cloned().unwrap_or_default();
    for (object, rule) in
        [("of-somebody-else", "attribute"), ("capable", "attribute"), ("device", "unwritable")]
    {
        let told = findings.iter().find(|finding| finding["object"] == object && finding["rule"] == rule);
        let hint = told.map_or(&Value::Null, |finding| &finding["hint"]);
        assert!(hint.as_str().is_some_and(|hint| hint.contains("root")), "{object}: {migration:#}");
    }
    // The rest is there, and so is the content of what could not be given away.
    assert_eq!(fs::read(destination.join("of-somebody-else")).unwrap(), b"readable");
    assert!(!destination.join("device").exists());
    for name in ["of-somebody-else", "capable", "device"] {
        fs::remove_file(source.join(name)).unwrap();
        fs::remove_file(destination.join(name)).ok();
    }
    let time = fs::metadata(&source).unwrap().modified().unwrap();
    fs::File::open(&destination).unwrap().set_modified(time).unwrap();
    judge::assert_equal(&source, &destination);
}
