//! `ctl migrate`.

use std::path::PathBuf;
use std::time::Duration;

use common::bandwidth::Bandwidth;
use common::control::{IoClass, MaxLoad, Priority};
use common::document::{self, Form};
use common::failure::{Failure, FailureKind};
use common::grant::ScopeItem;
use common::human;
use common::id::HostName;
use common::location::Location;
use common::spec::{
    CatchUpSpec, Compression, Cutover, MaxDelete, MigrationSpec, OptionsSpec, Origin, SPEC_VERSION, SideSpec,
    TransferSpec, ValidationLevel,
};
use common::transport::TransportChoice;
use common::view::{MigrationStatus, MigrationView};

use crate::client::Client;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::follow::{exit_code, follow, look_again, show};
use crate::itemised;
use crate::output::Consent;
use crate::output::style::{Meaning, Text};
use crate::rules::RuleArgs;

/// Move a tree from one host to another
///
/// SOURCE's contents become DESTINATION; a trailing slash means nothing. Files that are there already and look
/// unchanged are not sent again; files that are only at the destination stay, unless --delete is given. Everything
/// that was written is read again and proven by digest. If the move fails, the destination is given back as it was.
///
/// A spec says more than flags can: with -f SPEC, everything comes from that document, and only --dry-run and --detach
/// may stand beside it.
///
/// Asks before something that cannot be taken for granted: --delete, and a destination where an earlier migration's
/// way back would end. --yes agrees beforehand; where nobody can be asked, it is needed for these. --dry-run changes
/// nothing and never asks.
///
/// Waits for the end, and ends with the migration's result. Ctrl-C ends the watching only; the migration goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    /// Where from, as HOST:/path
    #[arg(value_parser = parse_location, required_unless_present = "file")]
    source: Option<Location>,
    /// Where to, as HOST:/path
    #[arg(value_parser = parse_location, required_unless_present = "file")]
    destination: Option<Location>,
    /// Take everything from this spec instead, in YAML or, if its name ends so, in TOML
    #[arg(
        short = 'f',
        long = "file",
        value_name = "SPEC",
        conflicts_with_all = [
            "source", "destination", "delete", "max_delete", "checksum", "numeric_ids", "bandwidth", "compress",
            "transport", "relay", "max_load", "io_class", "priority", "rollback_window", "label", "catch_up", "cutover",
            "RuleArgs",
        ]
    )]
    file: Option<PathBuf>,
    /// Remove at the destination what the source does not have
    #[arg(long)]
    delete: bool,
    /// Remove nothing at all if more than this would go: a part of the destination's entries, or a number of them
    /// [default: 50%]
    #[arg(long, value_name = "80%|N", requires = "delete")]
    max_delete: Option<MaxDelete>,
    /// Compare content, not only size and time
    #[arg(long)]
    checksum: bool,
    /// Show what would be done, change nothing: a line for each entry with what would be done to it and why, as rsync's
    /// -i; with --output json the same under `items`
    #[arg(long)]
    dry_run: bool,
    /// Keep the numbers of owners and groups instead of their names
    #[arg(long)]
    numeric_ids: bool,
    /// Send at most so much per second, as 10MiB; none or 0 for no limit. By the time of day as
    /// 08:00-20:00=20MiB,else=none, in UTC unless zone=+02:00 stands there too
    #[arg(long, value_name = "LIMIT")]
    bandwidth: Option<Bandwidth>,
    /// Compress content on its way: auto (where it pays), off, or a level of zstd from 1 to 19 [default: auto]
    #[arg(long, value_name = "auto|off|LEVEL")]
    compress: Option<Compression>,
    /// Move over QUIC or TCP only, instead of what is faster on the path
    #[arg(long, value_name = "auto|quic|tcp", default_value_t, hide_default_value = true)]
    transport: TransportChoice,
    /// Let this third host pass on what both sides say, encrypted; for sides that do not reach each other
    #[arg(long, value_name = "HOST")]
    relay: Option<HostName>,
    /// Read nothing at the source while its load average of the last minute, as uptime shows it, is at least N
    #[arg(long, value_name = "N")]
    max_load: Option<MaxLoad>,
    /// Use the disks of both hosts only when nobody else needs them (idle), or as everybody does (normal); counts where
    /// the kernel's IO scheduler knows classes
    #[arg(long, value_name = "CLASS", default_value = "normal", hide_default_value = true)]
    io_class: IoClass,
    /// Where limits let migrations wait, begin this one before or after the others: low, normal or high
    #[arg(long, value_name = "PRIORITY", default_value = "normal", hide_default_value = true)]
    priority: Priority,
    /// Keep the way back open for so long after the end, as 24h [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = human::parse_duration)]
    rollback_window: Option<Duration>,
    /// Go on with passes while the source is live until little is left, then make the last one; see also `ctl cutover`
    #[arg(long)]
    catch_up: bool,
    /// Who lets the last pass begin: auto, or manual for `ctl cutover` [default: auto]
    #[arg(long, value_name = "auto|manual", requires = "catch_up")]
    cutover: Option<Cutover>,
    /// Label the migration, as team=shop; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<ScopeItem>,
    /// Return at once; `ctl watch ID` follows
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    rules: RuleArgs,
}

/// Parses a location, and tells a URL from a host.
fn parse_location(text: &str) -> Result<Location, String> {
    if text.contains("://") {
        return Err(format!(
            "`{text}` is a URL; remotes without an agent are not served yet: write HOST:/path of a registered host"
        ));
    }
    text.parse().map_err(|error: common::location::InvalidLocation| error.to_string())
}

/// Parses a label.
fn parse_label(text: &str) -> Result<ScopeItem, String> {
    format!("label:{text}")
        .parse()
        .map_err(|_error| format!("`{text}` is not a label: write it as KEY=VALUE"))
}

impl MigrateArgs {
    /// Returns what is asked for: by the spec, or by the flags.
    fn asked(&self) -> Result<MigrationSpec, CommandError> {
        let Some(path) = &self.file else {
            let spec = self.spec()?;
            spec.check_rules().map_err(|error| {
                CommandError::invalid(
                    error.to_string(),
                    "`ctl help migrate` says what patterns and limits can say",
                )
            })?;
            return Ok(spec);
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| CommandError::io("reading", path.display(), &error))?;
        let mut spec =
            document::spec::read(&text, Form::of_name(&path.to_string_lossy())).map_err(|failure| {
                Failure { message: format!("{}: {}", path.display(), failure.message), ..failure }
            })?;
        spec.options.dry_run |= self.dry_run;
        Ok(spec)
    }

    /// Returns the spec that the flags stand for.
    fn spec(&self) -> Result<MigrationSpec, CommandError> {
        let (Some(source), Some(destination)) = (&self.source, &self.destination) else {
            return Err(CommandError::invalid(
                "source and destination are missing",
                "name both, or a spec with -f",
            ));
        };
        let (exclude, include) = self.rules.patterns()?;
        // Of a label that is given twice the last counts.
        let labels = self.label.iter().cloned().filter_map(|item| match item {
            ScopeItem::Label(key, value) => Some((key, value)),
            ScopeItem::Host(_) => None,
        });
        let labels = labels.collect();
        let window = self.rollback_window.map(|window| u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
        Ok(MigrationSpec {
            version: SPEC_VERSION,
            name: format!("{source} to {destination}"),
            source: SideSpec { location: source.clone(), exclude, include },
            destination: SideSpec { location: destination.clone(), exclude: Vec::new(), include: Vec::new() },
            transfer: TransferSpec {
                delete: self.delete,
                max_delete: self.max_delete.unwrap_or_default(),
                checksum: self.checksum,
                numeric_ids: self.numeric_ids,
                bandwidth_limit: self.bandwidth.clone(),
                compression: self.compress.unwrap_or_default(),
                transport: self.transport,
                relay: self.relay.clone(),
                max_load: self.max_load,
                io_class: self.io_class,
                priority: self.priority,
                catch_up: self.catch_up.then(|| CatchUpSpec {
                    cutover: self.cutover.unwrap_or_default(),
                    ..CatchUpSpec::default()
                }),
                rules: self.rules.rules(),
            },
            options: OptionsSpec {
                dry_run: self.dry_run,
                verify_after: true,
                rollback_on_failure: true,
                rollback_window_ms: window,
                validation_level: ValidationLevel::Basic,
                timeout_ms: None,
            },
            sanitize: None,
            origin: Origin::Flags,
            labels,
        })
    }
}

/// Runs `ctl migrate`.
pub(crate) async fn run(context: &CommandContext, args: MigrateArgs) -> Result<u8, CommandError> {
    let spec = args.asked()?;
    let client = context.client()?;
    if spec.transfer.delete && !spec.options.dry_run {
        context.output.confirm(&delete_sentence(&spec))?;
    }
    let started = start(context, &client, &spec).await?;
    if args.detach {
        context.output.answer(&started, |view| Text::line(view.id.as_str()))?;
        context.output.note(Text::new().push(Meaning::Faint, look_again(&started.id)).end_line());
        return Ok(0);
    }
    context.output.note(&started_text(&spec, &started));
    let view = if started.status.is_end() { started } else { follow(context, &client, &started.id).await? };
    end(context, &client, &spec, &view).await
}

/// Asks the cluster to run the spec, and the operator to agree where the plan needs it.
async fn start(
    context: &CommandContext,
    client: &Client,
    spec: &MigrationSpec,
) -> Result<MigrationView, CommandError> {
    // One id for both tries: should the first have been accepted after all, the second finds it.
    let request_id = uuid::Uuid::new_v4().to_string();
    let is_agreed = context.output.consent() == Consent::Given;
    let interrupted = || {
        Failure::new(FailureKind::Cancelled, "interrupted before the cluster had answered")
            .hint("`ctl list` shows whether the migration was started")
    };
    let first = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => return Err(interrupted().into()),
        answer = client.migrate(spec, &request_id, is_agreed) => answer,
    };
    match first {
        Ok(view) => Ok(view),
        Err(failure) => {
            let Some(sentence) = failure.confirmation().filter(|_| !is_agreed) else {
                return Err(failure.into());
            };
            context.output.confirm(sentence)?;
            Ok(client.migrate(spec, &request_id, true).await?)
        }
    }
}

/// Shows how it ended, and returns the exit code.
async fn end(
    context: &CommandContext,
    client: &Client,
    spec: &MigrationSpec,
    view: &MigrationView,
) -> Result<u8, CommandError> {
    let output = &context.output;
    let is_listed = spec.options.dry_run && view.status == MigrationStatus::Completed;
    if is_listed && output.is_json() {
        itemised::document(context, client, view).await?;
        return Ok(exit_code(view));
    }
    if is_listed {
        // The watching has asked to be told of Ctrl-C, so this has to listen too.
        let count = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                let failure = Failure::new(FailureKind::Cancelled, "interrupted before the end of the list");
                return Err(failure.hint(format!("`ctl report {} --all` shows it again", view.id)).into());
            }
            count = itemised::show(context, client, &view.id) => count?,
        };
        // What the agents did is theirs to say: this only knows what they listed.
        let listed = match count {
            0 => "A dry run: the destination's agent listed nothing.",
            _ => "A dry run: the lines above are what the destination's agent would do, and what it found.",
        };
        output.note(&Text::line(listed));
    }
    show(context, client, view).await?;
    Ok(exit_code(view))
}

/// What is asked before anything is removed.
fn delete_sentence(spec: &MigrationSpec) -> String {
    let guard = match spec.transfer.max_delete {
        MaxDelete::Percent(percent) => format!("{percent} % of the entries"),
        MaxDelete::Count(count) => human::plural(count, "entry").replace("entrys", "entries"),
    };
    format!(
        "--delete removes from {} what {} does not have, up to {guard}.",
        spec.destination.location, spec.source.location
    )
}

/// What is said when it has begun.
fn started_text(spec: &MigrationSpec, view: &MigrationView) -> Text {
    let what = if spec.options.dry_run { "Comparing" } else { "Moving" };
    let mut text = Text::new();
    text.plain(format!("{what} {} to {}", spec.source.location, spec.destination.location))
        .push(Meaning::Faint, format!("  migration {}", view.id))
        .end_line();
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use common::clock::WallMs;
    use common::rules::Rules;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: MigrateArgs,
    }

    fn parse(line: &str) -> Result<MigrateArgs, String> {
        let words = std::iter::once("migrate").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_become_a_spec() {
        let line = "web1:/srv/ web2:/srv --delete --max-delete 80% --exclude *.log --exclude tmp/** --include keep.log \
                    --checksum --dry-run --numeric-ids --bandwidth 10MiB --compress 9 --rollback-window 24h --catch-up --cutover manual \
                    --max-size 1G -x --max-age 2026-01-01 --chown www:web";
        let spec = parse(line).unwrap().spec().unwrap();
        assert_eq!(spec.name, "web1:/srv to web2:/srv");
        assert_eq!(spec.source.exclude, ["*.log", "tmp/**"]);
        assert_eq!(spec.source.include, ["keep.log"]);
        assert_eq!(
            spec.transfer,
            TransferSpec {
                delete: true,
                max_delete: MaxDelete::Percent(80),
                checksum: true,
                numeric_ids: true,
                bandwidth_limit: Some(Bandwidth::always(10 << 20)),
                compression: Compression::Level(9),
                transport: TransportChoice::Auto,
                relay: None,
                max_load: None,
                io_class: IoClass::Normal,
                priority: Priority::Normal,
                catch_up: Some(CatchUpSpec { cutover: Cutover::Manual, ..CatchUpSpec::default() }),
                rules: Rules {
                    max_size: Some(1 << 30),
                    changed_since: Some(WallMs(1_767_225_600_000)),
                    one_file_system: true,
                    usermap: "*:www".parse().unwrap(),
                    groupmap: "*:web".parse().unwrap(),
                    ..Rules::default()
                },
            }
        );
        assert!(spec.options.dry_run);
        assert_eq!((spec.origin, spec.rollback_window_ms()), (Origin::Flags, 86_400_000));
    }

    #[test]
    fn without_flags_nothing_is_removed_and_no_way_back_is_kept() {
        let spec = parse("web1:/srv web2:/srv").unwrap().spec().unwrap();
        assert_eq!(spec.transfer, TransferSpec::default());
        assert_eq!(spec.rollback_window_ms(), 0);
        assert!(spec.options.rollback_on_failure && spec.options.verify_after);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_right_form() {
        for (line, needle) in [
            ("/srv web2:/srv", "write HOST:/path"),
            ("web1: web2:/srv", "write HOST:/path"),
            ("sftp://web1/srv web2:/srv", "not served yet"),
            ("web1:/srv web2:/srv --max-delete 80%", "--delete"),
            ("web1:/srv web2:/srv --delete --max-delete 101%", "neither a part"),
            ("web1:/srv web2:/srv --delete --max-delete many", "neither a part"),
            ("web1:/srv web2:/srv --bandwidth 20:00=1MiB", "08:00-20:00=20MiB"),
            ("web1:/srv web2:/srv --bandwidth fast", "20MiB"),
            ("web1:/srv web2:/srv --cutover manual", "--catch-up"),
            ("web1:/srv web2:/srv --catch-up --cutover later", "neither auto nor manual"),
            ("web1:/srv web2:/srv --rollback-window 5", "24h"),
            ("-f shop.yaml --delete", "cannot be used with"),
            ("-f shop.yaml --max-size 1G", "cannot be used with"),
            ("web1:/srv web2:/srv --max-size much", "10MiB"),
            ("web1:/srv web2:/srv --max-age soon", "not a moment"),
            ("web1:/srv web2:/srv --backup-dir /kept", "inside of the destination's root"),
            ("web1:/srv web2:/srv --usermap www", "FROM:TO"),
            ("web1:/srv web2:/srv --chown a:b --usermap c:d", "cannot be used with"),
            ("-f shop.yaml web1:/srv web2:/srv", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(needle), "{line}: {error}");
        }
    }

    #[test]
    fn rules_that_cannot_be_kept_are_refused_before_anybody_is_asked() {
        for (line, needle) in [
            ("web1:/srv web2:/srv --exclude [", "`[` ends inside"),
            ("web1:/srv web2:/srv --include !a", "begins with `!`"),
            ("web1:/srv web2:/srv --exclude [[:word:]]", "names a class"),
            ("web1:/srv web2:/srv --min-size 2 --max-size 1", "nothing would be moved"),
            ("web1:/srv web2:/srv --min-age 2d --max-age 1d", "nothing would be moved"),
        ] {
            let error = parse(line).unwrap().asked().unwrap_err();
            assert!(format!("{error:?}").contains(needle), "{line}: {error:?}");
        }
    }

    #[test]
    fn a_delete_says_what_and_how_much() {
        let spec = parse("web1:/srv web2:/srv --delete --max-delete 12").unwrap().spec().unwrap();
        assert_eq!(
            delete_sentence(&spec),
            "--delete removes from web2:/srv what web1:/srv does not have, up to 12 entries."
        );
    }
}
