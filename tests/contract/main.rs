//! What every built-in kind of step promises, tried on all of them by one suite.
//!
//! Kinds come from the agent's own registry and their worlds from `world::FIXTURES`: a kind that is registered and has
//! no world fails the suite, and one that has needs nothing more. What a kind's descriptor says of its undo decides
//! which cases apply to it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

#[path = "../../agent/transfer/src/authority.rs"]
mod authority;
mod between;
mod damage;
mod destination;
mod hosts;
#[path = "../../agent/transfer/src/snapshot.rs"]
mod snapshot;
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use agent::step::Step;
use agent::step::registry::STEPS;
use common::failure::FailureKind;
use common::limit::RECORD_BYTES_MAX;
use common::step::{Reversibility, StepKind};
use tests::wait;
use transfer::{KillPoint, LeaseKeeper};

use crate::hosts::Hosts;
use crate::world::{Ended, FIXTURES, SECRET, Way, World};

/// More effects than any fixture has.
const EFFECTS_MAX: i64 = 1_000;

/// Runs a case on every registered kind that it applies to.
async fn on_every_kind<F: Future<Output = ()>>(
    applies: impl Fn(Reversibility) -> bool,
    case: impl Fn(&'static dyn Step, World) -> F,
) {
    let hosts = Arc::new(Hosts::open());
    let mut count = 0;
    for step in STEPS {
        if applies(step.descriptor().reversibility) {
            count += 1;
            case(*step, make(step.descriptor().kind, &hosts)).await;
        }
    }
    assert!(count > 0, "the case applies to no kind");
}

fn make(kind: StepKind, hosts: &Arc<Hosts>) -> World {
    let fixture = FIXTURES.iter().find(|(of, _)| *of == kind);
    let (_, fixture) = fixture.unwrap_or_else(|| panic!("{kind} is registered and has no fixture"));
    fixture(hosts)
}

fn any(_: Reversibility) -> bool {
    true
}

fn changing(reversibility: Reversibility) -> bool {
    reversibility != Reversibility::ReadOnly
}

fn reversible(reversibility: Reversibility) -> bool {
    reversibility == Reversibility::Reversible
}

#[test]
fn every_registered_kind_has_a_fixture() {
    let registered: BTreeSet<StepKind> = STEPS.iter().map(|step| step.descriptor().kind).collect();
    let tried: BTreeSet<StepKind> = FIXTURES.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(registered, tried);
}

/// Promise 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_twice_is_run_once() {
    on_every_kind(any, |step, mut world| async move {
        let kind = step.descriptor().kind;
        let first = world.attempt(step, Way::Run, KillPoint::default()).await;
        assert!(first.outcome.is_ok(), "{kind}: {:?}", first.outcome);
        let once = destination::look_exactly(&world.destination());
        let second = world.attempt(step, Way::Run, KillPoint::default()).await;
        assert!(second.outcome.is_ok(), "{kind}: {:?}", second.outcome);
        assert_eq!(
            destination::look_exactly(&world.destination()),
            once,
            "{kind}: the second run touched something"
        );
    })
    .await;
}

/// Promise 2, and 3 after a partial run: for every effect, a world that is killed there and run again, and one that is
/// killed there and undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_killed_anywhere_is_run_again_or_undone() {
    let hosts = Arc::new(Hosts::open());
    for step in STEPS.iter().filter(|step| changing(step.descriptor().reversibility)) {
        let kind = step.descriptor().kind;
        let mut whole = make(kind, &hosts);
        let found = whole.state();
        whole.attempt(*step, Way::Run, KillPoint::default()).await.outcome.unwrap();
        let done = whole.state();
        assert_ne!(found, done, "{kind}: the fixture gives it nothing to do");
        for number in 0..EFFECTS_MAX {
            let (mut again, kill) = (make(kind, &hosts), KillPoint::at(number));
            let killed = again.attempt(*step, Way::Run, kill.clone()).await;
            if !kill.was_hit() {
                killed.outcome.unwrap();
                assert!(number > 10, "{kind}: only {number} effects can be killed at");
                break;
            }
            killed.outcome.unwrap_err();
            let rerun = again.attempt(*step, Way::Run, KillPoint::default()).await;
            assert!(rerun.outcome.is_ok(), "{kind}: run again after effect {number}: {:?}", rerun.outcome);
            assert_eq!(again.state(), done, "{kind}: killed at effect {number} and run again");

            // How effects fall into groups varies, and so does their number by a few: this run may get to its end.
            let mut back = make(kind, &hosts);
            drop(back.attempt(*step, Way::Run, KillPoint::at(number)).await);
            let undone = back.attempt(*step, Way::Undo, KillPoint::default()).await;
            assert!(undone.outcome.is_ok(), "{kind}: undone after effect {number}: {:?}", undone.outcome);
            assert_eq!(back.state(), found, "{kind}: killed at effect {number} and undone");
        }
    }
}

/// Promises 3 and 4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undo_restores_what_run_found_and_twice_is_once() {
    on_every_kind(any, |step, mut world| async move {
        let kind = step.descriptor().kind;
        let found = world.state();
        world.attempt(step, Way::Run, KillPoint::default()).await.outcome.unwrap();
        for times in ["once", "twice"] {
            let undone = world.attempt(step, Way::Undo, KillPoint::default()).await;
            assert!(undone.outcome.is_ok(), "{kind}: undone {times}: {:?}", undone.outcome);
            assert_eq!(world.state(), found, "{kind}: undone {times}");
        }
        if changing(step.descriptor().reversibility) {
            assert_eq!(
                destination::staged_files(&world.destination()),
                Vec::<std::path::PathBuf>::new(),
                "{kind}"
            );
        }
    })
    .await;
}

/// Promise 3, for an undo that is itself killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_is_killed_anywhere_is_undone_again() {
    let hosts = Arc::new(Hosts::open());
    for step in STEPS.iter().filter(|step| reversible(step.descriptor().reversibility)) {
        let kind = step.descriptor().kind;
        for number in 0..EFFECTS_MAX {
            let (mut world, kill) = (make(kind, &hosts), KillPoint::at(number));
            let found = world.state();
            world.attempt(*step, Way::Run, KillPoint::default()).await.outcome.unwrap();
            let killed = world.attempt(*step, Way::Undo, kill.clone()).await;
            if !kill.was_hit() {
                killed.outcome.unwrap();
                assert!(number > 10, "{kind}: only {number} effects can be killed at");
                break;
            }
            killed.outcome.unwrap_err();
            let undone = world.attempt(*step, Way::Undo, KillPoint::default()).await;
            assert!(undone.outcome.is_ok(), "{kind}: undone after effect {number}: {:?}", undone.outcome);
            assert_eq!(world.state(), found, "{kind}: an undo killed at effect {number}");
        }
    }
}

/// Promise 4: what somebody wrote there since the commit is not lost with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_since_is_kept_aside() {
    on_every_kind(reversible, |step, mut world| async move {
        let kind = step.descriptor().kind;
        let found = world.state();
        world.attempt(step, Way::Run, KillPoint::default()).await.outcome.unwrap();
        for name in ["same/changed", "new/file", "new/added"] {
            fs::write(world.destination().join(name), format!("an order of a customer in {name}")).unwrap();
        }
        let undone = world.attempt(step, Way::Undo, KillPoint::default()).await;
        assert!(undone.outcome.is_ok(), "{kind}: {:?}", undone.outcome);
        assert_eq!(world.state(), found, "{kind}");
        let kept = destination::staged_files(&world.destination());
        for name in ["same/changed", "new/file", "new/added"] {
            let content = format!("an order of a customer in {name}");
            let is_kept = kept.iter().any(|path| {
                path.to_string_lossy().contains("/after/")
                    && fs::read_to_string(path).is_ok_and(|text| text == content)
            });
            assert!(is_kept, "{kind}: {name} is not in after/: {kept:?}");
        }
        assert!(undone.findings.len() >= 3, "{kind}: {:?}", undone.findings);
    })
    .await;
}

/// Promise 5: with the right gone before anything begins, and with it gone while the first effects are held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_done_without_a_lease() {
    on_every_kind(any, |step, mut world| async move {
        let kind = step.descriptor().kind;
        let found = world.state();
        for way in [Way::Run, Way::Undo] {
            let attempt = world.begin(step, KillPoint::default());
            attempt.keeper.lose("somebody else has it");
            let ended = world.attend(step, way, attempt, |_keeper| ()).await;
            if way == Way::Run || changing(step.descriptor().reversibility) {
                assert_eq!(ended.outcome.unwrap_err().kind, FailureKind::Fenced, "{kind} {way:?}");
            }
            assert_eq!(world.state(), found, "{kind} {way:?}");
        }
        if changing(step.descriptor().reversibility) {
            let ended = stopped_in_the_middle(step, &mut world, |keeper| keeper.lose("fenced")).await;
            assert_eq!(ended.outcome.unwrap_err().kind, FailureKind::Fenced, "{kind}");
            assert_eq!(world.state(), found, "{kind}: an effect was made after the lease was lost");
        }
    })
    .await;
}

/// Runs a step whose first group of effects is held, ends its lease, and lets it go.
async fn stopped_in_the_middle(
    step: &'static dyn Step,
    world: &mut World,
    end: impl FnOnce(&LeaseKeeper),
) -> Ended {
    let kill = KillPoint::held();
    let (attempt, root) = (world.begin(step, kill.clone()), world.destination());
    world
        .attend(step, Way::Run, attempt, |keeper| {
            tokio::task::block_in_place(|| {
                wait::until("something to be staged", Duration::from_secs(60), || {
                    let staged = destination::staged_files(&root);
                    staged.iter().any(|path| path.to_string_lossy().contains("/new/")).then_some(())
                });
            });
            end(keeper);
            kill.let_go();
        })
        .await
}

/// Promise 6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_only_rises_and_ends_at_its_total() {
    on_every_kind(any, |step, mut world| async move {
        let kind = step.descriptor().kind;
        let ended = world.attempt(step, Way::Run, KillPoint::default()).await;
        ended.outcome.unwrap();
        for pair in ended.progress.windows(2) {
            let is_rising = pair[0].files_done <= pair[1].files_done
                && pair[0].bytes_done <= pair[1].bytes_done
                && pair[0].bytes_on_wire <= pair[1].bytes_on_wire
                && pair[0].is_scan_complete <= pair[1].is_scan_complete;
            assert!(is_rising, "{kind}: {pair:?}");
        }
        let last = ended.progress.last().unwrap();
        assert!(last.is_scan_complete, "{kind}: {last:?}");
        assert_eq!(
            (last.files_done, last.bytes_done),
            (last.files_total, last.bytes_total),
            "{kind}: {last:?}"
        );
        assert_eq!(last.permille(), 1000, "{kind}");
    })
    .await;
}

/// Promise 7: no effect follows a cancellation, and the attempt ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_is_noticed() {
    on_every_kind(any, |step, mut world| async move {
        let kind = step.descriptor().kind;
        let found = world.state();
        let attempt = world.begin(step, KillPoint::default());
        attempt.keeper.cancel("somebody asked");
        let ended = world.attend(step, Way::Run, attempt, |_keeper| ()).await;
        assert_eq!(ended.outcome.unwrap_err().kind, FailureKind::Cancelled, "{kind}");
        if changing(step.descriptor().reversibility) {
            let ended = stopped_in_the_middle(step, &mut world, |keeper| keeper.cancel("asked")).await;
            assert_eq!(ended.outcome.unwrap_err().kind, FailureKind::Cancelled, "{kind}");
        }
        assert_eq!(world.state(), found, "{kind}");
        // What was stopped is simply run again.
        world.attempt(step, Way::Run, KillPoint::default()).await.outcome.unwrap();
    })
    .await;
}

/// Promises 8 and 9, for runs, undos and failures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_step_says_is_small_and_holds_no_secret() {
    on_every_kind(any, |step, mut world| async move {
        let kind = step.descriptor().kind;
        let run = world.attempt(step, Way::Run, KillPoint::default()).await;
        fs::write(world.destination().join("same/kept"), format!("{SECRET} of a customer")).unwrap();
        let undo = world.attempt(step, Way::Undo, KillPoint::default()).await;
        // A source that is not there, and a root that cannot be one.
        fs::rename(world.source(), world.source().with_extension("away")).unwrap();
        let failed = world.attempt(step, Way::Run, KillPoint::default()).await;
        for (way, ended) in [("run", run), ("undo", undo), ("failed", failed)] {
            let said = match &ended.outcome {
                Ok(output) => {
                    let value: serde_json::Value = serde_json::from_str(output).unwrap();
                    assert!(value.is_object(), "{kind} {way}: {output}");
                    output.clone()
                }
                Err(failure) => serde_json::to_string(failure).unwrap(),
            };
            assert!(said.len() < RECORD_BYTES_MAX / 8, "{kind} {way}: {} bytes", said.len());
            let all = said + &serde_json::to_string(&ended.findings).unwrap();
            assert!(!all.contains(SECRET), "{kind} {way}: content is told: {all}");
            let ticket: String = ended.ticket[..32].iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!all.contains(&ticket), "{kind} {way}: the ticket is told: {all}");
        }
    })
    .await;
}
