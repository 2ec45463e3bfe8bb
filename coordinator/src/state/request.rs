//! Changes that were made, by the call that asked for them, so that one whose answer was lost is not made twice.
//!
//! A call that is tried again, because the leader died before it answered, bears the name of the first try. What it
//! asked for is answered as done, and nothing is written for it but the first line of the audit.

use common::failure::FailureKind;
use common::id::TenantId;
use common::principal::Principal;
use rpds::RedBlackTreeMapSync;

use super::refusal::Refusal;
use super::stamp::Stamp;
use super::{Applied, Command, Outcome, State};
use crate::access::actor::Actor;

/// The longest name of a call.
pub const REQUEST_BYTES_MAX: usize = 64;
/// Calls that are remembered; a call is tried for a minute at most, and the oldest go first.
const REQUESTS_MAX: usize = 4_096;

/// What a change is known by, a BLAKE3.
type Known = [u8; 32];

/// The calls whose changes were made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    made: RedBlackTreeMapSync<Known, u64>,
    by_index: RedBlackTreeMapSync<u64, Known>,
}

impl Requests {
    fn has(&self, request: &Known) -> bool {
        self.made.contains_key(request)
    }

    /// Returns the calls with the log index of their change, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = (&u64, &Known)> {
        self.by_index.iter()
    }

    /// Remembers a call.
    pub(super) fn note(&mut self, index: u64, request: Known) {
        self.made.insert_mut(request, index);
        self.by_index.insert_mut(index, request);
        while self.by_index.size() > REQUESTS_MAX
            && let Some((oldest, request)) = self.by_index.first().map(|(index, request)| (*index, *request))
        {
            self.by_index.remove_mut(&oldest);
            self.made.remove_mut(&request);
        }
    }
}

/// What a change is known by: the name that a call gives itself counts for its caller and for one kind of change of one
/// thing only.
fn digest(
    principal: &Principal,
    tenant: Option<&TenantId>,
    action: &str,
    object: &str,
    request: &str,
) -> Known {
    let tenant = tenant.map_or("", TenantId::as_str);
    // None of them holds a zero byte, except for the last.
    let text = [&principal.to_string(), tenant, action, object, request].join("\0");
    *blake3::hash(text.as_bytes()).as_bytes()
}

impl State {
    /// Whether the change was made already that a call asks for.
    pub fn has_made(&self, actor: &Actor, tenant: Option<&TenantId>, action: &str, object: &str) -> bool {
        let request = actor.request.as_deref();
        request.is_some_and(|it| self.requests.has(&digest(&actor.principal, tenant, action, object, it)))
    }

    /// Makes a change unless it was made for this call.
    pub(super) fn apply_once(
        &mut self,
        stamp: &Stamp,
        request: &str,
        command: Command,
    ) -> Result<Applied, Refusal> {
        let subject = command.subject().filter(|_| (1..=REQUEST_BYTES_MAX).contains(&request.len()));
        let Some((action, object)) = subject.filter(|_| !matches!(command, Command::Once { .. })) else {
            let message = format!(
                "a call that is made once is a change, with a name of 1 to {REQUEST_BYTES_MAX} bytes"
            );
            return Err(Refusal::new(FailureKind::Invalid, message, "this is a fault of the caller"));
        };
        let request = digest(&stamp.principal, command.tenant(), action, &object, request);
        if self.requests.has(&request) {
            return Ok(Applied::done());
        }
        let applied = self.apply_to(stamp, command)?;
        if applied.outcome == Outcome::Done {
            self.requests.note(stamp.index, request);
        }
        Ok(applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::access::command::Command as Change;
    use crate::state::sample::{self, Log};
    use crate::state::snapshot;

    fn create(tenant: &str, request: &str) -> Command {
        let command = Command::Access(Change::CreateTenant { name: tenant.parse().unwrap() });
        Command::Once { request: request.to_owned(), command: Box::new(command) }
    }

    #[test]
    fn a_change_is_made_once_for_a_call() {
        let mut log = Log::new();
        log.apply(sample::operator(), create("acme", "r1")).unwrap();
        let (lines, tenants) = (log.state.audit().count(), log.state.access().tenants().clone());
        let again = log.apply(sample::operator(), create("acme", "r1")).unwrap();
        assert_eq!(again, Applied::done());
        assert_eq!((log.state.audit().count(), log.state.access().tenants()), (lines, &tenants));
        // Another call, another caller and another thing are other changes.
        assert!(log.apply(sample::operator(), create("acme", "r2")).is_err());
        assert!(log.apply(sample::node(), create("acme", "r1")).is_err());
        log.apply(sample::operator(), create("other", "r1")).unwrap();

        let mut written = Vec::new();
        snapshot::write(&log.state, &mut written).unwrap();
        log.state = snapshot::read(&mut written.as_slice()).unwrap();
        assert_eq!(log.apply(sample::operator(), create("acme", "r1")).unwrap(), Applied::done());
    }

    #[test]
    fn what_was_refused_may_be_asked_again_and_no_name_is_empty_or_endless() {
        let mut log = Log::new();
        assert!(log.apply(sample::operator(), create("default", "r1")).is_err());
        assert!(log.apply(sample::operator(), create("default", "r1")).is_err());
        for request in ["", &"r".repeat(REQUEST_BYTES_MAX + 1)] {
            assert!(log.apply(sample::operator(), create("acme", request)).is_err());
        }
        let nested = Command::Once { request: "r".to_owned(), command: Box::new(create("acme", "r")) };
        assert!(log.apply(sample::operator(), nested).is_err());
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let mut requests = Requests::default();
        let known = |index: u64| *blake3::hash(&index.to_le_bytes()).as_bytes();
        let count = u64::try_from(REQUESTS_MAX).unwrap() + 1;
        for index in 0..count {
            requests.note(index, known(index));
        }
        assert!(!requests.has(&known(0)));
        assert!(requests.has(&known(1)));
        assert_eq!((requests.made.size(), requests.by_index.size()), (REQUESTS_MAX, REQUESTS_MAX));
    }
}
