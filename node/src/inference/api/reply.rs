//! What the API answers: a whole JSON object, or pieces of it as server-sent events.

use super::{Piece, Refusal, request::Plan, spending::Spending};
use crate::inference::model::Model;
use ailo_proto::{Candidate, Finish, Logprob};
use ailo_protocol::{
    Amount, Hash, NodeId,
    inference::{
        announce::Announce,
        known::{Known, Offered},
    },
    keys,
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    ops::Range,
    str::Utf8Chunk,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Models of others in the list, at most.
const MAX_OTHERS: usize = 64;
/// Stages that are named as those that answered, at most.
const MAX_STAGES: usize = 256;

/// Which of the two kinds of answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Chat,
}

/// An answer that grows.
pub(super) struct Answer {
    kind: Kind,
    id: String,
    created: u64,
    prompt_tokens: usize,
    logprobs: Option<u32>,
    spending: Arc<Spending>,
    choices: Vec<Choice>,
    /// Who computed its texts, each with its layers once.
    stages: Vec<(NodeId, Range<u32>)>,
}

#[derive(Default)]
struct Choice {
    /// What was not sent yet: text, tokens.
    text: String,
    tokens: Vec<(u32, Option<Logprob>)>,
    /// All tokens.
    written: Vec<u32>,
    /// Characters that began in the tokens whose probabilities were told.
    told: usize,
    finish: Option<Finish>,
    /// Whether its end was sent.
    ended: bool,
}

/// An entry of the list of models: this node's own, with the nodes that serve it.
pub(super) fn model(model: &Model, known: &Known) -> Value {
    let stages = stages(known.all().filter(|one| one.model == model.id));
    json!({ "id": model.name, "object": "model", "created": 0, "owned_by": "ailo", "here": true, "hash": model.id.to_string(),
            "context": model.context(), "layers": model.shape.layers, "stages": stages })
}

/// Models that others serve as a whole. One that is called like this node's own can't be asked for by that name.
pub(super) fn others<'a>(own: Option<&Model>, known: &'a Known) -> impl Iterator<Item = Offered<'a>> {
    let own = own.map(|own| own.name.clone());
    known.models().into_iter().filter(move |one| own.as_deref() != Some(one.name)).take(MAX_OTHERS)
}

/// An entry of the list of models for one of them: what its nodes say.
pub(super) fn other(model: Offered<'_>) -> Value {
    let Offered { model, name, total, stages: all } = model;
    json!({ "id": name, "object": "model", "created": 0, "owned_by": "network", "here": false, "hash": model.to_string(),
            "layers": total, "stages": stages(all.into_iter()) })
}

/// The nodes that serve a model.
fn stages<'a>(all: impl Iterator<Item = &'a Announce>) -> Vec<Value> {
    let stage = |one: &Announce| {
        let tokens = 1e6 / f64::from(one.token_us.max(1));
        json!({ "node": one.node.to_string(), "layers": [one.first, one.end], "microseconds_a_layer": one.layer_us,
                "dtype": one.dtype, "tokens_per_second": tokens, "memory": one.memory, "room": one.room })
    };
    let mut stages: Vec<Value> = all.map(stage).collect();
    stages.sort_by_key(|stage| stage["layers"][0].as_u64());
    stages
}

/// A server-sent event.
pub(super) fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

impl Answer {
    pub fn new(kind: Kind, plan: &Plan, spending: Arc<Spending>) -> Answer {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let begins = |i| plan.begins.get(i / plan.choices as usize).cloned().unwrap_or_default();
        let choices = 0..plan.prompts.len() * plan.choices as usize;
        Answer {
            kind,
            id: format!("{prefix}-{}", Hash(keys::random_bytes()).short()),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            prompt_tokens: plan.prompts.iter().map(|prompt| prompt.len()).sum(),
            logprobs: plan.sampling.logprobs.then_some(plan.sampling.top_logprobs),
            spending,
            choices: choices.map(|i| Choice { text: begins(i), ..Choice::default() }).collect(),
            stages: Vec::new(),
        }
    }

    /// Adds a piece.
    pub fn take(&mut self, piece: Piece) {
        let new = piece.stages.into_iter().filter(|stage| !self.stages.contains(stage)).collect::<Vec<_>>();
        self.stages.extend(new.into_iter().take(MAX_STAGES.saturating_sub(self.stages.len())));
        let choice = &mut self.choices[piece.choice as usize];
        choice.text.push_str(&piece.text);
        choice.written.extend(piece.tokens.iter().map(|(token, _)| *token));
        choice.tokens.extend(piece.tokens);
        choice.finish = piece.finish.or(choice.finish);
    }

    /// The tokens of one text.
    pub fn written(&self, choice: usize) -> &[u32] {
        &self.choices[choice].written
    }

    /// Whether one text has ended.
    pub fn has_ended(&self, choice: usize) -> bool {
        self.choices[choice].finish.is_some()
    }

    /// Whether any of its texts has begun.
    pub fn has_begun(&self) -> bool {
        self.choices.iter().any(|choice| !choice.written.is_empty())
    }

    /// Whether all of its texts have ended.
    pub fn is_whole(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let token = |(_, logprob): &(u32, Option<Logprob>)| {
            let top = logprob.as_ref().map_or(0, |logprob| logprob.top.len());
            size_of::<(u32, Option<Logprob>)>() + top * size_of::<Candidate>()
        };
        let choice = |choice: &Choice| {
            let tokens: usize = choice.tokens.iter().map(token).sum();
            size_of::<Choice>() + choice.text.len() + 4 * choice.written.len() + tokens
        };
        self.choices.iter().map(choice).sum()
    }

    /// All of it, or what was not sent yet.
    pub fn whole(&self, model: &Model) -> Value {
        let choice = |(i, choice): (usize, &Choice)| {
            let mut value = Map::new();
            value.insert("index".into(), json!(i));
            match self.kind {
                Kind::Completion => value.insert("text".into(), json!(choice.text)),
                Kind::Chat => value
                    .insert("message".into(), json!({ "role": "assistant", "content": choice.text, "refusal": null })),
            };
            value.insert("logprobs".into(), self.probabilities(model, &choice.tokens, choice.told));
            value.insert("finish_reason".into(), json!(choice.finish.map_or("error", name)));
            Value::Object(value)
        };
        let choices: Vec<Value> = self.choices.iter().enumerate().map(choice).collect();
        let object = if self.kind == Kind::Chat { "chat.completion" } else { "text_completion" };
        self.envelope(model, object, choices, Some(self.counts()))
    }

    /// The same of what can't go on, with the error that a stream of it would end with.
    pub fn broken(&self, model: &Model, why: &Refusal) -> Value {
        let mut value = self.whole(model);
        value["error"] = why.body()["error"].take();
        value
    }

    /// The first event: in a conversation, who speaks.
    pub fn beginning(&self, model: &Model) -> String {
        if self.kind == Kind::Completion {
            return String::new();
        }
        let choice = |i| json!({ "index": i, "delta": { "role": "assistant", "content": "" }, "logprobs": null, "finish_reason": null });
        let each =
            (0..self.choices.len()).map(|i| self.envelope(model, "chat.completion.chunk", vec![choice(i)], None));
        each.map(|chunk| event(&chunk)).collect()
    }

    /// The events for what was not sent yet; nothing if that shows nothing.
    pub fn news(&mut self, model: &Model) -> String {
        let mut events = String::new();
        for i in 0..self.choices.len() {
            let choice = &mut self.choices[i];
            let (text, tokens) = (std::mem::take(&mut choice.text), std::mem::take(&mut choice.tokens));
            let finish = choice.finish.filter(|_| !choice.ended);
            choice.ended = choice.finish.is_some();
            if text.is_empty() && finish.is_none() && (tokens.is_empty() || self.logprobs.is_none()) {
                continue;
            }
            let offset = choice.told;
            choice.told += tokens.iter().map(|(token, _)| characters(&model.text.bytes(*token))).sum::<usize>();
            let logprobs = self.probabilities(model, &tokens, offset);
            let finish = json!(finish.map(name));
            let (object, choice) = match self.kind {
                Kind::Completion => (
                    "text_completion",
                    json!({ "index": i, "text": text, "logprobs": logprobs, "finish_reason": finish }),
                ),
                Kind::Chat => {
                    let delta = if text.is_empty() { json!({}) } else { json!({ "content": text }) };
                    let choice = json!({ "index": i, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
                    ("chat.completion.chunk", choice)
                }
            };
            events += &event(&self.envelope(model, object, vec![choice], None));
        }
        events
    }

    /// The last event, if asked for.
    pub fn usage(&self, model: &Model) -> String {
        let object = if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" };
        event(&self.envelope(model, object, Vec::new(), Some(self.counts())))
    }

    fn envelope(&self, model: &Model, object: &str, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut value = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": model.name,
            "system_fingerprint": model.id.short(),
            "choices": choices,
        });
        if let (Some(usage), Value::Object(fields)) = (usage, &mut value) {
            fields.insert("usage".into(), usage);
            let stage = |(node, layers): &(NodeId, Range<u32>)| json!({ "node": node, "layers": format!("{}..{}", layers.start, layers.end) });
            fields.insert("stages".into(), self.stages.iter().map(stage).collect());
        }
        value
    }

    fn counts(&self) -> Value {
        let written: usize = self.choices.iter().map(|choice| choice.written.len()).sum();
        let mut counts = json!({ "prompt_tokens": self.prompt_tokens, "completion_tokens": written, "total_tokens": self.prompt_tokens + written });
        let spent = self.spending.spent();
        if spent > Amount::ZERO {
            counts["alc"] = json!(spent);
        }
        counts
    }

    /// How likely tokens were, in the form of the kind; null if nobody asked.
    fn probabilities(&self, model: &Model, tokens: &[(u32, Option<Logprob>)], offset: usize) -> Value {
        let Some(top) = self.logprobs else { return Value::Null };
        let bytes = |token: u32| model.text.bytes(token);
        let known = tokens.iter().filter_map(|(token, logprob)| Some((*token, logprob.as_ref()?)));
        if self.kind == Kind::Chat {
            let entry = |token: u32, logprob: f32| {
                let bytes = bytes(token);
                json!({ "token": shown(&bytes).0, "logprob": logprob, "bytes": bytes })
            };
            let content = known.map(|(token, logprob)| {
                let mut value = entry(token, logprob.logprob);
                value["top_logprobs"] = logprob.top.iter().map(|one| entry(one.token, one.logprob)).collect();
                value
            });
            return json!({ "content": content.collect::<Vec<_>>(), "refusal": null });
        }
        let name = |bytes: &[u8]| match shown(bytes) {
            (text, true) => text,
            (text, false) => format!("bytes:{text}"),
        };
        let (mut texts, mut own, mut tops, mut offsets, mut at) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), offset);
        for (token, logprob) in known {
            let bytes_of = bytes(token);
            offsets.push(at);
            at += characters(&bytes_of);
            texts.push(name(&bytes_of));
            own.push(logprob.logprob);
            // The form is a map of texts: of tokens that read the same, the likeliest is in it.
            let mut best: BTreeMap<String, f32> = BTreeMap::new();
            for one in &logprob.top {
                let most = best.entry(name(&bytes(one.token))).or_insert(one.logprob);
                *most = most.max(one.logprob);
            }
            tops.push(best);
        }
        let tops = if top == 0 { Value::Null } else { json!(tops) };
        json!({ "tokens": texts, "token_logprobs": own, "top_logprobs": tops, "text_offset": offsets })
    }
}

/// The text of a token's bytes, and whether that is all of them: what is no whole character is written as `\xe6\x97`.
fn shown(bytes: &[u8]) -> (String, bool) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (text.into(), true);
    }
    let chunk = |chunk: Utf8Chunk<'_>| {
        let rest: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("{}{rest}", chunk.valid())
    };
    (bytes.utf8_chunks().map(chunk).collect(), false)
}

/// Characters that begin in these bytes.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

fn name(finish: Finish) -> &'static str {
    if finish == Finish::Stop { "stop" } else { "length" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_is_shown_by_its_bytes() {
        assert_eq!(shown("日本".as_bytes()), ("日本".into(), true));
        assert_eq!(shown(b" \xe6\x97"), (" \\xe6\\x97".into(), false));
        assert_eq!(shown(b"\xa5ok\xff"), ("\\xa5ok\\xff".into(), false));
        assert_eq!([&b"a"[..], b"\xe6\x97", b"\xa5b", b""].map(characters), [1, 1, 1, 0]);
    }
}
