//! What happens when: one queue over virtual time, so that a run is one thread and one order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use common::id::HostName;

use crate::wire::Message;

/// Something that happens at a moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A message arrives.
    Deliver(Box<Message>),
    /// An agent's timer: heartbeats, leases, work.
    Agent(HostName),
    /// An agent that was killed is started again.
    Start(HostName),
    /// An agent tries to open a session.
    Connect(HostName),
    /// The network of a host stands still.
    Cut { host: HostName, until: u64 },
    /// An effect reaches the disk, whatever became of the process that made it.
    Effect(Box<crate::disk::Effect>),
    /// The timer of a leader's reconcilers, of this term.
    Tick { node: usize, term: u64 },
    /// The reconcilers were woken.
    Wake { node: usize, term: u64 },
    /// A node wins an election.
    Elect(usize),
    /// A node that was deposed notices.
    Notice { node: usize, term: u64 },
    /// A person does something.
    Operator,
    /// Something breaks.
    Fault,
    /// Nothing breaks any more, and everything is put back in place.
    Calm,
}

/// Events in the order of their time; those of one moment in the order in which they were planned.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
}

impl Schedule {
    /// Plans an event for a time in milliseconds.
    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.planned += 1;
        self.queue.push(Reverse((time, self.planned, event)));
    }

    /// Takes the next event with its time.
    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        self.queue.pop().map(|Reverse((time, _, event))| (time, event))
    }
}
