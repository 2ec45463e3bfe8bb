//! A client that knows methods by their paths and messages as bytes, and so can make any call, right or wrong.

use common::failure::Failure;
use proto::channel::Way;
use proto::status::to_failure;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

/// Bytes are messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(from);
        Ok(Some(bytes::Buf::copy_to_bytes(from, length).to_vec()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Makes a call with one message and returns the first one of the answer.
pub(super) async fn call(way: Way, path: &'static str, message: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let mut client = Grpc::new(way);
    client.ready().await.unwrap();
    let one = tokio_stream::once(message);
    let answered = client.streaming(Request::new(one), PathAndQuery::from_static(path), Bytes).await;
    let mut stream = answered.map_err(|status| to_failure(&status))?.into_inner();
    let first = stream.message().await.map_err(|status| to_failure(&status))?;
    Ok(first.unwrap_or_default())
}
