use super::*;

/// Founders with 1000 ALC each that have staked these amounts, and stay alive.
fn staked(amounts: &[u64]) -> Ledger {
    let mut ledger = Ledger::new(amounts.len() as u8, |params| params.ledger.lapse_ms = 10_000_000_000);
    for i in 0..amounts.len() as u8 {
        ledger.fund(wallet(i), ALC(1000));
    }
    let stakes = amounts.iter().enumerate().filter(|(_, alc)| **alc > 0);
    ledger.block(stakes.map(|(i, alc)| ledger.stake(i as u8, ALC(*alc))).collect());
    ledger
}

fn powers(ledger: &Ledger) -> Vec<u64> {
    ledger.state.validators().0.iter().map(|validator| validator.power).collect()
}

#[test]
fn a_stake_comes_back_after_unbonding() {
    let mut ledger = staked(&[100, 0, 0]);
    let fee = ledger.genesis.params.ledger.fee.0;
    assert_eq!(ledger.state.account(&wallet(0)).staked, ALC(100));
    assert_eq!(
        ledger.refusal(&ledger.unstake(0, Amount(ALC(100).0 + 1))).code(),
        "INSUFFICIENT_STAKE",
        "no more than there is"
    );
    ledger.block(vec![ledger.unstake(0, ALC(40))]);
    ledger.pass(ledger.state.params().ledger.unbonding_ms - 1000);
    assert_eq!(ledger.state.account(&wallet(0)).unbonding, ALC(40));
    ledger.pass(1000);
    let account = ledger.state.account(&wallet(0));
    assert_eq!((account.unbonding, account.staked), (Amount::ZERO, ALC(60)));
    assert!(ALC(940).0 - account.free.0 <= 2 * fee, "fees alone are missing");
    assert_eq!(ledger.state.supply().staked, ALC(60));
}

#[test]
fn two_unstakes_of_one_block_come_back_together() {
    let mut ledger = staked(&[100, 0, 0]);
    let first = ledger.unstake(0, ALC(1));
    let body = Body::Unstake { node: *node_key(0).public(), amount: ALC(2) };
    let second = Transaction::sign(&ledger.state.network(), &wallet_key(0), 2, first.unsigned.time_ms, body);
    ledger.block(vec![first, second]);
    assert_eq!(ledger.state.account(&wallet(0)).unbonding, ALC(3));
    ledger.pass(ledger.state.params().ledger.unbonding_ms);
    assert_eq!(ledger.state.account(&wallet(0)).unbonding, Amount::ZERO);
}

#[test]
fn a_malformed_stake_is_refused_with_its_reason() {
    let ledger = staked(&[0, 0, 0]);
    assert_eq!(ledger.refusal(&ledger.stake(0, Amount::ZERO)), Rejection::ZeroAmount);
    assert_eq!(ledger.refusal(&ledger.unstake(0, Amount::ZERO)), Rejection::ZeroAmount);
    assert_eq!(ledger.refusal(&ledger.stake(0, ALC(1000))).code(), "INSUFFICIENT", "the fee is missing");
    let body = Body::Stake { node: *stranger(0).public(), amount: ALC(1) };
    assert_eq!(ledger.refusal(&ledger.sign(&wallet_key(0), body)), Rejection::UnknownNode);
}

#[test]
fn founders_hold_equal_power_until_enough_stand_ready_with_enough_stake() {
    for too_few in [&[900, 900, 900, 0, 0][..], &[100, 100, 149, 100, 0], &[900, 900, 900, 99, 0]] {
        let ledger = staked(too_few);
        assert_eq!(powers(&ledger), [1; 5], "{too_few:?}");
        assert!(!ledger.state.founders_are_latched_out());
    }
    let ledger = staked(&[100, 100, 150, 100, 50]);
    assert_eq!(powers(&ledger), [150, 100, 100, 100], "the fifth's stake does not meet the tier");
    assert!(ledger.state.founders_are_latched_out());
    assert!(ledger.events.iter().any(|e| matches!(e, Event::ValidatorsChanged { count: 4, latched: true, .. })));
}

#[test]
fn a_higher_tier_never_empties_the_set() {
    let amounts = [vec![249; 11], vec![100; 1]].concat();
    let ledger = staked(&amounts);
    assert_eq!(powers(&ledger), [249; 10], "eleven would need 250 each");
    let ledger = staked(&[250; 11]);
    assert_eq!(powers(&ledger), [250; 11]);
}

#[test]
fn zero_stake_never_validates() {
    let mut ledger = Ledger::new(5, |params| {
        params.ledger.handover_validators = 1;
        params.ledger.handover_stake = Amount::ZERO;
    });
    ledger.block(vec![]);
    assert_eq!(powers(&ledger), [1; 5], "tier 0 alone makes nobody a validator");
    ledger.fund(wallet(0), ALC(10));
    ledger.block(vec![ledger.stake(0, Amount(1))]);
    assert_eq!(powers(&ledger), [1], "the least stake has power 1");
}

#[test]
fn after_the_handover_an_unstake_that_leaves_too_few_validators_waits() {
    let mut ledger = staked(&[100, 100, 150, 100, 0]);
    assert_eq!(ledger.refusal(&ledger.unstake(0, Amount(1))), Rejection::TooFewValidators { min: 4 });
    ledger.block(vec![ledger.unstake(2, ALC(50))]);
    assert_eq!(powers(&ledger), [100; 4], "what leaves enough is free to go");
    ledger.pass(60_000);
    ledger.block(vec![ledger.stake(4, ALC(100))]);
    ledger.pass(60_000);
    ledger.block(vec![ledger.unstake(0, ALC(100))]);
    assert_eq!(powers(&ledger), [100; 4]);
    assert_eq!(ledger.state.validators().power(node_key(0).public()), 0);
}

#[test]
fn before_the_handover_every_unstake_is_free() {
    let mut ledger = staked(&[100, 100, 100, 0]);
    ledger.block(vec![ledger.unstake(0, ALC(100)), ledger.unstake(1, ALC(100))]);
    assert_eq!(powers(&ledger), [1; 4]);
}

#[test]
fn silent_validators_go_but_never_below_the_least_number() {
    let mut ledger = Ledger::new(5, |params| {
        (params.ledger.lapse_ms, params.ledger.max_gap_ms) = (50_000, 10_000);
        params.ledger.heartbeat_ms = 5_000;
    });
    (0..5).for_each(|i| ledger.fund(wallet(i), ALC(1000)));
    ledger.block((0..5).map(|i| ledger.stake(i, ALC(100))).collect());
    assert_eq!(powers(&ledger), [100; 5]);
    for silent in [1u8, 2] {
        for _ in 0..6 {
            let beats: Vec<_> = (silent..5)
                .map(|i| ledger.sign(&node_key(i), Body::Heartbeat { trains: false, class: CLASS }))
                .collect();
            ledger.block(beats);
            ledger.pass(9_000);
        }
        assert!(ledger.founder(silent - 1).lapsed);
        assert_eq!(powers(&ledger), [100; 4], "with {silent} silent");
    }
    assert_eq!(ledger.refusal(&ledger.unstake(1, ALC(100))).code(), "TOO_FEW_VALIDATORS");
}

#[test]
fn a_change_decides_the_next_height_and_not_its_own() {
    let mut ledger = staked(&[0; 5]);
    let founders = ledger.state.validators().hash();
    let block = ledger.block((0..5).map(|i| ledger.stake(i, ALC(100))).collect());
    assert_eq!(block.header.validators, founders);
    assert_eq!(block.header.next_validators, ledger.state.validators().hash());
    assert_ne!(block.header.next_validators, founders);
    assert_eq!(ledger.block(vec![]).header.validators, block.header.next_validators);
}

#[test]
fn in_an_epoch_the_powers_change_by_less_than_a_third_of_the_whole() {
    let mut ledger = staked(&[200, 200, 200, 200, 0, 0]);
    let before = ledger.state.validators().clone();
    ledger.block(vec![ledger.stake(4, ALC(200)), ledger.stake(5, ALC(200))]);
    let gained = powers(&ledger).iter().sum::<u64>() - 800;
    assert_eq!(gained, 266, "of 400 that have staked: one whole, the other in part");
    assert_eq!(ledger.state.validators().0.len(), 6);
    ledger.block(vec![ledger.unstake(0, ALC(200))]);
    let changed = |set: &ValidatorSet| -> u64 {
        let nodes: std::collections::BTreeSet<NodeId> = before.0.iter().chain(&set.0).map(|v| v.node).collect();
        nodes.iter().map(|node| before.power(node).abs_diff(set.power(node))).sum()
    };
    assert_eq!(changed(ledger.state.validators()), 266, "the loss takes the place of gains");
    assert_eq!(ledger.state.validators().power(node_key(0).public()), 0);
    for _ in 0..3 {
        ledger.pass(60_000);
        let beats =
            (0..6).map(|i| ledger.sign(&node_key(i), Body::Heartbeat { trains: false, class: CLASS })).collect();
        ledger.block_of_accepted(1000, beats);
    }
    assert_eq!(powers(&ledger), [200; 5], "in the next epochs the rest");
}

#[test]
fn a_wallet_has_a_bounded_number_of_unstakes_under_way() {
    let mut ledger = Ledger::new(3, |params| params.ledger.max_unbonding = 2);
    ledger.fund(wallet(0), ALC(100));
    ledger.block(vec![ledger.stake(0, ALC(50))]);
    (0..2).for_each(|_| _ = ledger.block(vec![ledger.unstake(0, ALC(1))]));
    assert_eq!(ledger.refusal(&ledger.unstake(0, ALC(1))), Rejection::TooManyUnstakes { max: 2 });
    ledger.pass(100_000);
    ledger.block(vec![ledger.unstake(0, ALC(1))]);
}
