//! The source's side of one connection: it reads, below one root, and changes nothing.
//!
//! ```text
//! control lane: ticket ─▶ root held ─▶ Opened; then counters and cost each second, renewals, limits
//! manifest lane ─▶ thread: scan ─▶ blocks ─▶ lane          (once)
//! content lanes ─▶ thread each: read, digest, compress ─▶ lane
//! ```
//!
//! A peer gets nothing before its ticket was checked, and nothing after the ticket ran out without a fresh one.
//! Memory is bounded for each lane by what waits in its channels. When the connection ends, for whatever reason, the
//! threads find their channels closed and stop.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::clock;
use common::failure::FailureKind;
use common::shutdown::Shutdown;
use common::spec::Compression;
use common::ticket::Ticket;
use sync::sanitize::Sanitizer;
use sync::stamp::Time;
use sync::wire::control::{Bye, COUNTERS_EVERY_MS, Cost, Opened, Sparing, ToDestination, ToSource};
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{Hello, Open, PROTOCOL_VERSION};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tree::{Dir, Root};

use crate::brake::Brake;
use crate::buffer::Buffers;
use crate::compress::LinkMeter;
use crate::cost::{self, HostLoad};
use crate::counter::Counter;
use crate::endpoint::EndpointSettings;
use crate::follow::Follow;
use crate::lane::{Lane, LaneError, LaneReceiver, LaneSender};
use crate::link::Link;
use crate::reach::{Offers, SERVED_MAX, Served};
use crate::scan::look::describe;
use crate::secrets::{Right, Secrets};
use crate::throttle::Throttle;
use crate::ticket;
use crate::watch::{Watches, Whose};

mod content;
pub(crate) mod differences;
mod directories;
mod manifest;
mod outgoing;
mod pack;
mod read;
mod sanitized;
mod sent;
mod worker;

pub(crate) use sent::{REMEMBERED_MAX, WORTH_BYTES_MIN};

use sent::Sent;

/// For the first frame of a lane.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// For last words to be acknowledged.
const BYE_DEADLINE: Duration = Duration::from_secs(2);
/// Content lanes of one connection; each has a thread, and more than this do not read faster.
const CONTENT_LANES_MAX: u32 = 8;
/// Lanes that a destination may have open: control, manifest and content.
const LANES_MAX: u32 = 2 + CONTENT_LANES_MAX;
/// Threads of the runtime that serving may hold for as long as transfers last: one for each content lane, and one for
/// the scan.
pub const SERVED_THREADS_MAX: usize = SERVED_MAX * (CONTENT_LANES_MAX as usize + 1);

/// What all lanes of one connection share.
#[derive(Debug)]
struct Session {
    link: Link,
    root: Dir,
    is_network_fs: bool,
    /// The migration.
    whose: Whose,
    watches: Watches,
    /// How links are followed for a destination that asks for it; nothing where that may not be.
    follow: Option<Arc<Follow>>,
    /// What is dropped, replaced or masked, as the ticket says.
    sanitizer: Option<Arc<Sanitizer>>,
    /// The wall clock when the connection was opened.
    began: Time,
    settings: Arc<EndpointSettings>,
    throttle: Throttle,
    sparing: Mutex<(Brake, HostLoad)>,
    is_idle: Arc<AtomicBool>,
    meter: LinkMeter,
    /// Whether content shall be compressed.
    compression: Compression,
    counter: Counter,
    sent: Sent,
    buffers: Buffers,
    content_lanes: AtomicU32,
    has_manifest: AtomicBool,
    is_stopped: AtomicBool,
}

impl Session {
    /// Whether threads shall give up what they are doing.
    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Whether disks are used only when nobody else needs them.
    fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.throttle.end();
    }

    /// Takes how the destination's operator wants this host to be spared.
    fn spare(&self, sparing: Sparing) {
        let Sparing { max_load, is_idle } = sparing;
        self.sparing().0.max_load = max_load;
        self.is_idle.store(is_idle, Ordering::Relaxed);
        self.look_at_load();
    }

    /// Holds back while the load is too high.
    fn look_at_load(&self) {
        let load = cost::look();
        let mut sparing = self.sparing();
        sparing.1 = load;
        let is_held = sparing.0.look(load.load_hundredths) && !self.is_stopped();
        self.throttle.hold(is_held);
    }

    /// Returns what this host has to bear, as the destination is told.
    fn cost(&self) -> Cost {
        let HostLoad { cpu_permille, io_permille, load_hundredths } = self.sparing().1;
        Cost { cpu_permille, io_permille, load_hundredths, is_throttled: self.throttle.is_held() }
    }

    fn sparing(&self) -> MutexGuard<'_, (Brake, HostLoad)> {
        // Each change is whole, so a panic elsewhere breaks nothing.
        self.sparing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what the first frame of a connection's first lane says.
pub(crate) async fn hello(lane: &mut Lane) -> Result<Hello, Bye> {
    match tokio::time::timeout(HELLO_DEADLINE, lane.receiver.message::<Hello>(&mut Vec::new())).await {
        Ok(Ok(Some(hello))) => Ok(hello),
        Ok(Ok(None)) => Err(protocol("the first lane does not open the connection")),
        Ok(Err(error)) => Err(protocol(&describe_lane(&error))),
        Err(_elapsed) => Err(goodbye(ErrorCode::Timeout, "the connection was not opened in time")),
    }
}

/// Serves a connection, whose control lane is `lane` and began with `hello`, until it ends.
pub(crate) async fn run(
    link: Link,
    lane: Lane,
    hello: Result<Hello, Bye>,
    settings: Arc<EndpointSettings>,
    offers: Offers,
    shutdown: Shutdown,
) {
    let begun = match hello {
        Ok(hello) => begin(&link, hello, settings, &offers).await,
        Err(bye) => Err(bye),
    };
    // Its place is taken until its threads have ended, too.
    let (bye, _served) = match begun {
        Ok((session, ticket, opened, served)) => {
            let session = Arc::new(session);
            let bye = serve(&session, lane, ticket, opened, &shutdown).await;
            session.stop();
            (bye, Some(served))
        }
        Err(bye) => (Some((Some(lane.sender), bye)), None),
    };
    if let Some((sender, bye)) = bye {
        let code = bye.code;
        tracing::debug!(peer = %link.peer().principal, address = %link.address(), ?code, reason = %bye.message, "data connection ended");
        // A peer that does not take it reads the code of the close.
        if let Some(sender) = sender {
            let bye = ToDestination::Bye(bye);
            tokio::time::timeout(BYE_DEADLINE, say_last(sender, &bye)).await.ok();
        }
        link.close(code, "bye");
    }
    link.close(ErrorCode::Done, "done");
    shutdown.finish().await;
}

/// Lets the peer in, or says why not.
async fn begin(
    link: &Link,
    hello: Hello,
    settings: Arc<EndpointSettings>,
    offers: &Offers,
) -> Result<(Session, Ticket, Opened, Served), Bye> {
    let Hello::Control(Open { version, ticket, bandwidth_limit, compression }) = hello else {
        return Err(protocol("the first lane does not open the connection"));
    };
    if version != PROTOCOL_VERSION {
        let message = format!("version {version} of the data protocol is not spoken here");
        return Err(Bye {
            hint: "Bring both agents to the same version.".to_owned(),
            ..goodbye(ErrorCode::Version, &message)
        });
    }
    let signed = ticket;
    let ticket = ticket::admit(&signed, link.peer(), &settings).map_err(|refused| {
        tracing::warn!(peer = %link.peer().principal, address = %link.address(), reason = %refused, "ticket refused");
        refused.to_bye()
    })?;
    let served = offers.serve(ticket.token).await.map_err(|unserved| unserved.to_bye())?;
    let sanitizer = sanitizer(&ticket, signed, &settings.secrets).await?;
    let path = ticket.source_root.clone();
    let looked = tokio::task::spawn_blocking(move || look_at_root(&path)).await;
    let (root, opened) =
        looked.map_err(|_panic| goodbye(ErrorCode::Internal, "looking at the root failed"))??;
    let session = Session {
        link: link.clone(),
        root,
        is_network_fs: opened.is_network_fs,
        whose: (ticket.tenant.clone(), ticket.migration.clone()),
        watches: offers.watches().clone(),
        // A rule is about a path, and a link would lead around it.
        follow: ticket.sanitize.is_none().then(|| Arc::new(Follow::new(&ticket.source_root))),
        sanitizer,
        began: opened.now,
        settings,
        throttle: Throttle::new(bandwidth_limit),
        sparing: Mutex::default(),
        is_idle: Arc::default(),
        meter: LinkMeter::new(link.round_trip()),
        compression,
        counter: Counter::default(),
        sent: Sent::default(),
        buffers: Buffers::default(),
        content_lanes: AtomicU32::new(0),
        has_manifest: AtomicBool::new(false),
        is_stopped: AtomicBool::new(false),
    };
    Ok((session, ticket, opened, served))
}

/// Makes the ticket's rules ready, with their key if they need one; without it nothing is served.
async fn sanitizer(
    ticket: &Ticket,
    signed: Vec<u8>,
    secrets: &Secrets,
) -> Result<Option<Arc<Sanitizer>>, Bye> {
    let Some(rules) = &ticket.sanitize else { return Ok(None) };
    let key = match rules.needed_key() {
        None => None,
        Some(reference) => {
            let opened = secrets.open(Right::of_source(ticket, signed), reference.clone()).await;
            Some(opened.map_err(|failure| {
                let message =
                    format!("the key of the rules in `sanitize` cannot be had: {}", failure.message);
                let code = if failure.kind == FailureKind::Unreachable {
                    ErrorCode::ResumeLater
                } else {
                    ErrorCode::Denied
                };
                Bye { hint: failure.hint.unwrap_or_default(), ..goodbye(code, &message) }
            })?)
        }
    };
    let made = Sanitizer::new(rules, key.as_ref());
    let unusable =
        |error| goodbye(ErrorCode::Denied, &format!("the rules in `sanitize` cannot be used: {error}"));
    made.map(|made| Some(Arc::new(made))).map_err(unusable)
}

fn look_at_root(path: &str) -> Result<(Dir, Opened), Bye> {
    let bad = |error: tree::TreeError| Bye {
        code: ErrorCode::Root,
        message: format!(
            "the source's root {} cannot be read: {}",
            common::rel_path::escape(path.as_bytes()),
            describe(&error)
        ),
        hint: "Does it exist at the source, and may the agent there read it?".to_owned(),
    };
    let root = Root::open(Path::new(path)).map_err(bad)?;
    let identity = root.identity().map_err(bad)?;
    let dir = root.dir();
    let features = dir.features().map_err(bad)?;
    let opened = Opened {
        version: PROTOCOL_VERSION,
        now: now(),
        boot_id: identity.boot_id,
        root_dev: identity.dev,
        root_ino: identity.ino,
        fs_type: features.fs_type.to_owned(),
        is_network_fs: features.is_network_fs,
    };
    Ok((dir, opened))
}

/// Serves until somebody says goodbye; returns the last word if there is one to say, and the lane if it is free for it.
async fn serve(
    session: &Arc<Session>,
    lane: Lane,
    mut ticket: Ticket,
    opened: Opened,
    shutdown: &Shutdown,
) -> Option<(Option<LaneSender>, Bye)> {
    let Lane { mut sender, receiver } = lane;
    session.link.allow_lanes(LANES_MAX);
    sender.message(&ToDestination::Opened(opened)).await.ok()?;
    tracing::debug!(migration = %ticket.migration, peer = %session.link.peer().principal, "data connection opened");
    let (said, mut heard) = mpsc::channel(4);
    shutdown.spawn(async move { hear(receiver, said).await });
    let told = CancellationToken::new();
    let telling = shutdown.spawn(tell(Arc::clone(session), sender, told.clone()));
    let bye = attend(session, &mut ticket, &mut heard, shutdown).await;
    told.cancel();
    // While the destination takes nothing, a word is stuck halfway and no other can follow it.
    let sender = match tokio::time::timeout(BYE_DEADLINE, telling).await {
        Ok(Ok(sender)) => sender,
        Ok(Err(_)) | Err(_) => None,
    };
    match (bye?, sender) {
        (Parting::Ours(bye), sender) => Some((sender, bye)),
        (Parting::Theirs, Some(sender)) => {
            let counters = ToDestination::Counters(session.counter.told(session.link.wire_bytes()));
            tokio::time::timeout(BYE_DEADLINE, say_last(sender, &counters)).await.ok();
            None
        }
        (Parting::Theirs, None) => None,
    }
}

/// Sends the last message of a lane, and waits until it was received.
async fn say_last(mut sender: LaneSender, message: &ToDestination) -> Result<(), LaneError> {
    sender.message(message).await?;
    sender.finish().await;
    sender.flushed().await
}

/// Tells the counters and the cost each second until it is told to stop; then gives the lane back, if it still stands.
async fn tell(session: Arc<Session>, mut sender: LaneSender, stop: CancellationToken) -> Option<LaneSender> {
    let mut ticker = every_second();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Some(sender),
            _ = ticker.tick() => {
                session.link.tune();
                let counters = session.counter.told(session.link.wire_bytes());
                // It waits as long as the destination takes nothing, and holds up nobody else.
                sender.message(&ToDestination::Counters(counters)).await.ok()?;
                sender.message(&ToDestination::Cost(session.cost())).await.ok()?;
            }
        }
    }
}

fn every_second() -> Interval {
    let mut ticker = tokio::time::interval(Duration::from_millis(COUNTERS_EVERY_MS));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

/// Which side ends a connection.
enum Parting {
    /// This one, with these words.
    Ours(Bye),
    /// The destination, which waits for the last counters.
    Theirs,
}

/// Takes lanes, fresh tickets and limits until one side parts; nothing when the connection is gone.
async fn attend(
    session: &Arc<Session>,
    ticket: &mut Ticket,
    heard: &mut mpsc::Receiver<Result<ToSource, LaneError>>,
    shutdown: &Shutdown,
) -> Option<Parting> {
    let mut ticker = every_second();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => {
                return Some(Parting::Ours(goodbye(ErrorCode::ResumeLater, "the source's agent stops")));
            }
            lane = session.link.accept_lane() => match lane {
                Ok(lane) => {
                    let (session, tasks) = (Arc::clone(session), shutdown.clone());
                    shutdown.spawn(async move { serve_lane(session, lane, tasks).await });
                }
                Err(_) => return None,
            },
            message = heard.recv() => match message? {
                Ok(ToSource::Renew { ticket: fresh }) => {
                    match ticket::renew(ticket, &fresh, session.link.peer(), &session.settings) {
                        Ok(fresh) => *ticket = fresh,
                        Err(refused) => return Some(Parting::Ours(refused.to_bye())),
                    }
                }
                Ok(ToSource::Limit { bytes_per_s }) => session.throttle.set(bytes_per_s),
                Ok(ToSource::Spare(sparing)) => session.spare(sparing),
                Ok(ToSource::Bye(_)) => return Some(Parting::Theirs),
                Err(error) => return Some(Parting::Ours(protocol(&describe_lane(&error)))),
            },
            _ = ticker.tick() => {
                session.look_at_load();
                if ticket::now(&session.settings) > ticket.expires {
                    let bye = goodbye(ErrorCode::Expired, "the ticket ran out and no fresh one came");
                    return Some(Parting::Ours(bye));
                }
            }
        }
    }
}

/// Hands on what the peer says on the control lane; ends with it.
async fn hear(mut receiver: LaneReceiver, said: mpsc::Sender<Result<ToSource, LaneError>>) {
    let mut body = Vec::new();
    loop {
        let message = match receiver.message::<ToSource>(&mut body).await {
            Ok(None) => return,
            Ok(Some(message)) => Ok(message),
            Err(error) => Err(error),
        };
        let is_over = message.is_err();
        if said.send(message).await.is_err() || is_over {
            return;
        }
    }
}

/// Serves a manifest or content lane to its end; what goes wrong on one ends the connection.
async fn serve_lane(session: Arc<Session>, mut lane: Lane, tasks: Shutdown) {
    let hello = tokio::time::timeout(HELLO_DEADLINE, lane.receiver.message::<Hello>(&mut Vec::new())).await;
    let outcome = match hello {
        Ok(Ok(Some(Hello::Manifest(request)))) if !session.has_manifest.swap(true, Ordering::Relaxed) => {
            manifest::serve(Arc::clone(&session), lane.sender, request, &tasks).await
        }
        Ok(Ok(Some(hello @ (Hello::Content | Hello::ContentThroughLinks | Hello::ContentProven { .. }))))
            if session.content_lanes.fetch_add(1, Ordering::Relaxed) < CONTENT_LANES_MAX =>
        {
            let follows = hello == Hello::ContentThroughLinks;
            let nonce = match hello {
                Hello::ContentProven { nonce } => Some(nonce),
                _ => None,
            };
            content::serve(Arc::clone(&session), lane, nonce, follows, &tasks).await
        }
        Ok(Ok(_)) => Err((ErrorCode::Protocol, "a lane that may not be opened".to_owned())),
        Ok(Err(error)) => Err((ErrorCode::Protocol, describe_lane(&error))),
        Err(_elapsed) => Err((ErrorCode::Timeout, "a lane did not say what it is for".to_owned())),
    };
    if let Err((code, reason)) = outcome {
        session.stop();
        session.link.close(code, &reason);
    }
}

fn goodbye(code: ErrorCode, message: &str) -> Bye {
    Bye { code, message: message.to_owned(), hint: String::new() }
}

fn protocol(message: &str) -> Bye {
    goodbye(ErrorCode::Protocol, message)
}

fn describe_lane(error: &LaneError) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Returns the wall time as file systems write it.
fn now() -> Time {
    let now = clock::wall().0;
    let nanos = u32::try_from(now % 1000).unwrap_or(0) * 1_000_000;
    Time { seconds: i64::try_from(now / 1000).unwrap_or(i64::MAX), nanos }
}

#[cfg(test)]
pub(crate) mod tests;
