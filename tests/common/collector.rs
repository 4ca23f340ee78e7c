//! A collector of traces, which keeps what it is sent.

#![allow(clippy::unwrap_used, missing_docs)]

use super::listener::take;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value},
    trace::v1::Span,
};
use prost::Message;
use std::{
    collections::BTreeMap,
    io::Write,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// It listens until the test ends.
pub struct Collector {
    pub address: SocketAddr,
    taken: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A span, and what it says.
pub struct Shown {
    pub span: Span,
    pub says: BTreeMap<String, String>,
    /// Whose it is.
    pub node: BTreeMap<String, String>,
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &any_value::Value| match value {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::BoolValue(yes) => yes.to_string(),
        other => panic!("a value of another kind: {other:?}"),
    };
    let value = |one: &KeyValue| text(one.value.as_ref().unwrap().value.as_ref().unwrap());
    let all: BTreeMap<String, String> = attributes.iter().map(|one| (one.key.clone(), value(one))).collect();
    assert_eq!(all.len(), attributes.len(), "each is said once: {attributes:?}");
    all
}

impl Collector {
    pub fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = Collector { address: listener.local_addr().unwrap(), taken: Arc::default() };
        let taken = collector.taken.clone();
        std::thread::spawn(move || {
            loop {
                let (body, mut answer) = take(&listener);
                taken.lock().unwrap().push(body);
                let _ = write!(answer, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"); // it may be gone
            }
        });
        collector
    }

    /// All bytes that have come.
    pub fn bytes(&self) -> Vec<u8> {
        self.taken.lock().unwrap().concat()
    }

    /// The spans that have come.
    pub fn spans(&self) -> Vec<Shown> {
        let taken = self.taken.lock().unwrap();
        let of = taken.iter().flat_map(|bytes| ExportTraceServiceRequest::decode(&bytes[..]).unwrap().resource_spans);
        of.flat_map(|of| {
            let node = texts(&of.resource.unwrap().attributes);
            let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.map(move |span| Shown { says: texts(&span.attributes), span, node: node.clone() })
        })
        .collect()
    }

    /// The first span of this name that says so, once it comes.
    pub fn wait(&self, name: &str, says: &[(&str, &str)]) -> Shown {
        let fits = |shown: &Shown| {
            shown.span.name == name
                && says.iter().all(|(key, value)| shown.says.get(*key).is_some_and(|it| it == value))
        };
        let started = Instant::now();
        loop {
            if let Some(found) = self.spans().into_iter().find(fits) {
                return found;
            }
            let all: Vec<_> = self.spans().into_iter().map(|shown| (shown.span.name, shown.says)).collect();
            assert!(started.elapsed() < Duration::from_secs(240), "no {name} with {says:?}: {all:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
