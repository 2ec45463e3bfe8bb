//! How fast each step may go now, told to the agents that run them as soon as it changes.
//!
//! What holds is computed here and nowhere else, from the state and the leader's clock; renewals of leases say it too, so
//! that a word that was lost costs ten seconds.

use std::collections::BTreeMap;

use common::clock::{self, WallMs};
use common::control::IoClass;
use common::fence::FencingToken;
use common::id::{HostName, TenantId};
use common::plan::PlannedStep;
use proto::v1;
use proto::v1::coordinator_message::Message;

use crate::hub::Hub;
use crate::live::grant;
use crate::live::paces::{Pace, Paced};
use crate::reconcile::dispatch::hosts_of;
use crate::reconcile::share::{Flow, share};
use crate::state::State;
use crate::state::lease::Lease;
use crate::state::migration::Migration;

/// A host by whose it is.
type HostKey<'state> = (&'state TenantId, &'state HostName);

/// A lease under which something may be sent.
struct Running<'state> {
    migration: &'state Migration,
    planned: &'state PlannedStep,
    lease: &'state Lease,
}

/// Returns the paces of all leases under which something is sent.
pub fn paces(state: &State, now: WallMs) -> BTreeMap<FencingToken, Paced> {
    let running: Vec<Running<'_>> = state.migrations().active().flat_map(|it| running_of(it)).collect();
    let limits = host_limits(state, &running, now);
    let flows: Vec<Flow<_>> = running.iter().map(|it| it.flow(&limits, now)).collect();
    let rates = share(&limits, &flows);
    let paced = |(it, bytes_per_s): (&Running<'_>, Option<u64>)| {
        let (tenant, host) = (it.migration.tenant.clone(), it.lease.host.clone());
        let is_idle = it.migration.spec.transfer.io_class == IoClass::Idle;
        let pace = Pace { bytes_per_s, max_load: it.migration.max_load(), is_idle };
        (it.lease.token, Paced { tenant, host, pace })
    };
    running.iter().zip(rates).map(paced).collect()
}

fn running_of(migration: &Migration) -> impl Iterator<Item = Running<'_>> {
    let held = migration.plan.steps.iter().zip(&migration.steps).filter_map(|(planned, step)| {
        step.lease.as_ref().filter(|lease| !lease.is_undo).map(|lease| (planned, lease))
    });
    held.map(move |(planned, lease)| Running { migration, planned, lease })
}

impl<'state> Running<'state> {
    /// The hosts that the bulk of it goes over; a proof sends little and shares with nobody.
    fn hosts(&self) -> impl Iterator<Item = HostKey<'state>> {
        let is_bulk = self.planned.kind.needs_peer();
        let tenant = &self.migration.tenant;
        hosts_of(self.planned).filter(move |_| is_bulk).map(move |host| (tenant, host))
    }

    fn flow(&self, limits: &BTreeMap<HostKey<'state>, u64>, now: WallMs) -> Flow<HostKey<'state>> {
        let own = self.migration.bandwidth().and_then(|bandwidth| bandwidth.at(now));
        Flow { own, hosts: self.hosts().filter(|host| limits.contains_key(host)).collect() }
    }
}

/// Returns what the hosts may send and receive now, of those that something is sent over.
fn host_limits<'state>(
    state: &State,
    running: &[Running<'state>],
    now: WallMs,
) -> BTreeMap<HostKey<'state>, u64> {
    let limit = |(tenant, host): HostKey<'state>| {
        let limits = state.migrations().host_limits(tenant, host);
        Some(((tenant, host), limits.bandwidth?.at(now)?))
    };
    running.iter().flat_map(Running::hosts).filter_map(limit).collect()
}

/// Tells the holders of leases what has changed.
pub fn reconcile(hub: &Hub) {
    let paces = paces(&hub.state(), clock::wall());
    for (token, paced) in hub.paces.replace(paces) {
        let session = hub.sessions.of(&paced.tenant, &paced.host);
        let told =
            session.is_some_and(|session| session.send(Message::Paced(message(token, paced.pace))).is_ok());
        if !told {
            hub.paces.forget(token);
        }
    }
}

/// Returns the pace of a lease, which may have been granted a moment ago.
pub fn of(hub: &Hub, token: FencingToken) -> Pace {
    let looked = || paces(&hub.state(), clock::wall()).get(&token).map(|paced| paced.pace);
    hub.paces.of(token).or_else(looked).unwrap_or_default()
}

fn message(token: FencingToken, pace: Pace) -> v1::Paced {
    let Pace { bytes_per_s, max_load, is_idle } = pace;
    let bandwidth_limit = bytes_per_s.unwrap_or(0);
    v1::Paced { token: Some(grant::token(token)), bandwidth_limit, max_load, idle_io: is_idle }
}

#[cfg(test)]
mod tests {
    use common::bandwidth::Bandwidth;
    use common::control::{ControlChange, HostLimitChange};

    use super::*;
    use crate::state::host;
    use crate::state::migration::Act;
    use crate::state::sample::Log;

    #[test]
    fn a_timetable_is_followed_and_what_sends_nothing_has_no_pace() {
        let mut log = Log::new();
        log.create("m1", 1, |_| {}).unwrap();
        let limit: Bandwidth = "00:00-00:01=1MiB,else=2MiB".parse().unwrap();
        log.act("m1", Act::Set(ControlChange { bandwidth_limit: Some(limit), ..ControlChange::default() }))
            .unwrap();
        assert!(paces(&log.state, WallMs(0)).is_empty(), "nothing runs");
        let lease = log.grant("m1");
        let at = |log: &Log, now| {
            paces(&log.state, WallMs(now)).get(&lease.token).map(|paced| paced.pace.bytes_per_s)
        };
        assert_eq!([at(&log, 59_999), at(&log, 60_000)], [Some(Some(1 << 20)), Some(Some(2 << 20))]);
        log.act("m1", Act::Cancel).unwrap();
        log.grant("m1");
        assert!(paces(&log.state, WallMs(0)).is_empty(), "an undo sends nothing");
    }

    #[test]
    fn what_runs_over_a_host_shares_its_limit() {
        let mut log = Log::new();
        let limit = |bandwidth: &str| {
            let bandwidth = Some(bandwidth.parse().unwrap());
            host::Change::Limit(HostLimitChange { bandwidth, migrations: None })
        };
        log.host("web1", limit("90")).unwrap();
        let tokens: Vec<FencingToken> = (1..=3)
            .map(|number| {
                let id = format!("m{number}");
                log.create(&id, number, |_| {}).unwrap();
                log.grant(&id).token
            })
            .collect();
        let rates = |log: &Log| {
            let paces = paces(&log.state, WallMs(0));
            tokens
                .iter()
                .map(|token| paces.get(token).and_then(|paced| paced.pace.bytes_per_s))
                .collect::<Vec<_>>()
        };
        assert_eq!(rates(&log), [Some(30); 3]);
        let own = ControlChange { bandwidth_limit: Some(Bandwidth::always(10)), ..ControlChange::default() };
        log.act("m1", Act::Set(own)).unwrap();
        assert_eq!(rates(&log), [Some(10), Some(40), Some(40)]);
        log.host("web2", limit("30")).unwrap();
        assert_eq!(rates(&log), [Some(10); 3]);
        for host in ["web1", "web2"] {
            log.host(host, limit("none")).unwrap();
        }
        assert_eq!(rates(&log), [Some(10), None, None]);
    }
}
