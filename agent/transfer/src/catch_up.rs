//! `file.catch_up`: passes while the source is live, until a later step asks for the last one.
//!
//! A pass follows the one before at once as long as the freeze gets shorter by it. Then the step says that it is caught
//! up, and goes on with pauses, so that it stays so. Each pass is whole for itself: one that is stopped, by the later
//! step or by a kill, leaves what the next one goes on from.

use std::time::Duration;

use common::clock::{self, BootTime};
use common::failure::{Failure, Retry};
use common::step::file::{FileOutput, FileParams};
use common::step::pass::{PassRecord, ScanKind, is_caught_up, predict_freeze_ms};
use sync::wire::hello::Watch;

use crate::context::{SoFar, StepContext};
use crate::copy::{Asked, Before, Passed, one_pass, stopped};
use crate::endpoint::Endpoint;

/// The least pause between two passes once it is caught up.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest, so that even the difference of a huge tree stays small.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// A pause is so much longer than the pass before it: looking shall take a tenth of the time of the source's disks.
const PAUSE_FACTOR: u32 = 9;
/// Between two tries to reach a source that is away.
const AWAY_PAUSE: Duration = Duration::from_secs(10);
/// A watch does not see everything: so often a pass looks at all, which also tells how long that takes now.
const WHOLE_EVERY: Duration = Duration::from_secs(600);

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
    let mut watching = Watching { why: (ctx.attempt > 1).then_some(BEGAN_ANEW), ..Watching::default() };
    loop {
        let passed = one_pass(&ctx, endpoint, params.clone(), before, watching.ask()).await;
        let Passed { mut output, told, kept } = match (passed, so_far) {
            (Ok(passed), _) => passed,
            // The last pass does what this one was stopped at.
            (Err(_), Some(SoFar { output, .. })) if finish.is_cancelled() && ctx.lease.check().is_ok() => {
                return Ok(output);
            }
            // Who waits for a person waits for a source that is away, too.
            (Err(failure), Some(said)) if said.lag_ms.is_some() && may_pass(&ctx, &failure) => {
                tracing::warn!(migration = %ctx.migration, %failure, "a pass failed and is made again");
                if !pause(&ctx, AWAY_PAUSE).await? {
                    return Ok(said.output);
                }
                (before, so_far) = (Before::Attempts, Some(said));
                watching = Watching { why: Some(FAILED), ..Watching::default() };
                continue;
            }
            (Err(failure), _) => return Err(failure),
        };
        before = Before::Pass(kept);
        watching.hear(told.watch, told.of_step.last());
        output.freeze_predicted_ms = predict_freeze_ms(&told.all);
        if finish.is_cancelled() {
            return Ok(output);
        }
        let was_caught_up = ctx.course.so_far.borrow().as_ref().is_some_and(|so_far| so_far.lag_ms.is_some());
        let is_caught_up =
            was_caught_up || is_caught_up(&told.all, told.made, rules.threshold_ms, rules.max_passes);
        let lag_ms = is_caught_up.then(|| output.freeze_predicted_ms.unwrap_or(0));
        let said = SoFar { output, lag_ms };
        let is_news = is_worth_telling(&said, ctx.course.so_far.borrow().as_ref());
        if is_news {
            ctx.course.so_far.send_replace(Some(said.clone()));
        }
        if is_caught_up && !pause(&ctx, pause_after(told.of_step.last())).await? {
            return Ok(said.output);
        }
        so_far = Some(said);
    }
}

/// What the source is asked to look at.
#[derive(Debug, Default)]
struct Watching {
    watch: Option<u64>,
    looked_at_all: Option<BootTime>,
    /// Why there is no watch that was there before.
    why: Option<&'static str>,
}

/// Why a pass looks at everything.
const BEGAN_ANEW: &str = "the step began anew, and no watch is trusted beyond that";
const FAILED: &str = "the pass before it failed";
const IN_TURN: &str = "every ten minutes a pass looks at everything";

impl Watching {
    /// Returns what to ask for: what changed, or everything where nobody watches or it is time to look at all again.
    fn ask(&mut self) -> Asked {
        let is_fresh = self.looked_at_all.is_some_and(|when| clock::boot().since(when) < WHOLE_EVERY);
        let why = self.why.take();
        match self.watch {
            Some(watch) if is_fresh => Asked { watch: Watch::Since(watch), why },
            Some(_) => Asked { watch: Watch::Begin, why: Some(IN_TURN) },
            None => Asked { watch: Watch::Begin, why },
        }
    }

    /// Hears whether the source is watched, and how the pass was made.
    fn hear(&mut self, watch: Option<u64>, pass: Option<&PassRecord>) {
        self.watch = watch;
        if pass.is_some_and(|pass| pass.scan == ScanKind::Full) {
            self.looked_at_all = Some(clock::boot());
        }
    }
}

/// Whether anybody learns something by it: every word goes into the coordinators' log.
fn is_worth_telling(said: &SoFar, before: Option<&SoFar>) -> bool {
    let Some(before) = before.filter(|before| before.lag_ms.is_some()) else { return true };
    let (last, earlier) = (said.output.passes.last(), before.output.passes.last());
    last.is_some_and(|pass| pass.files_changed > 0)
        || last.and_then(|pass| pass.why.as_ref()) != earlier.and_then(|pass| pass.why.as_ref())
        || said.output.is_partial != before.output.is_partial
        || said.output.findings_total != before.output.findings_total
}

/// Whether a pass that failed may be made again by the same attempt.
fn may_pass(ctx: &StepContext, failure: &Failure) -> bool {
    failure.retry == Retry::Later && ctx.lease.check().is_ok()
}

/// Returns the pause behind a pass.
fn pause_after(last: Option<&PassRecord>) -> Duration {
    let took = Duration::from_millis(last.map_or(0, |pass| pass.duration_ms));
    took.saturating_mul(PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// Waits until the next pass is due; says whether there is one.
async fn pause(ctx: &StepContext, pause: Duration) -> Result<bool, Failure> {
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
        // By a name that no directory of the tree has, which no watch sees.
        let elsewhere = root.with_file_name("elsewhere");
        fs::write(elsewhere.join("alias"), format!("by another name {round}")).unwrap();
        fs::create_dir_all(elsewhere.join(format!("in-{round}/deep"))).unwrap();
        fs::write(elsewhere.join(format!("in-{round}/deep/file")), "moved in").unwrap();
        fs::rename(elsewhere.join(format!("in-{round}")), root.join(format!("a/in-{round}"))).unwrap();
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
        let elsewhere = root.with_file_name("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(root.join("a/aliased"), "by another name x").unwrap();
        fs::hard_link(root.join("a/aliased"), elsewhere.join("alias")).unwrap();
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
        assert!(
            output.passes.iter().any(|pass| pass.scan == ScanKind::Watched && pass.files_changed > 0),
            "{output:?}"
        );
        // Stopped and begun again, as after a kill of either agent.
        pair.attempt = 2;
        pair.course.finish = tokio_util::sync::CancellationToken::new();
        pair.course.so_far.send_replace(None);
        let again = catch_up(&mut pair, 2..3).await;
        assert!(again.passes_total > output.passes_total, "{again:?}");

        change(&pair.source_root, 3);
        // The destination has no such name.
        fs::remove_file(pair.source_root.with_file_name("elsewhere/alias")).unwrap();
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_source_whose_clock_went_back_is_compared_by_content() {
        let mut pair = Pair::new();
        let path = pair.source_root.join("file");
        fs::write(&path, "before").unwrap();
        pair.copy().await.0.unwrap();
        // The pass began at a time that is still to come: the clock was ahead then, and was set back since.
        let is_stage = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(".drover-");
        let names = fs::read_dir(&pair.destination_root).unwrap().map(|entry| entry.unwrap().file_name());
        let passes = pair.destination_root.join(names.into_iter().find(is_stage).unwrap()).join("passes");
        let text = fs::read_to_string(&passes).unwrap();
        let began = text.split("\"seconds\":").nth(1).unwrap().split(',').next().unwrap().to_owned();
        let later = (began.parse::<i64>().unwrap() + 3_600).to_string();
        fs::write(&passes, text.replacen(&began, &later, 1)).unwrap();
        // The same size and time, and a change time that is older than that pass.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "behind").unwrap();
        let times = fs::FileTimes::new().set_modified(modified);
        fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        pair.params.scope = Scope::Finish;
        pair.copy().await.0.unwrap();
        assert_eq!(fs::read_to_string(pair.destination_root.join("file")).unwrap(), "behind");
        pair.close().await;
    }
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_left_out_for_its_size_stays_through_all_passes() {
        let mut pair = Pair::new();
        tree(&pair.source_root);
        fs::write(pair.source_root.join("a/large"), vec![1; 200_000]).unwrap();
        fs::create_dir_all(pair.destination_root.join("a")).unwrap();
        fs::write(pair.destination_root.join("a/large"), "as it was").unwrap();
        (pair.params.delete, pair.params.max_delete) = (true, common::spec::MaxDelete::Percent(100));
        pair.params.rules.max_size = Some(100_000);
        pair.copy().await.0.unwrap();
        let output = catch_up(&mut pair, 0..2).await;
        assert!(output.passes.iter().all(|pass| pass.scan == ScanKind::Full), "{output:?}");
        let kept = fs::read_to_string(pair.destination_root.join("a/large")).unwrap();
        assert_eq!(kept, "as it was");
        assert!(pair.verify().await.0.unwrap().is_verified);
        pair.close().await;
    }
}
