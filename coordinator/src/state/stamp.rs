//! What a command may know of the world.

use common::clock::WallMs;
use common::fence::FencingToken;
use common::principal::Principal;

/// Travels with a command into [`super::State::apply`]: nothing else from outside the state is visible there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The command's raft log index.
    pub index: u64,
    /// The cluster's epoch.
    pub epoch: u64,
    /// The wall time at which the leader proposed it.
    pub wall: WallMs,
    /// Who asked for it.
    pub principal: Principal,
    /// From where, as the address of the connection; none for what a coordinator does by itself.
    pub address: Option<String>,
}

impl Stamp {
    /// Returns the fencing token of a lease that this command grants.
    pub fn token(&self) -> FencingToken {
        FencingToken { epoch: self.epoch, index: self.index }
    }
}
