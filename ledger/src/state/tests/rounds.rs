use super::*;
use ailo_protocol::{
    contribution::{Contribution, Finding},
    params::RoundParams,
};

fn ledger(founders: u8, edit: impl FnOnce(&mut RoundParams)) -> Ledger {
    Ledger::new(founders, |params| edit(&mut params.round))
}

/// A round of `n` founders in which all have committed.
fn committed(n: u8, edit: impl FnOnce(&mut RoundParams)) -> Ledger {
    let mut ledger = ledger(n, edit);
    ledger.open_round(0..n);
    ledger.block((0..n).map(|i| ledger.commit(i)).collect());
    assert_eq!(ledger.state.round().phase, Phase::Verify);
    ledger
}

/// A round of `n` founders in which all was found valid.
fn verified(n: u8, edit: impl FnOnce(&mut RoundParams)) -> Ledger {
    let mut ledger = committed(n, edit);
    ledger.block((0..n).map(|i| ledger.verdict(i, |_| 2_000_000)).collect());
    assert_eq!(ledger.state.round().phase, Phase::Vote);
    ledger
}

fn aborted(ledger: &Ledger) -> Option<AbortReason> {
    ledger.events.iter().find_map(|e| if let Event::RoundAborted { reason, .. } = e { Some(*reason) } else { None })
}

fn minted_for(ledger: &Ledger, kind: RewardKind) -> Vec<(NodeId, Amount)> {
    let reward = |e: &Event| match e {
        Event::Reward { node, amount, kind: k, .. } if *k == kind => Some((*node, *amount)),
        _ => None,
    };
    ledger.events.iter().filter_map(reward).collect()
}

const ROOT: Hash = Hash([77; 32]);

#[test]
fn a_round_opens_in_the_block_in_which_enough_are_eligible() {
    let mut ledger = ledger(4, |_| {});
    ledger.block(ledger.heartbeats(0..3));
    assert_eq!(ledger.state.round().phase, Phase::Gather);
    ledger.block(ledger.heartbeats(3..4));
    let round = ledger.state.round();
    assert_eq!((round.number, round.phase, round.f, round.protected), (0, Phase::Train, 1, true));
    assert_eq!(round.deadline_age - round.opened_age, 60_000, "the first deadline is the longest");
    let mut participants = round.participants.clone();
    participants.sort();
    let mut founders: Vec<NodeId> = (0..4).map(|i| *node_key(i).public()).collect();
    founders.sort();
    assert_eq!(participants, founders);
}

#[test]
fn a_round_opens_with_fewer_after_a_wait_and_says_that_it_is_unprotected() {
    let mut ledger = ledger(4, |_| {});
    ledger.pass(1_000);
    ledger.pass(20_000);
    assert_eq!(ledger.state.round().phase, Phase::Gather, "nobody is eligible");
    ledger.block(ledger.heartbeats(0..3));
    let round = ledger.state.round();
    assert_eq!((round.phase, round.participants.len(), round.f, round.protected), (Phase::Train, 3, 0, false));
}

#[test]
fn the_first_round_waits_from_the_first_block_on_however_long_ago_the_founding_was() {
    let mut ledger = ledger(4, |_| {});
    ledger.block_of_accepted(60_000, ledger.heartbeats(0..1));
    assert_eq!(ledger.state.round().phase, Phase::Gather, "whose node is up first is not alone");
    ledger.block_of_accepted(1_000, ledger.heartbeats(1..4));
    let round = ledger.state.round();
    assert_eq!((round.number, round.participants.len(), round.protected), (0, 4, true));
}

#[test]
fn who_does_not_train_or_was_not_seen_lately_is_not_eligible() {
    let mut ledger = ledger(2, |_| {});
    let beats = [true, false]
        .into_iter()
        .zip(0..)
        .map(|(trains, i)| ledger.sign(&node_key(i), Body::Heartbeat { trains, class: CLASS }));
    let beats = beats.collect();
    ledger.block(beats);
    assert_eq!(ledger.state.eligible(), [*node_key(0).public()]);
    ledger.pass(5_000);
    assert_eq!(ledger.state.round().participants, [*node_key(0).public()]);
    ledger.pass(30_000);
    assert_eq!(ledger.state.eligible(), []);
}

#[test]
fn slots_are_drawn_anew_for_each_round() {
    let mut ledger = ledger(4, |_| {});
    let mut orders = std::collections::BTreeSet::new();
    ledger.open_round(0..4);
    for _ in 0..8 {
        orders.insert(ledger.state.round().participants.clone());
        ledger.block((0..4).map(|i| ledger.commit(i)).collect());
        ledger.block((0..4).map(|i| ledger.verdict(i, |_| 1)).collect());
        ledger.block((0..4).map(|i| ledger.vote(i, ROOT, 1)).collect());
    }
    assert!(orders.len() > 3, "{orders:?}");
}

#[test]
fn a_contribution_must_be_exactly_what_the_round_asks_for() {
    let mut ledger = ledger(4, |params| (params.target_participants, params.max_payload_bytes) = (3, 2000));
    ledger.open_round(0..3);
    let refusal = |i: u8, change: &dyn Fn(&mut Contribution)| {
        let mut contribution = ledger.contribution(i);
        change(&mut contribution);
        ledger.refusal(&ledger.sign(&node_key(i), Body::Contribute(contribution)))
    };
    assert_eq!(refusal(3, &|_| {}), Rejection::NotParticipant);
    assert_eq!(refusal(0, &|c| c.round = 1), Rejection::WrongRound { open: 0, got: 1 });
    assert_eq!(refusal(0, &|c| c.base_root = ROOT), Rejection::WrongBase);
    assert_eq!(refusal(0, &|c| c.slot += 1).code(), "WRONG_SLOT");
    assert_eq!(refusal(0, &|c| c.tokens += 1).code(), "WRONG_WORK");
    assert_eq!(refusal(0, &|c| c.steps -= 1).code(), "WRONG_WORK");
    assert_eq!(refusal(0, &|c| c.payload_bytes = 0), Rejection::BadPayloadSize { max: 2000 });
    assert_eq!(refusal(0, &|c| c.payload_bytes = 2001), Rejection::BadPayloadSize { max: 2000 });
    let mut ledger = ledger;
    ledger.block(vec![ledger.commit(0)]);
    assert_eq!(ledger.refusal(&ledger.commit(0)), Rejection::AlreadyContributed);
}

#[test]
fn what_comes_in_another_phase_is_refused() {
    let mut ledger = ledger(4, |_| {});
    assert_eq!(ledger.refusal(&ledger.commit(0)), Rejection::WrongPhase { phase: Phase::Gather });
    ledger.open_round(0..4);
    assert_eq!(ledger.refusal(&ledger.verdict(0, |_| 1)), Rejection::WrongPhase { phase: Phase::Train });
    assert_eq!(ledger.refusal(&ledger.vote(0, ROOT, 1)), Rejection::WrongPhase { phase: Phase::Train });
}

#[test]
fn who_misses_a_commit_sits_out_until_its_next_heartbeat() {
    let mut ledger = ledger(4, |_| {});
    ledger.open_round(0..4);
    ledger.block((0..3).map(|i| ledger.commit(i)).collect());
    assert_eq!(ledger.state.round().phase, Phase::Train);
    ledger.pass(40_000);
    ledger.block(ledger.heartbeats(0..4));
    ledger.pass(18_000);
    assert_eq!(ledger.state.round().phase, Phase::Verify, "three of four are enough");
    let latecomer = node_key(3);
    assert!(ledger.founder(3).missed && !ledger.state.eligible().contains(latecomer.public()));
    ledger.block_of_accepted(1000, ledger.heartbeats(0..4));
    assert!(!ledger.founder(3).missed && ledger.state.eligible().contains(latecomer.public()));
}

#[test]
fn too_few_commits_abort_the_round_and_give_the_next_one_more_time() {
    let mut ledger = ledger(4, |params| params.min_train_ms = 5_000);
    ledger.run_round(4, 1);
    assert_eq!(ledger.state.model().train_ms, 5_000, "a quick round shortens the next one");
    let number = ledger.state.round().number;
    assert_eq!((number, ledger.state.round().phase), (1, Phase::Train), "everybody is still eligible");
    ledger.block((0..2).map(|i| ledger.commit(i)).collect());
    let before = (ledger.state.model().root, ledger.state.supply());
    ledger.pass(5_000);
    assert_eq!(aborted(&ledger), Some(AbortReason::TooFewCommits));
    assert_eq!((ledger.state.model().root, ledger.state.supply()), before, "model unchanged, nothing minted");
    assert_eq!(ledger.state.round().number, number + 1);
    assert_eq!(ledger.state.model().train_ms, 10_000);
}

#[test]
fn the_deadline_follows_the_commit_times_of_the_last_round() {
    let mut ledger = ledger(4, |_| {});
    ledger.open_round(0..4);
    for i in 0..4 {
        ledger.pass(1000 * u64::from(i));
        ledger.block(vec![ledger.commit(i)]);
    }
    // Commits after 1, 3, 6 and 10 s: lower median 3, lower median deviation 2, so 3 + 5 * 2.
    ledger.block((0..4).map(|i| ledger.verdict(i, |_| 1)).collect());
    ledger.block((0..4).map(|i| ledger.vote(i, ROOT, 1)).collect());
    assert_eq!(ledger.state.model().train_ms, 13_000);
}

#[test]
fn a_verdict_must_speak_about_each_contribution_and_measure_only_if_drawn() {
    let mut ledger = committed(4, |params| params.committee = 2);
    let round = ledger.state.round().clone();
    let (inside, outside): (Vec<u8>, Vec<u8>) = (0..4).partition(|i| round.committee.contains(node_key(*i).public()));
    assert_eq!(inside.len(), 2);
    let refusal = |i: u8, change: &dyn Fn(&mut Vec<Finding>)| {
        let Body::Verdict { round, mut findings } = ledger.verdict(i, |_| 1).unsigned.body else { panic!() };
        change(&mut findings);
        ledger.refusal(&ledger.sign(&node_key(i), Body::Verdict { round, findings }))
    };
    assert_eq!(refusal(inside[0], &|f| f.truncate(3)), Rejection::BadFindings, "one is missing");
    assert_eq!(refusal(inside[0], &|f| f.swap(0, 1)), Rejection::BadFindings, "out of order");
    assert_eq!(refusal(inside[0], &|f| f.push(f[0].clone())), Rejection::BadFindings, "one twice");
    assert_eq!(refusal(inside[0], &|f| f[0].valid = false), Rejection::BadFindings, "a loss of what was not held");
    assert_eq!(refusal(outside[0], &|f| f[0].loss = Some(1)), Rejection::BadFindings, "not of the committee");
    let mut by_stranger = ledger.verdict(outside[0], |_| 1);
    by_stranger = ledger.sign(&stranger(0), by_stranger.unsigned.body.clone());
    assert_eq!(ledger.refusal(&by_stranger), Rejection::NotValidator);
    ledger.block(vec![ledger.verdict(0, |_| 1)]);
    assert_eq!(ledger.refusal(&ledger.verdict(0, |_| 1)), Rejection::AlreadyJudged);
}

/// The founders' verdicts, of which the first `against` find the contributions of the founders `bad` invalid.
fn verdicts_against(ledger: &Ledger, bad: std::ops::Range<u8>, against: u8) -> Vec<Transaction> {
    let bad: Vec<NodeId> = bad.map(|i| *node_key(i).public()).collect();
    let verdict = |i| {
        let Body::Verdict { round, mut findings } = ledger.verdict(i, |_| 1).unsigned.body else { panic!() };
        for finding in findings.iter_mut().filter(|finding| i < against && bad.contains(&finding.node)) {
            (finding.valid, finding.loss) = (false, None);
        }
        ledger.sign(&node_key(i), Body::Verdict { round, findings })
    };
    (0..4).map(verdict).collect()
}

#[test]
fn a_contribution_counts_only_when_more_than_two_thirds_found_it_held_and_valid() {
    for (against, accepted) in [(1, 4), (2, 3)] {
        let mut ledger = committed(4, |_| {});
        ledger.block(verdicts_against(&ledger, 0..1, against));
        assert_eq!(ledger.state.round().phase, Phase::Vote);
        assert_eq!(ledger.state.round().accepted().len(), accepted, "with {against} of 4 against it");
    }
}

#[test]
fn accepted_contributions_are_in_slot_order() {
    let ledger = verified(4, |_| {});
    let round = ledger.state.round();
    let order: Vec<NodeId> = round.accepted().iter().map(|(node, _)| *node).collect();
    assert_eq!(order, round.participants);
}

#[test]
fn verification_waits_for_the_committee_but_not_past_the_deadline() {
    let mut ledger = committed(4, |params| params.committee = 4);
    ledger.block((0..3).map(|i| ledger.verdict(i, |_| 1)).collect());
    assert!(ledger.state.round().is_decided());
    assert_eq!(ledger.state.round().phase, Phase::Verify, "the fourth has not measured");
    ledger.pass(9_000);
    assert_eq!(ledger.state.round().phase, Phase::Vote);
}

#[test]
fn fewer_accepted_contributions_than_2f_plus_1_abort_the_round() {
    let mut silent = committed(4, |_| {});
    silent.block((0..2).map(|i| silent.verdict(i, |_| 1)).collect());
    silent.pass(9_000);
    let mut refused = committed(4, |_| {});
    refused.block(verdicts_against(&refused, 0..2, 2));
    for ledger in [silent, refused] {
        assert_eq!(aborted(&ledger), Some(AbortReason::TooFewAccepted));
        assert_eq!((ledger.state.model().steps, ledger.state.supply().minted), (0, Amount::ZERO));
    }
}

#[test]
fn more_than_two_thirds_on_one_root_close_the_round_and_pay_the_pot() {
    let mut ledger = verified(4, |_| {});
    ledger.block((0..2).map(|i| ledger.vote(i, ROOT, 5)).collect());
    assert_eq!(ledger.state.round().phase, Phase::Vote, "half of the power is not enough");
    assert_eq!(ledger.refusal(&ledger.vote(0, ROOT, 5)), Rejection::AlreadyVoted);
    ledger.block(vec![ledger.vote(3, ROOT, 7)]);
    let model = ledger.state.model();
    assert_eq!((model.root, model.steps, model.loss), (ROOT, 1, Some(5)));
    assert_eq!(ledger.state.supply().minted, ALC(1));
    assert_eq!(ledger.state.round().number, 1);
    assert_eq!(ledger.state.round().base_root, ROOT);
    for i in 0..4 {
        assert_eq!(ledger.free(i), Amount(25_000_000), "equal work, equal pay");
        assert_eq!(ledger.founder(i).work.values().sum::<u32>(), 1);
    }
}

#[test]
fn a_vote_that_can_not_be_won_any_more_aborts_at_once_and_a_silent_one_at_the_deadline() {
    let mut ledger = verified(4, |_| {});
    ledger.block((0..2).map(|i| ledger.vote(i, ROOT, 5)).collect());
    ledger.block(vec![ledger.vote(2, Hash::ZERO, 5)]);
    assert_eq!(aborted(&ledger), None, "three of four can still agree");
    ledger.block(vec![ledger.vote(3, Hash::ZERO, 5)]);
    assert_eq!(aborted(&ledger), Some(AbortReason::VoteSplit));
    assert_eq!(ledger.state.model().steps, 0);

    let mut ledger = verified(4, |_| {});
    ledger.block((0..2).map(|i| ledger.vote(i, ROOT, 5)).collect());
    ledger.pass(9_000);
    assert_eq!(aborted(&ledger), Some(AbortReason::VoteDeadline));
    assert_eq!(ledger.state.supply().minted, Amount::ZERO);
}

#[test]
fn validators_that_were_too_late_get_twice_the_time_until_rounds_close_again() {
    let mut ledger = ledger(4, |_| {});
    let time = |ledger: &mut Ledger, votes: u8| {
        ledger.open_round(0..4);
        ledger.block((0..4).map(|i| ledger.commit(i)).collect());
        let verify = ledger.state.round().deadline_age - ledger.state.round().phase_age;
        ledger.block((0..4).map(|i| ledger.verdict(i, |_| 1)).collect());
        assert_eq!(ledger.state.round().phase, Phase::Vote);
        let vote = ledger.state.round().deadline_age - ledger.state.round().phase_age;
        ledger.block((0..votes).map(|i| ledger.vote(i, ROOT, 5)).collect());
        ledger.pass(vote);
        (verify, vote)
    };
    let base = time(&mut ledger, 2);
    assert_eq!(base, (10_000, 10_000));
    assert_eq!(time(&mut ledger, 2), (20_000, 20_000));
    assert_eq!(time(&mut ledger, 4), (40_000, 40_000));
    assert_eq!(time(&mut ledger, 4), (20_000, 20_000), "one closed");
    assert_eq!(time(&mut ledger, 4), base, "another one did");
}

#[test]
fn the_power_of_a_round_is_that_of_its_opening() {
    let mut ledger = ledger(5, |params| params.target_participants = 4);
    (0..5).for_each(|i| ledger.fund(wallet(i), ALC(1000)));
    ledger.open_round(0..4);
    ledger.block((1..5).map(|i| ledger.stake(i, ALC(120))).collect());
    assert_eq!(ledger.state.validators().power(node_key(0).public()), 0, "the founders have handed over");
    ledger.block((0..4).map(|i| ledger.commit(i)).collect());
    ledger.block((0..5).map(|i| ledger.verdict(i, |_| 1)).collect());
    ledger.block((0..4).map(|i| ledger.vote(i, ROOT, 1)).collect());
    assert_eq!(ledger.state.model().root, ROOT);
}

#[test]
fn faster_and_better_work_earns_more_of_the_same_pot() {
    let mut ledger = ledger(4, |_| {});
    ledger.open_round(0..4);
    ledger.block((0..3).map(|i| ledger.commit(i)).collect());
    ledger.pass(1_000);
    ledger.block(vec![ledger.commit(3)]); // Three times as long as the median.
    let best = *node_key(0).public();
    let loss = |node: &NodeId| if *node == best { 1_900_000 } else { 2_000_000 };
    ledger.block((0..4).map(|i| ledger.verdict(i, loss)).collect());
    ledger.block((0..4).map(|i| ledger.vote(i, ROOT, 5)).collect());
    // 5 % below the median is half of the bonus of 9; a quarter of it counts in the first round: 1 + 9 / 8.
    assert_eq!(ledger.founder(0).score_ppm, 1_125_000);
    let weights = [2_125_000u64, 1_000_000, 1_000_000, 500_000];
    let total: u64 = weights.iter().sum();
    let minted = minted_for(&ledger, RewardKind::Training);
    for (i, weight) in weights.into_iter().enumerate() {
        let share = ALC(1).proportion(weight, total).unwrap();
        assert!(minted.contains(&(*node_key(i as u8).public(), share)), "founder {i} earns {share}");
    }
    assert!(ledger.state.supply().minted <= ALC(1));
}

#[test]
fn committee_members_do_not_measure_for_their_own_wallet() {
    let mut ledger = committed(4, |params| params.committee = 4);
    ledger.block((0..3).map(|i| ledger.verdict(i, |_| 1_000)).collect());
    for (node, commit) in &ledger.state.round().contributions {
        let own = (0..3).any(|i| node_key(i).public() == node);
        assert_eq!(commit.losses.len(), if own { 2 } else { 3 });
    }
    let ledger = committed(1, |_| {});
    assert_eq!(ledger.state.round().contributions.len(), 1);
}

#[test]
fn a_single_founder_trains_alone() {
    let mut ledger = ledger(1, |_| {});
    for loss in [3, 2, 1] {
        ledger.run_round(1, loss);
    }
    assert_eq!(ledger.state.model().steps, 3);
    assert_eq!(ledger.free(0), ALC(3).checked_add(Amount(512_000_000)).unwrap());
}

#[test]
fn rounds_mint_no_more_than_the_cap_of_an_epoch() {
    let mut ledger = ledger(1, |params| {
        (params.epoch_cap, params.best_loss_bonus) = (Amount(150_000_000), Amount::ZERO);
        params.uptime_cap = Amount::ZERO;
    });
    ledger.run_round(1, 9);
    ledger.run_round(1, 9);
    ledger.run_round(1, 9);
    assert_eq!(ledger.state.epoch(), 0);
    assert_eq!(ledger.state.supply().minted, Amount(150_000_000));
    ledger.pass(60_000);
    ledger.run_round(1, 9);
    assert_eq!(ledger.state.supply().minted, Amount(250_000_000));
}

#[test]
fn a_new_best_loss_earns_its_bonus_once_an_epoch_and_small_steps_add_up() {
    let mut ledger = ledger(1, |_| {});
    let bonus = |ledger: &mut Ledger, loss: u64| {
        ledger.run_round(1, loss);
        minted_for(ledger, RewardKind::BestLoss).iter().map(|(_, amount)| amount.0).sum::<u64>()
    };
    assert_eq!(bonus(&mut ledger, 1_000_000), 0, "the first loss sets the mark");
    assert_eq!(bonus(&mut ledger, 997_000), 0, "0.3 % is too little");
    assert_eq!(bonus(&mut ledger, 994_000), 512_000_000, "0.6 % in two steps is enough");
    assert_eq!(bonus(&mut ledger, 900_000), 0, "once an epoch");
    ledger.pass(60_000);
    assert_eq!(bonus(&mut ledger, 950_000), 0, "better than the mark, but not the best ever");
    assert_eq!(bonus(&mut ledger, 899_000), 512_000_000);
}

#[test]
fn the_loss_of_a_model_is_the_lower_median_of_the_winning_votes() {
    let mut ledger = verified(4, |_| {});
    let votes = [(9, ROOT), (3, ROOT), (1, Hash::ZERO), (5, ROOT)];
    ledger.block((0..4).zip(votes).map(|(i, (loss, root))| ledger.vote(i, root, loss)).collect());
    assert_eq!(ledger.state.model().loss, Some(5));
}

#[test]
fn a_crowd_of_nodes_is_thinned_by_lot() {
    let mut ledger = ledger(9, |params| (params.target_participants, params.max_participants) = (5, 5));
    ledger.block(ledger.heartbeats(0..9));
    assert_eq!(ledger.state.round().participants.len(), 5);
    assert_eq!(ledger.state.round().f, 1);
}

#[test]
fn training_ends_after_its_number_of_rounds() {
    let mut ledger = ledger(1, |params| params.rounds = 2);
    ledger.run_round(1, 2);
    ledger.run_round(1, 1);
    ledger.pass(10_000);
    ledger.block(ledger.heartbeats(0..1));
    assert_eq!((ledger.state.model().steps, ledger.state.round().phase), (2, Phase::Gather));
}

/// What the founders from `first` on earn over so many rounds, of whom one machine trains one slot a round for all, whoever
/// of them has one; beside four founders who train every round.
fn earned_by_one_machine(rounds: u64, first: u8, founders: u8) -> (Amount, Amount) {
    let mut ledger = ledger(founders, |params| {
        params.target_participants = u32::from(founders);
        (params.pot, params.uptime_pay) = (Amount(1_000_000_000), Amount::ZERO);
        params.probation = 0; // nobody reports replays here, and what they are promised would be lost
    });
    let number = |id: &NodeId| (0..founders).find(|i| node_key(*i).public() == id).unwrap();
    let closed = |ledger: &Ledger| ledger.state.model().steps;
    while closed(&ledger) < rounds {
        ledger.pass(5_000);
        ledger.block_of_accepted(1_000, ledger.heartbeats(0..founders));
        while ledger.state.round().phase == Phase::Gather {
            ledger.block_of_accepted(3_000, ledger.heartbeats(0..founders));
        }
        let slots: Vec<u8> = ledger.state.round().participants.iter().map(number).collect();
        let of_the_machine = slots.iter().copied().find(|i| *i >= first);
        let trained = slots.into_iter().filter(|i| *i < first).chain(of_the_machine);
        ledger.block(trained.map(|i| ledger.commit(i)).collect());
        while ledger.state.round().phase == Phase::Train {
            ledger.pass(5_000);
        }
        ledger.block_of_accepted(1, vec![]);
        ledger.block((0..founders).map(|i| ledger.verdict(i, |_| 2_000_000)).collect());
        ledger.block((0..founders).map(|i| ledger.vote(i, ROOT, 2_000_000)).collect());
    }
    ledger.pass(60_000);
    let earned: Vec<u64> = (0..founders).map(|i| ledger.state.account(&wallet(i)).free.0).collect();
    let (honest, machine) = earned.split_at(first.into());
    (Amount(honest.iter().sum::<u64>() / u64::from(first)), Amount(machine.iter().sum()))
}

#[test]
fn a_machine_behind_four_identities_earns_no_more_than_behind_one() {
    let (beside_one, one) = earned_by_one_machine(20, 4, 5);
    let (beside_four, four) = earned_by_one_machine(20, 4, 8);
    assert!(one > Amount::ZERO && four.0 * 100 <= one.0 * 101, "one {one}, four {four}");
    assert!(beside_one.0 * 100 <= beside_four.0 * 101, "beside one {beside_one}, beside four {beside_four}");
}
