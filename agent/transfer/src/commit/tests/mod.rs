//! Kills between any two effects, on real directories.

mod bring;
mod domains;
mod wanted;
mod world;

use common::failure::FailureKind;
use common::id::MigrationId;
use tree::Name;

use super::{Outcome, Seen};
use crate::kill_point::{KillPoint, Sync};
use crate::memory::Memory;
use crate::pair::assert_same;
use crate::snapshot::snapshot;
use crate::standing::look;

use bring::{bring, task, undisturbed, without_times_of_directories};
use wanted::{Wanted, first_pass, second_pass};
use world::{Ground, World, can_mount, is_stage, path};

fn kills_at_every_effect(ground: Ground) {
    let (first, second) = (first_pass(ground), second_pass(ground));
    let expected = undisturbed(&[first.clone(), second.clone()], ground);
    let mut number = 0;
    loop {
        let kill = KillPoint::at(number).with_sync(ground.sync);
        let mut world = World::new(ground);
        let original = snapshot(&world.root);
        let mut killed = bring(&mut world, &kill, &first).is_err();
        killed = killed || bring(&mut world, &kill, &second).is_err();
        assert_eq!(killed, kill.was_hit());
        // The live tree never holds half a file, wherever it stopped.
        let nothing = blake3::hash(b"").to_hex().to_string();
        for (path, line) in snapshot(&world.root) {
            assert!(line.starts_with('4') || !line.contains(&nothing), "{number}: {}", path.display());
        }
        if number % 2 == 0 {
            bring(&mut world, &KillPoint::default(), &first).unwrap();
            bring(&mut world, &KillPoint::default(), &second).unwrap();
            let found = without_times_of_directories(snapshot(&world.root));
            assert_same(&found, &expected, &format!("continued after effect {number}"));
        }
        assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0, "after effect {number}");
        assert_same(&snapshot(&world.root), &original, &format!("undone after effect {number}"));
        assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
        assert_same(&snapshot(&world.root), &original, &format!("undone twice after effect {number}"));
        if !killed {
            break;
        }
        number += 1;
    }
    assert!(number > 60, "only {number} effects");
}

#[test]
fn a_kill_at_any_effect_can_be_continued_and_undone() {
    kills_at_every_effect(Ground::default());
}

#[test]
fn so_it_is_without_the_newer_renames() {
    kills_at_every_effect(Ground { is_old_kernel: true, ..Ground::default() });
}

#[test]
fn so_it_is_where_everything_is_synced_by_itself() {
    kills_at_every_effect(Ground { sync: Sync::ByFile, ..Ground::default() });
}

#[test]
fn so_it_is_on_several_file_systems() {
    for is_old_kernel in [false, true] {
        if can_mount() {
            kills_at_every_effect(Ground { is_old_kernel, has_domains: true, sync: Sync::AsEver });
        }
    }
}

fn kills_an_undo_at_every_effect(ground: Ground) {
    let (first, second) = (first_pass(ground), second_pass(ground));
    let mut number = 0;
    loop {
        let mut world = World::new(ground);
        let original = snapshot(&world.root);
        bring(&mut world, &KillPoint::default(), &first).unwrap();
        bring(&mut world, &KillPoint::default(), &second).unwrap();
        let kill = KillPoint::at(number);
        let killed = world.undo(&kill).is_err();
        assert_eq!(killed, kill.was_hit());
        assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
        assert_same(&snapshot(&world.root), &original, &format!("undo killed at effect {number}"));
        if !killed {
            break;
        }
        number += 1;
    }
    assert!(number > 20, "only {number} effects");
}

#[test]
fn an_undo_killed_at_any_effect_is_run_again() {
    kills_an_undo_at_every_effect(Ground::default());
    if can_mount() {
        kills_an_undo_at_every_effect(Ground { has_domains: true, ..Ground::default() });
    }
}

#[test]
fn what_changed_between_scan_and_commit_is_a_conflict_and_stays() {
    for is_old_kernel in [false, true] {
        let mut world = World::new(Ground { is_old_kernel, ..Ground::default() });
        let mut committer = world.open(&KillPoint::default()).unwrap();
        let stage = committer.stage().clone();
        let seen = |name: &str| {
            let entry = look(&stage.root, &Name::new(name).unwrap()).unwrap().unwrap();
            Some(Box::new(Seen { entry, is_ours: false }))
        };
        let wanted = Wanted::File("ours", 0o600);
        let group = vec![
            task(&stage.home, 1, &path("replaced"), &wanted, seen("replaced")).unwrap(),
            task(&stage.home, 2, &path("fresh"), &wanted, None).unwrap(),
            task(&stage.home, 3, &path("untouched"), &Wanted::Absent, seen("untouched")).unwrap(),
            task(&stage.home, 4, &path("metadata"), &Wanted::File("same content", 0o755), seen("metadata"))
                .unwrap(),
            // A directory that was empty holds something by now.
            task(&stage.home, 5, &path("becomes-file"), &wanted, seen("becomes-file")).unwrap(),
            task(&stage.home, 6, &path("gone"), &Wanted::Absent, seen("gone")).unwrap(),
        ];
        std::fs::write(world.root.join("replaced"), "somebody else's").unwrap();
        std::fs::write(world.root.join("fresh"), "somebody else's").unwrap();
        std::fs::write(world.root.join("untouched"), "somebody else's").unwrap();
        std::fs::write(world.root.join("metadata"), "somebody else's").unwrap();
        let before = snapshot(&world.root);
        for outcome in committer.commit(1, group).unwrap() {
            assert!(matches!(outcome, Outcome::Conflict), "{outcome:?}");
        }
        let mut after = snapshot(&world.root);
        for (path, line) in &before {
            if !line.starts_with('4') {
                assert_eq!(after.remove(path).as_ref(), Some(line));
            }
        }
        drop(committer);
        assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
    }
}

#[test]
fn an_older_attempt_changes_nothing_once_a_newer_one_is_there() {
    let mut world = World::new(Ground::default());
    let mut old = world.open(&KillPoint::default()).unwrap();
    let stage = old.stage().clone();
    let group = vec![task(&stage.home, 1, &path("fresh"), &Wanted::File("late", 0o600), None).unwrap()];
    let new = world.open(&KillPoint::default()).unwrap();
    let before = snapshot(&world.root);
    assert_eq!(old.commit(1, group).unwrap_err().kind, FailureKind::Fenced);
    assert_same(&snapshot(&world.root), &before, "after the refusal");
    drop(new);
    // The ledger is whole: nothing of the older one is in it.
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
}

#[test]
fn a_lost_lease_stops_the_group() {
    let mut world = World::new(Ground::default());
    let mut committer = world.open(&KillPoint::default()).unwrap();
    let stage = committer.stage().clone();
    let group = vec![task(&stage.home, 1, &path("fresh"), &Wanted::File("late", 0o600), None).unwrap()];
    world.keepers.last().unwrap().lose("revoked");
    assert_eq!(committer.commit(1, group).unwrap_err().kind, FailureKind::Fenced);
    assert!(!world.root.join("fresh").exists());
}

#[test]
fn what_was_changed_after_the_commit_is_kept_aside() {
    let mut world = World::new(Ground::default());
    let mut expected = snapshot(&world.root);
    bring(&mut world, &KillPoint::default(), &first_pass(Ground::default())).unwrap();
    std::fs::write(world.root.join("replaced"), "edited since").unwrap();
    std::fs::write(world.root.join("new-directory/added"), "added since").unwrap();
    std::fs::remove_file(world.root.join("new")).unwrap();
    std::fs::write(world.root.join("new"), "made again").unwrap();
    std::fs::remove_file(world.root.join("kept/deep/new")).unwrap();
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 3);
    assert_same(&snapshot(&world.root), &expected, "undone");
    let after = std::fs::read_dir(&world.root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| is_stage(path))
        .unwrap()
        .join("after");
    let mut kept: Vec<_> = std::fs::read_dir(after)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["added since", "edited since", "made again"]);
    expected.clear();
}

#[test]
fn somebody_elses_file_is_kept_aside_though_a_pass_set_its_metadata() {
    let mut world = World::new(Ground::default());
    let before = snapshot(&world.root);
    bring(&mut world, &KillPoint::default(), &[("made", Wanted::File("same content", 0o600))]).unwrap();
    // Both stand for a moment, so that it cannot get the same inode.
    std::fs::write(world.root.join("other"), "another one!").unwrap();
    std::fs::rename(world.root.join("other"), world.root.join("made")).unwrap();
    bring(&mut world, &KillPoint::default(), &[("made", Wanted::File("same content", 0o640))]).unwrap();
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 1);
    assert_same(&snapshot(&world.root), &before, "undone");
    let after = world.stages().remove(0).join("after");
    let kept = std::fs::read_dir(after).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "another one!");
}

#[test]
fn a_torn_end_of_the_ledger_is_cut() {
    let mut world = World::new(Ground::default());
    let original = snapshot(&world.root);
    bring(&mut world, &KillPoint::default(), &first_pass(Ground::default())).unwrap();
    let stage = world.open(&KillPoint::default()).unwrap().stage().clone();
    let mut file = stage.dir.open_append(&Name::new("ledger").unwrap()).unwrap();
    file.append(&[7; 33]).unwrap();
    drop(file);
    bring(&mut world, &KillPoint::default(), &second_pass(Ground::default())).unwrap();
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
    assert_same(&snapshot(&world.root), &original, "undone");
}

#[test]
fn making_a_stage_leaves_the_root_as_it_was() {
    let mut world = World::new(Ground::default());
    let original = snapshot(&world.root);
    let committer = world.open(&KillPoint::default()).unwrap();
    assert_same(&snapshot(&world.root), &original, "with a stage");
    let stage = committer.stage().clone();
    drop(committer);
    let migration: MigrationId = "m1".parse().unwrap();
    stage.remove(&Memory::open(&world.state, &migration).unwrap(), &KillPoint::default()).unwrap();
    assert_same(&snapshot(&world.root), &original, "after settling");
    assert!(std::fs::read_dir(&world.root).unwrap().all(|entry| !is_stage(&entry.unwrap().path())));
}
