//! The node's log: on standard error as text or JSON, in files of the data folder, and the newest lines in memory, for the page.
//!
//! A line is a [`Record`] wherever it goes: made once, with bounds, whatever was logged. Standard error gets what `--log` asks for; files and
//! memory get that, too, or what is worth knowing afterwards where nobody asked for anything.

pub mod command;
pub mod files;
pub mod otlp;
pub mod spans;

use crate::{error::NodeError, output};
use clap::ValueEnum;
use files::Files;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    io::Write as _,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use time::OffsetDateTime;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::Directive,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// What standard error gets, unless told otherwise. libp2p warns of what is normal in a small network: messages said twice, nobody known yet.
pub const DEFAULT: &str = "warn,ailo_node::progress=info,libp2p_gossipsub=error,libp2p_kad=error";
/// What files and memory get then.
const KEPT: &str = "info,libp2p_gossipsub=error,libp2p_kad=error";
/// Records in memory, at most.
pub const REMEMBERED: usize = 2000;
/// Characters of a message, and of all fields of a record together, at most.
const MAX_MESSAGE: usize = 2048;
const MAX_FIELDS: usize = 2048;

/// How standard error is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line, for programs.
    Json,
}

/// How grave a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every step.
    Trace,
    /// For who looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// What is not as it should be.
    Warn,
    /// What failed.
    Error,
}

/// All of them, in their order.
const LEVELS: [Level; 5] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];

impl Level {
    /// Its name, as `--level` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

impl From<tracing::Level> for Level {
    fn from(level: tracing::Level) -> Level {
        match level {
            tracing::Level::TRACE => Level::Trace,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::INFO => Level::Info,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::ERROR => Level::Error,
        }
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, in UTC: `2026-05-01T12:00:00.000Z`. Later ones sort behind.
    pub time: String,
    /// How grave.
    pub level: Level,
    /// The part of the program that says it.
    pub target: String,
    /// What it says.
    pub message: String,
    /// What belongs to it, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

impl Record {
    fn of(event: &Event<'_>, now: SystemTime) -> Record {
        let metadata = event.metadata();
        let mut record = Record {
            time: timestamp(now),
            level: (*metadata.level()).into(),
            target: metadata.target().into(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut Fields { record: &mut record, left: MAX_FIELDS });
        record
    }

    /// As a line of JSON.
    fn json(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default(); // texts alone: it can't fail
        line.push(b'\n');
        line
    }
}

impl fmt::Display for Record {
    /// As a person reads it. What others said may lie in it: nothing that steers a terminal comes out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:>5} {}: {}", self.time, self.level.name(), self.target, printable(&self.message))?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {name}={}", printable(value)))
    }
}

/// What others said, without what would steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes the fields of an event into a record, within its bounds.
struct Fields<'a> {
    record: &'a mut Record,
    left: usize,
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let mut text = Cut { text: &mut self.record.message, left: MAX_MESSAGE };
            let _ = write!(text, "{value:?}"); // an error is the bound
            return;
        }
        let mut text = String::new();
        let _ = write!(Cut { text: &mut text, left: self.left }, "{value:?}");
        self.left = self.left.saturating_sub(text.len());
        self.record.fields.push((field.name().into(), text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Takes text until it is full.
struct Cut<'a> {
    text: &'a mut String,
    left: usize,
}

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let whole = |end: &usize| more.is_char_boundary(*end);
        let end = (0..=self.left.min(more.len())).rev().find(whole).unwrap_or(0);
        self.text.push_str(&more[..end]);
        self.left -= end;
        if end < more.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

pub(crate) fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!("{}T{:02}:{:02}:{:02}.{:03}Z", at.date(), at.hour(), at.minute(), at.second(), since.subsec_millis())
}

/// Where records go beside standard error.
struct Kept {
    newest: Mutex<VecDeque<Arc<Record>>>,
    files: Mutex<Option<Files>>,
    /// Records since the start, by level.
    counts: [AtomicU64; LEVELS.len()],
}

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn take(&self, record: Record) {
        let record = Arc::new(record);
        self.counts[record.level as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(files) = locked(&self.files).as_mut() {
            files.write(&record.json());
        }
        let mut newest = locked(&self.newest);
        if newest.len() >= REMEMBERED {
            newest.pop_front();
        }
        newest.push_back(record);
    }
}

/// The log is the process's: whatever library says something says it here.
fn kept() -> &'static Kept {
    static KEPT: OnceLock<Kept> = OnceLock::new();
    KEPT.get_or_init(|| Kept { newest: Mutex::default(), files: Mutex::default(), counts: Default::default() })
}

/// Makes records of events, for files and memory.
struct Keeper;

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        kept().take(Record::of(event, SystemTime::now()));
    }
}

/// Writes records as JSON to standard error.
struct Json;

impl<S: Subscriber> Layer<S> for Json {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let _ = std::io::stderr().write_all(&Record::of(event, SystemTime::now()).json()); // nobody reads it
    }
}

/// Starts the log, as `filter` and `format` ask for it on standard error.
pub fn start(filter: &str, format: Format) -> Result<(), NodeError> {
    log(filter, format)?.init();
    Ok(())
}

/// All that listens. No layer is an `Option`: one that is none is asked about everything, and then what nobody wants is not known once and
/// for all, but found out, and its spans made, each time.
fn log(filter: &str, format: Format) -> Result<impl Subscriber + for<'a> LookupSpan<'a>, NodeError> {
    let without_spans = format!("{}=off", spans::SPANS);
    let without_spans: Directive =
        without_spans.parse().map_err(|e| NodeError::Check(format!("{without_spans}: {e}")))?;
    let parse = |filter: &str| {
        let parsed = EnvFilter::try_new(filter).map_err(|e| {
            NodeError::Usage(format!("--log '{filter}' is not a filter (like info or ailo_node=debug,warn): {e}"))
        })?;
        Ok::<_, NodeError>(parsed.add_directive(without_spans.clone()))
    };
    let text =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(output::coloured(&std::io::stderr()));
    let shown = match format {
        Format::Text => text.boxed(),
        Format::Json => Json.boxed(),
    };
    let keeper = Keeper.with_filter(parse(if filter == DEFAULT { KEPT } else { filter })?);
    Ok(tracing_subscriber::registry().with(shown.with_filter(parse(filter)?)).with(keeper).with(otlp::layer()))
}

/// From now on records go into files in this folder, too; those that are in memory first.
pub fn keep_in(folder: &Path) -> Result<(), NodeError> {
    let mut files = Files::open(folder)?;
    let mut slot = locked(&kept().files);
    locked(&kept().newest).iter().for_each(|record| files.write(&record.json()));
    *slot = Some(files);
    Ok(())
}

/// Records since the start, by the names of their levels.
pub fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    LEVELS.iter().zip(&kept().counts).map(|(level, count)| (level.name(), count.load(Ordering::Relaxed)))
}

/// The newest records, the oldest of them first.
pub fn newest() -> Vec<Arc<Record>> {
    locked(&kept().newest).iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn logged(log: impl FnOnce()) -> Vec<Arc<Record>> {
        let before = newest().len();
        let subscriber = tracing_subscriber::registry().with(Keeper);
        tracing::subscriber::with_default(subscriber, log);
        newest().split_off(before)
    }

    #[test]
    fn what_is_logged_becomes_a_bounded_record_with_its_fields() {
        let long = "x".repeat(100_000);
        let records = logged(|| {
            tracing::warn!(peer = "a\u{1b}[31mb", bytes = 7, "hello");
            tracing::info!(a = %long, b = %long, "{long}");
        });
        let first = &records[0];
        assert_eq!(
            (first.level, first.message.as_str(), first.target.as_str()),
            (Level::Warn, "hello", module_path!())
        );
        assert_eq!(first.fields, [("peer".into(), "a\u{1b}[31mb".into()), ("bytes".into(), "7".to_string())]);
        assert!(!first.to_string().contains('\u{1b}') && first.to_string().contains("bytes=7"), "{first}");
        let fields: usize = records[1].fields.iter().map(|(_, value)| value.len()).sum();
        assert!(records[1].message.len() == MAX_MESSAGE && fields == MAX_FIELDS);
        let again: Record = serde_json::from_slice(&first.json()).unwrap();
        assert_eq!(again, **first);
    }

    #[test]
    fn times_are_written_so_that_later_ones_sort_behind() {
        let at = |ms| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(at(1_777_636_800_007), "2026-05-01T12:00:00.007Z");
        assert!(at(999) < at(1000) && at(1_777_636_800_007) < at(1_777_636_800_107));
    }
}
