//! Reports, reversals, and what a reversal leaves owing.
//!
//! - A wallet reports with a node of its own that held a seat when the transfer was included, once a node; nodes of the
//!   sender's and the recipient's wallets can't. A report binds `report_bond`; a withdrawal costs the fee.
//! - When `report_percent` of those seats stand against it, the transfer is DISPUTED and in the same block REVERSED.
//!   PENDING coins go back as they are. Of a CONFIRMED transfer the sender gets what can be seized from the recipient
//!   (free coins, then what unbonds, then stake); the rest is an IOU that whatever the recipient gets later pays first.
//!   No coin is made.
//! - Bonds come back with a reversal, a refund, or when the reports end at `report_forfeit_ppm` of the seats or more;
//!   fewer than that at the transfer's end, and they burn: reporting for fun costs money.
//! - Only transfers can be reported. Rewards have no sender to go back to.

use super::{
    Event, Executor, Iou, Key, Rejection, Report, Transfer, TransferStatus,
    money::{Pool, add},
};
use crate::plants::{self, Plant};
use ailo_protocol::{Address, Amount, Hash, NodeId, amount::PPM};
use std::collections::BTreeSet;

impl Executor {
    pub(super) fn report(&mut self, wallet: Address, nonce: u64, id: &Hash, node: NodeId) -> Result<(), Rejection> {
        let mut transfer = self.state.transfer(id).ok_or(Rejection::NoSuchTransfer)?.clone();
        let ledger = &self.state.params().ledger;
        let (bond, quota, percent) = (ledger.report_bond, ledger.report_quota, ledger.report_percent);
        self.reports_are_open(&transfer)?;
        let mut reporter = self.state.node(&node).ok_or(Rejection::UnknownNode)?.clone();
        if reporter.wallet != wallet {
            return Err(Rejection::NotYourNode);
        }
        if [transfer.from, transfer.to].contains(&wallet) {
            return Err(Rejection::PartyToTransfer);
        }
        if let Some(until_age) = reporter.jailed_until {
            return Err(Rejection::Jailed { until_age });
        }
        let (held, seats) = self.seats_at_inclusion(&transfer, &node);
        if held != Some(wallet) {
            return Err(Rejection::NoSeatThen);
        }
        let key = Key::Report(*id, node);
        if self.state.entries.contains_key(&key) {
            return Err(Rejection::AlreadyReported);
        }
        let epoch = self.state.epoch();
        reporter.reports = (epoch, if reporter.reports.0 == epoch { reporter.reports.1 + 1 } else { 1 });
        if reporter.reports.1 > quota {
            return Err(Rejection::ReportQuota { quota });
        }
        self.charge(wallet, nonce, bond, Amount::ZERO)?;
        self.shift(Pool::Free, Pool::Escrow, bond);
        self.set(Key::Node(node), reporter);
        self.set(key, Report { wallet, bond });
        transfer.reports += if plants::on(Plant::ReportTwice) { 2 } else { 1 };
        let reports = transfer.reports;
        self.events.push(Event::TransferReported { id: *id, node, wallet, reports, seats });
        self.set(Key::Transfer(*id), transfer.clone());
        if 100 * u64::from(reports) >= u64::from(percent) * u64::from(seats) {
            self.reverse(*id, &transfer);
        }
        Ok(())
    }

    pub(super) fn withdraw_report(
        &mut self,
        wallet: Address,
        nonce: u64,
        id: &Hash,
        node: NodeId,
    ) -> Result<(), Rejection> {
        let key = Key::Report(*id, node);
        let report = self.state.get::<Report>(&key).filter(|report| report.wallet == wallet).cloned();
        let report = report.ok_or(Rejection::NoSuchReport)?;
        let mut transfer = self.state.transfer(id).ok_or(Rejection::NoSuchTransfer)?.clone();
        self.reports_are_open(&transfer)?;
        let fee = self.state.params().ledger.fee;
        self.charge(wallet, nonce, Amount::ZERO, fee)?;
        self.settle_fee(Pool::Free, fee, self.context.proposer, &[]);
        self.remove(key);
        self.shift(Pool::Escrow, Pool::Free, report.bond);
        self.credit(wallet, report.bond);
        transfer.reports -= 1;
        self.events.push(Event::ReportWithdrawn { id: *id, node, wallet });
        self.set(Key::Transfer(*id), transfer);
        Ok(())
    }

    /// Whether the transfer's time is not over, whether the sweep has come to it or not.
    fn reports_are_open(&self, transfer: &Transfer) -> Result<(), Rejection> {
        let ledger = &self.state.params().ledger;
        let open_ms = match transfer.status {
            TransferStatus::Pending => ledger.pending_ms,
            TransferStatus::Confirmed => ledger.final_ms,
        };
        match self.state.age_ms() < transfer.age.saturating_add(open_ms) {
            true => Ok(()),
            false => Err(Rejection::ReportsClosed),
        }
    }

    /// The wallet that `node`'s seat worked for when the transfer was included, and the number of all seats then.
    fn seats_at_inclusion(&self, transfer: &Transfer, node: &NodeId) -> (Option<Address>, u32) {
        // Transfers of one block share its epoch; a block's list goes with its last transfer, so it is there.
        let epoch = self.state.inclusion(transfer.height).map_or(self.state.epoch(), |inclusion| inclusion.epoch);
        match self.state.seats(epoch) {
            Some(seats) => (seats.wallet(node), seats.0.len() as u32),
            None => (None, 0),
        }
    }

    /// DISPUTED and REVERSED: the sender gets back what there is.
    fn reverse(&mut self, id: Hash, transfer: &Transfer) {
        let Transfer { from, to, amount, height, .. } = *transfer;
        let pending = transfer.status == TransferStatus::Pending;
        self.events.push(Event::TransferDisputed { id, from, to, reports: transfer.reports });
        self.return_reports(&id);
        let (mut returned, mut owed) = (amount, Amount::ZERO);
        match pending {
            true => self.give_back(id, transfer),
            false => {
                returned = self.seize(to, amount);
                // The debt comes first: what the sender gets may be owed to the recipient, who would be free to spend it.
                let most = Amount(u64::MAX - self.state.account(&to).owes.0);
                owed = Amount(amount.0 - returned.0).min(most);
                if owed > Amount::ZERO {
                    self.set(Key::Iou(to, self.context.height, id), Iou { creditor: from, amount: owed });
                    self.account(to, |account| add(&mut account.owes, owed));
                }
                self.credit(from, returned);
                if !plants::on(Plant::ReversedStays) {
                    self.remove(Key::Transfer(id));
                }
            }
        }
        self.leave_block(height, &BTreeSet::from([id]), pending);
        self.events.push(Event::TransferReversed { id, from, to, amount, returned, owed });
    }

    /// Takes the reports off a transfer; gives what they bind, with their wallets.
    fn take_reports(&mut self, id: &Hash) -> Vec<Report> {
        let reports: Vec<(NodeId, Report)> =
            self.state.reports(id).map(|(node, report)| (node, report.clone())).collect();
        reports.iter().for_each(|(node, _)| self.remove(Key::Report(*id, *node)));
        reports.into_iter().map(|(_, report)| report).collect()
    }

    /// Gives the bonds of a transfer's reports back.
    pub(super) fn return_reports(&mut self, id: &Hash) {
        for Report { wallet, bond } in self.take_reports(id) {
            self.shift(Pool::Escrow, Pool::Free, bond);
            self.credit(wallet, bond);
        }
    }

    /// Ends the reports of a transfer that becomes FINAL.
    pub(super) fn settle_reports(&mut self, id: &Hash, transfer: &Transfer) {
        if transfer.reports == 0 {
            return;
        }
        let (_, seats) = self.seats_at_inclusion(transfer, &transfer.proposer);
        let enough = u64::from(seats) * self.state.params().ledger.report_forfeit_ppm;
        if u64::from(transfer.reports) * PPM >= enough {
            return self.return_reports(id);
        }
        for Report { wallet, bond } in self.take_reports(id) {
            self.burn(Pool::Escrow, bond);
            self.events.push(Event::ReportForfeited { id: *id, wallet, bond });
        }
    }
}
