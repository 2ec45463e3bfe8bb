//! How bytes travel between nodes.
//!
//! A call is one message each way; a snapshot is a stream of pieces with one answer. Over gRPC in daemons, over
//! channels in tests. Payloads are encoded here: openraft's types in postcard behind a byte of version.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use common::failure::{Failure, FailureKind};
use proto::v1::RaftMessage;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::Member;

/// The version of every payload.
const VERSION: u8 = 1;
/// Pieces of a snapshot that wait for the network; each holds at most a piece's bytes.
pub const PIECES_WAITING: usize = 2;

/// The answer to a call, later.
pub type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, Failure>> + Send>>;

/// What a node can be asked by its peers in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Entries and heartbeats.
    Append,
    /// A vote.
    Vote,
    /// Whether it would vote.
    PreVote,
    /// To elect itself.
    HandOver,
    /// To make a node a member.
    Admit,
    /// Something about the audit.
    Audit,
    /// Whether it has a cluster key by itself.
    HoldsKey,
}

/// A way to the peers.
pub trait Wire: Send + Sync + 'static {
    /// Calls a peer at its raft address.
    fn call(&self, address: &str, method: Method, payload: Vec<u8>) -> Answer;

    /// Streams a snapshot to a peer: the header first, then pieces of the file.
    fn snapshot(&self, address: &str, pieces: mpsc::Receiver<Vec<u8>>) -> Answer;
}

/// The way over gRPC, with one connection per peer that is made when it is first used and again when it broke.
pub struct GrpcWire {
    tls: Arc<rustls::ClientConfig>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl std::fmt::Debug for GrpcWire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcWire").finish_non_exhaustive()
    }
}

impl GrpcWire {
    /// Makes a way that presents this node's certificate.
    pub fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        Self { tls, channels: Mutex::default() }
    }

    fn channel(&self, address: &str) -> Result<Channel, Failure> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = proto::channel::channel(address, Arc::clone(&self.tls))?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

impl Wire for GrpcWire {
    fn call(&self, address: &str, method: Method, payload: Vec<u8>) -> Answer {
        let channel = self.channel(address);
        Box::pin(async move {
            let mut client = proto::channel::raft_client(channel?);
            let message = RaftMessage { payload };
            let answered = match method {
                Method::Append => client.append(message).await,
                Method::Vote => client.vote(message).await,
                Method::PreVote => client.pre_vote(message).await,
                Method::HandOver => client.hand_over(message).await,
                Method::Admit => client.admit(message).await,
                Method::Audit => client.audit(message).await,
                Method::HoldsKey => client.holds_key(message).await,
            };
            answered
                .map(|answer| answer.into_inner().payload)
                .map_err(|status| proto::status::to_failure(&status))
        })
    }

    fn snapshot(&self, address: &str, pieces: mpsc::Receiver<Vec<u8>>) -> Answer {
        let channel = self.channel(address);
        Box::pin(async move {
            let mut client = proto::channel::raft_client(channel?);
            let messages = ReceiverStream::new(pieces).map(|payload| RaftMessage { payload });
            let answered = client.snapshot(messages).await;
            answered
                .map(|answer| answer.into_inner().payload)
                .map_err(|status| proto::status::to_failure(&status))
        })
    }
}

/// Returns a payload.
///
/// # Errors
/// When the value cannot be encoded, which is a bug.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    postcard::to_extend(value, vec![VERSION]).map_err(|error| Failure::of(FailureKind::Bug, &error))
}

/// Reads a payload.
///
/// # Errors
/// When it is of another version or does not decode.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Failure> {
    let refuse = |message: String| {
        Failure::new(FailureKind::Unsupported, message)
            .hint("run one version of the program on all coordinators")
    };
    match payload.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body)
            .map_err(|error| refuse(format!("a message of a coordinator does not decode: {error}"))),
        Some((version, _)) => Err(refuse(format!("a message of a coordinator has version {version}"))),
        None => Err(refuse("a message of a coordinator is empty".to_owned())),
    }
}

/// Calls a peer and decodes the answer.
///
/// # Errors
/// When the peer cannot be reached, refuses, or answers something else.
pub async fn ask<Q: Serialize, A: DeserializeOwned>(
    wire: &dyn Wire,
    peer: &Member,
    method: Method,
    question: &Q,
) -> Result<A, Failure> {
    let answer = wire.call(&peer.raft_address, method, encode(question)?).await?;
    decode(&answer)
}
