//! File steps that attack the source which their ticket leads to.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::link::membership::Membership;
use agent::step::{Step, StepFuture};
use common::clock;
use common::failure::{Failure, FailureKind};
use common::principal::Principal;
use common::spec::Compression;
use common::step::StepDescriptor;
use common::step::file::{self, FileParams};
use common::ticket::{Ticket, TicketKey};
use common::tls;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sync::stamp::{Stamp, Time};
use sync::wire::content::{Reply, What};
use sync::wire::control::ToDestination;
use sync::wire::hello::{Hello, Open, PROTOCOL_VERSION, ScanRequest};
use transfer::{Peer, StepContext};

use crate::attack::Attack;
use crate::source::{next, stolen_ticket};
use crate::wire::{HELLO, REQUEST, TO_SOURCE, frame, header, message};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long an answer is waited for; a source that says nothing until then gives nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who attacks, and by which plan.
#[derive(Clone, Debug)]
pub(crate) struct Attacker {
    pub(crate) membership: Arc<Membership>,
    pub(crate) plan: PathBuf,
}

/// A kind that only looks like the real one.
#[derive(Debug)]
struct Evil {
    descriptor: &'static StepDescriptor,
    attacker: Attacker,
}

/// Returns the kinds of a hostile destination.
pub(crate) fn steps(attacker: Attacker) -> &'static [&'static dyn Step] {
    let kinds = [&file::CATCH_UP, &file::COPY, &file::FINISH, &file::VERIFY];
    let steps = kinds.map(|descriptor| -> &'static dyn Step {
        Box::leak(Box::new(Evil { descriptor, attacker: attacker.clone() }))
    });
    Box::leak(Box::new(steps))
}

impl Step for Evil {
    fn descriptor(&self) -> &'static StepDescriptor {
        self.descriptor
    }

    fn subject(&self, params: &str) -> Result<String, Failure> {
        Ok(agent::step::read::<FileParams>(params)?.destination_root)
    }

    fn run(&self, context: StepContext, _endpoint: transfer::Endpoint, _params: String) -> StepFuture {
        let attacker = self.attacker.clone();
        Box::pin(async move {
            let attack = Attack::read(&attacker.plan);
            let Some(peer) = context.peer else { return Err(done("no peer")) };
            let loot = match strike(&attacker, &attack, &peer).await {
                Ok(loot) => loot,
                Err(error) => json!({ "shut_out": error.to_string() }),
            };
            let path = attacker.plan.with_extension("loot");
            std::fs::write(path, loot.to_string()).map_err(|error| done(&error.to_string()))?;
            Err(done("the attack is over"))
        })
    }

    fn undo(&self, _context: StepContext, _params: String) -> StepFuture {
        Box::pin(async { agent::step::write(&json!({ "version": 1 })) })
    }
}

fn done(text: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, text)
}

/// The signed form of a ticket, as it travels.
#[derive(Serialize, Deserialize)]
struct Signed {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Returns the ticket that is shown, made of the one that was given.
async fn ticket(attack: &Attack, attacker: &Attacker, given: Vec<u8>) -> Outcome<Vec<u8>> {
    let signed: Signed = postcard::from_bytes(&given[1..])?;
    let mut ticket: Ticket = postcard::from_bytes(&signed.payload)?;
    let resigned = |ticket: &Ticket, signature: Vec<u8>| -> Outcome<Vec<u8>> {
        let signed = Signed { payload: postcard::to_allocvec(ticket)?, signature };
        Ok(postcard::to_extend(&signed, vec![given[0]])?)
    };
    match attack.name.as_str() {
        "ticket-other-tree" => {
            ticket.source_root.clone_from(&attack.aim);
            resigned(&ticket, signed.signature)
        }
        "ticket-other-cluster" => {
            ticket.source_root.clone_from(&attack.aim);
            // The authority of a cluster of the attacker's own.
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            let key = TicketKey::new(key.serialize_der().try_into()?)?;
            Ok(key.sign(&ticket)?)
        }
        "ticket-stolen" => stolen_ticket(&attacker.plan).ok_or_else(|| "no ticket was stolen".into()),
        "ticket-expired" => {
            while clock::wall() <= ticket.expires {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(given)
        }
        "ticket-garbage" => Ok(vec![0xa5; 9000]),
        "ticket-empty" => Ok(Vec::new()),
        _ => Ok(given),
    }
}

/// Dials the victim and says what came of it.
async fn strike(attacker: &Attacker, attack: &Attack, peer: &Peer) -> Outcome<serde_json::Value> {
    let given = peer.ticket.borrow().clone();
    let ticket = ticket(attack, attacker, given).await?;
    let connection = dial(attacker, peer).await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    match attack.name.as_str() {
        "hello-garbage" => send.write_all(&vec![0xa5; 100_000]).await?,
        "hello-endless" => send.write_all(&header(HELLO, u32::MAX)).await?,
        "hello-slow" => send.write_all(&header(HELLO, 1000)).await?,
        "hello-manifest" => {
            let hello = Hello::Manifest(ScanRequest::default());
            send.write_all(&message(HELLO, &hello)).await?;
        }
        _ => {
            let open = Open {
                version: PROTOCOL_VERSION,
                ticket,
                bandwidth_limit: None,
                compression: Compression::Auto,
            };
            send.write_all(&message(HELLO, &Hello::Control(open))).await?;
        }
    }
    let answer = tokio::time::timeout(PATIENCE, next::<ToDestination>(&mut receive)).await;
    match answer {
        Err(_elapsed) => return Ok(json!({ "silent": true })),
        Ok(Err(error)) => return Ok(json!({ "closed": error.to_string() })),
        Ok(Ok(ToDestination::Bye(bye))) => return Ok(json!({ "refused": bye.message })),
        Ok(Ok(ToDestination::Counters(_) | ToDestination::Cost(_) | ToDestination::Opened(_))) => {}
    }
    if attack.name == "control-garbage" {
        send.write_all(&frame(TO_SOURCE, &[0xa5; 60_000])).await?;
        let reason = tokio::time::timeout(PATIENCE, connection.closed()).await?;
        return Ok(json!({ "closed": reason.to_string() }));
    }
    let got = plunder(&connection, attack).await;
    // Until here the control lane is open.
    drop((send, receive));
    Ok(got.unwrap_or_else(|error| json!({ "closed": error.to_string() })))
}

async fn dial(attacker: &Attacker, peer: &Peer) -> Outcome<Connection> {
    let membership = &attacker.membership;
    let tls = tls::client_config(membership.identity()?, &membership.authority()?, tls::ALPN_DATA)?;
    let mut endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
    let principal = Principal::Agent { tenant: peer.tenant.clone(), host: peer.host.clone() };
    let name = tls::server_name_of(&principal).ok_or("no name")?;
    let address = peer.addresses.first().ok_or("no address")?;
    Ok(endpoint.connect(*address, &name)?.await?)
}

/// A wish as it travels, its path unchecked.
#[derive(Serialize)]
struct Wish {
    id: u64,
    path: Vec<u8>,
    stamp: Stamp,
    what: What,
}

/// Asks for what the ticket does not allow, and returns what came.
async fn plunder(connection: &Connection, attack: &Attack) -> Outcome<serde_json::Value> {
    if attack.name == "lanes-flood" {
        return lanes(connection).await;
    }
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&message(HELLO, &Hello::Content)).await?;
    let stamp = Stamp { ino: 1, size: 1000, mtime: Time::default(), ctime: Time::default() };
    let wish = |id, path: &[u8], what| Wish { id, path: path.to_vec(), stamp, what };
    let path = attack.aim.as_bytes();
    match attack.name.as_str() {
        "content-garbage" => send.write_all(&frame(REQUEST, &[0xa5; 100_000])).await?,
        "requests-swollen" => {
            let wishes: Vec<Wish> = (0..150_000).map(|id| wish(id, b"a", What::Digest)).collect();
            send.write_all(&message(REQUEST, &wishes)).await?;
        }
        "requests-endless" => {
            return ask_and_never_listen(send, &message(REQUEST, &[wish(1, path, What::Digest)])).await;
        }
        _ => {
            // Whole, by digest, by range and by confirmation: no door may be open.
            let wishes = [What::Whole, What::Digest, What::Confirm]
                .map(|what| wish(1, path, what))
                .map(|wish| vec![wish]);
            for wish in wishes {
                send.write_all(&message(REQUEST, &wish)).await?;
            }
        }
    }
    let mut got = Vec::new();
    for _ in 0..3 {
        match tokio::time::timeout(PATIENCE, next::<Reply>(&mut receive)).await {
            Ok(Ok(Reply::Failed(failed))) => got.push(format!("{:?}", failed[0].why)),
            Ok(Ok(reply)) => return Ok(json!({ "got": format!("{reply:?}") })),
            Ok(Err(error)) => {
                let reason = tokio::time::timeout(PATIENCE, connection.closed()).await?;
                return Ok(json!({ "closed": format!("{error}: {reason}") }));
            }
            Err(_elapsed) => return Ok(json!({ "silent": true })),
        }
    }
    Ok(json!({ "nothing": got }))
}

/// Sends wishes until the victim takes no more of them.
async fn ask_and_never_listen(mut send: SendStream, request: &[u8]) -> Outcome<serde_json::Value> {
    let mut sent = 0_u64;
    while sent < 100_000 {
        match tokio::time::timeout(Duration::from_secs(2), send.write_all(request)).await {
            Ok(written) => written?,
            Err(_elapsed) => return Ok(json!({ "held back": sent })),
        }
        sent += 1;
    }
    Ok(json!({ "sent": sent }))
}

/// Opens as many lanes as there are, with hellos that promise much.
async fn lanes(connection: &Connection) -> Outcome<serde_json::Value> {
    let mut open: Vec<(SendStream, RecvStream)> = Vec::new();
    while let Ok(Ok((mut send, receive))) =
        tokio::time::timeout(Duration::from_secs(2), connection.open_bi()).await
    {
        if send.write_all(&header(HELLO, 2 << 20)).await.is_err() {
            break;
        }
        open.push((send, receive));
    }
    let count = open.len();
    let reason = tokio::time::timeout(PATIENCE, connection.closed()).await?;
    Ok(json!({ "lanes": count, "closed": reason.to_string() }))
}
