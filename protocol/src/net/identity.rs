//! A node's ed25519 key and its libp2p peer id are two spellings of one thing: the peer id embeds the key.

use crate::NodeId;
use libp2p::{
    PeerId,
    identity::{self, ed25519},
};

/// Why a peer id and a node's key do not convert.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The 32 bytes are no point of the curve.
    #[error("'{0}' is not an ed25519 public key")]
    NotAKey(NodeId),
    /// The peer id is a hash, or of another kind of key.
    #[error("peer {0} is not named by an ed25519 key: it does not run this software")]
    Foreign(PeerId),
}

/// The peer id of a node.
pub fn peer_id(node: &NodeId) -> Result<PeerId, IdentityError> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).map_err(|_| IdentityError::NotAKey(*node))?;
    Ok(PeerId::from_public_key(&identity::PublicKey::from(key)))
}

/// The node with a peer id.
pub fn node_id(peer: &PeerId) -> Result<NodeId, IdentityError> {
    // A key of at most 42 bytes is embedded whole (multihash code 0), a longer one only as its hash.
    let hash = peer.as_ref();
    let key = (hash.code() == 0).then(|| identity::PublicKey::try_decode_protobuf(hash.digest()).ok()).flatten();
    let key = key.and_then(|key| key.try_into_ed25519().ok()).ok_or(IdentityError::Foreign(*peer))?;
    Ok(crate::PublicKey(key.to_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Keypair;

    #[test]
    fn a_node_id_and_its_peer_id_are_the_same_key() {
        let key = Keypair::from_seed([3; 32]);
        let peer = peer_id(key.public()).unwrap();
        assert_eq!(node_id(&peer).unwrap(), *key.public());
        let libp2p_key = identity::Keypair::ed25519_from_bytes(*key.seed()).unwrap();
        assert_eq!(peer, libp2p_key.public().to_peer_id());
    }

    #[test]
    fn what_is_no_ed25519_key_is_refused() {
        let hashed = PeerId::random();
        assert_eq!(node_id(&hashed), Err(IdentityError::Foreign(hashed)));
        let no_point = crate::PublicKey([2; 32]);
        assert_eq!(peer_id(&no_point), Err(IdentityError::NotAKey(no_point)));
    }
}
