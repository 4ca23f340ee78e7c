//! A request as a span of a trace: which model, how many tokens, how it ended.

use super::{Kind, Refusal};
use crate::{
    inference::model::Model,
    logs::spans::{ended, traced},
};
use tracing::{Span, field::Empty};

/// A request, until it was answered or whoever asked has gone.
pub(super) struct Traced {
    pub span: Span,
    written: usize,
    outcome: &'static str,
    failed: bool,
}

impl Traced {
    pub fn begin(kind: Kind) -> Traced {
        let path = if kind == Kind::Chat { "/v1/chat/completions" } else { "/v1/completions" };
        let span = traced!(
            "request",
            otel.name = path,
            otel.kind = "server",
            model = Empty,
            stream = Empty,
            texts = Empty,
            tokens_read = Empty,
            tokens_written = Empty
        );
        Traced { span, written: 0, outcome: "gone", failed: false }
    }

    /// It was understood.
    pub fn asks(&self, model: &Model, (texts, read): (u32, usize)) {
        self.span.record("model", model.name.as_str());
        self.span.record("texts", i64::from(texts));
        self.span.record("tokens_read", read as i64);
    }

    /// So many tokens more were written.
    pub fn wrote(&mut self, tokens: usize) {
        self.written += tokens;
    }

    /// All of it was written.
    pub fn finished(&mut self) {
        self.outcome = "finished";
    }

    /// It is not answered, or not to its end.
    pub fn refused(&mut self, why: &Refusal) {
        (self.outcome, self.failed) = (why.code, why.status.is_server_error());
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.span.record("tokens_written", self.written as i64);
        ended(&self.span, self.outcome, self.failed);
    }
}
