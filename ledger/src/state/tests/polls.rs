use super::*;
use crate::state::polls::CHANGEABLE;

/// Five founders with 1000 ALC; three of them have staked these amounts.
fn ledger(stakes: [u64; 3]) -> Ledger {
    let mut ledger = Ledger::new(5, |_| {});
    (0..5).for_each(|i| ledger.fund(wallet(i), ALC(1000)));
    ledger.block((0..3).map(|i| ledger.stake(i, ALC(stakes[i as usize]))).collect());
    ledger
}

fn propose(ledger: &Ledger, changes: &[&str]) -> Transaction {
    let changes = changes.iter().map(|change| change.to_string()).collect();
    ledger.sign(&wallet_key(4), Body::Propose { changes, why: "why not".into() })
}

fn vote(ledger: &Ledger, i: u8, approve: bool) -> Transaction {
    let proposal = ledger.state.polls().next().unwrap().0;
    ledger.sign(&wallet_key(i), Body::Vote { proposal, approve })
}

fn end_poll(ledger: &mut Ledger) {
    ledger.pass(ledger.state.params().ledger.poll_ms);
}

#[test]
fn what_two_thirds_of_the_stake_approve_comes_into_force_some_blocks_later() {
    let mut ledger = ledger([40, 30, 30]);
    ledger.block(vec![propose(&ledger, &["ledger.fee=0.02", "round.pot=3"])]);
    assert_eq!(ledger.state.supply().escrow, ALC(100));
    ledger.block(vec![vote(&ledger, 0, true), vote(&ledger, 1, true), vote(&ledger, 2, false)]);
    end_poll(&mut ledger);
    let at = ledger.state.polls().next().unwrap().1.activates.unwrap();
    assert_eq!(ledger.state.supply().escrow, Amount::ZERO, "the deposit is back");
    while ledger.state.height() < at - 1 {
        ledger.block(vec![]);
    }
    assert_eq!(ledger.state.params().ledger.fee, Amount(1_000_000));
    ledger.block(vec![]);
    assert_eq!(ledger.state.params().ledger.fee, Amount(2_000_000), "from its height on");
    assert_eq!(ledger.state.params().round.pot, ALC(3));
    let restored = State::restore(&ledger.genesis, ledger.state.entries()).unwrap();
    assert_eq!(restored.params(), ledger.state.params(), "a restart knows it too");
    assert_eq!(ledger.state.polls().count(), 0);
}

#[test]
fn neither_a_minority_nor_a_poll_without_a_quorum_changes_anything() {
    for (votes, burned) in [(&[(0, true), (1, false), (2, false)][..], false), (&[(1, true)][..], true)] {
        let mut ledger = ledger([40, 30, 30]);
        ledger.block(vec![propose(&ledger, &["ledger.fee=0.02"])]);
        ledger.block(votes.iter().map(|(i, approve)| vote(&ledger, *i, *approve)).collect());
        let before = ledger.state.supply().burned;
        end_poll(&mut ledger);
        assert_eq!(ledger.state.polls().count(), 0);
        assert_eq!(ledger.state.params().ledger.fee, Amount(1_000_000));
        assert_eq!(
            ledger.state.supply().burned.0 - before.0 == ALC(100).0,
            burned,
            "without a quorum the deposit burns"
        );
        let left = ledger.state.entries.keys().filter(|key| matches!(key, Key::PollVote(..))).count();
        assert_eq!(left, 0, "votes of an ended poll are swept");
    }
}

#[test]
fn a_later_vote_replaces_an_earlier_one_and_stake_counts_once() {
    let mut ledger = ledger([40, 30, 30]);
    ledger.block(vec![propose(&ledger, &["ledger.fee=0.02"])]);
    ledger.block(vec![vote(&ledger, 0, false)]);
    ledger.block(vec![ledger.stake(0, ALC(10))]);
    ledger.block(vec![vote(&ledger, 0, true)]);
    let poll = ledger.state.polls().next().unwrap().1;
    assert_eq!((poll.yes, poll.no), (ALC(50), Amount::ZERO));
    let coins = vote(&ledger, 3, true);
    assert_eq!(ledger.refusal(&coins), Rejection::NoStake, "coins that are not staked have no vote");
    assert!(ledger.state.params().ledger.poll_ms < ledger.state.params().ledger.unbonding_ms, "so no coin votes twice");
}

#[test]
fn who_may_take_part_and_what_protects_holders_is_for_no_vote() {
    let ledger = ledger([40, 30, 30]);
    for change in [
        "ledger.confirmations=1",
        "ledger.report_percent=60",
        "ledger.seat_stake=1000",
        "ledger.stake_tiers=[]",
        "ledger.handover_validators=1",
        "ledger.max_nodes=1",
        "ledger.stamp_bits=40",
        "ledger.unbonding_ms=1",
        "ledger.final_ms=1",
        "ledger.poll_ms=1",
        "round.max_participants=1",
        "model.layers=3",
        "nonsense",
    ] {
        assert_eq!(ledger.refusal(&propose(&ledger, &[change])).code(), "NOT_CHANGEABLE", "{change}");
    }
    for change in ["ledger.fee", "ledger.fee=", "ledger.fee=-1", "ledger.slash_ppm=2000000", "ledger.fee=[1]"] {
        assert_eq!(ledger.refusal(&propose(&ledger, &[change])).code(), "BAD_CHANGE", "{change}");
    }
    assert_eq!(ledger.refusal(&propose(&ledger, &[])).code(), "BAD_CHANGE");
    assert_eq!(ledger.refusal(&propose(&ledger, &["ledger.fee=1"; 17])).code(), "BAD_CHANGE");
}

#[test]
fn every_changeable_parameter_exists() {
    let table = toml::Table::try_from(presets::main()).unwrap();
    for name in CHANGEABLE {
        let (section, key) = name.split_once('.').unwrap();
        assert!(table[section].get(key).is_some(), "{name}");
    }
}

#[test]
fn changes_that_no_longer_go_together_are_dropped_at_their_height() {
    let mut ledger = ledger([40, 30, 30]);
    ledger.block(vec![propose(&ledger, &["ledger.fee_burn_ppm=740000"])]);
    let mut both = vec![vote(&ledger, 0, true), vote(&ledger, 1, true)];
    let second = Body::Propose { changes: vec!["ledger.fee_proposer_ppm=490000".into()], why: String::new() };
    both.push(ledger.sign(&wallet_key(4), second));
    ledger.block(both);
    let number = ledger.state.polls().nth(1).unwrap().0;
    ledger.block([0, 1].map(|i| ledger.sign(&wallet_key(i), Body::Vote { proposal: number, approve: true })).into());
    ledger.pass(60_000);
    (0..5).for_each(|_| _ = ledger.block(vec![]));
    let params = &ledger.state.params().ledger;
    assert_eq!((params.fee_burn_ppm, params.fee_proposer_ppm), (740_000, 250_000), "together they exceed the whole");
    assert_eq!(ledger.state.changes(), ["ledger.fee_burn_ppm=740000"]);
}
