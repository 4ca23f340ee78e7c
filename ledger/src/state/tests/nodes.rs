use super::*;
use ailo_protocol::params::LedgerParams;

fn ledger(founders: u8, edit: impl FnOnce(&mut LedgerParams)) -> Ledger {
    Ledger::new(founders, |params| edit(&mut params.ledger))
}

impl Ledger {
    /// Registers strangers' nodes and stakes `amount` behind each, from the first founder's wallet.
    fn stake_strangers(&mut self, count: u8, amount: Amount) {
        self.fund(wallet(0), ALC(10_000));
        for i in 0..count {
            let node = stranger(i);
            self.block(vec![self.registration(&node, 0)]);
            self.block(vec![self.sign(&wallet_key(0), Body::Stake { node: *node.public(), amount })]);
        }
    }

    fn strangers_seated(&self, count: u8) -> usize {
        (0..count).filter(|i| self.holds_seat(&stranger(*i))).count()
    }

    /// Goes on to the next epoch.
    fn next_epoch(&mut self) {
        let epoch_ms = self.state.params().ledger.epoch_ms;
        self.pass(epoch_ms - self.state.age_ms() % epoch_ms);
    }
}

#[test]
fn a_registration_needs_its_own_stamp() {
    let ledger = ledger(1, |ledger| ledger.stamp_bits = 8);
    let (node, other) = (stranger(0), stranger(1));
    let good = ledger.registration(&node, 0);
    let Body::RegisterNode { stamp, consent, .. } = good.unsigned.body else { panic!() };
    for (key, wallet, stamp) in [(&other, wallet(0), stamp), (&node, wallet(1), stamp), (&node, wallet(0), stamp + 1)] {
        let tx = ledger.sign(key, Body::RegisterNode { wallet, stamp, consent });
        assert_eq!(ledger.refusal(&tx), Rejection::BadStamp { bits: 8 });
    }
    let mut ledger = ledger;
    ledger.block(vec![good]);
    assert_eq!(ledger.state.node(node.public()).unwrap().wallet, wallet(0));
}

#[test]
fn a_wallet_gets_no_node_that_it_did_not_consent_to() {
    let ledger = ledger(2, |ledger| ledger.stamp_bits = 0);
    let (node, network) = (stranger(0), ledger.state.network());
    let register = |consent| ledger.sign(&node, Body::RegisterNode { wallet: wallet(0), stamp: 0, consent });
    let good = Consent::sign(&network, node.public(), &wallet(0), &wallet_key(0));
    assert_eq!(register(good).verify(&network), Ok(()));
    let forged = [
        Consent::sign(&network, node.public(), &wallet(1), &wallet_key(0)),
        Consent::sign(&network, stranger(1).public(), &wallet(0), &wallet_key(0)),
        Consent::sign(&Hash([1; 32]), node.public(), &wallet(0), &wallet_key(0)),
        Consent { key: *wallet_key(1).public(), ..good },
    ];
    assert!(forged.into_iter().all(|consent| register(consent).verify(&network).is_err()));
    let of_another = Consent::sign(&network, node.public(), &wallet(0), &wallet_key(1));
    assert_eq!(ledger.refusal(&register(of_another)), Rejection::NoConsent);
}

#[test]
fn a_node_registers_once_and_is_bound_again_only_when_nothing_ties_it() {
    let mut ledger = ledger(2, |_| {});
    let node = stranger(0);
    ledger.block(vec![ledger.registration(&node, 0)]);
    assert_eq!(ledger.refusal(&ledger.registration(&node, 1)), Rejection::AlreadyRegistered);
    assert_eq!(ledger.refusal(&ledger.registration(&node_key(0), 1)), Rejection::AlreadyRegistered);
    let bind = |ledger: &Ledger, i: u8| ledger.sign(&node, bind_body(ledger, &node, i));
    assert_eq!(ledger.refusal(&bind(&ledger, 0)), Rejection::AlreadyRegistered);
    ledger.fund(wallet(0), ALC(20));
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Stake { node: *node.public(), amount: ALC(10) })]);
    assert_eq!(ledger.refusal(&bind(&ledger, 1)), Rejection::NodeTied, "stake ties it");
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Unstake { node: *node.public(), amount: ALC(10) })]);
    assert_eq!(ledger.refusal(&bind(&ledger, 1)), Rejection::NodeTied, "what unbonds can still be slashed");
    ledger.pass(ledger.state.params().ledger.unbonding_ms);
    ledger.block(vec![bind(&ledger, 1)]);
    assert_eq!(ledger.state.node(node.public()).unwrap().wallet, wallet(1));
    let back = ledger.sign(&wallet_key(0), Body::Stake { node: *node.public(), amount: ALC(1) });
    assert_eq!(ledger.refusal(&back), Rejection::NotYourNode);
}

#[test]
fn a_seat_counts_for_the_wallet_it_was_given_to_alone() {
    let mut ledger = ledger(5, |_| {});
    ledger.fund(wallet(0), ALC(100));
    let node = node_key(4);
    ledger.block(vec![ledger.transfer(0, 1, ALC(1))]);
    let height = ledger.state.height();
    assert!(ledger.state.may_attest(node.public(), height));
    ledger.block(vec![ledger.sign(&node, bind_body(&ledger, &node, 3))]);
    assert_eq!(ledger.refusal(&ledger.attest(4, height)).code(), "NO_SEAT");
}

#[test]
fn ten_free_identities_confirm_nothing() {
    let mut ledger = ledger(12, |ledger| (ledger.confirmations, ledger.registrations_per_block) = (10, 10));
    ledger.fund(wallet(0), ALC(100));
    ledger.block((0..10).map(|i| ledger.registration(&stranger(i), 5)).collect());
    (0..4).for_each(|_| ledger.next_epoch());
    ledger.block((0..10).map(|i| ledger.sign(&stranger(i), Body::Heartbeat { trains: true, class: CLASS })).collect());
    ledger.block(vec![ledger.transfer(0, 1, ALC(1))]);
    let height = ledger.state.height();
    ledger.pass(10_000); // every seat may attest by now
    for i in 0..10 {
        let attest = ledger.sign(&stranger(i), Body::Attest { height, except: vec![] });
        assert_eq!(ledger.refusal(&attest).code(), "NO_SEAT");
    }
    assert_eq!(ledger.state.inclusion(height).unwrap().pending, 1);
    assert_eq!(ledger.state.seats(ledger.state.epoch()).unwrap().0.len(), 12, "nor are they counted among the seats");
}

#[test]
fn seats_are_paid_for_the_minutes_that_their_heartbeats_show_within_the_cap() {
    let mut ledger = ledger(3, |ledger| ledger.seat_growth_min = 1);
    ledger.block(vec![ledger.registration(&stranger(0), 2)]);
    let beats = |ledger: &Ledger| {
        let seated = [0, 0, 1].iter().enumerate().filter(|(_, idle)| **idle == 0).map(|(i, _)| node_key(i as u8));
        let nodes: Vec<Keypair> = seated.chain([stranger(0)]).collect();
        nodes.iter().map(|node| ledger.sign(node, Body::Heartbeat { trains: false, class: CLASS })).collect::<Vec<_>>()
    };
    let minted = ledger.state.supply().minted;
    while ledger.state.epoch() == 0 {
        let beats = beats(&ledger);
        ledger.block_of_accepted(10_000, beats);
    }
    let earned: Vec<u64> = (0..3).map(|i| ledger.free(i).0).collect();
    assert_eq!(
        earned,
        [8_333, 8_333, 0],
        "50 s at 0.0001 ALC a minute; an idle seat and a node without one get nothing"
    );
    assert_eq!(ledger.state.supply().minted.0 - minted.0, 16_666);
}

#[test]
fn registrations_are_bounded_in_a_block_and_in_all() {
    let mut ledger = ledger(1, |ledger| (ledger.registrations_per_block, ledger.max_nodes) = (2, 4));
    let registrations = (0..4).map(|i| ledger.registration(&stranger(i), 0)).collect();
    assert_eq!(ledger.block_of_accepted(1000, registrations).transactions.len(), 2);
    ledger.block(vec![ledger.registration(&stranger(2), 0)]);
    assert_eq!(ledger.state.node_count(), 4);
    ledger.fund(wallet(0), ALC(40));
    for i in 0..3 {
        ledger.block(vec![ledger.sign(&wallet_key(0), Body::Stake { node: *stranger(i).public(), amount: ALC(10) })]);
    }
    assert_eq!(ledger.refusal(&ledger.registration(&stranger(3), 0)), Rejection::TooManyNodes { max: 4 });
}

#[test]
fn node_transactions_have_no_nonce() {
    let ledger = ledger(1, |_| {});
    let time = ledger.state.time_ms() + 1000;
    let tx = Transaction::sign(
        &ledger.state.network(),
        &node_key(0),
        1,
        time,
        Body::Heartbeat { trains: true, class: CLASS },
    );
    assert_eq!(ledger.refusal(&tx), Rejection::BadNonce { expected: 0, got: 1 });
}

#[test]
fn heartbeats_come_neither_too_often_nor_twice() {
    let mut ledger = ledger(2, |_| {});
    let beat = |ledger: &Ledger| ledger.sign(&node_key(0), Body::Heartbeat { trains: true, class: CLASS });
    assert_eq!(
        ledger.refusal(&ledger.sign(&stranger(0), Body::Heartbeat { trains: true, class: CLASS })),
        Rejection::UnknownNode
    );
    let first = beat(&ledger);
    ledger.block(vec![first.clone()]);
    assert_eq!(ledger.refusal(&beat(&ledger)), Rejection::HeartbeatTooSoon { wait_ms: 4000 });
    ledger.pass(5000);
    assert_eq!(ledger.refusal(&first), Rejection::StaleHeartbeat, "somebody sent the old one again");
    ledger.block(vec![beat(&ledger)]);
}

#[test]
fn a_silent_node_lapses_and_its_place_is_free() {
    let mut ledger = ledger(1, |ledger| ledger.lapse_ms = 50_000);
    let node = stranger(0);
    ledger.block(vec![ledger.registration(&node, 0)]);
    ledger.pass(49_000);
    assert!(ledger.state.node(node.public()).is_some());
    ledger.pass(1000);
    assert_eq!(ledger.state.node(node.public()), None);
    assert!(ledger.events.contains(&Event::NodeLapsed { node: *node.public(), wallet: wallet(0) }));
    assert_eq!(ledger.state.node_count(), 1);
}

#[test]
fn a_founder_that_lapses_loses_its_seat_at_the_next_epoch_until_it_returns() {
    let mut ledger = ledger(2, |ledger| ledger.lapse_ms = 50_000);
    ledger.pass(45_000);
    ledger.block(vec![ledger.sign(&node_key(0), Body::Heartbeat { trains: false, class: CLASS })]);
    ledger.pass(10_000);
    assert!(ledger.founder(1).lapsed && !ledger.founder(0).lapsed);
    assert!(ledger.holds_seat(&node_key(1)), "until the epoch ends");
    ledger.next_epoch();
    assert!(!ledger.holds_seat(&node_key(1)) && ledger.holds_seat(&node_key(0)));
    ledger.block(vec![ledger.sign(&node_key(1), Body::Heartbeat { trains: false, class: CLASS })]);
    assert!(!ledger.founder(1).lapsed);
    ledger.next_epoch();
    assert!(ledger.holds_seat(&node_key(1)));
}

#[test]
fn a_staked_node_that_lapses_keeps_its_stake() {
    let mut ledger = ledger(1, |ledger| ledger.lapse_ms = 50_000);
    ledger.stake_strangers(1, ALC(10));
    ledger.pass(51_000);
    let node = *stranger(0).public();
    assert!(ledger.state.node(&node).unwrap().lapsed);
    assert_eq!(ledger.state.stakes(&wallet(0)).collect::<Vec<_>>(), [(node, ALC(10))]);
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Unstake { node, amount: ALC(10) })]);
    assert!(ledger.state.node(&node).is_some(), "what unbonds can still be slashed");
    ledger.pass(ledger.state.params().ledger.unbonding_ms);
    assert_eq!(ledger.state.node(&node), None, "nothing holds the entry any more");
}

#[test]
fn a_seat_comes_with_stake_two_epochs_later_and_goes_with_it() {
    let mut ledger = ledger(1, |_| {});
    ledger.stake_strangers(2, Amount(ALC(10).0 - 1));
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Stake { node: *stranger(0).public(), amount: Amount(1) })]);
    assert_eq!(ledger.state.epoch(), 0);
    ledger.next_epoch();
    assert_eq!(ledger.strangers_seated(2), 0);
    ledger.next_epoch();
    assert!(ledger.holds_seat(&stranger(0)));
    assert!(!ledger.holds_seat(&stranger(1)), "one unit less is not enough");
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Unstake { node: *stranger(0).public(), amount: Amount(1) })]);
    assert!(ledger.holds_seat(&stranger(0)), "a snapshot holds for its epoch");
    ledger.next_epoch();
    assert!(!ledger.holds_seat(&stranger(0)));
}

#[test]
fn an_epoch_adds_a_bounded_number_of_seats() {
    let mut ledger = ledger(1, |ledger| {
        (ledger.seat_growth_min, ledger.epoch_ms, ledger.lapse_ms) = (3, 600_000, 10_000_000);
    });
    ledger.stake_strangers(8, ALC(10));
    ledger.next_epoch();
    for seated in [3, 6, 8] {
        ledger.next_epoch();
        assert_eq!(ledger.strangers_seated(8), seated);
    }
}

#[test]
fn accepted_rounds_keep_a_seat_as_long_as_they_lie_inside_the_window() {
    for (rounds, epochs_seated) in [(1, 0), (2, 3)] {
        let mut ledger = ledger(1, |ledger| {
            (ledger.founder_seat_epochs, ledger.seat_rounds, ledger.seat_window_epochs) = (1, 2, 3);
        });
        (0..rounds).for_each(|_| ledger.run_round(1, 2_000_000));
        assert_eq!((ledger.state.epoch(), ledger.founder(0).work.get(&0)), (0, Some(&rounds)));
        for epoch in 1..5 {
            ledger.next_epoch();
            assert_eq!(ledger.holds_seat(&node_key(0)), epoch <= epochs_seated, "{rounds} rounds, epoch {epoch}");
        }
    }
}

#[test]
fn snapshots_of_seats_are_kept_while_a_transfer_may_need_them() {
    let mut ledger = ledger(3, |ledger| (ledger.lapse_ms, ledger.max_gap_ms) = (50_000, 10_000));
    ledger.pass(70_000);
    assert!(ledger.state.seats(0).unwrap().0.len() == 3 && ledger.state.seats(1).unwrap().0.is_empty());
    ledger.pass(180_000);
    assert!(ledger.state.seats(0).is_some());
    ledger.pass(60_000);
    assert_eq!(ledger.state.seats(0), None);
    assert!(ledger.state.seats(ledger.state.epoch()).is_some());
}
