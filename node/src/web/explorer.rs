//! The explorer: blocks, transactions, wallets, nodes, validators, rounds, supply, as the ledger has them now.

use super::{
    Failed, Missing, Site,
    charts::{self, Over},
    say,
    table::table,
    wallet,
};
use crate::{
    rpc::{errors::Code, holders::account_view, params::*, types::*},
    series::Sample,
    service::chain::{Head, Unreadable},
};
use ailo_ledger::{
    Block, Body, Transaction,
    state::{Commit, Share, State as Ledger, median},
    store::{Cursor, MAX_PAGE, Page, Subject},
};
use ailo_protocol::{Address, Amount, Hash, NodeId, canonical};
use axum::{
    Router,
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;

/// Entries of a page of history, and the newest blocks.
pub(super) const ENTRIES: usize = 50;
const NEWEST: u64 = 12;
/// Pages of history in a file of comma-separated values, or behind a chart, at most.
const CSV_PAGES: usize = 200;
const CHART_PAGES: usize = 10;

pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/explorer", get(overview))
        .route("/search", get(search))
        .route("/block/{name}", get(block))
        .route("/transactions", get(transactions))
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

/// A page of the explorer that is made out of memory.
fn at_once(site: &Site, (title, live): (&str, bool), make: impl FnOnce() -> Result<Markup, Failed>) -> Response {
    site.shown(("/explorer", title, live), make())
}

/// One that reads the ledger's index, or walks over all of the state.
async fn made(
    site: Arc<Site>,
    (title, live): (String, bool),
    make: impl FnOnce(&Site) -> Result<Markup, Failed> + Send + 'static,
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
            a href="/explorer" { "Newest" } a href="/transactions" { "Transactions" } a href="/rounds" { "Rounds" } a href="/validators" { "Validators" }
            a href="/pending" { "Pending transfers" } a href="/supply" { "Supply" } a href="/rich" { "Richest wallets" }
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
        let blocks = newest(site, state.height())?;
        let newest_transactions = site.context.recent(PageParams::default())?.value;
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
            section { h2 { "Newest transactions" }
                (recent(&head, newest_transactions))
            }
        })
    })
    .await
}

async fn transactions(State(site): State<Arc<Site>>, Query(from): Query<From>) -> Response {
    made(site, ("Transactions".into(), from.cursor.is_none()), |site| {
        let (head, view) = (site.context.chain.head(), site.context.recent(from.into())?.value);
        Ok(html! {
            h1 { "Transactions" }
            (lists())
            p { "The newest first, without what nodes say all the time." }
            (recent(&head, view))
        })
    })
    .await
}

/// A page of the newest transactions, and the way to those before them.
fn recent(head: &Head, RecentView { transactions, next }: RecentView) -> Markup {
    html! {
        @if !transactions.is_empty() { (transactions_table(head, transactions.iter().map(|each| (each.block_height, &each.transaction)))) }
        @else if next.is_some() { p.none { "None in many blocks." } }
        @else { p.none { "None but what nodes say all the time." } }
        (older(next, "/transactions"))
    }
}

fn newest(site: &Site, height: u64) -> Result<Vec<Block>, Unreadable> {
    let heights = height.saturating_sub(NEWEST - 1).max(1)..=height;
    let blocks = heights.rev().filter_map(|height| site.context.chain.block(height).transpose());
    blocks.map(|found| found.map(|(block, _)| block)).collect()
}

fn blocks_table(blocks: &[Block]) -> Markup {
    table(
        "Blocks",
        &["Height", "Time", "Made by", "#Transactions"],
        blocks.iter().map(|block| {
            [
                say::block(block.header.height),
                say::time(block.header.time_ms),
                say::node(&block.header.proposer),
                html! { (block.transactions.len()) },
            ]
        }),
    )
}

fn transactions_table<'a>(head: &Head, all: impl IntoIterator<Item = (u64, &'a Transaction)>) -> Markup {
    table(
        "Transactions",
        &["Transaction", "Kind", "By", "What", "Block"],
        all.into_iter().map(|(height, each)| {
            [
                say::transaction(&each.id()),
                html! { (say::kind(&each.unsigned.body)) },
                signer(&head.state, each),
                say::body(each),
                say::block(height),
            ]
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

/// Where what was typed leads to.
async fn search(State(site): State<Arc<Site>>, Query(Asked { q }): Query<Asked>) -> Response {
    let text = q.trim().chars().take(MAX_QUERY).collect::<String>();
    let found = match site.context.clone().search(SearchParams { query: text.clone() }).await {
        Ok(At { value, .. }) => value.found,
        Err(failure) => return Failed::from(failure).into_response(),
    };
    let place = match found {
        Some(Found::Block { height }) => format!("/block/{height}"),
        Some(Found::Transaction { id }) => format!("/tx/{id}"),
        Some(Found::Wallet { address }) => format!("/address/{address}"),
        Some(Found::Node { node }) => format!("/node/{node}"),
        Some(Found::Round { number }) => format!("/round/{number}"),
        None => {
            let why = format!(
                "Nothing here is called “{text}”. Search for a transaction, a block or a node by its 64 digits, a wallet by its address or @name, a height, or a round like “round 7”."
            );
            return Missing("Nothing was found", why).into_response();
        }
    };
    Redirect::to(&place).into_response()
}

async fn block(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Response {
    made(site, (format!("Block {name}"), false), move |site| {
        let chain = &site.context.chain;
        let height = match (name.parse(), name.parse()) {
            (Ok(height), _) => Some(height),
            (_, Ok(id)) => chain.height_of(&id)?,
            _ => None,
        };
        let found = height.map_or(Ok(None), |height| chain.block(height))?;
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
    let Ok(id) = id.parse::<Hash>() else { return unknown().into_response() };
    let found = site.context.clone().transaction(TransactionParams { id, min_status: None }).await;
    let view = match found {
        Ok(At { value, .. }) => value,
        Err(failure) if failure.is(Code::NotFound) => return unknown().into_response(),
        Err(failure) => return Failed::from(failure).into_response(),
    };
    made(site, ("Transaction".into(), true), move |site| {
        let (head, transaction) = (site.context.chain.head(), &view.transaction);
        let is_transfer = matches!(transaction.unsigned.body, Body::Transfer { .. });
        let body = serde_json::to_string_pretty(transaction).unwrap_or_default(); // It always is JSON.
        Ok(html! {
            h1 { (say::kind(&transaction.unsigned.body)) }
            p.lead { (say::body(transaction)) }
            (facts(vec![
                ("Id", html! { code { (id) } }),
                ("Signed by", signer(&head.state, transaction)),
                ("Made at", say::time(transaction.unsigned.time_ms)),
                ("Block", view.block_height.map_or_else(|| html! { "waits for one" }, say::block)),
            ]))
            @if is_transfer && view.block_height.is_some() { (standing(site, &view)) }
            details { summary { "Decoded" } pre { code { (body) } } }
            details { summary { "Raw" } pre { code { (hex::encode(canonical::encode(transaction))) } } }
        })
    })
    .await
}

/// Where a transfer stands: its confirmations, reports, and all that happened to it.
fn standing(site: &Site, view: &TransactionView) -> Markup {
    let status = view.status.as_str();
    let said = match status {
        "pending" => "The recipient sees it and can't spend it yet. Its sender can take it back.",
        "confirmed" => "The recipient can spend it. It can still be reported.",
        "final" => "Nothing can undo it any more.",
        "refunded" => "The sender has it back: it was taken back, or not confirmed in time.",
        "reversed" => "More than half of the seats called it a fraud: the sender has back what there was.",
        _ => "",
    };
    let (confirmers, reports) = (&view.attested_by, &view.reported_by);
    let [needed, seats, percent] = [view.needed, view.seats, view.report_percent].map(Option::unwrap_or_default);
    html! {
        section {
            h2 { "It is " span class={ "status " (status) } { (status) } }
            p { (said) }
            @if needed > 0 {
                p {
                    progress value=(confirmers.len().min(needed as usize)) max=(needed) aria-label="Confirmations" {}
                    " " b { (confirmers.len()) " of " (needed) } " confirmations"
                }
                @if !confirmers.is_empty() { ul.keys { @for node in confirmers { li { (say::node(node)) } } } }
                @if status == "final" && confirmers.len() < needed as usize {
                    p.note { "It had all of them: the others were not found in the blocks after its own." }
                }
            }
        }
        @if !reports.is_empty() || status == "confirmed" {
            section {
                h2 { "Reports" }
                p {
                    progress value=(reports.len()) max=(seats.max(1)) aria-label="Reports" {}
                    " " (reports.len()) " of " (seats) " seats call it a fraud; " (percent) " % of them reverse it"
                }
                @if !reports.is_empty() { ul.keys { @for node in reports { li { (say::node(node)) } } } }
            }
        }
        (wallet::rights(&site.context.chain.head(), &view.transaction))
        (timeline(site, view.id))
    }
}

/// All that happened to a transfer, or what of it can't be shown.
fn timeline(site: &Site, id: Hash) -> Markup {
    let events = site.context.transaction_events(IdParams { id }).map(|at| at.value);
    html! {
        section {
            h2 { "What happened" }
            @match &events {
                Ok(TransactionEventsView { entries, whole }) => {
                    ol.timeline { @for entry in entries { li { (say::time(entry.time_ms)) " · block " (say::block(entry.height)) br; (say::event(None, &entry.event)) } } }
                    @if !whole { p.note { "This is not all: so much happened to its sender since that what came later was not looked for." } }
                }
                Err(failure) => p.bad role="alert" { "This can't be shown: " (failure.why) "." },
            }
        }
    }
}

#[derive(Deserialize)]
struct From {
    cursor: Option<String>,
}

impl std::convert::From<From> for PageParams {
    fn from(From { cursor }: From) -> PageParams {
        PageParams::after(cursor)
    }
}

/// The way to the next page of a list.
fn older(next: Option<String>, here: &str) -> Markup {
    html! { @if let Some(next) = next { nav.lists aria-label="Pages" { a href={ (here) "?cursor=" (next) } rel="next" { "More →" } } } }
}

fn before(text: Option<&str>) -> Result<Option<Cursor>, Missing> {
    let wrong = |_| Missing("There is no such page", "Its address is damaged: begin at the newest entries.".into());
    text.map(cursor).transpose().map_err(wrong)
}

async fn address(State(site): State<Arc<Site>>, Path(text): Path<String>, Query(from): Query<From>) -> Response {
    let title = format!("Wallet {text}");
    made(site, (title, from.cursor.is_none()), move |site| {
        let named: Address = text.parse().map_err(|e| Missing("This is no address", format!("“{text}”: {e}.")))?;
        let before = before(from.cursor.as_deref())?;
        let head = site.context.chain.head();
        let account = account_view(&head, &named);
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
                section { h2 { "Stakes" } (table("Stakes", &["Node", "#Stake"], account.stakes.iter().map(|stake| {
                    [say::node(&stake.node), say::alc(stake.amount)]
                }))) }
            }
            @if before.is_none() { (balance(site, &own, account.free)?) }
            section {
                h2 { "History" }
                (history(site, &Subject::Wallet(own), Some(&own), before, &format!("/address/{own}"))?)
                p { a href={ "/address/" (own) "/history.csv" } download { "As CSV" } ", the newest " (say::number((CSV_PAGES * MAX_PAGE) as u64)) " entries at most." }
            }
        })
    })
    .await
}

/// What a wallet could spend over time, by its newest entries.
fn balance(site: &Site, own: &Address, free: Amount) -> Result<Markup, Unreadable> {
    let (head, subject) = (site.context.chain.head(), Subject::Wallet(*own));
    let alc = |amount: Amount| amount.0 as f64 / 1e8;
    let (mut points, mut before) = (vec![(head.state.time_ms() as f64, alc(free))], None);
    for _ in 0..CHART_PAGES {
        let page = site.context.chain.history(&subject, before, ENTRIES)?;
        for (time_ms, free) in page.items.iter().filter_map(|item| Some((item.time_ms as f64, item.free?))) {
            // It had that until the next change.
            let next = points.last().map_or(0.0, |(_, next)| *next);
            points.extend((next != alc(free)).then_some((points.last().map_or(time_ms, |(at, _)| *at), alc(free))));
            points.push((time_ms, alc(free)));
        }
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    points.reverse();
    Ok(html! {
        div.charts { (charts::line("Spendable, ALC", Over::Time, &points, charts::coins)) }
        @if before.is_some() { p.note { "By the newest " (CHART_PAGES * ENTRIES) " entries." } }
    })
}

/// A page of history, and the way to the next one.
fn history(
    site: &Site,
    subject: &Subject,
    own: Option<&Address>,
    before: Option<Cursor>,
    here: &str,
) -> Result<Markup, Unreadable> {
    let page = site.context.chain.history(subject, before, ENTRIES)?;
    Ok(html! {
        @if page.items.is_empty() { p.none { "Nothing yet." } }
        @else {
            (table("History", &["Time", "Block", "What happened"], page.items.iter().map(|item| {
                [say::time(item.time_ms), say::block(item.at.height), say::event(own, &item.event)]
            })))
        }
        nav.lists aria-label="Pages" {
            @if before.is_some() { a href=(here) { "Newest" } }
            @if let Some(next) = page.next { a href={ (here) "?cursor=" (cursor_text(next)) } rel="next" { "Older →" } }
        }
    })
}

/// A row of comma-separated values: what happened is JSON, in quotes.
fn row(time_ms: u64, height: u64, free: Option<Amount>, happened: &impl Serialize) -> String {
    let happened = serde_json::to_string(happened).unwrap_or_default().replace('"', "\"\""); // It always is JSON.
    let free = free.map(|free| free.to_string()).unwrap_or_default();
    format!("{time_ms},{height},{free},\"{happened}\"\n")
}

/// A history as comma-separated values, of which `read` gives the page before a place: with what the wallet could spend after each block that says so,
/// in ALC. Where older entries are left out, the last row says so, and where `ailo_history` goes on.
fn csv(read: impl Fn(Option<Cursor>) -> Result<Page, Unreadable>) -> Result<String, Unreadable> {
    let mut rows = String::from("time_ms,height,spendable_alc,event\n");
    let (mut before, mut oldest_ms) = (None, 0);
    for _ in 0..CSV_PAGES {
        let page = read(before)?;
        rows.extend(page.items.iter().map(|item| row(item.time_ms, item.at.height, item.free, &item.event)));
        oldest_ms = page.items.last().map_or(oldest_ms, |item| item.time_ms);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let left_out = |next| json!({ "event": "older_left_out", "cursor": cursor_text(next) });
    rows.extend(before.map(|next| row(oldest_ms, next.height, None, &left_out(next))));
    Ok(rows)
}

async fn history_csv(State(site): State<Arc<Site>>, Path(text): Path<String>) -> Response {
    let Ok(named) = text.parse::<Address>() else {
        return Missing("This is no address", format!("“{text}” is not the address of a wallet.")).into_response();
    };
    let rows = site.clone().work(move |site| {
        let chain = &site.context.chain;
        let subject = Subject::Wallet(chain.head().state.account_at(&named));
        Ok(csv(|before| chain.history(&subject, before, MAX_PAGE))?)
    });
    let name = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"history.csv\""),
    ];
    match rows.await {
        Ok(rows) => (name, rows).into_response(),
        Err(failed) => failed.into_response(),
    }
}

async fn node(State(site): State<Arc<Site>>, Path(text): Path<String>, Query(from): Query<From>) -> Response {
    made(site, ("Node".into(), from.cursor.is_none()), move |site| {
        let unknown = || Missing("There is no such node", "The ledger has no node with this key.".into());
        let id: NodeId = text.parse().map_err(|_| unknown())?;
        let before = before(from.cursor.as_deref())?;
        let node = site.context.node(NodeParams { node: id }).map_err(|_| unknown())?.value;
        let total = site.context.chain.head().state.validators().total_power();
        let jailed = node.jailed_until.map(|until| say::span(until.saturating_sub(node.age_ms)));
        let mut all = vec![
            ("Key", html! { code { (id) } }),
            ("Works for", say::address(&node.wallet)),
            ("Stake", say::alc(node.stake)),
            ("Validates", html! { @if node.power > 0 { "with " (node.power) " of " (total) " votes" } @else { "no" } }),
            ("Seat", html! { @if node.seated { "yes" } @else { "no" } }),
            ("Trains", html! { @if node.trains { "yes" } @else { "no" } }),
            ("Up in this epoch", html! { (say::span(node.up_ms)) }),
            ("Replays that found its work right", html! { (node.clean) }),
            ("Quality of its work", html! { (format!("{:+.1} %", node.quality_ppm as f64 / 1e4)) }),
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
            section { h2 { "History" } (history(site, &Subject::Node(id), Some(&node.wallet), before, &format!("/node/{id}"))?) }
        })
    })
    .await
}

async fn validators(State(site): State<Arc<Site>>) -> Response {
    made(site, ("Validators".into(), true), |site| {
        let view = site.context.validators(NoParams {})?.value;
        let total = view.total_power.max(1);
        Ok(html! {
            h1 { "Validators" }
            (lists())
            p {
                @if view.founders { "The founders decide blocks until enough others have staked." }
                @else { "Whoever has staked most decides blocks." }
                " One more validator needs " (say::alc(view.stake_to_validate)) " behind it."
            }
            (table("Validators", &["Node", "Wallet", "#Votes", "#Stake", "#Up in this epoch", "Slashed"], view.validators.iter().map(|validator| {
                [
                    say::node(&validator.node),
                    html! { @if let Some(wallet) = &validator.wallet { (say::address(wallet)) } },
                    html! { (format!("{:.1} %", 100.0 * validator.power as f64 / total as f64)) },
                    say::alc(validator.stake),
                    html! { (say::span(validator.up_ms)) },
                    html! { @if validator.slashed_height > 0 { "at " (say::block(validator.slashed_height)) } @else { "never" } },
                ]
            })))
            @if !view.jailed.is_empty() {
                section { h2 { "In jail" } (table("In jail", &["Node", "Wallet", "#Stake", "Slashed at"], view.jailed.iter().map(|node| {
                    [say::node(&node.node), say::address(&node.wallet), say::alc(node.stake), say::block(node.slashed_height)]
                }))) }
            }
        })
    })
    .await
}

async fn rounds(State(site): State<Arc<Site>>, Query(from): Query<From>) -> Response {
    at_once(&site, ("Rounds", from.cursor.is_none()), || {
        let RoundsView { open, rounds, next } = site.context.rounds(from.into())?.value;
        let samples = site.context.series.all();
        let losses: Vec<(f64, f64)> =
            samples.iter().filter(|s| s.loss > 0).map(|s| (s.rounds as f64, s.loss as f64 / 1e6)).collect();
        Ok(html! {
            h1 { "Rounds" }
            (lists())
            div.charts { (charts::line("Held-out loss", Over::Rounds, &losses, |loss| format!("{loss:.4}"))) }
            p { "Open: " (say::round(open.number)) ", " b { (open.phase) } ", " (open.participants) " take part." }
            (table("Rounds", &["Round", "#Accepted", "Class", "#Held-out loss", "#Pot", "Settled"], rounds.iter().map(|round| [
                html! { (say::round(round.number)) @if !round.protected { " " strong.bad { "UNPROTECTED" } } },
                html! { (round.accepted) " of " (round.participants) },
                html! { @if let Some(class) = &round.class { (say::hash(class)) } },
                html! { @if let Some(loss) = round.held_out_loss { (format!("{loss:.4}")) } },
                say::alc(round.pot),
                html! { @if round.settled { "yes" } @else { "not yet" } },
            ])))
            (older(next, "/rounds"))
        })
    })
}

async fn round(State(site): State<Arc<Site>>, Path(text): Path<String>) -> Response {
    at_once(&site, (&format!("Round {text}"), true), || {
        let missing = || {
            Missing(
                "There is no such round",
                "The ledger keeps the open round and the last ones; older ones are in the histories of nodes.".into(),
            )
        };
        let number: u64 = text.parse().map_err(|_| missing())?;
        let view = site.context.round(RoundParams { number: Some(number) }).map_err(|_| missing())?.value;
        let (round, past) = (&view.round, view.past.as_ref());
        let newest = site.context.chain.head().state.round().number;
        let accepted: Vec<NodeId> = round.accepted().iter().map(|(node, _)| *node).collect();
        let share = |node: &NodeId| past?.shares.as_ref()?.iter().find(|share| share.node == *node);
        Ok(html! {
            h1 { "Round " (number) }
            nav.lists aria-label="Neighbours" {
                @if number > 0 { a href={ "/round/" (number - 1) } rel="prev" { "← " (number - 1) } }
                @if number < newest { a href={ "/round/" (number + 1) } rel="next" { (number + 1) " →" } }
            }
            (facts(vec![
                ("Phase", html! { @if past.is_some() { "closed" } @else { (round.phase) } }),
                ("Begins from", html! { code { (round.base_root) } }),
                ("Withstands", html! { (round.f) " liars" @if !round.protected && !round.participants.is_empty() { " · " strong.bad { "UNPROTECTED" } } }),
                ("Measured by", html! { ul.keys { @for node in &round.committee { li { (say::node(node)) } } } }),
                ("Pot", past.map_or_else(|| html! { "not yet" }, |past| say::alc(past.pot))),
                ("Made the model", html! { @if let Some(root) = &view.root { code { (root) } } @else { "not yet" } }),
            ]))
            section {
                h2 { "Contributions" }
                (table("Contributions", &["#Slot", "Node", "Update", "#Training loss", "#Held-out loss", "#Verdicts", "Accepted", "Replay", "#Promised"],
                    round.participants.iter().enumerate().map(|(slot, node)| {
                        let commit = round.contributions.get(node);
                        let replay = past.and_then(|past| past.replays.get(node));
                        let [update, trained, measured, verdicts] = commit.map_or_else(|| {
                            [html! { "nothing" }, html! {}, html! {}, html! {}]
                        }, |commit| [
                            say::hash(&commit.contribution.update),
                            html! { (say::loss(commit.contribution.loss_first)) " → " (say::loss(commit.contribution.loss_last)) },
                            html! { @if let Some(loss) = median(commit.losses.clone()) { (say::loss(loss)) } },
                            html! { (commit.valid) " for" @if commit.invalid > 0 { ", " (commit.invalid) " against" } @if commit.suspected > 0 { ", " (commit.suspected) " suspect it" } },
                        ]);
                        [
                            html! { (slot) },
                            say::node(node),
                            update,
                            trained,
                            measured,
                            verdicts,
                            html! { @if accepted.contains(node) { "yes" } @else if past.is_some() { strong.bad { "no" } } @else { "not yet" } },
                            html! { @if let Some(replay) = replay { (format!("{:?}", replay.outcome).to_lowercase()) } @else { "none" } },
                            html! { @if let Some(share) = share(node) { (say::alc(share.training)) } },
                        ]
                    })))
            }
            @if !round.contributions.is_empty() {
                section {
                    h2 { "Proof and pay" }
                    @for (slot, node) in round.participants.iter().enumerate() {
                        @if let Some(commit) = round.contributions.get(node) { (proof(slot, node, commit, share(node))) }
                    }
                }
            }
            @if !round.votes.is_empty() {
                section { h2 { "Votes for the model" } (table("Votes", &["Validator", "Model", "#Held-out loss"], round.votes.iter().map(|(node, vote)| {
                    [say::node(node), say::hash(&vote.root), html! { (say::loss(vote.loss)) }]
                }))) }
            }
        })
    })
}

/// What a contribution committed to, and what is promised for it.
fn proof(slot: usize, node: &NodeId, commit: &Commit, share: Option<&Share>) -> Markup {
    let made = &commit.contribution;
    let code = |hash: &Hash| html! { code.wrap { (hash) } };
    let pay = |part: fn(&Share) -> Amount| html! { @if let Some(share) = share { (say::alc(part(share))) } @else { "nothing so far" } };
    html! {
        details {
            summary { "Slot " (slot) ", node " (node.short()) }
            (facts(vec![
                ("Payload", html! { (code(&made.payload)) ", " (say::number(made.payload_bytes)) " bytes" }),
                ("Update", code(&made.update)),
                ("Trace", code(&made.trace)),
                ("Class of the machine", code(&made.class)),
                ("Tokens", html! { (say::number(made.tokens)) }),
                ("Steps", html! { (made.steps) }),
                ("After the opening", html! { (say::span(commit.after_ms)) }),
                ("Promised for training", pay(|share| share.training)),
                ("Promised for a new best loss", pay(|share| share.bonus)),
                ("Promised to", html! { @if let Some(share) = share { (say::address(&share.wallet)) } @else { "nobody so far" } }),
            ]))
        }
    }
}

async fn supply(State(site): State<Arc<Site>>) -> Response {
    at_once(&site, ("Supply", true), || {
        let supply = site.context.supply(NoParams {})?.value;
        let samples = site.context.series.all();
        let seen = |value: fn(&Sample) -> u64| -> Vec<(f64, f64)> {
            samples.iter().map(|sample| (sample.time_ms as f64, value(sample) as f64 / 1e8)).collect()
        };
        let write = |alc: f64| format!("{} ALC", charts::coins(alc));
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
}

async fn pending(State(site): State<Arc<Site>>, Query(from): Query<From>) -> Response {
    at_once(&site, ("Pending transfers", from.cursor.is_none()), || {
        let PendingView { needed, transfers, next } = site.context.pending(from.into())?.value;
        Ok(html! {
            h1 { "Pending transfers" }
            (lists())
            @if transfers.is_empty() { p.none { "None: all transfers have their confirmations." } }
            @else {
                (table("Pending transfers", &["Transfer", "From", "To", "#Amount", "#Confirmations"], transfers.iter().map(|transfer| [
                    say::transaction(&transfer.id), say::address(&transfer.from), say::address(&transfer.to),
                    say::alc(transfer.amount), html! { (transfer.confirmations) " of " (needed) },
                ])))
            }
            (older(next, "/pending"))
        })
    })
}

async fn rich(State(site): State<Arc<Site>>, Query(from): Query<From>) -> Response {
    made(site, ("Richest wallets".into(), false), |site| {
        let RichView { first, wallets, minted, next } = site.context.rich_list(from.into())?.value;
        let minted = minted.0.max(1) as f64;
        Ok(html! {
            h1 { "Richest wallets" }
            (lists())
            (table("Wallets", &["#Place", "Wallet", "#Owned", "#Of all"], (first..).zip(&wallets).map(|(place, wallet)| [
                html! { (place) }, say::address(&wallet.address), say::alc(wallet.owned),
                html! { (format!("{:.2} %", 100.0 * wallet.owned.0 as f64 / minted)) },
            ])))
            (older(next, "/rich"))
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use ailo_ledger::{state::Event, store::HistoryItem};

    #[test]
    fn every_row_has_four_columns() {
        let event = json!({ "event": "username_changed", "name": "a,b" });
        let rows = [row(1, 2, Some(Amount(3)), &event), row(1, 2, None, &event)];
        for line in rows {
            let columns: Vec<&str> = line.trim_end().splitn(4, ',').collect();
            let happened = columns[3].strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap();
            assert!(!happened.replace("\"\"", "").contains('"'), "{line}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&happened.replace("\"\"", "\"")).unwrap(), event);
        }
    }

    #[test]
    fn a_history_that_is_too_long_ends_with_where_it_goes_on() {
        let item = |height| HistoryItem {
            at: Cursor { height, event: 3 },
            time_ms: 10 * height,
            event: Event::UsernameChanged { wallet: Address([1; 20]), name: None },
            free: Some(Amount(height)),
        };
        // An entry a page, down to the block at `oldest`.
        let rows = |newest: u64, oldest: u64| {
            let page = |before: Option<Cursor>| {
                let height = before.map_or(newest, |before| before.height - 1);
                let next = (height > oldest).then_some(Cursor { height, event: 3 });
                Ok(Page { items: vec![item(height)], next })
            };
            let rows = csv(page).unwrap();
            rows.lines().skip(1).map(str::to_string).collect::<Vec<_>>()
        };
        let pages = CSV_PAGES as u64;
        let all = rows(pages, 1);
        assert_eq!((all.len(), all.iter().any(|row| row.contains("left_out"))), (CSV_PAGES, false));
        assert!(all[0].starts_with(&format!("{},{pages},", 10 * pages)), "{}", all[0]);
        let cut = rows(2 * pages, 1);
        let (oldest, last) = (pages + 1, cut.last().unwrap());
        assert_eq!(cut.len(), CSV_PAGES + 1);
        assert!(last.starts_with(&format!("{},{oldest},,", 10 * oldest)), "{last}");
        assert!(last.contains("older_left_out") && last.contains(&format!("\"\"{oldest}-3\"\"")), "{last}");
    }
}
