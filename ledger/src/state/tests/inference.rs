use super::*;
use crate::transaction::{Claim, MAX_CLAIMS};
use ailo_protocol::{
    amount::PPM,
    params::InferenceParams,
    payment::{self, Receipt},
};

/// Who asks: a wallet without a node.
const ASKER: u8 = 20;
/// What a unit costs at first.
const PRICE: u64 = 10_000;

/// Four founders with seats, so a node's part of a deposit is a quarter; and a requester that has deposited 10 of 110 ALC.
fn ledger() -> Ledger {
    ledger_of(4, |_| {})
}

fn ledger_of(founders: u8, edit: impl FnOnce(&mut InferenceParams)) -> Ledger {
    let mut ledger = Ledger::new(founders, |params| edit(&mut params.inference));
    ledger.fund(wallet(ASKER), ALC(110));
    ledger.block(vec![put(&ledger, ALC(10))]);
    ledger
}

fn put(ledger: &Ledger, amount: Amount) -> Transaction {
    ledger.sign(&wallet_key(ASKER), Body::Deposit { amount })
}

fn withdraw(ledger: &Ledger, amount: Amount) -> Transaction {
    ledger.sign(&wallet_key(ASKER), Body::WithdrawDeposit { amount })
}

/// The requester's promise of so many units to the founder `node`, which has all layers.
fn receipt(ledger: &Ledger, node: u8, units: u64) -> Receipt {
    Receipt {
        payer: *wallet_key(ASKER).public(),
        node: *node_key(node).public(),
        session: [1; 16],
        model: Hash([5; 32]),
        first: 0,
        end: 8,
        total: 8,
        units,
        price: Amount(PRICE),
        // One for all receipts of an epoch and the next.
        expires_age: (ledger.state.epoch() + 1) * 60_000 + 35_000,
        latency_ms: 60_000,
    }
}

fn claim_by(ledger: &Ledger, node: u8, units: u64, receipt: Receipt, payer: &Keypair) -> Transaction {
    let receipt = receipt.sign(&ledger.state.network(), payer);
    ledger.sign(&node_key(node), Body::InferenceReceipt { claims: vec![Claim { units, receipt }] })
}

/// The founder `node` claims all of a receipt.
fn claim(ledger: &Ledger, node: u8, receipt: Receipt) -> Transaction {
    claim_by(ledger, node, receipt.units, receipt, &wallet_key(ASKER))
}

fn deposited(ledger: &Ledger) -> Amount {
    ledger.state.deposit(&wallet(ASKER)).amount
}

/// Payments of the last block: amount, burned, minted.
fn payments(ledger: &Ledger) -> Vec<(u64, u64, u64)> {
    let paid = ledger.events.iter().filter_map(|event| match event {
        Event::ReceiptPaid { amount, burned, minted, .. } => Some((amount.0, burned.0, minted.0)),
        _ => None,
    });
    paid.collect()
}

/// What in the state is there for payment alone.
fn bookkeeping(ledger: &Ledger) -> usize {
    let kept = |key: &&Key| matches!(key, Key::Claimed(..) | Key::Drawn(..) | Key::Withdrawal(..));
    ledger.state.entries.keys().filter(kept).count()
}

#[test]
fn of_what_a_claim_takes_from_the_deposit_5_percent_burn_and_95_are_the_nodes_and_half_of_the_burned_comes_on_top() {
    let mut ledger = ledger();
    let (before, free) = (ledger.state.supply(), ledger.free(0));
    ledger.block(vec![claim(&ledger, 0, receipt(&ledger, 0, 1000))]);
    let after = ledger.state.supply();
    assert_eq!(payments(&ledger), [(10_000_000, 500_000, 250_000)]);
    assert_eq!(ledger.free(0).0 - free.0, 9_500_000 + 250_000);
    assert_eq!(deposited(&ledger).0, ALC(10).0 - 10_000_000);
    assert_eq!((after.burned.0 - before.burned.0, after.minted.0 - before.minted.0), (500_000, 250_000));
    assert_eq!(before.escrow.0 - after.escrow.0, 10_000_000);
}

#[test]
fn stages_of_one_session_claim_alone_and_together_take_its_price() {
    let mut ledger = ledger();
    let stage = |node: u8, first, end| Receipt { first, end, ..receipt(&ledger, node, 1000) };
    let claims =
        vec![claim(&ledger, 0, stage(0, 0, 2)), claim(&ledger, 1, stage(1, 2, 6)), claim(&ledger, 2, stage(2, 6, 8))];
    ledger.block(claims);
    let amounts: Vec<u64> = payments(&ledger).iter().map(|(amount, ..)| *amount).collect();
    assert_eq!(amounts, [3_250_000, 3_500_000, 3_250_000]);
}

#[test]
fn a_receipt_is_cumulative_and_pays_nothing_twice() {
    let mut ledger = ledger();
    ledger.block(vec![claim(&ledger, 0, receipt(&ledger, 0, 100))]);
    assert_eq!(ledger.refusal(&claim(&ledger, 0, receipt(&ledger, 0, 100))), Rejection::AlreadyClaimed { units: 100 });
    assert_eq!(ledger.refusal(&claim(&ledger, 0, receipt(&ledger, 0, 60))), Rejection::AlreadyClaimed { units: 100 });
    ledger.block(vec![claim(&ledger, 0, receipt(&ledger, 0, 130))]);
    assert_eq!(payments(&ledger)[0].0, 30 * PRICE);
    // In parts, of one receipt.
    let all = receipt(&ledger, 0, 200);
    for units in [150, 200] {
        ledger.block(vec![claim_by(&ledger, 0, units, all, &wallet_key(ASKER))]);
    }
    assert_eq!(deposited(&ledger).0, ALC(10).0 - 200 * PRICE);
    // Another session of the same requester's counts for itself.
    ledger.block(vec![claim(&ledger, 0, Receipt { session: [2; 16], ..receipt(&ledger, 0, 20) })]);
    assert_eq!(payments(&ledger)[0].0, 20 * PRICE);
}

#[test]
fn the_latency_bonus_comes_with_a_sessions_first_claim_alone() {
    let mut ledger = ledger_of(4, |params| params.top_up = Amount::ZERO);
    let fast = |ledger: &Ledger, units| Receipt { latency_ms: 0, ..receipt(ledger, 0, units) };
    ledger.block(vec![claim(&ledger, 0, fast(&ledger, 1000))]);
    assert_eq!(payments(&ledger)[0].2, 250_000);
    ledger.block(vec![claim(&ledger, 0, fast(&ledger, 2000))]);
    assert_eq!(payments(&ledger)[0].2, 0);
}

#[test]
fn whoever_claims_what_was_not_promised_to_it_is_refused() {
    let mut ledger = ledger();
    ledger.fund(wallet(1), ALC(20));
    ledger.block(vec![ledger.sign(&wallet_key(1), Body::Deposit { amount: ALC(10) })]);
    let bad = Rejection::BadClaim { max: MAX_CLAIMS };
    let good = receipt(&ledger, 1, 100);
    assert_eq!(ledger.refusal(&claim(&ledger, 0, good)), bad, "another node's");
    assert_eq!(ledger.refusal(&claim_by(&ledger, 1, 101, good, &wallet_key(ASKER))), bad, "more units");
    assert_eq!(ledger.refusal(&claim(&ledger, 1, Receipt { end: 9, ..good })), bad, "layers that there are not");
    let own = Receipt { payer: *wallet_key(1).public(), ..good };
    assert_eq!(ledger.refusal(&claim_by(&ledger, 1, 100, own, &wallet_key(1))), Rejection::OwnReceipt);
    let (age, min) = (ledger.state.age_ms() + 1000, Amount(100_000));
    assert_eq!(
        ledger.refusal(&claim(&ledger, 1, Receipt { expires_age: age, ..good })),
        Rejection::ReceiptExpired { age }
    );
    assert_eq!(
        ledger.refusal(&claim(&ledger, 1, Receipt { expires_age: age + 100_001, ..good })),
        Rejection::ReceiptTooLong { max_ms: 100_000 }
    );
    let worth = Amount(9 * PRICE);
    assert_eq!(
        ledger.refusal(&claim(&ledger, 1, Receipt { units: 9, ..good })),
        Rejection::ClaimTooSmall { worth, min }
    );
    let empty = Body::InferenceReceipt { claims: vec![] };
    assert_eq!(ledger.refusal(&ledger.sign(&node_key(1), empty)), bad);
    let claims =
        vec![Claim { units: 1, receipt: good.sign(&ledger.state.network(), &wallet_key(ASKER)) }; MAX_CLAIMS + 1];
    assert_eq!(ledger.refusal(&ledger.sign(&node_key(1), Body::InferenceReceipt { claims })), bad);
    let nobody = Receipt { node: *stranger(0).public(), ..good }.sign(&ledger.state.network(), &wallet_key(ASKER));
    let by_stranger = Body::InferenceReceipt { claims: vec![Claim { units: 100, receipt: nobody }] };
    assert_eq!(ledger.refusal(&ledger.sign(&stranger(0), by_stranger)), Rejection::UnknownNode);
    // What the requester did not sign never comes so far.
    let mut forged = claim(&ledger, 1, good);
    let Body::InferenceReceipt { claims } = &mut forged.unsigned.body else { unreachable!() };
    claims[0].receipt.receipt.units = 100_000;
    let resigned = ledger.sign(&node_key(1), forged.unsigned.body.clone());
    assert!(resigned.verify(&ledger.state.network()).is_err());
    assert!(claim(&ledger, 1, good).verify(&ledger.state.network()).is_ok());
}

#[test]
fn a_node_is_paid_from_the_epoch_after_its_registration_on() {
    let mut ledger = ledger();
    let node = stranger(0);
    ledger.block(vec![ledger.registration(&node, 3)]);
    let promise = |ledger: &Ledger| {
        let receipt = Receipt { node: *node.public(), ..receipt(ledger, 0, 100) };
        let receipt = receipt.sign(&ledger.state.network(), &wallet_key(ASKER));
        ledger.sign(&node, Body::InferenceReceipt { claims: vec![Claim { units: 100, receipt }] })
    };
    assert_eq!(ledger.refusal(&promise(&ledger)), Rejection::NodeTooNew);
    let payer = *wallet_key(ASKER).public();
    assert_eq!(ledger.state.trusts(&payer, node.public(), Amount::ZERO), Amount::ZERO);
    ledger.pass(60_000);
    // Five nodes, four seats: it has a tenth, those with seats a tenth and an eighth.
    assert_eq!(ledger.state.trusts(&payer, node.public(), Amount::ZERO), ALC(1));
    assert_eq!(ledger.state.trusts(&payer, node_key(0).public(), Amount::ZERO), Amount(225_000_000));
    ledger.block(vec![promise(&ledger)]);
}

#[test]
fn a_requester_that_promises_its_deposit_to_everybody_cheats_nobody_who_trusts_it_with_a_part() {
    let mut ledger = ledger();
    // All of it to each; the founder 3 is its ally and tries to be the first to have it.
    let all = |ledger: &Ledger, node: u8| receipt(ledger, node, ALC(10).0 / PRICE);
    let part = ALC(10).0 / 4;
    let claim_part = |ledger: &Ledger, node: u8, extra: u64| {
        claim_by(ledger, node, part / PRICE + extra, all(ledger, node), &wallet_key(ASKER))
    };
    let over = Rejection::OverPart { left: Amount(part), worth: Amount(part + PRICE) };
    assert_eq!(ledger.refusal(&claim_part(&ledger, 3, 1)), over);
    ledger.block(vec![claim_part(&ledger, 3, 0)]);
    let spent = Rejection::OverPart { left: Amount::ZERO, worth: Amount(100 * PRICE) };
    assert_eq!(ledger.refusal(&claim(&ledger, 3, Receipt { session: [9; 16], ..receipt(&ledger, 3, 100) })), spent);
    ledger.block((0..3).map(|node| claim_part(&ledger, node, 0)).collect());
    assert!(payments(&ledger).iter().all(|(amount, ..)| *amount == part));
    assert_eq!(deposited(&ledger), Amount::ZERO);
}

#[test]
fn who_claims_in_the_epoch_of_the_promise_loses_nothing_whatever_requester_and_allies_do() {
    for seed in 0..6u8 {
        let mut random = Hash([seed; 32]).stream();
        let mut ledger = Ledger::new(6, |_| {});
        ledger.fund(wallet(ASKER), ALC(500));
        ledger.block(vec![put(&ledger, ALC(50))]);
        let payer = *wallet_key(ASKER).public();
        // What the three honest nodes hold: units that they were promised, and units that they have claimed.
        let mut held = [(0, 0); 3];
        let mut epoch = 0;
        while ledger.state.epoch() < 6 {
            if ledger.state.epoch() != epoch {
                (epoch, held) = (ledger.state.epoch(), [(0, 0); 3]);
            }
            let ends = (epoch + 1) * 60_000;
            let last = ledger.state.age_ms() + 10_000 >= ends;
            let mut transactions = Vec::new();
            for node in 0..3u8 {
                let (promised, claimed) = &mut held[usize::from(node)];
                let unclaimed = Amount((*promised - *claimed) * PRICE);
                let room = ledger.state.trusts(&payer, node_key(node).public(), unclaimed).0 / PRICE;
                *promised += if random.below(2) == 0 { room } else { random.below(room + 1) };
                let due = *promised > *claimed + 10;
                if due && (last || random.below(3) == 0) {
                    *claimed = *promised;
                    transactions.push(claim(&ledger, node, receipt(&ledger, node, *promised)));
                }
            }
            // The allies take whatever the ledger lets them have, in each block before the honest.
            for node in 3..6u8 {
                let most = ledger.state.drawable(&wallet(ASKER), node_key(node).public()).0 / PRICE;
                if most >= 10 && random.below(2) == 0 {
                    let session = [ledger.state.height() as u8; 16];
                    let greedy = Receipt { session, ..receipt(&ledger, node, most) };
                    transactions.insert(0, claim(&ledger, node, greedy));
                }
            }
            let change = match random.below(6) {
                0 => Some(put(&ledger, Amount(1 + random.below(ALC(20).0)))),
                1 => {
                    let deposit = ledger.state.deposit(&wallet(ASKER));
                    let most = deposit.amount.0 - deposit.leaving.0.min(deposit.amount.0);
                    (most > 0).then(|| withdraw(&ledger, Amount(1 + random.below(most))))
                }
                _ => None,
            };
            if let Some(change) = change {
                transactions.insert(0, change);
            }
            ledger.block(transactions);
            if last {
                ledger.pass(ends.saturating_sub(ledger.state.age_ms()));
            } else {
                ledger.pass(1 + random.below(8_000));
            }
        }
    }
}

#[test]
fn who_is_slow_is_paid_within_its_part_of_later_epochs_and_loses_no_more_than_the_part_that_it_had() {
    let mut ledger = ledger();
    let part = ALC(10).0 / 4;
    let late = Receipt { expires_age: 100_000, ..receipt(&ledger, 0, part / PRICE) };
    let others =
        |ledger: &Ledger, units| (1..4).map(|node| claim(ledger, node, receipt(ledger, node, units))).collect();
    ledger.block(others(&ledger, part / PRICE));
    ledger.pass(60_000);
    assert_eq!(deposited(&ledger).0, part, "its own part is still there");
    let worth = Amount(part);
    let left = Amount(part / 4);
    assert_eq!(ledger.refusal(&claim(&ledger, 0, late)), Rejection::OverPart { left, worth });
    ledger.block(vec![claim_by(&ledger, 0, left.0 / PRICE, late, &wallet_key(ASKER))]);
    assert_eq!(payments(&ledger)[0].0, left.0);
}

#[test]
fn a_withdrawal_waits_and_what_was_promised_before_is_paid_out_of_it() {
    let mut ledger = ledger();
    let payer = *wallet_key(ASKER).public();
    let asked = ALC(11);
    assert_eq!(ledger.refusal(&withdraw(&ledger, asked)), Rejection::NotDeposited { deposited: ALC(10), asked });
    let promise = receipt(&ledger, 0, 25_000);
    ledger.block(vec![withdraw(&ledger, ALC(10))]);
    assert_eq!(ledger.state.trusts(&payer, node_key(0).public(), Amount::ZERO), Amount::ZERO, "nobody serves it now");
    assert_eq!(ledger.refusal(&withdraw(&ledger, Amount(1))).code(), "NOT_DEPOSITED");
    ledger.block(vec![claim(&ledger, 0, promise)]);
    assert_eq!(payments(&ledger)[0].0, 25_000 * PRICE);
    let due = ledger.state.deposit(&wallet(ASKER)).due_age;
    ledger.pass(due - ledger.state.age_ms() - 1);
    assert_eq!(deposited(&ledger).0, ALC(10).0 - 25_000 * PRICE);
    let free = ledger.free(ASKER);
    ledger.pass(1);
    assert_eq!(ledger.free(ASKER).0 - free.0, ALC(10).0 - 25_000 * PRICE);
    assert_eq!(ledger.state.deposit(&wallet(ASKER)), Deposit::default());
}

#[test]
fn another_withdrawal_makes_all_that_is_leaving_wait_anew() {
    let mut ledger = ledger();
    ledger.block(vec![withdraw(&ledger, ALC(4))]);
    ledger.pass(100_000);
    ledger.block(vec![withdraw(&ledger, ALC(1))]);
    ledger.pass(100_000);
    assert_eq!(deposited(&ledger), ALC(10));
    ledger.pass(30_000);
    assert_eq!(deposited(&ledger), ALC(5));
    assert_eq!(bookkeeping(&ledger), 0);
}

#[test]
fn what_the_state_remembers_of_payments_goes_when_it_can_decide_nothing_any_more() {
    let mut ledger = ledger();
    ledger.block((0..4).map(|node| claim(&ledger, node, receipt(&ledger, node, 100))).collect());
    ledger.block(vec![withdraw(&ledger, ALC(1))]);
    assert_eq!(bookkeeping(&ledger), 4 + 4 + 1);
    let again = receipt(&ledger, 0, 100);
    ledger.pass(60_000);
    assert_eq!(bookkeeping(&ledger), 4 + 1, "what was drawn counts in its epoch");
    assert_eq!(ledger.refusal(&claim(&ledger, 0, again)).code(), "ALREADY_CLAIMED");
    ledger.pass(again.expires_age - ledger.state.age_ms());
    assert_eq!(bookkeeping(&ledger), 1);
    assert_eq!(ledger.refusal(&claim(&ledger, 0, again)).code(), "RECEIPT_EXPIRED");
    ledger.pass(60_000);
    assert_eq!(bookkeeping(&ledger), 0);
}

#[test]
fn a_requester_that_recovers_its_account_still_pays_what_its_last_key_signed_before() {
    let mut ledger = ledger();
    let (recovery, next) = (Keypair::from_seed([150; 32]), Keypair::from_seed([151; 32]));
    let commitment = |key: &Keypair| recovery_commitment(&ledger.state.network(), key.public());
    let (first, second, third) = (commitment(&recovery), commitment(&next), commitment(&wallet_key(90)));
    ledger.block(vec![ledger.sign(&wallet_key(ASKER), Body::SetRecovery { commitment: first })]);
    let promise = receipt(&ledger, 0, 100);
    let fresh = wallet_key(91);
    ledger.block(vec![ledger.sign(&recovery, recover_body(&ledger, wallet(ASKER), 0, &fresh, second))]);
    let payer = *wallet_key(ASKER).public();
    assert_eq!(ledger.state.trusts(&payer, node_key(0).public(), Amount::ZERO), Amount::ZERO, "no new ones");
    ledger.block(vec![claim(&ledger, 0, promise)]);
    // A thief of the old key gets nothing that lasts longer than what could have been signed before.
    let newest = ledger.state.account(&wallet(ASKER)).recovered_age + 100_000;
    let stolen = Receipt { session: [7; 16], expires_age: newest + 1, ..promise };
    ledger.pass(1000);
    assert_eq!(ledger.refusal(&claim(&ledger, 0, stolen)).code(), "KEY_ROTATED");
    // The new key's are paid, and go on where the old one's were.
    let more = Receipt { payer: *fresh.public(), units: 150, ..promise };
    ledger.block(vec![claim_by(&ledger, 0, 150, more, &fresh)]);
    assert_eq!(payments(&ledger)[0].0, 50 * PRICE);
    // With the next recovery, an epoch later, what the first key signed is void.
    ledger.pass(60_000);
    let old = Receipt { session: [8; 16], ..receipt(&ledger, 0, 100) };
    let old = Receipt { expires_age: newest.min(old.expires_age), ..old };
    ledger.block(vec![ledger.sign(&next, recover_body(&ledger, wallet(ASKER), 1, &wallet_key(92), third))]);
    assert_eq!(ledger.refusal(&claim(&ledger, 0, old)).code(), "KEY_ROTATED");
}

#[test]
fn a_reversal_seizes_the_deposit_last_and_nodes_do_not_trust_what_is_left_until_the_next_deposit() {
    let mut ledger = Ledger::new(10, |_| {});
    ledger.fund(wallet(0), ALC(100));
    (1..10).for_each(|i| ledger.fund(wallet(i), ALC(10)));
    let fraud = ledger.transfer(0, 1, ALC(50));
    ledger.block(vec![fraud.clone()]);
    let height = ledger.state.height();
    ledger.block(vec![ledger.attest(8, height), ledger.attest(9, height)]);
    let stake = Body::Stake { node: *node_key(1).public(), amount: ALC(5) };
    ledger.block(vec![ledger.sign(&wallet_key(1), stake)]);
    ledger.block(vec![ledger.sign(&wallet_key(1), Body::Deposit { amount: ALC(54) })]);
    let (payer, free) = (*wallet_key(1).public(), ledger.free(1).0);
    let trusted = |ledger: &Ledger| ledger.state.trusts(&payer, node_key(2).public(), Amount::ZERO);
    assert_eq!(trusted(&ledger), Amount(ALC(54).0 / 10));
    let reports = (2..8).map(|i| {
        let node = *node_key(i).public();
        ledger.sign(&wallet_key(i), Body::Report { transfer: fraud.id(), node })
    });
    ledger.block(reports.collect());
    assert!(ledger.events.iter().any(|e| matches!(e, Event::TransferReversed { owed: Amount::ZERO, .. })));
    let deposit = ledger.state.deposit(&wallet(1));
    assert_eq!(ledger.state.account(&wallet(1)).staked, Amount::ZERO, "free coins and stake first");
    assert_eq!(deposit.amount.0, ALC(54).0 + ALC(5).0 + free - ALC(50).0);
    assert!(deposit.short);
    assert_eq!(trusted(&ledger), Amount::ZERO);
    ledger.fund(wallet(1), ALC(2));
    ledger.block(vec![ledger.sign(&wallet_key(1), Body::Deposit { amount: ALC(1) })]);
    assert_eq!(trusted(&ledger), payment::part(Amount(deposit.amount.0 + ALC(1).0), 10, 10, true));
}

#[test]
fn the_price_follows_what_is_paid_in_an_epoch_and_receipts_count_up_to_twice_the_price() {
    let mut ledger = ledger();
    assert_eq!(ledger.state.market().price, Amount(PRICE));
    // Three times what one node with a seat is taken to serve.
    ledger.block(vec![claim(&ledger, 0, receipt(&ledger, 0, 3000))]);
    ledger.pass(60_000);
    let price = ledger.state.market().price;
    assert_eq!(price.0, 12_500, "0.8 of the old one and 0.2 of its triple would be 14 000; a quarter more at most");
    let paid = Amount(3000 * PRICE);
    assert!(ledger.events.contains(&Event::MarketPrice { epoch: 1, price, paid, servers: 1 }));
    let dear = Receipt { price: Amount(100 * PRICE), ..receipt(&ledger, 1, 100) };
    ledger.block(vec![claim(&ledger, 1, dear)]);
    assert_eq!(payments(&ledger)[0].0, 200 * price.0);
    ledger.pass(20 * 60_000);
    assert!(ledger.state.market().price < Amount(PRICE + PRICE / 50), "nobody asks");
}

#[test]
fn a_node_claims_no_more_receipts_an_epoch_than_its_quota() {
    let mut ledger = ledger_of(4, |params| params.receipt_quota = 3);
    let session = |i: u8| Receipt { session: [i; 16], ..receipt(&ledger, 0, 20) };
    let signed = |i: u8| Claim { units: 20, receipt: session(i).sign(&ledger.state.network(), &wallet_key(ASKER)) };
    let body = |sessions: &[u8]| Body::InferenceReceipt { claims: sessions.iter().map(|i| signed(*i)).collect() };
    let [two, other] = [body(&[1, 2]), body(&[3, 4])].map(|body| ledger.sign(&node_key(0), body));
    ledger.block(vec![two]);
    assert_eq!(ledger.refusal(&other), Rejection::ClaimQuota { quota: 3 });
    ledger.pass(60_000);
    let later = Receipt { session: [5; 16], ..receipt(&ledger, 0, 20) };
    ledger.block(vec![claim(&ledger, 0, later)]);
}

#[test]
fn a_network_that_subsidises_mints_no_more_than_its_cap_an_epoch() {
    let cap = Amount(8_000_000);
    let mut ledger = ledger_of(4, |params| params.subsidy_cap = cap);
    let before = ledger.state.supply().minted.0;
    for units in [1000, 2000, 3000] {
        ledger.block(vec![claim(&ledger, 0, receipt(&ledger, 0, units))]);
    }
    assert_eq!(ledger.state.supply().minted.0 - before, 3 * 250_000 + cap.0);
}

#[test]
fn a_ring_that_asks_itself_has_less_after_every_claim() {
    let mut random = Hash([4; 32]).stream();
    let mut ledger = ledger_of(4, |_| {});
    // The requester and the founder 0 are one; what they have together: deposits, and coins but for fees of others' blocks.
    let wealth = |ledger: &Ledger| ledger.free(0).0 + ledger.free(ASKER).0 + deposited(ledger).0;
    let mut units = 0;
    for _ in 0..40 {
        units += 10 + random.below(500);
        let fast = Receipt { latency_ms: 0, ..receipt(&ledger, 0, units) };
        let before = wealth(&ledger);
        ledger.one_block(1, vec![claim(&ledger, 0, fast)]);
        let (amount, burned, minted) = payments(&ledger)[0];
        assert!(minted <= burned / 2 && burned >= amount * 50_000 / PPM);
        assert_eq!(before - wealth(&ledger), burned - minted);
    }
}

#[test]
fn entries_of_payments_are_proved_by_the_root_and_restored_from_a_snapshot() {
    let mut ledger = ledger();
    let promise = receipt(&ledger, 0, 100);
    ledger.block(vec![claim(&ledger, 0, promise), withdraw(&ledger, ALC(1))]);
    let root = ledger.state.root();
    for key in ledger.state.entries.keys().filter(|key| **key != Key::Tip) {
        let (entry, proof) = ledger.state.prove(key);
        assert!(proof.verify(&root, &canonical::encode(key), Some(&canonical::encode(entry.unwrap()))), "{key:?}");
    }
    let restored = State::restore(&ledger.genesis, ledger.state.entries()).unwrap();
    assert_eq!((restored.root(), restored.check_supply()), (root, Ok(())));
    assert_eq!(restored.deposit(&wallet(ASKER)), ledger.state.deposit(&wallet(ASKER)));
    ledger.state = restored;
    assert_eq!(ledger.refusal(&claim(&ledger, 0, promise)).code(), "ALREADY_CLAIMED");
}
