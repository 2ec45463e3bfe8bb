//! What was refused, before it becomes lines of the audit.
//!
//! Refusals are counted by who and from where. The first of a minute becomes a line within a second, so that it can be
//! seen; what follows in that minute becomes one line at its end. The keys of a minute are bounded, those of strangers
//! apart from those of principals, so that nobody without a certificate can hide what a principal tries; what is above
//! the bounds is counted as `others`. So a flood of any size costs some dozens of lines a minute.
//!
//! Every node counts what it refuses; the leader writes, and the others hand theirs over to it. A node that dies loses
//! at most a minute's counts: what they count was refused all the same.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};
use common::failure::Failure;
use common::id::TenantId;
use common::principal::Principal;

use super::exchange::{self, DEADLINE, Question};
use crate::hub::Hub;
use crate::state::Command;
use crate::state::audit::{Command as AuditCommand, Deed, REFUSED_MAX};

/// Principals with an address that are told apart in a minute; their number is bounded by who has a certificate or key.
const KNOWN_MAX: usize = 32;
/// Addresses of strangers that are told apart in a minute.
const STRANGERS_MAX: usize = 8;
/// Calls of one key that are named in its line.
const ACTIONS_MAX: usize = 8;
/// Over how long refusals are coalesced.
const MINUTE: Duration = Duration::from_secs(60);
/// How often the table is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Lines that wait for a leader: those of one look, and of the one before.
const WAITING_MAX: usize = 2 * (KNOWN_MAX + STRANGERS_MAX + 2);
/// Things of one key that are named in its line.
const OBJECTS_MAX: usize = 8;
/// Who a stranger is in the audit.
pub const NOBODY: &str = "nobody";

/// One refused attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Who, if that was proven.
    pub principal: Option<Principal>,
    /// Whose audit it belongs in, if that is not the principal's.
    pub tenant: Option<TenantId>,
    /// From where.
    pub address: Option<IpAddr>,
    /// What was asked for.
    pub action: String,
    /// Of what, as far as that is known where it was refused.
    pub object: String,
    /// Why it was refused.
    pub reason: String,
}

/// What was refused on this node and is no line yet.
#[derive(Debug, Default)]
pub struct Refusals {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    began: Option<BootTime>,
    known: BTreeMap<Key, Counted>,
    strangers: BTreeMap<Key, Counted>,
    others: Option<Counted>,
}

/// Who, from where and in whose audit.
type Key = (Option<Principal>, Option<IpAddr>, TenantId);

/// What was refused to one key in this minute.
#[derive(Debug)]
struct Counted {
    actions: Vec<String>,
    objects: Vec<String>,
    reason: String,
    /// How many are not written yet.
    count: u32,
    /// Whether the first is written.
    is_told: bool,
}

impl Refusals {
    /// Counts a refused attempt.
    pub fn note(&self, refused: Refused) {
        self.note_at(refused, clock::boot());
    }

    fn note_at(&self, refused: Refused, now: BootTime) {
        let Refused { principal, tenant, address, action, object, reason } = refused;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.began.get_or_insert(now);
        let tenant = tenant.or_else(|| principal.as_ref().map(Principal::tenant));
        let tenant = tenant.unwrap_or_else(TenantId::default_tenant);
        let (keys, max) = match principal {
            Some(_) => (&mut table.known, KNOWN_MAX),
            None => (&mut table.strangers, STRANGERS_MAX),
        };
        let key = (principal, address.map(|address| address.to_canonical()), tenant);
        let fresh = || Counted { actions: Vec::new(), objects: Vec::new(), reason, count: 0, is_told: false };
        let counted = if keys.len() < max || keys.contains_key(&key) {
            keys.entry(key).or_insert_with(fresh)
        } else {
            table.others.get_or_insert_with(fresh)
        };
        counted.count = counted.count.saturating_add(1);
        if counted.actions.len() < ACTIONS_MAX && !counted.actions.contains(&action) {
            counted.actions.push(action);
        }
        if counted.objects.len() < OBJECTS_MAX && !object.is_empty() && !counted.objects.contains(&object) {
            counted.objects.push(object);
        }
    }

    /// Takes what should become lines now.
    pub(crate) fn take(&self, now: BootTime) -> Vec<Deed> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(began) = table.began else { return Vec::new() };
        let is_over = now.since(began) >= MINUTE;
        let mut deeds = Vec::new();
        let Table { began: _, known, strangers, others } = &mut *table;
        for ((principal, address, tenant), counted) in known.iter_mut().chain(strangers.iter_mut()) {
            let who = principal.as_ref().map_or_else(|| NOBODY.to_owned(), ToString::to_string);
            deeds.extend(counted.take(who, address.map(|address| address.to_string()), tenant, is_over));
        }
        if let Some(counted) = others {
            deeds.extend(counted.take("others".to_owned(), None, &TenantId::default_tenant(), is_over));
        }
        if is_over {
            *table = Table::default();
        }
        deeds
    }
}

impl Counted {
    /// Returns the line that is due: the first at once, all others with the end of the minute.
    fn take(
        &mut self,
        principal: String,
        address: Option<String>,
        tenant: &TenantId,
        is_over: bool,
    ) -> Option<Deed> {
        let count = match (self.count, self.is_told, is_over) {
            (0, ..) | (_, true, false) => return None,
            (_, false, false) => 1,
            (count, _, true) => count,
        };
        self.is_told = true;
        self.count -= count;
        let told = |names: &[String]| match count {
            1 => names.first().cloned().unwrap_or_default(),
            _ => names.join(", "),
        };
        Some(Deed {
            tenant: tenant.clone(),
            principal,
            address,
            action: told(&self.actions),
            object: told(&self.objects),
            refused: Some(self.reason.clone()),
            count,
        })
    }
}

/// Writes what was refused, or hands it over to who leads, until the shutdown.
pub async fn run(hub: Arc<Hub>) {
    let mut waiting = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        // What cannot be written now stays counted in the table, which is bounded.
        if waiting.len() < WAITING_MAX / 2 {
            waiting.extend(hub.audit.refusals.take(clock::boot()));
        }
        while !waiting.is_empty() {
            let some: Vec<Deed> = waiting.iter().take(REFUSED_MAX).cloned().collect();
            let count = some.len();
            if let Err(failure) = write(&hub, some).await {
                tracing::debug!(%failure, count, "refusals are audited later");
                break;
            }
            waiting.drain(..count);
        }
    }
}

async fn write(hub: &Hub, deeds: Vec<Deed>) -> Result<(), Failure> {
    if hub.is_leader() {
        let command = Command::AuditLog(AuditCommand::Refused(deeds));
        return hub.propose(hub.principal(), command).await.map(|_| ());
    }
    let leader = exchange::peers(hub).into_iter().find(|member| member.role == "leader");
    let Some(leader) = leader else { return Err(hub.proposer.elsewhere("no coordinator leads", None)) };
    exchange::ask(hub, &leader, DEADLINE, &Question::Refused(deeds)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(principal: Option<&str>, last: u8, action: &str) -> Refused {
        let person =
            |name: &str| Principal::Person { tenant: TenantId::default_tenant(), name: name.to_owned() };
        Refused {
            principal: principal.map(person),
            tenant: None,
            address: Some(IpAddr::from([192, 0, 2, last])),
            action: action.to_owned(),
            object: String::new(),
            reason: "no".to_owned(),
        }
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_with_their_minute() {
        let (refusals, begin) = (Refusals::default(), clock::boot());
        let at = |seconds| begin.after(Duration::from_secs(seconds));
        for _ in 0..10_000 {
            refusals.note_at(refused(Some("eve"), 1, "host.revoke"), at(0));
        }
        refusals.note_at(refused(Some("eve"), 1, "host.drain"), at(1));
        refusals.note_at(refused(Some("eve"), 2, "host.drain"), at(1));
        let told = |deeds: Vec<Deed>| -> Vec<(String, u32)> {
            deeds.into_iter().map(|deed| (deed.action, deed.count)).collect()
        };
        let first = [("host.revoke".to_owned(), 1), ("host.drain".to_owned(), 1)];
        assert_eq!(told(refusals.take(at(1))), first);
        assert!(refusals.take(at(59)).is_empty());
        assert_eq!(told(refusals.take(at(60))), [("host.revoke, host.drain".to_owned(), 10_000)]);
        assert!(refusals.take(at(120)).is_empty());
    }

    #[test]
    fn a_flood_from_everywhere_is_a_few_lines() {
        let (refusals, now) = (Refusals::default(), clock::boot());
        let mut total = 0;
        for round in 0..200_u8 {
            refusals.note_at(refused(None, round, "connect"), now);
            refusals.note_at(refused(Some(&format!("p{round}")), round, "host.drain"), now);
        }
        refusals.note_at(refused(Some("p1"), 1, "host.drain"), now);
        let later = now.after(MINUTE);
        for deed in refusals.take(now).into_iter().chain(refusals.take(later)) {
            total += u64::from(deed.count);
        }
        assert_eq!(total, 401, "everything is counted");
        let table = refusals.table.lock().unwrap();
        assert!(table.known.is_empty() && table.strangers.is_empty());
        drop(table);
        for round in 0..200_u8 {
            refusals.note_at(refused(None, round, "connect"), later);
        }
        assert_eq!(refusals.take(later).len(), STRANGERS_MAX + 1);
    }
}
