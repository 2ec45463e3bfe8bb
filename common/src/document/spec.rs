//! A document as a spec: the keys of design and guide, with what is served today.
//!
//! A key that nobody knows is refused with the nearest one; a key that is known and comes later is refused as such. So
//! nothing that stands in a spec is ever passed over.

use crate::bandwidth::Bandwidth;
use crate::clock;
use crate::failure::{Failure, FailureKind};
use crate::filter::Filter;
use crate::grant::Labels;
use crate::human;
use crate::id::HostName;
use crate::location::Location;
use crate::owner_map::OwnerMap;
use crate::rules::{InvalidRules, Rules};
use crate::spec::{
    CatchUpSpec, Compression, MaxDelete, MigrationSpec, OptionsSpec, Origin, SPEC_VERSION, SideSpec,
    TransferSpec, ValidationLevel,
};
use crate::transport::TransportChoice;

use super::fields::{Fields, Known, Problems};
use super::{Form, Node, Value, parse, sanitize};

const ROOT: Known = Known {
    served: &["version", "name", "source", "destination", "transfer", "options", "sanitize", "labels"],
    later: &["testing"],
};
const SIDE: Known = Known {
    served: &["type", "host", "paths"],
    later: &[
        "port",
        "authentication",
        "database",
        "control_panel",
        "accounts",
        "cloud_config",
        "db_type",
        "db_user",
        "db_password",
        "db_name",
        "db_host",
    ],
};
const PATHS: Known = Known { served: &["root", "exclude", "include"], later: &[] };
const TRANSFER: Known = Known {
    served: &[
        "files",
        "bandwidth_limit",
        "max_load",
        "io_class",
        "priority",
        "delete",
        "max_delete",
        "checksum",
        "numeric_ids",
        "compression",
        "transport",
        "relay",
        "catch_up",
        "max_size",
        "min_size",
        "max_age",
        "min_age",
        "one_file_system",
        "copy_links",
        "backup_dir",
        "usermap",
        "groupmap",
        "chown",
    ],
    later: &["database", "parallel", "performance_mode", "batch_size", "parallel_workers"],
};
const CATCH_UP: Known = Known { served: &["threshold", "max_passes", "cutover"], later: &[] };
const OPTIONS: Known = Known {
    served: &[
        "dry_run",
        "verify_after",
        "rollback_on_failure",
        "rollback_enabled",
        "auto_rollback",
        "rollback_window",
        "validation_level",
        "timeout",
    ],
    later: &[
        "maintenance_mode",
        "backup_before",
        "backup_enabled",
        "backup_retention",
        "zero_downtime",
        "approval_required",
        "dry_run_required",
        "preserve_email_accounts",
        "migrate_dns_records",
        "progress_webhook",
        "alert_on_failure",
        "custom_handlers",
    ],
};

/// Reads a spec; everything that is wrong with it is told at once.
///
/// # Errors
/// When it is not of that language, or holds what is unknown, not served yet, or not possible.
pub fn read(text: &str, form: Form) -> Result<MigrationSpec, Failure> {
    let mut problems = Problems::default();
    let spec = match parse(text, form) {
        Ok(node) => spec(&node, &mut problems),
        Err(problem) => {
            problems.0.push(problem);
            None
        }
    };
    problems.0.sort_by_key(|problem| problem.at);
    match spec {
        Some(spec) if problems.0.is_empty() => Ok(spec),
        Some(_) | None => {
            let told: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
            Err(Failure::new(FailureKind::Invalid, format!("the spec cannot be used: {}", told.join("; ")))
                .hint("the README's section on specs says which keys are served"))
        }
    }
}

fn spec(node: &Node, problems: &mut Problems) -> Option<MigrationSpec> {
    let fields = Fields::of(node, "", &ROOT, problems)?;
    if let Some(version) = fields.parse::<u32>("version", problems)
        && version != SPEC_VERSION
    {
        problems.add(fields.at, format!("`version` is {version}, and this program reads {SPEC_VERSION}"));
    }
    let source = fields.need("source", problems).and_then(|node| side(node, "source.", problems));
    let destination =
        fields.need("destination", problems).and_then(|node| side(node, "destination.", problems));
    let transfer = fields.get("transfer").and_then(|node| transfer(node, problems)).unwrap_or_default();
    let options = fields.get("options").and_then(|node| options(node, problems)).unwrap_or_default();
    let sanitize = fields.get("sanitize").and_then(|node| sanitize::sanitize(node, problems));
    let (source, destination) = (source?, destination?);
    for (side, path) in [(&source, "source"), (&destination, "destination")] {
        if let Err(error) = Filter::new(&side.exclude, &side.include) {
            problems.add(fields.at, format!("`{path}.paths`: {error}"));
        }
    }
    if let Err(error) = transfer.rules.check([], []) {
        problems.add(fields.at, format!("`transfer`: {error}"));
    }
    if transfer.rules.copy_links && sanitize.is_some() {
        problems.add(fields.at, InvalidRules::Links.to_string());
    }
    let made = || format!("{} to {}", source.location, destination.location);
    let name = fields.parse("name", problems).unwrap_or_else(made);
    let origin = Origin::Document;
    let labels = fields.get("labels").map(|node| labels(node, problems)).unwrap_or_default();
    Some(MigrationSpec {
        version: SPEC_VERSION,
        name,
        source,
        destination,
        transfer,
        options,
        sanitize,
        origin,
        labels,
    })
}

fn labels(node: &Node, problems: &mut Problems) -> Labels {
    let Value::Map(entries) = &node.value else {
        problems.add(node.at, "`labels` is a mapping of words, as {team: shop}");
        return Labels::new();
    };
    let mut labels = Labels::new();
    for (key, value) in entries {
        let (Value::Plain(text) | Value::Text(text)) = &value.value else {
            problems.add(value.at, "the value of a label is a word");
            continue;
        };
        match (key.name.parse(), text.parse()) {
            (Ok(key), Ok(value)) => drop(labels.insert(key, value)),
            (Err(error), _) => problems.add(key.at, error.to_string()),
            (_, Err(error)) => problems.add(value.at, error.to_string()),
        }
    }
    labels
}

fn side(node: &Node, path: &str, problems: &mut Problems) -> Option<SideSpec> {
    let fields = Fields::of(node, path, &SIDE, problems)?;
    let served = |text: &str| match text {
        "files" => Ok(()),
        other => Err(format!("`{other}` is not served yet; `files` is")),
    };
    fields.read("type", problems, served);
    let host: Option<HostName> = fields.need("host", problems).and_then(|_| fields.parse("host", problems));
    let paths_path = format!("{path}paths.");
    let missing = "what a survey would find is not served yet: name the folder under `root`";
    let Some(paths) = fields.get("paths") else {
        problems.add(node.at, format!("`{path}paths` is missing; {missing}"));
        return None;
    };
    let paths = Fields::of(paths, &paths_path, &PATHS, problems)?;
    let root: Option<String> = paths.need("root", problems).and_then(|_| paths.parse("root", problems));
    let (host, root) = (host?, root?);
    let location: Option<Location> = format!("{host}:{root}")
        .parse()
        .map_err(|error: crate::location::InvalidLocation| problems.add(paths.at, error.to_string()))
        .ok();
    let (exclude, include) = (paths.texts("exclude", problems), paths.texts("include", problems));
    Some(SideSpec { location: location?, exclude, include })
}

fn transfer(node: &Node, problems: &mut Problems) -> Option<TransferSpec> {
    let fields = Fields::of(node, "transfer.", &TRANSFER, problems)?;
    let only = |served: &'static str| {
        move |text: &str| {
            if text == served { Ok(()) } else { Err(format!("`{text}` is not served yet; `{served}` is")) }
        }
    };
    fields.read("files", problems, only("sync"));
    let compression = |text: &str| text.parse::<Compression>().map_err(|error| error.to_string());
    let bandwidth = |text: &str| text.parse::<Bandwidth>().map_err(|error| error.to_string());
    let transport = |text: &str| {
        text.parse::<TransportChoice>().map_err(|error| format!("`{text}` names no transport: {error}"))
    };
    let guard = |text: &str| text.parse::<MaxDelete>().map_err(|error| error.to_string());
    Some(TransferSpec {
        delete: fields.truth("delete", false, problems),
        max_delete: fields.read("max_delete", problems, guard).unwrap_or_default(),
        checksum: fields.truth("checksum", false, problems),
        numeric_ids: fields.truth("numeric_ids", false, problems),
        bandwidth_limit: fields.read("bandwidth_limit", problems, bandwidth),
        compression: fields.read("compression", problems, compression).unwrap_or_default(),
        transport: fields.read("transport", problems, transport).unwrap_or_default(),
        relay: fields.read("relay", problems, |text: &str| {
            text.parse::<HostName>().map_err(|error| error.to_string())
        }),
        max_load: fields.parse("max_load", problems),
        io_class: fields.parse("io_class", problems).unwrap_or_default(),
        priority: fields.parse("priority", problems).unwrap_or_default(),
        rules: rules(&fields, problems),
        catch_up: fields.get("catch_up").and_then(|node| catch_up(node, &fields, problems)),
    })
}

/// Reads `true`, `false`, or how to catch up.
fn catch_up(node: &Node, transfer: &Fields<'_>, problems: &mut Problems) -> Option<CatchUpSpec> {
    let default = CatchUpSpec::default();
    let Value::Map(_) = &node.value else {
        return transfer.truth("catch_up", false, problems).then_some(default);
    };
    let fields = Fields::of(node, "transfer.catch_up.", &CATCH_UP, problems)?;
    let passes = |text: &str| match text.parse::<u32>() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no number of passes; one is the least")),
        Ok(passes) => Ok(passes),
    };
    Some(CatchUpSpec {
        threshold_ms: fields.duration_ms("threshold", problems).unwrap_or(default.threshold_ms),
        max_passes: fields.read("max_passes", problems, passes).unwrap_or(default.max_passes),
        cutover: fields.parse("cutover", problems).unwrap_or_default(),
    })
}

fn rules(fields: &Fields<'_>, problems: &mut Problems) -> Rules {
    let now = clock::wall();
    let bytes = |text: &str| human::parse_bytes(text).map_err(|error| error.to_string());
    let moment = |text: &str| human::parse_moment(text, now).map_err(|error| error.to_string());
    let owner = |text: &str| OwnerMap::of_owner(text).map_err(|error| error.to_string());
    let maps = (fields.parse("usermap", problems), fields.parse("groupmap", problems));
    let chown = fields.read("chown", problems, owner);
    if chown.is_some() && (maps.0.is_some() || maps.1.is_some()) {
        problems.add(
            fields.at,
            "`transfer.chown` gives everything to one owner, so no map has a meaning beside it",
        );
    }
    let (usermap, groupmap) =
        chown.unwrap_or_else(|| (maps.0.unwrap_or_default(), maps.1.unwrap_or_default()));
    Rules {
        max_size: fields.read("max_size", problems, bytes),
        min_size: fields.read("min_size", problems, bytes),
        changed_since: fields.read("max_age", problems, moment),
        changed_before: fields.read("min_age", problems, moment),
        one_file_system: fields.truth("one_file_system", false, problems),
        copy_links: fields.truth("copy_links", false, problems),
        backup_dir: fields.parse("backup_dir", problems),
        usermap,
        groupmap,
    }
}

fn options(node: &Node, problems: &mut Problems) -> Option<OptionsSpec> {
    let fields = Fields::of(node, "options.", &OPTIONS, problems)?;
    let default = OptionsSpec::default();
    let names = ["rollback_on_failure", "rollback_enabled", "auto_rollback"];
    let given: Vec<&str> = names.into_iter().filter(|name| fields.get(name).is_some()).collect();
    if let [first, second, ..] = given[..] {
        problems.add(fields.at, format!("`options.{first}` and `options.{second}` mean the same; write one"));
    }
    let rollback = given.first().unwrap_or(&names[0]);
    let level = |text: &str| match text {
        "basic" => Ok(ValidationLevel::Basic),
        "full" => Ok(ValidationLevel::Full),
        "strict" => Ok(ValidationLevel::Strict),
        other => Err(format!("`{other}` is none of basic, full and strict")),
    };
    Some(OptionsSpec {
        dry_run: fields.truth("dry_run", default.dry_run, problems),
        verify_after: fields.truth("verify_after", default.verify_after, problems),
        rollback_on_failure: fields.truth(rollback, default.rollback_on_failure, problems),
        rollback_window_ms: fields.duration_ms("rollback_window", problems),
        validation_level: fields
            .read("validation_level", problems, level)
            .unwrap_or(default.validation_level),
        timeout_ms: fields.duration_or_ms("timeout", problems),
    })
}

#[cfg(test)]
mod tests {
    use crate::control::{IoClass, Priority};

    use super::*;
    use crate::clock::WallMs;
    use crate::spec::Cutover;

    const YAML: &str = r#"
version: 1
labels: {team: shop}
name: shop
source:
  type: files
  host: web1
  paths: { root: /var/www/shop, exclude: ["cache/**", '*.tmp'] }
destination: { host: web2, paths: { root: /var/www/shop } }
transfer:
  { files: sync, bandwidth_limit: 50MiB, compression: 9, max_load: 4.5, io_class: idle, priority: high, delete: true, max_delete: 80%,
    max_size: 1G, min_age: 2026-01-01, one_file_system: true, chown: "www:web",
    catch_up: { threshold: 5s, cutover: manual } }
options: { rollback_window: 24h, timeout: 3600000, zero_downtime: false, auto_rollback: false, validation_level: full }
sanitize:
  key: "${secret:mask}"
  files:
    - { match: "*.log", action: drop }
    - match: [wp-config.php]
      action: replace
      content: |
        <?php
        # none
    - { match: ["*.sql", "mail/**"], action: mask, find: [email, payment_key], with: key }
    - { match: "*.ini", action: mask, regex: 'password\s*=\s*(\S+)' }
"#;

    const TOML: &str = r#"
version = 1
labels = { team = "shop" }
name = "shop"
[source]
type = "files"
host = "web1"
paths = { root = "/var/www/shop", exclude = ["cache/**", "*.tmp"] }
[destination]
host = "web2"
paths.root = "/var/www/shop"
[transfer]
files = "sync"
bandwidth_limit = "50MiB"
compression = 9
max_load = 4.5
io_class = "idle"
priority = "high"
delete = true
max_delete = "80%"
catch_up = { threshold = "5s", cutover = "manual" }
max_size = "1G"
min_age = "2026-01-01"
one_file_system = true
chown = "www:web"
[options]
rollback_window = "24h"
timeout = 3600000
zero_downtime = false
auto_rollback = false
validation_level = "full"
[sanitize]
key = "${secret:mask}"
[[sanitize.files]]
match = "*.log"
action = "drop"
[[sanitize.files]]
match = ["wp-config.php"]
action = "replace"
content = "<?php\n# none\n"
[[sanitize.files]]
match = ["*.sql", "mail/**"]
action = "mask"
find = ["email", "payment_key"]
with = "key"
[[sanitize.files]]
match = "*.ini"
action = "mask"
regex = 'password\s*=\s*(\S+)'
"#;

    #[test]
    fn both_languages_say_the_same() {
        let spec = read(YAML, Form::Yaml).unwrap();
        assert_eq!(read(TOML, Form::Toml).unwrap(), spec);
        assert_eq!(spec.source.location.to_string(), "web1:/var/www/shop");
        assert_eq!(spec.transfer.bandwidth_limit, Some(Bandwidth::always(50 << 20)));
        assert_eq!(spec.transfer.compression, Compression::Level(9));
        let rules = &spec.transfer.rules;
        assert_eq!((rules.max_size, rules.changed_before), (Some(1 << 30), Some(WallMs(1_767_225_600_000))));
        assert!(rules.one_file_system && rules.usermap.to_string() == "*:www");
        assert_eq!(
            (spec.options.rollback_window_ms, spec.options.timeout_ms),
            (Some(86_400_000), Some(3_600_000))
        );
        let transfer = &spec.transfer;
        assert_eq!(transfer.max_load, Some("4.5".parse().unwrap()));
        assert_eq!((transfer.io_class, transfer.priority), (IoClass::Idle, Priority::High));
        assert!(!spec.options.rollback_on_failure);
        let catch_up =
            CatchUpSpec { threshold_ms: 5_000, cutover: Cutover::Manual, ..CatchUpSpec::default() };
        assert_eq!(spec.transfer.catch_up, Some(catch_up));
        let sanitize = spec.sanitize.unwrap();
        assert_eq!(sanitize.files.len(), 4);
        assert_eq!(sanitize.needed_key().unwrap().to_string(), "${secret:mask}");
        assert_eq!(Form::of_name("a/b.TOML"), Form::Toml);
    }

    #[test]
    fn whatever_is_wrong_is_told_with_its_place() {
        let good = "source: {host: a, paths: {root: /x}}\ndestination: {host: b, paths: {root: /y}}\n";
        let mask =
            |rule: &str| format!("{good}sanitize:\n  files:\n    - {{match: x, action: mask, {rule}}}\n");
        for (text, needle) in [
            (
                format!("{good}optoins: {{}}\n"),
                "line 3, column 1: there is no key `optoins`; did you mean `options`?",
            ),
            (
                format!("{good}options: {{rolback_window: 1h}}\n"),
                "line 3, column 11: there is no key `options.rolback_window`; did you mean `rollback_window`?",
            ),
            (format!("{good}xyzzyxyzzy: 1\n"), "there is no key `xyzzyxyzzy`"),
            (format!("{good}options: {{rollback_window: 24}}\n"), "`24` is not a duration"),
            (
                format!("{good}options: {{backup_before: true}}\n"),
                "`options.backup_before` is known and not served yet",
            ),
            (
                good.replace("{host: a,", "{host: a, database: {type: mysql},"),
                "`source.database` is known and not served yet",
            ),
            (good.replace("{host: a,", "{host: a, type: wordpress,"), "`wordpress` is not served yet"),
            (good.replace("host: a, ", ""), "`source.host` is missing"),
            (good.replace("root: /x", "root: x"), "line 1"),
            (format!("{good}transfer: {{catch_up: {{max_passes: 0}}}}\n"), "`0` is no number of passes"),
            (
                format!("{good}transfer: {{catch_up: {{cutover: later}}}}\n"),
                "`later` is neither auto nor manual",
            ),
            (
                good.replace("root: /x", "root: /x, exclude: ['[']"),
                "`source.paths`: the pattern `[` ends inside",
            ),
            (format!("{good}name: [a]\n"), "`name` is a single value, and this is a list"),
            (format!("{good}transfer: {{bandwidth_limit: \"20:00=1MiB\"}}\n"), "no part of a timetable"),
            (format!("{good}transfer: {{max_load: much}}\n"), "`much` is no load average"),
            (format!("{good}transfer: {{io_class: quick}}\n"), "neither normal nor idle"),
            (format!("{good}transfer: {{priority: 9}}\n"), "low, normal and high"),
            (format!("{good}version: 2\n"), "`version` is 2"),
            (format!("{good}name: &a x\nversion: *a\n"), "aliases"),
            (format!("{good}name: !!str x\n"), "tags"),
            (format!("{good}source: 1\n"), "second time"),
            (format!("{good}sanitize: {{rows: []}}\n"), "it comes with databases"),
            (mask("find: [phone]"), "`phone` cannot be found"),
            (mask("find: [email], with: key"), "`key` is not set"),
            (mask("regex: '('"), "line 5"),
            (mask("content: x, find: [email]"), "`content` has no meaning"),
            (format!("{good}sanitize: {{files: [{{match: x, action: burn}}]}}\n"), "`burn` is no action"),
            (format!("{good}sanitize: {{key: mask, files: []}}\n"), "no reference"),
            (String::new(), "empty"),
            ("[1, 2]".to_owned(), "a spec is a mapping"),
            ("a: [".to_owned(), "line"),
            (format!("{good}---\na: 1\n"), "second document"),
        ] {
            let failure = read(&text, Form::Yaml).unwrap_err();
            assert!(failure.message.contains(needle), "{text}\n{}", failure.message);
        }
        let two = read(&format!("{good}nam: 1\nvresion: 1\n"), Form::Yaml).unwrap_err().message;
        assert!(two.contains("`nam`") && two.contains("`vresion`"), "{two}");
        let toml = read("name = \"x\"\nsorce = 1\n", Form::Toml).unwrap_err().message;
        assert!(toml.contains("line 2, column 1: there is no key `sorce`; did you mean `source`?"), "{toml}");
        assert!(read("a = ", Form::Toml).unwrap_err().message.contains("line 1"));
    }
    #[test]
    fn rules_that_cannot_be_are_told() {
        let good = "source: {host: a, paths: {root: /x}}\ndestination: {host: b, paths: {root: /y}}\n";
        for (transfer, needle) in [
            ("max_size: 1, min_size: 2", "nothing would be moved"),
            ("max_age: soon", "`soon` is not a moment"),
            ("backup_dir: /srv/kept", "inside of the destination's root"),
            ("usermap: www", "write FROM:TO"),
            ("chown: a, usermap: 'b:c'", "no map has a meaning"),
        ] {
            let message = read(&format!("{good}transfer: {{{transfer}}}\n"), Form::Yaml).unwrap_err().message;
            assert!(message.contains(needle), "{message}");
        }
        let both = "transfer: {copy_links: true}\nsanitize: {files: [{match: x, action: drop}]}\n";
        let message = read(&format!("{good}{both}"), Form::Yaml).unwrap_err().message;
        assert!(message.contains("do not go together"), "{message}");
    }
}
