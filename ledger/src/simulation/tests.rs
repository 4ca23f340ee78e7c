//! Focused worlds, each for one claim; then whole seeds: a fixed set and fresh ones. A failure prints its seed, and for a
//! whole seed the command that shows it again.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::{Body, Transaction};
use ailo_protocol::Address;
use disk::{End, Moment, Trap};
use std::path::Path;

/// An hour of virtual time.
const HOUR: u64 = 3_600_000;
const MOMENTS: [Moment; 3] = [Moment::Before, Moment::Amid, Moment::After];

/// Runs a focused world of the seed; `play` says what happens in it.
fn world(
    seed: u64,
    validators: usize,
    followers: usize,
    byzantine: &[(usize, Conduct)],
    play: impl FnOnce(&mut World) -> Result<(), Violation> + Send,
) {
    let work = || {
        let mut world = World::new(seed, validators, followers, 4, byzantine);
        play(&mut world).and_then(|()| world.check_chains())
    };
    let (result, _) = sweep::alone(|| keys::remembering(work));
    if let Err(violation) = result {
        panic!("seed {seed}: {violation}");
    }
}

/// Some fixed seeds and fresh ones: one, or as many as AILO_FRESH_SEEDS says.
fn seeds(fixed: u64) -> impl Iterator<Item = u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let fresh = std::env::var("AILO_FRESH_SEEDS").map_or(1, |n| n.parse().unwrap());
    println!("fresh seeds: {now} and on, {fresh} of them");
    (1..=fixed).chain(now..now + fresh)
}

fn all(world: &World) -> Vec<usize> {
    (0..world.members.len()).collect()
}

#[test]
fn one_validator_alone_makes_blocks_with_transactions() {
    world(1, 1, 0, &[], |world| {
        world.start_all()?;
        world.run_to(&[0], 100, HOUR)?;
        assert_eq!(world.highest_round, 0);
        assert!(world.transfers > 5, "{} transfers", world.transfers);
        Ok(())
    });
}

#[test]
fn four_and_twelve_validators_agree_in_the_first_round_on_a_good_network() {
    for validators in [4, 12] {
        world(2, validators, 1, &[], |world| {
            world.start_all()?;
            world.run_to(&all(world), 10, HOUR)?;
            assert_eq!(world.highest_round, 0);
            let blocks = world.members[0].running.as_ref().unwrap().blocks();
            let proposers: BTreeSet<NodeId> =
                (1..=10).map(|height| blocks.block(height).unwrap().0.header.proposer).collect();
            assert!(proposers.len() >= 4, "proposers take turns");
            Ok(())
        });
    }
}

#[test]
fn a_lossy_slow_network_costs_time_but_neither_agreement_nor_progress() {
    for seed in seeds(3) {
        world(seed, 4, 1, &[], |world| {
            (world.network.delay_ms, world.network.loss_permille) = (2000, 100);
            world.start_all()?;
            world.run_to(&all(world), 12, HOUR)
        });
    }
}

#[test]
fn while_the_network_is_cut_in_half_nothing_is_decided_and_afterwards_all_go_on() {
    for seed in seeds(3) {
        world(seed, 4, 1, &[], |world| {
            world.start_all()?;
            world.run_to(&all(world), 3, HOUR)?;
            world.network.parts = vec![0, 0, 1, 1, 1];
            world.run_for(500)?; // what was decided before the cut may still arrive
            let before = world.height();
            world.run_for(120_000)?;
            assert!(world.height() <= before + 1, "seed {seed}: half of the power decided");
            world.network.parts.fill(0);
            world.run_to(&all(world), 10, HOUR)
        });
    }
}

#[test]
fn a_third_cut_off_stops_nobody_else_and_catches_up_by_syncing() {
    for seed in seeds(2) {
        world(seed, 4, 0, &[], |world| {
            world.start_all()?;
            world.run_to(&all(world), 2, HOUR)?;
            world.network.parts = vec![0, 0, 0, 1];
            world.run_to(&[0, 1, 2], 20, HOUR)?;
            assert!(world.members[3].height() < 5);
            world.network.parts.fill(0);
            world.run_to(&all(world), 25, HOUR)
        });
    }
}

#[test]
fn a_node_that_comes_late_syncs_all_blocks() {
    world(3, 4, 1, &[], |world| {
        (0..4).try_for_each(|member| world.start(member))?;
        world.run_to(&[0, 1, 2, 3], 15, HOUR)?;
        world.start(4)?;
        world.run_to(&all(world), 18, HOUR)
    });
}

#[test]
fn crashes_in_any_operation_of_a_disk_never_make_a_node_sign_twice_or_lose_a_block() {
    for seed in seeds(4) {
        world(seed, 4, 0, &[], |world| {
            (world.network.delay_ms, world.network.loss_permille) = (300, 30);
            world.start_all()?;
            for round in 0..25 {
                let victim = world.random.below(4) as usize;
                let operations = world.random.below(12);
                let end = if world.chance(500) { End::Kill } else { End::PowerLoss };
                let trap = Trap { operations, moment: MOMENTS[(seed as usize + round) % 3], end };
                world.members[victim].disk.set_trap(Some(trap));
                if world.chance(200) {
                    world.begin(Kind::Outage)?;
                }
                let pause = world.random.below(6000);
                world.run_for(pause)?;
            }
            world.heal_all()?;
            let height = world.height() + 5;
            world.run_to(&all(world), height, HOUR)
        });
    }
}

#[test]
fn what_a_killed_process_has_left_is_safe_before_it_is_believed() {
    let format = crate::framelog::Format { kind: *b"TEST", network: Hash::ZERO, max_frame: 1000 };
    for seed in 0..20 {
        let disk = disk::SimDisk::default();
        let open = || crate::framelog::FrameLog::open_on(std::sync::Arc::new(disk.clone()), Path::new("log"), format);
        let mut log = open().unwrap();
        // Written, and killed before the sync.
        disk.set_trap(Some(Trap { operations: 1, moment: Moment::Before, end: End::Kill }));
        assert!(log.append(&[7; 500]).is_err());
        let mut random = Hash::of(ailo_protocol::hash::Domain::Lot, &[seed]).stream();
        disk.end(End::Kill, &mut random);
        let seen = open().unwrap().frames(0).count();
        disk.end(End::PowerLoss, &mut random);
        assert_eq!((seen, open().unwrap().frames(0).count()), (1, 1), "seed {seed}");
    }
}

#[test]
fn a_single_validator_survives_a_power_loss_in_each_of_its_operations() {
    for operations in 0..40 {
        for moment in MOMENTS {
            world(operations, 1, 0, &[], |world| {
                world.start_all()?;
                world.run_to(&[0], 2, HOUR)?;
                world.members[0].disk.set_trap(Some(Trap { operations, moment, end: End::PowerLoss }));
                while world.members[0].disk.has_trap() {
                    world.step()?;
                }
                let height = world.height() + 3;
                world.run_to(&[0], height, HOUR)
            });
        }
    }
}

#[test]
fn an_equivocating_validator_stops_nobody_and_is_reported_and_slashed() {
    let (mut reported, mut slashes) = (BTreeSet::new(), 0);
    for seed in seeds(3) {
        let seen = std::sync::Mutex::new((BTreeSet::new(), 0));
        world(seed, 4, 0, &[(3, Conduct::Rivals)], |world| {
            world.start_all()?;
            world.run_to(&[0, 1, 2], 40, HOUR)?;
            let slashes = world.happened.get("slashes").copied().unwrap_or(0);
            *seen.lock().unwrap() = (world.accused.clone(), slashes);
            Ok(())
        });
        let (mut accused, count) = seen.into_inner().unwrap();
        reported.append(&mut accused);
        slashes += count;
    }
    assert_eq!(reported, BTreeSet::from([*cast::node_key(3).public()]));
    assert!(slashes > 0);
}

#[test]
fn an_equivocator_with_stake_loses_a_part_of_it_and_its_place_among_the_validators() {
    for seed in 1..=2 {
        world(seed, 4, 0, &[(3, Conduct::Rivals)], |world| {
            world.staking = true;
            world.start_all()?;
            let (node, wallet) = (world.members[3].id(), Address::from(cast::member_wallet_key(3).public()));
            while world.ledger.account(&wallet).staked == ailo_protocol::Amount::ZERO {
                world.step()?;
            }
            let (mut slashed, mut out) = (false, false);
            while !(slashed && out) {
                assert!(world.height() < 500, "seed {seed}: slashed {slashed}, out {out}");
                world.step()?;
                slashed |= world.ledger.node(&node).is_some_and(|node| node.stake < cast::STAKE);
                out |= world.ledger.founders_are_latched_out() && world.ledger.validators().power(&node) == 0;
            }
            let height = world.height() + 10;
            world.run_to(&[0, 1, 2], height, HOUR)
        });
    }
}

#[test]
fn who_forges_work_is_found_out_and_who_does_not_is_left_alone_whatever_a_byzantine_judge_says() {
    world(8, 4, 0, &[(3, Conduct::Withholds)], |world| {
        world.start_all()?;
        let happened = |world: &World, what: &str| world.happened.get(what).copied().unwrap_or(0);
        while happened(world, "forgeries found") == 0 || happened(world, "challenges dismissed") == 0 {
            assert!(world.height() < 500, "{:?}", world.happened);
            world.step()?;
        }
        let slashed = |i: usize| world.ledger.node(&world.members[i].id()).unwrap().slashed_height > 0;
        assert_eq!([0, 1, 2, 3].map(slashed), [false, false, false, true]);
        Ok(())
    });
}

#[test]
fn who_signs_what_it_does_not_compute_is_convicted_and_who_does_not_is_acquitted() {
    world(7, 4, 0, &[(3, Conduct::Withholds)], |world| {
        world.start_all()?;
        let happened = |world: &World, what: &str| world.happened.get(what).copied().unwrap_or(0);
        while happened(world, "stages convicted") == 0 || happened(world, "stages acquitted") == 0 {
            assert!(world.height() < 2000, "{:?}", world.happened);
            world.step()?;
        }
        let slashed = |i: usize| world.ledger.node(&world.members[i].id()).unwrap().slashed_height > 0;
        assert_eq!([0, 1, 2, 3].map(slashed), [false, false, false, true]);
        Ok(())
    });
}

#[test]
fn a_slash_is_owed_to_a_member_that_is_up_and_heard_and_to_no_other() {
    world(5, 4, 0, &[(3, Conduct::Withholds)], |world| {
        world.script = Some(Vec::new());
        world.start_all()?;
        world.run_to(&all(world), 3, HOUR)?;
        let node = world.members[3].id();
        // It signed no rivals, so the ledger will not slash: what is claimed of it stands open.
        let height = world.height();
        world.denounce(0, height, node)?;
        world.run_to(&[0, 1, 2], height + 15, HOUR)?;
        world.end(0, End::Kill, 1000);
        world.run_to(&[0, 1, 2], height + 40, HOUR)?;
        let height = world.height();
        world.network.parts = vec![1, 0, 0, 0];
        world.denounce(0, height, node)?;
        world.members[3].conduct = Conduct::Honest; // so that three of four go on
        world.run_to(&[1, 2, 3], height + 25, HOUR)?;
        world.network.parts.fill(0);
        world.members[3].conduct = Conduct::Withholds;
        let height = world.height();
        world.denounce(1, height, node)?;
        let broken = world.run_to(&[0, 1, 2], height + 40, HOUR).unwrap_err();
        assert_eq!(broken.invariant, Invariant::Slashed);
        Ok(())
    });
}

#[test]
fn a_validator_whose_log_is_lost_signs_no_rival_and_comes_back_with_the_next_height() {
    for seed in seeds(4) {
        world(seed, 4, 0, &[], |world| {
            world.network.delay_ms = 300;
            world.members[2].forgot = true;
            world.start_all()?;
            for _ in 0..10 {
                let pause = world.random.below(5000);
                world.run_for(pause)?;
                if world.members[2].running.is_some() {
                    world.end(2, End::Kill, 1000);
                    world.members[2].disk.lose(Path::new("wal"));
                }
            }
            let height = world.height() + 3;
            world.run_to(&all(world), height, HOUR)
        });
    }
}

#[test]
fn a_validator_whose_blocks_are_lost_syncs_before_it_votes_again() {
    for seed in seeds(4) {
        world(seed, 4, 0, &[], |world| {
            world.start_all()?;
            world.run_to(&all(world), 3, HOUR)?;
            let copy = world.members[1].disk.snapshot();
            world.run_to(&all(world), 7, HOUR)?;
            let pause = world.random.below(5000);
            world.run_for(pause)?;
            // An older copy of the block log, with a write-ahead log and a journal that are further on.
            world.end(1, End::Kill, 1000);
            let of_log = |path: &Path| path.parent() == Some(Path::new("blocks"));
            for path in world.members[1].disk.snapshot().into_keys().filter(|path| of_log(path)) {
                world.members[1].disk.lose(&path);
            }
            for (path, contents) in copy.into_iter().filter(|(path, _)| of_log(path)) {
                world.members[1].disk.restore(&path, contents);
            }
            world.members[1].shown = 0;
            let height = world.height() + 4;
            world.run_to(&all(world), height, HOUR)?;
            assert!(world.members[1].running.as_ref().unwrap().host().is_voting());
            Ok(())
        });
    }
}

#[test]
fn a_node_that_is_staked_becomes_a_validator_and_its_vote_counts() {
    world(4, 4, 1, &[], |world| {
        world.members[4].votes = true; // it has its files, but no power yet
        let stake = |i: usize| {
            let body = Body::Stake { node: *cast::node_key(i).public(), amount: cast::STAKE };
            Transaction::sign(&world.network_id, &cast::member_wallet_key(i), 0, cast::GENESIS_MS, body)
        };
        world.script = Some((0..5).map(stake).collect());
        world.start_all()?;
        world.run_to(&all(world), 8, HOUR)?;
        assert_eq!(world.members[0].state().validators().0.len(), 5);
        // Without one of the five, the newcomer's vote is needed.
        world.network.parts = vec![0, 0, 0, 1, 0];
        let height = world.height() + 8;
        world.run_to(&[0, 1, 2, 4], height, HOUR)?;
        let (_, certificate) = world.members[0].running.as_ref().unwrap().blocks().block(height).unwrap();
        assert!(certificate.signatures.iter().any(|(node, _)| node == cast::node_key(4).public()));
        Ok(())
    });
}

/// Whole seeds as `simulate ledger` runs them.
fn sweep_of(from: u64, count: u64, validators: usize, byzantine: Option<usize>) -> Summary {
    let summary = sweep(from, count, 2, &Options { validators, byzantine, plant: None }, |_| {});
    println!("{} seeds, {} heights, {:?}, {:?}", summary.seeds, summary.heights, summary.faults, summary.happened);
    summary
}

fn assert_all_hold(summary: &Summary, flags: &str) {
    if let Some(Outcome { seed, violation: Some(violation), .. }) = &summary.failure {
        panic!("seed {seed}: {violation}\nagain: ailo-node simulate ledger --from {seed} --seeds 1 {flags}");
    }
}

#[test]
fn all_claims_hold_in_a_fixed_set_of_seeds_and_in_fresh_ones() {
    let summary = sweep_of(300, 60, 4, None);
    assert_all_hold(&summary, "");
    assert!(summary.heights >= 60 * HEIGHTS && summary.transfers >= 60 * TRANSFERS, "{summary:?}");
    assert!(summary.faults.values().sum::<u64>() >= 60 * FAULTS && summary.faults.len() == Kind::ALL.len());
    for what in [
        "reversed",
        "debts paid",
        "reports withdrawn",
        "recoveries",
        "user names",
        "unstakes",
        "changed parameters",
        "receipts paid",
        "deposits returned",
        "prices",
    ] {
        assert!(summary.happened.contains_key(what), "{what}: {:?}", summary.happened);
    }
    for seed in seeds(0) {
        assert_all_hold(&sweep_of(seed, 1, 4, None), "");
    }
}

#[test]
fn with_a_third_less_one_that_break_the_rules_all_claims_hold_and_who_equivocates_is_slashed() {
    let mut tried = BTreeSet::new();
    for (validators, byzantine, count) in [(4, 1, 24), (14, 4, 2)] {
        // Rival ballots, withheld ones, twins; all of them report whatever they can.
        let summary = sweep_of(100, count, validators, Some(byzantine));
        assert_all_hold(&summary, &format!("--validators {validators} --byzantine {byzantine}"));
        assert!(summary.reported_seeds > 0);
        for what in ["slashes", "unjailed", "reports", "reversed", "final"] {
            assert!(summary.happened.get(what).is_some_and(|count| *count > 0), "{what}: {:?}", summary.happened);
        }
        tried.extend(summary.happened.into_keys());
    }
    // One of a dozen seeds comes to the verdict on a forgery.
    let all = |tried: &BTreeSet<_>| tried.contains("forgeries found") && tried.contains("challenges dismissed");
    for seed in (200..400).step_by(10) {
        if !all(&tried) {
            let summary = sweep_of(seed, 10, 4, Some(1));
            assert_all_hold(&summary, "--validators 4 --byzantine 1");
            tried.extend(summary.happened.into_keys());
        }
    }
    assert!(all(&tried), "{tried:?}");
}

#[test]
fn validators_that_collude_beyond_the_bound_fork_the_ledger_and_the_simulation_notices() {
    for (validators, byzantine) in [(4, 2), (13, 5)] {
        let summary = sweep_of(0, 3, validators, Some(byzantine));
        let violation = summary.failure.and_then(|outcome| outcome.violation).expect("a fork");
        assert_eq!(violation.invariant, Invariant::NoFork, "{violation}");
    }
}

#[test]
fn a_seed_is_one_trace_and_another_seed_is_another() {
    let trace = |seed| sweep_of(seed, 1, 4, None).last.unwrap().trace;
    let traces: Vec<Hash> = (0..4).map(trace).collect();
    assert_eq!(traces, (0..4).map(trace).collect::<Vec<Hash>>());
    assert_eq!(traces.iter().collect::<BTreeSet<_>>().len(), 4);
}

#[test]
fn without_the_feature_nothing_is_planted() {
    plants::plant(Some(Plant::DoubleSpend));
    assert_eq!(plants::on(Plant::DoubleSpend), plants::BUILT);
    plants::plant(None);
}
