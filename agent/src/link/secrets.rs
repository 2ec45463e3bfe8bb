//! Secrets on their way to a step: asked of the leader, sealed to this process, opened here.
//!
//! ```text
//! step or served connection ──ask──▶ desk ──▶ session ──OpenSecret──▶ leader
//!            value ◀──opened by the sealing key── desk ◀── session ◀──sealed──
//! ```
//!
//! What stands on the host itself is read by `local` and never asked for. An ask whose session breaks is asked again
//! in the next one, until its deadline. The sealing key lives in this process only; a restart makes another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::id::{HostName, TenantId};
use common::reference::Reference;
use common::sealing::{self, Sealed, SealingKey};
use common::secret::Secret;
use common::tls::Identity;
use proto::v1;
use tokio::sync::{mpsc, oneshot};
use transfer::{OpenSecret, Opening, Right};

use super::local;
use super::wire;

/// Asks that wait for the session; each is one step or connection that begins.
pub const ASKS_MAX: usize = 64;
/// Asks that one session has sent and that are not answered.
const SENT_MAX: usize = 64;
/// How long an answer may take, elections and lost sessions in between.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long the leader may take for one answer: it may have to ask a vault.
const ANSWER_DEADLINE: Duration = Duration::from_secs(12);
/// The pause before an ask whose session broke is made again.
const PAUSE: Duration = Duration::from_millis(250);

/// One ask on its way to the session.
#[derive(Debug)]
pub struct Ask {
    right: Right,
    reference: Reference,
    answer: oneshot::Sender<Result<Sealed, Failure>>,
}

/// Where secrets are asked for; cheap to clone.
#[derive(Clone, Debug)]
pub struct SecretDesk {
    asks: mpsc::Sender<Ask>,
    key: Arc<SealingKey>,
    tenant: TenantId,
    host: HostName,
}

impl SecretDesk {
    /// Makes the desk of a host, and what the session takes asks from.
    ///
    /// # Errors
    /// When the system gives no key.
    pub fn new(tenant: TenantId, host: HostName) -> Result<(Self, mpsc::Receiver<Ask>), Failure> {
        let key = SealingKey::generate().map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let (asks, taken) = mpsc::channel(ASKS_MAX);
        Ok((Self { asks, key: Arc::new(key), tenant, host }, taken))
    }

    /// Returns the half of the key that the leader seals to.
    pub fn key(&self) -> Arc<SealingKey> {
        Arc::clone(&self.key)
    }

    async fn ask(&self, right: Right, reference: Reference) -> Result<Secret<Vec<u8>>, Failure> {
        let deadline = clock::boot().after(DEADLINE);
        loop {
            let (answer, answered) = oneshot::channel();
            let ask = Ask { right: right.clone(), reference: reference.clone(), answer };
            let asked = async {
                self.asks.send(ask).await.ok()?;
                answered.await.ok()
            };
            let failure = match tokio::time::timeout(ANSWER_DEADLINE, asked).await {
                Ok(Some(Ok(sealed))) => return self.unseal(&right, &reference, &sealed),
                Ok(Some(Err(failure))) => failure,
                Ok(None) | Err(_) => unreachable_leader(&reference),
            };
            // Anything else would be answered the same again.
            if failure.kind != FailureKind::Unreachable || clock::boot() >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn unseal(
        &self,
        right: &Right,
        reference: &Reference,
        sealed: &Sealed,
    ) -> Result<Secret<Vec<u8>>, Failure> {
        let step = (&right.migration, &right.step, right.token);
        let purpose = sealing::purpose(&self.tenant, &self.host, step, reference);
        self.key.open(&purpose, sealed).map_err(|error| {
            let failure = Failure::of(FailureKind::Corrupt, &error);
            Failure { message: format!("{reference}: {}", failure.message), ..failure }
        })
    }
}

fn unreachable_leader(reference: &Reference) -> Failure {
    Failure::new(FailureKind::Unreachable, format!("no coordinator answered the request for {reference}"))
        .hint("is a coordinator reachable from this host? `ctl host list` shows which hosts are connected")
}

impl OpenSecret for SecretDesk {
    fn open(&self, right: Right, reference: Reference) -> Opening {
        let desk = self.clone();
        Box::pin(async move {
            if reference.is_opened_by_coordinator() {
                return desk.ask(right, reference).await;
            }
            let read = tokio::task::spawn_blocking(move || local::read(&reference)).await;
            read.map_err(|error| Failure::of(FailureKind::Bug, &error))?
        })
    }
}

/// What one session has asked and is not answered yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Sealed, Failure>>>,
}

impl Asked {
    /// Notes an ask and returns what to send.
    pub(super) fn enter(&mut self, ask: Ask) -> v1::AgentMessage {
        let Ask { right, reference, answer } = ask;
        // Whoever stopped waiting has closed its end.
        self.waiting.retain(|_, answer| !answer.is_closed());
        if self.waiting.len() >= SENT_MAX {
            self.waiting.pop_first();
        }
        self.last += 1;
        self.waiting.insert(self.last, answer);
        wire::open_secret(self.last, right, &reference)
    }

    /// Hands an answer to who asked.
    pub(super) fn answered(&mut self, opened: v1::OpenedSecret) {
        let v1::OpenedSecret { number, answer } = opened;
        let Some(asker) = self.waiting.remove(&number) else { return };
        // An asker that stopped waiting has closed its end, which is no news here.
        asker.send(wire::opened_secret(answer)).ok();
    }
}

/// Returns the public half of the sealing key and the signature that shows whose it is, for a hello.
pub(super) fn shown(key: &SealingKey, identity: &Identity) -> (Vec<u8>, Vec<u8>) {
    let peer = identity.peer().ok();
    let signature = peer
        .and_then(|peer| identity.sign(&sealing::signed_text(&peer.cluster, &peer.principal, key.public())));
    // Without a signature the leader seals nothing to this agent, and says so when it is asked to.
    (key.public().to_vec(), signature.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use common::fence::FencingToken;
    use common::shutdown::Shutdown;

    use super::*;

    fn right() -> Right {
        let token = FencingToken { epoch: 1, index: 7 };
        Right { migration: "m1".parse().unwrap(), step: "file.copy-1".parse().unwrap(), token, ticket: None }
    }

    fn desk() -> (SecretDesk, mpsc::Receiver<Ask>) {
        SecretDesk::new("default".parse().unwrap(), "web1".parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn an_ask_outlives_a_session_and_opens_only_what_was_sealed_for_it() {
        let (desk, mut asks) = desk();
        let reference: Reference = "${secret:mask}".parse().unwrap();
        let opening = Shutdown::new().spawn(desk.open(right(), reference.clone()));
        // The first session takes the ask and breaks.
        drop(asks.recv().await.unwrap());
        let mut asked = Asked::default();
        asked.enter(asks.recv().await.unwrap());
        let step = right();
        let host = "web1".parse().unwrap();
        let purpose = sealing::purpose(
            &"default".parse().unwrap(),
            &host,
            (&step.migration, &step.step, step.token),
            &reference,
        );
        let Sealed { encapsulated, ciphertext } =
            sealing::seal(desk.key().public(), &purpose, b"canary").unwrap();
        let sealed = v1::SealedSecret { encapsulated, ciphertext };
        asked.answered(v1::OpenedSecret { number: 9, answer: None });
        let answer = Some(v1::opened_secret::Answer::Sealed(sealed));
        asked.answered(v1::OpenedSecret { number: 1, answer: answer.clone() });
        assert_eq!(opening.await.unwrap().unwrap().expose(), b"canary");

        let other: Reference = "${secret:other}".parse().unwrap();
        let opening = Shutdown::new().spawn(desk.open(right(), other));
        asked.enter(asks.recv().await.unwrap());
        asked.answered(v1::OpenedSecret { number: 2, answer });
        assert_eq!(opening.await.unwrap().unwrap_err().kind, FailureKind::Corrupt);
    }

    #[tokio::test]
    async fn a_refusal_is_handed_on_at_once() {
        let (desk, mut asks) = desk();
        let opening = Shutdown::new().spawn(desk.open(right(), "${secret:mask}".parse().unwrap()));
        let ask = asks.recv().await.unwrap();
        ask.answer.send(Err(Failure::new(FailureKind::Denied, "no"))).unwrap();
        assert_eq!(opening.await.unwrap().unwrap_err().kind, FailureKind::Denied);
    }
}
