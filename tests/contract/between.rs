//! A source of the cluster that says what it should not: an honest one, with somebody between it and the destination
//! who holds its key and alters one of its frames.
//!
//! Whatever that is, the destination neither panics nor hangs nor holds a file whose content no honest source and no
//! earlier time knows; it says what is wrong in one sentence with a hint, and an undo gives back what was there.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::failure::FailureKind;
use common::id::TenantId;
use common::principal::Principal;
use common::shutdown::Shutdown;
use common::step::StepKind;
use common::tls::{self, ALPN_DATA, Clients};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig, VarInt};
use sync::codec;
use sync::frame::{FORMAT, FrameKind, HEADER_BYTES, Header};
use sync::wire::content::Reply;
use sync::wire::manifest::{self, Item};
use tests::alteration::{Alteration, alterations, altered, cases};
use transfer::{KillPoint, Patience};

use crate::hosts::{DESTINATION, Hosts, SOURCE};
use crate::world::{Way, World, differing_trees, of_kind};

/// How long an attempt may take, whatever it is told.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(120);

/// Which frame is altered, and how.
#[derive(Clone, Debug)]
struct Plan {
    kind: FrameKind,
    /// Counted over the connection, from zero.
    number: u32,
    /// Which item of a block of the manifest.
    item: usize,
    /// The raw bytes that follow an answer, and not the answer.
    is_content: bool,
    alterations: Vec<Alteration>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let kinds = prop_oneof![
        1 => Just((FrameKind::ToDestination, 1)),
        4 => Just((FrameKind::ManifestBlock, 1)),
        4 => Just((FrameKind::Reply, 3)),
    ];
    (kinds, 0_u32..3, 0_usize..12, any::<bool>(), alterations()).prop_map(
        |((kind, count), number, item, is_content, alterations)| Plan {
            kind,
            number: number % count,
            item,
            is_content,
            alterations,
        },
    )
}

/// What everybody who stands between knows.
struct Between {
    plan: Mutex<Option<Plan>>,
    /// Frames of the plan's kind that have passed on this connection.
    passed: AtomicU32,
    /// Frames that were altered so far.
    altered: AtomicU32,
    tasks: Shutdown,
}

type Passed = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Between {
    /// Takes the source's place.
    fn open(hosts: &mut Hosts) -> Arc<Self> {
        let principal =
            |host: &str| Principal::Agent { tenant: TenantId::default_tenant(), host: host.parse().unwrap() };
        let (authority, listen) = (&hosts.authority, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let near = tls::server_config(
            authority.identity(SOURCE),
            &authority.certificate,
            Clients::Certified,
            ALPN_DATA,
        );
        let near = QuicServerConfig::try_from(near.unwrap()).unwrap();
        let near = Endpoint::server(ServerConfig::with_crypto(Arc::new(near)), listen).unwrap();
        let far = tls::client_config(authority.identity(DESTINATION), &authority.certificate, ALPN_DATA);
        let far = ClientConfig::new(Arc::new(QuicClientConfig::try_from(far.unwrap()).unwrap()));
        let (client, source) = (Endpoint::client(listen).unwrap(), hosts.source_address);
        let name = tls::server_name_of(&principal(SOURCE)).unwrap();
        hosts.source_address = near.local_addr().unwrap();
        let between = Arc::new(Self {
            plan: Mutex::new(None),
            passed: AtomicU32::new(0),
            altered: AtomicU32::new(0),
            tasks: Shutdown::new(),
        });
        let shared = Arc::clone(&between);
        between.tasks.spawn(async move {
            while let Some(incoming) = near.accept().await {
                let dialled = client.connect_with(far.clone(), source, &name).unwrap();
                let (shared, tasks) = (Arc::clone(&shared), shared.tasks.clone());
                tasks.spawn(async move {
                    let (Ok(near), Ok(far)) = (incoming.await, dialled.await) else { return };
                    shared.passed.store(0, Ordering::SeqCst);
                    shared.stand(&near, &far).await.ok();
                    // Whoever is left learns that the other one went.
                    near.close(VarInt::from_u32(0), b"");
                    far.close(VarInt::from_u32(0), b"");
                });
            }
        });
        between
    }

    /// Passes all lanes of a connection on.
    async fn stand(self: &Arc<Self>, near: &Connection, far: &Connection) -> Passed {
        loop {
            let (speak, mut hear) = tokio::select! {
                lane = near.accept_bi() => lane?,
                _ = far.closed() => return Ok(()),
            };
            let (mut ask, listen) = far.open_bi().await?;
            self.tasks.spawn(async move {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(Some(count)) = hear.read(&mut bytes).await {
                    if ask.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
                ask.finish().ok();
            });
            let shared = Arc::clone(self);
            self.tasks.spawn(async move { shared.pass(listen, speak).await.ok() });
        }
    }

    /// Passes on what the source says on one lane, frame by frame.
    async fn pass(&self, mut listen: RecvStream, mut speak: SendStream) -> Passed {
        let mut head = [0; HEADER_BYTES];
        while listen.read_exact(&mut head).await.is_ok() {
            let header = Header::parse(head)?;
            let mut body = vec![0; header.body_bytes];
            listen.read_exact(&mut body).await?;
            let mut content = Vec::new();
            if header.kind == FrameKind::Reply {
                content = vec![0; codec::decode::<Reply>(header, &body)?.stored_bytes()];
                listen.read_exact(&mut content).await?;
            }
            let plan = self.plan.lock().unwrap().clone().filter(|plan| plan.kind == header.kind);
            let plan = plan.filter(|plan| self.passed.fetch_add(1, Ordering::SeqCst) == plan.number);
            if let Some(Plan { kind, item, is_content, alterations, .. }) = plan {
                self.altered.fetch_add(1, Ordering::SeqCst);
                match kind {
                    FrameKind::ManifestBlock => body = altered_block(&body, item, &alterations),
                    _ if is_content && !content.is_empty() => content = altered(&content, &alterations),
                    _ => body = altered(&body, &alterations),
                }
            }
            let length = u32::try_from(body.len()).unwrap().to_le_bytes();
            let frame = [&[header.kind.number(), FORMAT], &length[..], &body, &content].concat();
            speak.write_all(&frame).await?;
        }
        speak.finish()?;
        Ok(())
    }
}

/// Alters one item of a block and leaves the block whole.
fn altered_block(body: &[u8], item: usize, alterations: &[Alteration]) -> Vec<u8> {
    let (raw_bytes, compressed) = manifest::split_block(body).unwrap();
    let raw = zstd::bulk::decompress(compressed, raw_bytes).unwrap();
    let mut items = Vec::new();
    let mut rest = raw.as_slice();
    while let Some(item) = codec::take::<Item>(&mut rest).unwrap() {
        let mut frame = Vec::new();
        codec::encode(&item, &mut frame).unwrap();
        items.push(frame.split_off(HEADER_BYTES));
    }
    let item = item % items.len();
    items[item] = altered(&items[item], alterations);
    let mut raw = Vec::new();
    for item in items {
        raw.extend([FrameKind::ManifestItem.number(), FORMAT]);
        raw.extend(u32::try_from(item.len()).unwrap().to_le_bytes());
        raw.extend(item);
    }
    let mut block = u32::try_from(raw.len()).unwrap().to_le_bytes().to_vec();
    block.extend(zstd::bulk::compress(&raw, 1).unwrap());
    block
}

/// Returns the content of every file of a tree, without stages.
fn contents(root: &Path) -> BTreeSet<Vec<u8>> {
    let (mut found, mut pending) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
            let (kind, name) = (entry.file_type().unwrap(), entry.file_name());
            if kind.is_dir() && !name.to_string_lossy().starts_with(".drover-") {
                pending.push(entry.path());
            } else if kind.is_file() {
                found.insert(fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

/// One attempt under a plan, and its undo; returns what is wrong.
async fn complaint(mut world: World) -> Option<String> {
    let (found, copy) = (world.state(), of_kind(StepKind::FileCopy));
    let mut known = contents(&world.source());
    known.extend(contents(&world.destination()));
    // A file of no size is not asked for.
    known.insert(Vec::new());
    let attempt = world.attempt(copy, Way::Run, KillPoint::default());
    let Ok(ended) = tokio::time::timeout(ATTEMPT_DEADLINE, attempt).await else {
        return Some("the attempt does not end".to_owned());
    };
    if let Err(failure) = ended.outcome {
        // What breaks the protocol is told as such; any other bug is one of ours.
        let is_ours =
            failure.kind == FailureKind::Bug && !failure.message.contains("broke the data protocol");
        if is_ours || failure.hint.as_ref().is_none_or(String::is_empty) {
            return Some(format!("not told well: {failure:?}"));
        }
    }
    if let Some(unknown) = contents(&world.destination()).difference(&known).next() {
        return Some(format!("nobody had this content: {unknown:?}"));
    }
    let undone = world.attempt(copy, Way::Undo, KillPoint::default()).await;
    if let Err(failure) = undone.outcome {
        return Some(format!("not undone: {failure:?}"));
    }
    (world.state() != found).then(|| format!("undone, and not as before: {:#?}", world.state()))
}

#[test]
fn whatever_a_source_says_is_proven_or_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _runtime = runtime.enter();
    let patience =
        Patience { beat: Duration::from_millis(300), stall: Duration::from_secs(2), ..Patience::default() };
    let mut hosts = Hosts::open_with(patience);
    let between = Between::open(&mut hosts);
    let hosts = Arc::new(hosts);
    let config = cases(60);
    let tried = config.cases;
    let run = |plan: Plan| {
        *between.plan.lock().unwrap() = Some(plan);
        let complaint = runtime.block_on(complaint(differing_trees(&hosts)));
        prop_assert_eq!(complaint, None);
        Ok(())
    };
    TestRunner::new(config).run(&plans(), run).unwrap();
    let altered = between.altered.load(Ordering::SeqCst);
    assert!(altered * 2 > tried, "of {tried} attempts only {altered} were told something else");
}
