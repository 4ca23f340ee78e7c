use super::*;
use crate::{
    consensus::{Ballot, Step},
    transaction::Claim,
};
use ailo_protocol::{
    inference::{
        CHUNK, chunks,
        proof::{Charge, Statement},
    },
    payment::Receipt,
};

/// Five founders with 1000 ALC, 200 of them staked each; a conviction takes half, a tenth of that is the bounty. A sixth wallet has
/// deposited for inference.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(5, |params| {
        params.ledger.fraud_slash_ppm = 500_000;
        params.ledger.lapse_ms = 10_000_000;
    });
    (0..6).for_each(|i| ledger.fund(wallet(i), ALC(1000)));
    ledger.block((0..5).map(|i| ledger.stake(i, ALC(200))).collect());
    ledger.block(vec![ledger.sign(&wallet_key(5), Body::Deposit { amount: ALC(100) })]);
    ledger
}

/// What a founder signed as the first stage, of a text of one chunk.
pub(super) fn charge_at(ledger: &Ledger, i: u8, height: u64) -> Charge {
    let tokens: Vec<u32> = (0..CHUNK as u32).collect();
    let (came, gave) = (chunks(&tokens)[0], Hash([0xaa; 32]));
    let (session, model, next) = ([1; 16], Hash([2; 32]), Hash::ZERO);
    let statement = Statement { session, model, first: 0, end: 4, chunk: 0, came, gave, next, height };
    Charge { signed: statement.sign(&ledger.state.network(), &node_key(i)), tokens, choice: None }
}

fn charge(ledger: &Ledger, i: u8) -> Charge {
    charge_at(ledger, i, ledger.state.height())
}

fn accuse(ledger: &Ledger, i: u8, charge: &Charge) -> Transaction {
    ledger.sign(&wallet_key(i), Body::Accuse(charge.clone()))
}

fn finds(ledger: &Ledger, i: u8, charge: &Charge, found: Hash) -> Transaction {
    ledger.sign(&node_key(i), Body::JudgeStage { node: charge.signed.node, charge: charge.id(), found })
}

/// The truth, if it is not what was signed.
fn otherwise(charge: &Charge) -> Hash {
    charge.found(&[charge.signed.statement.came], &[Hash([0xbb; 32])], &[])
}

fn slashes(ledger: &Ledger) -> Vec<(Amount, Amount)> {
    let of = |event: &Event| match event {
        Event::Slashed { amount, bounty, .. } => Some((*amount, *bounty)),
        _ => None,
    };
    ledger.events.iter().filter_map(of).collect()
}

fn claim(ledger: &Ledger, node: u8, expires_age: u64) -> Transaction {
    let (payer, node_id) = (*wallet_key(5).public(), *node_key(node).public());
    let receipt = Receipt {
        payer,
        node: node_id,
        session: [expires_age as u8; 16],
        model: Hash([2; 32]),
        first: 0,
        end: 4,
        total: 4,
        units: 100,
        price: Amount(10_000),
        expires_age,
        latency_ms: 1000,
    };
    let receipt = receipt.sign(&ledger.state.network(), &wallet_key(5));
    ledger.sign(&node_key(node), Body::InferenceReceipt { claims: vec![Claim { units: 100, receipt }] })
}

#[test]
fn a_stage_that_more_than_two_thirds_of_the_power_find_wrong_is_slashed_and_not_paid() {
    let mut ledger = ledger();
    let (charge, before) = (charge(&ledger, 0), ledger.free(1));
    ledger.block(vec![accuse(&ledger, 1, &charge)]);
    assert_eq!(ledger.state.supply().escrow, ALC(110), "the bond, and the deposit");
    assert_eq!(ledger.refusal(&accuse(&ledger, 2, &charge)), Rejection::AccusedAlready);
    ledger.block((1..4).map(|i| finds(&ledger, i, &charge, otherwise(&charge))).collect());
    assert_eq!(slashes(&ledger), [], "three of five are less than two thirds");
    assert_eq!(ledger.refusal(&finds(&ledger, 1, &charge, Hash::ZERO)), Rejection::AlreadyJudged);
    let soon = ledger.state.age_ms() + 50_000;
    ledger.block(vec![finds(&ledger, 4, &charge, otherwise(&charge))]);
    assert_eq!(slashes(&ledger), [(ALC(100), ALC(10))]);
    let fee = ledger.state.params().ledger.fee;
    assert!(ledger.free(1).0 >= before.0 + ALC(10).0 - fee.0, "bond and bounty");
    assert_eq!(ledger.state.accusations().count(), 0);
    assert!(ledger.founder(0).jailed_until.is_some());
    assert_eq!(ledger.refusal(&claim(&ledger, 0, soon)), Rejection::ReceiptVoid);
    ledger.block(vec![claim(&ledger, 1, soon)]);
    assert_eq!(ledger.events.iter().filter(|event| matches!(event, Event::ReceiptPaid { .. })).count(), 1);
    assert_eq!(ledger.refusal(&finds(&ledger, 0, &charge, Hash::ZERO)), Rejection::NoSuchChallenge);
}

#[test]
fn an_accusation_that_the_validators_do_not_uphold_costs_its_bond() {
    for by_votes in [true, false] {
        let mut ledger = ledger();
        let charge = charge(&ledger, 0);
        ledger.block(vec![accuse(&ledger, 1, &charge)]);
        let burned = ledger.state.supply().burned;
        match by_votes {
            true => _ = ledger.block((2..4).map(|i| finds(&ledger, i, &charge, charge.claimed())).collect()),
            // Nobody has the model.
            false => ledger.pass(ledger.state.params().ledger.challenge_ms),
        }
        assert_eq!(ledger.state.accusations().count(), 0);
        assert_eq!(ledger.state.supply().burned.0 - burned.0, ALC(10).0);
        assert!(ledger.founder(0).jailed_until.is_none());
    }
}

#[test]
fn machines_that_differ_among_themselves_convict_no_stage() {
    let mut ledger = ledger();
    let charge = charge(&ledger, 0);
    ledger.block(vec![accuse(&ledger, 1, &charge)]);
    ledger.block((1..5).map(|i| finds(&ledger, i, &charge, Hash([i % 2; 32]))).collect());
    assert_eq!((slashes(&ledger), ledger.state.accusations().count()), (vec![], 0));
}

#[test]
fn one_conviction_covers_all_that_the_stage_signed_before() {
    let mut ledger = ledger();
    let (first, second) = (charge_at(&ledger, 0, 1), charge(&ledger, 0));
    ledger.block(vec![accuse(&ledger, 1, &first)]);
    ledger.block((1..5).map(|i| finds(&ledger, i, &first, otherwise(&first))).collect());
    let height = ledger.state.height();
    assert_eq!(ledger.refusal(&accuse(&ledger, 1, &second)), Rejection::SlashedAlready { height });
    ledger.block(vec![]);
    let later = charge(&ledger, 0);
    assert_eq!(ledger.refusal(&accuse(&ledger, 1, &later)), Rejection::NothingLeft, "it is jailed");
}

#[test]
fn what_shows_nothing_is_no_charge() {
    let ledger = ledger();
    let good = charge(&ledger, 0);
    let network = ledger.state.network();
    let refused = |charge: &Charge| ledger.refusal(&accuse(&ledger, 1, charge));
    let mut other = good.clone();
    other.tokens[0] += 1;
    assert_eq!(refused(&other), Rejection::BadCharge, "another text");
    other.tokens = vec![0; CHUNK - 1];
    assert_eq!(refused(&other), Rejection::BadCharge, "not the whole chunk");
    let mut forged = good.clone();
    forged.signed.statement.gave = Hash([1; 32]);
    assert!(accuse(&ledger, 1, &forged).verify(&network).is_err(), "it never signed that");
    assert_eq!(accuse(&ledger, 1, &good).verify(&network), Ok(()));
    let soon = charge_at(&ledger, 0, ledger.state.height() + 2);
    assert_eq!(refused(&soon), Rejection::EvidenceFromFuture);
    let stranger = Charge { signed: good.signed.statement.clone().sign(&network, &stranger(0)), ..good };
    assert_eq!(refused(&stranger), Rejection::UnknownNode);
}

#[test]
fn evidence_of_something_else_covers_no_lie_and_a_word_for_another_trial_does_not_count() {
    let mut ledger = ledger();
    let (first, second) = (charge_at(&ledger, 0, 1), charge_at(&ledger, 0, 2));
    ledger.block(vec![accuse(&ledger, 1, &first)]);
    assert_eq!(ledger.refusal(&accuse(&ledger, 2, &second)), Rejection::AccusedAlready, "one thing at a time");
    assert_eq!(ledger.refusal(&finds(&ledger, 3, &second, Hash::ZERO)), Rejection::NoSuchChallenge);
    let height = ledger.state.height();
    let sign = |block: u8| {
        let ballot = Ballot { height, round: 0, step: Step::Prevote, block: Some(Hash([block; 32])) };
        ballot.sign(&ledger.state.network(), &node_key(0))
    };
    // Who is about to be convicted shows itself to have signed two ballots, which costs less.
    let evidence = Body::Evidence(Evidence::Ballots { first: sign(1), second: sign(2) });
    ledger.block(vec![ledger.sign(&node_key(1), evidence)]);
    assert_eq!(slashes(&ledger).len(), 1);
    ledger.block((1..5).map(|i| finds(&ledger, i, &first, otherwise(&first))).collect());
    assert_eq!((slashes(&ledger).len(), ledger.state.accusations().count()), (1, 0));
}

/// The same about another model.
fn about(charge: &Charge, ledger: &Ledger, i: u8, model: Hash) -> Charge {
    let statement = Statement { model, ..charge.signed.statement.clone() };
    Charge { signed: statement.sign(&ledger.state.network(), &node_key(i)), ..charge.clone() }
}

#[test]
fn a_charge_over_a_model_that_nobody_has_shields_nobody_and_two_over_one_lie_slash_once() {
    let mut ledger = ledger();
    let first = charge(&ledger, 0);
    let (other, shield) = (about(&first, &ledger, 0, Hash([7; 32])), about(&first, &ledger, 0, Hash([8; 32])));
    ledger.block(vec![accuse(&ledger, 3, &shield)]);
    ledger.block(vec![accuse(&ledger, 1, &first)]);
    ledger.block(vec![accuse(&ledger, 2, &other)]);
    ledger.block((1..5).map(|i| finds(&ledger, i, &first, otherwise(&first))).collect());
    assert_eq!(slashes(&ledger).len(), 1);
    let before = ledger.free(2);
    ledger.block((1..5).map(|i| finds(&ledger, i, &other, otherwise(&other))).collect());
    assert_eq!(slashes(&ledger), [], "it is covered");
    assert!(ledger.free(2).0 >= before.0 + ALC(10).0, "and who was right has the bond back");
    assert_eq!(ledger.state.accusations().count(), 1);
}

#[test]
fn who_is_accused_can_not_slip_away() {
    let mut ledger = ledger();
    let charge = charge(&ledger, 0);
    ledger.block(vec![ledger.unstake(0, ALC(200))]);
    ledger.block(vec![accuse(&ledger, 1, &charge)]);
    let consent = Consent::sign(&ledger.state.network(), node_key(0).public(), &wallet(9), &wallet_key(9));
    let rebound = ledger.sign(&node_key(0), Body::BindNode { wallet: wallet(9), consent });
    assert!(matches!(ledger.refusal(&rebound), Rejection::NodeTied | Rejection::BindTooSoon { .. }));
    ledger.block((1..4).map(|i| finds(&ledger, i, &charge, otherwise(&charge))).collect());
    assert_eq!(slashes(&ledger).len(), 1, "three of the four that validate then; and what unbonds is there still");
}

#[test]
fn accusations_are_of_the_time_that_evidence_may_be_of_and_have_places_of_their_own() {
    let mut ledger = Ledger::new(5, |params| (params.ledger.max_challenges, params.ledger.lapse_ms) = (2, 10_000_000));
    ledger.fund(wallet(1), ALC(1000));
    ledger.block(vec![]);
    let old = charge_at(&ledger, 0, 1);
    for (i, bond) in [(0, 10), (2, 20)] {
        let before = ledger.state.supply().escrow;
        ledger.block(vec![accuse(&ledger, 1, &charge(&ledger, i))]);
        assert_eq!(ledger.state.supply().escrow.0 - before.0, ALC(bond).0, "each binds more than the one before");
    }
    assert_eq!(ledger.refusal(&accuse(&ledger, 1, &charge(&ledger, 3))), Rejection::TooManyChallenges { max: 2 });
    assert_eq!(ledger.state.next_challenge_bond(), ALC(10), "challenges of work are not in their way");
    ledger.pass(300_000);
    assert_eq!(ledger.refusal(&accuse(&ledger, 1, &old)).code(), "EVIDENCE_TOO_OLD");
}
