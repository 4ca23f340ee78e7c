//! The explorer: blocks, transactions, wallets, nodes, validators, rounds, supply, as the ledger has them now.

use super::{
    Missing, Site,
    charts::{self, Over},
    say,
};
use crate::{
    rpc::{self, params::cursor_text},
    service::chain::Head,
};
use ailo_ledger::{
    Block, Body, Transaction,
    state::{Event, State as Ledger, TransferStatus},
    store::{Cursor, HistoryItem, Subject},
};
use ailo_protocol::{Address, Amount, Hash, NodeId, PublicKey, Username, canonical};
use axum::{
    Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use maud::{Markup, html};
use serde::Deserialize;
use std::{fmt::Write, sync::Arc};

/// Entries of a page of history, of lists, and of the newest blocks.
const ENTRIES: usize = 50;
const LISTED: usize = 100;
const NEWEST: u64 = 12;
/// Pages of history in a file of comma-separated values, or behind a chart, at most.
const CSV_PAGES: usize = 200;
const CHART_PAGES: usize = 10;
/// Characters of what is looked for, at most.
const MAX_QUERY: usize = 200;

pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/explorer", get(overview))
        .route("/search", get(search))
        .route("/block/{name}", get(block))
        .route("/tx/{id}", get(transaction))
        .route("/address/{address}", get(address))
        .route("/address/{address}/history.csv", get(history_csv))
        .route("/node/{node}", get(node))
        .route("/validators", get(validators))
        .route("/rounds", get(rounds))
        .route("/round/{number}", get(round))
        .route("/supply", get(supply))
        .route("/pending", get(pending))
        .route("/rich", get(rich))
}

/// A page of the explorer.
async fn made(
    site: Arc<Site>,
    (title, live): (String, bool),
    make: impl FnOnce(&Site) -> Result<Markup, Missing> + Send + 'static,
) -> Response {
    site.made(("/explorer", &title, live), make).await
}

/// What stands below every page on which prompts are sent.
pub(super) fn prompt_note() -> Markup {
    html! { p.note { "Who answers can read the prompt: the machines that hold the first and the last layers see its words, and those between could work them out." } }
}

/// Links to all lists.
fn lists() -> Markup {
    html! {
        nav.lists aria-label="Lists" {
            a href="/explorer" { "Newest" } a href="/rounds" { "Rounds" } a href="/validators" { "Validators" }
            a href="/pending" { "Pending transfers" } a href="/supply" { "Supply" } a href="/rich" { "Richest wallets" }
        }
    }
}

/// A table; the values of columns whose names begin with # stand on the right.
fn table(name: &str, columns: &[&str], rows: impl IntoIterator<Item = Markup>) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label=(name) {
            table {
                thead { tr { @for column in columns {
                    @match column.strip_prefix('#') {
                        Some(name) => th.number scope="col" { (name) },
                        None => th scope="col" { (column) },
                    }
                } } }
                tbody { @for row in rows { (row) } }
            }
        }
    }
}

fn facts(facts: Vec<(&str, Markup)>) -> Markup {
    html! { dl { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } } }
}

async fn overview(State(site): State<Arc<Site>>) -> Response {
    made(site, ("Explorer".into(), true), |site| {
        let head = site.context.chain.head();
        let state = &head.state;
        let model = state.model();
        let blocks = newest(site, state.height());
        Ok(html! {
            h1 { "Explorer" }
            (lists())
            (facts(vec![
                ("Height", say::block(state.height())),
                ("Epoch", html! { (state.epoch()) }),
                ("Validators", html! { a href="/validators" { (state.validators().0.len()) } }),
                ("Nodes", html! { (state.node_count()) }),
                ("Minted", say::alc(state.supply().minted)),
                ("Burned", say::alc(state.supply().burned)),
                ("Open round", say::round(state.round().number)),
                ("Model", html! { (say::hash(&model.root)) }),
            ]))
            section { h2 { "Newest blocks" } (blocks_table(&blocks)) }
            section { h2 { "Newest transactions" } (transactions_table(head.as_ref(), newest_transactions(&blocks))) }
        })
    })
    .await
}

fn newest(site: &Site, height: u64) -> Vec<Block> {
    let heights = height.saturating_sub(NEWEST - 1).max(1)..=height;
    heights.rev().filter_map(|height| site.context.chain.block(height)).map(|(block, _)| block).collect()
}

/// What people do, not what nodes say all the time.
fn newest_transactions(blocks: &[Block]) -> Vec<(u64, &Transaction)> {
    let routine = |body: &Body| matches!(body, Body::Heartbeat { .. } | Body::Attest { .. } | Body::CommitLots { .. });
    let all = blocks.iter().flat_map(|block| block.transactions.iter().rev().map(|each| (block.header.height, each)));
    all.filter(|(_, each)| !routine(&each.unsigned.body)).take(ENTRIES).collect()
}

fn blocks_table(blocks: &[Block]) -> Markup {
    table(
        "Blocks",
        &["Height", "Time", "Made by", "#Transactions"],
        blocks.iter().map(|block| {
            html! {
                tr {
                    td { (say::block(block.header.height)) }
                    td { (say::time(block.header.time_ms)) }
                    td { (say::node(&block.header.proposer)) }
                    td.number { (block.transactions.len()) }
                }
            }
        }),
    )
}

fn transactions_table<'a>(head: &Head, all: impl IntoIterator<Item = (u64, &'a Transaction)>) -> Markup {
    table(
        "Transactions",
        &["Transaction", "Kind", "By", "What", "Block"],
        all.into_iter().map(|(height, each)| {
            html! {
                tr {
                    td { (say::transaction(&each.id())) }
                    td { (say::kind(&each.unsigned.body)) }
                    td { (signer(&head.state, each)) }
                    td { (say::body(each)) }
                    td { (say::block(height)) }
                }
            }
        }),
    )
}

/// Who signed: a node, or a wallet.
fn signer(state: &Ledger, transaction: &Transaction) -> Markup {
    let key = transaction.unsigned.signer;
    if state.node(&key).is_some() { say::node(&key) } else { say::address(&state.account_of(&key)) }
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    q: String,
}

/// Where what was typed leads to; several meanings are tried in the order of the text's shapes.
async fn search(State(site): State<Arc<Site>>, Query(Asked { q }): Query<Asked>) -> Response {
    let text = q.trim().chars().take(MAX_QUERY).collect::<String>();
    let asked = text.clone();
    let found = site.clone().work(move |site| place(site, &asked)).await.flatten();
    match found {
        Some(place) => Redirect::to(&place).into_response(),
        None => Missing(
            "Nothing was found",
            format!(
                "Nothing here is called “{text}”. Search for a transaction, a block or a node by its 64 digits, a wallet by its address or @name, a height, or a round like “round 7”."
            ),
        )
        .into_response(),
    }
}

fn place(site: &Site, text: &str) -> Option<String> {
    let head = site.context.chain.head();
    let lower = text.to_lowercase();
    if let Some(name) = lower.strip_prefix('@').and_then(|name| name.parse::<Username>().ok()) {
        return head.state.owner(&name).map(|owner| format!("/address/{owner}"));
    }
    let number = lower.strip_prefix("round").map(|rest| rest.trim_start_matches([' ', '#']));
    if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
        return Some(format!("/round/{number}"));
    }
    if let Ok(address) = lower.parse::<Address>() {
        return Some(format!("/address/{address}"));
    }
    let digits: String = lower.chars().filter(|c| !matches!(c, ' ' | '\u{202f}' | ',' | '#')).collect();
    if let Ok(height) = digits.parse::<u64>() {
        return site.context.chain.block(height).map(|_| format!("/block/{height}"));
    }
    if let Ok(hash) = lower.parse::<Hash>() {
        if site.context.chain.transaction(&hash).is_some() {
            return Some(format!("/tx/{hash}"));
        }
        if let Some(height) = site.context.chain.height_of(&hash) {
            return Some(format!("/block/{height}"));
        }
    }
    if let Ok(node) = lower.parse::<PublicKey>()
        && head.state.node(&node).is_some()
    {
        return Some(format!("/node/{node}"));
    }
    let owner = lower.parse::<Username>().ok().and_then(|name| head.state.owner(&name));
    owner.map(|owner| format!("/address/{owner}"))
}

async fn block(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Response {
    made(site, (format!("Block {name}"), false), move |site| {
        let chain = &site.context.chain;
        let height = name.parse().ok().or_else(|| chain.height_of(&name.parse().ok()?));
        let found = height.and_then(|height| chain.block(height));
        let missing = || {
            Missing("There is no such block", format!("This node has blocks {} to {}.", chain.first(), chain.head().state.height()))
        };
        let (block, certificate) = found.ok_or_else(missing)?;
        let (header, head) = (&block.header, chain.head());
        Ok(html! {
            h1 { "Block " (say::number(header.height)) }
            nav.lists aria-label="Neighbours" {
                @if header.height > chain.first() { a href={ "/block/" (header.height - 1) } rel="prev" { "← " (header.height - 1) } }
                @if header.height < head.state.height() { a href={ "/block/" (header.height + 1) } rel="next" { (header.height + 1) " →" } }
            }
            (facts(vec![
                ("Id", html! { code { (block.id()) } }),
                ("Time", say::time(header.time_ms)),
                ("Made by", say::node(&header.proposer)),
                ("Parent", html! { code { (header.parent) } }),
                ("State after it", html! { code { (header.state_root) } }),
                ("Final by", html! { (certificate.signatures.len()) " signatures of validators" }),
            ]))
            section {
                h2 { (block.transactions.len()) " transactions" }
                (transactions_table(&head, block.transactions.iter().map(|each| (header.height, each))))
            }
        })
    })
    .await
}

async fn transaction(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Response {
    let unknown = || {
        Missing(
            "There is no such transaction",
            "This node knows none with this id. One that was just handed in appears within a second.".into(),
        )
    };
    let Ok(hash) = id.parse::<Hash>() else { return unknown().into_response() };
    let waiting = match site.context.chain.transaction(&hash) {
        None => site.context.chain.waiting(&hash).await,
        Some(_) => None,
    };
    made(site, ("Transaction".into(), true), move |site| {
        let chain = &site.context.chain;
        let included = chain.transaction(&hash);
        let (transaction, height) = match (included, waiting) {
            (Some((transaction, height)), _) => (transaction, Some(height)),
            (None, Some(transaction)) => (transaction, None),
            (None, None) => return Err(unknown()),
        };
        let head = chain.head();
        let is_transfer = matches!(transaction.unsigned.body, Body::Transfer { .. });
        let body = serde_json::to_string_pretty(&transaction).unwrap_or_default(); // It always is JSON.
        Ok(html! {
            h1 { (say::kind(&transaction.unsigned.body)) }
            p.lead { (say::body(&transaction)) }
            (facts(vec![
                ("Id", html! { code { (hash) } }),
                ("Signed by", signer(&head.state, &transaction)),
                ("Made at", say::time(transaction.unsigned.time_ms)),
                ("Block", height.map_or_else(|| html! { "waits for one" }, say::block)),
            ]))
            @if height.is_some() && is_transfer { (standing(site, &head, &hash, &transaction)) }
            details { summary { "Decoded" } pre { code { (body) } } }
            details { summary { "Raw" } pre { code { (hex::encode(canonical::encode(&transaction))) } } }
        })
    })
    .await
}

/// Where a transfer stands: its confirmations, reports, and all that happened to it.
fn standing(site: &Site, head: &Head, id: &Hash, transaction: &Transaction) -> Markup {
    let state = &head.state;
    let needed = state.params().ledger.confirmations;
    let transfer = state.transfer(id);
    let status = match transfer.map(|transfer| transfer.status) {
        Some(TransferStatus::Pending) => "pending",
        Some(TransferStatus::Confirmed) => "confirmed",
        None => site.context.transfer_end(id),
    };
    let said = match status {
        "pending" => "The recipient sees it and can't spend it yet. Its sender can take it back.",
        "confirmed" => "The recipient can spend it. It can still be reported.",
        "final" => "Nothing can undo it any more.",
        "refunded" => "The sender has it back: it was taken back, or not confirmed in time.",
        "reversed" => "More than half of the seats called it a fraud: the sender has back what there was.",
        _ => "",
    };
    let confirmers = state.confirmers(id);
    // Those of the time when it came in may report it.
    let epoch =
        transfer.and_then(|transfer| state.inclusion(transfer.height)).map_or(state.epoch(), |block| block.epoch);
    let seats = state.seats(epoch).map_or(0, |seats| seats.0.len());
    let percent = state.params().ledger.report_percent;
    let reports: Vec<NodeId> = state.reports(id).map(|(node, _)| node).collect();
    let sender = state.account_of(&transaction.unsigned.signer);
    let events = events_of(site, &sender, id);
    html! {
        section {
            h2 { "It is " span class={ "status " (status) } { (status) } }
            p { (said) }
            @if transfer.is_some() {
                p {
                    progress value=(confirmers.len().min(needed as usize)) max=(needed) aria-label="Confirmations" {}
                    " " b { (confirmers.len()) " of " (needed) } " confirmations"
                }
                @if !confirmers.is_empty() { ul.keys { @for node in &confirmers { li { (say::node(node)) } } } }
            }
        }
        @if !reports.is_empty() || status == "confirmed" {
            section {
                h2 { "Reports" }
                p {
                    progress value=(reports.len()) max=(seats.max(1)) aria-label="Reports" {}
                    " " (reports.len()) " of " (seats) " seats call it a fraud; " (percent) " % of them reverse it"
                }
                @if !reports.is_empty() { ul.keys { @for node in &reports { li { (say::node(node)) } } } }
            }
        }
        @if !events.is_empty() {
            section {
                h2 { "What happened" }
                ol.timeline { @for item in &events { li { (say::time(item.time_ms)) " · block " (say::block(item.at.height)) br; (say::event(None, &item.event)) } } }
            }
        }
    }
}

/// What happened to a transfer, the oldest first: its own history has what does not happen to each, its sender's the rest, as far as so much of that tells.
fn events_of(site: &Site, sender: &Address, id: &Hash) -> Vec<HistoryItem> {
    let usual = |event: &Event| match event {
        Event::TransferPending { id: of, .. }
        | Event::TransferConfirmed { id: of, .. }
        | Event::TransferFinal { id: of, .. } => of == id,
        _ => false,
    };
    let mut found: Vec<HistoryItem> = Vec::new();
    for (subject, is_it) in [
        (Subject::Transfer(*id), &(|_: &Event| true) as &dyn Fn(&Event) -> bool),
        (Subject::Wallet(*sender), &usual),
    ] {
        let mut before = None;
        for _ in 0..CHART_PAGES {
            let page = site.context.chain.history(&subject, before, ENTRIES);
            found.extend(page.items.into_iter().filter(|item| is_it(&item.event)));
            before = page.next;
            if before.is_none() || found.iter().any(|item| matches!(item.event, Event::TransferPending { .. })) {
                break;
            }
        }
    }
    found.sort_by_key(|item| item.at);
    found
}

#[derive(Deserialize)]
struct From {
    cursor: Option<String>,
}

fn cursor(text: Option<&str>) -> Result<Option<Cursor>, Missing> {
    let wrong = |_| Missing("There is no such page", "Its address is damaged: begin at the newest entries.".into());
    text.map(rpc::params::cursor).transpose().map_err(wrong)
}

async fn address(State(site): State<Arc<Site>>, Path(text): Path<String>, Query(from): Query<From>) -> Response {
    let title = format!("Wallet {text}");
    made(site, (title, from.cursor.is_none()), move |site| {
        let named: Address = text.parse().map_err(|e| Missing("This is no address", format!("“{text}”: {e}.")))?;
        let before = cursor(from.cursor.as_deref())?;
        let head = site.context.chain.head();
        let account = rpc::account_view(&head, &named);
        let own = account.address;
        let mut all = vec![
            ("Address", html! { code { (own) } }),
            ("Spendable", say::alc(account.free)),
            ("Coming in", say::alc(account.pending)),
            ("Staked", say::alc(account.staked)),
            ("Unbonding", say::alc(account.unbonding)),
            ("Deposited for inference", say::alc(account.deposit.amount)),
        ];
        if account.owes > Amount::ZERO {
            all.push(("Owes", html! { strong.bad { (say::alc(account.owes)) } }));
        }
        all.push(("Recovery key", html! { @if account.recoverable { "set" } @else { "none" } }));
        Ok(html! {
            h1 { @if let Some(name) = &account.name { "@" (name) } @else { "Wallet" } }
            (facts(all))
            @if !account.stakes.is_empty() {
                section { h2 { "Stakes" } (table("Stakes", &["Node", "#Stake"], account.stakes.iter().map(|stake| html! {
                    tr { td { (say::node(&stake.node)) } td.number { (say::alc(stake.amount)) } }
                }))) }
            }
            @if before.is_none() { (balance(site, &own, account.free)) }
            section {
                h2 { "History" }
                (history(site, &Subject::Wallet(own), Some(&own), before, &format!("/address/{own}")))
                p { a href={ "/address/" (own) "/history.csv" } download { "As CSV" } }
            }
        })
    })
    .await
}

/// What a wallet could spend over time: from what it can now, back through its history.
fn balance(site: &Site, own: &Address, free: Amount) -> Markup {
    let (mut points, mut before, mut sum) = (Vec::new(), None, i128::from(free.0));
    let head = site.context.chain.head();
    let (now, fee) = (head.state.time_ms(), head.state.params().ledger.fee);
    points.push((now as f64, sum as f64 / 1e8));
    for _ in 0..CHART_PAGES {
        let page = site.context.chain.history(&Subject::Wallet(*own), before, ENTRIES);
        for item in &page.items {
            let change = say::change(own, &item.event, fee);
            if change != 0 {
                points.push((item.time_ms as f64, sum as f64 / 1e8));
                sum -= change;
                points.push((item.time_ms as f64, sum as f64 / 1e8));
            }
        }
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    points.reverse();
    html! {
        div.charts { (charts::line("Spendable, ALC", Over::Time, &points, |alc| format!("{alc:.2}"))) }
        p.note { "Drawn back from today through the last " (CHART_PAGES * ENTRIES) " entries; bonds of reports, challenges and proposals are not in it." }
    }
}

/// A page of history, and the way to the next one.
fn history(site: &Site, subject: &Subject, own: Option<&Address>, before: Option<Cursor>, here: &str) -> Markup {
    let page = site.context.chain.history(subject, before, ENTRIES);
    html! {
        @if page.items.is_empty() { p.none { "Nothing yet." } }
        @else {
            (table("History", &["Time", "Block", "What happened"], page.items.iter().map(|item| html! {
                tr { td { (say::time(item.time_ms)) } td { (say::block(item.at.height)) } td { (say::event(own, &item.event)) } }
            })))
        }
        nav.lists aria-label="Pages" {
            @if before.is_some() { a href=(here) { "Newest" } }
            @if let Some(next) = page.next { a href={ (here) "?cursor=" (cursor_text(next)) } rel="next" { "Older →" } }
        }
    }
}

/// A wallet's history as comma-separated values: amounts in ALC, with the sign of what becomes of what can be spent.
async fn history_csv(State(site): State<Arc<Site>>, Path(text): Path<String>) -> Response {
    let Ok(named) = text.parse::<Address>() else {
        return Missing("This is no address", format!("“{text}” is not the address of a wallet.")).into_response();
    };
    let rows = site.clone().work(move |site| {
        let head = site.context.chain.head();
        let (own, fee) = (head.state.account_at(&named), head.state.params().ledger.fee);
        let mut rows = String::from("time_ms,height,change_alc,event\n");
        let mut before = None;
        for _ in 0..CSV_PAGES {
            let page = site.context.chain.history(&Subject::Wallet(own), before, ailo_ledger::store::MAX_PAGE);
            for item in &page.items {
                let change = say::change(&own, &item.event, fee);
                let sign = if change < 0 { "-" } else { "" };
                let amount = Amount(u64::try_from(change.unsigned_abs()).unwrap_or(u64::MAX));
                let event = serde_json::to_string(&item.event).unwrap_or_default().replace('"', "\"\"");
                // Writing into a text never fails.
                let _ = writeln!(rows, "{},{},{sign}{amount},\"{event}\"", item.time_ms, item.at.height);
            }
            before = page.next;
            if before.is_none() {
                return rows;
            }
        }
        rows.push_str("# older entries are left out: ask ailo_history for them\n");
        rows
    });
    let name = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"history.csv\""),
    ];
    match rows.await {
        Some(rows) => (name, rows).into_response(),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn node(State(site): State<Arc<Site>>, Path(text): Path<String>, Query(from): Query<From>) -> Response {
    made(site, ("Node".into(), from.cursor.is_none()), move |site| {
        let unknown = || Missing("There is no such node", "The ledger has no node with this key.".into());
        let id: NodeId = text.parse().map_err(|_| unknown())?;
        let before = cursor(from.cursor.as_deref())?;
        let head = site.context.chain.head();
        let state = &head.state;
        let node = state.node(&id).ok_or_else(unknown)?;
        let (power, total) = (state.validators().power(&id), state.validators().total_power());
        let seated = state.seats(state.epoch()).is_some_and(|seats| seats.contains(&id));
        let jailed = node.jailed_until.map(|until| say::span(until.saturating_sub(state.age_ms())));
        let mut all = vec![
            ("Key", html! { code { (id) } }),
            ("Works for", say::address(&node.wallet)),
            ("Stake", say::alc(node.stake)),
            ("Validates", html! { @if power > 0 { "with " (power) " of " (total) " votes" } @else { "no" } }),
            ("Seat", html! { @if seated { "yes" } @else { "no" } }),
            ("Trains", html! { @if node.trains { "yes" } @else { "no" } }),
            ("Up in this epoch", html! { (say::span(node.up_ms)) }),
            ("Replays that found its work right", html! { (node.clean) }),
            ("Quality of its work", html! { (format!("{:+.1} %", node.score_ppm as f64 / 1e4)) }),
        ];
        if let Some(left) = jailed {
            all.push(("In jail", html! { strong.bad { "for " (left) " more at least" } }));
        }
        if node.slashed_height > 0 {
            all.push(("Slashed", html! { strong.bad { "at height " (say::block(node.slashed_height)) } }));
        }
        Ok(html! {
            h1 { "Node" @if node.founder { " (founder)" } }
            (facts(all))
            section { h2 { "History" } (history(site, &Subject::Node(id), Some(&node.wallet), before, &format!("/node/{id}"))) }
        })
    })
    .await
}

async fn validators(State(site): State<Arc<Site>>) -> Response {
    made(site, ("Validators".into(), true), |site| {
        let head = site.context.chain.head();
        let state = &head.state;
        let set = state.validators();
        let total = set.total_power().max(1);
        Ok(html! {
            h1 { "Validators" }
            (lists())
            p {
                @if state.founders_are_latched_out() { "Whoever has staked most decides blocks." }
                @else { "The founders decide blocks until enough others have staked." }
                " One more validator needs " (say::alc(state.stake_to_validate())) " behind it."
            }
            (table("Validators", &["Node", "Wallet", "#Votes", "#Stake", "#Up in this epoch", "Slashed"], set.0.iter().map(|validator| {
                let node = state.node(&validator.node);
                html! { tr {
                    td { (say::node(&validator.node)) }
                    td { @if let Some(node) = node { (say::address(&node.wallet)) } }
                    td.number { (format!("{:.1} %", 100.0 * validator.power as f64 / total as f64)) }
                    td.number { @if let Some(node) = node { (say::alc(node.stake)) } }
                    td.number { @if let Some(node) = node { (say::span(node.up_ms)) } }
                    td { @if let Some(height) = node.map(|node| node.slashed_height).filter(|height| *height > 0) { "at " (say::block(height)) } @else { "never" } }
                } }
            })))
            @let others: Vec<_> = state.nodes().filter(|(id, node)| set.power(id) == 0 && node.jailed_until.is_some()).take(LISTED).collect();
            @if !others.is_empty() {
                section { h2 { "In jail" } (table("In jail", &["Node", "Wallet", "#Stake", "Slashed at"], others.iter().map(|(id, node)| html! {
                    tr { td { (say::node(id)) } td { (say::address(&node.wallet)) } td.number { (say::alc(node.stake)) } td { (say::block(node.slashed_height)) } }
                }))) }
            }
        })
    })
    .await
}

async fn rounds(State(site): State<Arc<Site>>) -> Response {
    made(site, ("Rounds".into(), true), |site| {
        let head = site.context.chain.head();
        let (state, open) = (&head.state, head.state.round());
        let losses: Vec<(f64, f64)> =
            site.series.all().iter().filter(|s| s.loss > 0).map(|s| (s.rounds as f64, s.loss as f64 / 1e6)).collect();
        let past: Vec<u64> = state.past_rounds().rev().take(LISTED).map(|round| round.number).collect();
        Ok(html! {
            h1 { "Rounds" }
            (lists())
            div.charts { (charts::line("Held-out loss", Over::Rounds, &losses, |loss| format!("{loss:.4}"))) }
            p { "Open: " (say::round(open.number)) ", " b { (open.phase) } ", " (open.participants.len()) " take part." }
            (table("Rounds", &["Round", "#Accepted", "Class", "#Held-out loss", "#Pot", "Settled"], past.iter().filter_map(|number| state.past(*number)).map(|past| {
                let loss = past.round.voted_loss();
                html! { tr {
                    td { (say::round(past.round.number)) @if !past.round.protected { " " strong.bad { "UNPROTECTED" } } }
                    td.number { (past.round.accepted().len()) " of " (past.round.participants.len()) }
                    td { @if let Some(class) = &past.round.class { (say::hash(class)) } }
                    td.number { @if let Some(loss) = loss { (say::loss(loss)) } }
                    td.number { (say::alc(past.pot)) }
                    td { @if past.settled { "yes" } @else { "not yet" } }
                } }
            })))
        })
    })
    .await
}

async fn round(State(site): State<Arc<Site>>, Path(text): Path<String>) -> Response {
    made(site, (format!("Round {text}"), true), move |site| {
        let head = site.context.chain.head();
        let state = &head.state;
        let missing = || {
            Missing("There is no such round", "The ledger keeps the open round and the last ones; older ones are in the histories of nodes.".into())
        };
        let number: u64 = text.parse().map_err(|_| missing())?;
        let past = state.past(number);
        let round = if state.round().number == number { state.round() } else { &past.ok_or_else(missing)?.round };
        let accepted: Vec<NodeId> = round.accepted().iter().map(|(node, _)| *node).collect();
        let share = |node: &NodeId| past?.shares.as_ref()?.iter().find(|share| share.node == *node);
        Ok(html! {
            h1 { "Round " (number) }
            nav.lists aria-label="Neighbours" {
                @if number > 0 { a href={ "/round/" (number - 1) } rel="prev" { "← " (number - 1) } }
                @if number < state.round().number { a href={ "/round/" (number + 1) } rel="next" { (number + 1) " →" } }
            }
            (facts(vec![
                ("Phase", html! { @if past.is_some() { "closed" } @else { (round.phase) } }),
                ("Begins from", html! { code { (round.base_root) } }),
                ("Withstands", html! { (round.f) " liars" @if !round.protected && !round.participants.is_empty() { " · " strong.bad { "UNPROTECTED" } } }),
                ("Measured by", html! { ul.keys { @for node in &round.committee { li { (say::node(node)) } } } }),
                ("Pot", past.map_or_else(|| html! { "not yet" }, |past| say::alc(past.pot))),
            ]))
            section {
                h2 { "Contributions" }
                (table("Contributions", &["#Slot", "Node", "Update", "#Loss while training", "Accepted", "Replay", "#Promised"],
                    round.participants.iter().enumerate().map(|(slot, node)| {
                        let commit = round.contributions.get(node);
                        let replay = state.replays_of(number).find(|(maker, _)| maker == node).map(|(_, replay)| replay);
                        html! { tr {
                            td.number { (slot) }
                            td { (say::node(node)) }
                            @match commit {
                                Some(commit) => {
                                    td { (say::hash(&commit.contribution.update)) }
                                    td.number { (say::loss(commit.contribution.loss_first)) " → " (say::loss(commit.contribution.loss_last)) }
                                }
                                None => { td { "nothing" } td {} }
                            }
                            td { @if accepted.contains(node) { "yes" } @else if past.is_some() { strong.bad { "no" } } @else { "not yet" } }
                            td { @if let Some(replay) = replay { (format!("{:?}", replay.outcome).to_lowercase()) } @else { "none drawn" } }
                            td.number { @if let Some(share) = share(node) { (say::alc(share.training)) } }
                        } }
                    })))
            }
            @if !round.votes.is_empty() {
                section { h2 { "Votes for the model" } (table("Votes", &["Validator", "Model", "#Held-out loss"], round.votes.iter().map(|(node, vote)| html! {
                    tr { td { (say::node(node)) } td { (say::hash(&vote.root)) } td.number { (say::loss(vote.loss)) } }
                }))) }
            }
        })
    })
    .await
}

async fn supply(State(site): State<Arc<Site>>) -> Response {
    made(site, ("Supply".into(), true), |site| {
        let head = site.context.chain.head();
        let (supply, samples) = (head.state.supply(), site.series.all());
        let seen = |value: fn(&super::series::Sample) -> u64| -> Vec<(f64, f64)> {
            samples.iter().map(|sample| (sample.time_ms as f64, value(sample) as f64 / 1e8)).collect()
        };
        let write = |alc: f64| format!("{alc:.2} ALC");
        Ok(html! {
            h1 { "Supply" }
            (lists())
            p { "No coin was there at the beginning: all were minted as pay for training, inference, replays and being up. Where they are now:" }
            (facts(vec![
                ("Minted in all", say::alc(supply.minted)),
                ("Spendable", say::alc(supply.free)),
                ("In pending transfers", say::alc(supply.pending)),
                ("Behind nodes", say::alc(supply.staked)),
                ("Unbonding", say::alc(supply.unbonding)),
                ("Bound", say::alc(supply.escrow)),
                ("Burned", say::alc(supply.burned)),
            ]))
            div.charts {
                (charts::line("Minted", Over::Time, &seen(|s| s.minted), write))
                (charts::line("Burned", Over::Time, &seen(|s| s.burned), write))
            }
            p.note { "Charts begin when this node first ran." }
        })
    })
    .await
}

async fn pending(State(site): State<Arc<Site>>) -> Response {
    made(site, ("Pending transfers".into(), true), |site| {
        let head = site.context.chain.head();
        let state = &head.state;
        let needed = state.params().ledger.confirmations;
        let blocks = state.pending_blocks().filter_map(|height| site.context.chain.block(height));
        let transfers = blocks.flat_map(|(block, _)| block.transactions).filter_map(|each| {
            let id = each.id();
            state.transfer(&id).filter(|transfer| transfer.status == TransferStatus::Pending).map(|transfer| (id, transfer))
        });
        let transfers: Vec<_> = transfers.take(LISTED).collect();
        Ok(html! {
            h1 { "Pending transfers" }
            (lists())
            @if transfers.is_empty() { p.none { "None: all transfers have their confirmations." } }
            @else {
                (table("Pending transfers", &["Transfer", "From", "To", "#Amount", "#Confirmations"], transfers.iter().map(|(id, transfer)| html! {
                    tr {
                        td { (say::transaction(id)) } td { (say::address(&transfer.from)) } td { (say::address(&transfer.to)) }
                        td.number { (say::alc(transfer.amount)) } td.number { (state.confirmers(id).len()) " of " (needed) }
                    }
                })))
            }
        })
    })
    .await
}

async fn rich(State(site): State<Arc<Site>>) -> Response {
    made(site, ("Richest wallets".into(), false), |site| {
        let head = site.context.chain.head();
        let mut all: Vec<(u64, Address)> = Vec::new();
        for (address, account) in head.state.accounts() {
            let owned = account.free.0.saturating_add(account.staked.0).saturating_add(account.unbonding.0);
            all.push((owned, address));
            // Never many more than are shown.
            if all.len() >= 2 * LISTED {
                all.sort_unstable_by(|a, b| b.cmp(a));
                all.truncate(LISTED);
            }
        }
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.truncate(LISTED);
        let minted = head.state.supply().minted.0.max(1) as f64;
        Ok(html! {
            h1 { "Richest wallets" }
            (lists())
            (table("Wallets", &["#Place", "Wallet", "#Owned", "#Of all"], all.iter().enumerate().map(|(i, (owned, address))| html! {
                tr { td.number { (i + 1) } td { (say::address(address)) } td.number { (say::alc(Amount(*owned))) }
                    td.number { (format!("{:.2} %", 100.0 * *owned as f64 / minted)) } }
            })))
        })
    })
    .await
}
