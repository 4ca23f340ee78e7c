//! How pages write what is on the ledger: names with links, times, amounts, and what happened in a sentence.

use ailo_ledger::{
    Body, Transaction,
    state::{Event, RewardKind},
};
use ailo_protocol::{Address, Amount, Hash, NodeId};
use maud::{Markup, html};

/// A moment of `ms` milliseconds since 1970, in UTC.
pub fn time(ms: u64) -> Markup {
    let moment = i64::try_from(ms / 1000).ok().and_then(|s| ::time::OffsetDateTime::from_unix_timestamp(s).ok());
    let Some(at) = moment else { return html! { "at no time" } };
    let (date, clock) = (at.date(), format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second()));
    html! { time datetime={ (date) "T" (clock) "Z" } { (date) " " (clock) " UTC" } }
}

/// From when to when, where there is little room: to the minute, and of the second moment what differs of its date.
pub fn times(first: u64, last: u64) -> [Markup; 2] {
    let moment =
        |ms: u64| i64::try_from(ms / 1000).ok().and_then(|s| ::time::OffsetDateTime::from_unix_timestamp(s).ok());
    let (Some(first), Some(last)) = (moment(first), moment(last)) else { return [time(first), time(last)] };
    let date = |at: ::time::OffsetDateTime| at.date().to_string();
    let clock = |at: ::time::OffsetDateTime| format!("{:02}:{:02}", at.hour(), at.minute());
    let shorter = match (first.date() == last.date(), first.year() == last.year()) {
        (true, _) => String::new(),
        (false, true) => format!("{:02}-{:02} ", u8::from(last.month()), last.day()),
        (false, false) => date(last) + " ",
    };
    let marked = |at, text: String| html! { time datetime={ (date(at)) "T" (clock(at)) "Z" } { (text) } };
    let begin = marked(first, format!("{} {}", date(first), clock(first)));
    [begin, marked(last, format!("{shorter}{} UTC", clock(last)))]
}

/// A span of time, to a person's taste.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Digits in groups of three.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..].chunks(3).map(String::from_utf8_lossy);
    let groups = std::iter::once(digits[..first].into()).chain(groups);
    groups.filter(|group| !group.is_empty()).collect::<Vec<_>>().join("\u{202f}")
}

/// Coins.
pub fn alc(amount: Amount) -> Markup {
    html! { span.amount { (amount) " ALC" } }
}

/// The beginning and the end of what is too long to be read.
fn short(text: &str) -> String {
    match text.len() {
        0..=20 => text.into(),
        len => format!("{}…{}", &text[..10], &text[len - 6..]),
    }
}

/// A wallet.
pub fn address(address: &Address) -> Markup {
    let text = address.to_string();
    html! { a.key href={ "/address/" (text) } title=(text) { (short(&text)) } }
}

/// A node.
pub fn node(node: &NodeId) -> Markup {
    let text = node.to_string();
    html! { a.key href={ "/node/" (text) } title=(text) { (short(&text)) } }
}

/// A transaction.
pub fn transaction(id: &Hash) -> Markup {
    let text = id.to_string();
    html! { a.key href={ "/tx/" (text) } title=(text) { (short(&text)) } }
}

/// A hash that has no page.
pub fn hash(hash: &Hash) -> Markup {
    let text = hash.to_string();
    html! { span.key title=(text) { (short(&text)) } }
}

/// A block.
pub fn block(height: u64) -> Markup {
    html! { a href={ "/block/" (height) } { (number(height)) } }
}

/// A round.
pub fn round(number: u64) -> Markup {
    html! { a href={ "/round/" (number) } { "round\u{a0}" (number) } }
}

/// Millionths of a nat as nats.
pub fn loss(micro: u64) -> String {
    format!("{:.4}", micro as f64 / 1e6)
}

/// The kind of a transaction.
pub fn kind(body: &Body) -> &'static str {
    match body {
        Body::Transfer { .. } => "Transfer",
        Body::Dispute { .. } => "Dispute",
        Body::Report { .. } => "Report",
        Body::WithdrawReport { .. } => "Report withdrawn",
        Body::Stake { .. } => "Stake",
        Body::Unstake { .. } => "Unstake",
        Body::Unjail { .. } => "Unjail",
        Body::RegisterUsername { .. } => "User name",
        Body::SetRecovery { .. } => "Recovery key",
        Body::Propose { .. } => "Proposal",
        Body::Vote { .. } => "Vote",
        Body::Challenge { .. } => "Challenge",
        Body::Accuse(_) => "Accusation",
        Body::Deposit { .. } => "Deposit",
        Body::WithdrawDeposit { .. } => "Deposit withdrawn",
        Body::RegisterNode { .. } => "Registration",
        Body::BindNode { .. } => "Binding",
        Body::Heartbeat { .. } => "Heartbeat",
        Body::CommitLots { .. } => "Lots",
        Body::Attest { .. } => "Attestation",
        Body::Contribute(_) => "Contribution",
        Body::Verdict { .. } => "Verdict",
        Body::ModelVote { .. } => "Model vote",
        Body::Evidence(_) => "Evidence",
        Body::InferenceReceipt { .. } => "Receipts",
        Body::Replayed { .. } => "Replay",
        Body::Judge { .. } | Body::JudgeStage { .. } => "Judgement",
        Body::Recover { .. } => "Recovery",
    }
}

/// What a transaction does, in a line.
pub fn body(transaction: &Transaction) -> Markup {
    match &transaction.unsigned.body {
        Body::Transfer { to, amount, memo } => html! {
            (alc(*amount)) " to " (address(to)) @if !memo.is_empty() { " · “" (memo) "”" }
        },
        Body::Dispute { transfer } => html! { "takes back " (self::transaction(transfer)) },
        Body::Report { transfer, .. } => html! { "calls " (self::transaction(transfer)) " a fraud" },
        Body::WithdrawReport { transfer, .. } => html! { "no longer calls " (self::transaction(transfer)) " a fraud" },
        Body::Stake { node, amount } => html! { (alc(*amount)) " behind node " (self::node(node)) },
        Body::Unstake { node, amount } => html! { (alc(*amount)) " from node " (self::node(node)) },
        Body::Unjail { node } => html! { "node " (self::node(node)) },
        Body::RegisterUsername { name } => match name {
            Some(name) => html! { "@" (name) },
            None => html! { "gives its name up" },
        },
        Body::Propose { changes, .. } => html! { (changes.join(", ")) },
        Body::Vote { proposal, approve } => html! { @if *approve { "yes" } @else { "no" } " on proposal " (proposal) },
        Body::Challenge { round, node } => html! { "of node " (self::node(node)) "’s work in " (self::round(*round)) },
        Body::Deposit { amount } | Body::WithdrawDeposit { amount } => alc(*amount),
        Body::RegisterNode { wallet, .. } | Body::BindNode { wallet, .. } => html! { "for " (address(wallet)) },
        Body::Attest { height, .. } => html! { "of the transfers of block " (block(*height)) },
        Body::Contribute(work) => html! { "to " (round(work.round)) ", " (number(work.tokens)) " tokens" },
        Body::Verdict { round, .. } => html! { "on the work of " (self::round(*round)) },
        Body::ModelVote { round, loss, .. } => {
            html! { "for " (self::round(*round)) ", held-out loss " (self::loss(*loss)) }
        }
        Body::Evidence(evidence) => html! { "node " (node(&evidence.node())) " signed twice" },
        Body::InferenceReceipt { claims } => {
            html! { "pay for inference, by " (claims.len()) @if claims.len() == 1 { " receipt" } @else { " receipts" } }
        }
        Body::Replayed { round, node, trace } => html! {
            "of node " (self::node(node)) "’s work in " (self::round(*round))
            @if trace.is_some() { ": the same" } @else { ": something else" }
        },
        Body::Judge { round, node, .. } => html! { "of node " (self::node(node)) "’s work in " (self::round(*round)) },
        Body::JudgeStage { node, .. } => html! { "of node " (self::node(node)) " as a stage" },
        Body::Accuse(charge) => html! { "of node " (node(&charge.signed.node)) " as a stage" },
        Body::Recover { account, .. } => html! { "of " (address(account)) },
        Body::SetRecovery { .. } | Body::Heartbeat { .. } | Body::CommitLots { .. } => html! {},
    }
}

/// What a reward is for.
pub fn reward(kind: RewardKind) -> &'static str {
    match kind {
        RewardKind::Training => "training",
        RewardKind::BestLoss => "a new best loss",
        RewardKind::Proposer => "making a block",
        RewardKind::Confirmer => "confirming transfers",
        RewardKind::Replay => "a replay",
        RewardKind::Uptime => "being up",
        RewardKind::Inference => "inference",
    }
}

/// What happened, in a line. `own` is the wallet whose history it is read in.
pub fn event(own: Option<&Address>, event: &Event) -> Markup {
    let other = |from: &Address, to: &Address| {
        if Some(from) == own {
            html! { "to " (address(to)) }
        } else {
            html! { "from " (address(from)) }
        }
    };
    match event {
        Event::TransferPending { id, from, to, amount, .. } => html! {
            (alc(*amount)) " " (other(from, to)) ", pending: " (transaction(id))
        },
        Event::TransferConfirmed { id, from, to, amount } => html! {
            (alc(*amount)) " " (other(from, to)) ", confirmed: " (transaction(id))
        },
        Event::TransferRefunded { id, from, to, amount } => html! {
            (alc(*amount)) " " (other(from, to)) ", refunded: " (transaction(id))
        },
        Event::TransferFinal { id, .. } => html! { "final: " (transaction(id)) },
        Event::TransferReported { id, node, reports, seats, .. } => html! {
            "node " (self::node(node)) " reported " (transaction(id)) ": " (reports) " of " (seats) " seats by now"
        },
        Event::ReportWithdrawn { id, node, .. } => {
            html! { "node " (self::node(node)) " took its report of " (transaction(id)) " back" }
        }
        Event::ReportForfeited { id, bond, .. } => {
            html! { (alc(*bond)) " burned, for too few reports of " (transaction(id)) }
        }
        Event::TransferDisputed { id, reports, .. } => {
            html! { (transaction(id)) " is disputed by " (reports) " seats" }
        }
        Event::TransferReversed { id, from, to, returned, owed, .. } => html! {
            (transaction(id)) " was reversed: " (alc(*returned)) " went back " (other(to, from))
            @if *owed > Amount::ZERO { ", " (alc(*owed)) " are owed" }
        },
        Event::DebtPaid { debtor, creditor, amount, transfer } => html! {
            (alc(*amount)) " of a debt " (other(debtor, creditor)) ", for " (transaction(transfer))
        },
        Event::Attested { height, .. } => html! { "attested the transfers of block " (block(*height)) },
        Event::Staked { node, amount, .. } => html! { "staked " (alc(*amount)) " behind node " (self::node(node)) },
        Event::Unstaked { node, amount, .. } => {
            html! { (alc(*amount)) " are on their way back from node " (self::node(node)) }
        }
        Event::Unbonded { node, amount, .. } => html! { (alc(*amount)) " are back from node " (self::node(node)) },
        Event::Deposited { amount, .. } => html! { "deposited " (alc(*amount)) " for inference" },
        Event::DepositLeaving { amount, .. } => html! { (alc(*amount)) " of the deposit are on their way back" },
        Event::DepositReturned { amount, .. } => html! { (alc(*amount)) " of the deposit are back" },
        Event::ReceiptPaid { payer, node, wallet, units, amount, burned, minted, .. } => html! {
            (alc(*amount)) " for " (number(*units)) @if *units == 1 { " unit" } @else { " units" } " of inference by node " (self::node(node))
            @if own == Some(payer) { ", paid to " (address(wallet)) } @else { ", paid by " (address(payer)) }
            "; " (alc(*burned)) " burned"
            @if *minted > Amount::ZERO { ", " (alc(*minted)) " on top" }
        },
        Event::NodeRegistered { node, wallet } | Event::NodeBound { node, wallet } => html! {
            "node " (self::node(node)) " works for " (address(wallet))
        },
        Event::LotsCommitted { epoch, .. } => html! { "committed its lots from epoch " (epoch) " on" },
        Event::NodeLapsed { node, .. } => html! { "node " (self::node(node)) " lapsed: it was silent for too long" },
        Event::Slashed { node, amount, reporter, bounty, .. } => html! {
            "node " (self::node(node)) " was slashed: " (alc(*amount)) ", of which " (alc(*bounty)) " went to " (address(reporter))
        },
        Event::Unjailed { node, .. } => html! { "node " (self::node(node)) " is back from jail" },
        Event::Challenged { round, node, challenger } => html! {
            "node " (self::node(node)) "’s work in " (self::round(*round)) " was called forged by " (address(challenger))
        },
        Event::ChallengeEnded { round, node, forged } => html! {
            "node " (self::node(node)) "’s work in " (self::round(*round)) " was judged: " @if *forged { "forged" } @else { "honest" }
        },
        Event::Accused { node, accuser, .. } => html! {
            "node " (self::node(node)) " was accused of signing what it did not compute, by " (address(accuser))
        },
        Event::AccusationEnded { node, guilty, .. } => html! {
            "node " (self::node(node)) @if *guilty { " signed what it did not compute" } @else { " was acquitted" }
        },
        Event::RecoverySet { .. } => html! { "has a recovery key" },
        Event::Recovered { key, .. } => html! { "was recovered: the key is " span.key { (key.short()) } },
        Event::UsernameChanged { name, .. } => match name {
            Some(name) => html! { "is called @" (name) },
            None => html! { "gave its name up" },
        },
        Event::Proposed { proposal, changes, .. } => html! { "proposal " (proposal) ": " (changes.join(", ")) },
        Event::Voted { proposal, approve, weight, .. } => html! {
            "voted " @if *approve { "yes" } @else { "no" } " on proposal " (proposal) " with " (alc(*weight))
        },
        Event::Contributed { round, .. } => html! { "trained for " (self::round(*round)) },
        Event::RoundClosed { round, loss, .. } => {
            html! { (self::round(*round)) " closed: held-out loss " (self::loss(*loss)) }
        }
        Event::ReplayDrawn { round, node, replayer } => html! {
            "node " (self::node(node)) "’s work in " (self::round(*round)) " is for node " (self::node(replayer)) " to replay"
        },
        Event::Replayed { round, node, replayer, same } => html! {
            "node " (self::node(replayer)) " replayed node " (self::node(node)) "’s work in " (self::round(*round)) ": "
            @if *same { "the same" } @else { "something else" }
        },
        Event::ReplayDecided { round, node, outcome } => html! {
            "node " (self::node(node)) "’s work in " (self::round(*round)) ": " (format!("{outcome:?}").to_lowercase())
        },
        Event::Reward { node, amount, kind, round, .. } => html! {
            (alc(*amount)) " for " (reward(*kind))
            @if let Some(round) = round { " in " (self::round(*round)) }
            ", to node " (self::node(node))
        },
        other => html! { (format!("{other:?}")) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_times_and_spans_read_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert!(time(1_795_951_800_000).into_string().contains("2026-11-29 11:30:00 UTC"));
        assert!(time(u64::MAX).into_string().contains("no time"));
        let from = 1_795_951_800_000;
        for (later, begin, end) in [
            (60_000, "2026-11-29 11:30<", ">11:31 UTC<"),
            (86_400_000, "2026-11-29 11:30<", ">11-30 11:30 UTC<"),
            (40 * 86_400_000, "2026-11-29 11:30<", ">2027-01-08 11:30 UTC<"),
        ] {
            let [first, last] = times(from, from + later).map(Markup::into_string);
            assert!(first.contains(begin) && last.contains(end), "{first} {last}");
        }
        assert_eq!([5_000, 130_000, 7_300_000, 400_000_000].map(span), ["5 s", "2 min", "2 h", "4 days"]);
    }
}
