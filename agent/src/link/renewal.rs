//! The certificate's next generation: asked for at half its life, and for ever after while it is not there.
//!
//! This is also the one keeper of the membership file: addresses that the leader names are written here. A certificate
//! that expired while the host was off still opens this one call, for 30 days.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use common::clock::{self, WallMs};
use common::failure::Failure;
use common::shutdown::Shutdown;
use common::tls::{Identity, Peer};
use proto::channel::{Coordinators, agent_client};
use proto::v1::{RenewRequest, RenewResponse};
use tokio::sync::watch;

use super::membership::{self, Issued, Membership};

/// The part of its life after which a certificate is renewed, in percent.
const HALF_PERCENT: u64 = 50;
/// How much later some hosts renew than others, in percent of the life.
const LATE_PERCENT_MAX: u64 = 15;
/// How long coordinators are tried in one attempt.
const DEADLINE: Duration = Duration::from_secs(15);
/// First and longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the wall clock is looked at; it may jump, and the machine may have slept.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the membership fresh.
#[derive(Debug)]
pub struct Renewal {
    /// The membership as it is on disk.
    pub membership: Membership,
    /// Where it is on disk.
    pub state_dir: PathBuf,
    /// What the process shows.
    pub identity: Arc<Identity>,
    /// The way to the coordinators.
    pub coordinators: Arc<Coordinators>,
    /// The addresses that the leader names.
    pub addresses: watch::Receiver<Vec<String>>,
    /// Where the end of the newest certificate goes.
    pub certificate_end: watch::Sender<WallMs>,
    /// Ends it.
    pub shutdown: Shutdown,
}

impl Renewal {
    /// Runs until the shutdown.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                Ok(()) = self.addresses.changed() => self.learn(),
                () = tokio::time::sleep(pause) => pause = self.look(&mut backoff).await,
            }
        }
    }

    /// Renews if it is time, and says when to look again.
    async fn look(&mut self, backoff: &mut Backoff) -> Duration {
        if !self.is_due() {
            return LOOK_INTERVAL;
        }
        let stop = self.shutdown.clone();
        let renewed = tokio::select! {
            biased;
            () = stop.cancelled() => return LOOK_INTERVAL,
            renewed = self.renew() => renewed,
        };
        match renewed {
            Ok(()) => {
                backoff.reset();
                tracing::info!(generation = self.membership.generation, "certificate renewed");
                LOOK_INTERVAL
            }
            Err(failure) => {
                let hint = failure.hint.as_deref().unwrap_or_default();
                tracing::warn!(%failure, hint, "certificate not renewed");
                backoff.next_delay(getrandom::u32().unwrap_or(0))
            }
        }
    }

    /// Whether half of the certificate's life is over; a certificate that cannot be read is due too.
    fn is_due(&self) -> bool {
        // A fleet that was started at once shall not renew at once.
        let late_percent =
            self.membership.name.as_str().bytes().map(u64::from).sum::<u64>() % LATE_PERCENT_MAX;
        let is_due =
            |peer: Peer| is_due(peer.not_before, peer.not_after, clock::wall(), HALF_PERCENT + late_percent);
        self.membership.peer().map_or(true, is_due)
    }

    async fn renew(&mut self) -> Result<(), Failure> {
        let key = membership::next_key(&self.state_dir)?;
        let request = RenewRequest {
            certificate_request: membership::request_of(&key)?,
            generation: self.membership.generation,
        };
        let answer = self.coordinators.call(DEADLINE, |channel| {
            let request = request.clone();
            async move { agent_client(channel).renew(request).await }
        });
        let RenewResponse { certificate, ca_certificate, generation, coordinators } = answer.await?;
        let issued = Issued { certificate, ca_certificate, generation, coordinators };
        let mut next = self.membership.clone();
        next.take(issued, &key)?;
        // On disk before it is shown: showing it tells the coordinator that the one before is not needed any more.
        next.save(&self.state_dir)?;
        let (chain, private) = next.credentials()?;
        self.identity.replace(chain, private).map_err(membership::MembershipError::from)?;
        self.coordinators.learn(next.coordinators.clone());
        self.coordinators.reconnect();
        self.certificate_end.send_replace(next.peer()?.not_after);
        self.membership = next;
        membership::forget_next_key(&self.state_dir)?;
        Ok(())
    }

    fn learn(&mut self) {
        let addresses = self.addresses.borrow_and_update().clone();
        if self.membership.learn(addresses)
            && let Err(error) = self.membership.save(&self.state_dir)
        {
            tracing::warn!(error = %common::failure::chain(&error), "addresses of the coordinators not kept");
        }
    }
}

/// Whether this part of a certificate's life is over.
fn is_due(not_before: WallMs, not_after: WallMs, now: WallMs, percent: u64) -> bool {
    now.since(not_before).saturating_mul(100) >= not_after.since(not_before).saturating_mul(percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::fixture::{Authority, FakeCoordinator, joined};

    #[test]
    fn is_due_from_half_of_its_life_on() {
        for (now, expected) in [(0, false), (1_000, false), (1_499, false), (1_500, true), (9_999, true)] {
            assert_eq!(is_due(WallMs(1_000), WallMs(2_000), WallMs(now), HALF_PERCENT), expected, "at {now}");
        }
    }

    #[tokio::test]
    async fn an_old_certificate_is_replaced_on_disk_and_in_the_process() {
        let authority = Authority::new();
        let coordinator = FakeCoordinator::start(&authority).await;
        let host = joined(&authority, &coordinator);
        let membership = Membership::load(host.directory.path()).unwrap();
        let end = membership.peer().unwrap().not_after;
        let mut renewal = Renewal {
            membership,
            state_dir: host.directory.path().to_owned(),
            identity: Arc::clone(&host.identity),
            coordinators: Arc::clone(&host.coordinators),
            addresses: watch::channel(Vec::new()).1,
            certificate_end: watch::Sender::new(end),
            shutdown: Shutdown::new(),
        };
        renewal.renew().await.unwrap();
        assert_eq!(host.identity.peer().unwrap().generation, Some(2));
        assert_eq!(Membership::load(host.directory.path()).unwrap().generation, 2);
        // A second renewal asks with a new key.
        renewal.renew().await.unwrap();
        let keys = coordinator.renewed_keys();
        assert_eq!(keys.len(), 2);
        assert_ne!(keys[0], keys[1]);
    }
}
