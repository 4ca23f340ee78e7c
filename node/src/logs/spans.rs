//! What takes its time, as spans of `tracing`: requests, texts, calls, rounds, replays. They are for a collector alone ([`super::otlp`]): no
//! log shows them, and where there is no collector none is made. Nothing of what is asked or answered is in them, nor who asks.

use tracing::Span;

/// The target of all of them.
pub const SPANS: &str = "ailo_node::trace";

/// A span with this name and these fields, as `tracing::info_span` takes them; how it ends is told by [`ended`]. Numbers are `i64`, or they
/// arrive as text.
macro_rules! traced {
    (parent: $parent:expr, $name:literal $(, $($fields:tt)+)?) => {
        tracing::info_span!(
            target: $crate::logs::spans::SPANS, parent: $parent, $name, $($($fields)+,)?
            outcome = tracing::field::Empty, otel.status_code = tracing::field::Empty
        )
    };
    ($name:literal $(, $($fields:tt)+)?) => {
        tracing::info_span!(
            target: $crate::logs::spans::SPANS, $name, $($($fields)+,)?
            outcome = tracing::field::Empty, otel.status_code = tracing::field::Empty
        )
    };
}
pub(crate) use traced;

/// Tells how it has ended, now, what a span shows. What belongs to it may keep it a little longer, but its time is over where it was
/// entered last.
pub fn ended(span: &Span, outcome: &str, failed: bool) {
    span.in_scope(|| {
        span.record("outcome", outcome);
        if failed {
            span.record("otel.status_code", "ERROR");
        }
    });
}
