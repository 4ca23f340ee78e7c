//! What is asked of training rounds.

use super::{
    Answer, Context, count,
    errors::{Code, invalid},
    params::*,
    types::*,
};
use ailo_ledger::{
    state::{PastRound, State},
    store::MAX_PAGE,
};
use ailo_protocol::NodeId;

/// Where the open round stands.
pub fn open_round(state: &State) -> RoundChange {
    let (round, model) = (state.round(), state.model());
    RoundChange {
        number: round.number,
        phase: round.phase,
        participants: count(round.participants.len()),
        committed: count(round.contributions.len()),
        deadline_age: round.deadline_age,
        age_ms: state.age_ms(),
        rounds: model.steps,
        model: model.root,
    }
}

fn summary(past: &PastRound) -> RoundSummary {
    let round = &past.round;
    RoundSummary {
        number: round.number,
        participants: count(round.participants.len()),
        accepted: count(round.accepted().len()),
        protected: round.protected,
        class: round.class,
        held_out_loss: round.voted_loss().map(|micro| micro as f64 / 1e6),
        pot: past.pot,
        settled: past.settled,
    }
}

impl Context {
    /// `ailo_rounds`
    pub fn rounds(&self, params: PageParams) -> Answer<RoundsView> {
        let below = params.from().map_err(invalid)?.unwrap_or(u64::MAX);
        let limit = params.limit(MAX_PAGE);
        let head = self.chain.head();
        let state = &head.state;
        let numbers = state.past_rounds().rev().map(|round| round.number).filter(|number| *number < below);
        let mut rounds: Vec<RoundSummary> =
            numbers.filter_map(|number| state.past(number)).take(limit + 1).map(summary).collect();
        let more = rounds.len() > limit;
        rounds.truncate(limit);
        let next = rounds.last().filter(|_| more).map(|last| last.number.to_string());
        Ok(self.at(&head, RoundsView { open: open_round(state), rounds, next }))
    }

    /// `ailo_round`
    pub fn round(&self, RoundParams { number }: RoundParams) -> Answer<RoundView> {
        let head = self.chain.head();
        let (state, open) = (&head.state, head.state.round());
        let (round, past) = match number.filter(|number| *number != open.number) {
            None => (open, None),
            Some(number) => {
                let gone = || {
                    Code::NotFound.says(format!(
                        "the ledger does not keep round {number}: it keeps the open one and the last closed ones; older ones are in the histories of nodes"
                    ))
                };
                let past = state.past(number).ok_or_else(gone)?;
                let view = PastView {
                    closed_age: past.closed_age,
                    pot: past.pot,
                    bonus: past.bonus,
                    shares: past.shares.clone(),
                    replay_share: past.replay_share,
                    settled: past.settled,
                    replays: state.replays_of(number).map(|(maker, replay)| (maker, replay.clone())).collect(),
                };
                (&past.round, Some(view))
            }
        };
        let score = |id: &NodeId| {
            let node = state.node(id)?;
            Some((*id, Scores { quality_ppm: node.score_ppm, own_ppm: node.own_ppm }))
        };
        let scores = round.participants.iter().filter_map(score).collect();
        let root = past.as_ref().and_then(|_| round.voted_root());
        Ok(self.at(&head, RoundView { round: round.clone(), root, past, scores }))
    }
}
