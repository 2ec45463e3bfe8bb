//! How fast each step may go now, told to the agents that run them as soon as it changes.
//!
//! What holds is computed here and nowhere else, from the state and the leader's clock; renewals of leases say it too, so
//! that a word that was lost costs ten seconds.

use std::collections::BTreeMap;

use common::clock::{self, WallMs};
use common::fence::FencingToken;
use proto::v1;
use proto::v1::coordinator_message::Message;

use crate::hub::Hub;
use crate::live::grant;
use crate::live::paces::{Pace, Paced};
use crate::state::State;

/// Returns the paces of all leases under which something is sent.
pub fn paces(state: &State, now: WallMs) -> BTreeMap<FencingToken, Paced> {
    let mut paces = BTreeMap::new();
    for migration in state.migrations().active() {
        let bytes_per_s = migration.bandwidth().and_then(|bandwidth| bandwidth.at(now));
        for step in &migration.steps {
            let Some(lease) = step.lease.as_ref().filter(|lease| !lease.is_undo) else { continue };
            let (tenant, host) = (migration.tenant.clone(), lease.host.clone());
            paces.insert(lease.token, Paced { tenant, host, pace: Pace { bytes_per_s } });
        }
    }
    paces
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
    v1::Paced { token: Some(grant::token(token)), bandwidth_limit: pace.bytes_per_s.unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use common::bandwidth::Bandwidth;
    use common::control::ControlChange;

    use super::*;
    use crate::state::migration::Act;
    use crate::state::sample::Log;

    #[test]
    fn a_timetable_is_followed_and_what_sends_nothing_has_no_pace() {
        let mut log = Log::new();
        log.create("m1", 1, |_| {}).unwrap();
        let limit: Bandwidth = "00:00-00:01=1MiB,else=2MiB".parse().unwrap();
        log.act("m1", Act::Set(ControlChange { bandwidth_limit: Some(limit) })).unwrap();
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
}
