use super::*;
use crate::{Block, lots::link};
use ailo_protocol::params::Params;

/// Four founders, of whom the second makes the blocks unless it is said, whose chains of `links` links count.
fn drawing(links: u32) -> Ledger {
    let mut ledger = Ledger::new(4, |params| params.ledger.lot_chain = links);
    ledger.block((0..4).map(|i| ledger.commit_lots(&node_key(i), 1)).collect());
    ledger.pass(120_000);
    assert!((0..4).all(|i| ledger.due(i).is_some()));
    ledger
}

impl Ledger {
    fn due(&self, i: u8) -> Option<LotChainLeft> {
        self.state.lot_due(node_key(i).public())
    }

    /// The founder `i`'s next block, with this lot or its true one.
    fn made_by(
        &self,
        i: u8,
        after_ms: u64,
        lot: Option<Option<Hash>>,
        transactions: Vec<Transaction>,
    ) -> Result<(Block, Executed), Rejection> {
        let context = self.context_of(*node_key(i).public(), after_ms);
        let lot = lot.unwrap_or(context.reveal);
        build_block(&self.state, context.proposer, context.time_ms, lot, transactions.into_iter())
    }

    fn go_on_with(&mut self, i: u8) -> Block {
        let (block, executed) = self.made_by(i, 1000, None, Vec::new()).unwrap();
        self.state = executed.state;
        block
    }

    fn in_epochs(&mut self, epochs: u64) {
        let ms = self.state.params().ledger.epoch_ms;
        self.pass(epochs * ms - self.state.age_ms() % ms);
    }
}

#[test]
fn what_a_block_holds_and_when_it_comes_does_not_move_the_seed() {
    let mut ledger = drawing(16);
    (0..2).for_each(|i| ledger.fund(wallet(i), ALC(100)));
    let (a, b) = (ledger.transfer(0, 1, ALC(1)), ledger.stake(1, Amount(1000)));
    let mut seeds = std::collections::BTreeSet::new();
    let mut ids = std::collections::BTreeSet::new();
    for transactions in [vec![], vec![a.clone()], vec![a.clone(), b.clone()], vec![b, a]] {
        // Another time is that of another round.
        for after_ms in [1, 1000, 2000, 59_000] {
            let (block, executed) = ledger.made_by(2, after_ms, None, transactions.clone()).unwrap();
            seeds.insert(executed.state.seed());
            ids.insert(block.id());
            assert!(execute_block(&ledger.state, &block).is_ok());
        }
    }
    assert!(seeds.len() == 1 && ids.len() > 8, "{} seeds of {} blocks", seeds.len(), ids.len());
    let (_, other) = ledger.made_by(3, 1000, None, vec![]).unwrap();
    assert!(!seeds.contains(&other.state.seed()), "another proposer has another lot");
}

#[test]
fn a_block_reveals_the_next_link_and_nothing_else() {
    let mut ledger = drawing(16);
    let true_lot = ledger.context_of(*node_key(1).public(), 1000).reveal.unwrap();
    assert_eq!(link(&true_lot), ledger.due(1).unwrap().tip);
    let of_another = ledger.context_of(*node_key(2).public(), 1000).reveal;
    let skipped = ledger.lots_of(&node_key(1), 1).reveal(15);
    let other_chain = ledger.lots_of(&node_key(1), 2).reveal(16);
    for lot in [of_another, skipped, other_chain, Some(Hash([1; 32])), Some(ledger.due(1).unwrap().tip)] {
        assert_eq!(ledger.made_by(1, 1000, Some(lot), vec![]).err(), Some(Rejection::BadLot));
    }
    assert_eq!(ledger.made_by(1, 1000, Some(None), vec![]).err(), Some(Rejection::NoLot));
    let (mut block, _) = ledger.made_by(1, 1000, None, vec![]).unwrap();
    block.header.reveal = Some(Hash([1; 32]));
    let refused = execute_block(&ledger.state, &block).err();
    assert_eq!(refused, Some(InvalidBlock::Frame(Rejection::BadLot)));

    let seed = ledger.state.seed();
    let block = ledger.go_on_with(1);
    let expected = Hash::of_parts(ailo_protocol::hash::Domain::Lot, &[&seed.0, &true_lot.0]);
    assert_eq!((block.header.reveal, ledger.state.seed()), (Some(true_lot), expected));
    let due = ledger.due(1).unwrap();
    assert_eq!((due.tip, due.left), (true_lot, 15));
    assert_eq!(ledger.made_by(1, 1000, Some(Some(true_lot)), vec![]).err(), Some(Rejection::BadLot), "it was used");
}

#[test]
fn who_has_no_chain_reveals_nothing_and_moves_the_seed_by_nothing_of_its_own() {
    let mut ledger = Ledger::new(4, |_| {});
    assert_eq!(ledger.made_by(1, 1000, Some(Some(Hash([1; 32]))), vec![]).err(), Some(Rejection::LotNotDue));
    ledger.fund(wallet(0), ALC(100));
    let seeds = |ledger: &Ledger| {
        let heads = [vec![], vec![ledger.transfer(0, 1, ALC(1))]].map(|transactions| {
            let (_, executed) = ledger.made_by(1, 1000, None, transactions).unwrap();
            let next = Ledger { state: executed.state, ..Ledger::new(4, |_| {}) };
            next.made_by(1, 1000, None, vec![]).unwrap().1.state.seed()
        });
        heads[0] == heads[1]
    };
    assert!(!seeds(&ledger), "as long as nobody has a chain, the blocks themselves make the seed");
    ledger.block(vec![ledger.commit_lots(&node_key(3), 1)]);
    ledger.in_epochs(2);
    assert!(ledger.due(3).is_some() && ledger.due(1).is_none());
    assert!(seeds(&ledger), "from then on nobody can grind it, whether or not it has a chain itself");
}

#[test]
fn a_chain_counts_two_epochs_after_its_commit_and_can_not_be_exchanged() {
    let mut ledger = Ledger::new(4, |_| {});
    ledger.block(vec![ledger.commit_lots(&node_key(2), 1)]);
    assert_eq!(ledger.refusal(&ledger.commit_lots(&node_key(2), 2)), Rejection::LotsCommitted);
    ledger.in_epochs(1);
    assert_eq!((ledger.state.epoch(), ledger.due(2)), (1, None));
    assert_eq!(ledger.refusal(&ledger.commit_lots(&node_key(2), 2)), Rejection::LotsCommitted);
    // The block that begins the epoch does not know yet that it does: its time would be a choice.
    let gap = 60_000 - ledger.state.age_ms() % 60_000;
    let (block, executed) = ledger.made_by(2, gap, None, vec![]).unwrap();
    assert_eq!((block.header.reveal, executed.state.epoch()), (None, 2));
    ledger.state = executed.state;
    assert_eq!(ledger.due(2).unwrap().left, 16);
    // It waits no more, but is not used up either.
    assert_eq!(ledger.refusal(&ledger.commit_lots(&node_key(2), 2)), Rejection::LotsCommitted);
    ledger.go_on_with(2);
    assert_eq!(ledger.refusal(&ledger.commit_lots(&node_key(2), 2)), Rejection::LotsLeft { left: 15, most: 4 });
}

#[test]
fn the_next_chain_is_committed_in_time_and_comes_after_the_last_link() {
    let mut ledger = drawing(4);
    let mut lots: Vec<Option<Hash>> = (0..3).map(|_| ledger.go_on_with(2).header.reveal).collect();
    assert_eq!(ledger.due(2).unwrap().left, 1);
    ledger.block(vec![ledger.commit_lots(&node_key(2), 2)]);
    ledger.in_epochs(2);
    assert_eq!(ledger.due(2).map(|due| (due.number, due.left)), Some((1, 1)), "the last link comes first");
    lots.push(ledger.go_on_with(2).header.reveal);
    assert_eq!(ledger.due(2).map(|due| (due.number, due.left)), Some((2, 4)));
    lots.extend((0..4).map(|_| ledger.go_on_with(2).header.reveal));
    let mut chains = [1, 2].map(|number| ledger.lots_of(&node_key(2), number));
    let expected: Vec<Option<Hash>> = (0..8u32).map(|i| chains[i as usize / 4].reveal(4 - i % 4)).collect();
    assert_eq!(lots, expected);
    // Without a next one there is a gap, and nothing to choose in it.
    assert_eq!((ledger.due(2), ledger.go_on_with(2).header.reveal), (None, None));
}

#[test]
fn only_who_may_propose_one_day_commits_lots() {
    let mut ledger = Ledger::new(1, |_| {});
    assert_eq!(ledger.refusal(&ledger.commit_lots(&stranger(0), 1)), Rejection::UnknownNode);
    ledger.block(vec![ledger.registration(&stranger(0), 0)]);
    assert_eq!(ledger.refusal(&ledger.commit_lots(&stranger(0), 1)), Rejection::LotsNotNeeded);
    ledger.fund(wallet(0), ALC(10));
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Stake { node: *stranger(0).public(), amount: ALC(1) })]);
    assert!(ledger.state.may_commit_lots(stranger(0).public()));
    ledger.block(vec![ledger.commit_lots(&stranger(0), 1)]);
}

#[test]
fn who_lapses_and_comes_back_has_no_chain_and_waits_again() {
    let edit = |params: &mut Params| (params.ledger.lapse_ms, params.ledger.unbonding_ms) = (200_000, 100_000);
    let mut ledger = Ledger::new(1, edit);
    let (node, id) = (stranger(0), *stranger(0).public());
    ledger.fund(wallet(0), ALC(10));
    ledger.block(vec![ledger.registration(&node, 0)]);
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Stake { node: id, amount: ALC(1) })]);
    ledger.block(vec![ledger.commit_lots(&node, 1)]);
    ledger.in_epochs(2);
    assert!(ledger.state.lot_due(&id).is_some());
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Unstake { node: id, amount: ALC(1) })]);
    ledger.pass(300_000);
    assert_eq!((ledger.state.node(&id), ledger.state.lots(&id)), (None, None));
    ledger.block(vec![ledger.registration(&node, 0)]);
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Stake { node: id, amount: ALC(1) })]);
    ledger.block(vec![ledger.commit_lots(&node, 2)]);
    assert_eq!(ledger.state.lot_due(&id), None);
    ledger.in_epochs(1);
    assert_eq!(ledger.state.lot_due(&id), None, "whatever it chose, two epochs lie between");
    ledger.in_epochs(1);
    assert!(ledger.state.lot_due(&id).is_some());
}

#[test]
fn a_slash_takes_no_chain_and_gives_none() {
    let mut ledger = drawing(16);
    let sign = |block: u8| {
        let ballot = crate::consensus::Ballot {
            height: 1,
            round: 0,
            step: crate::consensus::Step::Prevote,
            block: Some(Hash([block; 32])),
        };
        ballot.sign(&ledger.state.network(), &node_key(3))
    };
    let evidence = Evidence::Ballots { first: sign(1), second: sign(2) };
    let before = ledger.due(3);
    ledger.block(vec![ledger.sign(&node_key(0), Body::Evidence(evidence))]);
    assert!(ledger.founder(3).jailed_until.is_some());
    assert_eq!(ledger.due(3), before, "it goes on where it stood, when it comes back");
    assert_eq!(ledger.refusal(&ledger.commit_lots(&node_key(3), 2)), Rejection::LotsCommitted);
}

#[test]
fn the_committee_is_drawn_by_a_lot_that_who_closed_the_commits_did_not_know() {
    let mut ledger = drawing(16);
    ledger.open_round(0..4);
    let committees = |ledger: &Ledger| {
        (0..4)
            .map(|i| ledger.made_by(i, 1000, None, vec![]).unwrap().1.state.round().committee.clone())
            .collect::<std::collections::BTreeSet<_>>()
    };
    ledger.block(vec![ledger.commit(0), ledger.commit(1), ledger.commit(2)]);
    ledger.one_block(1000, vec![ledger.commit(3)]);
    assert_eq!(ledger.state.round().phase, Phase::Draw);
    assert!(ledger.state.round().committee.is_empty());
    assert_eq!(ledger.refusal(&ledger.commit(3)), Rejection::WrongPhase { phase: Phase::Draw });
    assert_eq!(committees(&ledger).len(), 1, "all four judge: `committee` is four");
    let mut ledger = Ledger::new(4, |params| params.round.committee = 1);
    ledger.block((0..4).map(|i| ledger.commit_lots(&node_key(i), 1)).collect());
    ledger.pass(120_000);
    ledger.open_round(0..4);
    ledger.one_block(1000, (0..4).map(|i| ledger.commit(i)).collect());
    assert!(committees(&ledger).len() > 1, "the next proposer's lot decides");
}

#[test]
fn a_committee_has_no_keys_that_are_younger_than_the_lots_were_known() {
    // Each of four strangers stakes more than a founder ever had, and validates from then on.
    let mut ledger = Ledger::new(4, |params| {
        params.round.committee = 2;
        params.ledger.lapse_ms = 10_000_000;
        (params.ledger.handover_validators, params.ledger.handover_stake) = (4, ALC(400));
    });
    (0..4).for_each(|i| ledger.fund(wallet(i), ALC(200)));
    ledger.in_epochs(3);
    ledger.block((0..3).map(|i| ledger.stake(i, ALC(100))).collect());
    ledger.block(vec![ledger.registration(&stranger(0), 3)]);
    ledger.block(vec![ledger.sign(&wallet_key(3), Body::Stake { node: *stranger(0).public(), amount: ALC(150) })]);
    assert!(ledger.state.validators().power(stranger(0).public()) > 0);
    assert!(!ledger.state.has_old_key(stranger(0).public()) && ledger.state.has_old_key(node_key(0).public()));
    let committee = |ledger: &mut Ledger| {
        ledger.pass(6_000);
        ledger.open_round(0..3);
        ledger.block((0..3).map(|i| ledger.commit(i)).collect());
        let committee = ledger.state.round().committee.clone();
        let end = ledger.state.round().deadline_age - ledger.state.round().phase_age + 1;
        ledger.pass(end);
        committee
    };
    for _ in 0..6 {
        assert!(!committee(&mut ledger).contains(stranger(0).public()));
    }
    ledger.in_epochs(2);
    assert!((0..20).any(|_| committee(&mut ledger).contains(stranger(0).public())), "two epochs later it may be drawn");
}

#[test]
fn a_stamp_is_good_for_the_epoch_it_was_made_in_and_the_next() {
    let mut ledger = Ledger::new(1, |params| params.ledger.stamp_bits = 12);
    let registration = ledger.registration(&stranger(0), 0);
    let body = registration.unsigned.body.clone();
    let late = |ledger: &Ledger| ledger.sign(&stranger(0), body.clone());
    ledger.in_epochs(1);
    assert_eq!(ledger.state.stamp_lots().count(), 2);
    assert!(ledger.takes(&late(&ledger)), "of the last epoch");
    ledger.in_epochs(1);
    assert_eq!(ledger.refusal(&late(&ledger)), Rejection::BadStamp { bits: 12 }, "of the one before that");
    assert!(ledger.takes(&ledger.registration(&stranger(0), 0)));
}

impl Ledger {
    /// Whether the transaction is taken in the next block.
    fn takes(&self, transaction: &Transaction) -> bool {
        let context = self.context_of(self.state.validators().0[0].node, 1000);
        Executor::begin(&self.state, context).unwrap().apply(transaction).is_ok()
    }
}
