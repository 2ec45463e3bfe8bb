//! Events on their way to the coordinator: durable before they are sent, kept until they are acknowledged.
//!
//! Numbers rise by one and survive restarts, so the coordinator takes each event once however often it is sent. Events
//! are read only up to the last number that is durable, and a number is given and stored in one step, so a reader never
//! passes over one that comes later.

use std::sync::{Arc, Mutex, PoisonError};

use common::fence::FencingToken;
use tokio::sync::watch;

use crate::journal::{Journal, JournalError, OutboxEvent, OutboxRecord};

/// Unacknowledged events from which on findings wait; the ends of steps always pass. A thousand events of at most
/// 48 KiB are what a coordinator that was away for long takes in within seconds.
const PENDING_MAX: u64 = 1_000;
/// Events that are read from the journal at once.
const READ_MAX: usize = 16;

/// The outbox; cheap to clone, every clone is the same one.
#[derive(Clone, Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    journal: Journal,
    /// The last number that was given; the lock spans giving it and storing the event.
    given: Mutex<u64>,
    /// The last number that is durable.
    durable: watch::Sender<u64>,
    acknowledged: watch::Sender<u64>,
}

impl Outbox {
    /// Opens the outbox of a journal.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn open(journal: Journal) -> Result<Self, JournalError> {
        let (acknowledged, last) = journal.outbox_numbers()?;
        Ok(Self {
            shared: Arc::new(Shared {
                journal,
                given: Mutex::new(last),
                durable: watch::Sender::new(last),
                acknowledged: watch::Sender::new(acknowledged),
            }),
        })
    }

    /// Stores an event durably; the session sends it from then on.
    ///
    /// # Errors
    /// When the event is too large or the disk refuses; then nothing is sent.
    pub async fn append(&self, record: OutboxRecord) -> Result<u64, JournalError> {
        let shared = &self.shared;
        let number = {
            // A panic between giving and storing leaves a number without an event, which nobody misses.
            let mut given = shared.given.lock().unwrap_or_else(PoisonError::into_inner);
            let number = *given + 1;
            shared.journal.put_event(number, &record)?;
            *given = number;
            number
        };
        shared.journal.flush().await?;
        shared.durable.send_modify(|durable| *durable = number.max(*durable));
        Ok(number)
    }

    /// Waits until fewer than the most events are on their way.
    pub async fn has_room(&self) {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let durable = || *self.shared.durable.borrow();
        // The sender lives as long as `self`, so this cannot fail.
        drop(
            acknowledged.wait_for(|&acknowledged| durable().saturating_sub(acknowledged) < PENDING_MAX).await,
        );
    }

    /// Returns the next few durable events above `number`, in order.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn after(&self, number: u64) -> Result<Vec<(u64, OutboxRecord)>, JournalError> {
        let durable = *self.shared.durable.borrow();
        let mut events = self.shared.journal.events_after(number, READ_MAX)?;
        events.retain(|&(number, _)| number <= durable);
        Ok(events)
    }

    /// Takes what the coordinator says at the beginning of a session: the highest number that it holds of this host.
    ///
    /// A number that this outbox never gave came from a journal that is lost, as after a restore of the host from an
    /// older image. What waits here would then be taken for what it has, so it is told under new numbers.
    ///
    /// # Errors
    /// When the journal refuses.
    pub fn agree(&self, acknowledged: u64) -> Result<(), JournalError> {
        let shared = &self.shared;
        let mut given = shared.given.lock().unwrap_or_else(PoisonError::into_inner);
        if acknowledged > *given {
            let moved = shared.journal.renumber(acknowledged)?;
            tracing::warn!(
                moved,
                "the coordinator holds later events of this host than its journal; numbers go on from there"
            );
            *given = acknowledged + moved;
            shared.acknowledged.send_replace(acknowledged);
            shared.durable.send_replace(*given);
            return Ok(());
        }
        drop(given);
        self.acknowledge(acknowledged)
    }

    /// Forgets what the coordinator has.
    ///
    /// # Errors
    /// When the journal refuses.
    pub fn acknowledge(&self, number: u64) -> Result<(), JournalError> {
        let shared = &self.shared;
        let given = *shared.given.lock().unwrap_or_else(PoisonError::into_inner);
        // A number that was never given says nothing about the events here.
        if number > given || number <= *shared.acknowledged.borrow() {
            return Ok(());
        }
        shared.journal.acknowledge(number)?;
        shared.acknowledged.send_replace(number);
        Ok(())
    }

    /// Returns the highest acknowledged number.
    pub fn acknowledged(&self) -> u64 {
        *self.shared.acknowledged.borrow()
    }

    /// Whether everything was acknowledged.
    pub fn is_empty(&self) -> bool {
        *self.shared.durable.borrow() <= self.acknowledged()
    }

    /// Returns the last durable number, to be told of every change.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// Returns the leases whose last event is on its way; the coordinator must not give them away meanwhile.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn ends(&self) -> Result<Vec<OutboxRecord>, JournalError> {
        let (mut ends, mut from) = (Vec::new(), 0);
        loop {
            let events = self.after(from)?;
            let Some(&(last, _)) = events.last() else { return Ok(ends) };
            from = last;
            ends.extend(events.into_iter().map(|(_, record)| record).filter(|record| record.event.is_end()));
        }
    }

    /// Whether the end of this lease's step is on its way already.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn holds_end_of(&self, token: FencingToken) -> Result<bool, JournalError> {
        Ok(self.ends()?.iter().any(|record| record.token == token))
    }
}

/// Makes the end of a step as an event.
pub fn end_of(outcome: &Result<String, common::failure::Failure>) -> OutboxEvent {
    match outcome {
        Ok(output) => OutboxEvent::Succeeded(output.clone()),
        Err(failure) => OutboxEvent::Failed(
            serde_json::to_string(failure).expect("a failure is made of strings and enums"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64, event: OutboxEvent) -> OutboxRecord {
        OutboxRecord {
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            token: FencingToken { epoch: 1, index },
            event,
        }
    }

    #[tokio::test]
    async fn events_are_numbered_in_order_and_replayed_until_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(Journal::open(directory.path()).unwrap()).unwrap();
        let before = outbox.acknowledged();
        let found = record(1, OutboxEvent::Findings("[]".to_owned()));
        let ended = record(1, OutboxEvent::Succeeded("{}".to_owned()));
        assert_eq!(outbox.append(found.clone()).await.unwrap(), before + 1);
        assert_eq!(outbox.append(ended.clone()).await.unwrap(), before + 2);
        drop(outbox);

        let outbox = Outbox::open(Journal::open(directory.path()).unwrap()).unwrap();
        assert_eq!(outbox.after(before).unwrap(), [(before + 1, found), (before + 2, ended.clone())]);
        assert_eq!(outbox.ends().unwrap(), [ended]);
        assert!(outbox.holds_end_of(FencingToken { epoch: 1, index: 1 }).unwrap());
        outbox.acknowledge(before + 2).unwrap();
        assert!(outbox.is_empty());
        assert_eq!(outbox.after(before).unwrap(), []);
        let next = record(2, OutboxEvent::CaughtUp { lag_ms: 5 });
        assert_eq!(outbox.append(next).await.unwrap(), before + 3);
    }

    #[tokio::test]
    async fn events_behind_a_lost_journal_are_told_under_new_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(Journal::open(directory.path()).unwrap()).unwrap();
        let records = [1, 2].map(|index| record(index, OutboxEvent::CaughtUp { lag_ms: index }));
        for record in &records {
            outbox.append(record.clone()).await.unwrap();
        }
        let held = outbox.acknowledged() + 1_000;
        outbox.acknowledge(held).unwrap();
        assert!(!outbox.is_empty());
        outbox.agree(held).unwrap();
        let [first, second] = records;
        assert_eq!(outbox.after(outbox.acknowledged()).unwrap(), [(held + 1, first), (held + 2, second)]);
        assert_eq!(outbox.append(record(3, OutboxEvent::CaughtUp { lag_ms: 5 })).await.unwrap(), held + 3);
    }

    #[tokio::test]
    async fn many_writers_leave_no_gap_for_a_reader() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(Journal::open(directory.path()).unwrap()).unwrap();
        let (before, shutdown) = (outbox.acknowledged(), common::shutdown::Shutdown::new());
        for index in 0..40 {
            let outbox = outbox.clone();
            shutdown.spawn(async move {
                outbox.append(record(index, OutboxEvent::CaughtUp { lag_ms: 5 })).await.unwrap();
            });
        }
        let (mut seen, mut durable) = (before, outbox.durable());
        while seen < before + 40 {
            durable.wait_for(|&durable| durable > seen).await.unwrap();
            for (number, _) in outbox.after(seen).unwrap() {
                assert_eq!(number, seen + 1);
                seen = number;
            }
        }
        shutdown.finish().await;
    }
}
