//! What validators do that break the rules. They sign whatever helps: rival votes and proposals, different things to
//! different peers, or nothing; or they vote by the rules and attest one block in two ways. They forge blocks for whoever syncs from them. As twins, two nodes with one key, each
//! plays by the rules towards its half of the network, which signs two of everything: enough twins fork any ledger.

use super::{
    member::Conduct,
    world::{Packet, World},
};
use crate::{
    Block, Certificate, Header,
    consensus::{Ballot, Message, Step, codec::Signed},
    state::build_block,
};
use ailo_protocol::{Hash, hash::Domain};
use std::{rc::Rc, sync::Arc};

/// Twins turn to other halves this often.
const TURN_MS: u64 = 7_000;

/// Whether `to` hears what `from` says now, as far as that is up to the two.
pub fn hears(world: &World, from: usize, to: usize) -> bool {
    let (a, b) = (&world.members[from], &world.members[to]);
    if a.id() == b.id() {
        return from == to;
    }
    let parted = world.network.parts.iter().any(|part| *part != world.network.parts[0]);
    let turns_to = |twin: u8, other: usize| {
        // While the network is cut, each twin serves its own part.
        let turn = world.time / TURN_MS;
        parted || turn.is_multiple_of(3) || (other as u64 + turn) % 2 == u64::from(twin)
    };
    let own = |one: Conduct, other: usize| if let Conduct::Twin(n) = one { turns_to(n, other) } else { true };
    own(a.conduct, to) && own(b.conduct, from)
}

/// Sends a message of consensus as a member does that breaks the rules.
pub fn broadcast(world: &mut World, i: usize, bytes: Vec<u8>) {
    match world.members[i].conduct {
        Conduct::Honest | Conduct::Perjures | Conduct::Twin(_) => world.broadcast(i, Packet::Consensus(bytes)),
        Conduct::Withholds => {
            let packet = Rc::new(Packet::Consensus(bytes));
            let from_all = world.chance(200);
            for to in 0..world.members.len() {
                if !from_all && world.chance(600) {
                    world.send(i, to, &packet);
                }
            }
        }
        Conduct::Rivals => {
            let rival = Message::decode(&bytes).ok().and_then(|message| rival(world, i, &message));
            let Some(rival) = rival else { return world.broadcast(i, Packet::Consensus(bytes)) };
            world.saw(&rival);
            if matches!(rival, Message::Proposal(..)) && world.time.is_multiple_of(4) {
                return world.broadcast(i, Packet::Consensus(rival.encode()));
            }
            let packets = [Rc::new(Packet::Consensus(bytes)), Rc::new(Packet::Consensus(rival.encode()))];
            let both = world.chance(300);
            let turn = world.random.below(2) as usize;
            for to in 0..world.members.len() {
                for (n, packet) in packets.iter().enumerate() {
                    if both || (to + turn) % 2 == n {
                        world.send(i, to, packet);
                    }
                }
            }
        }
    }
}

/// The same kind of ballot for something else.
fn rival(world: &World, i: usize, message: &Message) -> Option<Message> {
    let (member, network) = (&world.members[i], world.network_id);
    match message {
        Message::Vote(Signed { ballot, node, .. }) if *node == member.id() => {
            let other =
                if ballot.block.is_some() && world.time.is_multiple_of(2) { None } else { Some(Hash([0xee; 32])) };
            Some(Message::Vote(Ballot { block: other, ..*ballot }.sign(&network, &member.key)))
        }
        Message::Proposal(Signed { ballot, node, .. }, block) if *node == member.id() => {
            let state = member.state();
            let (time_ms, reveal) = (block.header.time_ms + 1, block.header.reveal);
            let build =
                |reveal| build_block(&state, *node, time_ms, reveal, block.transactions.iter().rev().cloned()).ok();
            // A lot that it likes better, and the block that goes with it if anybody takes such a lot.
            let liked = reveal.filter(|_| world.time.is_multiple_of(4)).map(|lot| Hash::of(Domain::Lot, &lot.0));
            let other = match liked {
                Some(_) => build(liked).map_or_else(|| with_lot(block, liked), |(other, _)| other),
                None => build(reveal)?.0,
            };
            let step = Step::Propose { pol_round: None };
            let ballot = Ballot { step, block: Some(other.id()), ..*ballot };
            (other.header.height == ballot.height)
                .then(|| Message::Proposal(ballot.sign(&network, &member.key), Arc::new(other)))
        }
        _ => None,
    }
}

/// The block with another lot.
fn with_lot(block: &Block, reveal: Option<Hash>) -> Block {
    Block { header: Header { reveal, ..block.header.clone() }, ..block.clone() }
}

/// A block that follows height `from - 1` and that nobody but the byzantine members has signed, in place of the true one.
pub fn forged_blocks(world: &mut World, peer: usize, from: u64) -> Option<Vec<(Arc<Block>, Certificate)>> {
    if world.members[peer].is_honest() || !world.chance(500) {
        return None;
    }
    let state = {
        let index = world.members[peer].index.borrow();
        index.heads.get(from as usize - 1).map(|(_, state)| state.clone())?
    };
    // In the name of who made the true one, with its lot.
    let block = world.members[peer].running.as_ref()?.blocks().block(from).map(|(block, _)| block);
    let (proposer, reveal) = match &block {
        Some(block) => (block.header.proposer, block.header.reveal),
        None => (state.validators().0.first()?.node, None),
    };
    let (block, _) = build_block(&state, proposer, state.time_ms() + 777, reveal, std::iter::empty()).ok()?;
    let ballot = Ballot { height: from, round: 0, step: Step::Precommit, block: Some(block.id()) };
    let liars = world.members.iter().filter(|member| !member.is_honest());
    let mut signatures: Vec<_> =
        liars.map(|liar| (liar.id(), ballot.sign(&world.network_id, &liar.key).signature)).collect();
    signatures.sort_by_key(|(node, _)| *node);
    signatures.dedup_by_key(|(node, _)| *node);
    let certificate = Certificate { height: from, round: 0, block: block.id(), signatures };
    Some(vec![(Arc::new(block), certificate)])
}
