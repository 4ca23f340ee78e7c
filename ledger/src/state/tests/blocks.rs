use super::*;
use crate::Block;
use std::collections::BTreeMap;

fn funded() -> Ledger {
    let mut ledger = Ledger::new(5, |_| {});
    ledger.fund(wallet(0), ALC(100));
    ledger
}

fn next(ledger: &Ledger, transactions: Vec<Transaction>) -> (Block, Executed) {
    let proposer = ledger.state.validators().0[0].node;
    build_block(&ledger.state, proposer, ledger.state.time_ms() + 1000, None, transactions.into_iter()).unwrap()
}

#[test]
fn a_block_with_any_wrong_field_is_refused() {
    let ledger = funded();
    let (good, _) = next(&ledger, vec![ledger.transfer(0, 1, ALC(1))]);
    assert!(execute_block(&ledger.state, &good).is_ok());
    let refused = |change: &dyn Fn(&mut Block)| {
        let mut block = good.clone();
        change(&mut block);
        execute_block(&ledger.state, &block).err().expect("must be refused")
    };
    let wrong = Hash([1; 32]);
    assert_eq!(refused(&|b| b.header.network = wrong), InvalidBlock::Network(wrong));
    assert_eq!(refused(&|b| b.header.parent = wrong), InvalidBlock::Parent { expected: Hash::ZERO, got: wrong });
    let frame = |reason| InvalidBlock::Frame(reason);
    assert_eq!(refused(&|b| b.header.height = 2), frame(Rejection::BadHeight { expected: 1, got: 2 }));
    let parent_ms = ledger.state.time_ms();
    assert_eq!(refused(&|b| b.header.time_ms = parent_ms), frame(Rejection::NotLater { parent_ms }));
    assert_eq!(refused(&|b| b.header.proposer = *stranger(0).public()), frame(Rejection::NotProposer));
    for what in ["transaction root", "state root", "validator set", "next validator set"] {
        let got = refused(&|b| {
            *match what {
                "transaction root" => &mut b.header.transactions_root,
                "state root" => &mut b.header.state_root,
                "validator set" => &mut b.header.validators,
                _ => &mut b.header.next_validators,
            } = wrong
        });
        assert!(matches!(got, InvalidBlock::Mismatch { what: w, .. } if w == what), "{what}: {got}");
    }
    let with = |transactions: Vec<Transaction>| {
        move |block: &mut Block| {
            block.header.transactions_root = crate::block::transactions_root(&transactions);
            block.transactions = transactions.clone();
        }
    };
    let mut forged = good.transactions[0].clone();
    forged.unsigned.time_ms += 1;
    assert_eq!(refused(&with(vec![forged])), InvalidBlock::Signature(0));
    let twice = vec![good.transactions[0].clone(), good.transactions[0].clone()];
    let reason = Rejection::BadNonce { expected: 1, got: 0 };
    assert_eq!(refused(&with(twice)), InvalidBlock::Transaction { index: 1, reason });
    assert!(matches!(refused(&with(vec![])), InvalidBlock::Mismatch { what: "state root", .. }));
}

#[test]
fn the_state_root_does_not_depend_on_the_block_it_stands_in_but_the_next_one_does() {
    let ledger = funded();
    let (block, executed) = next(&ledger, vec![]);
    assert_eq!(executed.state.last_block(), block.id());
    assert_eq!(executed.state.root(), block.header.state_root);
    let elsewhere = Executed { state: executed.state.clone(), events: vec![], writes: vec![] }.seal(Hash([1; 32]));
    assert_eq!(elsewhere.state.root(), executed.state.root());
    let seed = |state: &State| {
        let context = BlockContext {
            height: 2,
            time_ms: state.time_ms() + 1,
            proposer: state.validators().0[0].node,
            reveal: None,
        };
        Executor::begin(state, context).unwrap().finish().state.seed()
    };
    assert_ne!(seed(&executed.state), seed(&elsewhere.state));
}

#[test]
fn the_writes_of_blocks_add_up_to_the_entries_and_restore_the_state() {
    let mut ledger = funded();
    let mut index: BTreeMap<Vec<u8>, Vec<u8>> = ledger.state.entries().collect();
    for i in 0..6 {
        let transfers = vec![ledger.transfer(0, 1, ALC(1)), ledger.stake(1, Amount(1000))];
        let transfers = [transfers, ledger.heartbeats(0..5), vec![ledger.attest(2, i), ledger.attest(3, i)]].concat();
        let (block, executed) = next(&ledger, transfers);
        assert!(!block.transactions.is_empty());
        for (key, entry) in executed.writes {
            match entry {
                Some(entry) => drop(index.insert(key, entry)),
                None => drop(index.remove(&key)),
            }
        }
        ledger.state = executed.state;
    }
    assert_eq!(index, ledger.state.entries().collect());
    let restored = State::restore(&ledger.genesis, index.clone().into_iter()).unwrap();
    assert_eq!((restored.root(), restored.last_block()), (ledger.state.root(), ledger.state.last_block()));
    let (block, _) = next(&ledger, ledger.heartbeats(0..5));
    assert!(execute_block(&restored, &block).is_ok(), "the restored state goes on alike");

    let chain = canonical::encode(&Key::Chain);
    let mut damaged = index.clone();
    let entry = damaged.remove(&chain).unwrap();
    let restore =
        |entries: BTreeMap<Vec<u8>, Vec<u8>>| State::restore(&ledger.genesis, entries.into_iter()).err().unwrap();
    assert!(matches!(restore(damaged.clone()), RestoreError::Missing(Key::Chain)));
    damaged.insert(canonical::encode(&Key::Supply), entry);
    assert!(matches!(restore(damaged.clone()), RestoreError::Misplaced(Key::Supply)));
    damaged.insert(chain, vec![1, 2, 3]);
    assert!(matches!(restore(damaged), RestoreError::Misplaced(_) | RestoreError::Codec(_)));
}

#[test]
fn every_entry_is_proved_by_the_root_and_a_missing_one_too() {
    let mut ledger = funded();
    ledger.block(vec![ledger.transfer(0, 1, ALC(1))]);
    let root = ledger.state.root();
    for key in ledger.state.entries.keys().filter(|key| **key != Key::Tip) {
        let (entry, proof) = ledger.state.prove(key);
        let bytes = canonical::encode(entry.unwrap());
        assert!(proof.verify(&root, &canonical::encode(key), Some(&bytes)));
    }
    let missing = Key::Account(Address([3; 20]));
    let (entry, proof) = ledger.state.prove(&missing);
    assert!(entry.is_none() && proof.verify(&root, &canonical::encode(&missing), None));
}

/// These roots also depend on the genesis' bytes: a parameter that is added or changed makes another network.
#[test]
fn a_known_history_has_a_known_root() {
    let mut ledger = funded();
    let first = State::genesis(&ledger.genesis).root();
    ledger.open_round(0..5);
    ledger.block(vec![ledger.transfer(0, 1, ALC(1)), ledger.commit(1)]);
    ledger.block(vec![ledger.stake(0, ALC(20)), ledger.attest(3, ledger.state.height())]);
    ledger.pass(120_000);
    assert_eq!(
        [first, ledger.state.root()].map(|root| root.to_string()),
        [
            "2fdf5d02de9ffd808e8a9632a64cfda5e96acd79af3ec13b4635c0b58b8718bf",
            "0eeb9aa14c94de5536437c4d7d8c42bde31a6cdcbaef3dfc9a6e57efc328e5da"
        ]
    );
}

#[test]
fn a_built_block_is_later_than_its_parent_whatever_the_clock_says() {
    let ledger = funded();
    let proposer = ledger.state.validators().0[0].node;
    let (block, _) = build_block(&ledger.state, proposer, 5, None, std::iter::empty()).unwrap();
    assert_eq!(block.header.time_ms, ledger.state.time_ms() + 1);
    let stranger = build_block(&ledger.state, *stranger(0).public(), 5, None, std::iter::empty());
    assert_eq!(stranger.err(), Some(Rejection::NotProposer));
}

#[test]
fn rejections_have_codes_and_say_what_to_do() {
    let reason = Rejection::TooFewActive { eligible: 3, needed: 10 };
    assert_eq!(reason.code(), "TOO_FEW_ACTIVE");
    assert_eq!(
        reason.to_string(),
        "3 nodes could confirm this transfer, 10 are needed: wait until more nodes hold a seat"
    );
}
