//! Following a migration to its end, on any node that leads meanwhile.
//!
//! Looking on changes nothing: when the watcher is interrupted or loses the cluster, the migration goes on, and the
//! last words say how to look again.

use std::cell::Cell;
use std::time::Duration;

use common::clock::{self, BootTime};
use common::failure::{Failure, FailureKind};
use common::human;
use common::id::MigrationId;
use common::view::{End, MigrationStatus, MigrationView};

use crate::client::{Client, Watch};
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::Consent;
use crate::output::style::{Meaning, Text};
use crate::summary;
use crate::verb::Verb;

/// How long the cluster may be away before the watcher gives up: a restart of all nodes takes less.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause before a broken watch is begun again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the coordinator may be silent before the watcher is told; an election is over by then.
const SILENCE_TOLD: Duration = Duration::from_secs(3);
/// How often progress is drawn while nothing new arrives.
const DRAW_INTERVAL: Duration = Duration::from_millis(250);

/// Shows how far a migration is until it has ended, and returns it whole.
///
/// # Errors
/// When it does not exist, the cluster stays away, or somebody interrupts the watching.
pub(crate) async fn follow(
    context: &CommandContext,
    client: &Client,
    migration: &MigrationId,
) -> Result<MigrationView, CommandError> {
    let mut progress = context.output.progress();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut draw = tokio::time::interval(DRAW_INTERVAL);
    // Set while no coordinator answers; read while the next view is awaited.
    let silent_since = Cell::new(None);
    let (mut is_told, mut is_awaited) = (false, false);
    let mut views = Views::new(client, migration, &silent_since);
    let mut latest: Option<MigrationView> = None;
    let result = loop {
        // The next view survives the loop's other arms: its future is only replaced once it was ready.
        let mut next = std::pin::pin!(views.next(context));
        let view = loop {
            tokio::select! {
                biased;
                _ = &mut interrupt => break Err(interrupted(migration)),
                view = &mut next => break view,
                _ = draw.tick() => match silent_since.get() {
                    Some(since) if clock::boot().since(since) >= SILENCE_TOLD => {
                        if !std::mem::replace(&mut is_told, true) {
                            progress.clear();
                            context.output.note(&silence_text());
                        }
                    }
                    Some(_) | None => if let Some(latest) = &latest { progress.show(latest) },
                },
            }
        };
        match view {
            Ok(view) if view.status.is_end() => break Ok(view),
            Ok(view) => {
                is_told = false;
                let awaits = view.status == MigrationStatus::AwaitingCutover;
                if awaits && !std::mem::replace(&mut is_awaited, awaits) {
                    progress.clear();
                    context.output.note(&awaiting_text(&view));
                }
                is_awaited = awaits;
                progress.show(&view);
                latest = Some(view);
            }
            Err(error) => break Err(error),
        }
    };
    progress.clear();
    result
}

/// What is said to somebody who stops watching.
fn interrupted(migration: &MigrationId) -> CommandError {
    Failure::new(FailureKind::Cancelled, format!("stopped watching; migration {migration} goes on"))
        .hint(look_again(migration))
        .into()
}

/// What is said to somebody whose watch broke. Whether the migration goes on is the agents' knowledge, not ours.
fn silence_text() -> Text {
    Text::line("No coordinator answers; running steps go on to the end of their lease. Trying again ...")
}

/// What is said to somebody who watches a migration that waits for him.
fn awaiting_text(view: &MigrationView) -> Text {
    let freeze = human::duration(Duration::from_millis(view.downtime_predicted_ms));
    Text::line(format!(
        "It is caught up and awaits the cutover, with a predicted freeze of {freeze}: stop the writers, then `ctl cutover {}`.",
        view.id
    ))
}

/// How to look at a migration, and how to end it.
pub(crate) fn look_again(migration: &MigrationId) -> String {
    format!("`ctl watch {migration}` looks again, `ctl cancel {migration}` stops and undoes it")
}

/// The views of one migration, whichever node they come from.
struct Views<'a> {
    client: &'a Client,
    migration: &'a MigrationId,
    watch: Option<Watch>,
    silent_since: &'a Cell<Option<BootTime>>,
}

impl<'a> Views<'a> {
    fn new(client: &'a Client, migration: &'a MigrationId, silent_since: &'a Cell<Option<BootTime>>) -> Self {
        Self { client, migration, watch: None, silent_since }
    }

    /// Returns the next view, beginning the watch again when it broke.
    async fn next(&mut self, context: &CommandContext) -> Result<MigrationView, CommandError> {
        loop {
            if self.watch.is_none() {
                self.begin_silence();
            }
            let failure = match self.try_next().await {
                Ok(view) => {
                    self.silent_since.set(None);
                    return Ok(view);
                }
                Err(failure) => failure,
            };
            self.watch = None;
            // A watch says nothing while nothing changes, so the silence begins where it broke and not before.
            let is_patient = clock::boot().since(self.begin_silence()) < PATIENCE;
            if !(is_patient && may_pass(failure.kind)) {
                let hint = match failure.hint {
                    None if may_pass(failure.kind) => Some(look_again(self.migration)),
                    hint => hint,
                };
                return Err(Failure { hint, ..failure }.into());
            }
            context.output.detail(format!("the watch broke and begins again: {failure}"));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns since when no coordinator answers, which is now unless it began before.
    fn begin_silence(&self) -> BootTime {
        let since = self.silent_since.get().unwrap_or_else(clock::boot);
        self.silent_since.set(Some(since));
        since
    }

    async fn try_next(&mut self) -> Result<MigrationView, Failure> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            empty => empty.insert(self.client.watch(self.migration).await?),
        };
        let ended = || Failure::new(FailureKind::Unreachable, "the coordinator ended the watch");
        watch.next().await?.ok_or_else(ended)
    }
}

/// Whether a watch that broke this way may work when it is begun again. A connection that was cut shows as a bug of
/// the protocol, so that kind is tried again too.
fn may_pass(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Unreachable
        | FailureKind::Timeout
        | FailureKind::Throttled
        | FailureKind::Fenced
        | FailureKind::Cancelled
        | FailureKind::Bug => true,
        FailureKind::Invalid
        | FailureKind::Unauthenticated
        | FailureKind::Denied
        | FailureKind::NotFound
        | FailureKind::Conflict
        | FailureKind::Unsupported
        | FailureKind::Changed
        | FailureKind::Corrupt
        | FailureKind::Exhausted
        | FailureKind::Stuck => false,
    }
}

/// Asks for a change of a migration, and asks the operator first where the coordinator wants agreement.
///
/// # Errors
/// When the cluster refuses, cannot be reached, or nobody agreed.
pub(crate) async fn act(
    context: &CommandContext,
    client: &Client,
    migration: &MigrationId,
    verb: Verb,
) -> Result<MigrationView, CommandError> {
    let is_agreed = context.output.consent() == Consent::Given;
    match client.act(migration, verb, is_agreed).await {
        Ok(view) => Ok(view),
        Err(failure) => {
            let Some(sentence) = failure.confirmation().filter(|_| !is_agreed) else {
                return Err(failure.into());
            };
            context.output.confirm(sentence)?;
            Ok(client.act(migration, verb, true).await?)
        }
    }
}

/// Shows where a migration stands; for people, with whom to ask when something stopped it.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) async fn show(
    context: &CommandContext,
    client: &Client,
    view: &MigrationView,
) -> Result<(), CommandError> {
    let output = &context.output;
    output.answer(view, |view| summary::text(view, output.width(), output.is_verbose()))?;
    if view.errors.is_empty() || output.is_json() || output.is_quiet() {
        return Ok(());
    }
    // The answer is out; that nobody can be named for help is no failure of it.
    let report = client.report(&view.id).await.ok();
    if let Some(contact) = report.and_then(|report| report.support_contact) {
        output.note(Text::new().push(Meaning::Faint, "  support: ").plain(contact).end_line());
    }
    Ok(())
}

/// Returns the exit code of a migration that has ended.
pub(crate) fn exit_code(view: &MigrationView) -> u8 {
    let of_errors = || view.errors.first().map_or(FailureKind::Bug, |error| error.kind).exit_code();
    view.exit_code.unwrap_or_else(|| match view.status.end() {
        Some(End::Completed) if view.partial => FailureKind::Changed.exit_code(),
        Some(End::Completed) | None => 0,
        Some(End::Cancelled) => FailureKind::Cancelled.exit_code(),
        Some(End::Stuck) => FailureKind::Stuck.exit_code(),
        Some(End::Failed | End::RolledBack) => of_errors(),
    })
}

#[cfg(test)]
mod tests {
    use common::failure::CONFIRM;

    use super::*;
    use crate::fake::{Fake, Script};
    use crate::output::progress::tests::view;

    fn completed() -> MigrationView {
        MigrationView { status: MigrationStatus::Completed, exit_code: Some(0), ..view() }
    }

    #[tokio::test]
    async fn a_watch_that_breaks_begins_again_and_ends_with_the_migration() {
        let watches = [vec![view(), view()], Vec::new(), vec![view(), completed()]].into();
        let fake = Fake::start(Script { watches, ..Script::default() }).await;
        let context = fake.context(false);
        let ended = follow(&context, &context.client().unwrap(), &view().id).await.unwrap();
        assert_eq!(ended, completed());
        assert_eq!(fake.asked(), ["watch", "watch", "watch"]);
    }

    #[tokio::test]
    async fn silence_begins_where_a_watch_breaks_and_ends_with_an_answer() {
        let watches = [vec![view()], vec![view()]].into();
        let fake = Fake::start(Script { watches, ..Script::default() }).await;
        let context = fake.context(false);
        let client = context.client().unwrap();
        let (id, silent_since) = (view().id, Cell::new(None));
        let mut views = Views::new(&client, &id, &silent_since);
        views.next(&context).await.unwrap();
        assert_eq!(silent_since.get(), None, "an answer ends the silence, however long the next one takes");
        let waiting_since = clock::boot();
        views.next(&context).await.unwrap();
        assert_eq!(silent_since.get(), None);
        views.watch = None;
        assert!(views.begin_silence() >= waiting_since);
    }

    #[tokio::test]
    async fn what_needs_agreement_is_asked_again_once_agreed() {
        let refused =
            Failure::new(FailureKind::Conflict, "others changed it").context(CONFIRM, "12 entries move.");
        let script = || Script { changes: [Err(refused.clone()), Ok(view())].into(), ..Script::default() };

        let fake = Fake::start(script()).await;
        let context = fake.context(true);
        let result = act(&context, &context.client().unwrap(), &view().id, Verb::Rollback).await;
        // Who agreed beforehand asks once, and is told what the coordinator says.
        assert!(result.is_err());
        assert_eq!(fake.asked(), ["rollback b7k2m9x4qz deep=false confirmed=true"]);

        let fake = Fake::start(script()).await;
        let context = CommandContext { output: crate::output::tests::nobody(), ..fake.context(false) };
        let result = act(&context, &context.client().unwrap(), &view().id, Verb::Rollback).await;
        let Err(CommandError::Failure(failure)) = result else { panic!("nobody agreed") };
        assert_eq!((failure.kind.exit_code(), failure.hint.as_deref()), (2, Some("agree with --yes")));
        assert!(failure.message.starts_with("12 entries move."), "{failure}");
        assert_eq!(fake.asked(), ["rollback b7k2m9x4qz deep=false confirmed=false"]);
    }

    #[test]
    fn the_coordinators_word_on_the_exit_code_wins() {
        let ended = MigrationView { status: MigrationStatus::Completed, exit_code: Some(5), ..view() };
        assert_eq!(exit_code(&ended), 5);
        let failure = Failure::new(FailureKind::Exhausted, "no space");
        let unwound = MigrationView {
            status: MigrationStatus::RolledBack,
            errors: vec![failure],
            exit_code: None,
            ..view()
        };
        assert_eq!(exit_code(&unwound), 9);
    }

    #[test]
    fn an_interrupted_watcher_is_told_how_to_go_on() {
        let CommandError::Failure(failure) = interrupted(&view().id) else { panic!("it is a failure") };
        assert_eq!(failure.kind.exit_code(), 130);
        let hint = failure.hint.unwrap();
        assert!(hint.contains("ctl watch b7k2m9x4qz") && hint.contains("ctl cancel b7k2m9x4qz"), "{hint}");
    }
}
