//! Stages of rename domains below the root: made when needed, found again, removed without a trace.

use common::failure::FailureKind;
use common::id::MigrationId;
use common::rel_path::RelPath;
use tree::{Name, Root};

use super::bring::bring;
use super::wanted::{first_pass, second_pass};
use super::world::{Ground, World, can_mount, path};
use crate::begun;
use crate::domain::HOME;
use crate::kill_point::{KillPoint, Sync};
use crate::memory::Memory;
use crate::pair::assert_same;
use crate::snapshot::snapshot;
use crate::stage::Stage;

const GROUND: Ground = Ground { is_old_kernel: false, has_domains: true, sync: Sync::AsEver };

fn memory(world: &World) -> Memory {
    let migration: MigrationId = "m1".parse().unwrap();
    Memory::open(&world.state, &migration).unwrap()
}

#[test]
fn a_domain_gets_its_stage_with_the_first_change_in_it() {
    if !can_mount() {
        return;
    }
    let mut world = World::new(GROUND);
    let before = snapshot(&world.root);
    let committer = world.open(&KillPoint::default()).unwrap();
    let domains = committer.stage().domains.clone();
    assert_eq!(domains.ensure(&path("kept/deep")).unwrap(), HOME);
    assert_eq!(domains.all(), [HOME]);
    let disk = domains.ensure(&path("disk/gone")).unwrap();
    assert_eq!(domains.ensure(&path("disk/not/there/yet")).unwrap(), disk);
    let bound = domains.ensure(&path("kept/bound/deep")).unwrap();
    assert!(disk != bound && bound != HOME);
    assert_eq!(domains.get(bound).unwrap().disk.id, domains.get(HOME).unwrap().disk.id);
    assert_ne!(domains.get(disk).unwrap().disk.id, domains.get(HOME).unwrap().disk.id);
    let stages = world.stages();
    let places: Vec<_> = stages.iter().map(|stage| stage.parent().unwrap().to_owned()).collect();
    assert_eq!(places, [world.root.clone(), world.root.join("disk"), world.root.join("kept/bound")]);
    assert!(domains.is_above_stage(&path("disk")) && domains.is_above_stage(&RelPath::root()));
    assert!(!domains.is_above_stage(&path("kept/deep")));
    assert_same(&snapshot(&world.root), &before, "with three stages");
    let stage = committer.stage().clone();
    drop(committer);
    stage.remove(&memory(&world), &KillPoint::default()).unwrap();
    assert_same(&snapshot(&world.root), &before, "settled");
    assert_eq!(world.stages(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_agent_without_a_memory_finds_all_stages() {
    if !can_mount() {
        return;
    }
    let mut world = World::new(GROUND);
    let before = snapshot(&world.root);
    bring(&mut world, &KillPoint::default(), &first_pass(GROUND)).unwrap();
    std::fs::remove_dir_all(&world.state).unwrap();
    bring(&mut world, &KillPoint::default(), &second_pass(GROUND)).unwrap();
    assert_eq!(world.stages().len(), 3);
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 0);
    assert_same(&snapshot(&world.root), &before, "undone");
}

#[test]
fn a_stage_that_is_not_there_stops_the_attempt_when_something_is_kept_in_it() {
    if !can_mount() {
        return;
    }
    let mut world = World::new(GROUND);
    bring(&mut world, &KillPoint::default(), &first_pass(GROUND)).unwrap();
    // Moved away by the owner of the directory, who plants another: not even a marker helps him.
    let bound = world.stages().pop().unwrap();
    let away = world.root.join("kept/bound/deep/away");
    std::fs::rename(&bound, &away).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").args([&away, &bound]).status().unwrap();
    assert!(copied.success());
    let failure = world.open(&KillPoint::default()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Conflict);
    assert!(failure.message.contains("kept/bound/"), "{failure}");
    std::fs::remove_dir_all(&bound).unwrap();
    std::fs::rename(&away, &bound).unwrap();
    world.open(&KillPoint::default()).unwrap();
    // The mount is gone, as after a reboot without it.
    world.unmount_last();
    assert_eq!(world.open(&KillPoint::default()).unwrap_err().kind, FailureKind::Conflict);
}

#[test]
fn settling_passes_over_a_mount_that_is_gone() {
    if !can_mount() {
        return;
    }
    let mut world = World::new(GROUND);
    bring(&mut world, &KillPoint::default(), &first_pass(GROUND)).unwrap();
    let stage = world.open(&KillPoint::default()).unwrap().stage().clone();
    world.unmount_last();
    stage.remove(&memory(&world), &KillPoint::default()).unwrap();
    assert_eq!(world.stages(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_is_kept_aside_keeps_its_stage_and_the_roots() {
    if !can_mount() {
        return;
    }
    let mut world = World::new(GROUND);
    let mut expected = snapshot(&world.root);
    bring(&mut world, &KillPoint::default(), &first_pass(GROUND)).unwrap();
    std::fs::write(world.root.join("disk/new-directory/added"), "added since").unwrap();
    assert_eq!(world.undo(&KillPoint::default()).unwrap(), 1);
    assert_same(&snapshot(&world.root), &expected, "undone");
    let stage = world.open(&KillPoint::default()).unwrap().stage().clone();
    assert!(stage.domains.remove(true, &KillPoint::default()).unwrap());
    let stages = world.stages();
    assert_eq!(stages.len(), 2, "{stages:?}");
    let kept: Vec<_> = std::fs::read_dir(stages[1].join("after")).unwrap().collect();
    assert_eq!(kept.len(), 1);
    assert!(Name::new(stages[1].file_name().unwrap().as_encoded_bytes()).is_ok());
    expected.clear();
    stage.remove(&memory(&world), &KillPoint::default()).unwrap();
    assert_eq!(world.stages().len(), 0);
}

#[test]
fn removing_that_was_killed_anywhere_is_ended_without_a_trace() {
    if !can_mount() {
        return;
    }
    let mut number = 0;
    loop {
        let mut world = World::new(GROUND);
        let before = snapshot(&world.root);
        let committer = world.open(&KillPoint::default()).unwrap();
        for place in ["disk/gone", "kept/bound/deep"] {
            committer.stage().domains.ensure(&path(place)).unwrap();
        }
        let stage = committer.stage().clone();
        drop(committer);
        let kill = KillPoint::at(number);
        let killed = stage.remove_without_trace(&memory(&world), &kill).is_err();
        assert_eq!(killed, kill.was_hit());
        if !killed {
            assert!(number > 12, "only {number} effects");
            break;
        }
        begun::end(&world.root, &memory(&world)).unwrap();
        let root = Root::open(&world.root).unwrap();
        if let Some(stage) = Stage::find(&root, &"m1".parse().unwrap(), &memory(&world)).unwrap() {
            stage.remove_without_trace(&memory(&world), &KillPoint::default()).unwrap();
        }
        assert_same(&snapshot(&world.root), &before, &format!("killed at {number}"));
        assert_eq!(world.stages().len(), 0, "killed at {number}");
        number += 1;
    }
}
