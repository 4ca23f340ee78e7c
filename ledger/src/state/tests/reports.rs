use super::*;

/// Ten founders; the first has 100 ALC, the others 10.
fn ledger(edit: impl FnOnce(&mut ailo_protocol::params::LedgerParams)) -> Ledger {
    let mut ledger = Ledger::new(10, |params| edit(&mut params.ledger));
    ledger.fund(wallet(0), ALC(100));
    (1..10).for_each(|i| ledger.fund(wallet(i), ALC(10)));
    ledger
}

fn report(ledger: &Ledger, i: u8, transfer: Hash) -> Transaction {
    ledger.sign(&wallet_key(i), Body::Report { transfer, node: *node_key(i).public() })
}

fn withdraw(ledger: &Ledger, i: u8, transfer: Hash) -> Transaction {
    ledger.sign(&wallet_key(i), Body::WithdrawReport { transfer, node: *node_key(i).public() })
}

/// A transfer of 50 ALC from the first to the second founder.
fn include(ledger: &mut Ledger) -> (Hash, u64) {
    let transfer = ledger.transfer(0, 1, ALC(50));
    ledger.block(vec![transfer.clone()]);
    (transfer.id(), ledger.state.height())
}

fn confirm(ledger: &mut Ledger, height: u64) {
    ledger.block(vec![ledger.attest(8, height), ledger.attest(9, height)]);
}

fn reversal(ledger: &Ledger) -> Option<(Amount, Amount)> {
    ledger.events.iter().find_map(|event| match event {
        Event::TransferReversed { returned, owed, .. } => Some((*returned, *owed)),
        _ => None,
    })
}

#[test]
fn reports_by_51_percent_of_the_seats_reverse_a_pending_transfer_and_no_fewer_do() {
    let mut ledger = ledger(|_| {});
    let (id, height) = include(&mut ledger);
    for i in 2..7 {
        ledger.block(vec![report(&ledger, i, id)]);
        assert_eq!(reversal(&ledger), None, "{} of 10 are less than 51 %", i - 1);
    }
    assert_eq!(ledger.state.transfer(&id).unwrap().reports, 5);
    assert_eq!(ledger.free(2), ALC(9), "the bond is bound");
    ledger.block(vec![report(&ledger, 7, id)]);
    let disputed = ledger.events.iter().any(|e| matches!(e, Event::TransferDisputed { reports: 6, .. }));
    assert!(disputed, "DISPUTED and REVERSED in the block of the report that decided");
    assert_eq!(reversal(&ledger), Some((ALC(50), Amount::ZERO)));
    assert_eq!((ledger.state.transfer(&id), ledger.state.inclusion(height)), (None, None));
    assert_eq!(ledger.free(1), ALC(10));
    assert!(ledger.free(0) >= Amount(ALC(100).0 - 1_000_000), "all but the fee");
    assert!((2..8).all(|i| ledger.free(i) >= ALC(10)), "the bonds are back");
    assert_eq!(ledger.refusal(&report(&ledger, 8, id)), Rejection::NoSuchTransfer);
}

#[test]
fn of_a_confirmed_transfer_the_sender_gets_what_can_be_seized_and_the_rest_is_owed() {
    let mut ledger = ledger(|_| {});
    let (id, height) = include(&mut ledger);
    confirm(&mut ledger, height);
    assert_eq!(ledger.free(1), ALC(60));
    // The recipient hides what it got: 20 spent, 20 staked, 5 of those unbonding.
    ledger.block(vec![ledger.transfer(1, 2, ALC(20))]);
    let spent = ledger.state.height();
    confirm(&mut ledger, spent);
    ledger.block(vec![ledger.stake(1, ALC(20))]);
    ledger.block(vec![ledger.unstake(1, ALC(5))]);
    let (sender, minted) = (ledger.free(0), ledger.state.supply().minted);
    ledger.block((2..8).map(|i| report(&ledger, i, id)).collect());
    let (returned, owed) = reversal(&ledger).unwrap();
    assert_eq!(Amount(returned.0 + owed.0), ALC(50));
    assert_eq!(ledger.free(0).0 - sender.0, returned.0);
    let account = ledger.state.account(&wallet(1));
    assert_eq!([account.free, account.staked, account.unbonding], [Amount::ZERO; 3], "free, unbonding, then stake");
    assert_eq!(account.owes, owed);
    assert!(ALC(50).0 - returned.0 >= ALC(10).0, "20 spent of 60 leave less than 50");
    assert_eq!(ledger.state.supply().minted, minted, "no coin is made");
    assert_eq!(ledger.free(2).0 / ALC(1).0, 30, "who was paid by the debtor in good faith keeps it");
}

#[test]
fn whatever_a_debtor_gets_later_pays_its_debts_first_in_first_out() {
    let mut ledger = ledger(|ledger| ledger.confirmations = 0);
    ledger.fund(wallet(2), ALC(90));
    let transfers = [(0, 50), (2, 30)].map(|(from, alc)| ledger.transfer(from, 1, ALC(alc)));
    ledger.block(transfers.to_vec());
    ledger.block(vec![ledger.transfer(1, 3, Amount(ledger.free(1).0 - 1_000_000))]);
    for transfer in &transfers {
        ledger.block((4..10).map(|i| report(&ledger, i, transfer.id())).collect());
    }
    let debts: Vec<(Address, Amount)> =
        ledger.state.debts(&wallet(1)).map(|(_, iou)| (iou.creditor, iou.amount)).collect();
    assert_eq!(debts, [(wallet(0), ALC(50)), (wallet(2), ALC(30))]);
    let bind = ledger.sign(&node_key(1), bind_body(&ledger, &node_key(1), 9));
    assert_eq!(ledger.refusal(&bind), Rejection::InDebt, "its nodes stay with it");

    let before = [ledger.free(0), ledger.free(2)];
    ledger.block(vec![ledger.transfer(3, 1, ALC(60))]);
    let paid = [ledger.free(0).0 - before[0].0, ledger.free(2).0 - before[1].0];
    assert_eq!((paid[0] / ALC(1).0, paid[1] / ALC(1).0), (50, 10));
    assert_eq!((ledger.free(1), ledger.state.account(&wallet(1)).owes), (Amount::ZERO, ALC(20)));
    ledger.block(vec![ledger.transfer(3, 1, ALC(25))]);
    assert_eq!((ledger.free(1), ledger.state.account(&wallet(1)).owes), (ALC(5), Amount::ZERO));
    assert_eq!(ledger.state.debts(&wallet(1)).count(), 0);
}

#[test]
fn rewards_of_a_debtor_pay_its_debts_and_debtors_that_owe_each_other_come_to_an_end() {
    let mut ledger = ledger(|ledger| ledger.confirmations = 0);
    let owe = |ledger: &mut Ledger, debtor: u8, creditor: u8, alc: u64| {
        let iou = Iou { creditor: wallet(creditor), amount: ALC(alc) };
        let key = Key::Iou(wallet(debtor), ledger.state.height(), Hash([debtor; 32]));
        let mut account = ledger.state.account(&wallet(debtor));
        account.owes = ALC(alc);
        ledger.state.set(key, iou);
        ledger.state.set(Key::Account(wallet(debtor)), account);
        ledger.state.commit(vec![key, Key::Account(wallet(debtor))]);
    };
    owe(&mut ledger, 1, 2, 7);
    owe(&mut ledger, 2, 3, 9);
    owe(&mut ledger, 3, 1, 9);
    ledger.block(vec![ledger.transfer(0, 1, ALC(8))]);
    let owes: Vec<Amount> = (1..4).map(|i| ledger.state.account(&wallet(i)).owes).collect();
    // 1 pays 7 to 2, who passes 7 on to 3, who passes 7 on to 1, who keeps 8: what it got and what came around.
    assert_eq!(owes, [Amount::ZERO, ALC(2), ALC(2)]);
    assert_eq!(ledger.free(1), ALC(18));
}

#[test]
fn a_node_reports_once_and_parties_and_nodes_without_a_seat_then_never() {
    let mut ledger = ledger(|ledger| ledger.report_quota = 2);
    let node = stranger(0);
    ledger.block(vec![ledger.registration(&node, 3)]);
    let (id, _) = include(&mut ledger);
    assert_eq!(ledger.refusal(&report(&ledger, 0, id)), Rejection::PartyToTransfer);
    assert_eq!(ledger.refusal(&report(&ledger, 1, id)), Rejection::PartyToTransfer);
    let foreign = ledger.sign(&wallet_key(3), Body::Report { transfer: id, node: *node_key(4).public() });
    assert_eq!(ledger.refusal(&foreign), Rejection::NotYourNode);
    let unseated = ledger.sign(&wallet_key(3), Body::Report { transfer: id, node: *node.public() });
    assert_eq!(ledger.refusal(&unseated), Rejection::NoSeatThen);
    ledger.block(vec![report(&ledger, 3, id)]);
    assert_eq!(ledger.refusal(&report(&ledger, 3, id)), Rejection::AlreadyReported);
    let (second, _) = include_small(&mut ledger);
    ledger.block(vec![report(&ledger, 3, second)]);
    let (third, _) = include_small(&mut ledger);
    assert_eq!(ledger.refusal(&report(&ledger, 3, third)), Rejection::ReportQuota { quota: 2 });
    ledger.pass(60_000);
    ledger.block(vec![report(&ledger, 3, third)]);
    assert_eq!(ledger.refusal(&report(&ledger, 5, Hash([7; 32]))), Rejection::NoSuchTransfer);
}

fn include_small(ledger: &mut Ledger) -> (Hash, u64) {
    let transfer = ledger.transfer(0, 1, ALC(1));
    ledger.block(vec![transfer.clone()]);
    (transfer.id(), ledger.state.height())
}

#[test]
fn few_reports_forfeit_their_bonds_at_the_end_and_enough_do_not() {
    for (reports, kept) in [(1, false), (2, true)] {
        let mut ledger = ledger(|ledger| ledger.report_forfeit_ppm = 150_000);
        let (id, height) = include(&mut ledger);
        confirm(&mut ledger, height);
        ledger.block((2..2 + reports).map(|i| report(&ledger, i, id)).collect());
        let (held, burned) = (ledger.state.supply().escrow, ledger.state.supply().burned);
        assert_eq!(held, ALC(u64::from(reports)));
        ledger.pass(ledger.state.params().ledger.final_ms);
        assert!(ledger.events.iter().any(|e| matches!(e, Event::TransferFinal { .. })));
        assert_eq!(ledger.state.supply().escrow, Amount::ZERO);
        assert_eq!(ledger.state.supply().burned > burned, !kept, "{reports} of 10 reported, 15 % are enough");
        assert_eq!(ledger.free(2) >= ALC(10), kept);
    }
}

#[test]
fn a_report_is_withdrawn_for_the_fee_and_counts_no_more() {
    let mut ledger = ledger(|_| {});
    let (id, _) = include(&mut ledger);
    ledger.block((2..7).map(|i| report(&ledger, i, id)).collect());
    assert_eq!(ledger.refusal(&withdraw(&ledger, 8, id)), Rejection::NoSuchReport);
    ledger.block(vec![withdraw(&ledger, 2, id)]);
    assert!(ledger.free(2) <= ALC(10) && ledger.free(2).0 >= ALC(10).0 - 1_000_000);
    ledger.block(vec![report(&ledger, 7, id)]);
    assert_eq!(reversal(&ledger), None, "five stand again");
    ledger.block(vec![report(&ledger, 2, id)]);
    assert!(reversal(&ledger).is_some(), "who withdrew may report again");
}

#[test]
fn a_refund_gives_the_bonds_back() {
    let mut ledger = ledger(|_| {});
    let (id, _) = include(&mut ledger);
    ledger.block(vec![report(&ledger, 2, id)]);
    ledger.block(vec![ledger.sign(&wallet_key(0), Body::Dispute { transfer: id })]);
    assert_eq!((ledger.state.supply().escrow, ledger.state.reports(&id).count()), (Amount::ZERO, 0));
    assert!(ledger.free(2) >= ALC(10));
}

#[test]
fn what_is_final_cannot_be_reported() {
    let mut ledger = ledger(|ledger| ledger.sweep_per_block = 1);
    let (a, height) = include(&mut ledger);
    confirm(&mut ledger, height);
    ledger.pass(ledger.state.params().ledger.final_ms - 4000);
    assert!(ledger.state.transfer(&a).is_some());
    ledger.block(vec![report(&ledger, 2, a)]);
    ledger.pass(1000);
    let late = ledger.state.age_ms() + 1000 >= ledger.state.transfer(&a).map_or(0, |t| t.age + 200_000);
    assert!(late);
    assert!(["REPORTS_CLOSED", "NO_SUCH_TRANSFER"].contains(&ledger.refusal(&report(&ledger, 3, a)).code()));
}

#[test]
fn rewards_have_no_sender_and_no_report_reaches_them() {
    let mut ledger = Ledger::new(4, |_| {});
    ledger.fund(wallet(0), ALC(10));
    ledger.run_round(4, 2_000_000);
    let earned = ledger.free(1);
    assert!(earned > Amount::ZERO, "confirmed and spendable at once");
    let round = report(&ledger, 0, Hash([11; 32]));
    assert_eq!(ledger.refusal(&round), Rejection::NoSuchTransfer);
}
