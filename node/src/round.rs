//! `round`: what became of a contribution, and why: its checks, scores, replay and pay.

use crate::{
    cli::RoundArgs,
    client::Client,
    commands::describe,
    error::NodeError,
    holders,
    output::show,
    rpc::types::{PastView, RoundView},
};
use ailo_ledger::{
    state::{Commit, Event, Outcome, Phase, Replay, Round},
    store::Subject,
};
use ailo_protocol::{Amount, NodeId};
use serde::Serialize;
use std::fmt::{self, Write};

/// Events of a node's history that are looked through for what a round was about, when the ledger keeps it no more.
const HISTORY: u32 = 100;

/// Shows a round, or one node's part in it.
pub async fn command(RoundArgs { round, node, client: args, save, .. }: RoundArgs) -> Result<(), NodeError> {
    let client = Client::find(&args)?;
    let node = match (round, node) {
        (None, None) => None,
        (_, node) => Some(holders::node(node, &args)?),
    };
    match (client.round(round).await?.map(|reply| reply.value), node) {
        (Some(view), _) if save.is_some() => crate::replay::save(&save.unwrap_or_default(), &view, &args),
        (Some(view), node) => show(&view, |out| describe_round(out, &view, node)),
        (None, node) => remembered(&client, round.unwrap_or_default(), node).await,
    }
}

fn describe_round(out: &mut String, view: &RoundView, node: Option<NodeId>) -> fmt::Result {
    writeln!(out, "{}", headline(view))?;
    for maker in view.round.participants.iter().filter(|maker| node.is_none_or(|node| node == **maker)) {
        writeln!(out, "{}", part(view, maker))?;
    }
    match node.filter(|node| !view.round.participants.contains(node)) {
        Some(node) => writeln!(out, "node {} took no part in it", node.short()),
        None => Ok(()),
    }
}

fn headline(view: &RoundView) -> String {
    let Round { number, participants, f, protected, class, .. } = &view.round;
    let class =
        class.map_or("no class of machines with 2/3 of the power".into(), |class| format!("class {}", class.short()));
    let stage = match &view.past {
        None => format!("open: {}", view.round.phase),
        Some(past) if past.settled => "settled".into(),
        Some(past) if past.shares.is_none() => "closed, not drawn yet".into(),
        Some(_) => "closed, not settled yet".into(),
    };
    let shield = if *protected { format!("tolerates {f} liars") } else { "UNPROTECTED".into() };
    format!("round {number}: {stage}; {} participants, {shield}; {class}", participants.len())
}

/// A node's part in a round.
fn part(view: &RoundView, maker: &NodeId) -> String {
    let round = &view.round;
    let slot = round.slot(maker).unwrap_or_default();
    let mut lines = vec![format!("node {maker}, slot {slot}")];
    let mut line = |what: &str, text: String| lines.push(format!("  {what:<10} {text}"));
    match round.contributions.get(maker) {
        None if round.phase == Phase::Train => line("commit", "none so far".into()),
        None => line("commit", "none in time: a miss".into()),
        Some(commit) => {
            line("commit", committed(commit));
            if round.phase > Phase::Draw {
                line("checks", checked(round, commit));
                line("losses", losses(round, commit));
                line("score", score(view, maker));
            }
            if let Some(past) = &view.past {
                line("replay", past.replays.get(maker).map_or_else(|| unreplayed(past), replay));
                line("pay", pay(past, maker));
            }
        }
    }
    lines.join("\n")
}

fn committed(commit: &Commit) -> String {
    let made = &commit.contribution;
    format!(
        "{:.1} s after the opening; update {}, payload {} of {} bytes; says that its loss fell from {} to {}",
        commit.after_ms as f64 / 1e3,
        made.update.short(),
        made.payload.short(),
        made.payload_bytes,
        nats(made.loss_first),
        nats(made.loss_last)
    )
}

fn checked(round: &Round, commit: &Commit) -> String {
    let total = round.power.total_power();
    let verdict = match round.is_accepted(commit) {
        true => "accepted",
        false if round.phase == Phase::Verify => "not decided",
        false => "not accepted",
    };
    let like = match commit.suspected {
        0 => String::new(),
        power if round.is_suspect(commit) => {
            format!("; SUSPECTED by {power} of having too much in common with another one: it is drawn")
        }
        power => format!("; suspected by {power} of having too much in common with another one"),
    };
    format!("{verdict}: held and valid say {} of {total} of the power, not so {}{like}", commit.valid, commit.invalid)
}

fn losses(round: &Round, commit: &Commit) -> String {
    let median = |mut losses: Vec<u64>| {
        losses.sort_unstable();
        losses.get(losses.len().saturating_sub(1) / 2).copied()
    };
    let own = median(commit.losses.clone());
    let all = median(round.contributions.values().filter_map(|commit| median(commit.losses.clone())).collect());
    match (own, all) {
        (Some(own), Some(all)) => format!("held-out {}, median of the round {}", nats(own), nats(all)),
        _ => "not measured".into(),
    }
}

fn score(view: &RoundView, maker: &NodeId) -> String {
    let Some(scores) = view.scores.get(maker) else { return "none: the ledger has forgotten the node".into() };
    format!(
        "over rounds up to now: {:.2} % more pay for its losses; on its own data it gains {:.2} of what is usual",
        scores.quality_ppm as f64 / 1e4,
        scores.own_ppm as f64 / 1e6
    )
}

fn replay(replay: &Replay) -> String {
    let names = |nodes: &[NodeId]| nodes.iter().map(|node| node.short()).collect::<Vec<_>>().join(", ");
    let mut text = match (replay.outcome, &replay.replayer) {
        (None, Some(replayer)) => format!("node {} trains it again", replayer.short()),
        (None, None) => "another replayer is to be drawn, or the validators judge".into(),
        (Some(Outcome::Clean), _) => format!("clean, found by {}", names(&replay.earned)),
        (Some(Outcome::Unseen), _) => "drawn, but no replayer reported in time".into(),
        (Some(Outcome::Disowned), _) => "disowned: two replayers got something else".into(),
        (Some(Outcome::Forged), _) => "FORGED: the validators got something else".into(),
        (Some(Outcome::Undecided), _) => "accused, and neither convicted nor cleared".into(),
    };
    if !replay.accusers.is_empty() && replay.outcome != Some(Outcome::Clean) {
        text += &format!("; accused by {}", names(&replay.accusers));
    }
    if !replay.silent.is_empty() {
        text += &format!("; silent: {}", names(&replay.silent));
    }
    text
}

fn unreplayed(past: &PastView) -> String {
    if past.shares.is_some() { "not drawn".into() } else { "the next block draws".into() }
}

fn pay(past: &PastView, maker: &NodeId) -> String {
    let Some(shares) = &past.shares else { return "shared out with the next block".into() };
    let Some(share) = shares.iter().find(|share| share.node == *maker) else { return "none: not accepted".into() };
    let bonus =
        if share.bonus > Amount::ZERO { format!(" and {} for a new best loss", share.bonus) } else { String::new() };
    let reduced = if share.verified { "" } else { ", of which only a part is paid: its work can't be verified" };
    let stage = if past.settled { "settled: `validators NODE` shows what was paid" } else { "promised" };
    format!("{} ALC{bonus} to {}, {stage}{reduced}", share.training, share.wallet)
}

/// What the node's history still says of a round that the ledger keeps no more.
async fn remembered(client: &Client, round: u64, node: Option<NodeId>) -> Result<(), NodeError> {
    let node = node.ok_or_else(|| NodeError::Usage("name a node with --node".into()))?;
    let history = client.history(&Subject::Node(node), HISTORY).await?.value;
    let events: Vec<&Event> =
        history.entries.iter().map(|entry| &entry.event).filter(|e| e.round() == Some(round)).collect();
    show(&Remembered { round, node, events: &events }, |out| {
        let node = node.short();
        if events.is_empty() {
            return writeln!(out, "nothing of round {round} is among the last {HISTORY} events of node {node}");
        }
        writeln!(out, "the ledger keeps round {round} no more; node {node}'s history has, the latest first:")?;
        events.iter().try_for_each(|event| writeln!(out, "  {}", describe(None, event)))
    })
}

#[derive(Serialize)]
struct Remembered<'a> {
    round: u64,
    node: NodeId,
    events: &'a [&'a Event],
}

fn nats(micro: u64) -> String {
    format!("{:.4}", micro as f64 / 1e6)
}
