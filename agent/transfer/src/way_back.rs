//! The way back of a migration, as the daemon calls it: undo it, look at what that would do, or end it.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::failure::{Failure, FailureKind};
use common::rel_path::is_component;
use common::step::file::{FileParams, ListQuestion, SettleQuestion, UndoPreview, UndoQuestion};
use tree::{Name, Root};

use crate::backup;
use crate::begun;
use crate::commit::Committer;
use crate::context::StepContext;
use crate::fence::Fence;
use crate::kill_point::KillPoint;
use crate::ledger::{Histories, LEDGER, read_settled};
use crate::memory::Memory;
use crate::passes::Passes;
use crate::stage::{Stage, clear};
use crate::trouble::of_stage;
use crate::undo::{preview, undo_all};

/// The list of the findings of the last undo.
const UNDO_LIST: &str = "undo-findings.jsonl";

/// Gives the destination back as it was before the migration, all but change times.
///
/// What somebody changed or added since is moved to the stage's `after/` and told as findings; then the stage stays
/// until the migration is settled. Run twice, or after a copy that was stopped anywhere, it ends the same.
///
/// # Errors
/// When the lease or the fence is lost, or something that was kept is gone (`Stuck`).
pub async fn undo(ctx: StepContext, params: FileParams) -> Result<UndoPreview, Failure> {
    ctx.lease.check()?;
    run_blocking(move || undo_blocking(&ctx, &params)).await
}

fn undo_blocking(ctx: &StepContext, params: &FileParams) -> Result<UndoPreview, Failure> {
    let memory = Memory::look(&ctx.state_dir, &ctx.migration);
    begun::end(Path::new(&params.destination_root), &memory)?;
    let Some(root) = open_root_of_stage(&params.destination_root, &memory)? else {
        memory.forget()?;
        return Ok(UndoPreview::default());
    };
    let Some(stage) = Stage::find(&root, &ctx.migration, &memory)? else { return Ok(UndoPreview::default()) };
    let memory = Memory::open(&ctx.state_dir, &ctx.migration)?;
    ctx.findings.list_in(&memory.list(UNDO_LIST))?;
    // An undo must be possible on a full disk: what was staged and never got a name makes room for it, also for the
    // fence's own file. It is not ours to clear once somebody with a newer token came.
    let inside = Fence::of(&stage.dir, ctx.token).enter()?;
    stage.home.unfinished().into_iter().chain([&stage.spill]).try_for_each(clear)?;
    drop(inside);
    let kill = ctx.kill_point();
    let mut committer = Committer::open(stage.clone(), ctx.token, ctx.lease.clone(), kill.clone())?;
    for id in stage.domains.all() {
        stage.domains.get(id)?.unfinished().into_iter().try_for_each(clear)?;
    }
    let undone = undo_all(&mut committer, &ctx.findings, &kill)?;
    drop(committer.enter()?);
    drop(committer);
    close(stage, &memory, &kill)?;
    ctx.findings.flush()?;
    Ok(undone)
}

/// Ends the stages of a ledger that was undone: all of them, but for those in which something is kept aside, and the
/// root's if there are such.
fn close(stage: Stage, memory: &Memory, kill: &KillPoint) -> Result<(), Failure> {
    // They say that there is a ledger, so they go before it.
    Passes::forget(&stage.dir)?;
    // Without its ledger there is nothing more to undo, whatever happens to the tree from now on.
    let ledger = Name::new(LEDGER).expect("a constant without slash");
    match stage.dir.unlink(&ledger) {
        Err(error) if !error.is_not_found() => return Err(of_stage(&error)),
        _ => {}
    }
    stage.dir.sync_dir().map_err(|error| of_stage(&error))?;
    let is_kept_elsewhere = stage.domains.remove(true, kill)?;
    let home = &stage.home;
    if is_kept_elsewhere || home.after.list().map_err(|error| of_stage(&error))?.next().is_some() {
        return home.unfinished().into_iter().chain([&home.undo, &stage.spill]).try_for_each(clear);
    }
    stage.remove_without_trace(memory, kill)
}

/// Counts what an undo would do. Changes nothing; blocking.
///
/// # Errors
/// When the root or its stage cannot be read.
pub fn undo_preview(state_dir: &Path, question: &UndoQuestion) -> Result<UndoPreview, Failure> {
    let memory = Memory::look(state_dir, &question.migration);
    let Some(root) = open_root_of_stage(&question.params.destination_root, &memory)? else {
        return Ok(UndoPreview::default());
    };
    let Some(stage) = Stage::find(&root, &question.migration, &memory)? else {
        return Ok(UndoPreview::default());
    };
    // The stage's own spill files may be those of an attempt that runs, and two may look at once.
    static PREVIEWS: AtomicU64 = AtomicU64::new(0);
    let label = format!("preview-{}", PREVIEWS.fetch_add(1, Relaxed));
    let memory = Memory::open(state_dir, &question.migration)?;
    let spill = Root::open(memory.folder()).map_err(|error| of_stage(&error))?.dir();
    let mut histories = Histories::sort(read_settled(&stage.dir)?, &spill, &label)?;
    preview(&stage, &mut histories)
}

/// Ends the way back: removes the stage with everything that is kept in it, which goes to the backup directory before
/// if there is one. The migrated tree stays; blocking.
///
/// # Errors
/// When a newer attempt works on the root (`Fenced`), or something cannot be removed; then it may be asked again.
pub fn settle(state_dir: &Path, question: &SettleQuestion) -> Result<(), Failure> {
    let memory = Memory::look(state_dir, &question.migration);
    begun::end(Path::new(&question.destination_root), &memory)?;
    let Some(root) = open_root(&question.destination_root)? else { return memory.forget() };
    let stage = match Stage::find(&root, &question.migration, &memory) {
        Ok(Some(stage)) => stage,
        Ok(None) => return memory.forget(),
        // It was moved away: nothing here is left to end.
        Err(failure) if failure.kind == FailureKind::Conflict => return memory.forget(),
        Err(failure) => return Err(failure),
    };
    let claimed = match Fence::claim(&stage.dir, question.token) {
        // On a full disk, what was staged and never got a name makes room for the token.
        Err(failure) if failure.kind == FailureKind::Exhausted => {
            stage.home.unfinished().into_iter().chain([&stage.spill]).try_for_each(clear)?;
            Fence::claim(&stage.dir, question.token)
        }
        claimed => claimed,
    };
    let (_fence, inside) = claimed?;
    if let Some(backup) = &question.backup_dir {
        backup::keep(&stage, backup)?;
    }
    stage.remove(&memory, &KillPoint::default())?;
    drop(inside);
    Ok(())
}

/// Opens a list of a migration: its findings, or what a dry run would do; lines of JSON; blocking.
///
/// # Errors
/// `NotFound` when there is no such list.
pub fn open_list(state_dir: &Path, question: &ListQuestion) -> Result<File, Failure> {
    let missing = |why: &str| {
        Failure::new(FailureKind::NotFound, format!("no list `{}`: {why}", question.list_file))
            .hint("Lists are kept by the destination's agent until it is set up anew.")
    };
    if !is_component(question.list_file.as_bytes()) {
        return Err(missing("it is not the name of a list"));
    }
    let memory = Memory::look(state_dir, &question.migration);
    File::open(memory.list(&question.list_file)).map_err(|error| missing(&error.to_string()))
}

/// Opens the root that the migration worked on; nothing if it never made a stage and there is no root.
///
/// # Errors
/// `Conflict` when there was a stage and the root is gone: what the migration did is somewhere else now, perhaps on a
/// disk that is not mounted, so neither is it undone nor may it be begun anew here.
pub(crate) fn open_root_of_stage(path: &str, memory: &Memory) -> Result<Option<Root>, Failure> {
    let root = open_root(path)?;
    if root.is_none() && memory.stage()?.is_some() {
        return Err(Failure::new(
            FailureKind::Conflict,
            format!("`{path}` is not there, and the migration has worked in it"),
        )
        .context("path", path)
        .hint(
            "Mount it, or move it back, then try again. If it was removed for good, settle the migration.",
        ));
    }
    Ok(root)
}

/// Opens a destination's root; nothing if it does not exist.
pub(crate) fn open_root(path: &str) -> Result<Option<Root>, Failure> {
    match Root::open(Path::new(path)) {
        Ok(root) => Ok(Some(root)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(of_stage(&error)),
    }
}

/// Runs blocking work beside the async code.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::new(FailureKind::Bug, format!("a thread panicked: {error}"))))
}
