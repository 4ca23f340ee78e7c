//! What commands say: on standard output lines for people or, with `--json`, one object a line for programs, and nothing else;
//! on standard error what went wrong, in the same way. Every command speaks through here.

use crate::error::NodeError;
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;
use serde_json::json;
use std::{
    fmt,
    io::{self, ErrorKind, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

/// As the log's filter, this is one for the whole process, and chosen before anything is said.
static JSON: AtomicBool = AtomicBool::new(false);

/// Speaks JSON from now on, or lines for people.
pub fn speak_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Whether a program reads.
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Says `value`: as a line of JSON, or in the words of `text`.
pub fn show<T: Serialize + ?Sized>(value: &T, text: impl FnOnce(&mut String) -> fmt::Result) -> Result<(), NodeError> {
    write(&said(value, text)?)
}

/// The same of what is said this once, such as 24 words: here it is an error if nobody reads it.
pub fn show_secret<T: Serialize + ?Sized>(
    value: &T,
    text: impl FnOnce(&mut String) -> fmt::Result,
) -> Result<(), NodeError> {
    let said = zeroize::Zeroizing::new(said(value, text)?);
    print(&said).map_err(|e| NodeError::io("show what is shown this once", e))
}

fn said<T: Serialize + ?Sized>(value: &T, text: impl FnOnce(&mut String) -> fmt::Result) -> Result<String, NodeError> {
    let mut said = String::new();
    let failed = |e: &dyn fmt::Display| NodeError::io("write what there is to say", io::Error::other(e.to_string()));
    match is_json() {
        true => {
            said = serde_json::to_string(value).map_err(|e| failed(&e))?;
            said.push('\n');
        }
        false => text(&mut said).map_err(|e| failed(&e))?,
    }
    Ok(said)
}

/// The same where the words are one line.
pub fn say<T: Serialize + ?Sized>(value: &T, line: impl fmt::Display) -> Result<(), NodeError> {
    show(value, |out| fmt::Write::write_fmt(out, format_args!("{line}\n")))
}

/// A piece of a text that goes on, for people alone.
pub fn piece(text: &str) -> Result<(), NodeError> {
    if is_json() { Ok(()) } else { write(text) }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Whoever reads no more (`| head`) wants no error.
fn write(text: &str) -> Result<(), NodeError> {
    match print(text) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(NodeError::io("write to standard output", e)),
        _ => Ok(()),
    }
}

/// Whether `stream` is to have colours: on a terminal, unless NO_COLOR says otherwise (no-color.org).
pub fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `text` in a colour, where standard output has colours.
pub fn paint(text: &str, colour: AnsiColor) -> String {
    match coloured(&io::stdout()) {
        true => {
            let style = Style::new().fg_color(Some(colour.into())).bold();
            format!("{style}{text}{style:#}")
        }
        false => text.into(),
    }
}

/// Says on standard error why a command fails, as clap says it of flags.
pub fn complain(error: &NodeError) {
    let kind = error.kind();
    let said = match is_json() {
        true => {
            let mut said = json!({ "kind": kind.name(), "code": kind.code(), "message": error.to_string() });
            match error {
                NodeError::Refused { code, .. } => said["refusal"] = json!(code),
                NodeError::Sent { id, .. } => said["id"] = json!(id),
                _ => {}
            }
            json!({ "error": said }).to_string()
        }
        false if coloured(&io::stderr()) => {
            let style = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
            format!("{style}error:{style:#} {error}")
        }
        false => format!("error: {error}"),
    };
    let _ = writeln!(io::stderr(), "{said}"); // Nobody is left to hear it, then.
}
