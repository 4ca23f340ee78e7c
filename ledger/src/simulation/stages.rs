//! Texts that members have a part in: what they sign of them, who accuses whom, and what a judge finds. No model computes here: what a
//! stage should give follows from what came by a hash.

use super::{member::Member, world::World};
use crate::{Body, state::State};
use ailo_protocol::{
    Hash, Keypair,
    hash::Domain,
    inference::{
        CHUNK, chunks,
        proof::{Charge, Statement},
    },
};

/// What a stage gives for what came to it.
fn gives(came: &Hash) -> Hash {
    Hash::of_parts(Domain::Session, &[b"a stage's work", &came.0])
}

/// A statement of the first stage about a text that its signer alone is asked for: right, or not.
fn charge(network: &Hash, key: &Keypair, height: u64, right: bool) -> Charge {
    let tokens = vec![height as u32; CHUNK];
    let came = chunks(&tokens)[0];
    let gave = if right { gives(&came) } else { Hash([9; 32]) };
    let (session, model, next) = ([4; 16], Hash([5; 32]), Hash::ZERO);
    let statement = Statement { session, model, first: 0, end: 1, chunk: 0, came, gave, next, height };
    Charge { signed: statement.sign(network, key), tokens, choice: None }
}

/// What who reads the text finds.
pub fn found(charge: &Charge) -> Hash {
    let came = chunks(&charge.tokens);
    let gave: Vec<Hash> = came.iter().map(gives).collect();
    charge.found(&came, &gave, &[])
}

impl World {
    /// Who watches accuses whoever breaks the rules, of what it signed; whoever breaks the rules those who do not, of the same.
    pub fn accusation_wish(&mut self, ledger: &State, honest: bool) -> Option<Body> {
        let height = ledger.height();
        let other = |member: &&Member| member.works_honestly() != honest;
        let mut others = self.members.iter().filter(other);
        let member = others.find(|member| ledger.may_charge(&member.id(), height).is_ok())?;
        Some(Body::Accuse(charge(&self.network_id, &member.key, height, member.works_honestly())))
    }
}
