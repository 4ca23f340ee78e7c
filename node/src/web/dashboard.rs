//! The dashboard: what this node is, what it does right now, what it has earned, and whom it is connected to.

use super::{
    Site,
    charts::{self, Over},
    explorer, say,
    table::{summed, table},
};
use crate::{
    earned::{DAY_MS, HOUR_MS},
    rpc::{
        params::{EarningsParams, NoParams},
        types::{At, EarnedView, EarningView, EarningsView, Status},
    },
    sensors::Sensors,
    series::Sample,
};
use ailo_protocol::{Amount, NodeId};
use axum::{extract::State, response::Response};
use maud::{Markup, html};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Hours, and days, in a table of earnings at most.
const LISTED: usize = 24;

pub(super) async fn page(State(site): State<Arc<Site>>) -> Response {
    site.page("/", "Dashboard", true, &main(&site))
}

fn main(site: &Site) -> Markup {
    let at = site.context.status();
    let status = &at.value;
    let samples = site.context.series.all();
    let seen = |value: fn(&Sample) -> f64| -> Vec<(f64, f64)> {
        samples.iter().map(|sample| (sample.time_ms as f64, value(sample))).collect()
    };
    let losses: Vec<(f64, f64)> =
        samples.iter().filter(|s| s.loss > 0).map(|s| (s.rounds as f64, s.loss as f64 / 1e6)).collect();
    html! {
        h1 { "Dashboard" }
        @if !status.notes.is_empty() {
            ul.notes { @for note in &status.notes { li { (note) } } }
        }
        div.tiles {
            (tile("Role", role(status)))
            (tile("Ledger", html! { "height " (say::block(at.height)) br; small { (say::time(status.block_time_ms)) (sync(status)) } }))
            (tile("Peers", html! { (status.peers) br; small { (status.reachability.note) } }))
            (tile("Wallet", html! {
                (say::alc(status.account.free)) br;
                small { (say::address(&status.wallet)) @if status.account.staked > Amount::ZERO { ", " (say::alc(status.account.staked)) " staked" } }
            }))
            @if let Some(machine) = machine(&site.context.sensors.borrow()) { (tile("Machine", machine)) }
        }
        section {
            h2 { "Training" }
            (round(status))
            div.charts {
                (charts::line("Held-out loss", Over::Rounds, &losses, |loss| format!("{loss:.4}")))
                (charts::line("Tokens a second, this node", Over::Time, &seen(|s| f64::from(s.speed)), |speed| format!("{speed:.0}")))
                (charts::line("Peers", Over::Time, &seen(|s| f64::from(s.peers)), |peers| format!("{peers:.0}")))
            }
        }
        section {
            h2 { "Earnings of this node" }
            (earnings(site, &seen(|s| s.owned as f64 / 1e8)))
        }
        section {
            h2 { "The network around this node" }
            (map(site))
        }
        section {
            h2 { "Who answers prompts" }
            (stages(site))
        }
    }
}

pub(super) fn tile(name: &str, value: Markup) -> Markup {
    html! {
        div.tile {
            h2 { (name) }
            div { (value) }
        }
    }
}

/// How warm the machine is and what it draws, as far as it tells.
pub(super) fn machine(sensors: &Sensors) -> Option<Markup> {
    let one = |name: &str, celsius: Option<f64>, watts: Option<f64>| {
        let values = [celsius.map(|value| format!("{value:.0} °C")), watts.map(|value| format!("{value:.0} W"))];
        let values: Vec<String> = values.into_iter().flatten().collect();
        (!values.is_empty()).then(|| format!("{name} {}", values.join(", ")))
    };
    let cpu = one("processor", sensors.cpu_celsius, sensors.cpu_watts);
    let cards = sensors.gpus.iter().filter_map(|card| one(&card.name, card.celsius, card.watts));
    let all: Vec<String> = cpu.into_iter().chain(cards).collect();
    (!all.is_empty()).then(|| html! { @for one in &all { (one) br; } })
}

fn role(status: &Status) -> Markup {
    html! {
        @if status.training { "Trains" } @else { "Answers only" }
        @if status.validating { ", validates" }
        br;
        small { "node " (say::node(&status.node)) }
    }
}

/// Whether the ledger is as far as peers tell.
fn sync(status: &Status) -> Markup {
    html! {
        @match status.sync.behind {
            None => {}
            Some(0) => { br; "in step" }
            Some(behind) => { br; (say::number(behind)) " behind" }
        }
    }
}

/// The open round and how far this node is in it.
fn round(status: &Status) -> Markup {
    let round = &status.round;
    html! {
        p {
            (say::round(round.number)) ": " b { (round.phase) } ", "
            (round.participants) " take part, " (round.committed) " have handed in"
            @if round.unprotected { ", " strong.bad { "UNPROTECTED" } }
        }
        @if round.step > 0 {
            p {
                progress value=(round.step) max=(round.steps) aria-label="Steps of this round" {}
                " " (round.step) " of " (round.steps) " steps"
                @if let Some(loss) = round.loss { ", training loss " (format!("{loss:.4}")) }
                ", " (format!("{:.0}", round.tokens_per_s)) " tokens a second"
            }
        }
        p {
            "The model has " (say::number(status.model.parameters)) " parameters and " (say::number(status.model.rounds)) @if status.model.rounds == 1 { " round" } @else { " rounds" } " behind it"
            @if let Some(loss) = status.model.held_out_loss { "; held-out loss " b { (format!("{loss:.4}")) } }
            "."
        }
    }
}

/// What this node was paid, by kind: in the last hour and day, by the hour and by the day; and what its wallet had meanwhile.
fn earnings(site: &Site, owned: &[(f64, f64)]) -> Markup {
    let Ok(At { value: earned, .. }) = site.context.earnings(EarningsParams::default()) else {
        return html! { p.none { "They can't be read now." } };
    };
    // The sums may be younger than a column: what it covers is said.
    let covers = |span: u64, name: &str| match earned.whole || earned.covers_ms >= span {
        true => name.to_string(),
        false => format!("Last {}", say::span(earned.covers_ms)),
    };
    let sums = |earning: &EarningView| [earning.hour, earning.day, earning.all];
    let all = earned
        .kinds
        .iter()
        .map(sums)
        .fold([Amount::ZERO; 3], |all, sums| std::array::from_fn(|i| Amount(all[i].0.saturating_add(sums[i].0))));
    let row = |name: &str, [hour, day, ever]: [Amount; 3]| {
        [html! { (name) }, html! { (hour) }, html! { (day) }, html! { (ever) }]
    };
    let columns = [("Last hour", HOUR_MS), ("Last day", DAY_MS), ("Ever", u64::MAX)];
    let [hour, day, ever] = columns.map(|(name, span)| format!("#{}", covers(span, name)));
    let rows = earned.kinds.iter().map(|earning| row(say::reward(earning.kind), sums(earning)));
    html! {
        @if earned.kinds.is_empty() { p.none { "Nothing yet: pay comes when a round is settled." } }
        @else {
            (summed("Earnings", &["*For", &hour, &day, &ever], rows, Some(row("All", all))))
        }
        p.note {
            "Counted since " @if earned.whole { "the network’s beginning" } @else { (say::time(earned.since_ms)) } ". "
            "Nothing is paid for data as such: who trains on it is paid for training."
        }
        div.charts {
            (charts::line("Earned by the hour, ALC", Over::Time, &spans(&earned, &earned.hours, HOUR_MS), charts::coins))
            (charts::line("Earned by the day, ALC", Over::Time, &spans(&earned, &earned.days, DAY_MS), charts::coins))
            (charts::line("Wallet, ALC", Over::Time, owned, charts::coins))
        }
        (by("By the hour", &earned, &earned.hours))
        (by("By the day", &earned, &earned.days))
    }
}

/// All that was paid in an hour or a day.
fn sum(span: &EarnedView) -> Amount {
    Amount(span.kinds.iter().fold(0, |sum, paid| paid.amount.0.saturating_add(sum)))
}

/// The points of a chart of hours or days from the first one with pay, also of those without.
fn spans(earned: &EarningsView, paid: &[EarnedView], span: u64) -> Vec<(f64, f64)> {
    let sums: BTreeMap<u64, Amount> = paid.iter().map(|one| (one.from_ms, sum(one))).collect();
    let Some(first) = sums.keys().next().copied() else { return Vec::new() };
    // So many are kept, and none begins after the newest block.
    let count = earned.since_ms.saturating_add(earned.covers_ms).saturating_sub(first) / span;
    let starts = (0..=count).map(|i| first + i * span);
    starts.map(|start| (start as f64, sums.get(&start).map_or(0.0, |sum| sum.0 as f64 / 1e8))).collect()
}

/// The latest hours or days with what was paid in them, by kind.
fn by(name: &str, earned: &EarningsView, paid: &[EarnedView]) -> Markup {
    let kinds: Vec<String> = earned.kinds.iter().map(|earning| format!("#{}", say::reward(earning.kind))).collect();
    let columns: Vec<&str> = ["*From"].into_iter().chain(kinds.iter().map(String::as_str)).chain(["#All"]).collect();
    let rows = paid.iter().rev().take(LISTED).map(|one| {
        let kind = |earning: &EarningView| one.kinds.iter().find(|paid| paid.kind == earning.kind);
        let kinds = earned.kinds.iter().map(|earning| html! { @if let Some(paid) = kind(earning) { (paid.amount) } });
        [say::time(one.from_ms)].into_iter().chain(kinds).chain([html! { (sum(one)) }]).collect::<Vec<_>>()
    });
    html! {
        @if !paid.is_empty() {
            details {
                summary { (name) ", in ALC" }
                (table(&format!("Earnings {}", name.to_lowercase()), &columns, rows))
            }
        }
    }
}

/// This node, its peers (the farther the slower) and theirs as a graph.
fn map(site: &Site) -> Markup {
    const SIZE: f64 = 360.0;
    const BEYOND: usize = 64;
    let peers = site.context.peers(NoParams {}).map(|at| at.value.peers).unwrap_or_default();
    let slowest = peers.iter().filter_map(|peer| peer.rtt_ms).fold(0.1, f64::max);
    let place = |i: usize, rtt: Option<f64>| {
        let angle = std::f64::consts::TAU * i as f64 / peers.len().max(1) as f64;
        let far = rtt.map_or(1.0, |rtt| (rtt / slowest).sqrt());
        let radius = 50.0 + far * (SIZE / 2.0 - 90.0);
        (SIZE / 2.0 + radius * angle.cos(), SIZE / 2.0 + radius * angle.sin())
    };
    let middle = SIZE / 2.0;
    let mut places: BTreeMap<NodeId, (f64, f64)> =
        peers.iter().enumerate().map(|(i, peer)| (peer.node, place(i, peer.rtt_ms))).collect();
    // Who is no peer of this node stands at the rim, beside a peer that named it.
    let mut beyond: Vec<(NodeId, (f64, f64))> = Vec::new();
    for (i, peer) in peers.iter().enumerate() {
        let new = peer.peers.iter().filter(|node| !places.contains_key(node)).copied().collect::<Vec<_>>();
        for (j, node) in new.into_iter().take(BEYOND - beyond.len().min(BEYOND)).enumerate() {
            let turn = (j as f64 + 1.0) / (peer.peers.len() as f64 + 1.0) - 0.5;
            let angle = std::f64::consts::TAU * (i as f64 + turn) / peers.len() as f64;
            let at = (middle + (middle - 12.0) * angle.cos(), middle + (middle - 12.0) * angle.sin());
            places.insert(node, at);
            beyond.push((node, at));
        }
    }
    let links: BTreeSet<(NodeId, NodeId)> = peers
        .iter()
        .flat_map(|peer| peer.peers.iter().map(|other| (peer.node.min(*other), peer.node.max(*other))))
        .filter(|(one, other)| places.contains_key(one) && places.contains_key(other))
        .collect();
    html! {
        @if peers.is_empty() { p.none { "No peers: this node is alone." } }
        @else {
            div.graph {
                svg viewBox={ "0 0 " (SIZE) " " (SIZE) } role="img" aria-label={ "This node, its " (peers.len()) " peers, who answers slower farther out, and " (beyond.len()) " more nodes that these are connected to" } {
                    @for (one, other) in &links {
                        @let ((x1, y1), (x2, y2)) = (places[one], places[other]);
                        line.link x1=(format!("{x1:.1}")) y1=(format!("{y1:.1}")) x2=(format!("{x2:.1}")) y2=(format!("{y2:.1}")) {}
                    }
                    @for (node, (x, y)) in &beyond {
                        circle.beyond cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="4" { title { (node.short()) } }
                    }
                    @for (i, peer) in peers.iter().enumerate() {
                        @let (x, y) = place(i, peer.rtt_ms);
                        line.edge x1=(middle) y1=(middle) x2=(format!("{x:.1}")) y2=(format!("{y:.1}")) {}
                        circle.peer cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="7" { title { (peer.node.short()) } }
                    }
                    circle.self cx=(middle) cy=(middle) r="11" { title { "this node" } }
                }
                (table("Peers", &["Peer", "Address", "#Round trip", "#Its peers"], peers.iter().map(|peer| [
                    say::node(&peer.node),
                    html! { code { (peer.address) } },
                    html! { @if let Some(rtt) = peer.rtt_ms { (format!("{rtt:.1} ms")) } @else { "not measured" } },
                    html! { (peer.peers.len()) },
                ])))
            }
        }
    }
}

/// Who serves which layers of what model.
fn stages(site: &Site) -> Markup {
    let known = site.context.serving();
    html! {
        @if known.is_empty() { p.none { "Nobody has said that it does." } }
        @else {
            (table("Stages", &["Node", "Model", "Layers", "#Price of a unit"], known.iter().map(|one| [
                html! { (say::node(&one.node)) @if one.node == site.context.node { " (this node)" } },
                html! { (one.name) },
                html! { (one.first) " to " (one.end - 1) " of " (one.total) },
                html! { @if one.price == Amount::ZERO { "free" } @else { (say::alc(one.price)) } },
            ])))
        }
        (explorer::prompt_note())
    }
}
