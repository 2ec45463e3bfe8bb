//! `ctl doctor`.

use std::time::Duration;

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::host::{DiskFacts, HostStatus};
use common::human;
use common::principal::Principal;
use common::view::{ClusterView, HostView};
use serde::Serialize;

use crate::client::Client;
use crate::context::CommandContext;
use crate::failure::CommandError;
use crate::output::style::{Meaning, Text};

/// How long the cluster may take to answer; longer is itself a finding.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// A certificate that ends within this time is worth a warning.
const CERTIFICATE_MS_LEFT: u64 = 7 * 24 * 3_600_000;
/// A clock that is wrong by more than this is worth a warning: leases and tickets live for tens of seconds.
const CLOCK_MS_OFF: u64 = 5_000;
/// A file system with less free than one part in so many is worth a warning.
const FREE_PART: u64 = 20;

/// Check this machine, the context, the cluster and its hosts
///
/// Every line is a check; what is wrong has a hint. The exit code is that of the first error, and 0 when there is none.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {}

/// The answer.
#[derive(Debug, Serialize)]
struct Diagnosis {
    ok: bool,
    checks: Vec<Check>,
}

/// One check.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    check: String,
    level: Level,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip)]
    kind: Option<FailureKind>,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Check {
    fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self { check: check.into(), level: Level::Ok, message: message.into(), hint: None, kind: None }
    }

    fn warning(check: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Warning, hint: Some(hint.into()), ..Self::ok(check, message) }
    }

    fn error(check: impl Into<String>, failure: &Failure) -> Self {
        let kind = Some(failure.kind);
        let check = Self::ok(check, &failure.message);
        Self { level: Level::Error, hint: failure.hint.clone(), kind, ..check }
    }
}

/// Runs `ctl doctor`.
pub(crate) async fn run(context: &CommandContext, args: DoctorArgs) -> Result<u8, CommandError> {
    let DoctorArgs {} = args;
    let mut checks = vec![this_machine()];
    match context_check(context) {
        Ok((check, client)) => {
            checks.push(check);
            checks.push(certificate(&client, clock::wall()));
            checks.extend(cluster(&client.asking_for(ASK_DEADLINE)).await);
        }
        Err(CommandError::Failure(failure)) => checks.push(Check::error("context", &failure)),
        Err(CommandError::BrokenPipe) => return Err(CommandError::BrokenPipe),
    }
    let first_error = checks.iter().find_map(|check| check.kind);
    let diagnosis = Diagnosis { ok: first_error.is_none(), checks };
    context.output.answer(&diagnosis, text)?;
    Ok(first_error.map_or(0, FailureKind::exit_code))
}

fn text(diagnosis: &Diagnosis) -> Text {
    let mut text = Text::new();
    for check in &diagnosis.checks {
        let (meaning, word) = match check.level {
            Level::Ok => (Meaning::Good, "ok"),
            Level::Warning => (Meaning::Caution, "warning"),
            Level::Error => (Meaning::Bad, "error"),
        };
        text.push(meaning, format!("{word:<8}"))
            .plain(format!("{}: {}", check.check, check.message))
            .end_line();
        if let Some(hint) = &check.hint {
            text.push(Meaning::Faint, format!("        hint: {hint}")).end_line();
        }
    }
    text
}

/// Looks at the machine that this runs on.
fn this_machine() -> Check {
    let system = rustix::system::uname();
    let kernel = system.release().to_string_lossy().into_owned();
    Check::ok("this machine", format!("ctl {}, kernel {kernel}", env!("CARGO_PKG_VERSION")))
}

/// Looks at the file of contexts, and makes the way to the cluster.
fn context_check(context: &CommandContext) -> Result<(Check, Client), CommandError> {
    let path = context.settings.context_file()?;
    let client = context.client()?;
    // A file that others can read was refused before this.
    let check = Check::ok("context", path.display().to_string());
    Ok((check, client))
}

/// Looks at the operator's own certificate.
fn certificate(client: &Client, now: WallMs) -> Check {
    match client.own_peer() {
        Ok(None) => Check::ok("certificate", "an API key is shown in its place"),
        Ok(Some(peer)) => certificate_of(&peer.principal, [peer.not_before, peer.not_after], now),
        Err(failure) => Check::error("certificate", &failure),
    }
}

fn certificate_of(principal: &Principal, [not_before, not_after]: [WallMs; 2], now: WallMs) -> Check {
    let anew =
        "log in again with `ctl login`, or ask whoever runs a coordinator for `drover-coordinator context`";
    let until = human::moment(not_after);
    if now >= not_after {
        let expired = Failure::new(FailureKind::Unauthenticated, format!("{principal} expired at {until}"));
        return Check::error("certificate", &expired.hint(anew));
    }
    if now < not_before {
        let message = format!("{principal} is not valid before {}", human::moment(not_before));
        let early = Failure::new(FailureKind::Unauthenticated, message);
        return Check::error("certificate", &early.hint("set this machine's clock"));
    }
    let message = format!("{principal}, valid until {until}");
    if not_after.since(now) < CERTIFICATE_MS_LEFT {
        Check::warning("certificate", message, anew)
    } else {
        Check::ok("certificate", message)
    }
}

/// Looks at the cluster, and at the hosts that it knows.
async fn cluster(client: &Client) -> Vec<Check> {
    let asked = clock::boot();
    let cluster = match client.cluster().await {
        Ok(cluster) => cluster,
        Err(failure) => return vec![Check::error("cluster", &failure)],
    };
    let took = clock::boot().since(asked);
    let mut checks = cluster_checks(&cluster, took);
    checks.extend(clock_check(&cluster, clock::wall(), took));
    match client.hosts().await {
        Ok(hosts) if hosts.is_empty() => checks.push(Check::warning(
            "hosts",
            "no host is registered",
            "`ctl host enroll NAME` prints the command that adds one",
        )),
        Ok(hosts) => checks.extend(hosts.iter().flat_map(host_checks)),
        Err(failure) => checks.push(Check::error("hosts", &failure)),
    }
    checks
}

fn cluster_checks(cluster: &ClusterView, took: Duration) -> Vec<Check> {
    let mut checks = Vec::new();
    match &cluster.leader {
        Some(leader) => {
            let message = format!("{leader} leads, answered in {}", human::duration(took));
            checks.push(Check::ok("cluster", message));
        }
        None => {
            let message = "no node leads: an election is under way, or too few nodes run";
            let hint = "look whether more than half of the nodes run";
            checks.push(Check::error("cluster", &Failure::new(FailureKind::Unreachable, message).hint(hint)));
        }
    }
    for member in cluster.members.iter().filter(|member| member.role == "unreachable") {
        let message = format!("node {} cannot be reached at {}", member.name, member.raft_address);
        checks.push(Check::warning("cluster", message, "start it, or look at the network between the nodes"));
    }
    let own = env!("CARGO_PKG_VERSION");
    if cluster.version != own {
        let message = format!("the coordinator has version {}, this ctl {own}", cluster.version);
        checks.push(Check::warning("version", message, "use the ctl of the coordinator's version"));
    }
    checks
}

/// Looks at this machine's clock. The answer was made at some moment while it was awaited.
fn clock_check(cluster: &ClusterView, now: WallMs, took: Duration) -> Option<Check> {
    if cluster.now == WallMs::default() {
        // An older node does not say.
        return None;
    }
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let off_ms = now.0.abs_diff(cluster.now.0).saturating_sub(took_ms);
    Some(if off_ms > CLOCK_MS_OFF {
        let off = human::duration(Duration::from_millis(off_ms));
        let message = format!("this machine's clock and the coordinator's are {off} apart");
        Check::warning("clock", message, "let both follow a time server")
    } else {
        Check::ok("clock", "agrees with the coordinator's")
    })
}

fn host_checks(host: &HostView) -> Vec<Check> {
    let name = format!("host {}", host.name);
    let mut checks = Vec::new();
    match (host.status, host.connected) {
        (HostStatus::Revoked, _) => return checks,
        (HostStatus::Invited, _) => {
            checks.push(Check::warning(
                &name,
                "has not joined yet",
                format!("run the command that `ctl host enroll {}` prints", host.name),
            ));
        }
        (HostStatus::Enrolled | HostStatus::Draining, false) => {
            let seen = host.last_seen.map_or_else(|| "never".to_owned(), human::moment);
            let failure = Failure::new(
                FailureKind::Unreachable,
                format!("its agent is not connected, last seen {seen}"),
            )
            .hint(format!("look at the agent on {}: `systemctl status drover-agent`", host.name));
            checks.push(Check::error(&name, &failure));
        }
        (HostStatus::Draining, true) => {
            checks.push(Check::warning(
                &name,
                "takes no new steps",
                format!("`ctl host drain {} --end`", host.name),
            ));
        }
        (HostStatus::Enrolled, true) => {
            checks.push(Check::ok(&name, "connected"));
        }
    }
    if let Some(ahead) = host.clock_ahead_ms.filter(|ahead| ahead.unsigned_abs() > CLOCK_MS_OFF) {
        let message = format!("its clock is {ahead} ms ahead of the coordinator's");
        checks.push(Check::warning(&name, message, "let it follow a time server"));
    }
    if let Some(facts) = &host.facts {
        if !facts.is_root {
            let message = "its agent does not run as root, so owners and devices cannot be set";
            checks.push(Check::warning(&name, message, "start the agent as root"));
        }
        checks.extend(facts.disks.iter().filter_map(|disk| disk_check(&name, disk)));
    }
    checks
}

/// Looks at one file system; nothing is said of one with room.
fn disk_check(host: &str, disk: &DiskFacts) -> Option<Check> {
    if disk.is_read_only || disk.size_bytes == 0 || disk.free_bytes >= disk.size_bytes / FREE_PART {
        return None;
    }
    let free = human::bytes(disk.free_bytes);
    let message = format!("{} has {free} free of {}", disk.mount_point, human::bytes(disk.size_bytes));
    Some(Check::warning(host, message, "make room before anything is moved there"))
}

#[cfg(test)]
mod tests {
    use common::host::HostFacts;

    use super::*;

    fn cluster_view() -> ClusterView {
        ClusterView {
            id: "c1".to_owned(),
            leader: Some("coordinator-1".parse().unwrap()),
            members: Vec::new(),
            applied_index: 9,
            term: 1,
            epoch: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: WallMs(1_000_000),
        }
    }

    fn host() -> HostView {
        HostView {
            name: "web1".parse().unwrap(),
            tenant: "default".parse().unwrap(),
            status: HostStatus::Enrolled,
            connected: true,
            last_seen: None,
            facts: None,
            steps_running: 0,
            clock_ahead_ms: None,
            limits: Default::default(),
        }
    }

    fn levels(checks: &[Check]) -> Vec<Level> {
        checks.iter().map(|check| check.level).collect()
    }

    #[test]
    fn a_cluster_without_a_leader_is_an_error_of_its_kind() {
        assert_eq!(levels(&cluster_checks(&cluster_view(), Duration::ZERO)), [Level::Ok]);
        let headless = ClusterView { leader: None, version: "0.0.1".to_owned(), ..cluster_view() };
        let checks = cluster_checks(&headless, Duration::ZERO);
        assert_eq!(levels(&checks), [Level::Error, Level::Warning]);
        assert_eq!(checks[0].kind.map(FailureKind::exit_code), Some(11));
    }

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let took = Duration::from_secs(20);
        let check = |now, took| clock_check(&cluster_view(), WallMs(now), took).map(|check| check.level);
        assert_eq!(check(1_004_000, Duration::ZERO), Some(Level::Ok));
        assert_eq!(check(1_006_000, Duration::ZERO), Some(Level::Warning));
        assert_eq!(check(900_000, Duration::ZERO), Some(Level::Warning));
        assert_eq!(check(1_020_000, took), Some(Level::Ok));
        let silent = ClusterView { now: WallMs::default(), ..cluster_view() };
        assert_eq!(clock_check(&silent, WallMs(5), took), None);
    }

    #[test]
    fn hosts_are_looked_at_from_all_sides() {
        assert_eq!(levels(&host_checks(&host())), [Level::Ok]);
        assert_eq!(levels(&host_checks(&HostView { connected: false, ..host() })), [Level::Error]);
        let disk = DiskFacts {
            mount_point: "/home".to_owned(),
            fs_type: "ext4".to_owned(),
            size_bytes: 100,
            free_bytes: 4,
            free_inodes: 1,
            is_read_only: false,
        };
        let facts = HostFacts { disks: vec![disk], is_root: false, ..HostFacts::default() };
        let troubled = HostView { facts: Some(facts), clock_ahead_ms: Some(-6_000), ..host() };
        assert_eq!(
            levels(&host_checks(&troubled)),
            [Level::Ok, Level::Warning, Level::Warning, Level::Warning]
        );
        assert_eq!(host_checks(&HostView { status: HostStatus::Revoked, ..host() }), []);
    }

    #[test]
    fn a_certificate_is_named_before_it_ends() {
        let day = 24 * 3_600_000;
        let principal = Principal::Person { tenant: "default".parse().unwrap(), name: "admin".to_owned() };
        let valid = [WallMs(100 * day), WallMs(190 * day)];
        let level = |days| certificate_of(&principal, valid, WallMs(days * day)).level;
        assert_eq!([99, 101, 184, 190].map(level), [Level::Error, Level::Ok, Level::Warning, Level::Error]);
    }
}
