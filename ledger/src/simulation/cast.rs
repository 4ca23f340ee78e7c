//! Who takes part: validators, followers and clients with keys that follow from their numbers, and the network that
//! they found. Times are short, so that a seed sees epochs, refunds, final transfers and whole training rounds.

use crate::state::{State, endow};
use ailo_protocol::{
    Address, Amount, Genesis, Hash, Keypair,
    genesis::{Dataset, Founder},
    hash::Domain,
    params::Params,
    presets,
};

/// The genesis' time, milliseconds since 1970 (UTC).
pub const GENESIS_MS: u64 = 1_000_000_000;
/// Coins that each wallet has at first, and what the first client has, who spends all that comes in.
const PURSE: Amount = Amount::alc(10_000);
const SPENDERS_PURSE: Amount = Amount::alc(20);
/// What a wallet stakes behind its node. All stake the same, so that whoever breaks the rules has no more than its part.
pub const STAKE: Amount = Amount::alc(400);

fn key(role: &str, number: usize) -> Keypair {
    Keypair::from_seed(Hash::of_parts(Domain::Lot, &[role.as_bytes(), &(number as u64).to_le_bytes()]).0)
}

/// The key of a member's node.
pub fn node_key(member: usize) -> Keypair {
    key("node", member)
}

/// The wallet that a member works for.
pub fn member_wallet_key(member: usize) -> Keypair {
    key("wallet", member)
}

/// The wallet of a client, who sends transfers and runs no node.
pub fn client_key(client: usize) -> Keypair {
    key("client", client)
}

/// The key that a wallet's `count`-th recovery gives it; wallets are numbered clients first.
pub fn rotated_key(wallet: usize, count: u64) -> Keypair {
    key(&format!("rotated {count}"), wallet)
}

/// The key that signs a wallet's recovery after `count` others.
pub fn recovery_key(wallet: usize, count: u64) -> Keypair {
    key(&format!("recovery {count}"), wallet)
}

/// A network of `validators` that order blocks and `followers` that do not; all are founders.
pub fn genesis(validators: usize, followers: usize) -> Genesis {
    let mut params: Params = presets::main();
    let ledger = &mut params.ledger;
    ledger.confirmations = 2.min((validators + followers) as u32);
    (ledger.pending_ms, ledger.final_ms) = (15_000, 30_000);
    (ledger.epoch_ms, ledger.stamp_bits, ledger.trust_ms) = (20_000, 4, 15_000);
    (ledger.dispute_ms, ledger.poll_ms, ledger.jail_ms, ledger.poll_delay_blocks) = (15_000, 10_000, 10_000, 3);
    // Longer than the faults, one after another: whoever is honest and has something to show gets it into a block.
    (ledger.unbonding_ms, ledger.evidence_ms, ledger.challenge_ms) = (100_000, 100_000, 40_000);
    // Founders hand over when all have staked, or all but a little that was slashed; then those that break the rules may be
    // jailed, and nobody needs them.
    ledger.handover_validators = (validators - super::tolerated(validators)).max(1) as u32;
    ledger.handover_stake = Amount(validators as u64 * STAKE.0 - STAKE.0 / 2);
    (ledger.heartbeat_ms, ledger.alive_ms) = (10_000, 30_000);
    // So short that chains of lots end, some before the next one counts.
    (ledger.lot_chain, ledger.seat_delay_epochs) = (4, 1);
    let round = &mut params.round;
    (round.target_participants, round.open_wait_ms) = (validators as u32, 2_000);
    (round.min_train_ms, round.max_train_ms, round.verify_ms, round.vote_ms) = (1_000, 4_000, 4_000, 4_000);
    (round.replay_ppm, round.replay_ms, round.vest_rounds, round.vest_ms) = (300_000, 6_000, 2, 15_000);
    let wallet = |i| Address::from(member_wallet_key(i).public());
    let founder = |i| Founder { node: *node_key(i).public(), wallet: wallet(i), validator: i < validators };
    let inference = &mut params.inference;
    (inference.receipt_ms, inference.withdraw_ms, inference.receipt_min) = (30_000, 30_000, Amount(20_000));
    Genesis {
        name: "simulation".into(),
        time_ms: GENESIS_MS,
        seed: 7,
        founders: (0..validators + followers).map(founder).collect(),
        dataset: Dataset { name: "none".into(), root: Hash::ZERO, tokens: 1_000_000, held_out: 100_000 },
        model_root: Hash([9; 32]),
        params,
    }
}

/// The state before the first block, with coins in the clients' and the members' wallets.
pub fn first_state(genesis: &Genesis, clients: usize) -> State {
    let mut state = State::genesis(genesis);
    for client in 0..clients {
        let purse = if client == 0 { SPENDERS_PURSE } else { PURSE };
        endow(&mut state, Address::from(client_key(client).public()), purse);
    }
    for founder in &genesis.founders {
        endow(&mut state, founder.wallet, PURSE);
    }
    state
}
