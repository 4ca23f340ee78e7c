//! A request under way: what was asked for, and what was answered so far. What could not go on is taken up again from here, and nothing of
//! it is lost or said twice: tokens are a function of the text, the seed and the position.

use super::{
    Piece,
    reply::{Answer, Kind},
    request::Plan,
    spending::Spending,
    writing::Writing,
};
use crate::inference::model::Model;
use ailo_proto::{Finish, Sampling};
use ailo_protocol::Hash;
use std::sync::Arc;

/// A request under way.
pub(super) struct Order {
    pub kind: Kind,
    /// The model that its tokens are of.
    pub model: Hash,
    pub plan: Plan,
    pub answer: Answer,
    pub spending: Arc<Spending>,
}

/// One of its texts that has not ended.
pub(super) struct Text {
    pub choice: u32,
    pub prompt: Arc<[u32]>,
    /// What was written of it.
    pub written: Vec<u32>,
    pub sampling: Sampling,
}

impl Text {
    /// Why it has ended, if its tokens say so.
    pub fn finish(&self) -> Option<Finish> {
        let Text { prompt, written, sampling, .. } = self;
        let stops = written.last().is_some_and(|token| sampling.ends.contains(token));
        let full = prompt.len() + written.len() >= sampling.limit as usize;
        if stops { Some(Finish::Stop) } else { full.then_some(Finish::Length) }
    }
}

impl Order {
    /// Nothing was answered yet.
    pub fn new(kind: Kind, model: Hash, plan: Plan, spending: Arc<Spending>) -> Order {
        let answer = Answer::new(kind, &plan, spending.clone());
        Order { kind, model, plan, answer, spending }
    }

    /// Its texts that have not ended, in a model with this context.
    pub fn texts(&self, context: usize) -> impl Iterator<Item = Text> {
        let each = self.plan.prompts.iter().flat_map(move |prompt| (0..self.plan.choices).map(move |i| (prompt, i)));
        let open = each.enumerate().filter(|(choice, _)| !self.answer.has_ended(*choice));
        open.map(move |(choice, (prompt, i))| Text {
            choice: choice as u32,
            prompt: prompt.clone(),
            written: self.answer.written(choice).to_vec(),
            sampling: self.plan.sampling(prompt, i, context),
        })
    }

    /// How many these are, and the tokens that they may still take.
    pub fn left(&self, context: usize) -> (u32, u64) {
        self.texts(context).fold((0, 0), |(texts, tokens), text| {
            let room = (text.sampling.limit as usize).saturating_sub(text.prompt.len() + text.written.len());
            (texts + 1, tokens + room as u64)
        })
    }

    /// Its texts go no further: what was held back of them is a part of the answer.
    pub fn give_out(&mut self, model: &Model) {
        for text in self.texts(model.context()).collect::<Vec<_>>() {
            let (rest, stopped) = Writing::after(model, &text, &self.plan.stops).finish();
            let (choice, finish) = (text.choice, stopped.then_some(Finish::Stop));
            self.answer.take(Piece { choice, text: rest, tokens: Vec::new(), finish, stages: Vec::new() });
        }
    }

    /// Tokens of its prompts.
    pub fn read(&self) -> usize {
        self.plan.prompts.iter().map(|prompt| prompt.len()).sum()
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let stops: usize = self.plan.stops.iter().map(String::len).sum();
        let begins: usize = self.plan.begins.iter().map(String::len).sum();
        4 * self.read() + stops + begins + 16 * self.plan.sampling.biases.len() + self.answer.bytes()
    }
}
