use super::*;
use crate::consensus::{Ballot, Step};

/// Five founders with 1000 ALC, 200 of them staked each; a slash takes 10 %, a tenth of that is the bounty.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(5, |params| {
        (params.ledger.slash_ppm, params.ledger.fraud_slash_ppm) = (100_000, 500_000);
        params.ledger.lapse_ms = 10_000_000;
    });
    (0..5).for_each(|i| ledger.fund(wallet(i), ALC(1000)));
    ledger.block((0..5).map(|i| ledger.stake(i, ALC(200))).collect());
    ledger
}

fn ballots(ledger: &Ledger, i: u8, height: u64, step: Step, blocks: [u8; 2]) -> Evidence {
    let sign = |block: u8| {
        Ballot { height, round: 0, step, block: Some(Hash([block; 32])) }.sign(&ledger.state.network(), &node_key(i))
    };
    Evidence::Ballots { first: sign(blocks[0]), second: sign(blocks[1]) }
}

fn accuse(ledger: &Ledger, reporter: u8, evidence: Evidence) -> Transaction {
    ledger.sign(&node_key(reporter), Body::Evidence(evidence))
}

fn slashes(ledger: &Ledger) -> Vec<(Amount, Amount)> {
    let of = |event: &Event| match event {
        Event::Slashed { amount, bounty, .. } => Some((*amount, *bounty)),
        _ => None,
    };
    ledger.events.iter().filter_map(of).collect()
}

#[test]
fn two_rival_ballots_slash_stake_and_what_unbonds_and_pay_a_bounty() {
    for step in [Step::Propose { pol_round: None }, Step::Prevote, Step::Precommit] {
        let mut ledger = ledger();
        ledger.block(vec![ledger.unstake(0, ALC(100))]);
        let (burned, reporter) = (ledger.state.supply().burned, ledger.free(1));
        ledger.block(vec![accuse(&ledger, 1, ballots(&ledger, 0, ledger.state.height(), step, [1, 2]))]);
        assert_eq!(slashes(&ledger), [(ALC(20), ALC(2))], "a tenth of 100 staked and of 100 unbonding");
        assert_eq!(ledger.free(1).0 - reporter.0, ALC(2).0);
        assert_eq!(ledger.state.supply().burned.0 - burned.0, ALC(18).0);
        let account = ledger.state.account(&wallet(0));
        assert_eq!((account.staked, account.unbonding), (ALC(90), ALC(90)));
        assert!(ledger.founder(0).jailed_until.is_some());
    }
}

#[test]
fn two_differing_attestations_of_a_block_are_evidence_and_two_equal_ones_are_not() {
    let mut ledger = ledger();
    let network = ledger.state.network();
    let attest = |time_ms: u64, except: Vec<Hash>| {
        let body = Body::Attest { height: 1, except: except.clone() };
        let signature = Transaction::sign(&network, &node_key(2), 0, time_ms, body).signature;
        SignedAttest { time_ms, except, signature }
    };
    let evidence = |first, second| Evidence::Attestations { node: *node_key(2).public(), height: 1, first, second };
    let same = evidence(attest(1, vec![]), attest(2, vec![]));
    assert_eq!(ledger.refusal(&accuse(&ledger, 1, same)), Rejection::NoConflict, "sent again, not otherwise");
    let forged = evidence(attest(1, vec![]), SignedAttest { except: vec![Hash([1; 32])], ..attest(2, vec![]) });
    assert!(accuse(&ledger, 1, forged).verify(&network).is_err());
    let good = accuse(&ledger, 1, evidence(attest(1, vec![]), attest(2, vec![Hash([1; 32])])));
    assert_eq!(good.verify(&network), Ok(()));
    ledger.block(vec![good]);
    assert_eq!(slashes(&ledger).len(), 1);
}

#[test]
fn signatures_that_do_not_hold_or_do_not_conflict_convict_nobody() {
    let ledger = ledger();
    let (height, network) = (ledger.state.height(), ledger.state.network());
    let good = ballots(&ledger, 0, height, Step::Prevote, [1, 2]);
    let Evidence::Ballots { first, second } = good else { panic!() };
    let refused = |first, second| ledger.refusal(&accuse(&ledger, 1, Evidence::Ballots { first, second }));
    assert_eq!(refused(first, first), Rejection::NoConflict);
    let mut other = second;
    other.ballot.round = 1;
    assert_eq!(refused(first, other), Rejection::NoConflict, "another round is another ballot");
    other = second;
    other.ballot.step = Step::Precommit;
    assert_eq!(refused(first, other), Rejection::NoConflict);
    other = second;
    other.node = *node_key(1).public();
    assert_eq!(refused(first, other), Rejection::NoConflict, "two nodes");
    other = second;
    other.ballot.block = Some(Hash([3; 32]));
    let forged = accuse(&ledger, 1, Evidence::Ballots { first, second: other });
    assert!(forged.verify(&network).is_err(), "a vote that the node never signed");
    let elsewhere = |block| {
        Ballot { height, round: 0, step: Step::Prevote, block: Some(Hash([block; 32])) }
            .sign(&Hash([1; 32]), &node_key(0))
    };
    let foreign = accuse(&ledger, 1, Evidence::Ballots { first: elsewhere(1), second: elsewhere(2) });
    assert!(foreign.verify(&network).is_err(), "what a key signed on another network is nothing here");
}

#[test]
fn one_slash_covers_all_that_was_signed_before_it() {
    let mut ledger = ledger();
    let height = ledger.state.height();
    ledger.block(vec![accuse(&ledger, 1, ballots(&ledger, 0, height, Step::Prevote, [1, 2]))]);
    for again in [height, height + 1] {
        let evidence = accuse(&ledger, 1, ballots(&ledger, 0, again, Step::Precommit, [3, 4]));
        assert_eq!(ledger.refusal(&evidence), Rejection::SlashedAlready { height: height + 1 });
    }
    ledger.block(vec![accuse(&ledger, 1, ballots(&ledger, 0, height + 2, Step::Precommit, [3, 4]))]);
    assert_eq!(slashes(&ledger).len(), 1, "what comes later counts again");
}

#[test]
fn evidence_is_admitted_as_long_as_coins_unbond_and_not_from_the_future() {
    let mut ledger = ledger();
    ledger.block(vec![]);
    let height = ledger.state.height();
    let evidence = |ledger: &Ledger, height| accuse(ledger, 1, ballots(ledger, 0, height, Step::Prevote, [1, 2]));
    assert_eq!(ledger.refusal(&evidence(&ledger, height + 2)), Rejection::EvidenceFromFuture);
    ledger.pass(100_000);
    assert!(
        ledger.state.may_accuse(&ballots(&ledger, 0, height, Step::Prevote, [1, 2])),
        "of the epoch in which 100 s began"
    );
    ledger.pass(120_000);
    assert_eq!(ledger.refusal(&evidence(&ledger, height)).code(), "EVIDENCE_TOO_OLD");
}

#[test]
fn who_reports_its_own_node_gets_no_bounty() {
    let mut ledger = ledger();
    ledger.block(vec![accuse(&ledger, 0, ballots(&ledger, 0, 1, Step::Prevote, [1, 2]))]);
    assert_eq!(slashes(&ledger), [(ALC(20), Amount::ZERO)]);
}

#[test]
fn a_jailed_node_has_no_power_no_seat_and_no_part_in_rounds_until_its_wallet_unjails_it() {
    let mut ledger = ledger();
    ledger.fund(wallet(3), ALC(100));
    ledger.block(vec![accuse(&ledger, 1, ballots(&ledger, 0, 1, Step::Prevote, [1, 2]))]);
    let id = *node_key(0).public();
    assert_eq!(ledger.state.validators().power(&id), 0);
    ledger.block(vec![ledger.transfer(3, 4, ALC(1))]);
    let height = ledger.state.height();
    assert_eq!(ledger.refusal(&ledger.attest(0, height)).code(), "JAILED");
    let report = Body::Report { transfer: ledger.state.inclusion(height).unwrap().transfers[0], node: id };
    assert_eq!(ledger.refusal(&ledger.sign(&wallet_key(0), report)).code(), "JAILED");
    ledger.block(vec![ledger.sign(&node_key(0), Body::Heartbeat { trains: true, class: CLASS })]);
    assert!(!ledger.state.eligible().contains(&id));
    let unjail = |ledger: &Ledger, i: u8| ledger.sign(&wallet_key(i), Body::Unjail { node: id });
    assert_eq!(ledger.refusal(&unjail(&ledger, 0)).code(), "JAILED");
    ledger.pass(60_000);
    assert!(!ledger.holds_seat(&node_key(0)) && ledger.holds_seat(&node_key(1)));
    assert_eq!(ledger.refusal(&unjail(&ledger, 1)), Rejection::NotYourNode);
    ledger.block(vec![unjail(&ledger, 0)]);
    assert!(ledger.state.validators().power(&id) > 0);
    assert_eq!(ledger.refusal(&unjail(&ledger, 0)), Rejection::NotJailed);
}

#[test]
fn a_jail_that_would_leave_too_few_validators_waits() {
    let mut ledger = ledger();
    ledger.block(vec![accuse(&ledger, 1, ballots(&ledger, 0, 1, Step::Prevote, [1, 2]))]);
    assert_eq!(ledger.state.validators().0.len(), 4);
    ledger.block(vec![accuse(&ledger, 1, ballots(&ledger, 2, 1, Step::Prevote, [1, 2]))]);
    assert_eq!(slashes(&ledger).len(), 1, "slashed it is");
    assert_eq!(ledger.state.validators().0.len(), 4, "and it stays until there are four without it");
}

#[test]
fn who_has_no_stake_loses_accrued_work_and_seat() {
    let mut ledger = Ledger::new(5, |params| params.ledger.founder_seat_epochs = 1);
    (0..10).for_each(|_| ledger.run_round(5, 2_000_000));
    while !ledger.holds_seat(&node_key(0)) || ledger.state.epoch() < 4 {
        ledger.pass(10_000);
        let beats = ledger.heartbeats(0..5);
        ledger.block_of_accepted(1000, beats);
    }
    let height = ledger.state.height();
    ledger.block(vec![accuse(&ledger, 1, ballots(&ledger, 0, height, Step::Prevote, [1, 2]))]);
    assert_eq!((ledger.founder(0).work.len(), ledger.founder(0).score_ppm), (0, 0));
    ledger.pass(61_000);
    assert!(!ledger.holds_seat(&node_key(0)) && ledger.holds_seat(&node_key(1)));
}

/// A ledger with one closed round, number 0.
fn with_round() -> Ledger {
    let mut ledger = ledger();
    ledger.run_round(5, 2_000_000);
    assert!(ledger.state.past_round(0).is_some());
    ledger
}

fn challenge(ledger: &Ledger, i: u8, accused: u8) -> Transaction {
    ledger.sign(&wallet_key(i), Body::Challenge { round: 0, node: *node_key(accused).public() })
}

fn claimed(ledger: &Ledger, maker: u8) -> Hash {
    ledger.state.past_round(0).unwrap().contributions[node_key(maker).public()].contribution.result()
}

fn finds(ledger: &Ledger, i: u8, accused: u8, found: Hash) -> Transaction {
    ledger.sign(&node_key(i), Body::Judge { round: 0, node: *node_key(accused).public(), found })
}

fn judge(ledger: &Ledger, i: u8, accused: u8, forged: bool) -> Transaction {
    let found = if forged { Hash([0xbb; 32]) } else { claimed(ledger, accused) };
    finds(ledger, i, accused, found)
}

#[test]
fn a_forger_is_slashed_when_more_than_two_thirds_of_the_power_found_the_forgery() {
    let mut ledger = with_round();
    let before = ledger.free(1);
    ledger.block(vec![challenge(&ledger, 1, 0)]);
    assert_eq!(ledger.state.supply().escrow, ALC(10));
    assert_eq!(ledger.refusal(&challenge(&ledger, 2, 0)), Rejection::ChallengedAlready);
    ledger.block((1..4).map(|i| judge(&ledger, i, 0, true)).collect());
    assert_eq!(slashes(&ledger), [], "three of five are less than two thirds");
    assert_eq!(ledger.refusal(&judge(&ledger, 1, 0, true)), Rejection::AlreadyJudged);
    ledger.block(vec![judge(&ledger, 4, 0, true)]);
    assert_eq!(slashes(&ledger), [(ALC(100), ALC(10))], "half of the stake, a tenth of it as bounty");
    assert!(ledger.free(1).0 >= before.0 + ALC(10).0, "bond and bounty");
    assert_eq!(ledger.state.challenges().count(), 0);
    assert_eq!(ledger.refusal(&judge(&ledger, 0, 0, false)), Rejection::NoSuchChallenge);
    assert_eq!(ledger.refusal(&challenge(&ledger, 2, 0)), Rejection::ChallengedAlready, "nor is it slashed again");
}

#[test]
fn a_challenge_that_the_validators_do_not_uphold_costs_its_bond() {
    for by_votes in [true, false] {
        let mut ledger = with_round();
        ledger.block(vec![challenge(&ledger, 1, 0)]);
        let burned = ledger.state.supply().burned;
        match by_votes {
            true => _ = ledger.block((2..4).map(|i| judge(&ledger, i, 0, false)).collect()),
            false => ledger.pass(ledger.state.params().ledger.challenge_ms),
        }
        assert_eq!(ledger.state.challenges().count(), 0);
        assert_eq!(ledger.state.supply().burned.0 - burned.0, ALC(10).0);
        assert!(ledger.founder(0).jailed_until.is_none());
    }
}

#[test]
fn judges_who_find_different_results_convict_nobody() {
    let mut ledger = with_round();
    ledger.block(vec![challenge(&ledger, 1, 0)]);
    ledger.block((1..5).map(|i| finds(&ledger, i, 0, Hash([i % 2; 32]))).collect());
    assert_eq!((slashes(&ledger), ledger.state.challenges().count()), (vec![], 0));
}

#[test]
fn only_accepted_contributions_of_recent_rounds_are_challenged_and_only_validators_judge() {
    let mut ledger = with_round();
    let none = ledger.sign(&wallet_key(1), Body::Challenge { round: 9, node: *node_key(0).public() });
    assert_eq!(ledger.refusal(&none), Rejection::RoundNotKept { round: 9 });
    let other = ledger.sign(&wallet_key(1), Body::Challenge { round: 0, node: *stranger(0).public() });
    assert_eq!(ledger.refusal(&other), Rejection::NotAccepted);
    ledger.block(vec![challenge(&ledger, 1, 0)]);
    let body = Body::Judge { round: 0, node: *node_key(0).public(), found: Hash::ZERO };
    assert_eq!(ledger.refusal(&ledger.sign(&stranger(0), body)), Rejection::NotValidator);
    (0..3).for_each(|_| ledger.run_round(5, 2_000_000));
    assert!(ledger.state.past_round(0).is_some(), "it is judged: who replays it needs it");
    assert_eq!(ledger.refusal(&challenge(&ledger, 2, 1)), Rejection::RoundNotKept { round: 0 });
    ledger.block((1..3).map(|i| judge(&ledger, i, 0, false)).collect());
    ledger.run_round(5, 2_000_000);
    assert!(ledger.state.past_round(0).is_none() && ledger.state.past_round(4).is_some());
}
