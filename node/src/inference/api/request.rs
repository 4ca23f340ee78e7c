//! What the API is asked: bodies of requests, read strictly. A field that is not known, or asks for what is not here, is an error that names it.

use super::{
    Refusal,
    fields::{Fields, list, text},
    invalid,
    reply::Kind,
};
use crate::inference::model::Model;
use ailo_proto::{Bias, Sampling};
use ailo_protocol::{
    Amount, Hash,
    inference::{MAX_ROOM, proof::MIN_TEMPERATURE},
    keys,
};
use ailo_training::text::Message;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Texts for one request, at most.
const MAX_CHOICES: u32 = 16;
/// Stop texts, and bytes of each, at most.
const MAX_STOPS: (usize, usize) = (16, 256);
/// Tokens of an answer when a request does not say.
const DEFAULT_TOKENS: u32 = 16;
/// The same of an answer in a conversation.
const DEFAULT_ANSWER: usize = 1024;
/// Tokens with a bias, at most.
const MAX_BIASES: usize = 1024;
/// Likeliest tokens that are listed beside each, at most.
const MAX_TOP: u32 = 20;
/// Values that a template is given beside a conversation, and bytes of a name and of a text among them, at most.
const MAX_MORE: (usize, usize, usize) = (16, 64, 1024);
/// Tokens of an answer, at most, whatever the model.
const MAX_TOKENS: u32 = MAX_ROOM as u32;

/// A request that was understood.
#[derive(Debug)]
pub struct Plan {
    /// Prompts, each with its own texts.
    pub prompts: Vec<Arc<[u32]>>,
    /// How tokens are chosen; the limit is set for each prompt.
    pub sampling: Sampling,
    /// New tokens at most; none: as many as the context holds.
    pub max_tokens: Option<u32>,
    /// Texts that end it.
    pub stops: Vec<String>,
    /// Texts for each prompt.
    pub choices: u32,
    /// Whether pieces are sent as they come.
    pub stream: bool,
    /// Whether their last one tells the numbers of tokens.
    pub usage: bool,
    /// What the texts of each prompt begin with, if that was asked for: the prompt.
    pub begins: Vec<String>,
    /// What all texts together may cost.
    pub max_alc: Option<Amount>,
}

/// What somebody asks for.
pub enum Asked {
    /// A text.
    New(Box<Plan>),
    /// The rest of one that could not go on.
    Again(Again),
}

/// A text that is taken up again.
pub struct Again {
    /// What it is called.
    pub id: String,
    /// Whether pieces are sent as they come.
    pub stream: bool,
    /// Whether their last one tells the numbers of tokens.
    pub usage: bool,
}

impl Asked {
    /// The body of a request; whether `others` serve a model of some name is for who asks for it here.
    pub fn read(body: &[u8], kind: Kind, model: &Model, others: impl Fn(&str) -> bool) -> Result<Asked, Refusal> {
        let mut fields = Fields::read(body)?;
        if let Some(id) = fields.text("resume")? {
            let (stream, usage) = stream(&mut fields)?;
            if fields.end().is_err() {
                let why =
                    "'resume' goes alone, or with 'stream' and 'stream_options': all else is as it was asked before";
                return Err(invalid("resume", why));
            }
            return Ok(Asked::Again(Again { id, stream, usage }));
        }
        if let Some(name) = fields.text("model")?.filter(|name| *name != model.name) {
            return Err(if others(&name) { Refusal::elsewhere(&name, &model.name) } else { Refusal::no_model(&name) });
        }
        let plan = match kind {
            Kind::Chat => Plan::chat(fields, model),
            Kind::Completion => Plan::completion(fields, model),
        };
        Ok(Asked::New(Box::new(plan?)))
    }
}

impl Plan {
    /// The body of a request for completions.
    fn completion(mut fields: Fields, model: &Model) -> Result<Plan, Refusal> {
        let what = "a text, a list of texts, a list of tokens' numbers, or a list of such lists";
        let prompts = fields.read_as("prompt", what, prompts)?;
        let prompts = prompts.ok_or_else(|| invalid("prompt", "'prompt' is missing: what should be continued?"))?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        let logprobs = fields.count("logprobs", 0..=MAX_TOP)?;
        let best_of = fields.count("best_of", 1..=MAX_CHOICES)?;
        let suffix = fields.text("suffix")?;
        let mut plan = Plan::shared(fields, model)?;
        if best_of.is_some_and(|best_of| best_of != plan.choices) {
            return Err(invalid("best_of", "'best_of' other than 'n' is not supported"));
        }
        if suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(invalid(
                "suffix",
                "'suffix' is not supported: these models continue a text, they do not fill one in",
            ));
        }
        if echo && logprobs.is_some() {
            return Err(invalid(
                "echo",
                "'echo' together with 'logprobs' is not supported: how likely a prompt is, nobody computes here",
            ));
        }
        if prompts.is_empty() || prompts.len() > MAX_CHOICES as usize {
            return Err(invalid("prompt", "1 to 16 prompts go into one request"));
        }
        let tokens = |prompt: Prompt| match prompt {
            Prompt::Text(text) => {
                model.text.encode(&text, true).map(Arc::from).map_err(|e| invalid("prompt", &e.to_string()))
            }
            Prompt::Tokens(tokens) => Ok(tokens.into()),
        };
        plan.prompts = prompts.into_iter().map(tokens).collect::<Result<_, _>>()?;
        plan.max_tokens = plan.max_tokens.or(Some(DEFAULT_TOKENS));
        plan.probabilities(logprobs);
        let mut plan = plan.check(model, "prompt")?;
        if echo {
            plan.begins = plan.prompts.iter().map(|prompt| model.text.decode(prompt)).collect();
        }
        Ok(plan)
    }

    /// The body of a request for an answer in a conversation.
    fn chat(mut fields: Fields, model: &Model) -> Result<Plan, Refusal> {
        let what = r#"a list of messages like {"role": "user", "content": "Who are you?"}"#;
        let messages = fields.read_as("messages", what, |value| list(value, Some))?.unwrap_or_default();
        let logprobs = fields.flag("logprobs")?.unwrap_or(false);
        let top = fields.count("top_logprobs", 0..=MAX_TOP)?;
        let newer = fields.count("max_completion_tokens", 1..=MAX_TOKENS)?;
        let format = fields.take("response_format");
        let what = r#"an object of at most 16 names with a truth, a number or a text of at most 1024 bytes each, like {"enable_thinking": false}"#;
        let more = fields.read_as("chat_template_kwargs", what, more)?.unwrap_or_default();
        let mut plan = Plan::shared(fields, model)?;
        if messages.is_empty() {
            return Err(invalid("messages", "'messages' is missing: what was said?"));
        }
        if top.is_some() && !logprobs {
            return Err(invalid("top_logprobs", "'top_logprobs' asks for 'logprobs': true, too"));
        }
        if format.is_some_and(|format| format["type"] != "text") {
            return Err(invalid("response_format", "no 'response_format' but {\"type\": \"text\"} is supported"));
        }
        if newer.is_some() && plan.max_tokens.is_some() && newer != plan.max_tokens {
            return Err(invalid(
                "max_tokens",
                "'max_tokens' is the older name of 'max_completion_tokens', and here they differ: send one of them",
            ));
        }
        let messages = messages.into_iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
        let refused = |e: ailo_training::TrainingError| invalid("messages", &e.to_string());
        if let Some(name) = more.keys().find(|name| !model.text.asks_for(name)) {
            let why = format!("this model's conversations ask for no '{name}': leave it out");
            return Err(invalid(&format!("chat_template_kwargs.{name}"), &why));
        }
        let text = model.text.conversation(&messages, &more).map_err(refused)?;
        names_show(&messages, &more, &text, model)?;
        plan.prompts = vec![model.text.encode(&text, false).map_err(refused)?.into()];
        plan.max_tokens = newer.or(plan.max_tokens);
        plan.probabilities(logprobs.then_some(top.unwrap_or(0)));
        plan.check(model, "messages")
    }

    /// What both kinds of requests have; nothing else may be left of the fields.
    fn shared(mut fields: Fields, model: &Model) -> Result<Plan, Refusal> {
        let max_tokens = fields.count("max_tokens", 1..=MAX_TOKENS)?;
        let temperature = fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0);
        let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0);
        let min_p = fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0);
        // Some say -1 for all.
        let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?.and_then(|k| u32::try_from(k).ok());
        let seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
        let stops = fields.read_as("stop", "a text or a list of texts", |value| match value {
            Value::String(stop) => Some(vec![stop]),
            several => list(several, text),
        })?;
        let what = r#"an object that names tokens by their numbers, with what is added to each from -100 to 100, like {"50256": -100}"#;
        let biases = fields.read_as("logit_bias", what, |value| biases(&value))?.unwrap_or_default();
        let presence = fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0);
        let frequency = fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0);
        let choices = fields.count("n", 1..=MAX_CHOICES)?.unwrap_or(1);
        let (stream, usage) = stream(&mut fields)?;
        let what = r#"an amount of ALC as a text, like "0.25""#;
        let max_alc = fields.read_as("max_alc", what, |value| text(value)?.parse::<Amount>().ok())?;
        // Who asks, for the client's own records.
        fields.text("user")?;
        fields.end()?;
        if biases.iter().any(|bias| bias.token as usize >= model.shape.vocabulary) {
            return Err(invalid("logit_bias", "'logit_bias' names a token that the model does not have"));
        }
        if biases.len() > MAX_BIASES {
            return Err(invalid("logit_bias", "'logit_bias' names at most 1024 tokens"));
        }
        let stops = stops.unwrap_or_default();
        if stops.len() > MAX_STOPS.0 || stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOPS.1) {
            return Err(invalid("stop", "'stop' holds at most 16 texts of 1 to 256 bytes"));
        }
        let seed = seed.map_or_else(|| Hash(keys::random_bytes()).stream().next_u64(), i64::cast_unsigned);
        let sampling = Sampling {
            limit: 0,
            ends: model.ends.clone(),
            // So little is the likeliest token.
            temperature: if temperature < MIN_TEMPERATURE { 0.0 } else { temperature },
            top_k: top_k.unwrap_or(0),
            top_p,
            min_p,
            seed,
            presence,
            frequency,
            biases,
            logprobs: false,
            top_logprobs: 0,
            prompt: 0,
        };
        Ok(Plan {
            prompts: Vec::new(),
            sampling,
            max_tokens,
            stops,
            choices,
            stream,
            usage,
            begins: Vec::new(),
            max_alc,
        })
    }

    fn probabilities(&mut self, top: Option<u32>) {
        (self.sampling.logprobs, self.sampling.top_logprobs) = (top.is_some(), top.unwrap_or(0));
    }

    /// Whether everything fits into the model's context; `param` is where the prompts come from.
    fn check(self, model: &Model, param: &str) -> Result<Plan, Refusal> {
        let context = model.context();
        for prompt in &self.prompts {
            if prompt.is_empty() {
                return Err(invalid(param, "the prompt is empty: give the model something to continue"));
            }
            if prompt.iter().any(|token| *token as usize >= model.shape.vocabulary) {
                return Err(invalid(param, "a token of the prompt is not in the model's vocabulary"));
            }
            let asked = prompt.len() + self.max_tokens.unwrap_or(1) as usize;
            if asked > context {
                let prompt = prompt.len();
                return Err(Refusal::too_long(
                    param,
                    &format!(
                        "the model reads and writes {context} tokens in all, and this asks for {asked}: {prompt} of the prompt, the rest to be written"
                    ),
                ));
            }
        }
        Ok(self)
    }

    /// Positions of a prompt's text, at most.
    fn limit(&self, prompt: &[u32], context: usize) -> usize {
        let room = context - prompt.len();
        prompt.len() + self.max_tokens.map_or(room.min(DEFAULT_ANSWER), |tokens| (tokens as usize).min(room))
    }

    /// How a text of the prompt is sampled; of several the seeds follow each other.
    pub fn sampling(&self, prompt: &[u32], choice: u32, context: usize) -> Sampling {
        Sampling {
            limit: self.limit(prompt, context) as u32,
            prompt: prompt.len() as u32,
            seed: self.sampling.seed.wrapping_add(u64::from(choice)),
            ..self.sampling.clone()
        }
    }
}

/// Whether pieces are sent as they come, and whether their last one tells the numbers of tokens.
fn stream(fields: &mut Fields) -> Result<(bool, bool), Refusal> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let Some(options) = fields.take("stream_options") else { return Ok((stream, false)) };
    if !stream {
        return Err(invalid("stream_options", "'stream_options' goes with 'stream': true"));
    }
    let mut options = Fields::within(options, "stream_options", r#"an object like {"include_usage": true}"#)?;
    let usage = options.flag("include_usage")?.unwrap_or(false);
    options.end()?;
    Ok((stream, usage))
}

/// What a text goes on from.
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

fn prompts(value: Value) -> Option<Vec<Prompt>> {
    match value {
        Value::String(text) => Some(vec![Prompt::Text(text)]),
        Value::Array(all) if all.iter().all(Value::is_string) => {
            Some(all.into_iter().filter_map(text).map(Prompt::Text).collect())
        }
        Value::Array(all) if all.iter().all(Value::is_array) => {
            all.into_iter().map(|one| tokens(one).map(Prompt::Tokens)).collect()
        }
        one => tokens(one).map(|tokens| vec![Prompt::Tokens(tokens)]),
    }
}

fn tokens(value: Value) -> Option<Vec<u32>> {
    list(value, |token| u32::try_from(token.as_u64()?).ok())
}

fn biases(value: &Value) -> Option<Vec<Bias>> {
    let bias = |(token, bias): (&String, &Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
        Some(Bias { token: token.parse().ok()?, bias })
    };
    value.as_object()?.iter().map(bias).collect()
}

/// What a template is given beside a conversation.
fn more(value: Value) -> Option<Map<String, Value>> {
    let named = |name: &str| {
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        begins && name.len() <= MAX_MORE.1 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let plain = |value: &Value| match value {
        Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => text.len() <= MAX_MORE.2,
        _ => false,
    };
    match value {
        Value::Object(all) if all.len() <= MAX_MORE.0 && all.iter().all(|(k, v)| named(k) && plain(v)) => Some(all),
        _ => None,
    }
}

/// A message of a conversation. Where OpenAI's API lets calls of tools stand for an assistant's text, there is none here, so text there must be.
fn message((i, value): (usize, Value)) -> Result<Message, Refusal> {
    let place = format!("messages[{i}]");
    let mut fields = Fields::within(value, &place, r#"an object like {"role": "user", "content": "Who are you?"}"#)?;
    let role = fields.text("role")?.ok_or_else(|| fields.wrong("role", "missing: who says it?"))?;
    if !["system", "developer", "user", "assistant"].contains(&role.as_str()) {
        let why = format!("nobody here is a '{role}': system, developer, user and assistant are");
        return Err(invalid(&format!("{place}.role"), &why));
    }
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let part = |(at, value)| part(&format!("{place}.content[{at}]"), value);
            parts.into_iter().enumerate().map(part).collect::<Result<String, _>>()?
        }
        Some(_) => {
            return Err(fields.wrong("content", r#"a text, or a list of parts like {"type": "text", "text": "hello"}"#));
        }
        None => {
            let why = "missing or null: every message has a text here, an assistant's too, since there are no tools that it could have called instead";
            return Err(fields.wrong("content", why));
        }
    };
    let name = fields.text("name")?;
    fields.end()?;
    let role = if role == "developer" { "system".into() } else { role };
    Ok(Message { role, content, name })
}

/// The text of a part of a message.
fn part(place: &str, value: Value) -> Result<String, Refusal> {
    let mut fields = Fields::within(value, place, r#"an object like {"type": "text", "text": "hello"}"#)?;
    if fields.text("type")?.as_deref() != Some("text") {
        let why = "a message holds text here, no pictures, sounds or files: each of its parts has \"type\": \"text\"";
        return Err(invalid(&format!("{place}.type"), why));
    }
    let text = fields.text("text")?.ok_or_else(|| fields.wrong("text", "missing: a part has a text"))?;
    fields.end()?;
    Ok(text)
}

/// Nobody's name is lost silently: without the names of a role the conversation must read differently.
fn names_show(messages: &[Message], more: &Map<String, Value>, text: &str, model: &Model) -> Result<(), Refusal> {
    for role in ["system", "user", "assistant"] {
        let named = |message: &Message| message.role == role && message.name.is_some();
        let Some(first) = messages.iter().position(named) else { continue };
        let without = |message: &Message| Message {
            name: message.name.clone().filter(|_| message.role != role),
            ..message.clone()
        };
        let without: Vec<Message> = messages.iter().map(without).collect();
        if model.text.conversation(&without, more).is_ok_and(|without| without == text) {
            let why = "this model's conversations show no names: leave out 'name', or say it in the text";
            return Err(invalid(&format!("messages[{first}].name"), why));
        }
    }
    Ok(())
}
