//! Faults that are built in on purpose: the simulation must notice each of them.

/// One way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A root takes effects without comparing tokens.
    SkipFence,
    /// The leader never ends a lease that nobody renews.
    ExpireNothing,
    /// A new leader does not treat the leases that it finds as renewed at that moment.
    ForgetElection,
    /// A leader that was deposed goes on answering renewals.
    AnswerWithoutQuorum,
    /// An event is acknowledged before it is durable in the log.
    AcknowledgeEarly,
    /// An agent counts a lease from when the answer arrived, not from when the question was sent.
    CountFromAnswer,
    /// A hello does not make a new start of the agent known.
    SkipStart,
    /// An agent sends an event before it is on its disk.
    SendBeforeDurable,
    /// An agent begins a later attempt on a root without waiting for the effects of the one before, and claims nothing.
    SkipClaim,
    /// An agent says that an undo has ended when it has only begun.
    UndoHalf,
}

/// All of them.
pub(crate) const MUTANTS: [Mutant; 10] = [
    Mutant::SkipFence,
    Mutant::ExpireNothing,
    Mutant::ForgetElection,
    Mutant::AnswerWithoutQuorum,
    Mutant::AcknowledgeEarly,
    Mutant::CountFromAnswer,
    Mutant::SkipStart,
    Mutant::SendBeforeDurable,
    Mutant::SkipClaim,
    Mutant::UndoHalf,
];
