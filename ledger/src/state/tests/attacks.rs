//! What attackers try: to get something for nothing, or to take it from others.

use super::*;
use crate::consensus::{Ballot, Step};
use ailo_protocol::contribution::Contribution;

fn rivals(ledger: &Ledger, node: &Keypair, height: u64) -> Evidence {
    let sign = |block: u8| {
        Ballot { height, round: 0, step: Step::Prevote, block: Some(Hash([block; 32])) }
            .sign(&ledger.state.network(), node)
    };
    Evidence::Ballots { first: sign(1), second: sign(2) }
}

#[test]
fn a_debtor_has_nothing_left_even_when_the_sender_owed_it() {
    let mut ledger = Ledger::new(10, |params| params.ledger.confirmations = 0);
    (0..10).for_each(|i| ledger.fund(wallet(i), ALC(10)));
    let transfer = ledger.transfer(0, 1, ALC(9));
    ledger.block(vec![transfer.clone()]);
    let spent = Amount(ledger.free(1).0 - ALC(5).0);
    ledger.block(vec![ledger.transfer(1, 2, spent)]);
    // The sender owes the recipient for something else.
    let (iou, key) = (Iou { creditor: wallet(1), amount: ALC(3) }, Key::Iou(wallet(0), 1, Hash([7; 32])));
    let account = Account { owes: ALC(3), ..ledger.state.account(&wallet(0)) };
    ledger.state.set(key, iou);
    ledger.state.set(Key::Account(wallet(0)), account);
    ledger.state.commit(vec![key, Key::Account(wallet(0))]);
    let report =
        |i: u8| ledger.sign(&wallet_key(i), Body::Report { transfer: transfer.id(), node: *node_key(i).public() });
    ledger.block((3..9).map(report).collect());
    assert_eq!(ledger.state.transfer(&transfer.id()), None, "it is reversed");
    let debtor = ledger.state.account(&wallet(1));
    assert!(debtor.owes > Amount::ZERO && debtor.free == Amount::ZERO, "{debtor:?}");
}

#[test]
fn reports_do_not_slip_away_when_their_time_is_over() {
    let mut ledger = Ledger::new(10, |params| {
        (params.ledger.confirmations, params.ledger.final_ms) = (0, 100_000);
        params.ledger.sweep_per_block = 1;
    });
    (0..10).for_each(|i| ledger.fund(wallet(i), ALC(10)));
    let transfers = [2, 3].map(|i| ledger.transfer(i, 1, ALC(1)));
    ledger.block(transfers.to_vec());
    // The sweep comes to one of them a block, and there are two.
    let last = transfers.iter().map(Transaction::id).max().unwrap();
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Report { transfer: last, node: *node_key(0).public() })]);
    ledger.pass(99_000);
    assert!(ledger.state.transfer(&last).is_some(), "its time is over, the sweep has not come to it");
    let body = Body::WithdrawReport { transfer: last, node: *node_key(0).public() };
    assert_eq!(ledger.refusal(&ledger.sign(&wallet_key(0), body)), Rejection::ReportsClosed);
}

#[test]
fn a_dispute_does_not_keep_their_shares_from_those_who_attested() {
    let mut ledger = Ledger::new(6, |params| params.ledger.confirmations = 3);
    ledger.fund(wallet(0), ALC(10));
    let transfer = ledger.transfer(0, 1, ALC(1));
    ledger.block(vec![transfer.clone()]);
    let attest = ledger.attest(5, ledger.state.height());
    ledger.block(vec![attest]);
    let before = ledger.free(5);
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Dispute { transfer: transfer.id() })]);
    assert!(ledger.free(5) > before, "it confirmed what there was to confirm");
}

#[test]
fn a_seat_does_not_go_along_to_another_wallet() {
    let mut ledger = Ledger::new(1, |params| {
        (params.ledger.founder_seat_epochs, params.ledger.seat_rounds) = (1, 1);
        params.ledger.seat_window_epochs = 100;
    });
    ledger.run_round(1, 2_000_000);
    ledger.pass(120_000);
    let node = node_key(0);
    assert!(ledger.holds_seat(&node));
    let other = wallet_key(1);
    let consent = Consent::sign(&ledger.state.network(), node.public(), &wallet(1), &other);
    ledger.block(vec![ledger.sign(&node, Body::BindNode { wallet: wallet(1), consent })]);
    ledger.pass(60_000);
    assert!(!ledger.holds_seat(&node), "it waits its time again");
    ledger.pass(60_000);
    assert!(ledger.holds_seat(&node));
}

#[test]
fn nobody_makes_a_quorum_by_unstaking_after_the_vote() {
    let mut ledger = Ledger::new(5, |_| {});
    (0..5).for_each(|i| ledger.fund(wallet(i), ALC(1000)));
    ledger.block(vec![ledger.stake(0, ALC(30)), ledger.stake(1, ALC(70))]);
    let body = Body::Propose { changes: vec!["round.pot=1000".into()], why: String::new() };
    ledger.block(vec![ledger.sign(&wallet_key(0), body)]);
    let proposal = ledger.state.polls().next().unwrap().0;
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Vote { proposal, approve: true })]);
    ledger.block(vec![ledger.unstake(0, ALC(30))]);
    ledger.pass(ledger.state.params().ledger.poll_ms);
    assert_eq!(ledger.state.polls().count(), 0, "30 of 100 voted, not 30 of 70");
}

#[test]
fn a_jailed_node_without_stake_fills_no_blocks_with_evidence_against_itself() {
    let mut ledger = Ledger::new(3, |_| {});
    let thief = stranger(0);
    ledger.block(vec![ledger.registration(&thief, 0)]);
    let accuse =
        |ledger: &Ledger| ledger.sign(&thief, Body::Evidence(rivals(ledger, &thief, ledger.state.height() + 1)));
    ledger.block(vec![accuse(&ledger)]);
    ledger.block(vec![]);
    assert_eq!(ledger.refusal(&accuse(&ledger)).code(), "NOTHING_LEFT");
}

#[test]
fn binding_to_and_fro_is_no_way_to_fill_blocks_for_free() {
    let mut ledger = Ledger::new(3, |_| {});
    let node = stranger(0);
    ledger.block(vec![ledger.registration(&node, 0)]);
    let bind = |ledger: &Ledger, i: u8| ledger.sign(&node, bind_body(ledger, &node, i));
    let first = bind(&ledger, 1);
    ledger.block(vec![first.clone()]);
    assert_eq!(ledger.refusal(&bind(&ledger, 0)).code(), "BIND_TOO_SOON");
    ledger.pass(60_000);
    ledger.block(vec![bind(&ledger, 0)]);
    assert_eq!(ledger.refusal(&first).code(), "BIND_TOO_SOON", "nor is sending an old binding again");
}

#[test]
fn uptime_is_the_time_between_heartbeats_however_many_there_are() {
    let mut ledger = Ledger::new(1, |_| {});
    // Twice as many as needed, for a third of the epoch.
    while ledger.state.age_ms() < 20_000 {
        let beat = ledger.sign(&node_key(0), Body::Heartbeat { trains: false });
        ledger.block_of_accepted(5_000, vec![beat]);
    }
    ledger.pass(40_000);
    assert_eq!(ledger.free(0), Amount(3_333), "20 s at 0.0001 ALC a minute");
}

#[test]
fn a_newcomers_key_is_not_taken_by_a_strangers_account() {
    let mut ledger = Ledger::new(1, |params| params.ledger.confirmations = 0);
    ledger.fund(wallet(0), ALC(1));
    let recovery = stranger(0);
    let commitment = recovery_commitment(&ledger.state.network(), recovery.public());
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::SetRecovery { commitment })]);
    // The newcomer's key is known from the consent to its node; its account is still empty.
    ledger.block(vec![ledger.registration(&stranger(1), 7)]);
    let body = recover_body(&ledger, wallet(0), 0, &wallet_key(7), Hash([1; 32]));
    assert_eq!(ledger.sign(&recovery, body.clone()).verify(&ledger.state.network()), Ok(()));
    let Body::Recover { account, count, key, next, .. } = body else { panic!() };
    // Whatever else the newcomer has signed, it never agreed to this.
    let Body::RegisterNode { consent, .. } = ledger.registration(&stranger(1), 7).unsigned.body else { panic!() };
    for agreed in [consent.signature, agree_to_recovery(&ledger.state.network(), &account, 1, &wallet_key(7))] {
        let stolen = ledger.sign(&recovery, Body::Recover { account, count, key, agreed, next });
        assert!(stolen.verify(&ledger.state.network()).is_err());
    }
}

#[test]
fn no_vote_puts_reports_confirmations_or_the_next_vote_out_of_reach() {
    let ledger = Ledger::new(1, |_| {});
    for changes in [
        &["ledger.fee=1000000"][..],
        &["ledger.poll_deposit=100000000"],
        &["ledger.poll_delay_blocks=9000000000000000000"],
        &["ledger.report_quota=0"],
        &["ledger.report_bond=1000000"],
        &["ledger.challenge_bond=1000000"],
        &["ledger.challenge_ms=0"],
        &["ledger.challenge_ms=9000000000000"],
        &["ledger.bounty_ppm=1000000", "ledger.slash_ppm=1000000"],
        &["ledger.attest_quota_ppm=0"],
        &["round.min_train_ms=9000000000000000000", "round.max_train_ms=9000000000000000000"],
        &["round.open_wait_ms=9000000000000000000"],
        &["round.verify_ms=9000000000000000000"],
    ] {
        let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
        let body = Body::Propose { changes: changes.clone(), why: String::new() };
        assert_eq!(ledger.refusal(&ledger.sign(&wallet_key(0), body)).code(), "BAD_CHANGE", "{changes:?}");
    }
}

#[test]
fn who_copies_the_hash_of_a_waiting_contribution_does_not_keep_its_maker_out() {
    let mut ledger = Ledger::new(4, |_| {});
    ledger.open_round(0..4);
    let copied = Contribution { payload: ledger.contribution(0).payload, ..ledger.contribution(1) };
    ledger.block(vec![ledger.sign(&node_key(1), Body::Contribute(copied)), ledger.commit(0)]);
    assert!(ledger.state.round().contributions.contains_key(node_key(0).public()));
}
