#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    Body,
    block::{Validator, prove_transaction},
    consensus::{Ballot, Step},
    state::testing::{Ledger, node_key, wallet, wallet_key},
};
use ailo_protocol::{Amount, Keypair, Signature};

/// Founders, all of whom validate; four of them are less than a third.
const FOUNDERS: u8 = 13;
/// The time on the client's clock, unless a test says otherwise: after every block.
const NOW_MS: u64 = 1_000_060_000;

/// A ledger whose validators change half way from all founders to the four with stake.
struct Chain {
    ledger: Ledger,
    lights: Vec<LightBlock>,
}

fn signature(network: &Hash, block: &Header, key: &Keypair) -> (NodeId, Signature) {
    let ballot = Ballot { height: block.height, round: 0, step: Step::Precommit, block: Some(block.id()) };
    (*key.public(), ballot.sign(network, key).signature)
}

fn certify(network: &Hash, header: &Header, signers: impl Iterator<Item = u8>) -> Certificate {
    let mut signatures: Vec<_> = signers.map(|i| signature(network, header, &node_key(i))).collect();
    signatures.sort();
    Certificate { height: header.height, round: 0, block: header.id(), signatures }
}

impl Chain {
    /// Twenty blocks; the tenth stakes, so from the eleventh on the four decide.
    fn new() -> Chain {
        let mut ledger = Ledger::new(FOUNDERS, |params| params.ledger.max_gap_ms = 10_000);
        (0..4).for_each(|i| ledger.fund(wallet(i), Amount::alc(1000)));
        let mut chain = Chain { ledger, lights: Vec::new() };
        for height in 1..=20u64 {
            let ledger = &chain.ledger;
            let transactions = match height {
                5 => (0..3).map(|i| ledger.transfer(i, i + 1, Amount::alc(1))).collect(),
                10 => (0..4).map(|i| stake(ledger, i)).collect(),
                _ => vec![],
            };
            chain.extend(transactions);
        }
        chain
    }

    fn network(&self) -> Hash {
        self.ledger.state.network()
    }

    fn extend(&mut self, transactions: Vec<Transaction>) {
        let validators = self.ledger.state.validators().clone();
        let block = self.ledger.block(transactions);
        let signers = (0..FOUNDERS).filter(|i| validators.power(node_key(*i).public()) > 0);
        let certificate = certify(&self.network(), &block.header, signers);
        let next_validators = self.ledger.state.validators().clone();
        self.lights.push(LightBlock { header: block.header, certificate, validators, next_validators });
    }

    fn light(&self, height: u64) -> LightBlock {
        self.lights[height as usize - 1].clone()
    }

    fn checkpoint(&self, height: u64) -> Checkpoint {
        Checkpoint { height, block: self.light(height).header.id() }
    }

    fn at_genesis(&self) -> LightClient {
        LightClient::from_genesis(&self.ledger.genesis)
    }

    fn at(&self, height: u64) -> LightClient {
        let (checkpoint, block) = (self.checkpoint(height), self.light(height));
        LightClient::from_checkpoint(&self.ledger.genesis, checkpoint, &block, NOW_MS).unwrap()
    }

    /// Follows to `height`, going half way where it must; the blocks that were asked for.
    fn follow(&self, client: &mut LightClient, height: u64) -> Vec<u64> {
        let (mut waiting, mut asked) = (vec![height], vec![height]);
        while let Some(next) = waiting.last() {
            match client.advance(&self.light(*next), NOW_MS).unwrap() {
                Advance::Reached => drop(waiting.pop()),
                Advance::TooFar { between } => {
                    asked.push(between);
                    waiting.push(between);
                }
            }
        }
        assert_eq!(client.head().unwrap().checkpoint(), self.checkpoint(height));
        asked
    }

    /// The newest header, verified.
    fn head(&self) -> Verified {
        let mut client = self.at(19);
        assert_eq!(client.advance(&self.light(20), NOW_MS).unwrap(), Advance::Reached);
        client.head().unwrap().clone()
    }

    fn prove(&self, key: &Key) -> (Option<Vec<u8>>, Vec<u8>) {
        let (entry, proof) = self.ledger.state.prove(key);
        (entry.map(canonical::encode), canonical::encode(&proof))
    }
}

fn stake(ledger: &Ledger, i: u8) -> Transaction {
    ledger.sign(&wallet_key(i), Body::Stake { node: *node_key(i).public(), amount: Amount::alc(150) })
}

#[test]
fn a_checkpoint_is_written_as_height_and_id_and_nothing_else_is_one() {
    let checkpoint = Checkpoint { height: 7, block: Hash([3; 32]) };
    assert_eq!(checkpoint.to_string().parse(), Ok(checkpoint));
    let id = "03".repeat(32);
    for wrong in ["", "7", "7:", ":", &id, &format!("0:{id}"), &format!("-1:{id}"), &format!("7:{id}0")] {
        let refused = wrong.parse::<Checkpoint>().unwrap_err();
        assert!(refused.to_string().contains("HEIGHT:ID"), "{refused}");
    }
}

#[test]
fn headers_are_reached_from_genesis_and_from_a_checkpoint_block_by_block_or_by_skipping() {
    let chain = Chain::new();
    let mut client = chain.at_genesis();
    for height in 1..=20 {
        assert_eq!(chain.follow(&mut client, height), [height], "adjacent");
    }
    assert_eq!(client.standing(), Standing::NoCheckpoint);

    let mut client = chain.at_genesis();
    assert_eq!(chain.follow(&mut client, 9), [9], "the founders decide them all: one step");
    let mut client = chain.at(2);
    assert_eq!(client.standing(), Standing::Anchored(chain.checkpoint(2)));
    let asked = chain.follow(&mut client, 20);
    assert!(asked.contains(&10) && asked.len() < 10, "the way leads over the change of validators: {asked:?}");
    assert_eq!(client.standing(), Standing::Anchored(chain.checkpoint(2)));
    let mut client = chain.at(11);
    assert_eq!(chain.follow(&mut client, 20), [20]);
}

#[test]
fn a_checkpoint_outside_the_trust_period_anchors_nothing() {
    let chain = Chain::new();
    let (genesis, checkpoint, block) = (&chain.ledger.genesis, chain.checkpoint(3), chain.light(3));
    let trust_ms = genesis.params.ledger.trust_ms;
    let at = |now_ms| LightClient::from_checkpoint(genesis, checkpoint, &block, now_ms).unwrap();
    let end = block.header.time_ms + trust_ms;
    assert_eq!(at(end - 1).standing(), Standing::Anchored(checkpoint));
    assert_eq!(at(end).standing(), Standing::Expired(checkpoint, 0));
    let mut late = at(end - 1);
    assert_eq!(late.advance(&chain.light(4), end + 5).unwrap(), Advance::Reached);
    assert_eq!(late.standing(), Standing::Expired(checkpoint, 5), "the clock went on");
    let mut stale = at(end + 1);
    assert_eq!(stale.advance(&chain.light(4), end + 1).unwrap(), Advance::Reached, "it verifies nevertheless");
    assert_eq!(stale.standing(), Standing::Expired(checkpoint, 1), "a newer header makes it no better");
}

#[test]
fn a_checkpoint_is_met_by_its_own_block_alone() {
    let chain = Chain::new();
    let start = |checkpoint, block: &LightBlock, now_ms| {
        LightClient::from_checkpoint(&chain.ledger.genesis, checkpoint, block, now_ms).map(|_| ())
    };
    let (checkpoint, block) = (chain.checkpoint(3), chain.light(3));
    assert!(start(checkpoint, &block, NOW_MS).is_ok());
    let other = start(checkpoint, &chain.light(4), NOW_MS);
    assert!(matches!(other, Err(LightError::NotTheCheckpoint { .. })));
    let higher = start(Checkpoint { height: 4, ..checkpoint }, &block, NOW_MS);
    assert!(matches!(higher, Err(LightError::NotTheCheckpoint { .. })));
    let mut swapped = block.clone();
    swapped.next_validators = chain.light(15).validators;
    assert!(matches!(start(checkpoint, &swapped, NOW_MS), Err(LightError::Validators { height: 3, .. })));
    assert!(matches!(start(checkpoint, &block, 5), Err(LightError::FromFuture { height: 3, .. })));
    let mut foreign = block;
    foreign.header.network = Hash([8; 32]);
    let checkpoint = Checkpoint { height: 3, block: foreign.header.id() };
    assert!(matches!(start(checkpoint, &foreign, NOW_MS), Err(LightError::Network { height: 3, .. })));
}

/// What becomes of block `height`, changed and certified anew by `signers`, for a client that trusts block 2.
fn forged(chain: &Chain, height: u64, signers: &[u8], change: &dyn Fn(&mut LightBlock)) -> Result<Advance, LightError> {
    let mut block = chain.light(height);
    change(&mut block);
    block.certificate = certify(&chain.network(), &block.header, signers.iter().copied());
    let mut client = chain.at(2);
    let outcome = client.advance(&block, NOW_MS);
    assert_eq!(client.height(), if matches!(outcome, Ok(Advance::Reached)) { height } else { 2 });
    outcome
}

const ALL: [u8; FOUNDERS as usize] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

#[test]
fn a_header_whose_frame_is_wrong_is_refused_even_if_everybody_signed_it() {
    let chain = Chain::new();
    assert!(matches!(forged(&chain, 3, &ALL, &|_| ()), Ok(Advance::Reached)));
    for height in [3, 9] {
        let foreign = forged(&chain, height, &ALL, &|b| b.header.network = Hash([8; 32]));
        assert!(matches!(foreign, Err(LightError::Network { .. })));
        let earlier = forged(&chain, height, &ALL, &|b| b.header.time_ms = chain.light(2).header.time_ms);
        assert!(matches!(earlier, Err(LightError::NotLater { .. })));
        let future = forged(&chain, height, &ALL, &|b| b.header.time_ms = NOW_MS + 30_001);
        assert!(matches!(future, Err(LightError::FromFuture { ahead_ms: 30_001, .. })));
        let other_set = chain.light(15).validators;
        let swapped = forged(&chain, height, &[0, 1, 2, 3], &|b| b.validators = other_set.clone());
        assert!(matches!(swapped, Err(LightError::Validators { which: "validators", .. })));
        let next = forged(&chain, height, &ALL, &|b| b.next_validators = other_set.clone());
        assert!(matches!(next, Err(LightError::Validators { which: "next validators", .. })));
    }
    let orphan = forged(&chain, 3, &ALL, &|b| b.header.parent = Hash([8; 32]));
    assert!(matches!(orphan, Err(LightError::NotTheChild { height: 3, parent: 2 })));
    for height in [1, 2] {
        assert!(matches!(forged(&chain, height, &ALL, &|_| ()), Err(LightError::NotNewer { trusted: 2, .. })));
    }
}

#[test]
fn a_certificate_of_too_little_power_of_others_or_of_another_network_is_refused() {
    let chain = Chain::new();
    let offer = |block: &LightBlock| chain.at(2).advance(block, NOW_MS);
    for height in [3, 9] {
        assert!(matches!(forged(&chain, height, &ALL[..9], &|_| ()), Ok(Advance::Reached)), "9 of 13 are enough");
        let few = forged(&chain, height, &ALL[..8], &|_| ());
        assert!(matches!(few, Err(LightError::Certificate { reason: BadCertificate::Power { .. }, .. })));
        let stranger = forged(&chain, height, &[&ALL[..], &[50]].concat(), &|_| ());
        assert!(matches!(stranger, Err(LightError::Certificate { reason: BadCertificate::Stranger(_), .. })));

        let mut block = chain.light(height);
        block.certificate = certify(&Hash([8; 32]), &block.header, ALL.into_iter());
        let foreign = offer(&block);
        assert!(matches!(foreign, Err(LightError::Certificate { reason: BadCertificate::Signature(_), .. })));
        block.certificate = chain.light(height + 1).certificate;
        assert!(matches!(offer(&block), Err(LightError::OtherCertificate { .. })));
        block.certificate.height = height;
        assert!(matches!(offer(&block), Err(LightError::OtherCertificate { .. })));
        let mut changed = chain.light(height);
        changed.header.state_root = Hash([8; 32]);
        assert!(matches!(offer(&changed), Err(LightError::OtherCertificate { .. })));
    }
}

#[test]
fn validators_that_nobody_trusted_chose_are_believed_at_no_distance() {
    let chain = Chain::new();
    let strangers: Vec<u8> = (60..64).collect();
    let usurp = |extra: &[u8]| {
        let keys = strangers.iter().chain(extra);
        let set = keys.map(|i| Validator { node: *node_key(*i).public(), power: 1 });
        let set = ValidatorSet(set.collect());
        move |block: &mut LightBlock| {
            let set = ValidatorSet::clone(&set);
            (block.header.validators, block.header.next_validators) = (set.hash(), set.hash());
            (block.validators, block.next_validators) = (set.clone(), set);
        }
    };
    let adjacent = forged(&chain, 3, &strangers, &usurp(&[]));
    assert!(matches!(adjacent, Err(LightError::Validators { height: 3, which: "validators" })));
    for height in 4..10 {
        // Up to four of thirteen, which is less than a third, may help them.
        for helpers in 0..=4 {
            let helpers = &ALL[..helpers];
            let outcome = forged(&chain, height, &[&strangers[..], helpers].concat(), &usurp(helpers));
            assert_eq!(outcome.unwrap(), Advance::TooFar { between: 2 + (height - 2) / 2 });
        }
    }
    let improper: [&dyn Fn(&mut ValidatorSet); 4] = [
        &|set| set.0.clear(),
        &|set| set.0[0].power = 0,
        &|set| set.0.iter_mut().for_each(|validator| validator.power = u64::MAX),
        &|set| set.0[1] = set.0[0],
    ];
    for change in improper {
        let outcome = forged(&chain, 9, &ALL, &|block| {
            change(&mut block.validators);
            block.header.validators = block.validators.hash();
        });
        assert!(matches!(outcome, Err(LightError::ImproperSet { height: 9 })), "{outcome:?}");
    }
}

#[test]
fn an_account_a_node_and_the_model_are_what_the_state_holds_and_nothing_else() {
    let chain = Chain::new();
    let (head, state) = (chain.head(), &chain.ledger.state);
    let (account, node) = (Key::Account(wallet(0)), Key::Node(*node_key(0).public()));
    let (entry, proof) = chain.prove(&account);
    let shown = head.account(&wallet(0), entry.as_deref(), &proof).unwrap().unwrap();
    assert_eq!(*shown, state.account(&wallet(0)));
    let (node_entry, node_proof) = chain.prove(&node);
    let shown = head.node(node_key(0).public(), node_entry.as_deref(), &node_proof).unwrap().unwrap();
    assert_eq!(Some(&*shown), state.node(node_key(0).public()));
    let (model, model_proof) = chain.prove(&Key::Model);
    assert_eq!(*head.model(&model.clone().unwrap(), &model_proof).unwrap(), *state.model());

    let absent = wallet(90);
    let (nothing, absence) = chain.prove(&Key::Account(absent));
    assert_eq!(nothing, None);
    assert!(head.account(&absent, None, &absence).unwrap().is_none());

    let refused = |outcome: Result<_, LightError>| assert!(matches!(outcome, Err(LightError::Proof { .. })));
    let mut richer = state.account(&wallet(0));
    richer.free = Amount::alc(1_000_000);
    let richer = canonical::encode(&Entry::Account(Arc::new(richer)));
    refused(head.account(&wallet(0), Some(&richer), &proof).map(drop)); // wrong value
    refused(head.account(&wallet(1), entry.as_deref(), &proof).map(drop)); // proof of another key
    refused(head.account(&wallet(0), None, &proof).map(drop)); // present, claimed absent
    refused(head.account(&wallet(0), None, &absence).map(drop));
    refused(head.account(&absent, entry.as_deref(), &absence).map(drop)); // absent, claimed present
    refused(head.account(&absent, entry.as_deref(), &proof).map(drop));
    refused(head.node(node_key(0).public(), entry.as_deref(), &proof).map(drop));
    refused(head.model(&entry.unwrap(), &proof).map(drop));
    let older = chain.at(19).head().unwrap().clone();
    refused(older.model(&model.unwrap(), &model_proof).map(drop)); // of another block
    for junk in [vec![], vec![0xff; 40], vec![0; MAX_PROOF_BYTES + 1]] {
        assert!(matches!(head.account(&absent, None, &junk), Err(LightError::Codec(_))));
    }
    let (_, tip) = chain.prove(&Key::Tip);
    assert!(matches!(head.entry(&Key::Tip, None, &tip), Err(LightError::Tip)));
}

#[test]
fn a_transaction_is_shown_in_its_own_block_and_in_no_other() {
    let chain = Chain::new();
    let transactions = &chain.ledger.blocks[4].transactions;
    let fifth = chain.at(5).head().unwrap().clone();
    for (i, transaction) in transactions.iter().enumerate() {
        let proof = canonical::encode(&prove_transaction(transactions, i).unwrap());
        let (id, bytes) = (transaction.id(), transaction.encode());
        assert_eq!(fifth.transaction(&id, &bytes, &proof).unwrap(), *transaction);
        let refused = |outcome| assert!(matches!(outcome, Err(LightError::Proof { .. })));
        let other = &transactions[(i + 1) % transactions.len()];
        refused(fifth.transaction(&other.id(), &bytes, &proof));
        refused(fifth.transaction(&other.id(), &other.encode(), &proof));
        refused(chain.at(6).head().unwrap().transaction(&id, &bytes, &proof));
        let never = chain.ledger.transfer(0, 1, Amount::alc(99));
        refused(fifth.transaction(&never.id(), &never.encode(), &proof));
        let mut signed_otherwise = transaction.clone();
        signed_otherwise.signature.0[0] ^= 1;
        refused(fifth.transaction(&id, &signed_otherwise.encode(), &proof));
        assert!(matches!(fifth.transaction(&id, &bytes[1..], &proof), Err(LightError::Codec(_))));
        assert!(matches!(fifth.transaction(&id, &bytes, &[]), Err(LightError::Codec(_))));
    }
}

#[test]
fn blocks_older_than_the_checkpoint_are_reached_by_their_parents_alone() {
    let chain = Chain::new();
    let mut at = chain.at(10).head().unwrap().clone();
    for height in (1..10).rev() {
        let header = chain.light(height).header;
        let mut forged = header.clone();
        forged.state_root = Hash([8; 32]);
        assert!(matches!(at.parent(forged), Err(LightError::NotTheChild { .. })));
        if height > 1 {
            let skipped = at.parent(chain.light(height - 1).header);
            assert!(matches!(skipped, Err(LightError::NotTheChild { .. })));
        }
        at = at.parent(header).unwrap();
        assert_eq!(at.checkpoint(), chain.checkpoint(height));
    }
}

#[test]
fn a_light_block_survives_the_wire_and_the_largest_fits() {
    let chain = Chain::new();
    let mut block = chain.light(10);
    assert_eq!(LightBlock::decode(&block.encode()).unwrap(), block);
    let set = ValidatorSet(vec![block.validators.0[0]; MAX_VALIDATORS]);
    (block.validators, block.next_validators) = (set.clone(), set);
    block.certificate.signatures = vec![block.certificate.signatures[0]; MAX_VALIDATORS];
    assert!(LightBlock::decode(&block.encode()).is_ok());
}
