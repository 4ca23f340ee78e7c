//! What happened to wallets, nodes and transfers: the ledger's events, page by page.

use super::{
    Answer, Context,
    errors::{Code, Failure, invalid},
    params::*,
    types::*,
};
use crate::{
    earned::{Kinds, Sums},
    service::chain::Head,
};
use ailo_ledger::{
    Body,
    state::{Event, RewardKind, State, TransferStatus},
    store::{Cursor, HistoryItem, MAX_PAGE, Subject},
};
use ailo_protocol::{Amount, Hash, NodeId, PublicKey};

/// Pages of a sender's history that are read for what became of a transfer, at most; and of another node's for what it earned.
const EVENT_PAGES: usize = 20;
const EARNING_PAGES: usize = 20;

/// Where a page of a history begins under a head of this height: the store knows a block a moment before the head does, and what the head's
/// state does not know yet would look as if it knew it no more.
fn shown(height: u64, before: Option<Cursor>) -> Cursor {
    let end = Cursor { height: height.saturating_add(1), event: 0 };
    before.map_or(end, |before| before.min(end))
}

/// The transfer that an event is of.
fn transfer_of(event: &Event) -> Option<&Hash> {
    match event {
        Event::TransferPending { id, .. }
        | Event::TransferConfirmed { id, .. }
        | Event::TransferRefunded { id, .. }
        | Event::TransferFinal { id, .. }
        | Event::TransferReported { id, .. }
        | Event::ReportWithdrawn { id, .. }
        | Event::ReportForfeited { id, .. }
        | Event::TransferDisputed { id, .. }
        | Event::TransferReversed { id, .. } => Some(id),
        Event::DebtPaid { transfer, .. } => Some(transfer),
        _ => None,
    }
}

/// How far a transfer has come by now; those that the state no longer holds have ended.
fn reached(state: &State, transfer: &Hash) -> MinStatus {
    match state.transfer(transfer).map(|transfer| transfer.status) {
        Some(TransferStatus::Pending) => MinStatus::Pending,
        Some(TransferStatus::Confirmed) => MinStatus::Confirmed,
        None => MinStatus::Final,
    }
}

/// An entry of a history.
pub fn entry(item: HistoryItem) -> HistoryEntry {
    let HistoryItem { at, time_ms, event, free } = item;
    HistoryEntry { height: at.height, time_ms, cursor: cursor_text(at), free, event }
}

/// A history is kept under the address that an account began with.
pub fn kept_under(head: &Head, subject: Subject) -> Subject {
    match subject {
        Subject::Wallet(address) => Subject::Wallet(head.state.account_at(&address)),
        node => node,
    }
}

fn earnings_view(node: NodeId, now: u64, sums: &Sums) -> EarningsView {
    let view = |(kind, [hour, day, all]): (RewardKind, [u64; 3])| EarningView {
        kind,
        hour: Amount(hour),
        day: Amount(day),
        all: Amount(all),
    };
    let one = |(kind, units): (&RewardKind, &u64)| PaidView { kind: *kind, amount: Amount(*units) };
    let span = |(from_ms, kinds): (u64, &Kinds)| EarnedView { from_ms, kinds: kinds.iter().map(one).collect() };
    EarningsView {
        node,
        kinds: sums.kinds(now).into_iter().map(view).collect(),
        hours: sums.hours(now).map(span).collect(),
        days: sums.days(now).map(span).collect(),
        since_ms: sums.since_ms,
        covers_ms: now.saturating_sub(sums.since_ms),
        whole: sums.whole,
    }
}

impl Context {
    /// `ailo_history`
    pub fn history(&self, params: HistoryParams) -> Answer<HistoryView> {
        let head = self.chain.head();
        let before = shown(head.state.height(), params.before().map_err(invalid)?);
        let subject = kept_under(&head, params.subject().map_err(invalid)?);
        let page = self.chain.history(&subject, Some(before), params.limit())?;
        let far_enough = |item: &HistoryItem| match (params.min_status, transfer_of(&item.event)) {
            (Some(least), Some(transfer)) => reached(&head.state, transfer) >= least,
            _ => true,
        };
        let entries = page.items.into_iter().filter(far_enough).map(entry).collect();
        Ok(self.at(&head, HistoryView { entries, next: page.next.map(cursor_text) }))
    }

    /// `ailo_transactionEvents`
    pub fn transaction_events(&self, IdParams { id }: IdParams) -> Answer<TransactionEventsView> {
        let unknown = || Code::NotFound.says("there is no such transaction in a block");
        let (transaction, height) = self.chain.transaction(&id)?.ok_or_else(unknown)?;
        let head = self.chain.head_at(height)?;
        let (items, whole) = match transaction.unsigned.body {
            Body::Transfer { .. } => self.events_of(&head, &id, &transaction.unsigned.signer, height)?,
            _ => (Vec::new(), true),
        };
        let entries = items.into_iter().map(entry).collect();
        Ok(self.at(&head, TransactionEventsView { entries, whole }))
    }

    /// What happened to a transfer of the block at `height`, the oldest first, and whether that is all. Its own history has what does not happen to
    /// each, its sender's the rest.
    fn events_of(
        &self,
        head: &Head,
        id: &Hash,
        signer: &PublicKey,
        height: u64,
    ) -> Result<(Vec<HistoryItem>, bool), Failure> {
        let sender = head.state.account_of(signer);
        let start = Cursor { height: height.saturating_sub(1), event: u32::MAX };
        let own = |_: &Event| true;
        let (mut found, own_whole) = self.after(head, &Subject::Transfer(*id), start, own, |_| false)?;
        let ended = |event: &Event| matches!(event, Event::TransferRefunded { .. } | Event::TransferReversed { .. });
        let end = found.iter().find(|item| ended(&item.event)).map(|item| item.at);
        let usual = |event: &Event| transfer_of(event) == Some(id) && event.transfer().is_none();
        let is_over = |item: &HistoryItem| {
            let is_final = usual(&item.event) && matches!(item.event, Event::TransferFinal { .. });
            is_final || end.is_some_and(|end| item.at >= end)
        };
        let (rest, whole) = self.after(head, &Subject::Wallet(sender), start, usual, is_over)?;
        found.extend(rest);
        found.sort_by_key(|item| item.at);
        Ok((found, own_whole && whole))
    }

    /// What of a history after a place is `wanted`, up to what `is_over` says ends it; and whether all of it was read.
    fn after(
        &self,
        head: &Head,
        subject: &Subject,
        mut after: Cursor,
        wanted: impl Fn(&Event) -> bool,
        is_over: impl Fn(&HistoryItem) -> bool,
    ) -> Result<(Vec<HistoryItem>, bool), Failure> {
        let (mut found, end) = (Vec::new(), shown(head.state.height(), None));
        for _ in 0..EVENT_PAGES {
            let mut page = self.chain.history_after(subject, after, MAX_PAGE)?;
            page.retain(|item| item.at < end);
            let last = page.len() < MAX_PAGE || page.iter().any(&is_over);
            after = page.last().map_or(after, |item| item.at);
            found.extend(page.into_iter().filter(|item| wanted(&item.event)));
            if last {
                return Ok((found, true));
            }
        }
        Ok((found, false))
    }

    /// How a transfer ended that the ledger's state no longer holds, and the height at which it was refunded or reversed, if it was: its own history has all
    /// but the usual end.
    pub(super) fn transfer_end(&self, id: &Hash) -> Result<(&'static str, Option<u64>), Failure> {
        let page = self.chain.history(&Subject::Transfer(*id), None, MAX_PAGE)?;
        let end = |item: &HistoryItem| match item.event {
            Event::TransferRefunded { .. } => Some(("refunded", Some(item.at.height))),
            Event::TransferReversed { .. } => Some(("reversed", Some(item.at.height))),
            _ => None,
        };
        let owed = page.items.iter().any(|item| matches!(item.event, Event::DebtPaid { .. }));
        let usual = if owed { "reversed" } else { "final" };
        Ok(page.items.iter().find_map(end).unwrap_or((usual, None)))
    }

    /// `ailo_earnings`
    pub fn earnings(&self, params: EarningsParams) -> Answer<EarningsView> {
        let (node, head) = (params.node.unwrap_or(self.node), self.chain.head());
        let (height, now) = (head.state.height(), head.state.time_ms());
        let sums = if node == self.node {
            self.chain.earned().sums()
        } else {
            let (mut sums, whole) = Sums::told(&self.chain, node, (0, height), (EARNING_PAGES, now))?;
            if whole {
                (sums.since_ms, sums.whole) = (self.genesis.time_ms, true);
            }
            sums
        };
        Ok(self.at(&head, earnings_view(node, now, &sums)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_nothing_above_the_head() {
        let at = |height, event| Cursor { height, event };
        assert!(at(7, u32::MAX) < shown(7, None) && at(8, 0) >= shown(7, None));
        assert_eq!(shown(7, Some(at(5, 3))), at(5, 3));
        assert_eq!(shown(7, Some(at(9, 3))), at(8, 0));
        assert_eq!(shown(0, None), at(1, 0));
    }
}
