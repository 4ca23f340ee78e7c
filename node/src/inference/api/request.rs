//! What the API is asked: bodies of requests, read strictly. A field that is not known, or asks for what is not here, is an error that names it.

use super::{Refusal, invalid};
use crate::inference::model::Model;
use ailo_proto::{Bias, Sampling};
use ailo_protocol::{Hash, inference::proof::MIN_TEMPERATURE, keys};
use ailo_training::text::Message;
use serde::Deserialize;
use std::collections::BTreeMap;

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

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Said {
    role: String,
    content: Content,
    /// Of the speaker; templates here do not ask for it.
    #[allow(dead_code)]
    name: Option<String>,
    #[serde(flatten)]
    rest: Fields,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Deserialize)]
struct ContentPart {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    #[serde(flatten)]
    rest: Fields,
}

/// The fields of a body that were not read yet.
type Fields = serde_json::Map<String, serde_json::Value>;

/// A request that was understood.
#[derive(Debug)]
pub struct Plan {
    /// Prompts, each with its own texts.
    pub prompts: Vec<Vec<u32>>,
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
}

impl Plan {
    /// The body of a request for completions.
    pub fn completion(body: &[u8], model: &Model) -> Result<Plan, Refusal> {
        let mut fields = fields(body)?;
        let prompt = take(&mut fields, "prompt")?
            .ok_or_else(|| invalid("prompt", "'prompt' is missing: what should be continued?"))?;
        let echo = take(&mut fields, "echo")?.unwrap_or(false);
        let logprobs: Option<u32> = take(&mut fields, "logprobs")?;
        let best_of: Option<u32> = take(&mut fields, "best_of")?;
        let suffix: Option<String> = take(&mut fields, "suffix")?;
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
        let encode = |text: &String| model.text.encode(text, true).map_err(|e| invalid("prompt", &e.to_string()));
        plan.prompts = match &prompt {
            Prompt::Text(text) => vec![encode(text)?],
            Prompt::Tokens(tokens) => vec![tokens.clone()],
            Prompt::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
        };
        if plan.prompts.is_empty() || plan.prompts.len() > MAX_CHOICES as usize {
            return Err(invalid("prompt", "1 to 16 prompts go into one request"));
        }
        plan.max_tokens = plan.max_tokens.or(Some(DEFAULT_TOKENS));
        plan.probabilities(logprobs)?;
        let mut plan = plan.check(model)?;
        if echo {
            plan.begins = plan.prompts.iter().map(|prompt| model.text.decode(prompt)).collect();
        }
        Ok(plan)
    }

    /// The body of a request for an answer in a conversation.
    pub fn chat(body: &[u8], model: &Model) -> Result<Plan, Refusal> {
        let mut fields = fields(body)?;
        let messages: Vec<Said> = take(&mut fields, "messages")?.unwrap_or_default();
        let logprobs = take(&mut fields, "logprobs")?.unwrap_or(false);
        let top: Option<u32> = take(&mut fields, "top_logprobs")?;
        let newer: Option<u32> = take(&mut fields, "max_completion_tokens")?;
        let format: Option<serde_json::Value> = take(&mut fields, "response_format")?;
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
        let messages = messages.into_iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let text = model.text.conversation(&messages).map_err(|e| invalid("messages", &e.to_string()))?;
        plan.prompts = vec![model.text.encode(&text, false).map_err(|e| invalid("messages", &e.to_string()))?];
        plan.max_tokens = newer.or(plan.max_tokens);
        plan.probabilities(logprobs.then_some(top.unwrap_or(0)))?;
        plan.check(model)
    }

    /// What both kinds of requests have; nothing else may be left of the fields.
    fn shared(mut fields: Fields, model: &Model) -> Result<Plan, Refusal> {
        let name: Option<String> = take(&mut fields, "model")?;
        let max_tokens = take(&mut fields, "max_tokens")?;
        let (temperature, top_p, min_p) =
            (take(&mut fields, "temperature")?, take(&mut fields, "top_p")?, take(&mut fields, "min_p")?);
        let (top_k, seed): (Option<i64>, Option<i64>) = (take(&mut fields, "top_k")?, take(&mut fields, "seed")?);
        let stop: Option<OneOrMany> = take(&mut fields, "stop")?;
        let biases: BTreeMap<String, f64> = take(&mut fields, "logit_bias")?.unwrap_or_default();
        let (presence, frequency) = (take(&mut fields, "presence_penalty")?, take(&mut fields, "frequency_penalty")?);
        let choices = take(&mut fields, "n")?.unwrap_or(1);
        let stream = take(&mut fields, "stream")?.unwrap_or(false);
        let options: Option<StreamOptions> = take(&mut fields, "stream_options")?;
        // Who asks, for the client's own records.
        let _: Option<String> = take(&mut fields, "user")?;
        if let Some((unknown, _)) = fields.iter().find(|(_, value)| !value.is_null()) {
            return Err(invalid(unknown, &format!("'{unknown}' is not supported")));
        }
        if name.as_ref().is_some_and(|name| *name != model.name) {
            return Err(Refusal::no_model(&name.unwrap_or_default()));
        }
        let number = |name: &str, value: Option<f64>, usual: f64, least: f64, most: f64| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(invalid(name, &format!("'{name}' is {value}: it goes from {least} to {most}")))
            }
            value => Ok(value.unwrap_or(usual)),
        };
        let top_k = match top_k {
            None | Some(-1) => 0,
            Some(k) => u32::try_from(k).map_err(|_| invalid("top_k", "'top_k' is a number of tokens, or 0 for all"))?,
        };
        let bias = |(token, bias): (&String, &f64)| {
            let token = token.parse().ok().filter(|token| (*token as usize) < model.shape.vocabulary);
            let token = token.ok_or_else(|| invalid("logit_bias", "'logit_bias' names tokens by their numbers"))?;
            Ok::<_, Refusal>(Bias { token, bias: number("logit_bias", Some(*bias), 0.0, -100.0, 100.0)? })
        };
        let seed = seed.map_or_else(|| Hash(keys::random_bytes()).stream().next_u64(), i64::cast_unsigned);
        let temperature = number("temperature", temperature, 1.0, 0.0, 2.0)?;
        let sampling = Sampling {
            limit: 0,
            ends: model.ends.clone(),
            // So little is the likeliest token.
            temperature: if temperature < MIN_TEMPERATURE { 0.0 } else { temperature },
            top_k,
            top_p: number("top_p", top_p, 1.0, 0.0, 1.0)?,
            min_p: number("min_p", min_p, 0.0, 0.0, 1.0)?,
            seed,
            presence: number("presence_penalty", presence, 0.0, -2.0, 2.0)?,
            frequency: number("frequency_penalty", frequency, 0.0, -2.0, 2.0)?,
            biases: biases.iter().map(bias).collect::<Result<_, _>>()?,
            logprobs: false,
            top_logprobs: 0,
            prompt: 0,
        };
        if biases.len() > MAX_BIASES {
            return Err(invalid("logit_bias", "'logit_bias' names at most 1024 tokens"));
        }
        let stops = match stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop],
            Some(OneOrMany::Many(stops)) => stops,
        };
        if stops.len() > MAX_STOPS.0 || stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOPS.1) {
            return Err(invalid("stop", "'stop' holds at most 16 texts of 1 to 256 bytes"));
        }
        if choices == 0 || choices > MAX_CHOICES {
            return Err(invalid("n", "'n' is 1 to 16"));
        }
        if options.is_some() && !stream {
            return Err(invalid("stream_options", "'stream_options' goes with 'stream': true"));
        }
        Ok(Plan {
            prompts: Vec::new(),
            sampling,
            max_tokens,
            stops,
            choices,
            stream,
            usage: options.unwrap_or_default().include_usage.unwrap_or(false),
            begins: Vec::new(),
        })
    }

    fn probabilities(&mut self, top: Option<u32>) -> Result<(), Refusal> {
        if top.is_some_and(|top| top > 20) {
            return Err(invalid("logprobs", "at most 20 tokens are listed beside each"));
        }
        (self.sampling.logprobs, self.sampling.top_logprobs) = (top.is_some(), top.unwrap_or(0));
        Ok(())
    }

    /// Whether everything fits into the model's context.
    fn check(self, model: &Model) -> Result<Plan, Refusal> {
        let context = model.context();
        if self.max_tokens == Some(0) {
            return Err(invalid("max_tokens", "'max_tokens' is one at least"));
        }
        for prompt in &self.prompts {
            if prompt.is_empty() {
                return Err(invalid("prompt", "the prompt is empty: give the model something to continue"));
            }
            if prompt.iter().any(|token| *token as usize >= model.shape.vocabulary) {
                return Err(invalid("prompt", "a token of the prompt is not in the model's vocabulary"));
            }
            let asked = prompt.len() + self.max_tokens.unwrap_or(1) as usize;
            if asked > context {
                let prompt = prompt.len();
                return Err(Refusal::too_long(
                    "prompt",
                    &format!(
                        "the model reads and writes {context} tokens in all, and this asks for {asked}: {prompt} of the prompt, the rest to be written"
                    ),
                ));
            }
        }
        Ok(self)
    }

    /// Tokens that are read and written at most.
    pub fn most(&self, context: usize) -> u64 {
        let written = |prompt: &Vec<u32>| u64::from(self.choices) * (self.limit(prompt, context) - prompt.len()) as u64;
        self.prompts.iter().map(|prompt| prompt.len() as u64 + written(prompt)).sum()
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

fn fields(body: &[u8]) -> Result<Fields, Refusal> {
    serde_json::from_slice(body).map_err(|e| invalid("", &format!("the body is no JSON object: {e}")))
}

/// A field out of the others.
fn take<T: for<'de> Deserialize<'de>>(fields: &mut Fields, name: &str) -> Result<Option<T>, Refusal> {
    match fields.remove(name) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(value) => {
            serde_json::from_value(value).map(Some).map_err(|e| invalid(name, &format!("'{name}' can't be read: {e}")))
        }
    }
}

/// Fields that are not known say nothing.
fn known_only(rest: &Fields) -> Result<(), Refusal> {
    match rest.iter().find(|(_, value)| !value.is_null()) {
        Some((name, _)) => Err(invalid("messages", &format!("'{name}' in a message is not supported"))),
        None => Ok(()),
    }
}

fn message(said: Said) -> Result<Message, Refusal> {
    known_only(&said.rest)?;
    let content = match said.content {
        Content::Text(text) => text,
        Content::Parts(parts) => {
            let text = |part: ContentPart| {
                known_only(&part.rest)?;
                let text = part.text.filter(|_| part.kind == "text");
                text.ok_or_else(|| invalid("messages", "messages hold text: no pictures, sounds or files"))
            };
            parts.into_iter().map(text).collect::<Result<String, _>>()?
        }
    };
    if !["system", "developer", "user", "assistant"].contains(&said.role.as_str()) {
        return Err(invalid("messages", &format!("nobody here is a '{}': system, user and assistant are", said.role)));
    }
    let role = if said.role == "developer" { "system".into() } else { said.role };
    Ok(Message { role, content })
}
