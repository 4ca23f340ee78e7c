//! The wallet view: receive with a QR code, and the commands that send, dispute and recover. Keys stay where they are: a browser sees none, and
//! what was signed elsewhere can be handed in here.

use super::{Missing, Site, say};
use crate::rpc::holders::account_view;
use ailo_ledger::Transaction;
use ailo_protocol::{Address, Amount, canonical, params::LedgerParams};
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

/// Bytes of a transaction, at most.
const MAX_BYTES: usize = 64 << 10;

pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new().route("/wallet", get(page)).route("/wallet/submit", post(submit)).route("/qr/{address}", get(qr))
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
    let own = match asked.address.trim() {
        "" => Ok(site.context.wallet),
        text => text.parse::<Address>().map_err(|e| format!("“{text}” is no address: {e}.")),
    };
    let main = html! {
        h1 { "Wallet" }
        p { "Look at any wallet here. This page holds no keys and signs nothing: what moves coins is signed by " code { "ailo-node wallet" } ", on a machine that you trust." }
        form.row action="/wallet" {
            label { "Address " input name="address" size="64" value=(asked.address) placeholder=(site.context.wallet); }
            button { "Look" }
        }
        @match &own {
            Ok(own) => (looked_at(&site, own, &asked)),
            Err(why) => p.bad role="alert" { (why) },
        }
    };
    site.page("/wallet", "Wallet", false, &main)
}

fn looked_at(site: &Site, own: &Address, asked: &Asked) -> Markup {
    let head = site.context.chain.head();
    let account = account_view(&head, own);
    let own = account.address;
    let ledger = &head.state.params().ledger;
    html! {
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
        section {
            h2 { "Send" }
            form action="/wallet" {
                @if !asked.address.is_empty() { input type="hidden" name="address" value=(asked.address); }
                div.row {
                    label { "To " input name="to" size="64" required value=(asked.to) placeholder="address or @name"; }
                    label { "Amount " input name="amount" inputmode="decimal" required value=(asked.amount) placeholder="1.5"; " ALC" }
                    label { "Memo " input name="memo" maxlength=(ledger.memo_bytes) value=(asked.memo); }
                    button { "Show the command" }
                }
            }
            @if !asked.to.is_empty() { (command(asked, account.free, ledger)) }
            @if ledger.confirmations > 0 {
                p { "It is pending until " (ledger.confirmations) " nodes have confirmed it, and yours to take back until then." }
            }
        }
        section {
            h2 { "Hand in what is signed" }
            p { "A transaction that was signed elsewhere, as hexadecimal digits:" }
            form method="post" action="/wallet/submit" {
                label for="signed" { "Signed transaction" }
                textarea #signed name="transaction" rows="3" required spellcheck="false" {}
                button { "Hand in" }
            }
        }
        section {
            h2 { "Dispute" }
            p {
                "Sent to the wrong address? While a transfer is pending, its sender takes it back: " code { "ailo-node wallet dispute ID" }
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
    }
}

/// The command that sends what the form asks for, or why that can't be.
fn command(asked: &Asked, free: Amount, ledger: &LedgerParams) -> Markup {
    let (to, memo) = (asked.to.trim(), asked.memo.trim());
    let known = to.strip_prefix('@').is_some_and(|name| name.parse::<ailo_protocol::Username>().is_ok());
    let amount = match asked.amount.trim().parse::<Amount>() {
        Err(e) => return html! { p.bad role="alert" { "“" (asked.amount) "” is no amount: " (e) "." } },
        Ok(amount) => amount,
    };
    if !known && let Err(e) = to.parse::<Address>() {
        return html! { p.bad role="alert" { "“" (to) "” is no address: " (e) "." } };
    }
    // A shell takes nothing inside single quotes for its own.
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    if memo.len() > ledger.memo_bytes as usize {
        return html! { p.bad role="alert" { "The memo has " (memo.len()) " bytes; " (ledger.memo_bytes) " fit." } };
    }
    let memo = if memo.is_empty() { String::new() } else { format!(" --memo={}", quoted(memo)) };
    html! {
        p { "This sends " (say::alc(amount)) " to " b.wrap { (to) } ", out of the wallet file on the machine where it is run (" code { "ailo-node wallet address" } " shows which):" }
        pre { code { "ailo-node wallet send " (to) " " (amount) (memo) } }
        @if amount.0.saturating_add(ledger.fee.0) > free.0 { p.bad { "With the fee of " (say::alc(ledger.fee)) " that is more than this wallet can spend: " (say::alc(free)) "." } }
    }
}

#[derive(Deserialize)]
struct Signed {
    transaction: String,
}

/// Hands in a signed transaction, as `ailo_submit` does.
async fn submit(State(site): State<Arc<Site>>, Form(signed): Form<Signed>) -> Response {
    let refused = |why: String| Missing("It was not taken", why);
    let digits: String = signed.transaction.split_whitespace().collect();
    let bytes = hex::decode(&digits).map_err(|_| refused("These are no hexadecimal digits.".into()));
    let decoded = bytes.and_then(|bytes| {
        canonical::decode::<Transaction>(&bytes, MAX_BYTES)
            .map_err(|_| refused("These bytes are no transaction.".into()))
    });
    match decoded {
        Err(missing) => missing.with(StatusCode::UNPROCESSABLE_ENTITY),
        Ok(transaction) => match site.context.hand_in(transaction).await {
            Ok(id) => Redirect::to(&format!("/tx/{id}")).into_response(),
            Err(failure) => refused(format!("{}.", failure.why)).with(StatusCode::UNPROCESSABLE_ENTITY),
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
