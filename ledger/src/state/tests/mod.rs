//! The rules, one claim a test.
#![allow(clippy::unwrap_used)]

mod accusations;
mod attacks;
mod blocks;
mod evidence;
mod inference;
mod lots;
mod nodes;
mod polls;
mod properties;
mod recovery;
mod replays;
mod reports;
mod rounds;
mod stakes;
mod transfers;

use super::testing::*;
use super::*;
use crate::{
    Body, Transaction,
    transaction::{Consent, Evidence, SignedAttest, recovery_agreement, recovery_commitment},
};
use ailo_protocol::Keypair;

const ALC: fn(u64) -> Amount = Amount::alc;

impl Ledger {
    fn free(&self, i: u8) -> Amount {
        self.state.account(&wallet(i)).free
    }

    /// The founder `i`'s attestation of the block at `height`.
    fn attest(&self, i: u8, height: u64) -> Transaction {
        self.sign(&node_key(i), Body::Attest { height, except: Vec::new() })
    }

    /// A stake of the founder `i` behind its own node.
    fn stake(&self, i: u8, amount: Amount) -> Transaction {
        self.sign(&wallet_key(i), Body::Stake { node: *node_key(i).public(), amount })
    }

    fn unstake(&self, i: u8, amount: Amount) -> Transaction {
        self.sign(&wallet_key(i), Body::Unstake { node: *node_key(i).public(), amount })
    }

    /// The registration of a node for the wallet of the founder `i`.
    fn registration(&self, node: &Keypair, i: u8) -> Transaction {
        // A little more than is needed now: others may register before it.
        let bits = (self.state.stamp_bits() + 2).min(self.state.params().ledger.stamp_bits_full);
        self.sign(node, register_body(&self.state, node, &wallet_key(i), bits))
    }

    fn founder(&self, i: u8) -> &Node {
        self.state.node(node_key(i).public()).unwrap()
    }

    fn holds_seat(&self, node: &Keypair) -> bool {
        self.state.seats(self.state.epoch()).unwrap().contains(node.public())
    }
}

/// A key that belongs to no founder.
fn stranger(i: u8) -> Keypair {
    Keypair::from_seed([200 + i; 32])
}

/// What gives `account` the key `to` for the time after `count` recoveries.
fn recover_body(ledger: &Ledger, account: Address, count: u64, to: &Keypair, next: Hash) -> Body {
    let agreed = to.sign(&recovery_agreement(&ledger.state.network(), &account, count));
    Body::Recover { account, count, key: *to.public(), agreed, next }
}

/// What binds `node` to the wallet of the founder `i`.
fn bind_body(ledger: &Ledger, node: &Keypair, i: u8) -> Body {
    let consent = Consent::sign(&ledger.state.network(), node.public(), &wallet(i), &wallet_key(i));
    Body::BindNode { wallet: wallet(i), consent }
}
