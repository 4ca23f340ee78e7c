//! A round and its phases as spans of a trace, as the ledger's heads show them.

use crate::logs::spans::{ended, traced};
use ailo_ledger::state::{Phase, State};
use tracing::Span;

/// The round that goes on.
pub(super) struct Traced {
    at: Option<(u64, Phase)>,
    /// Rounds that were closed before it.
    closed: u64,
    round: Span,
    phase: Span,
}

impl Traced {
    /// Nothing was seen yet.
    pub fn new() -> Traced {
        Traced { at: None, closed: 0, round: Span::none(), phase: Span::none() }
    }

    /// What goes on now: what this node does for it is a part of it.
    pub fn phase(&self) -> &Span {
        &self.phase
    }

    /// The ledger has come so far.
    pub fn see(&mut self, state: &State) {
        let (round, closed) = (state.round(), state.model().steps);
        if self.at == Some((round.number, round.phase)) {
            return;
        }
        ended(&self.phase, "over", false);
        if self.at.is_none_or(|(number, _)| number != round.number) {
            ended(&self.round, if closed > self.closed { "closed" } else { "aborted" }, false);
            self.closed = closed;
            self.round = traced!("round", round = round.number as i64);
        }
        self.phase = traced!(
            parent: &self.round, "phase", otel.name = %round.phase, round = round.number as i64,
            participants = round.participants.len() as i64
        );
        self.at = Some((round.number, round.phase));
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        ended(&self.phase, "left", false);
        ended(&self.round, "left", false);
    }
}
