//! Traces for a collector, by OTLP over HTTP: where `--otlp` names one, the spans of [`SPANS`] go there. Without it they are not even made.
//!
//! What has ended waits in a bounded queue, and a task sends it in batches. What finds no room, or what the collector does not take, is
//! counted and dropped: nothing of the node waits for its traces.

use super::spans::SPANS;
use crate::error::NodeError;
use axum::http::Uri;
use opentelemetry::{Context, KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor},
};
use std::{
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    Layer,
    layer::{self, Filter},
    registry::LookupSpan,
};

/// Spans that wait, at most, and those that are sent at once.
const WAITING: usize = 2048;
const BATCH: usize = 512;
/// How often they are sent, and how long a collector may take for each try.
const EVERY: Duration = Duration::from_secs(1);
const TAKES: Duration = Duration::from_secs(5);
/// What is left at the end is sent within this time, or not at all.
const FLUSH_WITHIN: Duration = Duration::from_millis(900);
/// What does not arrive is said, and then not again for so long.
const SAID_FOR: Duration = Duration::from_secs(600);
/// Where a collector takes traces.
const PATH: &str = "/v1/traces";
/// What its address looks like.
const LIKE: &str = "write the address of its OTLP over HTTP like http://127.0.0.1:4318";
const NO_TLS: &str = "the node speaks plain HTTP to collectors: run one beside it that sends on by TLS, and write its address like http://127.0.0.1:4318";

/// What has ended goes here, once there is a collector.
static QUEUE: OnceLock<mpsc::Sender<SpanData>> = OnceLock::new();
/// Spans that did not arrive.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Where a collector takes traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector(String);

/// A text that is no address of a collector.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the address of a collector: {1}")]
pub struct NotACollector(String, &'static str);

impl FromStr for Collector {
    type Err = NotACollector;

    fn from_str(text: &str) -> Result<Collector, NotACollector> {
        let refused = |why| NotACollector(text.into(), why);
        let address: Uri = text.parse().map_err(|_| refused(LIKE))?;
        if address.scheme_str() == Some("https") {
            return Err(refused(NO_TLS));
        }
        let is_plain = address.scheme_str() == Some("http") && address.query().is_none() && !text.contains('#');
        // Of a host and a port, if any, and nothing else.
        let authority = address.authority().filter(|authority| {
            let port = authority.port_u16().map_or_else(String::new, |port| format!(":{port}"));
            !authority.host().is_empty() && authority.as_str() == format!("{}{port}", authority.host())
        });
        let Some(authority) = authority.filter(|_| is_plain) else { return Err(refused(LIKE)) };
        let base = address.path().trim_end_matches('/');
        Ok(Collector(format!("http://{authority}{}{PATH}", base.strip_suffix(PATH).unwrap_or(base))))
    }
}

/// Whether a span is for a collector, and there is one.
struct Asked;

impl Asked {
    fn wants(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == SPANS && QUEUE.get().is_some()
    }
}

impl<S> Filter<S> for Asked {
    fn enabled(&self, metadata: &Metadata<'_>, _: &layer::Context<'_, S>) -> bool {
        Asked::wants(metadata)
    }

    // What is remembered of this costs a span nothing; it is asked again once there is a collector.
    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Asked::wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if QUEUE.get().is_some() { LevelFilter::INFO } else { LevelFilter::OFF })
    }
}

/// Takes what has ended.
#[derive(Debug)]
struct Queue;

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if QUEUE.get().is_none_or(|queue| queue.try_send(span).is_err()) {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The part of the log that spans go to.
pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let provider = SdkTracerProvider::builder().with_span_processor(Queue).build();
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("ailo-node"))
        // Of the program's own parts a span tells nothing.
        .with_location(false)
        .with_threads(false)
        .with_level(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(Asked)
}

/// Spans that were dropped, or that the collector did not take.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// What sends traces, as long as the program runs.
pub struct Traces {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Traces {
    /// From now on spans are made and sent; `node` says by names and values whose they are. Once in a process.
    pub fn start(collector: Collector, node: &[(&'static str, String)]) -> Result<Traces, NodeError> {
        let Collector(address) = collector;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(address.as_str())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TAKES)
            .build();
        let mut exporter = exporter.map_err(|e| NodeError::Usage(format!("--otlp {address}: {e}")))?;
        let node = node.iter().map(|(name, value)| KeyValue::new(*name, value.clone()));
        let resource = Resource::builder_empty()
            .with_service_name("ailo-node")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attributes(node);
        exporter.set_resource(&resource.build());
        let ((queue, spans), (stop, stopped)) = (mpsc::channel(WAITING), oneshot::channel());
        let task = tokio::spawn(export(exporter, spans, stopped));
        if QUEUE.set(queue).is_ok() {
            tracing::callsite::rebuild_interest_cache();
            tracing::info!(collector = address, "traces are sent");
        }
        Ok(Traces { stop, task })
    }

    /// Sends what is left, within its time.
    pub async fn stop(self) {
        let _ = self.stop.send(()); // it has ended by itself
        let abort = self.task.abort_handle();
        if timeout(FLUSH_WITHIN, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// Sends what waits, again and again, until it is told to stop; and once more then.
async fn export(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>, mut stop: oneshot::Receiver<()>) {
    let (mut tick, mut ends) = (interval(EVERY), false);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, mut said) = (0, None);
    while !ends {
        tokio::select! {
            _ = tick.tick() => {}
            _ = &mut stop => ends = true,
        }
        while !spans.is_empty() {
            let mut batch = Vec::with_capacity(BATCH);
            let count = spans.recv_many(&mut batch, BATCH).await;
            let sent = exporter.export(batch).await;
            if sent.is_err() {
                LOST.fetch_add(count as u64, Ordering::Relaxed);
            }
            let lost = lost();
            if lost > told && said.is_none_or(|at: Instant| at.elapsed() >= SAID_FOR) {
                let why = sent.map_or_else(|e| e.to_string(), |()| "they come faster than they are sent".into());
                tracing::warn!(
                    spans = lost - told,
                    why,
                    "traces do not reach the collector: see that it runs, and takes OTLP over HTTP where --otlp says"
                );
                (told, said) = (lost, Some(Instant::now()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::logs::{self, Format, spans::traced};

    #[test]
    fn without_a_collector_no_span_is_made() {
        for (filter, format) in [(logs::DEFAULT, Format::Text), (logs::DEFAULT, Format::Json), ("debug", Format::Text)]
        {
            let log = logs::log(filter, format).unwrap();
            tracing::subscriber::with_default(log, || assert!(traced!("test", number = 1).is_disabled(), "{filter}"));
        }
    }

    #[test]
    fn an_address_of_a_collector_is_plain_http_to_a_host() {
        for (text, address) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
            ("http://collector/otlp/", "http://collector/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse(), Ok(Collector(address.into())));
        }
        for text in [
            "",
            "collector",
            "127.0.0.1:4318",
            "/v1/traces",
            "http://",
            "http://:4318",
            "http://collector:99999",
            "http://user:word@collector",
            "http://collector?key=word",
            "http://collector#key",
            "grpc://collector:4317",
            "http://two words",
        ] {
            let why = text.parse::<Collector>().unwrap_err().to_string();
            assert!(why.contains(&format!("'{text}'")) && why.contains("like http://127.0.0.1:4318"), "{why}");
        }
        let why = "https://collector:4318".parse::<Collector>().unwrap_err().to_string();
        assert!(why.contains("run one beside it"), "{why}");
    }
}
