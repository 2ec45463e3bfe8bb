//! Hosts: invited, enrolled, draining, revoked.
//!
//! Whether an agent is connected is the leader's knowledge and not in here.

use common::clock::WallMs;
use common::control::HostLimitChange;
use common::digest::Digest;
use common::failure::FailureKind;
use common::host::{HostFacts, HostStatus};
use common::id::{HostName, TenantId};
use common::principal::Principal;
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::join::Join;
use super::refusal::Refusal;
use super::stamp::Stamp;
use super::table::Table;
use super::{Applied, Outcome};

/// The largest facts document; a survey of thousands of mounts is cut by the agent.
pub const FACTS_BYTES_MAX: usize = 48 * 1024;

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Who invited it.
    pub principal: Principal,
    /// When it was first invited.
    pub created: WallMs,
    /// Where it stands.
    pub status: HostStatus,
    /// The last invitation.
    pub join: Option<Join>,
    /// Generation of its certificate, rising over all its lives; zero until it has enrolled.
    pub generation: u64,
    /// The public key of that generation, in DER.
    pub public_key: Vec<u8>,
    /// The next generation's public key, issued and not yet seen in a handshake.
    pub pending_key: Option<Vec<u8>>,
    /// Counts the starts of its agent.
    pub incarnation: u64,
    /// What its agent found last.
    #[serde(with = "super::document")]
    pub facts: Option<HostFacts>,
    /// When the facts last changed.
    pub facts_changed: Option<WallMs>,
}

/// Certificates of a host that were voided before their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voided {
    /// Those up to this generation.
    pub generation: u64,
    /// When.
    pub at: WallMs,
}

/// What can be asked of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub host: HostName,
    /// What.
    pub change: Change,
}

/// A change of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Lets it join with a one-time token.
    Invite {
        /// Digest of the token.
        token: Digest,
        /// When the token ends.
        expires: WallMs,
    },
    /// Uses the token; answered with the generation of the certificate.
    Enroll {
        /// Digest of the token.
        token: Digest,
        /// The host's public key in DER.
        public_key: Vec<u8>,
    },
    /// Asks for the next certificate; answered with its generation.
    Renew {
        /// The generation that the caller holds.
        generation: u64,
        /// The key of the next one.
        public_key: Vec<u8>,
    },
    /// The next generation was seen in a handshake: the one before it is over.
    Seen {
        /// The generation that was seen.
        generation: u64,
    },
    /// The agent started again; its older leases end.
    Started {
        /// Counts its starts.
        incarnation: u64,
    },
    /// What its agent found, when it differs from what is known.
    Facts(#[serde(with = "super::document")] HostFacts),
    /// Takes no new steps, or again.
    Drain(
        /// Whether it drains.
        bool,
    ),
    /// Voids its certificates for good.
    Revoke,
    /// Limits what its migrations share; it stands with the migrations.
    Limit(#[serde(with = "super::document")] HostLimitChange),
}

/// All hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hosts {
    table: Table<HostName, Host>,
    /// By the last revocation of each host; one that joins again is another life, and what was voided stays void.
    voided: Table<HostName, Voided>,
}

impl Hosts {
    /// Returns a host.
    pub fn get(&self, tenant: &TenantId, host: &HostName) -> Option<&Host> {
        self.table.get(tenant, host).map(std::sync::Arc::as_ref)
    }

    /// Returns the hosts.
    pub fn table(&self) -> &Table<HostName, Host> {
        &self.table
    }

    /// Returns what the last revocations voided.
    pub fn voided(&self) -> &Table<HostName, Voided> {
        &self.voided
    }

    pub(super) fn voided_mut(&mut self) -> &mut Table<HostName, Voided> {
        &mut self.voided
    }

    pub(super) fn table_mut(&mut self) -> &mut Table<HostName, Host> {
        &mut self.table
    }

    /// Applies a command.
    pub(super) fn apply(&mut self, stamp: &Stamp, command: Command) -> Result<Applied, Refusal> {
        let Command { tenant, host: name, change } = command;
        let known = self.get(&tenant, &name).cloned();
        let is_revoked = matches!(change, Change::Revoke);
        let (host, applied) = match (known, change) {
            (known, Change::Invite { token, expires }) => {
                (invite(stamp, known, &name, token, expires)?, Applied::done())
            }
            (Some(host), change) => alter(stamp, &tenant, &name, host, change)?,
            (None, Change::Enroll { .. }) => return Err(Join::refused(&name)),
            (None, _) => return Err(Refusal::absent("host", &name)),
        };
        if is_revoked && host.generation > 0 {
            let voided = Voided { generation: host.generation, at: stamp.wall };
            self.voided.insert(&tenant, name.clone(), voided);
        }
        self.table.insert(&tenant, name.clone(), host);
        Ok(applied.effect(Effect::HostChanged { tenant, host: name }))
    }
}

impl Host {
    /// Whether a certificate of this generation and key is one that the host may use now.
    pub fn accepts(&self, generation: u64, public_key: &[u8]) -> bool {
        let is_alive = matches!(self.status, HostStatus::Enrolled | HostStatus::Draining);
        let is_current = generation == self.generation && public_key == self.public_key;
        let is_next = generation == self.generation + 1 && self.pending_key.as_deref() == Some(public_key);
        is_alive && (is_current || is_next)
    }
}

fn invite(
    stamp: &Stamp,
    known: Option<Host>,
    name: &HostName,
    token: Digest,
    expires: WallMs,
) -> Result<Host, Refusal> {
    let Some(host) = known else {
        return Ok(Host {
            principal: stamp.principal.clone(),
            created: stamp.wall,
            status: HostStatus::Invited,
            join: Some(Join::new(token, expires)),
            generation: 0,
            public_key: Vec::new(),
            pending_key: None,
            incarnation: 0,
            facts: None,
            facts_changed: None,
        });
    };
    match host.status {
        HostStatus::Invited | HostStatus::Revoked => {
            let join = Some(Join::new(token, expires));
            Ok(Host { principal: stamp.principal.clone(), join, status: HostStatus::Invited, ..host })
        }
        HostStatus::Enrolled | HostStatus::Draining => Err(Refusal::new(
            FailureKind::Conflict,
            format!("the host `{name}` has joined already"),
            format!("choose another name, or revoke it first with `ctl host revoke {name}`"),
        )),
    }
}

fn alter(
    stamp: &Stamp,
    tenant: &TenantId,
    name: &HostName,
    mut host: Host,
    change: Change,
) -> Result<(Host, Applied), Refusal> {
    let mut applied = Applied::done();
    match change {
        Change::Invite { token, expires } => host = invite(stamp, Some(host), name, token, expires)?,
        Change::Enroll { token, public_key } => {
            let join = host.join.as_mut().ok_or_else(|| Join::refused(name))?;
            let is_repeated = join.is_used();
            join.consume(name, &token, &public_key, stamp.wall)?;
            if !is_repeated {
                // The generation rises over all lives of a name, so that certificates of an earlier one stay void.
                host.generation += 1;
                host.public_key = public_key;
                host.pending_key = None;
                host.incarnation = 0;
                host.status = HostStatus::Enrolled;
            }
            applied = Applied::new(Outcome::Enrolled { generation: host.generation, is_repeated });
        }
        Change::Renew { generation, public_key } => {
            applied = Applied::new(Outcome::Renewed {
                generation: renew(name, &mut host, generation, public_key)?,
            });
        }
        Change::Seen { generation } => {
            if generation == host.generation + 1
                && let Some(key) = host.pending_key.take()
            {
                host.public_key = key;
                host.generation = generation;
            }
        }
        Change::Started { incarnation } => {
            enrolled(name, &host)?;
            if incarnation < host.incarnation {
                return Err(Refusal::new(
                    FailureKind::Fenced,
                    format!("an agent of `{name}` that started later is known"),
                    "look for a second agent with this host's state, such as a cloned machine, and stop it",
                ));
            }
            host.incarnation = incarnation;
        }
        Change::Facts(facts) => {
            enrolled(name, &host)?;
            check_size(&facts)?;
            host.facts = Some(facts);
            host.facts_changed = Some(stamp.wall);
        }
        Change::Limit(_) => enrolled(name, &host)?,
        Change::Drain(drain) => {
            enrolled(name, &host)?;
            host.status = if drain { HostStatus::Draining } else { HostStatus::Enrolled };
        }
        Change::Revoke => {
            host.status = HostStatus::Revoked;
            host.join = None;
            // A certificate that was issued and not shown yet is void too, and its number is never given again.
            host.generation += u64::from(host.pending_key.take().is_some());
            applied = applied.effect(Effect::HostRevoked { tenant: tenant.clone(), host: name.clone() });
        }
    }
    Ok((host, applied))
}

fn enrolled(name: &HostName, host: &Host) -> Result<(), Refusal> {
    match host.status {
        HostStatus::Enrolled | HostStatus::Draining => Ok(()),
        HostStatus::Invited => Err(Refusal::new(
            FailureKind::Conflict,
            format!("the host `{name}` has not joined yet"),
            "run the command that `ctl host enroll` printed on it",
        )),
        HostStatus::Revoked => Err(Refusal::new(
            FailureKind::Denied,
            format!("the host `{name}` is revoked"),
            format!("let it join again with `ctl host enroll {name}`"),
        )),
    }
}

fn check_size(facts: &HostFacts) -> Result<(), Refusal> {
    let bytes = serde_json::to_vec(facts).map_or(usize::MAX, |document| document.len());
    if bytes <= FACTS_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the facts have {bytes} bytes, and {FACTS_BYTES_MAX} are allowed");
    Err(Refusal::new(FailureKind::Invalid, message, "the agent reports fewer disks"))
}

/// Generation n stays valid for this call until n+1 has been seen in a handshake, so a lost answer can be asked for
/// again, with another key too.
fn renew(name: &HostName, host: &mut Host, generation: u64, public_key: Vec<u8>) -> Result<u64, Refusal> {
    enrolled(name, host)?;
    let is_answer_again =
        generation == host.generation + 1 && host.pending_key.as_deref() == Some(public_key.as_slice());
    let is_known_already = generation + 1 == host.generation && host.public_key == public_key;
    if is_answer_again || is_known_already {
        return Ok(host.generation + u64::from(is_answer_again));
    }
    if generation != host.generation {
        return Err(Refusal::new(
            FailureKind::Denied,
            format!(
                "the certificate of `{name}` in generation {generation} was renewed by somebody else since"
            ),
            format!(
                "its key may have been copied: `ctl host revoke {name}`, then let it join again with `ctl host enroll {name}`"
            ),
        ));
    }
    host.pending_key = Some(public_key);
    Ok(generation + 1)
}
