//! Asking for content and receiving it, over several lanes at once.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use common::failure::{Failure, FailureKind};
use common::shutdown::Shutdown;
use sync::codec;
use sync::frame::{FrameError, FrameKind};
use sync::range::{self, ChainingValue, RANGE_BYTES};
use sync::wire::content::{BATCH_MAX, Coding, Confirmed, Fetch, Reply, Request, Values, What};
use sync::wire::error_code::ErrorCode;
use tokio::sync::{Semaphore, mpsc};
use zstd::bulk::Decompressor;

use crate::breach::breach;
use crate::buffer::{Buffer, Buffers};
use crate::lane::{Lane, LaneError, LaneReceiver, LaneSender};
use crate::link::Link;
use crate::peer::Ended;
use crate::peer::demand::Demand;

/// Answers that wait to be taken, of all lanes together: 8 MiB.
const ANSWERS_WAITING: usize = 8;
/// Bytes of wishes that were sent and not answered, of all lanes together: less than a source's window for them, so
/// that fresh tickets get through it while the source's threads wait for this side to take their answers.
const UNANSWERED_BYTES_MAX: usize = 768 * 1024;
/// Bytes of paths and signatures after which a batch is closed: several batches fit into the above, and a batch into a request, whose
/// limit is twice that of one path.
const BATCH_PATH_BYTES: usize = 128 * 1024;
/// Batches that wait to be sent on one lane.
const BATCHES_WAITING: usize = 4;
/// What a request costs beside its bytes, to weigh lanes against each other: about what is read in the time of an
/// open and a close.
const FILE_WEIGHT_BYTES: u64 = 16 * 1024;

/// Sends wishes, each batch on the lane with the least to do; cheap to clone.
#[derive(Clone, Debug)]
pub struct FetchSender {
    lanes: Arc<[LaneInput]>,
    demand: Demand,
    ended: Ended,
}

#[derive(Debug)]
struct LaneInput {
    batches: mpsc::Sender<Batch>,
    load: Arc<AtomicU64>,
    confirms: Arc<Mutex<Confirms>>,
}

/// Wishes that go out together.
#[derive(Debug)]
struct Batch {
    frame: Bytes,
    wishes: usize,
}

/// What was sent on one lane and not answered: a source answers batch by batch.
#[derive(Clone, Debug)]
struct Unanswered {
    batches: Arc<Mutex<VecDeque<SentBatch>>>,
    /// Of all lanes.
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct SentBatch {
    wishes: usize,
    room: usize,
}

impl Unanswered {
    /// Waits until there is room for a batch.
    async fn send(&self, batch: &Batch) {
        let room = batch.frame.len().min(UNANSWERED_BYTES_MAX);
        let permits = u32::try_from(room).unwrap_or(u32::MAX);
        // It is never closed.
        if let Ok(permit) = self.room.acquire_many(permits).await {
            permit.forget();
        }
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.push_back(SentBatch { wishes: batch.wishes, room });
    }

    /// Gives back the room of batches whose last wishes were answered.
    fn answered(&self, mut wishes: usize) {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = batches.front_mut() {
            let now = wishes.min(first.wishes);
            first.wishes -= now;
            wishes -= now;
            if first.wishes > 0 {
                return;
            }
            self.room.add_permits(first.room);
            batches.pop_front();
        }
    }
}

/// Sizes of the files that are to be confirmed on one lane, by the wish.
type Confirms = HashMap<u64, u64>;

/// Receives answers of all lanes; cheap to clone, and each clone takes what comes next.
pub struct ContentReceiver {
    answers: Arc<Mutex<mpsc::Receiver<Answer>>>,
    buffers: Buffers,
    ended: Ended,
    packed: Arc<Packed>,
    decompressor: Option<Decompressor<'static>>,
}

/// Content that came compressed.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// What it is.
    pub(crate) bytes: AtomicU64,
    /// What travelled.
    pub(crate) stored_bytes: AtomicU64,
}

/// An answer whose bytes are as they travelled.
#[derive(Debug)]
struct Answer {
    reply: Reply,
    stored: Buffer,
    second_read: Vec<ChainingValue>,
}

/// An answer with its content: for a pack the data of its files one after the other (see [`sync::pack::split`]), for a
/// range its data (see [`sync::pack::pieces`]), for a range without what was here what differs, empty for all else.
#[derive(Debug)]
pub struct Delivery {
    /// What it is.
    pub reply: Reply,
    /// The decoded bytes; their digests are not checked yet.
    pub content: Buffer,
    /// With a `Confirmed` after a second read: the values of all ranges, which came as `Values` before it. They are
    /// gathered here, since further answers may be taken by other threads; a `Values` is never delivered by itself.
    pub second_read: Vec<ChainingValue>,
}

pub(super) fn start(
    lanes: Vec<Lane>,
    buffers: &Buffers,
    demand: &Demand,
    packed: &Arc<Packed>,
    ended: &Ended,
    tasks: &Shutdown,
) -> (FetchSender, ContentReceiver) {
    let (answers, receiver) = mpsc::channel(ANSWERS_WAITING);
    let mut inputs = Vec::new();
    let room = Arc::new(Semaphore::new(UNANSWERED_BYTES_MAX));
    for Lane { sender, mut receiver } in lanes {
        receiver.count_in(demand.taken());
        let (batches, waiting) = mpsc::channel(BATCHES_WAITING);
        let load = Arc::new(AtomicU64::new(0));
        let confirms = Arc::new(Mutex::new(Confirms::new()));
        inputs.push(LaneInput { batches, load: Arc::clone(&load), confirms: Arc::clone(&confirms) });
        let task_ended = ended.clone();
        let is_over = Arc::new(AtomicBool::new(false));
        let unanswered = Unanswered { batches: Arc::default(), room: Arc::clone(&room) };
        let sent = unanswered.clone();
        let was_over = Arc::clone(&is_over);
        tasks.spawn(async move {
            if let Err(error) = write(sender, waiting, &sent, &task_ended.link, &is_over).await {
                task_ended.lane(&error);
            }
        });
        let (task_ended, answers, buffers) = (ended.clone(), answers.clone(), buffers.clone());
        let demand = demand.clone();
        tasks.spawn(async move {
            let reader = Reader { receiver, answers, buffers, demand, unanswered, load, confirms };
            match reader.run().await {
                Err(error) => task_ended.lane(&error),
                // Nobody would ever hear of what was still asked for.
                Ok(()) if !was_over.load(Ordering::Acquire) => {
                    task_ended.end(ErrorCode::Protocol, breach("it ended a lane of content by itself"));
                }
                Ok(()) => {}
            }
        });
    }
    let sender = FetchSender { lanes: inputs.into(), demand: demand.clone(), ended: ended.clone() };
    let answers = Arc::new(Mutex::new(receiver));
    let receiver = ContentReceiver {
        answers,
        buffers: buffers.clone(),
        ended: ended.clone(),
        packed: Arc::clone(packed),
        decompressor: None,
    };
    (sender, receiver)
}

impl FetchSender {
    /// Sends wishes, in batches of at most [`BATCH_MAX`], or of so many as their paths allow; waits while the lane has enough to do.
    ///
    /// What is asked for together is packed together, so small files should come in hundreds. Where it is more than one
    /// batch, somebody else must take the answers meanwhile: they wait for that, and then so does this.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn blocking_send(&self, mut fetches: Vec<Fetch>) -> Result<(), Failure> {
        while !fetches.is_empty() {
            let rest = fetches.split_off(batch_of(&fetches));
            let (lane, batch) = self.prepare(std::mem::replace(&mut fetches, rest))?;
            lane.batches.blocking_send(batch).map_err(|_closed| self.ended.failure())?;
        }
        Ok(())
    }

    /// The same for async code.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&self, mut fetches: Vec<Fetch>) -> Result<(), Failure> {
        while !fetches.is_empty() {
            let rest = fetches.split_off(batch_of(&fetches));
            let (lane, batch) = self.prepare(std::mem::replace(&mut fetches, rest))?;
            lane.batches.send(batch).await.map_err(|_closed| self.ended.failure())?;
        }
        Ok(())
    }

    fn prepare(&self, fetches: Vec<Fetch>) -> Result<(&LaneInput, Batch), Failure> {
        let weight = fetches.iter().map(weight).fold(0, u64::saturating_add);
        let to_confirm =
            |fetch: &Fetch| (fetch.what == What::Confirm).then_some((fetch.id, fetch.stamp.size));
        let confirms: Vec<(u64, u64)> = fetches.iter().filter_map(to_confirm).collect();
        let mut frame = Vec::new();
        let request = Request { fetches };
        codec::encode(&request, &mut frame).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let least = self.lanes.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed));
        let lane = least.ok_or_else(|| self.ended.failure())?;
        lane.load.fetch_add(weight, Ordering::Relaxed);
        lane.confirms.lock().unwrap_or_else(PoisonError::into_inner).extend(confirms);
        self.demand.ask(&request.fetches);
        Ok((lane, Batch { frame: frame.into(), wishes: request.fetches.len() }))
    }
}

/// Returns how many of the wishes, at least one, go into one request.
pub(crate) fn batch_of(fetches: &[Fetch]) -> usize {
    let mut bytes = 0;
    let fits = fetches.iter().take(BATCH_MAX).take_while(|fetch| {
        let is_first = bytes == 0;
        bytes += fetch.path.as_bytes().len();
        if let What::Delta { basis, .. } = &fetch.what {
            bytes += basis.encoded_bytes();
        }
        is_first || bytes <= BATCH_PATH_BYTES
    });
    fits.count()
}

fn weight(fetch: &Fetch) -> u64 {
    FILE_WEIGHT_BYTES
        + match &fetch.what {
            What::Whole | What::Bytes | What::Held { prefixes: _ } => fetch.stamp.size,
            What::Range { .. } | What::Delta { .. } => RANGE_BYTES,
            // What is only read costs less than what is sent.
            What::Digest | What::Confirm => fetch.stamp.size / 4,
        }
}

/// Returns about what the wishes weighed that this answers.
fn answered_weight(reply: &Reply) -> u64 {
    let bytes = match reply {
        Reply::Pack(pack) => pack.files.iter().map(|file| file.stamp.size).fold(0, u64::saturating_add),
        Reply::Range(_) | Reply::Delta(_) | Reply::Unlike(_) => RANGE_BYTES,
        Reply::Digests(digests) => {
            digests.iter().map(|digested| digested.stamp.size / 4).fold(0, u64::saturating_add)
        }
        Reply::Confirmed(confirmed) => confirmed.stamp.size / 4,
        Reply::Same(same) => same.iter().map(|same| same.stamp.size).fold(0, u64::saturating_add),
        Reply::Have(have) => have.iter().map(|have| have.stamp.size).fold(0, u64::saturating_add),
        Reply::Values(_) | Reply::Failed(_) => 0,
    };
    bytes.saturating_add(FILE_WEIGHT_BYTES * reply.wishes() as u64)
}

impl Clone for ContentReceiver {
    fn clone(&self) -> Self {
        Self {
            answers: Arc::clone(&self.answers),
            buffers: self.buffers.clone(),
            ended: self.ended.clone(),
            packed: Arc::clone(&self.packed),
            decompressor: None,
        }
    }
}

impl fmt::Debug for ContentReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentReceiver").finish_non_exhaustive()
    }
}

impl ContentReceiver {
    /// Waits for the next answer and decodes it; for threads, not for async code.
    ///
    /// # Errors
    /// When the connection has ended, or the source broke the protocol.
    pub fn blocking_next(&mut self) -> Result<Delivery, Failure> {
        // Whoever holds the lock waits for the next answer; the others wait for the lock.
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Answer { reply, stored, second_read } = answer.ok_or_else(|| self.ended.failure())?;
        let (coding, content_bytes) = match &reply {
            Reply::Pack(pack) => (pack.coding, pack.content_bytes),
            Reply::Range(range) => (range.coding, range.content_bytes()),
            Reply::Delta(delta) => (delta.coding, delta.content_bytes),
            Reply::Digests(_)
            | Reply::Values(_)
            | Reply::Confirmed(_)
            | Reply::Failed(_)
            | Reply::Same(_)
            | Reply::Unlike(_)
            | Reply::Have(_) => (Coding::Plain, 0),
        };
        let content = match coding {
            Coding::Plain => stored,
            Coding::Zstd => self.decode(&stored, content_bytes).inspect_err(|failure| {
                self.ended.end(ErrorCode::Protocol, failure.clone());
            })?,
        };
        Ok(Delivery { reply, content, second_read })
    }

    fn decode(&mut self, stored: &[u8], content_bytes: usize) -> Result<Buffer, Failure> {
        if self.decompressor.is_none() {
            self.decompressor =
                Some(Decompressor::new().map_err(|error| Failure::of(FailureKind::Bug, &error))?);
        }
        let mut content = self.buffers.take();
        content.reserve(content_bytes);
        let written = self
            .decompressor
            .as_mut()
            .and_then(|decompressor| decompressor.decompress_to_buffer(stored, &mut *content).ok());
        if written == Some(content_bytes) {
            self.packed.bytes.fetch_add(content_bytes as u64, Ordering::Relaxed);
            self.packed.stored_bytes.fetch_add(stored.len() as u64, Ordering::Relaxed);
            return Ok(content);
        }
        Err(breach(FrameError::Body(FrameKind::Reply)))
    }
}

/// Sends batches until nobody wants anything any more, and says so before the source can know it.
async fn write(
    mut sender: LaneSender,
    mut batches: mpsc::Receiver<Batch>,
    unanswered: &Unanswered,
    link: &Link,
    is_over: &AtomicBool,
) -> Result<(), LaneError> {
    while let Some(batch) = batches.recv().await {
        tokio::select! {
            () = unanswered.send(&batch) => {}
            gone = link.closed() => return Err(gone),
        }
        sender.bytes(batch.frame).await?;
    }
    is_over.store(true, Ordering::Release);
    sender.finish().await;
    Ok(())
}

/// Takes what comes on one lane.
struct Reader {
    receiver: LaneReceiver,
    answers: mpsc::Sender<Answer>,
    buffers: Buffers,
    demand: Demand,
    unanswered: Unanswered,
    load: Arc<AtomicU64>,
    confirms: Arc<Mutex<Confirms>>,
}

impl Reader {
    async fn run(mut self) -> Result<(), LaneError> {
        let mut body = Vec::new();
        let mut gathered: Option<Values> = None;
        while let Some(reply) = self.receiver.message::<Reply>(&mut body).await? {
            let mut stored = Buffer::default();
            if reply.stored_bytes() > 0 {
                stored = self.buffers.take();
                self.receiver.exact(reply.stored_bytes(), &mut stored).await?;
            }
            self.demand.answered(&reply);
            self.unanswered.answered(reply.wishes());
            let done = answered_weight(&reply);
            let lower = |load: u64| Some(load.saturating_sub(done));
            self.load.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower).ok();
            let mut second_read = Vec::new();
            match &reply {
                Reply::Values(values) => {
                    self.gather(&mut gathered, values)?;
                    continue;
                }
                Reply::Confirmed(confirmed) => second_read = self.confirmed(gathered.take(), confirmed)?,
                Reply::Failed(failed) => {
                    // The second read of a file may end in a refusal.
                    gathered = None;
                    let mut confirms = self.confirms.lock().unwrap_or_else(PoisonError::into_inner);
                    for failed in failed {
                        confirms.remove(&failed.id);
                    }
                }
                Reply::Pack(_)
                | Reply::Range(_)
                | Reply::Delta(_)
                | Reply::Unlike(_)
                | Reply::Digests(_)
                | Reply::Same(_)
                | Reply::Have(_) => {}
            }
            let _held_up = self.demand.hold_up();
            if self.answers.send(Answer { reply, stored, second_read }).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Adds values of a second read to those that came before.
    fn gather(&self, gathered: &mut Option<Values>, values: &Values) -> Result<(), LaneError> {
        let size = self.confirms.lock().unwrap_or_else(PoisonError::into_inner).get(&values.id).copied();
        let count = range::count(size.ok_or(OUT_OF_BOUNDS)?);
        let gathered = gathered.get_or_insert_with(|| Values { id: values.id, first: 0, values: Vec::new() });
        let next = gathered.values.len() as u64;
        if gathered.id != values.id || values.first != next || next + values.values.len() as u64 > count {
            return Err(OUT_OF_BOUNDS.into());
        }
        gathered.values.extend_from_slice(&values.values);
        Ok(())
    }

    /// Returns the values that belong to a confirmation.
    fn confirmed(
        &self,
        gathered: Option<Values>,
        confirmed: &Confirmed,
    ) -> Result<Vec<ChainingValue>, LaneError> {
        let size = self.confirms.lock().unwrap_or_else(PoisonError::into_inner).remove(&confirmed.id);
        let count = if confirmed.is_reread { range::count(size.ok_or(OUT_OF_BOUNDS)?) } else { 0 };
        let values = match gathered {
            Some(values) if values.id == confirmed.id => values.values,
            Some(_) => return Err(OUT_OF_BOUNDS.into()),
            None => Vec::new(),
        };
        if values.len() as u64 == count { Ok(values) } else { Err(OUT_OF_BOUNDS.into()) }
    }
}

const OUT_OF_BOUNDS: FrameError = FrameError::Bounds(FrameKind::Reply);
