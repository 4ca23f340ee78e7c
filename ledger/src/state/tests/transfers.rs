use super::*;

fn funded(founders: u8, edit: impl FnOnce(&mut ailo_protocol::params::LedgerParams)) -> Ledger {
    let mut ledger = Ledger::new(founders, |params| edit(&mut params.ledger));
    ledger.fund(wallet(0), ALC(100));
    ledger
}

/// Includes a transfer of 10 ALC from the first founder to the second; its id and height.
fn include(ledger: &mut Ledger) -> (Hash, u64) {
    let transfer = ledger.transfer(0, 1, ALC(10));
    ledger.block(vec![transfer.clone()]);
    (transfer.id(), ledger.state.height())
}

#[test]
fn a_transfer_is_the_recipients_only_with_the_last_confirmation_it_needs() {
    let mut ledger = funded(5, |_| {});
    let (id, height) = include(&mut ledger);
    assert_eq!(ledger.free(0), Amount(ALC(90).0 - 1_000_000));
    assert_eq!(ledger.state.account(&wallet(1)).incoming, ALC(10));
    assert_eq!(ledger.state.transfer(&id).unwrap().status, TransferStatus::Pending);

    ledger.block(vec![ledger.attest(2, height)]);
    let spend = ledger.transfer(1, 2, ALC(5));
    assert_eq!(ledger.refusal(&spend).code(), "INSUFFICIENT", "what is pending can't be spent");
    assert_eq!(ledger.state.pending_blocks().collect::<Vec<_>>(), [height]);

    ledger.block(vec![ledger.attest(3, height)]);
    assert_eq!(ledger.state.transfer(&id).unwrap().status, TransferStatus::Confirmed);
    assert_eq!((ledger.free(1), ledger.state.account(&wallet(1)).incoming), (ALC(10), Amount::ZERO));
    assert_eq!(ledger.state.pending_blocks().count(), 0);
    ledger.block(vec![ledger.transfer(1, 2, ALC(5))]);
}

#[test]
fn a_fee_is_half_burned_a_quarter_the_proposers_and_a_fortieth_each_of_ten_confirmers() {
    let mut ledger = funded(13, |ledger| ledger.confirmations = 10);
    let (_, height) = include(&mut ledger);
    let proposer = ledger.state.validators().0[0].node;
    let proposer = (0..13).find(|i| *node_key(*i).public() == proposer).unwrap();
    ledger.block((2..12).map(|i| ledger.attest(i, height)).collect());
    for i in 2..13 {
        let earned = if i < 12 { 25_000 } else { 0 } + if i == proposer { 250_000 } else { 0 };
        assert_eq!(ledger.free(i), Amount(earned), "founder {i}");
    }
    assert_eq!(ledger.state.supply().burned, Amount(500_000));
}

#[test]
fn what_of_a_fee_has_no_taker_burns() {
    let mut ledger = funded(5, |ledger| ledger.confirmations = 0);
    let (id, _) = include(&mut ledger);
    assert_eq!(ledger.state.transfer(&id).unwrap().status, TransferStatus::Confirmed, "threshold 0 confirms at once");
    assert_eq!(ledger.free(1).0 % ALC(1).0 % 250_000, 0);
    assert_eq!(ledger.state.supply().burned, Amount(750_000), "the confirmers' quarter burns");
}

#[test]
fn an_unconfirmed_transfer_is_refunded_without_its_fee_and_who_attested_is_paid() {
    let mut ledger = funded(5, |_| {});
    let (id, height) = include(&mut ledger);
    let before: u64 = (0..5).map(|i| ledger.free(i).0).sum();
    ledger.block(vec![ledger.attest(2, height)]);
    ledger.pass(ledger.state.params().ledger.pending_ms - 2000);
    assert!(ledger.state.transfer(&id).is_some());
    ledger.pass(1000);
    assert_eq!(ledger.state.transfer(&id), None);
    assert!(ledger.events.iter().any(|e| matches!(e, Event::TransferRefunded { .. })), "{:?}", ledger.events);
    let after: u64 = (0..5).map(|i| ledger.free(i).0).sum();
    assert_eq!(after - before, ALC(10).0 + 250_000 + 125_000, "refund, proposer, one confirmer of two");
    assert_eq!(ledger.state.supply().burned, Amount(625_000));
    assert_eq!(ledger.state.pending_blocks().count(), 0);
}

#[test]
fn a_confirmed_transfer_is_final_after_its_time_and_then_forgotten() {
    let mut ledger = funded(5, |_| {});
    let (id, height) = include(&mut ledger);
    ledger.block(vec![ledger.attest(2, height), ledger.attest(3, height)]);
    ledger.pass(ledger.state.params().ledger.final_ms - 2000);
    assert!(ledger.state.transfer(&id).is_some());
    ledger.pass(1000);
    assert_eq!(ledger.state.transfer(&id), None);
    assert!(ledger.events.iter().any(|e| matches!(e, Event::TransferFinal { .. })));
    assert_eq!(ledger.free(1).0 / ALC(1).0, 10);
}

#[test]
fn an_expired_transfer_accepts_nothing_even_before_the_sweep_reaches_it() {
    let mut ledger = funded(5, |ledger| ledger.sweep_per_block = 1);
    let mut transfers = vec![ledger.transfer(0, 1, ALC(1))];
    for nonce in 1..4 {
        let body = Body::Transfer { to: wallet(1), amount: ALC(1), memo: String::new() };
        let time = ledger.state.time_ms() + 1000;
        transfers.push(Transaction::sign(&ledger.state.network(), &wallet_key(0), nonce, time, body));
    }
    ledger.block(transfers);
    let height = ledger.state.height();
    ledger.pass(ledger.state.params().ledger.pending_ms - 1000);
    ledger.block_of_accepted(1000, vec![]);
    assert_eq!(ledger.state.inclusion(height).unwrap().pending, 3, "one swept a block");
    assert!(!ledger.state.may_attest(node_key(2).public(), height));
    assert_eq!(ledger.refusal(&ledger.attest(2, height)), Rejection::NoneNeeded);
    for left in [2, 1] {
        ledger.block(vec![]);
        assert_eq!(ledger.state.inclusion(height).unwrap().pending, left);
    }
    ledger.block(vec![]);
    assert_eq!(ledger.state.inclusion(height), None);
}

#[test]
fn an_outage_expires_nothing() {
    let mut ledger = funded(5, |ledger| ledger.max_gap_ms = 5000);
    let (id, height) = include(&mut ledger);
    ledger.block_of_accepted(30 * 24 * 3_600_000, vec![]);
    assert!(ledger.state.transfer(&id).is_some());
    ledger.block(vec![ledger.attest(2, height), ledger.attest(3, height)]);
}

#[test]
fn a_transfer_is_refused_when_too_few_seats_could_confirm_it() {
    let ledger = funded(5, |ledger| ledger.confirmations = 4);
    let transfer = ledger.transfer(0, 1, ALC(1));
    assert_eq!(ledger.refusal(&transfer), Rejection::TooFewActive { eligible: 3, needed: 4 });
    let to_stranger = Body::Transfer { to: Address([1; 20]), amount: ALC(1), memo: String::new() };
    let mut ledger = ledger;
    ledger.block(vec![ledger.sign(&wallet_key(0), to_stranger)]);
}

#[test]
fn a_malformed_transfer_is_refused_with_its_reason() {
    let ledger = funded(5, |_| {});
    let refusal = |nonce: u64, to: Address, amount: Amount, memo: &str, time_ms: u64| {
        let body = Body::Transfer { to, amount, memo: memo.into() };
        ledger.refusal(&Transaction::sign(&ledger.state.network(), &wallet_key(0), nonce, time_ms, body))
    };
    let (to, now) = (wallet(1), ledger.state.time_ms() + 1000);
    let params = &ledger.genesis.params.ledger;
    assert_eq!(refusal(0, to, Amount::ZERO, "", now), Rejection::ZeroAmount);
    assert_eq!(refusal(0, wallet(0), ALC(1), "", now), Rejection::SelfTransfer);
    assert_eq!(refusal(0, to, ALC(1), &"x".repeat(129), now), Rejection::MemoTooLong { max: 128 });
    assert_eq!(refusal(1, to, ALC(1), "", now), Rejection::BadNonce { expected: 0, got: 1 });
    let needed = Amount(ALC(100).0 + params.fee.0);
    assert_eq!(refusal(0, to, ALC(100), "", now), Rejection::Insufficient { free: ALC(100), needed });
    assert_eq!(refusal(0, to, Amount(u64::MAX), "", now).code(), "INSUFFICIENT", "amount and fee overflow");
    assert_eq!(refusal(0, to, ALC(1), "", now + params.skew_ms + 1), Rejection::FromFuture { now_ms: now });
    assert_eq!(refusal(0, to, ALC(1), "", now - params.transaction_ttl_ms - 1), Rejection::Expired { now_ms: now });
}

#[test]
fn a_transfer_cannot_be_included_twice() {
    let mut ledger = funded(5, |_| {});
    let transfer = ledger.transfer(0, 1, ALC(1));
    ledger.block(vec![transfer.clone()]);
    assert_eq!(ledger.refusal(&transfer), Rejection::BadNonce { expected: 1, got: 0 });
}

#[test]
fn nodes_of_the_sender_and_the_recipient_never_confirm() {
    let mut ledger = funded(5, |_| {});
    let (_, height) = include(&mut ledger);
    for i in [0, 1] {
        assert_eq!(ledger.refusal(&ledger.attest(i, height)), Rejection::NoneNeeded);
        assert!(!ledger.state.may_attest(node_key(i).public(), height));
    }
    assert!(ledger.state.may_attest(node_key(2).public(), height));
}

#[test]
fn a_node_attests_a_block_once_and_only_while_it_adds_a_needed_confirmation() {
    let mut ledger = funded(6, |_| {});
    let (_, height) = include(&mut ledger);
    assert_eq!(ledger.refusal(&ledger.attest(2, height + 1)), Rejection::NothingPending { height: height + 1 });
    ledger.block(vec![ledger.attest(2, height)]);
    assert_eq!(ledger.refusal(&ledger.attest(2, height)), Rejection::AlreadyAttested);
    ledger.block(vec![ledger.attest(3, height)]);
    assert_eq!(ledger.refusal(&ledger.attest(4, height)), Rejection::NothingPending { height });
}

#[test]
fn an_excepted_transfer_gets_no_confirmation() {
    let mut ledger = funded(6, |_| {});
    ledger.fund(wallet(1), ALC(10));
    let (bad, good) = (ledger.transfer(0, 5, ALC(1)), ledger.transfer(1, 5, ALC(1)));
    ledger.block(vec![bad.clone(), good.clone()]);
    let height = ledger.state.height();
    let attest = |i, except| ledger.sign(&node_key(i), Body::Attest { height, except });
    let mut both = vec![bad.id(), good.id()];
    both.sort();
    assert_eq!(ledger.refusal(&attest(2, both.clone())), Rejection::NoneNeeded);
    both.reverse();
    assert_eq!(ledger.refusal(&attest(2, both)), Rejection::BadExcept);
    let attests = vec![attest(2, vec![bad.id()]), attest(3, vec![bad.id()])];
    ledger.block(attests);
    assert_eq!(ledger.state.transfer(&good.id()).unwrap().status, TransferStatus::Confirmed);
    assert_eq!(ledger.state.transfer(&bad.id()).unwrap().confirmers.len(), 0);
    assert_eq!(ledger.refusal(&ledger.attest(2, height)), Rejection::AlreadyAttested, "it has spoken");
}

#[test]
fn only_the_drawn_attest_at_once_and_all_seats_some_blocks_later() {
    let mut ledger = funded(9, |ledger| (ledger.attest_drawn, ledger.confirmations) = (3, 3));
    let (_, height) = include(&mut ledger);
    let drawn = ledger.state.inclusion(height).unwrap().drawn.clone();
    assert_eq!(drawn.len(), 3);
    let other = (2..9).find(|i| !drawn.contains(node_key(*i).public())).unwrap();
    assert_eq!(ledger.refusal(&ledger.attest(other, height)), Rejection::NotDrawn { opens: height + 5 });
    for _ in 0..3 {
        ledger.block(vec![]);
        assert!(!ledger.state.may_attest(node_key(other).public(), height));
    }
    ledger.block(vec![]);
    assert!(ledger.state.may_attest(node_key(other).public(), height));
    ledger.block(vec![ledger.attest(other, height)]);
}

#[test]
fn attestations_need_a_seat_and_a_registration() {
    let mut ledger = funded(5, |_| {});
    let node = stranger(0);
    ledger.block(vec![ledger.registration(&node, 4)]);
    let (_, height) = include(&mut ledger);
    let attest = |key: &Keypair| ledger.sign(key, Body::Attest { height, except: vec![] });
    assert_eq!(ledger.refusal(&attest(&node)).code(), "NO_SEAT");
    assert_eq!(ledger.refusal(&attest(&stranger(1))), Rejection::UnknownNode);
}

#[test]
fn a_seat_of_the_epoch_of_inclusion_confirms_also_in_a_later_one() {
    let mut ledger = funded(5, |ledger| ledger.founder_seat_epochs = 1);
    let (_, height) = include(&mut ledger);
    ledger.pass(61_000);
    assert_eq!(ledger.state.seats(ledger.state.epoch()).unwrap().0, [], "the founders' seats have ended");
    ledger.block(vec![ledger.attest(2, height), ledger.attest(3, height)]);
}

#[test]
fn attestations_have_their_own_share_of_a_block() {
    let mut ledger = funded(40, |ledger| {
        (ledger.confirmations, ledger.block_bytes, ledger.attest_quota_ppm) = (10, 64 << 10, 20_000);
        ledger.attest_drawn = 40;
    });
    let (_, height) = include(&mut ledger);
    let attests: Vec<Transaction> = (2..12).map(|i| ledger.attest(i, height)).collect();
    let fit = (64 << 10) / 50 / attests[0].encode().len();
    assert!(attests.len() > fit, "the test needs more attestations than fit");
    let block = ledger.block_of_accepted(1000, attests);
    assert_eq!(block.transactions.len(), fit);
}

#[test]
fn a_block_holds_no_more_than_its_bytes() {
    let mut ledger = funded(5, |ledger| ledger.block_bytes = 64 << 10);
    let time = ledger.state.time_ms() + 1000;
    let body = Body::Transfer { to: wallet(1), amount: Amount(1), memo: "x".repeat(128) };
    let sign = |nonce| Transaction::sign(&ledger.state.network(), &wallet_key(0), nonce, time, body.clone());
    let transfers: Vec<Transaction> = (0..300).map(sign).collect();
    let each = transfers[0].encode().len();
    let block = ledger.block_of_accepted(1000, transfers);
    assert_eq!(block.transactions.len(), (64 << 10) / each);
}

#[test]
fn the_sender_takes_a_pending_transfer_back_in_the_same_block() {
    let mut ledger = funded(5, |_| {});
    let (id, height) = include(&mut ledger);
    let dispute = |ledger: &Ledger, i: u8| ledger.sign(&wallet_key(i), Body::Dispute { transfer: id });
    assert_eq!(ledger.refusal(&dispute(&ledger, 1)), Rejection::NotTheSender);
    ledger.block(vec![ledger.attest(2, height)]);
    ledger.block(vec![dispute(&ledger, 0)]);
    assert!(ledger.events.iter().any(|e| matches!(e, Event::TransferRefunded { .. })));
    assert_eq!((ledger.state.transfer(&id), ledger.state.inclusion(height)), (None, None));
    assert_eq!(ledger.state.account(&wallet(1)), Account::default());
    assert!(ledger.free(0) >= Amount(ALC(100).0 - 1_000_000), "all but the fee, and nothing more for the dispute");
    assert_eq!(ledger.refusal(&dispute(&ledger, 0)), Rejection::NoSuchTransfer);
    assert_eq!(ledger.refusal(&ledger.attest(3, height)), Rejection::NothingPending { height });
}

#[test]
fn what_is_confirmed_or_too_old_is_not_disputed() {
    let mut ledger = funded(5, |ledger| ledger.dispute_ms = 50_000);
    let (id, height) = include(&mut ledger);
    let dispute = |ledger: &Ledger, transfer| ledger.sign(&wallet_key(0), Body::Dispute { transfer });
    ledger.block(vec![ledger.attest(2, height), ledger.attest(3, height)]);
    assert_eq!(ledger.refusal(&dispute(&ledger, id)), Rejection::DisputeClosed, "confirmed");
    let (late, _) = include(&mut ledger);
    ledger.pass(50_000);
    assert_eq!(ledger.refusal(&dispute(&ledger, late)), Rejection::DisputeClosed, "its time is over");
    let stake = ledger.stake(0, ALC(1));
    ledger.block(vec![stake.clone()]);
    assert_eq!(ledger.refusal(&dispute(&ledger, stake.id())), Rejection::NoSuchTransfer, "only transfers");
}

#[test]
fn in_one_block_the_order_decides_between_the_last_confirmation_and_the_dispute() {
    for dispute_first in [true, false] {
        let mut ledger = funded(5, |_| {});
        let (id, height) = include(&mut ledger);
        ledger.block(vec![ledger.attest(2, height)]);
        let mut both = vec![ledger.attest(3, height), ledger.sign(&wallet_key(0), Body::Dispute { transfer: id })];
        if dispute_first {
            both.reverse();
        }
        let block = ledger.block_of_accepted(1000, both);
        assert_eq!(block.transactions.len(), 1, "the second finds nothing left to do");
        let refunded = ledger.events.iter().any(|e| matches!(e, Event::TransferRefunded { .. }));
        assert_eq!(refunded, dispute_first);
    }
}

#[test]
fn a_block_of_many_transfers_is_confirmed_but_for_those_that_are_excepted_or_of_the_attesting_wallets() {
    let mut ledger = funded(8, |_| {});
    (1..4).for_each(|i| ledger.fund(wallet(i), ALC(10)));
    let transfers: Vec<Transaction> = (0..4).map(|i| ledger.transfer(i, i + 1, ALC(1))).collect();
    ledger.block(transfers.clone());
    let height = ledger.state.height();
    ledger.block(vec![ledger.attest(2, height), ledger.attest(6, height)]);
    let status = |ledger: &Ledger, i: usize| ledger.state.transfer(&transfers[i].id()).map(|t| t.status);
    let confirmed: Vec<bool> = (0..4).map(|i| status(&ledger, i) == Some(TransferStatus::Confirmed)).collect();
    assert_eq!(confirmed, [true, false, false, true], "2 -> 3 and 1 -> 2 lack one: wallet 2 is a party");
    assert_eq!(ledger.state.confirmers(&transfers[1].id()), [*node_key(6).public()]);
    ledger.block(vec![ledger.attest(7, height)]);
    assert!((0..4).all(|i| status(&ledger, i) == Some(TransferStatus::Confirmed)));
    let confirmers = ledger.state.confirmers(&transfers[1].id());
    assert_eq!(
        confirmers,
        [*node_key(6).public(), *node_key(7).public()],
        "who confirmed is listed, no more than needed"
    );
}
