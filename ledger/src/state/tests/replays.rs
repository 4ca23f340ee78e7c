use super::*;
use ailo_protocol::params::RoundParams;

/// Five founders of which all work is replayed; a round is paid once nothing of it is open.
fn ledger(edit: impl FnOnce(&mut RoundParams)) -> Ledger {
    let mut ledger = Ledger::new(5, |params| {
        params.round.replay_ppm = 1_000_000;
        // All work is worth the same, and the lot can't miss any.
        (params.round.speed_min_ppm, params.round.speed_max_ppm, params.round.quality_max_ppm) =
            (1_000_000, 1_000_000, 1_000_000);
        (params.round.pot, params.round.uptime_pay) = (ALC(100), Amount::ZERO);
        params.ledger.seat_delay_epochs = 1;
        edit(&mut params.round);
    });
    ledger.pass(61_000); // so that keys are an epoch old
    unreported_round(&mut ledger);
    ledger
}

/// A round of the founders, whose replays nobody has reported.
fn unreported_round(ledger: &mut Ledger) {
    ledger.open_round(0..5);
    ledger.block((0..5).map(|i| ledger.commit(i)).collect());
    ledger.block((0..5).map(|i| ledger.verdict(i, |_| 2_000_000)).collect());
    let root = Hash([ledger.state.round().number as u8 + 10; 32]);
    ledger.block((0..5).map(|i| ledger.vote(i, root, 2_000_000)).collect());
}

fn id(i: u8) -> NodeId {
    *node_key(i).public()
}

/// The founder that has to replay `maker`'s work of round 0.
fn replayer(ledger: &Ledger, maker: u8) -> Option<u8> {
    let replayer = ledger.state.replays().find(|(_, of, _)| *of == id(maker))?.2.replayer?;
    (0..5).find(|i| id(*i) == replayer)
}

fn report(ledger: &Ledger, by: u8, maker: u8, trace: Option<Hash>) -> Transaction {
    ledger.sign(&node_key(by), Body::Replayed { round: 0, node: id(maker), trace })
}

/// All drawn replayers find the work of these makers to be right.
fn find_clean(ledger: &mut Ledger, makers: impl Iterator<Item = u8>) {
    let reports = makers.map(|maker| report(ledger, replayer(ledger, maker).unwrap(), maker, Some(trace(maker))));
    let reports = reports.collect();
    ledger.block(reports);
}

/// The replayer got something else.
fn accuse(ledger: &mut Ledger, maker: u8) -> u8 {
    let by = replayer(ledger, maker).unwrap();
    ledger.block(vec![report(ledger, by, maker, None)]);
    ledger.block(vec![]);
    by
}

fn outcome(ledger: &Ledger, maker: u8) -> Option<Outcome> {
    ledger.events.iter().rev().find_map(|event| match event {
        Event::ReplayDecided { node, outcome, .. } if *node == id(maker) => Some(*outcome),
        _ => None,
    })
}

fn earned(ledger: &Ledger, kind: RewardKind) -> std::collections::BTreeMap<NodeId, u64> {
    let mut earned = std::collections::BTreeMap::new();
    for event in &ledger.events {
        if let Event::Reward { node, amount, kind: of, round: Some(0), .. } = event
            && *of == kind
        {
            *earned.entry(*node).or_default() += amount.0;
        }
    }
    earned
}

#[test]
fn every_piece_of_work_that_the_lot_takes_goes_to_a_stranger_of_the_class_and_no_two_to_one() {
    let ledger = ledger(|_| {});
    let drawn: Vec<(u8, u8)> = (0..5).filter_map(|maker| Some((maker, replayer(&ledger, maker)?))).collect();
    // One may be left with nobody but itself.
    assert!(drawn.len() >= 4 && drawn.iter().all(|(maker, by)| maker != by), "{drawn:?}");
    let by: std::collections::BTreeSet<u8> = drawn.iter().map(|(_, by)| *by).collect();
    assert_eq!(by.len(), drawn.len());
}

#[test]
fn with_a_chance_of_nothing_nothing_of_proven_nodes_is_replayed_and_half_of_it_at_a_half() {
    assert_eq!(ledger(|round| (round.replay_ppm, round.probation) = (0, 0)).state.replays().count(), 0);
    let mut ledger = ledger(|round| {
        (round.replay_ppm, round.probation, round.vest_rounds, round.replay_ms) = (500_000, 0, 1, 26_000);
    });
    let mut drawn = 0;
    for _ in 0..40 {
        unreported_round(&mut ledger);
        let newest = ledger.state.past_rounds().map(|round| round.number).max().unwrap();
        let open: Vec<(u64, NodeId, NodeId)> = ledger
            .state
            .replays()
            .filter_map(|(round, maker, replay)| Some((round, maker, replay.replayer?)))
            .collect();
        drawn += open.iter().filter(|(round, ..)| *round == newest).count();
        let reports = open.into_iter().map(|(round, maker, by)| {
            let [maker_i, by_i] = [maker, by].map(|node| (0..5).find(|i| id(*i) == node).unwrap());
            ledger.sign(&node_key(by_i), Body::Replayed { round, node: maker, trace: Some(trace(maker_i)) })
        });
        let reports = reports.collect();
        ledger.block(reports);
    }
    assert!((60..140).contains(&drawn), "{drawn} of 200");
}

#[test]
fn a_round_is_paid_when_its_replays_are_over_and_a_replay_earns_like_a_contribution() {
    let mut ledger = ledger(|_| {});
    let drawn: Vec<u8> = (0..5).filter(|maker| replayer(&ledger, *maker).is_some()).collect();
    assert_eq!(earned(&ledger, RewardKind::Training).len(), 0, "nothing is minted yet");
    let replayers: Vec<NodeId> = drawn.iter().map(|maker| id(replayer(&ledger, *maker).unwrap())).collect();
    find_clean(&mut ledger, drawn.iter().copied());
    let each = ALC(100).0 / (5 + drawn.len() as u64);
    let (trained, replayed) = (earned(&ledger, RewardKind::Training), earned(&ledger, RewardKind::Replay));
    assert_eq!(trained.values().copied().collect::<Vec<_>>(), [each; 5]);
    assert!(replayed.keys().all(|node| replayers.contains(node)) && replayed.values().all(|amount| *amount == each));
    assert_eq!((replayed.len(), ledger.state.replays().count()), (drawn.len(), 0));
    assert!(drawn.iter().all(|maker| ledger.founder(*maker).clean == 1));
    assert_eq!(ledger.state.supply().minted.0, each * (5 + drawn.len() as u64));
}

#[test]
fn only_who_trained_knows_the_trace_and_only_who_is_drawn_reports() {
    let ledger = ledger(|_| {});
    let maker = (0..5).find(|maker| replayer(&ledger, *maker).is_some()).unwrap();
    let by = replayer(&ledger, maker).unwrap();
    assert_eq!(ledger.refusal(&report(&ledger, by, maker, Some(Hash([1; 32])))), Rejection::BadTrace);
    let other = (0..5).find(|i| *i != by).unwrap();
    assert_eq!(ledger.refusal(&report(&ledger, other, maker, Some(trace(maker)))), Rejection::NoSuchReplay);
    let next = ledger.sign(&node_key(by), Body::Replayed { round: 1, node: id(maker), trace: None });
    assert_eq!(ledger.refusal(&next), Rejection::NoSuchReplay);
}

#[test]
fn an_accusation_of_who_has_something_to_lose_is_judged_by_all_and_voids_what_is_not_minted() {
    let mut ledger = ledger(|_| {});
    let maker = (0..5).find(|maker| replayer(&ledger, *maker).is_some()).unwrap();
    let accuser = accuse(&mut ledger, maker);
    assert_eq!(replayer(&ledger, maker), None, "no accomplice is asked");
    let (_, _, trial) = ledger.state.challenges().next().expect("a trial without a bond");
    assert_eq!((trial.bond, ledger.state.supply().escrow), (Amount::ZERO, Amount::ZERO));
    let judges = (0..5)
        .filter(|i| *i != maker)
        .map(|i| ledger.sign(&node_key(i), Body::Judge { round: 0, node: id(maker), found: Hash([9; 32]) }));
    let judges = judges.collect();
    ledger.block(judges);
    assert_eq!(outcome(&ledger, maker), Some(Outcome::Forged));
    assert!(ledger.founder(maker).jailed_until.is_some() && ledger.founder(maker).void_through.is_some());
    assert!(ledger.founder(accuser).idle_through.is_none());
    // The others' replays run out; then the round is paid, and not to the forger.
    let mut rewards = std::collections::BTreeMap::new();
    for _ in 0..80 {
        ledger.pass(1_000);
        rewards.append(&mut earned(&ledger, RewardKind::Training));
        rewards.append(&mut earned(&ledger, RewardKind::Replay));
    }
    assert!(rewards.len() == 4 && !rewards.contains_key(&id(maker)), "{rewards:?}");
}

#[test]
fn judges_that_get_the_same_overrule_the_accuser_who_draws_nothing_for_an_epoch() {
    let mut ledger = ledger(|_| {});
    let maker = (0..5).find(|maker| replayer(&ledger, *maker).is_some()).unwrap();
    let liar = accuse(&mut ledger, maker);
    assert_eq!(ledger.refusal(&report(&ledger, liar, maker, None)), Rejection::NoSuchReplay);
    let claimed = ledger.state.challenges().next().unwrap().2.claimed;
    let judges = (0..5).filter(|i| *i != liar);
    let judges = judges.map(|i| ledger.sign(&node_key(i), Body::Judge { round: 0, node: id(maker), found: claimed }));
    let judges: Vec<Transaction> = judges.take(2).collect();
    ledger.block(judges);
    assert_eq!((ledger.state.challenges().count(), outcome(&ledger, maker)), (0, Some(Outcome::Clean)));
    assert_eq!(ledger.founder(liar).idle_through, Some(ledger.state.epoch() + 1));
    assert!(ledger.founder(maker).jailed_until.is_none());
}

#[test]
fn a_trial_that_nobody_speaks_in_leaves_the_work_unlooked_at_and_overrules_who_brought_it_about() {
    let mut ledger = ledger(|_| {});
    let maker = (0..5).find(|maker| replayer(&ledger, *maker).is_some()).unwrap();
    let accuser = accuse(&mut ledger, maker);
    let mut paid = std::collections::BTreeMap::new();
    for _ in 0..90 {
        ledger.one_block(1_000, vec![]);
        paid.append(&mut earned(&ledger, RewardKind::Training));
    }
    assert_eq!((ledger.state.challenges().count(), paid.len()), (0, 5), "{paid:?}");
    let accuser = ledger.founder(accuser);
    assert!(accuser.jailed_until.is_none() && accuser.idle_through.is_some());
}

#[test]
fn who_gains_no_more_on_its_own_data_than_elsewhere_is_drawn_until_a_replay_finds_it_right() {
    let mut ledger = ledger(|round| (round.replay_ppm, round.probation) = (0, 0));
    let mut rounds = 0;
    let (number, by) = loop {
        rounds += 1;
        ledger.open_round(0..5);
        ledger.block((0..5).map(|i| ledger.commit(i)).collect());
        let number = ledger.state.round().number;
        let verdicts = (0..5).map(|judge| {
            let mut findings = ledger.findings(judge, |_| 2_000_000);
            let measured = findings.iter_mut().filter(|finding| finding.loss.is_some());
            measured.for_each(|finding| finding.own = Some(if finding.node == id(3) { -2 } else { 100 }));
            ledger.sign(&node_key(judge), Body::Verdict { round: number, findings })
        });
        let verdicts = verdicts.collect();
        ledger.block(verdicts);
        let root = Hash([number as u8 + 10; 32]);
        ledger.block((0..5).map(|i| ledger.vote(i, root, 2_000_000)).collect());
        ledger.block(vec![]);
        let drawn: Vec<_> =
            ledger.state.replays().map(|(round, maker, replay)| (round, maker, replay.replayer)).collect();
        match drawn[..] {
            [] => assert!(rounds < 10, "it is not drawn"),
            [(round, maker, Some(by))] if maker == id(3) => break (round, (0..5).find(|i| id(*i) == by).unwrap()),
            _ => panic!("{drawn:?}"),
        }
    };
    assert!(rounds > 2, "one round tells little");
    let report = Body::Replayed { round: number, node: id(3), trace: Some(trace(3)) };
    let report = ledger.sign(&node_key(by), report);
    ledger.block(vec![report]);
    assert_eq!(ledger.founder(3).own_ppm, 1_000_000);
}

#[test]
fn work_that_a_third_of_the_power_suspects_is_drawn_whatever_the_chance() {
    let mut ledger = ledger(|round| (round.replay_ppm, round.probation) = (0, 0));
    let drawn = |ledger: &mut Ledger, suspects: u8| {
        ledger.pass(5_000);
        ledger.block_of_accepted(1_000, ledger.heartbeats(0..5));
        ledger.block((0..5).map(|i| ledger.commit(i)).collect());
        let verdicts = (0..5).map(|judge| {
            let mut findings = ledger.findings(judge, |_| 2_000_000);
            findings.iter_mut().for_each(|f| f.suspect = judge < suspects && f.node == id(3));
            ledger.sign(&node_key(judge), Body::Verdict { round: ledger.state.round().number, findings })
        });
        let verdicts = verdicts.collect();
        ledger.block(verdicts);
        let root = Hash([ledger.state.round().number as u8 + 10; 32]);
        ledger.block((0..5).map(|i| ledger.vote(i, root, 2_000_000)).collect());
        ledger.block(vec![]);
        ledger.state.replays().map(|(_, maker, _)| maker).collect::<Vec<_>>()
    };
    assert_eq!(drawn(&mut ledger, 0), []);
    assert_eq!(drawn(&mut ledger, 1), [], "one of five may suspect whom it likes");
    assert_eq!(drawn(&mut ledger, 2), [id(3)]);
}

#[test]
fn who_is_silent_is_replaced_and_after_three_the_work_of_a_proven_node_is_paid_unseen() {
    let mut ledger = ledger(|_| {});
    let mut paid = std::collections::BTreeMap::new();
    let mut unseen = 0;
    for _ in 0..60 {
        ledger.one_block(1_000, vec![]);
        paid.append(&mut earned(&ledger, RewardKind::Training));
        unseen += ledger
            .events
            .iter()
            .filter(|event| matches!(event, Event::ReplayDecided { outcome: Outcome::Unseen, .. }))
            .count();
    }
    assert!(unseen >= 4 && paid.len() == 5, "{unseen} {paid:?}");
    assert_eq!(ledger.state.replays().count(), 0);
}

/// A newcomer with its own wallet takes part in every round of the founders.
fn with_newcomer(edit: impl FnOnce(&mut RoundParams)) -> (Ledger, Keypair) {
    let mut ledger = Ledger::new(5, |params| {
        (params.round.replay_ppm, params.round.target_participants) = (0, 6);
        params.ledger.seat_delay_epochs = 1;
        edit(&mut params.round);
    });
    let newcomer = stranger(7);
    let register = register_body(&ledger.state, &newcomer, &stranger(8), ledger.state.stamp_bits());
    ledger.block(vec![ledger.sign(&newcomer, register)]);
    ledger.pass(61_000);
    (ledger, newcomer)
}

/// Runs a round of the founders and the newcomer up to its draw.
fn round_with(ledger: &mut Ledger, newcomer: &Keypair) {
    ledger.pass(5_000);
    let beats = ledger
        .heartbeats(0..5)
        .into_iter()
        .chain([ledger.sign(newcomer, Body::Heartbeat { trains: true, class: CLASS })]);
    let beats = beats.collect();
    ledger.block_of_accepted(1_000, beats);
    let round = ledger.state.round().clone();
    assert_eq!((round.phase, round.class), (Phase::Train, Some(CLASS)));
    assert!(round.participants.contains(newcomer.public()), "it has a place");
    let mut work = ledger.contribution(0);
    work.slot = round.slot(newcomer.public()).unwrap();
    (work.payload, work.update) = (Hash([77; 32]), Hash([77; 32]));
    work.trace = ailo_protocol::contribution::trace_commitment(newcomer.public(), &Hash([78; 32]));
    let mut commits: Vec<Transaction> = (0..5).map(|i| ledger.commit(i)).collect();
    commits.push(ledger.sign(newcomer, Body::Contribute(work)));
    ledger.block(commits);
    ledger.block((0..5).map(|i| ledger.verdict(i, |_| 2_000_000)).collect());
    let root = Hash([ledger.state.round().number as u8 + 10; 32]);
    ledger.block((0..5).map(|i| ledger.vote(i, root, 2_000_000)).collect());
}

/// The open replay of the newcomer's work.
fn owed(ledger: &Ledger, newcomer: &Keypair) -> Option<(u64, u8)> {
    let (round, _, replay) = ledger.state.replays().find(|(_, maker, _)| maker == newcomer.public())?;
    let replayer = replay.replayer?;
    Some((round, (0..5).find(|i| id(*i) == replayer)?))
}

#[test]
fn a_newcomer_is_replayed_until_it_is_proven_and_paid_only_for_what_was_found_right() {
    let (mut ledger, newcomer) = with_newcomer(|_| {});
    for clean in 1..=3 {
        round_with(&mut ledger, &newcomer);
        ledger.report_replays();
        let (round, by) = owed(&ledger, &newcomer).expect("drawn, whatever the chance");
        let body = Body::Replayed { round, node: *newcomer.public(), trace: Some(Hash([78; 32])) };
        let report = ledger.sign(&node_key(by), body);
        ledger.block(vec![report]);
        let entry = ledger.state.node(newcomer.public()).unwrap();
        assert_eq!((entry.clean, entry.work.values().sum::<u32>()), (clean, clean), "its work counts");
    }
    round_with(&mut ledger, &newcomer);
    assert_eq!(owed(&ledger, &newcomer), None, "it is proven");
}

#[test]
fn forged_work_of_who_has_nothing_to_lose_is_disowned_by_two_and_never_paid() {
    let (mut ledger, newcomer) = with_newcomer(|_| {});
    round_with(&mut ledger, &newcomer);
    let mut disowned = false;
    for _ in 0..2 {
        let (round, by) = owed(&ledger, &newcomer).unwrap();
        let report = ledger.sign(&node_key(by), Body::Replayed { round, node: *newcomer.public(), trace: None });
        ledger.block(vec![report]);
        for _ in 0..2 {
            let outcome = |event: &Event| matches!(event, Event::ReplayDecided { outcome: Outcome::Disowned, .. });
            disowned |= ledger.events.iter().any(outcome);
            ledger.block(vec![]);
        }
    }
    let entry = ledger.state.node(newcomer.public()).unwrap();
    assert_eq!((entry.clean, entry.work.len(), ledger.state.challenges().count()), (0, 0, 0));
    assert!(entry.misses > 0 && disowned);
    assert_eq!(ledger.state.account(&entry.wallet).free, Amount::ZERO);
}

#[test]
fn where_no_trial_is_worth_it_two_of_three_replayers_decide_and_the_third_is_overruled() {
    for (said, expected) in [
        ([false, true, true], Outcome::Clean),
        ([false, true, false], Outcome::Disowned),
        ([false, false, true], Outcome::Disowned),
        ([true, false, false], Outcome::Clean),
    ] {
        let (mut ledger, newcomer) = with_newcomer(|_| {});
        round_with(&mut ledger, &newcomer);
        let decided = |ledger: &Ledger| {
            ledger.events.iter().find_map(|event| match event {
                Event::ReplayDecided { node, outcome, .. } if node == newcomer.public() => Some(*outcome),
                _ => None,
            })
        };
        let (mut replayers, mut outcome) = (Vec::new(), None);
        for same in said {
            let Some((round, by)) = owed(&ledger, &newcomer) else { break };
            let trace = same.then_some(Hash([78; 32]));
            let report = ledger.sign(&node_key(by), Body::Replayed { round, node: *newcomer.public(), trace });
            ledger.block(vec![report]);
            outcome = outcome.or(decided(&ledger));
            replayers.push((by, same));
            ledger.block(vec![]);
            outcome = outcome.or(decided(&ledger));
        }
        assert_eq!(outcome, Some(expected), "{said:?}");
        for (by, same) in replayers {
            let wrong = same != (expected == Outcome::Clean);
            assert_eq!(ledger.founder(by).idle_through.is_some(), wrong, "{said:?}: {by}");
        }
    }
}

#[test]
fn unproven_work_that_nobody_can_replay_earns_a_quarter_and_is_no_work() {
    // One validator alone owns everything that could replay.
    let mut ledger = Ledger::new(1, |params| params.round.pot = ALC(100));
    let class = Hash([4; 32]);
    ledger.block(vec![ledger.sign(&node_key(0), Body::Heartbeat { trains: true, class })]);
    ledger.pass(6_000);
    assert_eq!(ledger.state.round().class, Some(class));
    let mut work = ledger.contribution(0);
    assert_eq!(ledger.refusal(&ledger.commit(0)), Rejection::WrongClass { expected: class });
    work.class = class;
    ledger.block(vec![ledger.sign(&node_key(0), Body::Contribute(work))]);
    ledger.block(vec![ledger.verdict(0, |_| 1)]);
    ledger.block(vec![ledger.vote(0, Hash([10; 32]), 1)]);
    assert_eq!(ledger.free(0), ALC(100), "a founder needs no proof for a while");

    let (mut ledger, newcomer) = with_newcomer(|round| round.replay_ms = 1_000);
    round_with(&mut ledger, &newcomer);
    (0..15).for_each(|_| drop(ledger.one_block(1_000, vec![]))); // nobody says anything
    let entry = ledger.state.node(newcomer.public()).unwrap().clone();
    let number = ledger.state.past_rounds().next().unwrap().number;
    let promised = ledger.state.past(number).unwrap().shares.clone().unwrap();
    let share = promised.iter().find(|share| share.node == *newcomer.public()).unwrap().training;
    assert_eq!(ledger.state.account(&entry.wallet).free, Amount(share.0 / 4));
    assert!(entry.work.is_empty() && entry.clean == 0);
}

#[test]
fn pay_vests_with_the_rounds_or_with_time_and_to_the_wallet_that_it_was_promised_to() {
    let mut ledger = ledger(|round| {
        (round.replay_ppm, round.probation) = (0, 0);
        (round.vest_rounds, round.vest_ms) = (2, 600_000);
    });
    unreported_round(&mut ledger);
    assert_eq!(ledger.free(0), Amount::ZERO);
    unreported_round(&mut ledger);
    ledger.block(vec![]);
    assert_eq!(ledger.free(0), ALC(20), "the first of three");
    ledger.pass(600_000);
    assert_eq!(ledger.free(0), ALC(60), "the other two");
    assert!(ledger.state.past_rounds().all(|round| ledger.state.past(round.number).unwrap().settled));
}
