use super::*;
use crate::{
    consensus::{Ballot, Step},
    transaction::Claim,
};
use ailo_protocol::{
    canonical,
    contribution::{Contribution, Finding},
    hash::{Domain, Stream},
    keys::PublicKey,
    payment::Receipt,
};

/// Random actors who do random things, right and wrong ones.
struct Chaos {
    random: Stream,
    founders: u8,
}

impl Chaos {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn amount(&mut self, ledger: &Ledger, of: u8) -> Amount {
        match if of > 4 { 2 } else { self.below(8) } {
            0 => Amount(self.random.next_u64()),
            1 => Amount::ZERO,
            // All but the fee: who then owes for what came in has nothing left.
            2..4 => Amount(ledger.free(of).0.saturating_sub(ledger.state.params().ledger.fee.0)),
            4 => Amount(self.below(1000)),
            _ => Amount(self.below(ALC(120).0)),
        }
    }

    fn node(&mut self) -> Keypair {
        match self.one_in(8) {
            true => stranger(self.below(3) as u8),
            false => node_key(self.below(self.founders.into()) as u8),
        }
    }

    fn hash(&mut self) -> Hash {
        Hash([self.below(4) as u8; 32])
    }

    fn body(&mut self, ledger: &Ledger, i: u8) -> (Keypair, Body) {
        let (state, node) = (&ledger.state, self.node());
        let id = *node.public();
        let body = match self.below(32) {
            28 => Body::Deposit { amount: self.amount(ledger, i) },
            29 => Body::WithdrawDeposit { amount: self.amount(ledger, i) },
            30..32 => return (node, self.claim_body(ledger, i, id)),
            16..28 => return self.dispute_body(ledger, i),
            0..4 => Body::Transfer {
                to: wallet(self.below(u64::from(self.founders) + 1) as u8),
                amount: self.amount(ledger, i),
                memo: "x".repeat(self.below(140) as usize),
            },
            4 => Body::Stake { node: id, amount: self.amount(ledger, i) },
            5 => Body::Unstake { node: id, amount: self.amount(ledger, i) },
            6 => return (node.clone(), ledger.registration(&node, i).unsigned.body),
            7 if self.one_in(3) => return (node.clone(), ledger.commit_lots(&node, state.height()).unsigned.body),
            7 => Body::Heartbeat { trains: !self.one_in(5), class: CLASS },
            8..11 => {
                let height = state.pending_blocks().next().unwrap_or(0) + self.below(2);
                let except = if self.one_in(4) { vec![self.hash()] } else { vec![] };
                Body::Attest { height, except }
            }
            _ => self.round_body(ledger, &id),
        };
        (if body.is_wallets() { self.signing_key(ledger, i) } else { node }, body)
    }

    /// A claim of what the founder's wallet promises, or what looks like it.
    fn claim_body(&mut self, ledger: &Ledger, i: u8, node: NodeId) -> Body {
        let (key, state) = (self.signing_key(ledger, i), &ledger.state);
        let units = self.below(30_000);
        let receipt = Receipt {
            payer: *key.public(),
            node,
            session: [self.below(3) as u8; 16],
            model: self.hash(),
            first: 0,
            end: 1,
            total: self.below(3) as u32,
            units,
            price: Amount(self.below(40_000)),
            expires_age: (state.age_ms() / 40_000 + self.below(4)) * 40_000,
            latency_ms: 0,
        };
        let claim = Claim { units: units + u64::from(self.one_in(8)), receipt: receipt.sign(&state.network(), &key) };
        Body::InferenceReceipt { claims: vec![claim; 1 + usize::from(self.one_in(8))] }
    }

    /// Somebody who is or calls another one a fraud, or changes who or what counts.
    fn dispute_body(&mut self, ledger: &Ledger, i: u8) -> (Keypair, Body) {
        let state = &ledger.state;
        let founder = self.below(u64::from(self.founders)) as u8;
        let (node, key) = (*node_key(founder).public(), node_key(founder));
        let live: Vec<Hash> =
            state.entries.keys().filter_map(|k| if let Key::Transfer(id) = k { Some(*id) } else { None }).collect();
        let transfer = match live.is_empty() || self.one_in(12) {
            true => self.hash(),
            false => live[self.below(live.len() as u64) as usize],
        };
        let spare = |n: u64| Keypair::from_seed([90 + n as u8; 32]);
        let round = state.round().number.saturating_sub(self.below(4));
        let body = match self.below(14) {
            0 => Body::Dispute { transfer },
            // Many report what one reports, so that some reversals come about.
            1..6 => Body::Report { transfer: live.first().copied().unwrap_or(transfer), node: *node_key(i).public() },
            6 => Body::WithdrawReport { transfer, node: *node_key(i).public() },
            7 => Body::Unjail { node },
            8 => Body::RegisterUsername { name: format!("user-{}", self.below(4)).parse().ok() },
            9 => {
                let recovery = spare(self.below(3));
                Body::SetRecovery { commitment: recovery_commitment(&state.network(), recovery.public()) }
            }
            10 => {
                let (signer, next) = (spare(self.below(3)), spare(self.below(3)));
                let account = wallet(i);
                let count = state.account(&account).recoveries;
                let next = recovery_commitment(&state.network(), next.public());
                return (signer, recover_body(ledger, account, count, &self.account_key(i), next));
            }
            11 if self.one_in(2) => {
                Body::Propose { changes: vec![format!("ledger.fee=0.0{}", 1 + self.below(3))], why: String::new() }
            }
            11 => {
                let proposal = state.polls().next().map_or(0, |(number, _)| number);
                Body::Vote { proposal, approve: !self.one_in(4) }
            }
            12 if self.one_in(3) => Body::Challenge { round, node },
            12 if self.one_in(2) => match state.accusations().next() {
                Some(accusation) if !self.one_in(3) => {
                    let found = if self.one_in(4) { accusation.trial.claimed } else { Hash::ZERO };
                    let (node, charge) = (accusation.charge.signed.node, accusation.charge.id());
                    return (key, Body::JudgeStage { node, charge, found });
                }
                _ => Body::Accuse(accusations::charge_at(
                    ledger,
                    i,
                    state.height() + 1 - self.below(4).min(state.height()),
                )),
            },
            12 => match state.challenges().next() {
                Some((round, accused, challenge)) => {
                    let found = if self.one_in(4) { challenge.claimed } else { Hash::ZERO };
                    return (key, Body::Judge { round, node: accused, found });
                }
                None => return (key.clone(), bind_body(ledger, &key, i)),
            },
            _ if !self.one_in(4) => {
                let amount = Amount(ALC(80).0 + self.below(ALC(200).0));
                return (self.signing_key(ledger, founder), Body::Stake { node, amount });
            }
            _ => {
                let height = state.height().saturating_sub(self.below(3));
                let blocks = [1, if self.one_in(3) { 1 } else { 2 }];
                let sign = |block: u8| {
                    let ballot = Ballot { height, round: 0, step: Step::Prevote, block: Some(Hash([block; 32])) };
                    ballot.sign(&state.network(), &key)
                };
                let evidence = Evidence::Ballots { first: sign(blocks[0]), second: sign(blocks[1]) };
                return (node_key(i), Body::Evidence(evidence));
            }
        };
        (self.signing_key(ledger, i), body)
    }

    /// A key that the founder's account may get by a recovery.
    fn account_key(&mut self, i: u8) -> Keypair {
        if self.one_in(2) { wallet_key(i) } else { Keypair::from_seed([60 + i; 32]) }
    }

    /// The key that signs for the founder's account; now and then another one.
    fn signing_key(&mut self, ledger: &Ledger, i: u8) -> Keypair {
        let other = Keypair::from_seed([60 + i; 32]);
        match ledger.state.account(&wallet(i)).key {
            Some(key) if key == *other.public() && !self.one_in(10) => other,
            _ => wallet_key(i),
        }
    }

    /// Something for the open round, mostly what it waits for.
    fn round_body(&mut self, ledger: &Ledger, id: &NodeId) -> Body {
        let round = ledger.state.round();
        let phases = [Phase::Gather, Phase::Train, Phase::Verify, Phase::Vote];
        match if self.one_in(10) { phases[self.below(4) as usize] } else { round.phase } {
            Phase::Gather | Phase::Draw => Body::Heartbeat { trains: true, class: CLASS },
            Phase::Train => Body::Contribute(Contribution {
                slot: round.slot(id).unwrap_or(0) + u32::from(self.one_in(6)),
                payload: Hash::of(Domain::Blob, &[self.below(16) as u8]),
                ..ledger.contribution(0)
            }),
            Phase::Verify => {
                let measures = round.committee.contains(id);
                let findings = round.contributions.keys().map(|node| {
                    let valid = !self.one_in(12);
                    let measures = (measures && valid) != self.one_in(40);
                    Finding {
                        node: *node,
                        valid,
                        suspect: valid && node.0[0] % 4 == 0,
                        own: measures.then(|| i64::from(node.0[1]) - 100),
                        loss: measures.then(|| self.random.next_u64() >> self.below(64)),
                    }
                });
                Body::Verdict { round: round.number, findings: findings.collect() }
            }
            Phase::Vote => Body::ModelVote {
                round: round.number,
                root: if self.one_in(12) { self.hash() } else { Hash([9; 32]) },
                loss: self.random.next_u64() >> self.below(64),
            },
        }
    }

    fn transaction(&mut self, ledger: &Ledger, state: &State) -> Transaction {
        // One more wallet than founders: it has nothing but what it is sent.
        let i = self.below(u64::from(self.founders) + 1) as u8;
        let (key, body) = self.body(ledger, i);
        let nonce = if body.is_wallets() { state.account(&state.account_of(key.public())).nonce } else { 0 };
        let nonce = nonce + u64::from(self.one_in(20));
        Transaction::sign(&state.network(), &key, nonce, ledger.state.time_ms() + self.below(2000), body)
    }

    /// A block's time after its parent: mostly short, sometimes an outage.
    fn gap(&mut self) -> u64 {
        match self.below(10) {
            0 => 1 + self.below(10_000_000),
            1..4 => 1 + self.below(30_000),
            _ => 1 + self.below(2_000),
        }
    }
}

/// What a run saw.
#[derive(Default)]
struct Seen {
    events: std::collections::BTreeSet<String>,
    operations: u64,
    accepted: u64,
}

/// Runs `blocks` blocks of random operations.
fn run(seed: u64, blocks: u32) -> Seen {
    let mut chaos = Chaos { random: Hash::of(Domain::Lot, &seed.to_le_bytes()).stream(), founders: 6 };
    let mut ledger = Ledger::new(6, |params| {
        params.ledger.lapse_ms = 300_000;
        params.ledger.sweep_per_block = 2;
        params.ledger.pending_ms = 20_000;
        params.ledger.final_ms = 40_000;
        params.ledger.dispute_ms = 20_000;
        (params.ledger.jail_ms, params.ledger.report_forfeit_ppm) = (5_000, 400_000);
        (params.ledger.poll_ms, params.ledger.poll_deposit) = (20_000, ALC(1));
        (params.ledger.confirmations, params.ledger.report_quota) = (1, 1000);
        params.round.target_participants = 3;
        (params.round.verify_ms, params.round.vote_ms) = (60_000, 60_000);
    });
    (0..5).for_each(|i| ledger.fund(wallet(i), ALC(5000)));
    let mut seen = Seen::default();
    for _ in 0..blocks {
        let after = chaos.gap();
        let proposer = ledger.state.validators().0[chaos.below(ledger.state.validators().0.len() as u64) as usize].node;
        let context = ledger.context_of(proposer, after);
        let mut executor = Executor::begin(&ledger.state, context).unwrap();
        let mut accepted = Vec::new();
        for _ in 0..chaos.below(24) {
            let transaction = chaos.transaction(&ledger, &executor.state);
            let before = (executor.state.entries.clone(), executor.events.len());
            seen.operations += 1;
            match executor.apply(&transaction) {
                Ok(()) => accepted.push(transaction.clone()),
                Err(reason) => {
                    assert!(executor.state.entries == before.0, "seed {seed}: {reason} left a trace");
                    assert_eq!(executor.events.len(), before.1);
                }
            }
            let bytes = transaction.encode();
            assert_eq!(Transaction::decode(&bytes).unwrap(), transaction);
        }
        let finished = executor.finish();
        let offered = accepted.len();
        seen.accepted += offered as u64;
        let (block, built) =
            build_block(&ledger.state, proposer, context.time_ms, context.reveal, accepted.into_iter()).unwrap();
        assert_eq!(block.transactions.len(), offered);
        assert_eq!(built.state.root(), finished.state.root(), "seed {seed}");
        let restored = State::restore(&ledger.genesis, ledger.state.entries()).unwrap();
        let executed = execute_block(&restored, &block).unwrap();
        assert_eq!(executed.state.check_supply(), Ok(()), "seed {seed}");
        assert!(!executed.state.validators().0.is_empty(), "seed {seed}: somebody has to decide the next height");
        assert_eq!(executed.writes, built.writes);
        for event in &executed.events {
            seen.events.insert(format!("{event:?}").split([' ', '{']).next().unwrap().to_owned());
        }
        ledger.state = executed.state;
    }
    seen
}

#[test]
fn whatever_is_sent_the_supply_law_holds_and_every_node_gets_the_same_state() {
    const RARE: [&str; 24] = [
        "TransferConfirmed",
        "TransferRefunded",
        "TransferFinal",
        "Unbonded",
        "RoundClosed",
        "RoundAborted",
        "ValidatorsChanged",
        "NodeLapsed",
        "TransferReversed",
        "ReportWithdrawn",
        "ReportForfeited",
        "DebtPaid",
        "Slashed",
        "Unjailed",
        "ChallengeEnded",
        "AccusationEnded",
        "Recovered",
        "UsernameChanged",
        "Activated",
        "NodeBound",
        "LotsCommitted",
        "ReceiptPaid",
        "DepositReturned",
        "MarketPrice",
    ];
    let mut seen = std::collections::BTreeSet::new();
    // At least eight runs, and as many as it takes to come to everything that can happen.
    for seed in 0..240 {
        seen.append(&mut run(seed, 200).events);
        if seed >= 8 && RARE.iter().all(|event| seen.contains(*event)) {
            return;
        }
    }
    panic!("the random runs must come to all of {RARE:?}, they saw {seen:?}");
}

/// `AILO_OPERATIONS=1000000 cargo test -p ailo-ledger nobody_chose -- --nocapture` runs a million.
#[test]
fn the_same_holds_for_seeds_that_nobody_chose() {
    let wanted: u64 = std::env::var("AILO_OPERATIONS").map_or(3000, |n| n.parse().unwrap());
    let (mut operations, mut accepted) = (0, 0);
    while operations < wanted {
        let PublicKey(fresh) = *Keypair::generate().public();
        let seed = u64::from_le_bytes(fresh[..8].try_into().unwrap());
        println!("seed {seed}");
        let seen = run(seed, 200);
        (operations, accepted) = (operations + seen.operations, accepted + seen.accepted);
    }
    println!("{operations} operations, {accepted} of them accepted");
}

#[test]
fn entries_have_one_encoding() {
    let mut ledger = Ledger::new(4, |_| {});
    ledger.fund(wallet(0), ALC(10));
    ledger.open_round(0..4);
    ledger.block(vec![ledger.transfer(0, 1, ALC(1)), ledger.commit(0)]);
    for (key, bytes) in ledger.state.entries() {
        let key: Key = canonical::decode(&key, 128).unwrap();
        let entry: Entry = canonical::decode(&bytes, 1 << 20).unwrap();
        assert_eq!(ledger.state.entries.get(&key), Some(&entry));
        for i in 0..bytes.len() {
            let mut other = bytes.clone();
            other[i] ^= 1;
            let decoded = canonical::decode::<Entry>(&other, 1 << 20);
            assert!(decoded.map_or(true, |other| other != entry), "two encodings of {key:?}");
        }
        assert!(canonical::decode::<Entry>(&bytes[..bytes.len() - 1], 1 << 20).is_err());
        assert!(canonical::decode::<Entry>(&[&bytes[..], &[0]].concat(), 1 << 20).is_err());
    }
}
