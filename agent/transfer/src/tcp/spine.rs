//! What keeps a link alive and ends it.

use std::sync::Arc;
use std::time::Duration;

use common::shutdown::Shutdown;
use sync::wire::error_code::ErrorCode;
use sync::wire::spine::{REASON_BYTES_MAX, Spine};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::bond::Shared;
use super::dialler::Dialler;
use crate::breach::shown;
use crate::lane::{Lane, LaneError, LaneReceiver, LaneSender};

/// How long a peer may say nothing, beats included.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// For last words to be taken.
const WORDS_DEADLINE: Duration = Duration::from_secs(2);

/// What the peer says, in order.
type Heard = mpsc::Receiver<Result<Spine, LaneError>>;

/// One end of a spine.
pub(super) struct SpineTask {
    pub(super) shared: Arc<Shared>,
    pub(super) lane: Lane,
    /// Between two signs of life.
    pub(super) beat: Duration,
    pub(super) side: SpineSide,
    pub(super) shutdown: Shutdown,
}

/// What differs between the two ends.
pub(super) enum SpineSide {
    /// This one dials the lanes that the peer asks for, and hands them on.
    Dialled { dialler: Dialler, opened: mpsc::Sender<Lane> },
    /// This one tells the peer that a lane is wanted.
    Accepted { asks: mpsc::Receiver<()> },
}

impl SpineTask {
    /// Runs until the link ends, and ends it.
    pub(super) async fn run(mut self) {
        let Lane { mut sender, receiver } = self.lane;
        let (said, mut heard) = mpsc::channel(4);
        let hearing = self.shutdown.spawn(hear(receiver, said));
        let mut beats = tokio::time::interval(self.beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rhythm = Rhythm::default();
        let verdict = loop {
            let say = tokio::select! {
                biased;
                _here = self.shared.fate.parted() => break None,
                () = self.shutdown.cancelled() => {
                    self.shared.fate.close(ErrorCode::ResumeLater, "the agent stops");
                    break None;
                }
                message = heard.recv() => match self.side.answer(&self.shared, &mut rhythm, message, &self.shutdown) {
                    Ok(Some(answer)) => answer,
                    Ok(None) => continue,
                    Err(verdict) => break Some(verdict),
                },
                () = self.side.wanted() => Spine::Ask,
                _ = beats.tick() => match rhythm.beat() {
                    Some(beat) => beat,
                    None => break Some(LaneError::Lost("the peer fell silent".to_owned())),
                },
            };
            match tokio::time::timeout(SILENCE_MAX, sender.message(&say)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Some(last_heard(&mut heard).await.unwrap_or_else(|| lost(&error))),
                Err(_elapsed) => break Some(LaneError::Lost("the peer takes nothing any more".to_owned())),
            }
        };
        if let Some(verdict) = verdict {
            self.shared.fate.end(verdict).await;
        }
        // A peer that does not take last words sees the connection end.
        tokio::time::timeout(WORDS_DEADLINE, say_last(&mut sender, &self.shared, &mut heard)).await.ok();
        hearing.abort();
    }
}

/// The beats that were sent, and what was heard since.
#[derive(Debug)]
struct Rhythm {
    number: u64,
    sent: Instant,
    heard: Instant,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { number: 0, sent: Instant::now(), heard: Instant::now() }
    }
}

impl Rhythm {
    /// Returns the next sign of life; nothing when the peer gave none for too long.
    fn beat(&mut self) -> Option<Spine> {
        if self.heard.elapsed() > SILENCE_MAX {
            return None;
        }
        self.number += 1;
        self.sent = Instant::now();
        Some(Spine::Beat { number: self.number })
    }
}

impl SpineSide {
    /// Waits for a lane to be wanted on this side.
    async fn wanted(&mut self) {
        if let Self::Accepted { asks } = self
            && asks.recv().await.is_some()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Returns what is to be answered, or how the link ends.
    fn answer(
        &self,
        shared: &Arc<Shared>,
        rhythm: &mut Rhythm,
        message: Option<Result<Spine, LaneError>>,
        tasks: &Shutdown,
    ) -> Result<Option<Spine>, LaneError> {
        rhythm.heard = Instant::now();
        match message {
            Some(Ok(Spine::Beat { number })) => Ok(Some(Spine::Echo { number })),
            Some(Ok(Spine::Echo { number })) => {
                if number == rhythm.number {
                    shared.measured(rhythm.sent.elapsed());
                }
                Ok(None)
            }
            Some(Ok(Spine::Close { code, reason })) => {
                Err(LaneError::Closed { code, reason: shown(&reason) })
            }
            Some(Ok(Spine::Ask)) => self.dial(shared, tasks).map(|()| None),
            Some(Ok(Spine::Welcome { .. } | Spine::Joined) | Err(LaneError::Frame(_))) => Err(breach(shared)),
            Some(Err(error)) => Err(lost(&error)),
            None => Err(LaneError::Lost("the peer is gone".to_owned())),
        }
    }

    /// Dials a lane that the peer asked for.
    fn dial(&self, shared: &Arc<Shared>, tasks: &Shutdown) -> Result<(), LaneError> {
        let Self::Dialled { dialler, opened } = self else { return Err(breach(shared)) };
        let Some(slot) = shared.slots.take() else { return Err(breach(shared)) };
        let (dialler, opened, shared) = (dialler.clone(), opened.clone(), Arc::clone(shared));
        tasks.spawn(async move {
            tokio::select! {
                _ended = shared.fate.parted() => {}
                dialled = dialler.asked(&shared, &slot) => match dialled {
                    // The channel holds as many as there are places.
                    Ok(lane) => drop(opened.try_send(lane)),
                    Err(error) => shared.fate.close(ErrorCode::Timeout, &error.to_string()),
                },
            }
        });
        Ok(())
    }
}

/// Ends a link whose peer does what it may not do, and tells it so.
fn breach(shared: &Shared) -> LaneError {
    shared.fate.close(ErrorCode::Protocol, "what came on the spine of the link is not allowed");
    LaneError::ClosedHere
}

fn lost(error: &LaneError) -> LaneError {
    match error {
        LaneError::Lost(_) | LaneError::Closed { .. } | LaneError::ClosedHere => error.clone(),
        LaneError::Reset(_) | LaneError::Cut | LaneError::Frame(_) => {
            LaneError::Lost("the peer is gone".to_owned())
        }
    }
}

/// Says why this side ended the link, and waits for the peer to have heard it: a socket that is closed while something
/// is unread takes back what was sent.
async fn say_last(sender: &mut LaneSender, shared: &Shared, heard: &mut Heard) {
    let Some((code, reason)) = shared.fate.words() else { return };
    let mut reason = reason.clone();
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    if sender.message(&Spine::Close { code: *code, reason }).await.is_ok() {
        sender.finish().await;
        while let Some(Ok(_)) = heard.recv().await {}
    }
}

/// Returns the words of a peer that takes nothing any more, if it left some.
async fn last_heard(heard: &mut Heard) -> Option<LaneError> {
    let listening = async {
        loop {
            match heard.recv().await? {
                Ok(Spine::Close { code, reason }) => {
                    return Some(LaneError::Closed { code, reason: shown(&reason) });
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(WORDS_DEADLINE, listening).await.ok().flatten()
}

async fn hear(mut receiver: LaneReceiver, said: mpsc::Sender<Result<Spine, LaneError>>) {
    let mut body = Vec::new();
    loop {
        let message = match receiver.message::<Spine>(&mut body).await {
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
