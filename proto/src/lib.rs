//! What crosses the wire: the prost types of `proto/ailo.proto`, whose comments are the specification.
//!
//! ```
//! use ailo_proto::{Gossip, Head, Message};
//! let message = Gossip::from(Head { height: 7, block: vec![1; 32].into() });
//! assert_eq!(Gossip::decode(message.encode_to_vec().as_slice())?, message);
//! # Ok::<(), ailo_proto::DecodeError>(())
//! ```
mod generated {
    #![allow(missing_docs, unused_qualifications, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/ailo.v1.rs"));
}

pub use generated::*;
pub use prost::{DecodeError, Message, bytes::Bytes};

impl<B: Into<gossip::Body>> From<B> for Gossip {
    /// The first broadcast of a message; a repeated one needs another `nonce`.
    fn from(body: B) -> Gossip {
        Gossip { nonce: 0, body: Some(body.into()) }
    }
}

impl<B: Into<request::Body>> From<B> for Request {
    fn from(body: B) -> Request {
        Request { body: Some(body.into()) }
    }
}

impl<B: Into<response::Body>> From<B> for Response {
    fn from(body: B) -> Response {
        Response { body: Some(body.into()) }
    }
}

impl Frame {
    /// A frame of this session.
    pub fn of(session: [u8; 16], body: impl Into<frame::Body>) -> Frame {
        Frame { session: Bytes::copy_from_slice(&session), body: Some(body.into()) }
    }
}

macro_rules! body_from {
    ($($body:ident { $($kind:ident: $part:ident),* $(,)? })*) => {$($(
        impl From<$part> for $body::Body {
            fn from(part: $part) -> $body::Body {
                $body::Body::$kind(part)
            }
        }
    )*)*};
}

body_from! {
    gossip { Transactions: Transactions, Consensus: Consensus, Head: Head, Serving: Serving }
    request {
        Blocks: BlocksRequest,
        Blob: BlobRequest,
        ModelManifest: ModelManifestRequest,
        ModelChunk: ModelChunkRequest,
        Head: HeadRequest,
        LightBlock: LightBlockRequest,
        Headers: HeadersRequest,
        Snapshot: SnapshotRequest,
        SnapshotPart: SnapshotPartRequest,
        Peers: PeersRequest,
    }
    response {
        Blocks: BlocksResponse,
        Blob: BlobResponse,
        ModelManifest: ModelManifestResponse,
        ModelChunk: ModelChunkResponse,
        Head: Head,
        Refused: Refused,
        LightBlock: LightBlockResponse,
        Headers: HeadersResponse,
        Snapshot: SnapshotResponse,
        SnapshotPart: SnapshotPartResponse,
        Peers: PeersResponse,
    }
    frame {
        Open: Open,
        Opened: Opened,
        Route: Route,
        Have: Have,
        Input: Input,
        Rows: Rows,
        Tokens: Tokens,
        Close: Close,
        Failed: Failed,
        Where: Where,
        Place: Place,
        Ping: Ping,
        Pong: Pong,
        Signed: Signed,
        Pay: Pay,
        Wait: Wait,
        End: End,
    }
}
