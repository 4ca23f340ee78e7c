//! The request-response codec: one protobuf message each way, read to the end of the stream and never beyond its bound.

use super::NetLimits;
use ailo_proto::{Message, Request, Response};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use std::io;

/// A response holds at most this many blocks or headers. Checked before decoding, since an empty one takes two bytes on the
/// wire and thirty times that in memory.
const MAX_ITEMS: usize = 1024;
/// Where a response has them.
const BLOCKS: u32 = 1;
const HEADERS: u32 = 8;

/// Reads and writes [`Request`] and [`Response`].
#[derive(Clone)]
pub(super) struct Codec {
    request_bytes: usize,
    response_bytes: usize,
}

impl Codec {
    pub(super) fn new(limits: &NetLimits) -> Codec {
        Codec { request_bytes: limits.request_bytes, response_bytes: limits.response_bytes }
    }
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.take(max as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > max {
        return Err(invalid(format!("longer than the bound of {max} bytes")));
    }
    Ok(bytes)
}

/// Counts, without decoding them, the blocks or headers of a response: an empty one takes two bytes on the wire and many in
/// memory.
fn count_items(mut bytes: &[u8]) -> Result<usize, ailo_proto::DecodeError> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let mut count = 0;
    while !bytes.is_empty() {
        let (tag, kind) = decode_key(&mut bytes)?;
        if !matches!((tag, kind), (BLOCKS | HEADERS, WireType::LengthDelimited)) {
            skip_field(kind, tag, &mut bytes, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
        let (mut inner, rest) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
        bytes = rest;
        while !inner.is_empty() {
            let (tag, kind) = decode_key(&mut inner)?;
            skip_field(kind, tag, &mut inner, DecodeContext::default())?;
            count += usize::from(tag == 1);
        }
    }
    Ok(count)
}

/// Decodes a response that a peer sent.
pub fn decode_response(bytes: Vec<u8>) -> io::Result<Response> {
    if count_items(&bytes).map_err(invalid)? > MAX_ITEMS {
        return Err(invalid(format!("more than {MAX_ITEMS} blocks or headers")));
    }
    Response::decode(ailo_proto::Bytes::from(bytes)).map_err(invalid)
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        // A read that fails is never reported; a request without a body is, and its sender gets an answer and blame.
        match read(io, self.request_bytes).await {
            Ok(bytes) => Ok(Request::decode(bytes.as_slice()).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Request::default()),
            Err(e) => Err(e),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        decode_response(read(io, self.response_bytes).await?)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&request.encode_to_vec()).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&response.encode_to_vec()).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_proto::{BlockWithCertificate, BlocksResponse, HeadersResponse};
    use proptest::prelude::*;

    fn blocks(count: usize) -> Vec<u8> {
        let blocks = vec![BlockWithCertificate::default(); count];
        Response::from(BlocksResponse { blocks, first_height: 1 }).encode_to_vec()
    }

    #[test]
    fn a_response_of_many_empty_blocks_is_refused_before_it_is_decoded() {
        assert!(decode_response(blocks(MAX_ITEMS)).is_ok());
        assert!(decode_response(blocks(MAX_ITEMS + 1)).is_err());
        let headers = |count: usize| {
            let headers = HeadersResponse { canonical: vec![Default::default(); count] };
            decode_response(Response::from(headers).encode_to_vec())
        };
        assert!(headers(MAX_ITEMS).is_ok() && headers(MAX_ITEMS + 1).is_err());
        // The same field twice: protobuf would merge the two lists.
        assert!(decode_response([blocks(600), blocks(600)].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_response(bytes);
        }
    }
}
