//! What the leader wants, understood and handed to the executor.
//!
//! A message that cannot be understood is told to people and changes nothing; the leader says again what matters.

use common::clock;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use proto::v1;

use super::outbox::end_of;
use super::session::Session;
use super::wire;
use crate::journal::OutboxRecord;
use crate::step::order::Order;

pub(super) async fn granted(session: &Session, grant: v1::Grant) -> Result<(), Failure> {
    let granted = match wire::granted(grant, clock::boot()) {
        Ok(granted) => granted,
        Err(error) => {
            tracing::warn!(error = %common::failure::chain(&error), "a grant was not understood");
            return Ok(());
        }
    };
    let wire::Granted { migration, step, token, is_finish, grant } = granted;
    if is_finish {
        return order(session, Order::Finish { token }).await;
    }
    // A grant that comes again after its step has ended is answered by the event that is on its way.
    if session.outbox.holds_end_of(token)? {
        return Ok(());
    }
    match grant {
        Ok(grant) => order(session, Order::Grant(Box::new(grant))).await,
        Err(failure) => {
            let event = end_of(&Err(failure));
            session.outbox.append(OutboxRecord { migration, step, token, event }).await?;
            Ok(())
        }
    }
}

/// Returns the lease that is over.
pub(super) async fn revoked(session: &Session, revoke: v1::Revoke) -> Result<Option<FencingToken>, Failure> {
    let v1::Revoke { migration: _, step: _, token, reason } = revoke;
    match wire::from_token(token) {
        Ok(token) => order(session, Order::Revoke { token, reason }).await.map(|()| Some(token)),
        Err(error) => {
            tracing::warn!(%error, "a revocation was not understood");
            Ok(None)
        }
    }
}

pub(super) async fn asked(session: &Session, number: u64, question: v1::Question) -> Result<(), Failure> {
    match wire::question(question) {
        Ok((asked, question)) => {
            order(session, Order::Question { session: number, number: asked, question }).await
        }
        Err(error) => {
            tracing::warn!(error = %common::failure::chain(&error), "a question was not understood");
            Ok(())
        }
    }
}

pub(super) async fn serve(session: &Session, serve: v1::Serve) -> Result<(), Failure> {
    match wire::serve(serve) {
        Ok(serve) => order(session, Order::Serve(serve)).await,
        Err(failure) => {
            tracing::warn!(%failure, "an order to serve was not understood");
            Ok(())
        }
    }
}

pub(super) async fn peer_seen(session: &Session, seen: v1::PeerSeen) -> Result<(), Failure> {
    match wire::peer_seen(seen) {
        Ok((token, news)) => order(session, Order::PeerSeen { token, news }).await,
        Err(error) => {
            tracing::warn!(%error, "news of a peer were not understood");
            Ok(())
        }
    }
}

pub(super) async fn paced(session: &Session, paced: v1::Paced) -> Result<(), Failure> {
    let v1::Paced { token, bandwidth_limit, max_load, idle_io } = paced;
    match wire::from_token(token) {
        Ok(token) => {
            let pace = wire::pace(bandwidth_limit, max_load, idle_io);
            order(session, Order::Paced { token, pace }).await
        }
        Err(error) => {
            tracing::warn!(%error, "a pace was not understood");
            Ok(())
        }
    }
}

pub(super) async fn revoked_hosts(session: &Session, revoked: v1::RevokedHosts) -> Result<(), Failure> {
    order(session, Order::RevokedHosts { hosts: wire::revoked_hosts(revoked) }).await
}

/// Hands an order to the executor, which takes them as fast as they come. One that stops takes none, and the session
/// goes on: its last words are still to be sent.
async fn order(session: &Session, order: Order) -> Result<(), Failure> {
    let ended = Failure::new(FailureKind::Cancelled, "the agent takes no orders any more");
    tokio::select! {
        biased;
        () = session.stopping.cancelled() => Ok(()),
        sent = session.orders.send(order) => sent.or(Err(ended)),
    }
}
