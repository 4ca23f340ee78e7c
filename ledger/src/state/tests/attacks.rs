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
    let accuse = |ledger: &Ledger, who: &Keypair| {
        ledger.sign(who, Body::Evidence(rivals(ledger, who, ledger.state.height() + 1)))
    };
    ledger.block(vec![accuse(&ledger, &node_key(0))]);
    ledger.block(vec![]);
    assert_eq!(ledger.refusal(&accuse(&ledger, &node_key(0))).code(), "NOTHING_LEFT");
    // Nor does one that has nothing to lose at all.
    let thief = stranger(0);
    ledger.block(vec![ledger.registration(&thief, 0)]);
    assert_eq!(ledger.refusal(&accuse(&ledger, &thief)).code(), "NOTHING_LEFT");
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
        let beat = ledger.sign(&node_key(0), Body::Heartbeat { trains: false, class: CLASS });
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
    for agreed in [consent.signature, wallet_key(7).sign(&recovery_agreement(&ledger.state.network(), &account, 1))] {
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

/// A stake of a founder's wallet behind a node of its own.
fn stake_behind(ledger: &Ledger, i: u8, node: &Keypair, amount: Amount) -> Transaction {
    ledger.sign(&wallet_key(i), Body::Stake { node: *node.public(), amount })
}

#[test]
fn who_fills_the_registry_keeps_nobody_out_and_crowds_out_nobody_with_stake_or_work() {
    let mut ledger = Ledger::new(2, |params| {
        (params.ledger.max_nodes, params.ledger.stamp_bits, params.ledger.stamp_bits_full) = (8, 2, 5);
        params.ledger.confirmations = 0;
    });
    ledger.fund(wallet(0), ALC(10));
    ledger.fund(wallet(1), ALC(50));
    let (staked, worker, newcomer) = (stranger(0), stranger(1), stranger(50));
    for honest in [&staked, &worker] {
        ledger.block(vec![ledger.registration(honest, 1)]);
    }
    ledger.block(vec![stake_behind(&ledger, 1, &staked, ALC(10))]);
    let id = *worker.public();
    let works = Node { work: [(0, 1)].into(), ..ledger.state.node(&id).unwrap().clone() };
    ledger.state.set(Key::Node(id), works);
    ledger.state.commit(vec![Key::Node(id)]);
    // A crowd, each with a coin's smallest part behind it.
    let mut bits = Vec::new();
    for i in 2..30 {
        bits.push(ledger.state.stamp_bits());
        ledger.block(vec![ledger.registration(&stranger(i), 0)]);
        ledger.block(vec![stake_behind(&ledger, 0, &stranger(i), Amount(1))]);
    }
    assert_eq!(bits[..5], [3, 3, 4, 5, 5], "half of the places are taken, then three quarters, then all but one");
    assert_eq!(ledger.state.node_count(), 8);
    ledger.block(vec![ledger.registration(&newcomer, 1)]);
    let stays = |key: &Keypair| ledger.state.node(key.public()).is_some();
    assert!([&node_key(0), &node_key(1), &staked, &worker, &newcomer].into_iter().all(stays));
    assert!(stays(&stranger(29)) && !stays(&stranger(2)), "who came first gives way first");
    let crowd = ledger.state.account(&wallet(0));
    assert_eq!((crowd.staked, crowd.unbonding), (Amount(3), Amount(25)), "what stood behind the others unbonds");
}

/// Rounds that open with whoever is there when everybody has had the time to send a heartbeat.
fn unhurried(params: &mut Params) {
    (params.round.target_participants, params.round.open_wait_ms) = (64, 20_000);
}

/// Runs a round in which all founders do their part and these nodes are silent; who took part.
fn round_with_silent(ledger: &mut Ledger, founders: u8, silent: &[Keypair]) -> Vec<NodeId> {
    ledger.pass(ledger.state.params().ledger.heartbeat_ms);
    let mut beats: Vec<Transaction> =
        silent.iter().map(|node| ledger.sign(node, Body::Heartbeat { trains: true, class: CLASS })).collect();
    beats.extend(ledger.heartbeats(0..founders));
    ledger.block_of_accepted(1000, beats);
    assert_eq!(ledger.state.round().phase, Phase::Gather);
    ledger.pass(ledger.state.round().deadline_age - ledger.state.age_ms());
    let round = ledger.state.round().clone();
    let commits = (0..founders).map(|i| ledger.commit(i)).collect();
    ledger.block(commits);
    ledger.pass(round.deadline_age.saturating_sub(ledger.state.age_ms()));
    let verdicts = (0..founders).map(|i| ledger.verdict(i, |_| 1)).collect();
    ledger.block(verdicts);
    let votes = (0..founders).map(|i| ledger.vote(i, Hash([round.number as u8 + 1; 32]), 1)).collect();
    ledger.block(votes);
    ledger.report_replays();
    assert_eq!(ledger.state.model().steps, round.number + 1, "the round closes");
    round.participants
}

#[test]
fn silent_newcomers_abort_no_round_however_many_they_are() {
    let mut ledger = Ledger::new(5, |params| {
        params.ledger.registrations_per_block = 64;
        (params.ledger.founder_seat_epochs, params.ledger.seat_delay_epochs) = (3, 1);
        params.round.probation = 1;
        unhurried(params);
    });
    let crowd: Vec<Keypair> = (0..40).map(stranger).collect();
    let registrations = crowd.iter().map(|node| ledger.registration(node, 0)).collect();
    ledger.block(registrations);
    // At first the founders' standing is what counts, later it is what replays say of their work.
    while ledger.state.epoch() < 6 {
        let participants = round_with_silent(&mut ledger, 5, &crowd);
        let newcomers = participants.iter().filter(|id| crowd.iter().any(|node| node.public() == *id)).count();
        assert_eq!((participants.len(), newcomers), (7, 2), "as many as a round of seven tolerates");
    }
}

#[test]
fn newcomers_are_never_more_than_a_round_can_do_without_and_never_shut_out() {
    for most in 1..40 {
        for proven in 0..50 {
            let (known, new) = crate::state::rounds::places(proven, 1000, most);
            let f = (known + new - 1) / 3;
            assert!(known + new <= most && known <= proven);
            assert!(proven == 0 || known > 2 * f, "{known} and {new} of {most}");
            assert!(most == 1 || new > 0, "{known} and {new} of {most}");
        }
    }
}

#[test]
fn who_works_every_other_time_rests_all_the_same_and_who_misses_once_does_not() {
    let parts = |works: fn(u64) -> bool| {
        let mut ledger = Ledger::new(5, |params| {
            (params.round.replay_ppm, params.round.probation) = (0, 0);
            unhurried(params);
        });
        let idler = *node_key(4).public();
        let (mut times, mut parts) = (0, Vec::new());
        for number in 0..20 {
            ledger.pass(ledger.state.params().ledger.heartbeat_ms);
            ledger.block_of_accepted(1000, ledger.heartbeats(0..5));
            ledger.pass(ledger.state.round().deadline_age - ledger.state.age_ms());
            let round = ledger.state.round().clone();
            let takes_part = round.participants.contains(&idler);
            let works = takes_part && works(times);
            times += u64::from(takes_part);
            parts.extend(takes_part.then_some(number));
            ledger.block((0..4 + u8::from(works)).map(|i| ledger.commit(i)).collect());
            if takes_part && !works {
                ledger.pass(round.deadline_age.saturating_sub(ledger.state.age_ms()));
            }
            ledger.block((0..5).map(|i| ledger.verdict(i, |_| 1)).collect());
            ledger.block((0..5).map(|i| ledger.vote(i, Hash([number as u8 + 1; 32]), 1)).collect());
            assert_eq!(ledger.state.model().steps, number + 1, "the round closes without it");
        }
        parts
    };
    assert_eq!(parts(|times| times % 2 == 0), [0, 1, 2, 3, 5, 6, 10, 11, 19], "0, 1, 3 and 7 rounds of rest");
    assert_eq!(parts(|times| times % 8 != 7).len(), 20, "a miss now and then is forgiven");
}

#[test]
fn who_is_silent_again_and_again_sits_out_ever_more_rounds_until_it_works() {
    let mut ledger = Ledger::new(4, |params| {
        params.round.max_rest_rounds = 5;
        unhurried(params);
    });
    let idler = stranger(0);
    ledger.block(vec![ledger.registration(&idler, 0)]);
    let takes_part =
        |ledger: &mut Ledger| round_with_silent(ledger, 4, std::slice::from_ref(&idler)).contains(idler.public());
    let parts: Vec<u64> = (0..20).filter(|_| takes_part(&mut ledger)).collect();
    assert_eq!(parts, [0, 1, 3, 7, 13, 19], "it sits out 0, 1, 3, then 5 rounds, which are the most");
    // Where nobody else is there, no round waits for its rest to end.
    let mut ledger = Ledger::new(1, |_| {});
    for round in 0..4 {
        ledger.pass(ledger.state.params().ledger.heartbeat_ms);
        ledger.open_round(0..1);
        assert_eq!(ledger.state.round().number, round);
        ledger.pass(60_000);
    }
}

#[test]
fn who_holds_all_places_of_challenges_burns_more_than_an_epoch_of_forgery_could_earn() {
    let mut ledger = Ledger::new(5, |params| params.ledger.max_challenges = 6);
    (0..5).for_each(|i| ledger.fund(wallet(i), ALC(2000)));
    (0..2).for_each(|_| ledger.run_round(5, 2_000_000));
    let challenge = |ledger: &Ledger, by: u8, round: u64, node: u8| {
        ledger.sign(&wallet_key(by), Body::Challenge { round, node: *node_key(node).public() })
    };
    for (round, node) in [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)] {
        ledger.block(vec![challenge(&ledger, 4, round, node)]);
    }
    assert_eq!(ledger.state.supply().escrow, ALC(10 + 20 + 30 + 40 + 50));
    // Who is in earnest pays for the crowd, and has it back.
    let before = ledger.free(3);
    ledger.block(vec![challenge(&ledger, 3, 1, 0)]);
    assert_eq!(before.0 - ledger.free(3).0, ALC(60).0);
    assert_eq!(ledger.refusal(&challenge(&ledger, 3, 1, 1)), Rejection::TooManyChallenges { max: 6 });
    let body = Body::Judge { round: 1, node: *node_key(0).public(), found: Hash::ZERO };
    let judges = (1..5).map(|i| ledger.sign(&node_key(i), body.clone())).collect();
    ledger.block(judges);
    assert!(ledger.free(3) >= before);
    let burned = ledger.state.supply().burned;
    ledger.pass(ledger.state.params().ledger.challenge_ms);
    assert_eq!(ledger.state.supply().burned.0 - burned.0, ALC(150).0);

    let params = presets::main();
    let places = u64::from(params.ledger.max_challenges);
    let burned = params.ledger.challenge_bond.0 * (places * (places + 1) / 2);
    assert!(params.ledger.challenge_ms <= params.ledger.epoch_ms && burned > params.round.epoch_cap.0);
}

#[test]
fn a_slash_is_not_forgotten_and_not_repeated_while_evidence_of_it_is_admissible() {
    let mut ledger = Ledger::new(3, |params| {
        (params.ledger.slash_ppm, params.ledger.lapse_ms, params.ledger.jail_ms) = (1_000_000, 30_000, 10_000);
    });
    ledger.fund(wallet(0), ALC(50));
    let node = stranger(0);
    ledger.block(vec![ledger.registration(&node, 0)]);
    ledger.block(vec![stake_behind(&ledger, 0, &node, ALC(10))]);
    let evidence = rivals(&ledger, &node, ledger.state.height());
    let accuse = |ledger: &Ledger| ledger.sign(&node_key(1), Body::Evidence(evidence.clone()));
    ledger.block(vec![accuse(&ledger)]);
    assert_eq!(ledger.state.node(node.public()).unwrap().stake, Amount::ZERO);
    // It falls silent, so that nothing is left of it but the slash.
    ledger.pass(60_000);
    assert!(ledger.state.node(node.public()).unwrap().lapsed);
    assert_eq!(ledger.refusal(&ledger.registration(&node, 0)), Rejection::AlreadyRegistered);
    let beat = ledger.sign(&node, Body::Heartbeat { trains: true, class: CLASS });
    ledger.block(vec![beat, stake_behind(&ledger, 0, &node, ALC(10))]);
    assert!(ledger.state.node(node.public()).unwrap().jailed_until.is_some(), "it comes back as it went");
    assert_eq!(ledger.refusal(&accuse(&ledger)).code(), "SLASHED_ALREADY");
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Unstake { node: *node.public(), amount: ALC(10) })]);

    ledger.pass(ledger.state.params().ledger.unbonding_ms + 60_000);
    assert_eq!(ledger.state.node(node.public()), None, "it may be forgotten now");
    ledger.block(vec![ledger.registration(&node, 0)]);
    ledger.block(vec![stake_behind(&ledger, 0, &node, ALC(10))]);
    assert_eq!(ledger.refusal(&accuse(&ledger)).code(), "EVIDENCE_TOO_OLD");
}

#[test]
fn a_validator_whose_stake_is_seized_decides_nothing_more_although_the_set_is_too_small_to_lose_it() {
    let mut ledger = Ledger::new(6, |params| params.ledger.confirmations = 0);
    (0..6).for_each(|i| ledger.fund(wallet(i), ALC(1000)));
    ledger.block((0..4).map(|i| ledger.stake(i, ALC(400))).collect());
    assert!(ledger.state.founders_are_latched_out());
    let fraud = ledger.transfer(0, 3, ALC(500));
    ledger.block(vec![fraud.clone()]);
    let all = Amount(ledger.free(3).0 - ALC(1).0);
    ledger.block(vec![ledger.transfer(3, 5, all)]);
    let report =
        |i: u8| ledger.sign(&wallet_key(i), Body::Report { transfer: fraud.id(), node: *node_key(i).public() });
    ledger.block([1, 2, 4, 5].into_iter().map(report).collect());
    assert_eq!(ledger.founder(3).stake, Amount::ZERO);
    let power = |ledger: &Ledger, i: u8| ledger.state.validators().power(node_key(i).public());
    assert_eq!([0, 1, 2, 3].map(|i| power(&ledger, i)), [400, 400, 400, 1]);
    // Another one with stake takes its place.
    ledger.block(vec![ledger.stake(4, ALC(400))]);
    ledger.pass(60_000);
    assert_eq!([0, 1, 2, 3, 4].map(|i| power(&ledger, i)), [400, 400, 400, 0, 400]);
}
