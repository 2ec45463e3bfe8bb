//! The committer's thread: items gathered into groups, synced, and committed while the next ones are staged.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::finding::{Rule, Severity};
use common::rel_path::RelPath;
use sync::entry::Entry;
use tree::{Attribute, Name, Problem, TreeError};

use super::apply::TIMES_ASKED_MAX;
use super::gathering::Gathering;
use super::{Again, Item, Landing, Pass};
use crate::commit::{Committer, Outcome, Seen};
use crate::standing::look;
use crate::tally::add;
use crate::trouble::of_stage;

/// Files in a group: enough that the syncs of a group are shared by many.
const GROUP_FILES: usize = 2048;
/// Files in a group at most, whatever waits.
const GROUP_FILES_MAX: usize = 8192;
/// How long the first file of a group waits.
const GROUP_AGE: Duration = Duration::from_secs(2);
/// How long an idle committer waits before it looks whether somebody waits for it.
const PATIENCE: Duration = Duration::from_millis(5);

/// Commits what comes, until every sender is gone or the pass fails.
pub(super) fn run(pass: &Pass, committer: &mut Committer, items: &Receiver<Item>) -> Result<(), Failure> {
    let mut gathering = Gathering::default();
    let mut first = clock::boot();
    loop {
        let received = items.recv_timeout(PATIENCE);
        let is_idle = received.is_err();
        let is_at_end = matches!(received, Err(RecvTimeoutError::Disconnected));
        if let Ok(item) = received {
            if gathering.is_empty() {
                first = clock::boot();
            }
            gathering.push(item)?;
        }
        pass.flow.check()?;
        let is_full = gathering.len() >= GROUP_FILES_MAX
            || gathering.bytes() >= pass.flow.group_bytes()
            || (gathering.len() >= GROUP_FILES && is_idle)
            || clock::boot().since(first) >= GROUP_AGE;
        let is_wanted = is_at_end || (is_idle && pass.flow.is_waited_for());
        if !gathering.is_empty() && (is_full || is_wanted) {
            pass.flow.wait_until_let_go()?;
            gathering.choose(is_wanted);
            while !gathering.is_whole() {
                // An applier is about to send what it has begun, or the pass has failed.
                match items.recv_timeout(PATIENCE) {
                    Ok(item) => gathering.push(item)?,
                    Err(_nothing) => pass.flow.check()?,
                }
            }
            commit(pass, committer, gathering.take())?;
            first = clock::boot();
        }
        if is_at_end {
            return committer.finish();
        }
    }
}

/// Commits one group, and counts what became of it.
pub(super) fn commit(pass: &Pass, committer: &mut Committer, group: Vec<Item>) -> Result<(), Failure> {
    let items = group.len();
    let held_bytes = group.iter().map(Item::held_bytes).sum();
    let mut tasks = Vec::with_capacity(items);
    let mut rest = Vec::with_capacity(items);
    for Item { task, landing, cost, problems, sidecar, again, seat: _, assembly: _ } in group {
        refuse_quota(&problems)?;
        let record = pass.known.record_of(&task);
        rest.push((task.path.clone(), task.domain, landing, cost, problems, sidecar, again, record));
        tasks.push(task);
    }
    let outcomes = committer.commit(pass.number, tasks)?;
    for ((path, domain, landing, cost, mut problems, sidecar, again, record), outcome) in
        rest.into_iter().zip(outcomes)
    {
        match outcome {
            Outcome::Done { ctime: _, problems: more } => {
                refuse_quota(&more)?;
                problems.extend(more);
                count(pass, landing);
                if let Some(record) = record {
                    pass.known.note(record);
                }
            }
            Outcome::Conflict if compare_again(pass, again.as_deref())? => {}
            Outcome::Conflict => conflict(pass, &path, landing),
            Outcome::Failed(error) if error.is_exdev() && ask_elsewhere(pass, again.as_deref())? => {}
            Outcome::Failed(error) if error.is_busy() && landing == Landing::Removal => {
                mount_point_stays(pass, &path);
            }
            Outcome::Failed(error) => unwritable(pass, &path, &error),
        }
        if let Some(sidecar) = sidecar {
            // What stays is cleared at the end of the pass.
            pass.stage.domains.get(domain)?.large.unlink(&sidecar).ok();
        }
        for problem in problems {
            attribute(pass, &path, &problem);
        }
        if let Some(cost) = cost {
            pass.flow.release(cost);
        }
    }
    pass.flow.land(items, held_bytes);
    Ok(())
}

/// An owner whose quota is used up cannot be given what is his: that is about the whole destination, not about an entry.
fn refuse_quota(problems: &[Problem]) -> Result<(), Failure> {
    let quota = problems.iter().find(|problem| problem.error.is_quota());
    quota.map_or(Ok(()), |problem| Err(of_stage(&problem.error)))
}

fn count(pass: &Pass, landing: Landing) {
    let counters = &pass.counters;
    match landing {
        Landing::Content { bytes, data, is_counted, is_copied } => {
            add(&counters.files_sent, 1);
            add(&counters.bytes_landed, bytes);
            add(&counters.data_landed, data);
            if is_copied {
                add(&counters.bytes_deduplicated, bytes);
                add(&counters.data_deduplicated, data);
            }
            counters.done(if is_counted { 0 } else { bytes });
        }
        Landing::Place => {
            add(&counters.files_sent, 1);
            counters.done(0);
        }
        Landing::Metadata { bytes } => {
            add(&counters.metadata_changed, 1);
            counters.done(bytes);
        }
        Landing::Removal => add(&counters.deleted, 1),
        Landing::Directory | Landing::Touch => {}
    }
}

/// Has an entry that changed, or appeared, since it was compared compared and brought once more; says whether nothing is
/// left to tell.
fn compare_again(pass: &Pass, again: Option<&Again>) -> Result<bool, Failure> {
    let may_be = |again: &&Again| again.times_asked + 1 < TIMES_ASKED_MAX;
    let Some(mut again) = again.filter(may_be).cloned() else { return Ok(false) };
    let Some((parent, name)) = again.path.split() else { return Ok(false) };
    let name = Name::new(name).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let now = pass.stage.root.open_beneath(parent.as_bytes()).and_then(|dir| look(&dir, &name));
    match now {
        // Somebody else made the directory that was to be made: its metadata is set at the end of the pass, as that of
        // every directory that was there before.
        Ok(Some(entry)) if entry.kind.is_directory() => return Ok(again.source.kind.is_directory()),
        Ok(now) => again.seen = now.map(|entry| Box::new(Seen { entry, is_ours: false })),
        Err(_gone) => return Ok(false),
    }
    again.times_asked += 1;
    pass.ask_again(&again)?;
    Ok(true)
}

/// Has a file brought once more whose place is in another rename domain than it was when it was asked for: a project was
/// set there, or something mounted. Says whether it will be.
fn ask_elsewhere(pass: &Pass, again: Option<&Again>) -> Result<bool, Failure> {
    pass.stage.domains.forget_directories();
    let Some(again) = again.filter(|again| again.times_asked + 1 < TIMES_ASKED_MAX) else { return Ok(false) };
    pass.ask_again(&Again { times_asked: again.times_asked + 1, ..again.clone() })?;
    Ok(true)
}

/// Tells that a directory which the source does not have was emptied, but cannot go.
pub(super) fn mount_point_stays(pass: &Pass, path: &RelPath) {
    pass.except(
        Rule::NotDeleted,
        Severity::Warning,
        path,
        "what it held was removed, but not the directory itself: another file system, subvolume or project begins there",
        "Unmount it and remove it by hand, when the migration is settled.",
    );
}

fn conflict(pass: &Pass, path: &RelPath, landing: Landing) {
    let (rule, message) = if landing == Landing::Removal {
        (
            Rule::NotDeleted,
            "it was not removed: it changed since it was compared, or something was added to it",
        )
    } else {
        (
            Rule::Conflict,
            "somebody else changed it at the destination while it was compared; it stays as they left it",
        )
    };
    let hint = "Stop whatever writes to the destination, then run the migration again.";
    pass.except(rule, Severity::Error, path, message, hint);
}

/// Reports that an entry could not be made.
pub(super) fn unwritable(pass: &Pass, path: &RelPath, error: &TreeError) {
    let (rule, hint) = if error.is_too_many_links() {
        (Rule::HardLink, "The file system allows no more names for this file; leave some out with --exclude.")
    } else if error.is_permission() {
        (Rule::Unwritable, "Run the agent as root, or look for immutable flags and read-only mounts.")
    } else if error.is_exdev() {
        (
            Rule::Unwritable,
            "What stands there belongs to another mount, subvolume or project than the directory around it. Give it the \
             same project (`chattr -p`), or move it away, then run the migration again.",
        )
    } else if error.is_too_large() {
        (
            Rule::Unwritable,
            "The destination's file system takes no file this large; leave it out with --exclude.",
        )
    } else if error.is_busy() {
        (Rule::Unwritable, "Something is mounted there; unmount it, or leave it out with --exclude.")
    } else if error.is_name_too_long() {
        (
            Rule::Unwritable,
            "The destination's file system takes no name, or no text of a link, this long; change it at the source.",
        )
    } else {
        (Rule::Unwritable, "See the cause; the rest of the tree was brought.")
    };
    pass.except(rule, Severity::Error, path, common::failure::chain(error), hint);
}

/// Reports an attribute that could not be set.
pub(super) fn attribute(pass: &Pass, path: &RelPath, problem: &Problem) {
    let hint = match problem.attribute {
        Attribute::Owner => "Run the agent as root, or accept that everything belongs to its user.",
        Attribute::Xattr(_) => {
            "Run the agent as root, or accept it: the destination's file system, or the agent's rights, do not allow this attribute."
        }
        Attribute::Mode => "Run the agent as root.",
        Attribute::Times => {
            "Run the agent as root, or set a time at the source that the destination can hold."
        }
    };
    let message =
        format!("the {} could not be set: {}", problem.attribute, common::failure::chain(&problem.error));
    pass.except(Rule::Attribute, Severity::Warning, path, message, hint);
}

/// Returns the group's share that an entry of this kind counts as.
pub(super) fn landing_of(entry: &Entry) -> Landing {
    if entry.kind.is_directory() { Landing::Directory } else { Landing::Place }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::sync::{Arc, mpsc};

    use super::*;
    use crate::commit::Effect;
    use crate::domain::HOME;
    use crate::kill_point::KillPoint;
    use crate::memory::Memory;
    use crate::pair::Pair;
    use crate::passes::RootMark;
    use crate::pull::flow::Flow;
    use crate::pull::{Host, Known};
    use crate::stage::Stage;
    use crate::standing::look_at_self;
    use crate::tally::Counters;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_lands_before_it_is_known_to_fit() {
        let mut pair = Pair::new();
        let (context, _findings) = pair.context();
        let memory = Memory::open(&pair.state_dir, &context.migration).unwrap();
        let root = Path::new(&pair.params.destination_root);
        let stage = Stage::make(root, &context.migration, &memory, &KillPoint::default()).unwrap();
        let seen = Box::new(look_at_self(&stage.root).unwrap());
        let effects = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&effects);
        let kill = KillPoint::watched(move |_number| {
            counted.fetch_add(1, SeqCst);
        });
        let mut committer = Committer::open(stage, context.token, context.lease.clone(), kill).unwrap();
        effects.store(0, SeqCst);
        let flow = Arc::new(Flow::default());
        flow.hold();
        let host = Host {
            pass: 1,
            first_pass: 1,
            step: context.step.clone(),
            began: common::clock::boot(),
            only: None,
            goes_on_counting: false,
            why: None,
            boot_id: String::new(),
            is_network_source: false,
            source_root: RootMark { boot_id: String::new(), dev: 1, ino: 1 },
            known: Known::new(None, [0; 32], String::new()),
        };
        let (params, findings, counters) =
            (pair.params.clone(), context.findings.clone(), Arc::<Counters>::default());
        let pass = Pass::new(params, &committer, findings, counters, Arc::clone(&flow), host).unwrap();
        let (items, waiting) = mpsc::sync_channel(1);
        let touch = Item::new(RelPath::root(), HOME, Effect::Touch { seen }, Landing::Touch);
        pass.send(&items, touch).unwrap();
        // The end of the items commits what there is.
        drop(items);
        let (pass, committer) = (&pass, &mut committer);
        std::thread::scope(|scope| {
            let committing = scope.spawn(move || run(pass, committer, &waiting));
            while !flow.is_waited_for() && !committing.is_finished() {
                std::thread::yield_now();
            }
            assert_eq!(effects.load(SeqCst), 0, "it landed before it was known to fit");
            flow.let_go();
            committing.join().unwrap().unwrap();
        });
        assert!(effects.load(SeqCst) > 0);
        pair.close().await;
    }
}
