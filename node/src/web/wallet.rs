//! The wallet view: receive with a QR code, and forms that make what is to be signed: to send, to take back, to report. Keys stay where they are: a
//! browser sees none, and what was signed elsewhere can be handed in here.

use super::{Failed, Missing, Site, explorer::ENTRIES, say};
use crate::{
    genesis::now_ms,
    rpc::{errors::Code, holders::account_view, params::KeyParams, types::AccountView},
    service::chain::{Head, Unreadable},
    tx::{Draft, words},
};
use ailo_ledger::{
    Body, Transaction,
    state::{Event, Executor, Rejection, State as Ledger, Transfer, TransferStatus},
    store::Subject,
    transaction::{MAX_TRANSACTION_BYTES, Unsigned},
};
use ailo_protocol::{Address, Amount, Hash, PublicKey, Signature, Username, canonical};
use axum::{
    Form, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use maud::{Markup, PreEscaped, html};
use qrcode::{QrCode, render::svg};
use serde::Deserialize;
use std::sync::Arc;

/// Pending transfers among which a wallet's are looked for, at most.
const LOOKED_AT: usize = 10_000;

pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/wallet", get(page))
        .route("/wallet/send", post(send))
        .route("/wallet/dispute", post(dispute))
        .route("/wallet/report", post(report))
        .route("/wallet/submit", post(submit))
        .route("/qr/{address}", get(qr))
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    address: String,
    #[serde(default)]
    to: String,
    #[serde(default)]
    amount: String,
    #[serde(default)]
    memo: String,
}

async fn page(State(site): State<Arc<Site>>, Query(asked): Query<Asked>) -> Response {
    site.made(("/wallet", "Wallet", false), move |site| {
        let own = match asked.address.trim() {
            "" => Ok(site.context.wallet),
            text => text.parse::<Address>().map_err(|e| format!("“{text}” is no address: {e}.")),
        };
        Ok(html! {
            h1 { "Wallet" }
            p { "Look at any wallet here. This page holds no keys and signs nothing: what moves coins is signed by " code { "ailo-node" } ", on a machine that you trust." }
            form.row action="/wallet" {
                label { "Address " input name="address" size="64" value=(asked.address) placeholder=(site.context.wallet); }
                button { "Look" }
            }
            @match &own {
                Ok(own) => (looked_at(site, own, &asked)?),
                Err(why) => p.bad role="alert" { (why) },
            }
        })
    })
    .await
}

fn looked_at(site: &Site, own: &Address, asked: &Asked) -> Result<Markup, Unreadable> {
    let head = site.context.chain.head();
    let account = account_view(&head, own);
    let own = account.address;
    let ledger = &head.state.params().ledger;
    let key = key_of(site, &account)?;
    let pending = pending(&head.state, &own);
    Ok(html! {
        div.tiles {
            div.tile { h2 { "Spendable" } div { (say::alc(account.free)) } }
            div.tile { h2 { "Coming in" } div { (say::alc(account.pending)) } }
            div.tile { h2 { "Staked" } div { (say::alc(account.staked)) } }
            div.tile { h2 { "For inference" } div { (say::alc(account.deposit.amount)) } }
        }
        section {
            h2 { "Receive" }
            div.receive {
                img.qr src={ "/qr/" (own) } width="180" height="180" alt={ "QR code of " (own) };
                div {
                    p { code.wrap { (own) } }
                    @if let Some(name) = &account.name { p { "or " b { "@" (name) } } }
                    p { a href={ "/address/" (own) } { "All that happened to it" } }
                }
            }
        }
        @if !pending.is_empty() {
            section {
                h2 { "Pending" }
                ul { @for (id, transfer) in &pending { li {
                    (say::alc(transfer.amount))
                    @if transfer.from == own { " to " (say::address(&transfer.to)) } @else { " from " (say::address(&transfer.from)) }
                    ": " (say::transaction(id))
                } } }
                p.note { "On its page a transfer is taken back, or reported." }
            }
        }
        section {
            h2 { "Send" }
            form method="post" action="/wallet/send" {
                div.row {
                    label { "To " input name="to" size="64" required value=(asked.to) placeholder="address or @name"; }
                    label { "Amount " input name="amount" inputmode="decimal" required value=(asked.amount) placeholder="1.5"; " ALC" }
                    label { "Memo " input name="memo" maxlength=(ledger.memo_bytes) value=(asked.memo); }
                    label { "Key that signs " input name="from" size="64" required value=[key] placeholder="64 digits"; }
                    button { "Make it" }
                }
            }
            p.note { code { "ailo-node wallet address --json" } " shows the key, where the wallet is. It is no secret." }
            p {
                "You get a transaction to sign. The fee is " (say::alc(ledger.fee)) "."
                @if ledger.confirmations > 0 { " It is pending until " (ledger.confirmations) " nodes have confirmed it, and yours to take back until then." }
            }
        }
        section {
            h2 { "Hand in what is signed" }
            (hand_in())
        }
        section {
            h2 { "Dispute" }
            p {
                "Sent to the wrong address? While a transfer is pending, its sender takes it back: on its page, or with " code { "ailo-node wallet dispute ID" }
                ". Once it is confirmed, only the network can undo it: each node of others that held a seat when the transfer came in may report it as a fraud ("
                code { "ailo-node wallet report ID" } ") within " (say::span(ledger.final_ms)) ", and once " (ledger.report_percent)
                " % of those seats have, it is reversed in that block. What is no longer in the recipient’s wallet, stake or deposit it owes, and whatever comes in pays that first. "
                "A report binds " (say::alc(ledger.report_bond)) ", which burn if too few join it."
            }
        }
        section {
            h2 { "Recovery key" }
            p {
                "This wallet has " @if account.recoverable { b { "a recovery key" } "." } @else { b { "no recovery key" } "." }
                " A second key that you keep elsewhere can give the wallet a new signing key if the first is lost or stolen. Set it once, before you need it: "
                code { "ailo-node wallet protect-with-recovery" } "; " code { "ailo-node wallet recover ADDRESS" } " uses it. Whoever has it owns the wallet: keep its 24 words off-line."
            }
        }
    })
}

/// The key that signs for an account, where the ledger has seen it.
fn key_of(site: &Site, account: &AccountView) -> Result<Option<PublicKey>, Unreadable> {
    if account.key.is_some() {
        return Ok(account.key);
    }
    let (chain, own) = (&site.context.chain, account.address);
    let newest = chain.history(&Subject::Wallet(own), None, ENTRIES)?;
    let sent = newest.items.iter().find_map(|item| match &item.event {
        Event::TransferPending { id, from, .. } if *from == own => Some(*id),
        _ => None,
    });
    let sent = sent.map_or(Ok(None), |id| chain.transaction(&id))?;
    Ok(sent.map(|(transaction, _)| transaction.unsigned.signer))
}

/// What a wallet has sent or is to get, and is pending.
fn pending<'a>(state: &'a Ledger, own: &Address) -> Vec<(Hash, &'a Transfer)> {
    let blocks = state.pending_blocks().filter_map(|height| state.inclusion(height));
    let all = blocks.flat_map(|block| &block.transfers).take(LOOKED_AT);
    let all = all.filter_map(|id| state.transfer(id).map(|transfer| (*id, transfer)));
    let owns = |transfer: &Transfer| [transfer.from, transfer.to].contains(own);
    all.filter(|(_, each)| each.status == TransferStatus::Pending && owns(each)).take(ENTRIES).collect()
}

/// What can still be done about a transfer, by whom, and for how long.
pub(super) fn rights(head: &Head, sent: &Transaction) -> Markup {
    let (id, state) = (sent.id(), &head.state);
    let Some(transfer) = state.transfer(&id) else { return html! {} };
    let ledger = &state.params().ledger;
    let left = |ms: u64| transfer.age.saturating_add(ms).saturating_sub(state.age_ms());
    let pending = transfer.status == TransferStatus::Pending;
    let to_dispute = left(ledger.dispute_ms.min(ledger.pending_ms));
    let to_report = left(if pending { ledger.pending_ms } else { ledger.final_ms });
    let sender = state.account(&transfer.from).key.unwrap_or(sent.unsigned.signer);
    html! {
        @if pending && to_dispute > 0 {
            section {
                h2 { "Sent by mistake?" }
                p { "Its sender can take it back until it is confirmed, for " (say::span(to_dispute)) " more at most. The amount comes back, the fee does not." }
                form method="post" action="/wallet/dispute" {
                    input type="hidden" name="transfer" value=(id);
                    input type="hidden" name="from" value=(sender);
                    button { "Take it back" }
                }
            }
        }
        @if to_report > 0 {
            section {
                h2 { "A fraud?" }
                p {
                    "A wallet whose node held a seat when it came in can report it, for " (say::span(to_report)) " more; its sender and its recipient can’t. "
                    "A report binds " (say::alc(ledger.report_bond)) ", which burn if too few join it."
                }
                form.row method="post" action="/wallet/report" {
                    input type="hidden" name="transfer" value=(id);
                    label { "Your wallet’s key " input name="from" size="64" required placeholder="64 digits"; }
                    label { "Your node’s key " input name="node" size="64" required placeholder="64 digits"; }
                    button { "Report as fraud" }
                }
                p.note { code { "ailo-node wallet address --json" } " shows the wallet’s key, " code { "ailo-node keys" } " the node’s. They are no secrets." }
            }
        }
    }
}

/// The form that takes what was signed.
fn hand_in() -> Markup {
    html! {
        p { "A transaction that was signed elsewhere: what is in the file after " code { "tx sign" } " or " code { "tx attach" } ", or its hexadecimal digits." }
        form method="post" action="/wallet/submit" {
            label for="signed" { "Signed transaction" }
            textarea #signed name="transaction" rows="3" required spellcheck="false" {}
            button { "Hand in" }
        }
    }
}

/// A transaction that somebody wants to sign.
struct Wanted {
    from: PublicKey,
    body: Body,
    /// What its file is called.
    file: &'static str,
    /// What does the same in one step, where the key is.
    command: String,
}

fn unmade(why: String) -> Failed {
    Failed(StatusCode::UNPROCESSABLE_ENTITY, Missing("Nothing was made", why))
}

fn wallet_key(text: &str) -> Result<PublicKey, Failed> {
    let no_key = |_| format!("“{text}” is no wallet’s key: `ailo-node wallet address --json` shows it, 64 digits.");
    text.trim().parse().map_err(no_key).map_err(unmade)
}

fn transfer_id(text: &str) -> Result<Hash, Failed> {
    let no_id = |_| format!("“{text}” is no transfer’s id: begin at the page of the transfer.");
    text.trim().parse().map_err(no_id).map_err(unmade)
}

#[derive(Deserialize)]
struct Sending {
    from: String,
    to: String,
    amount: String,
    #[serde(default)]
    memo: String,
}

impl Sending {
    fn wanted(&self, state: &Ledger) -> Result<Wanted, Failed> {
        let (text, memo) = (self.to.trim(), self.memo.trim());
        let to = match text.strip_prefix('@') {
            None => text.parse::<Address>().map_err(|e| unmade(format!("{e}.")))?,
            Some(name) => {
                let name: Username = name.parse().map_err(|e| unmade(format!("{e}.")))?;
                let nobody = || unmade(format!("Nobody has the user name {name}: ask for an address."));
                state.owner(&name).ok_or_else(nobody)?
            }
        };
        let amount: Amount = self.amount.trim().parse().map_err(|e| unmade(format!("{e}.")))?;
        let from = wallet_key(&self.from)?;
        if memo.contains(char::is_control) {
            return Err(unmade("The memo has a character that no one would see: leave it out.".into()));
        }
        let mut command = format!("wallet send {text} {amount}");
        if !memo.is_empty() {
            // A shell takes nothing inside single quotes for its own.
            command += &format!(" --memo='{}'", memo.replace('\'', r"'\''"));
        }
        let body = Body::Transfer { to, amount, memo: memo.into() };
        Ok(Wanted { from, body, file: "payment.json", command })
    }
}

async fn send(State(site): State<Arc<Site>>, Form(sending): Form<Sending>) -> Response {
    let wanted = sending.wanted(&site.context.chain.head().state);
    drafted(site, wanted).await
}

#[derive(Deserialize)]
struct Disputing {
    from: String,
    transfer: String,
}

impl Disputing {
    fn wanted(&self) -> Result<Wanted, Failed> {
        let (from, transfer) = (wallet_key(&self.from)?, transfer_id(&self.transfer)?);
        let command = format!("wallet dispute {transfer}");
        Ok(Wanted { from, body: Body::Dispute { transfer }, file: "dispute.json", command })
    }
}

async fn dispute(State(site): State<Arc<Site>>, Form(disputing): Form<Disputing>) -> Response {
    drafted(site, disputing.wanted()).await
}

#[derive(Deserialize)]
struct Reporting {
    from: String,
    transfer: String,
    node: String,
}

impl Reporting {
    fn wanted(&self) -> Result<Wanted, Failed> {
        let (from, transfer) = (wallet_key(&self.from)?, transfer_id(&self.transfer)?);
        let no_key = |_| unmade(format!("“{}” is no node’s key: `ailo-node keys` shows it, 64 digits.", self.node));
        let node = self.node.trim().parse().map_err(no_key)?;
        let command = format!("wallet report {transfer} --node {node}");
        Ok(Wanted { from, body: Body::Report { transfer, node }, file: "report.json", command })
    }
}

async fn report(State(site): State<Arc<Site>>, Form(reporting): Form<Reporting>) -> Response {
    drafted(site, reporting.wanted()).await
}

/// Answers with what is to be signed, or why there is nothing.
async fn drafted(site: Arc<Site>, wanted: Result<Wanted, Failed>) -> Response {
    match make(&site, wanted).await {
        Ok(main) => site.page("/wallet", "To be signed", false, &main),
        Err(failed) => failed.into_response(),
    }
}

async fn make(site: &Arc<Site>, wanted: Result<Wanted, Failed>) -> Result<Markup, Failed> {
    let Wanted { from, body, file, command } = wanted?;
    let nonce = site.context.clone().next_nonce(KeyParams { key: from }).await?.value.nonce;
    let unsigned = Unsigned { signer: from, nonce, time_ms: now_ms(), body };
    let tried = unsigned.clone();
    let stands = site.clone().work(move |site| Ok(stands(&site.context.chain.head().state, tried))).await?;
    stands.map_err(|reason| unmade(format!("The ledger would refuse it: {reason}.")))?;
    let head = site.context.chain.head();
    let until = unsigned.time_ms.saturating_add(head.state.params().ledger.transaction_ttl_ms);
    let draft = Draft { network: head.state.network(), unsigned, signature: None };
    let text = draft.text();
    let escaped: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    Ok(html! {
        h1 { "To be signed" }
        p.lead.wrap { "It " (words(&draft.unsigned.body)) "." }
        p { "Bring it to where the key is, as a file of this name. Hand it in before " (say::time(until)) ": it is not taken later." }
        p { a download=(file) href={ "data:application/json," (escaped) } { "Save " (file) } }
        label for="draft" { "Unsigned transaction" }
        textarea #draft rows="6" readonly spellcheck="false" { (text) }
        p { "There, see that it does what you want, sign it, and send it; or hand it in below." }
        pre { code { "ailo-node tx show " (file) "\nailo-node tx sign " (file) " --wallet wallet.json\nailo-node tx submit " (file) } }
        section { h2 { "Hand in what is signed" } (hand_in()) }
        section {
            h2 { "In one step" }
            p { "Where the wallet is and a node can be asked, this does the same:" }
            pre { code { "ailo-node " (command) } }
        }
    })
}

/// Whether the ledger would take it now, but for the signature and the wallet's other transactions that wait.
fn stands(state: &Ledger, unsigned: Unsigned) -> Result<(), Rejection> {
    let time_ms = state.time_ms().saturating_add(1);
    let nonce = state.account(&state.account_of(&unsigned.signer)).nonce;
    let unsigned = Unsigned { nonce, time_ms, ..unsigned };
    Executor::trial(state, time_ms)?.apply(&Transaction { unsigned, signature: Signature([0; 64]) })
}

#[derive(Deserialize)]
struct Signed {
    transaction: String,
}

impl Signed {
    /// What was signed: a file of `tx sign`, or hexadecimal digits.
    fn read(&self, network: &Hash) -> Result<Transaction, String> {
        let text = self.transaction.trim();
        if !text.starts_with('{') {
            let digits: String = text.split_whitespace().collect();
            let bytes = hex::decode(&digits)
                .map_err(|_| "This is neither a file of `ailo-node tx sign` nor hexadecimal digits: copy it whole.")?;
            return canonical::decode(&bytes, MAX_TRANSACTION_BYTES)
                .map_err(|_| "These bytes are no signed transaction: copy them whole.".into());
        }
        let draft = Draft::parse(text)
            .map_err(|why| format!("This is no transaction of `ailo-node tx build`: {why}; copy the whole file."))?;
        if draft.network != *network {
            let theirs = draft.network;
            return Err(format!("It is for the network {theirs}, this node is of {network}: make it again here."));
        }
        if draft.signature.is_none() {
            return Err("It is not signed: `ailo-node tx sign` or `tx attach` does that.".into());
        }
        let signer = draft.unsigned.signer;
        draft.signed().ok_or_else(|| format!("Its signature does not hold: sign it again, with the key {signer}."))
    }
}

/// Hands in a signed transaction, as `ailo_submit` does.
async fn submit(State(site): State<Arc<Site>>, Form(signed): Form<Signed>) -> Response {
    let refused = |status, why: String| Missing("It was not taken", why).with(status);
    match signed.read(&site.context.chain.head().state.network()) {
        Err(why) => refused(StatusCode::UNPROCESSABLE_ENTITY, why),
        Ok(transaction) => match site.context.hand_in(transaction).await {
            Ok(id) => Redirect::to(&format!("/tx/{id}")).into_response(),
            Err(failure) if failure.is(Code::Unavailable) => {
                refused(StatusCode::SERVICE_UNAVAILABLE, format!("{}.", failure.why))
            }
            Err(failure) => refused(StatusCode::UNPROCESSABLE_ENTITY, format!("{}.", failure.why)),
        },
    }
}

/// An address as a QR code.
async fn qr(Path(text): Path<String>) -> Response {
    let code = text.parse::<Address>().ok().and_then(|address| QrCode::new(address.to_string().to_uppercase()).ok());
    let Some(code) = code else {
        return Missing("This is no address", "Nothing can be drawn of it.".into()).into_response();
    };
    let picture = code.render::<svg::Color<'_>>().min_dimensions(180, 180).build();
    ([(header::CONTENT_TYPE, "image/svg+xml")], PreEscaped(picture).into_string()).into_response()
}
