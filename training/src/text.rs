//! Text of a model: to tokens and back, for the network's own tokenizers and for those of checkpoints (`tokenizer.json`), and
//! conversations as the model has learned to read them (a checkpoint's chat template).

use crate::{
    error::{Result, TrainingError},
    tokenizer,
};
use ailo_protocol::params::Tokenizer;
use minijinja::{
    Environment, Error, ErrorKind, context,
    value::{Kwargs, ValueKind},
};
use serde::Serialize;
use serde_json::{
    Map, Value,
    ser::{Formatter, PrettyFormatter, Serializer},
};
use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};
use tokenizers::DecoderWrapper;

/// Steps of a chat template, at most.
const FUEL: u64 = 1_000_000;
/// Spaces of an indentation in JSON, at most.
const MAX_INDENT: usize = 16;
/// Tokens of a text that decide how the next one reads.
const BEFORE: usize = 8;
/// What all templates are given; nobody else sets it.
const GIVEN: [&str; 8] =
    ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token"];

/// A tokenizer with what belongs to it.
pub enum Text {
    /// One of the network's own.
    Own(Tokenizer),
    /// A checkpoint's.
    Checkpoint(Box<CheckpointText>),
}

/// Tokenizer and template of a checkpoint.
pub struct CheckpointText {
    tokenizer: tokenizers::Tokenizer,
    template: Option<String>,
    /// What `tokenizer_config.json` says, which templates may ask for.
    config: Value,
}

/// What somebody said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    /// The words.
    pub content: String,
    /// What the speaker is called, for templates that ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Text {
    /// The tokenizer of a checkpoint's folder.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Checkpoint`] if there is none, or none that can be read.
    pub fn open(folder: &Path) -> Result<Text> {
        let path = folder.join("tokenizer.json");
        let failed = |why: &dyn std::fmt::Display| {
            let name = path.display();
            TrainingError::Checkpoint(format!(
                "{name} is no tokenizer that can be read ({why}); the checkpoint needs one beside its weights"
            ))
        };
        let mut tokenizer = tokenizers::Tokenizer::from_file(&path).map_err(|e| failed(&e))?;
        // What a tokenizer was trained with must not cut or fill prompts.
        tokenizer.with_padding(None).with_truncation(None).map_err(|e| failed(&e))?;
        let config = match fs::read(folder.join("tokenizer_config.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| failed(&e))?,
            Err(_) => Value::Null,
        };
        let named = |all: &Value| {
            let all = all.as_array()?.iter();
            all.clone().find(|one| one["name"] == "default")?["template"].as_str().map(str::to_string)
        };
        let given = &config["chat_template"];
        let template = fs::read_to_string(folder.join("chat_template.jinja")).ok();
        let template = template.or_else(|| given.as_str().map(str::to_string)).or_else(|| named(given));
        Ok(Text::Checkpoint(Box::new(CheckpointText { tokenizer, template, config })))
    }

    /// Tokens of `text`; with `marks`, what the tokenizer puts around a text of its own is there, too.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Checkpoint`] if the tokenizer fails.
    pub fn encode(&self, text: &str, marks: bool) -> Result<Vec<u32>> {
        match self {
            Text::Own(own) => {
                Ok(tokenizer::encode(*own, "text", text.as_bytes())?.into_iter().map(u32::from).collect())
            }
            Text::Checkpoint(of) => {
                let encoded = of.tokenizer.encode_fast(text, marks);
                encoded.map(|encoded| encoded.get_ids().to_vec()).map_err(|e| TrainingError::Checkpoint(e.to_string()))
            }
        }
    }

    /// The text of `tokens`; marks have none.
    pub fn decode(&self, tokens: &[u32]) -> String {
        match self {
            Text::Own(own) => {
                let tokens: Vec<u16> = tokens.iter().filter_map(|token| u16::try_from(*token).ok()).collect();
                tokenizer::decode(*own, &tokens)
            }
            // It fails for no known reason; a token that it does not know has no text.
            Text::Checkpoint(of) => of.tokenizer.decode(tokens, true).unwrap_or_default(),
        }
    }

    /// The bytes that a token stands for: it may be a part of a character. A mark stands for its name.
    pub fn bytes(&self, token: u32) -> Vec<u8> {
        let of = match self {
            Text::Own(own) => {
                return u16::try_from(token).map(|token| tokenizer::token_bytes(*own, token)).unwrap_or_default();
            }
            Text::Checkpoint(of) => of,
        };
        let piece = of.tokenizer.id_to_token(token).unwrap_or_default();
        if of.tokenizer.get_added_vocabulary().get_added_tokens_decoder().contains_key(&token) {
            return piece.into_bytes();
        }
        if of.tokenizer.get_decoder().is_some_and(in_bytes) {
            let bytes: Option<Vec<u8>> = piece.chars().map(byte_of).collect();
            return bytes.unwrap_or_else(|| piece.into_bytes());
        }
        let byte = piece.strip_prefix("<0x").and_then(|hex| hex.strip_suffix('>'));
        match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => vec![byte],
            None => piece.replace('\u{2581}', " ").into_bytes(),
        }
    }

    /// Whether a token is a mark that is not shown.
    fn is_silent(&self, token: u32) -> bool {
        let Text::Checkpoint(of) = self else { return false };
        of.tokenizer.get_added_vocabulary().get_added_tokens_decoder().get(&token).is_some_and(|mark| mark.special)
    }

    /// Tokens that end a text.
    pub fn ends(&self) -> Vec<u32> {
        match self {
            Text::Own(Tokenizer::Gpt2) => vec![u32::from(tokenizer::GPT2_END_OF_TEXT)],
            Text::Own(Tokenizer::Bytes) => Vec::new(),
            Text::Checkpoint(of) => {
                let name = &of.config["eos_token"];
                let name = name.as_str().or_else(|| name["content"].as_str());
                name.and_then(|name| of.tokenizer.token_to_id(name)).into_iter().collect()
            }
        }
    }

    fn template(&self) -> Option<&str> {
        match self {
            Text::Checkpoint(of) => of.template.as_deref(),
            Text::Own(_) => None,
        }
    }

    /// Whether the template reads a name that whoever asks may set, like Qwen3's `enable_thinking`.
    pub fn asks_for(&self, name: &str) -> bool {
        let mut words = self.template().unwrap_or_default().split(|c: char| !(c.is_alphanumeric() || c == '_'));
        !GIVEN.contains(&name) && words.any(|word| word == name)
    }

    /// A conversation as text that an answer follows; `more` is what the template is given beside it.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Checkpoint`] with what the template objects to.
    pub fn conversation(&self, messages: &[Message], more: &Map<String, Value>) -> Result<String> {
        let Some(template) = self.template() else {
            // A model that knows no conversations reads one as a play.
            let lines = messages.iter().map(|message| format!("{}: {}\n\n", message.role, message.content));
            return Ok(lines.collect::<String>() + "assistant:");
        };
        let failed = |e: Error| {
            let why = e.detail().map_or_else(|| e.to_string(), str::to_string);
            TrainingError::Checkpoint(format!("the model's chat template refuses this conversation: {why}"))
        };
        let (environment, template) = (environment(), without_marks(template));
        let template = environment.template_from_str(&template).map_err(failed)?;
        let token = |name: &str| match self {
            Text::Checkpoint(of) => {
                let token = &of.config[name];
                token.as_str().or_else(|| token["content"].as_str()).unwrap_or_default().to_string()
            }
            Text::Own(_) => String::new(),
        };
        let rendered = template.render(context! {
            messages,
            // None are given, as transformers says it.
            tools => (),
            documents => (),
            add_generation_prompt => true,
            bos_token => token("bos_token"),
            eos_token => token("eos_token"),
            pad_token => token("pad_token"),
            unk_token => token("unk_token"),
            ..minijinja::Value::from_serialize(more)
        });
        rendered.map_err(failed)
    }
}

/// Whether pieces are written in GPT-2's alphabet, which has a character for each byte.
fn in_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(several) => several.get_decoders().iter().any(in_bytes),
        _ => false,
    }
}

/// The byte of a character of that alphabet: what can be seen stands for itself, the other bytes follow from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    match u8::try_from(c) {
        Ok(byte) => Some(byte).filter(seen),
        Err(_) => (0..=255).filter(|byte| !seen(byte)).nth((u32::from(c) - 0x100) as usize),
    }
}

/// What templates expect, as transformers gives it to them. They come from strangers: steps and depth are bounded.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |why: String| -> std::result::Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, why))
    });
    // Python iterates over texts and not over nothing, and takes the length of all but that.
    let has_parts =
        |value: &minijinja::Value| matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map);
    environment.add_test("iterable", move |value: &minijinja::Value| {
        has_parts(value) || !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_test("sequence", has_parts);
    environment.add_filter("tojson", json);
    environment.add_function("strftime_now", |format: &str| {
        date(format, SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
    });
    environment.set_recursion_limit(64);
    environment.set_fuel(Some(FUEL));
    environment
}

/// A template without transformers' own statement, `{% generation %}`, that marks an assistant's words for training: they stay where they are.
fn without_marks(template: &str) -> String {
    let (mut text, mut rest) = (String::with_capacity(template.len()), template);
    while let Some((before, after)) = rest.split_once("{%") {
        let Some((statement, behind)) = after.split_once("%}") else { break };
        let other = match statement.trim_matches(['-', '+']).trim() {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => "",
        };
        let statement = if other.is_empty() {
            statement.into()
        } else {
            statement.replace("endgeneration", other).replace("generation", other)
        };
        text += &format!("{before}{{%{statement}%}}");
        rest = behind;
    }
    text + rest
}

/// JSON as Python writes it, and without the escapes that HTML needs.
fn json(value: &minijinja::Value, options: Kwargs) -> std::result::Result<String, Error> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::InvalidOperation, e.to_string());
    let (indent, _ascii) = (options.get::<Option<usize>>("indent")?, options.get::<Option<bool>>("ensure_ascii")?);
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent.min(MAX_INDENT)];
            let pretty = PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut Serializer::with_formatter(&mut bytes, pretty)).map_err(failed)?;
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced)).map_err(failed)?,
    }
    String::from_utf8(bytes).map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// With a space behind each comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// A time in seconds since 1970, in UTC, in the form of C's `strftime`.
fn date(format: &str, seconds: u64) -> std::result::Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years have 146 097 days; the rest is counted.
    let (mut year, mut day) = (1970 + days / 146_097 * 400, days % 146_097);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let (of_year, mut month) = (day + 1, 0);
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        (day, month) = (day - length, month + 1);
    }
    let (month_name, weekday) = (MONTHS[month], WEEKDAYS[(days % 7) as usize]);
    let (hour, half) = (second / 3600, if second < 43_200 { "AM" } else { "PM" });
    let (mut text, mut rest) = (String::new(), format.chars());
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let (kind, bare) = match rest.next() {
            Some('-') => (rest.next(), true),
            kind => (kind, false),
        };
        let number = |number: u64, width: usize| if bare { number.to_string() } else { format!("{number:0width$}") };
        text += &match kind {
            Some('Y') => number(year, 4),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month as u64 + 1, 2),
            Some('d') => number(day + 1, 2),
            Some('j') => number(of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number((hour + 11) % 12 + 1, 2),
            Some('M') => number(second / 60 % 60, 2),
            Some('S') => number(second % 60, 2),
            Some('B') => month_name.into(),
            Some('b') => month_name[..3].into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('p') => half.into(),
            Some('%') => "%".into(),
            _ => {
                let why = format!("strftime_now does not know all of '{format}'");
                return Err(Error::new(ErrorKind::InvalidOperation, why));
            }
        };
    }
    Ok(text)
}

/// Turns a stream of tokens into pieces of text, none of which ends inside a character: bytes that may become one are held back.
pub struct TextStream<'a> {
    text: &'a Text,
    /// The beginning of a character.
    held: Vec<u8>,
    /// How many of these bytes came before the stream, and were shown there.
    old: usize,
}

impl<'a> TextStream<'a> {
    /// A stream at the start of a text.
    pub fn new(text: &'a Text) -> TextStream<'a> {
        TextStream { text, held: Vec::new(), old: 0 }
    }

    /// A stream that goes on with a text.
    pub fn after(text: &'a Text, tokens: &[u32]) -> TextStream<'a> {
        let mut stream = TextStream::new(text);
        tokens[tokens.len().saturating_sub(BEFORE)..].iter().for_each(|token| drop(stream.push(*token)));
        stream.old = stream.held.len();
        stream
    }

    /// The text that `token` completes; empty while a character is incomplete. What becomes none is shown as U+FFFD.
    pub fn push(&mut self, token: u32) -> String {
        if !self.text.is_silent(token) {
            self.held.extend(self.text.bytes(token));
        }
        let mut piece = String::new();
        loop {
            let error = match std::str::from_utf8(&self.held) {
                Ok(rest) => {
                    piece.push_str(rest);
                    (self.held, self.old) = (Vec::new(), 0);
                    return piece;
                }
                Err(error) => error,
            };
            let valid = error.valid_up_to();
            piece.push_str(&String::from_utf8_lossy(&self.held[..valid]));
            let wrong = error.error_len().unwrap_or(0);
            if wrong > 0 && valid + wrong > self.old {
                piece.push(char::REPLACEMENT_CHARACTER);
            }
            self.held.drain(..valid + wrong);
            self.old = self.old.saturating_sub(valid + wrong);
            if wrong == 0 {
                return piece;
            }
        }
    }

    /// What is left at the end of the text.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held[self.old..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checkpoint::random::write_tokenizer;
    use std::collections::HashSet;

    fn folder(template: Option<&str>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write_tokenizer(folder.path(), template).unwrap();
        folder
    }

    /// Qwen's, in short.
    const TEMPLATE: &str = "{%- for message in messages %}\n{{- '<|im_start|>' + message['role'] + '\\n' + message.content.strip() + '<|im_end|>\\n' }}\n\
        {%- if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}{%- endfor %}\n\
        {%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

    fn said(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into(), name: None }
    }

    #[test]
    fn text_becomes_tokens_and_comes_back_in_whole_characters() {
        let folder = folder(None);
        let text = Text::open(folder.path()).unwrap();
        let words = "hello world, näïve 日本語 🦀\n";
        for text in [&text, &Text::Own(Tokenizer::Bytes), &Text::Own(Tokenizer::Gpt2)] {
            let tokens = text.encode(words, true).unwrap();
            assert_eq!(text.decode(&tokens), words);
            let mut stream = TextStream::new(text);
            let mut pieces: Vec<String> = tokens.iter().map(|token| stream.push(*token)).collect();
            pieces.push(stream.finish());
            assert_eq!(pieces.concat(), words);
            assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
        }
        let pieces: Vec<_> = text.encode("hello", true).unwrap().iter().map(|token| text.bytes(*token)).collect();
        assert_eq!(pieces, [b"hell".to_vec(), b"o".to_vec()]);
        assert_eq!(text.ends(), [261]);
        // Bytes that are no text are shown as such, not held back for ever.
        let mut stream = TextStream::new(&Text::Own(Tokenizer::Bytes));
        let shown: String = [0xff, 0xff, 0xff, 0xff, 0x61].iter().map(|token| stream.push(*token)).collect();
        assert!(shown.ends_with('a') && shown.contains(char::REPLACEMENT_CHARACTER), "{shown:?}");
        let mut stream = TextStream::new(&Text::Own(Tokenizer::Bytes));
        let shown: Vec<String> = [0xc3, 0xc3, 0xc3, 0xc3, 0xa9].iter().map(|token| stream.push(*token)).collect();
        assert_eq!(shown.concat().matches('é').count(), 1, "{shown:?}");
        assert!(shown[4].chars().count() <= 2, "nothing is shown twice: {shown:?}");
    }

    #[test]
    fn a_stream_of_bytes_never_shows_half_a_character_and_survives_what_is_no_text() {
        let text = Text::Own(Tokenizer::Bytes);
        let mut stream = TextStream::new(&text);
        let crab: Vec<String> = "🦀".bytes().map(|byte| stream.push(u32::from(byte))).collect();
        assert_eq!(crab, ["", "", "", "🦀"]);
        let rest: String = [0xff, 0xf0, u32::from(b'a'), 0xf0].iter().map(|byte| stream.push(*byte)).collect();
        assert_eq!(rest + &stream.finish(), "\u{fffd}\u{fffd}a\u{fffd}");
    }

    /// A tokenizer in GPT-2's alphabet with these pieces, and a mark behind them.
    fn pieces(all: &[&[u8]]) -> (tempfile::TempDir, Text) {
        let letter = |byte: &u8| ('!'..='\u{143}').find(|c| byte_of(*c) == Some(*byte)).unwrap();
        let name = |piece: &[u8]| piece.iter().map(letter).collect::<String>();
        let vocabulary: Map<String, Value> =
            all.iter().enumerate().map(|(i, piece)| (name(piece), serde_json::json!(i))).collect();
        let mark = serde_json::json!({ "id": all.len(), "content": "<|mark|>", "special": true, "single_word": false,
                                       "lstrip": false, "rstrip": false, "normalized": false });
        let tokenizer = serde_json::json!({
            "version": "1.0", "added_tokens": [mark], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                       "vocab": vocabulary, "merges": [] }
        });
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let text = Text::open(folder.path()).unwrap();
        (folder, text)
    }

    #[test]
    fn however_characters_are_split_into_tokens_each_comes_whole_and_as_soon_as_it_is() {
        let words = "aé日🦀 b";
        let bytes = words.as_bytes();
        let spans: Vec<_> = (0..bytes.len()).flat_map(|a| (a + 1..=bytes.len()).map(move |b| a..b)).collect();
        let mut all: Vec<&[u8]> = spans.iter().map(|span| &bytes[span.clone()]).collect();
        all.sort_unstable();
        all.dedup();
        let (_folder, text) = pieces(&all);
        let token = |piece: &[u8]| all.binary_search(&piece).unwrap() as u32;
        assert!(all.iter().all(|piece| text.bytes(token(piece)) == *piece));
        // A cut, or none, behind each byte but the last.
        for cuts in 0..1_u32 << (bytes.len() - 1) {
            let (mut stream, mut from, mut shown) = (TextStream::new(&text), 0, String::new());
            for end in (1..=bytes.len()).filter(|end| *end == bytes.len() || cuts >> (end - 1) & 1 == 1) {
                // A mark within a character does not tear it.
                assert_eq!(stream.push(all.len() as u32), "");
                shown += &stream.push(token(&bytes[from..end]));
                let whole = (0..=end).rev().find(|end| words.is_char_boundary(*end)).unwrap();
                assert_eq!(shown, words[..whole], "cuts {cuts:b}, {end} bytes");
                from = end;
            }
            assert_eq!(stream.finish(), "");
        }
        // A text that goes on within a character: the rest of the character shows all of it, and what is no rest nothing twice.
        let half = [token(&bytes[..4])];
        let after = |then: &[u8]| {
            let mut stream = TextStream::after(&text, &half);
            let shown = stream.push(token(then));
            (shown, stream.finish())
        };
        assert_eq!(after(&bytes[4..6]), ("日".into(), String::new()));
        assert_eq!(after(b"a"), ("a".into(), String::new()));
        assert_eq!(after(&bytes[4..5]), (String::new(), "\u{fffd}".into()));
    }

    #[test]
    fn a_token_has_its_bytes_even_where_they_are_no_character() {
        let folder = folder(None);
        let text = Text::open(folder.path()).unwrap();
        let words = " hello wörld 日本語 🦀\n\0";
        for text in [&text, &Text::Own(Tokenizer::Bytes), &Text::Own(Tokenizer::Gpt2)] {
            let tokens = text.encode(words, true).unwrap();
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| text.bytes(*token)).collect();
            assert_eq!(bytes, words.as_bytes());
            assert!(tokens.iter().any(|token| std::str::from_utf8(&text.bytes(*token)).is_err()));
            assert!(text.bytes(99_999).is_empty());
        }
        assert_eq!(text.bytes(261), b"<|im_end|>");
        assert_eq!((0..256).filter_map(|token| text.bytes(token).pop()).collect::<HashSet<_>>().len(), 256);
    }

    #[test]
    fn pieces_of_sentences_keep_their_spaces_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
                { "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                       "vocab": { "<0xE6>": 0, "\u{2581}a": 1, "é": 2 }, "merges": [] }
        });
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let text = Text::open(folder.path()).unwrap();
        let bytes: Vec<_> = (0..3).map(|token| text.bytes(token)).collect();
        assert_eq!(bytes, [vec![0xe6], b" a".to_vec(), "é".into()]);
    }

    #[test]
    fn conversations_follow_the_checkpoints_template() {
        let folder = folder(Some(TEMPLATE));
        let text = Text::open(folder.path()).unwrap();
        let rendered = text.conversation(&[said("system", "be brief"), said("user", " hello ")], &Map::new()).unwrap();
        assert_eq!(
            rendered,
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
        );
        let tokens = text.encode(&rendered, false).unwrap();
        assert_eq!(tokens.iter().filter(|token| **token == 260).count(), 3);
        let refused = text.conversation(&[said("tool", "x")], &Map::new()).unwrap_err().to_string();
        assert!(refused.contains("no tools here"), "{refused}");
        let plain = Text::Own(Tokenizer::Bytes).conversation(&[said("user", "hi")], &Map::new()).unwrap();
        assert_eq!(plain, "user: hi\n\nassistant:");
    }

    /// What a template makes of a conversation.
    fn rendered(template: &str, messages: &[Message]) -> std::result::Result<String, String> {
        rendered_with(template, messages, serde_json::json!({}))
    }

    /// The same, where the template is given something beside it.
    fn rendered_with(template: &str, messages: &[Message], more: Value) -> std::result::Result<String, String> {
        let folder = folder(Some(template));
        let more = more.as_object().unwrap();
        Text::open(folder.path()).unwrap().conversation(messages, more).map_err(|e| e.to_string())
    }

    #[test]
    fn templates_loop_backwards_and_remember_what_they_saw() {
        // Where the last question stands, as models do that think: a namespace, a reversed slice, indices, tests of types.
        let template = r#"
{%- set seen = namespace(last=messages|length - 1, looking=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if seen.looking and message.role == "user" and message.content is string and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set seen.looking = false %}
        {%- set seen.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.thought is defined and message.thought is not none %}
            {%- set thought = message.thought %}
        {%- elif '</t>' in content %}
            {%- set thought = content.split('</t>')[0].rstrip('\n').split('<t>')[-1].lstrip('\n') %}
            {%- set content = content.split('</t>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > seen.last and (loop.last or thought) %}
            {{- 'A[' + thought.strip('\n') + ']' + content }}
        {%- else %}
            {{- 'A:' ~ content }}
        {%- endif %}
    {%- else %}
        {{- message.role[0]|upper ~ loop.index ~ ':' ~ content.strip() }}
    {%- endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '>' }}
    {%- if thinking is defined and thinking is false %}{{- 'no' }}{%- endif %}
{%- endif %}"#;
        let all = [
            said("system", " be kind "),
            said("user", "what?"),
            said("assistant", "<t>\nhm\n</t>\n\nthis"),
            said("user", "<r>a tool</r>"),
            said("assistant", "<t>so</t>that"),
        ];
        assert_eq!(
            rendered(template, &all).unwrap(),
            "S1:be kind\nU2:what?\nA[hm]this\nU4:<r>a tool</r>\nA[so]that\n>"
        );
        let all = [&all[..3], &[said("user", "and?")]].concat();
        assert_eq!(rendered(template, &all).unwrap(), "S1:be kind\nU2:what?\nA:this\nU4:and?\n>");
    }

    #[test]
    fn who_asks_sets_what_a_template_reads_beside_the_conversation() {
        // As Qwen3 turns thinking off: the answer begins with a thought that is empty.
        let template = "{%- for m in messages %}{{- m.content }}{%- endfor %}{{- '>' }}\
            {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}\
            {{- (style or '') ~ (depth or '') }}";
        let shown = |more: Value| rendered_with(template, &[said("user", "hi")], more).unwrap();
        assert_eq!(shown(serde_json::json!({})), "hi>");
        assert_eq!(shown(serde_json::json!({ "enable_thinking": true })), "hi>");
        assert_eq!(shown(serde_json::json!({ "enable_thinking": false })), "hi><think>\n\n</think>\n\n");
        assert_eq!(shown(serde_json::json!({ "style": "brief{{ 1 }}", "depth": 2.5 })), "hi>brief{{ 1 }}2.5");
        // What it is always given stays what it is.
        assert_eq!(shown(serde_json::json!({ "messages": "none" })), "hi>");
        let folder = folder(Some(template));
        let text = Text::open(folder.path()).unwrap();
        let asked: Vec<&str> = ["enable_thinking", "style", "thinking", "enable", "messages", "tools"]
            .into_iter()
            .filter(|name| text.asks_for(name))
            .collect();
        assert_eq!(asked, ["enable_thinking", "style"]);
        assert!(!Text::Own(Tokenizer::Bytes).asks_for("enable_thinking"));
    }

    #[test]
    fn templates_refuse_use_macros_and_keep_their_spaces() {
        // Blocks in lines of their own leave nothing behind, and a first message is taken out, as older models do.
        let template = r#"{{ bos_token }}
{%- macro turn(role, text='') -%}
[{{ role }}] {{ text | trim }} {% endmacro -%}
{% if messages[0]['role'] == 'system' %}
    {% set rules, rest = messages[0]['content'], messages[1:] %}
{% else %}
    {% set rules, rest = none, messages %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('turns must alternate') }}
    {% endif %}
    {% if loop.first and rules is not none %}
        {% set content = '<<' + rules + '>>\n' + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
{{ turn(message['role'], content) }}
  {# nothing is left of this #}
{% endfor %}
{% if not tools is defined or tools is none %}{{ 'none' if tools is none else 'some' }}{% endif %}
"#;
        let all = [said("system", "rules"), said("user", " hi "), said("assistant", "ho"), said("user", "<&'\">")];
        assert_eq!(
            rendered(template, &all).unwrap(),
            "<|im_start|>[user] <<rules>>\n hi \n[assistant] ho \n[user] <&'\"> \nnone"
        );
        let why = rendered(template, &[said("user", "a"), said("user", "b")]).unwrap_err();
        assert!(why.contains("turns must alternate"), "{why}");
    }

    #[test]
    fn templates_test_types_and_mark_an_assistants_words_as_in_python() {
        let template = r#"{% for x in ['a', [1], {'b': 1}, none, 7] %}{{ 'i' if x is iterable }}{{ 's' if x is sequence }}{{ 't' if x is string }}{{ 'm' if x is mapping }}, {% endfor %}
{% for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- generation %}
            {%- set inner = m.content %}
            {{- '<' ~ inner ~ '>' }}
        {%- endgeneration %}
    {%- else %}{{ m.content }}{% generation %} {% endgeneration %}{%- endif %}
{%- endfor %}
{{- 'no inner' if inner is not defined }}{% raw %}{% x"#;
        let template = template.to_string() + "{% endraw %}";
        let shown =
            rendered(&template, &[said("user", "hi"), said("assistant", "generation"), said("user", "ho")]).unwrap();
        assert_eq!(shown, "ist, is, ism, , , hi <generation>ho no inner{% x");
    }

    #[test]
    fn templates_write_dates_and_json_as_python_does() {
        let now = rendered("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}", &[]).unwrap();
        assert!(now.len() == 11 && now[7..].parse::<u32>().unwrap() > 2024, "{now}");
        for (seconds, text) in [
            (0, "Thursday 01 January 1970, 1, Jan 70, 00:00:00 12 AM, day 001 100%"),
            (951_782_400, "Tuesday 29 February 2000, 29, Feb 00, 00:00:00 12 AM, day 060 100%"),
            (1_735_689_599, "Tuesday 31 December 2024, 31, Dec 24, 23:59:59 11 PM, day 366 100%"),
            (4_107_542_400, "Monday 01 March 2100, 1, Mar 00, 00:00:00 12 AM, day 060 100%"),
        ] {
            assert_eq!(date("%A %d %B %Y, %-d, %b %y, %H:%M:%S %I %p, day %j 100%%", seconds).unwrap(), text);
        }
        assert!(date("%Q", 0).is_err() && date("%", 0).is_err() && date("%d", u64::MAX).is_ok());

        let hello = Message { name: Some("Ann".into()), ..said("user", "<é> & 'x' \"y\"\n") };
        assert_eq!(
            rendered("{{ messages[0] | tojson }}", std::slice::from_ref(&hello)).unwrap(),
            r#"{"role": "user", "content": "<é> & 'x' \"y\"\n", "name": "Ann"}"#
        );
        assert_eq!(
            rendered("{{ {'a': [1, 2.5, none, true], 'b': {}} | tojson(indent=2) }}", &[]).unwrap(),
            "{\n  \"a\": [\n    1,\n    2.5,\n    null,\n    true\n  ],\n  \"b\": {}\n}"
        );
        assert_eq!(rendered("{{ [1, 'a', {}] | tojson }}", &[]).unwrap(), r#"[1, "a", {}]"#);
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let folder =
            folder(Some("{% for a in range(9000) %}{% for b in range(9000) %}{{ a }}{% endfor %}{% endfor %}"));
        let why =
            Text::open(folder.path()).unwrap().conversation(&[said("user", "x")], &Map::new()).unwrap_err().to_string();
        assert!(why.contains("template"), "{why}");
    }

    #[test]
    fn a_folder_without_a_tokenizer_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Text::open(folder.path()).err().unwrap().to_string().contains("tokenizer.json"));
    }
}
