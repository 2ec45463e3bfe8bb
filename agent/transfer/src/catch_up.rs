//! `file.catch_up`: passes while the source is live, until a later step asks for the last one.
//!
//! A pass follows the one before at once as long as the freeze gets shorter by it. Then the step says that it is caught
//! up, and goes on with pauses, so that it stays so. Each pass is whole for itself: one that is stopped, by the later
//! step or by a kill, leaves what the next one goes on from.

use std::time::Duration;

use common::failure::Failure;
use common::step::file::{FileOutput, FileParams};
use common::step::pass::{PassRecord, is_caught_up, predict_freeze_ms};

use crate::context::{SoFar, StepContext};
use crate::copy::{Before, one_pass, stopped};
use crate::endpoint::Endpoint;
use crate::passes::Told;

/// The least pause between two passes once it is caught up.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest, so that even the difference of a huge tree stays small.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// A pause is so much longer than the pass before it: looking shall take a tenth of the time of the source's disks.
const PAUSE_FACTOR: u32 = 9;

/// Keeps the destination caught up until it is asked to come to its end.
///
/// # Errors
/// As for a copy; what was done so far stays.
pub async fn run_catch_up(
    ctx: StepContext,
    endpoint: &Endpoint,
    params: FileParams,
) -> Result<FileOutput, Failure> {
    ctx.lease.check()?;
    let rules = params.catch_up.unwrap_or_default();
    let finish = ctx.course.finish.clone();
    let mut before = Before::of(&ctx);
    let mut so_far: Option<SoFar> = None;
    loop {
        let passed = one_pass(&ctx, endpoint, params.clone(), before).await;
        let (mut output, told) = match (passed, so_far) {
            (Ok(passed), _) => passed,
            // The last pass does what this one was stopped at.
            (Err(_), Some(SoFar { output, .. })) if finish.is_cancelled() && ctx.lease.check().is_ok() => {
                return Ok(output);
            }
            (Err(failure), _) => return Err(failure),
        };
        before = Before::Passes;
        output.freeze_predicted_ms = predict_freeze_ms(&told.all);
        if finish.is_cancelled() {
            return Ok(output);
        }
        let was_caught_up = ctx.course.so_far.borrow().as_ref().is_some_and(|so_far| so_far.lag_ms.is_some());
        let is_caught_up =
            was_caught_up || is_caught_up(&told.all, told.made, rules.threshold_ms, rules.max_passes);
        let lag_ms = is_caught_up.then(|| output.freeze_predicted_ms.unwrap_or(0));
        let said = SoFar { output, lag_ms };
        if is_worth_telling(&said, &told, was_caught_up) {
            ctx.course.so_far.send_replace(Some(said.clone()));
        }
        if is_caught_up && !pause(&ctx, told.of_step.last()).await? {
            return Ok(said.output);
        }
        so_far = Some(said);
    }
}

/// Whether anybody learns something by it: every word goes into the coordinators' log.
fn is_worth_telling(said: &SoFar, told: &Told, was_caught_up: bool) -> bool {
    let changed = told.of_step.last().is_some_and(|pass| pass.files_changed > 0);
    !was_caught_up || changed || said.output.is_partial
}

/// Waits until the next pass is due; says whether there is one.
async fn pause(ctx: &StepContext, last: Option<&PassRecord>) -> Result<bool, Failure> {
    let took = Duration::from_millis(last.map_or(0, |pass| pass.duration_ms));
    let pause = took.saturating_mul(PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX);
    tokio::select! {
        biased;
        () = ctx.lease.stop().cancelled() => Err(stopped(ctx)),
        () = ctx.course.finish.cancelled() => Ok(false),
        () = tokio::time::sleep(pause) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use common::phase::Scope;
    use common::spec::CatchUpSpec;

    use super::*;
    use crate::pair::{Pair, assert_same};
    use crate::snapshot::snapshot;

    /// Changes a tree in every way; each round is another one.
    fn change(root: &Path, round: u32) {
        fs::write(root.join("a/same-name"), format!("round {round}")).unwrap();
        fs::write(root.join(format!("a/new-{round}")), vec![7; 70_000]).unwrap();
        fs::rename(root.join(format!("a/old-{round}")), root.join(format!("b/moved-{round}"))).unwrap();
        fs::create_dir_all(root.join(format!("made-{round}/deep"))).unwrap();
        fs::write(root.join(format!("made-{round}/deep/file")), "deep").unwrap();
        let odd = 0o600 + round;
        fs::set_permissions(root.join("b/mode"), PermissionsExt::from_mode(odd)).unwrap();
        fs::remove_file(root.join(format!("b/gone-{round}"))).unwrap();
        fs::hard_link(root.join("a/kept"), root.join(format!("b/link-{round}"))).unwrap();
        // The same size, and the time put back.
        let path = root.join("a/quiet");
        let times = fs::metadata(&path).unwrap();
        fs::write(&path, format!("quiet {round}")).unwrap();
        let times = fs::FileTimes::new().set_modified(times.modified().unwrap());
        fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    }

    fn tree(root: &Path) {
        for folder in ["a", "b"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        for name in ["a/same-name", "a/kept", "a/quiet", "b/mode"] {
            fs::write(root.join(name), "quiet 0").unwrap();
        }
        for round in 0..4 {
            fs::write(root.join(format!("a/old-{round}")), format!("old {round}")).unwrap();
            fs::write(root.join(format!("b/gone-{round}")), "gone").unwrap();
        }
    }

    /// Runs `file.catch_up`; a round of changes is made each time that the one before has arrived.
    async fn catch_up(pair: &mut Pair, rounds: std::ops::Range<u32>) -> FileOutput {
        let (context, _findings) = pair.context();
        let (mut so_far, finish) = (context.course.so_far.subscribe(), context.course.finish.clone());
        let params = FileParams { catch_up: Some(CatchUpSpec::default()), ..pair.params.clone() };
        let (from, to) = (pair.source_root.clone(), pair.destination_root.clone());
        let meanwhile = async move {
            so_far.wait_for(|said| said.as_ref().is_some_and(|said| said.lag_ms.is_some())).await.unwrap();
            for round in rounds {
                change(&from, round);
                let arrived = to.join(format!("made-{round}/deep/file"));
                so_far.wait_for(|_| arrived.exists()).await.unwrap();
            }
            finish.cancel();
        };
        let (output, ()) = tokio::join!(run_catch_up(context, &pair.endpoint, params), meanwhile);
        output.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn passes_follow_a_live_source_and_the_last_one_brings_the_rest() {
        let mut pair = Pair::new();
        tree(&pair.source_root);
        fs::create_dir(&pair.destination_root).unwrap();
        fs::write(pair.destination_root.join("own"), "there before").unwrap();
        let before = snapshot(&pair.destination_root);
        pair.params.delete = true;
        pair.params.max_delete = common::spec::MaxDelete::Percent(100);
        pair.copy().await.0.unwrap();
        assert!(pair.verify().await.0.unwrap().is_verified);

        let output = catch_up(&mut pair, 0..2).await;
        assert!(output.passes_total >= 3, "{output:?}");
        assert!(output.freeze_predicted_ms.is_some());
        let changed: u64 = output.passes.iter().map(|pass| pass.files_changed).sum();
        assert!(changed >= 14, "{output:?}");
        // Stopped and begun again, as after a kill of either agent.
        pair.attempt = 2;
        pair.course.finish = tokio_util::sync::CancellationToken::new();
        pair.course.so_far.send_replace(None);
        let again = catch_up(&mut pair, 2..3).await;
        assert!(again.passes_total > output.passes_total, "{again:?}");

        change(&pair.source_root, 3);
        (pair.attempt, pair.params.scope) = (1, Scope::Finish);
        let finished = pair.copy().await.0.unwrap();
        assert_eq!(finished.passes_total, again.passes_total + 1);
        assert_same(&snapshot(&pair.destination_root), &snapshot(&pair.source_root), "caught up");
        let verified = pair.verify().await.0.unwrap();
        assert!(verified.is_verified, "{verified:?}");
        assert!(verified.proof.content_files >= 8, "what was brought since the first proof: {verified:?}");

        assert_eq!(pair.undo().await.0, Ok(0));
        assert_same(&snapshot(&pair.destination_root), &before, "undone");
        pair.close().await;
    }
}
