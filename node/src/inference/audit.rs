//! Spot checks: a validator asks for texts of its own, by ways drawn by lot, reads each of them again, and accuses who lied. Nobody minds
//! showing such a text. A stage can know who asks, so this finds what is broken, careless or short of memory; who lies to some only is
//! found by those (`check.rs`).

use super::{
    check,
    hub::Hub,
    model::Model,
    session::{Event, Reach, Session},
};
use ailo_proto::Sampling as Wire;
use ailo_protocol::{
    Hash, NodeId,
    hash::{Domain, Stream},
    inference::proof::Signed,
    keys,
};
use ailo_training::{
    Result,
    engine::{Engine, Part},
    sample::{Sampling, sample},
};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Tokens of a prompt, and of a text after it: the least, and how many lengths there are. A stage knows how long a text may become, so short ones
/// are asked for, too.
const PROMPT: (u64, u64) = (8, 64);
const TEXT: (u64, u64) = (8, 248);

/// Asks for a text about `each`, until `stop`.
pub async fn run(
    hub: Arc<Hub>,
    model: watch::Receiver<Option<Arc<Model>>>,
    each: Duration,
    mut stop: watch::Receiver<bool>,
) {
    if hub.pays.is_none() {
        tracing::info!("spot checks go to stages that take nothing: --spend lets this node check the others, too");
    }
    loop {
        let mut draws = Hash(keys::random_bytes()).stream();
        let wait = each.mul_f64(0.5 + draws.below(1 << 20) as f64 / f64::from(1 << 20));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.changed() => return,
        }
        let Some(model) = model.borrow().clone() else { continue };
        let others: Vec<NodeId> = {
            let known = hub.known();
            let serve = known.all().filter(|known| known.model == model.id && known.node != *hub.node());
            serve.map(|known| known.node).collect()
        };
        if others.is_empty() {
            continue;
        }
        // Half of the others, if there is a way through them.
        let (avoid, asked): (HashSet<_>, HashSet<_>) = others.into_iter().partition(|_| draws.below(2) == 0);
        tokio::select! {
            () = audit(&hub, &model, (avoid, asked), draws.next_u64()) => {}
            _ = stop.changed() => return,
        }
    }
}

async fn audit(hub: &Arc<Hub>, model: &Arc<Model>, (mut avoid, asked): (HashSet<NodeId>, HashSet<NodeId>), seed: u64) {
    avoid.insert(*hub.node());
    let mut draws = Hash::of_value(Domain::Lot, &seed).stream();
    let (count, limit) = lengths(&mut draws, model.context());
    let from = model.clone();
    let invented = check::aside(move || {
        let text = invent(from.whole()?, count, seed);
        text.inspect_err(|e| tracing::debug!(error = %e, "no text for a spot check could be made")).ok()
    });
    let tokens = match invented.await.flatten() {
        Some(tokens) => tokens,
        // It does not lie here as a whole: those begin the text that are not asked then, if they can.
        None => {
            let reach = Reach { avoid: asked, ..Reach::default() };
            let first = vec![(seed % model.shape.vocabulary as u64) as u32];
            let sampling =
                Wire { limit: count as u32, temperature: 1.0, top_p: 1.0, seed, prompt: 1, ..Wire::default() };
            written(hub, model, reach, first, sampling).await.0
        }
    };
    let sampling = Wire {
        limit: limit as u32,
        ends: model.ends.clone(),
        temperature: if draws.below(3) == 0 { 0.0 } else { 0.8 },
        top_p: 1.0,
        seed: draws.next_u64(),
        prompt: tokens.len() as u32,
        ..Wire::default()
    };
    let reach = Reach { avoid, ..Reach::default() };
    let (tokens, signed) = written(hub, model, reach, tokens, sampling.clone()).await;
    if signed.is_empty() {
        return;
    }
    let (asked, read) = (hub.clone(), model.clone());
    let found = check::aside(move || check::again(&asked, &read, &tokens, &sampling, &signed)).await.flatten();
    if let (Some(charge), Some(court)) = (found, &hub.court) {
        court.accuse(charge);
    }
}

/// Tokens of a prompt, and of all of its text.
fn lengths(draws: &mut Stream, context: usize) -> (usize, usize) {
    let [prompt, text] = [PROMPT, TEXT].map(|(least, lengths)| (least + draws.below(lengths)) as usize);
    let prompt = prompt.min(context / 2);
    (prompt, (prompt + text).min(context))
}

/// Asks for a text: what was written of it, and what stages signed.
async fn written(
    hub: &Arc<Hub>,
    model: &Arc<Model>,
    reach: Reach,
    tokens: Vec<u32>,
    sampling: Wire,
) -> (Vec<u32>, Vec<Signed>) {
    let mut session = Session::start(hub, model, reach, tokens, sampling);
    while let Some(event) = session.next().await {
        if let Event::Failed(why) = event {
            tracing::debug!(%why, "a spot check came to no end");
        }
    }
    session.evidence()
}

/// A text as the model itself writes it: it looks like any other.
fn invent(engine: &Engine, count: usize, seed: u64) -> Result<Vec<u32>> {
    let vocabulary = engine.shape().vocabulary as u64;
    let (mut cache, sampling) = (engine.cache(count), Sampling { seed, ..Sampling::default() });
    let mut tokens = vec![(seed % vocabulary) as u32];
    while tokens.len() < count {
        let at = tokens.len();
        let row = engine.embed(&tokens[at - 1..], at - 1)?;
        let out = engine.forward(row, &mut [Part { cache: &mut cache, positions: 1 }])?;
        tokens.push(sample(&engine.logits(&out)?, &sampling, &tokens, at).token);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_few_tokens_are_checked_like_longer_ones() {
        let mut draws = Hash::ZERO.stream();
        let drawn: Vec<(usize, usize)> = (0..10_000).map(|_| lengths(&mut draws, 4096)).collect();
        let ends = |of: fn(&(usize, usize)) -> usize| (drawn.iter().map(of).min(), drawn.iter().map(of).max());
        assert_eq!(ends(|(prompt, _)| *prompt), (Some(8), Some(71)));
        assert_eq!(ends(|(prompt, all)| all - prompt), (Some(8), Some(255)));
        // Where the model reads no more, half of it is written.
        assert!((0..100).all(|_| lengths(&mut draws, 16) == (8, 16)));
    }
}
