//! The operator's page: whether the node trains and with which power, what its sensors say, and its log. Whoever has the operator's token may see and
//! change it: it is typed once, and kept by the browser in a cookie that scripts can't read, for these pages alone, until the node stops.

use super::{Missing, Site, dashboard, say, table::table};
use crate::{
    logs::{self, Level, Record},
    operator::{Controls, FILE, POWER},
};
use axum::{
    Form, Router,
    extract::{Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use maud::{Markup, html};
use serde::Deserialize;
use std::{fmt::Write, sync::Arc};

/// The cookie, and where a browser sends it.
const COOKIE: &str = "ailo-operator";
const PLACE: &str = "/operator";
/// Lines of the log on a page, at most.
const LINES: usize = 500;
/// Characters of what is looked for in the log, at most.
const MAX_QUERY: usize = 200;
/// Levels that can be chosen, the gravest last.
const LEVELS: [Level; 5] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];

pub(super) fn routes(site: &Arc<Site>) -> Router<Arc<Site>> {
    let inside = Router::new()
        .route(PLACE, get(page))
        .route("/operator/training", post(training))
        .route("/operator/power", post(power))
        .route("/operator/log.txt", get(export))
        .route("/operator/leave", post(leave))
        .layer(middleware::from_fn_with_state(site.clone(), operators_alone));
    Router::new().route("/operator/enter", post(enter)).merge(inside)
}

/// The token that comes with a request.
fn token(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// Whether a form was sent from a page of this node: a browser says from where.
fn is_ours(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, from)| from == host),
        _ => false,
    }
}

/// Lets who has the token in, and asks everybody else for it.
async fn operators_alone(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    if !token(request.headers()).is_some_and(|token| site.context.operator.knows(token)) {
        return match request.method().is_safe() {
            true => site.page(PLACE, "Operator", false, &door(&site, None)),
            false => {
                Missing("It was not done", "Enter with the operator's token first.".into()).with(StatusCode::FORBIDDEN)
            }
        };
    }
    if !request.method().is_safe() && !is_ours(request.headers()) {
        let why = "This was not sent from a page of this node.".into();
        return Missing("It was not done", why).with(StatusCode::FORBIDDEN);
    }
    next.run(request).await
}

/// The form that asks for the token.
fn door(site: &Site, wrong: Option<&str>) -> Markup {
    html! {
        h1 { "Operator" }
        p { "Training, its power and the log are for who operates this node: who can read the file " code { (site.context.operator.path().display()) } "." }
        @if let Some(wrong) = wrong { p.bad role="alert" { (wrong) } }
        form.row method="post" action="/operator/enter" {
            label { "Token " input name="token" type="password" size="64" autocomplete="off" required; }
            button { "Enter" }
        }
        p.note { "The node writes a new token into " code { (FILE) } " at each start." }
    }
}

#[derive(Deserialize)]
struct Entering {
    token: String,
}

async fn enter(State(site): State<Arc<Site>>, Form(Entering { token }): Form<Entering>) -> Response {
    let token = token.trim();
    if !site.context.operator.knows(token) {
        let wrong = "This is not the token: it is another one after each start.";
        return (StatusCode::FORBIDDEN, site.page(PLACE, "Operator", false, &door(&site, Some(wrong)))).into_response();
    }
    let cookie = format!("{COOKIE}={token}; Path={PLACE}; HttpOnly; SameSite=Strict");
    ([(header::SET_COOKIE, cookie)], Redirect::to(PLACE)).into_response()
}

async fn leave() -> Response {
    let cookie = format!("{COOKIE}=; Path={PLACE}; HttpOnly; SameSite=Strict; Max-Age=0");
    ([(header::SET_COOKIE, cookie)], Redirect::to(PLACE)).into_response()
}

#[derive(Deserialize)]
struct Training {
    on: bool,
}

async fn training(State(site): State<Arc<Site>>, Form(Training { on }): Form<Training>) -> Redirect {
    site.context.operator.set_training(on);
    Redirect::to(PLACE)
}

#[derive(Deserialize)]
struct Power {
    percent: u8,
}

async fn power(State(site): State<Arc<Site>>, Form(Power { percent }): Form<Power>) -> Response {
    match site.context.operator.set_power(percent) {
        Ok(()) => Redirect::to(PLACE).into_response(),
        Err(e) => Missing("It was not done", format!("{e}.")).with(StatusCode::UNPROCESSABLE_ENTITY),
    }
}

/// Which lines of the log are wanted.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    level: String,
    #[serde(default)]
    q: String,
}

impl Wanted {
    fn level(&self) -> Level {
        LEVELS.into_iter().find(|level| level.name() == self.level).unwrap_or(Level::Info)
    }

    /// The newest lines that are wanted, the newest first.
    fn lines(&self) -> Vec<Arc<Record>> {
        let (level, text) = (self.level(), self.q.trim().chars().take(MAX_QUERY).collect::<String>().to_lowercase());
        let wanted = |record: &Arc<Record>| {
            record.level >= level && (text.is_empty() || record.to_string().to_lowercase().contains(&text))
        };
        logs::newest().into_iter().rev().filter(wanted).collect()
    }
}

async fn page(State(site): State<Arc<Site>>, Query(wanted): Query<Wanted>) -> Response {
    let Controls { training, power } = site.context.operator.controls();
    let main = html! {
        h1 { "Operator" }
        @if let Some(machine) = dashboard::machine(&site.context.sensors.borrow()) { div.tiles { (dashboard::tile("Machine", machine)) } }
        section {
            h2 { "Training" }
            form.row method="post" action="/operator/training" {
                input type="hidden" name="on" value=(!training);
                p { "This node " b { @if training { "trains" } @else { "does not train" } } "." }
                button { @if training { "Stop training" } @else { "Start training" } }
            }
            form.row method="post" action="/operator/power" {
                label { "Power: share of the time that training may compute "
                    input name="percent" type="range" min=(POWER.start()) max=(POWER.end()) step="5" value=(power) data-shown="power";
                }
                output #power { (power) " %" }
                button { "Set power" }
            }
            p.note { "Both hold until the node stops; its settings are what it starts with. Who stops amid a round hands in what was begun." }
        }
        section {
            h2 { "Log" }
            form.row action=(PLACE) {
                label { "From level " select name="level" {
                    @for level in LEVELS { option value=(level.name()) selected[level == wanted.level()] { (level.name()) } }
                } }
                label { "With the text " input name="q" type="search" value=(wanted.q); }
                button { "Show" }
            }
            (log(&wanted))
        }
        form method="post" action="/operator/leave" { button { "Leave" } }
    };
    site.page(PLACE, "Operator", true, &main)
}

fn log(wanted: &Wanted) -> Markup {
    let lines = wanted.lines();
    let query = format!("level={}&q={}", wanted.level().name(), encoded(&wanted.q));
    html! {
        @if lines.is_empty() { p.none { "No line of the newest " (logs::REMEMBERED) " is like this." } }
        @else {
            div.log { (table("Log", &["Time", "Level", "From", "What"], lines.iter().take(LINES).map(|line| [
                html! { time datetime=(line.time) { (line.time) } },
                html! { span.bad[line.level >= Level::Warn] { (line.level.name()) } },
                html! { (line.target) },
                html! { (line.message) @for (name, value) in &line.fields { " " code { (name) "=" (value) } } },
            ]))) }
            p { a href={ "/operator/log.txt?" (query) } download="ailo-node.log" { "All " (say::number(lines.len() as u64)) " lines as a file" } }
        }
        p.note { "The newest " (logs::REMEMBERED) " lines are here; more are in the data folder: " code { "ailo-node logs" } "." }
    }
}

/// Text in an address.
fn encoded(text: &str) -> String {
    text.bytes().take(MAX_QUERY).fold(String::new(), |mut all, byte| {
        let _ = match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => write!(all, "{}", byte as char),
            _ => write!(all, "%{byte:02X}"),
        }; // writing to memory
        all
    })
}

/// The wanted lines as text, the oldest first.
async fn export(Query(wanted): Query<Wanted>) -> Response {
    let text = wanted.lines().iter().rev().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{line}"); // writing to memory
        all
    });
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
