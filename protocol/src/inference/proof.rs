//! What stages sign of what they computed, and who is found to have signed something else than the model gives.
//!
//! Of each [`CHUNK`] of positions that nothing takes back a stage signs two hashes: of what came, and of what it gave out; of the text's last
//! one, too, which may be shorter, and whose hashes are others than those of a whole one. It signs once the one
//! before it has signed that it gave just that. So the first in the route's order whose `gave` is wrong is the one, and its own signature
//! convicts it; those behind it hold its word for what came. The engine's numbers are the same on every machine, so a plain hash will do, and a
//! text is checked as fast as it is read.

use super::{CHUNK, SessionId, all_chunks};
use crate::{
    Hash, Keypair, NodeId, Signature,
    canonical::{Decode, Encode},
    hash::Domain,
    keys::signing_bytes,
};
use ailo_proto::{Bias, Sampling};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens of a text that is shown to the ledger, at most.
pub const MAX_CHARGED: usize = 8192;
/// Tokens that end a text, and biases, at most.
const MAX_ENDS: usize = 64;
const MAX_BIASES: usize = 1024;
/// Biases, penalties and temperatures are no larger than this...
const MAX_BIAS: f64 = 1e4;
/// ...and a temperature that is not 0 is no less than this.
pub const MIN_TEMPERATURE: f64 = 1e-4;

/// What a stage says of a chunk of a session's positions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Statement {
    /// The session.
    pub session: SessionId,
    /// The model.
    pub model: Hash,
    /// Layers first .. end.
    pub first: u32,
    /// See `first`.
    pub end: u32,
    /// Which chunk: positions `CHUNK * chunk ..`.
    pub chunk: u32,
    /// Hash of all that came up to the chunk's end: the text before the first layer, rows before others.
    pub came: Hash,
    /// Hash of all rows that it gave out up to there, or would have.
    pub gave: Hash,
    /// After the last layer: hash of the text up to the token that the chunk's last position gives, and of how it was to be chosen, if the
    /// stage has chosen those tokens itself. The client knows it, so it does not travel. Else zero.
    pub next: Hash,
    /// Height of the ledger when it was signed.
    pub height: u64,
}

/// A statement of a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SignedStatement")]
pub struct Signed {
    /// Who.
    pub node: NodeId,
    /// What.
    pub statement: Statement,
    /// By its key.
    pub signature: Signature,
}

impl Statement {
    /// Signs it.
    pub fn sign(self, network: &Hash, key: &Keypair) -> Signed {
        let signature = key.sign(&signing_bytes(network, "stage", &self));
        Signed { node: *key.public(), statement: self, signature }
    }
}

impl Signed {
    /// Whether the node has signed it.
    pub fn verify(&self, network: &Hash) -> bool {
        self.node.verify(&signing_bytes(network, "stage", &self.statement), &self.signature).is_ok()
    }
}

/// The hash of a chunk's rows and of all before them, of which `last` is the hash. So who was given something wrong once never again says
/// that it got what is right.
pub(super) fn rows_after(last: &Hash, rows: &[f32]) -> Hash {
    let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
    Hash::of_parts(Domain::Session, &[b"rows", &last.0, &bytes])
}

/// How tokens are chosen, in whole numbers: what of [`Sampling`] a last stage answers for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    limit: u32,
    ends: Vec<u32>,
    /// Temperature, top-p, min-p, presence and frequency penalty: the bits of each, of a zero those without a sign.
    floats: [u64; 5],
    top_k: u32,
    seed: u64,
    /// Token, and the bits of what is added to its logit.
    biases: Vec<(u32, u64)>,
    prompt: u32,
}

impl Choice {
    /// What of `sampling` is answered for.
    pub fn of(sampling: &Sampling) -> Choice {
        let Sampling {
            limit, ends, temperature, top_k, top_p, min_p, seed, presence, frequency, biases, prompt, ..
        } = sampling;
        // A zero has one sign on the wire.
        let bits = |x: f64| (x + 0.0).to_bits();
        Choice {
            limit: *limit,
            ends: ends.clone(),
            floats: [*temperature, *top_p, *min_p, *presence, *frequency].map(bits),
            top_k: *top_k,
            seed: *seed,
            biases: biases.iter().map(|bias| (bias.token, bits(bias.bias))).collect(),
            prompt: *prompt,
        }
    }

    /// The same as it travels to a stage.
    pub fn sampling(&self) -> Sampling {
        let [temperature, top_p, min_p, presence, frequency] = self.floats.map(f64::from_bits);
        let Choice { limit, ends, top_k, seed, biases, prompt, .. } = self.clone();
        let biases = biases.into_iter().map(|(token, bias)| Bias { token, bias: f64::from_bits(bias) }).collect();
        Sampling {
            limit,
            ends,
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            presence,
            frequency,
            biases,
            prompt,
            ..Default::default()
        }
    }

    fn next(&self, text: &Hash, token: u32) -> Hash {
        Hash::of_parts(Domain::Session, &[b"next", &crate::canonical::encode(&(self, text, token))])
    }

    /// Whether tokens can be chosen so, with the same result on every machine: all numbers are finite and far from what overflows, and there is
    /// a prompt.
    pub fn is_sane(&self) -> bool {
        let [temperature, top_p, min_p, presence, frequency] = self.floats.map(f64::from_bits);
        let biases = self.biases.iter().map(|(_, bias)| f64::from_bits(*bias));
        let small = |x: f64| x.abs() <= MAX_BIAS;
        (temperature == 0.0 || (MIN_TEMPERATURE..=MAX_BIAS).contains(&temperature))
            && [top_p, min_p].iter().all(|share| (0.0..=1.0).contains(share))
            && biases.chain([presence, frequency]).all(small)
            && self.ends.len() <= MAX_ENDS
            && self.biases.len() <= MAX_BIASES
            && self.prompt > 0
    }
}

/// The hash of a text up to the token after a chunk, and of how it was to be chosen. `text` is that of the chunk and all before it.
pub fn next(sampling: &Sampling, text: &Hash, token: u32) -> Hash {
    Choice::of(sampling).next(text, token)
}

/// A statement that somebody calls wrong, with what it takes to see it: the text, and the model.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, JsonSchema)]
pub struct Charge {
    /// The statement.
    pub signed: Signed,
    /// The text up to the chunk's end, and the token after it where the statement is about tokens that follow, too.
    pub tokens: Vec<u32>,
    /// How they were to be chosen, in that case.
    pub choice: Option<Choice>,
}

impl Charge {
    /// A charge against `signed`, out of the text that it is about; none where the text is too short, or too long to be shown.
    pub fn new(signed: &Signed, text: &[u32], sampling: &Sampling) -> Option<Charge> {
        let wrote = signed.statement.next != Hash::ZERO;
        let whole = (signed.statement.chunk as usize).checked_add(1)?.checked_mul(CHUNK)?;
        // The text's last token was not computed any more.
        let positions = whole.min(text.len().checked_sub(1)?);
        let tokens = text[..positions + usize::from(wrote)].to_vec();
        let charge = Charge { signed: signed.clone(), tokens, choice: wrote.then(|| Choice::of(sampling)) };
        charge.is_sound().then_some(charge)
    }

    /// Positions that the statement is about, from the text's beginning on.
    pub fn positions(&self) -> usize {
        self.tokens.len().saturating_sub(usize::from(self.choice.is_some()))
    }

    /// Whether it is about this text and choice, as far as hashes of the text alone can tell. The signature is not looked at.
    pub fn is_sound(&self) -> bool {
        let Statement { first, end, chunk, came, next, .. } = &self.signed.statement;
        let positions = self.positions();
        let ends_there = positions.div_ceil(CHUNK) as u64 == u64::from(*chunk) + 1 && self.tokens.len() <= MAX_CHARGED;
        if first >= end || !ends_there || self.choice.is_some() != (*next != Hash::ZERO) {
            return false;
        }
        let text = all_chunks(&self.tokens[..positions]).last().copied().unwrap_or_default();
        let chose = |choice: &Choice| {
            choice.is_sane() && self.tokens.last().is_some_and(|token| choice.next(&text, *token) == *next)
        };
        (*first > 0 || text == *came) && self.choice.as_ref().is_none_or(chose)
    }

    /// What names it: all of it but the signature.
    pub fn id(&self) -> Hash {
        let Charge { signed, tokens, choice } = self;
        Hash::of_value(Domain::Session, &(b"charge".to_vec(), signed.node, &signed.statement, tokens, choice))
    }

    /// What the stage says that its computation gave.
    pub fn claimed(&self) -> Hash {
        result(&self.signed.statement.gave, &self.signed.statement.next)
    }

    /// What a judge found: the hashes of the rows that enter and leave its layers, for each chunk of [`Charge::positions`], and the tokens that
    /// the model gives at the text's positions, as in [`Truth`]. Where something else came than the text gives the stage is not to blame: what it claims.
    pub fn found(&self, came: &[Hash], gave: &[Hash], written: &[u32]) -> Hash {
        let (chunk, statement) = (self.signed.statement.chunk as usize, &self.signed.statement);
        let (Some(came), Some(gave)) = (came.get(chunk), gave.get(chunk)) else { return self.claimed() };
        if statement.first > 0 && *came != statement.came {
            return self.claimed();
        }
        let follow = chunk * CHUNK + 1..self.positions() + 1;
        let next = match (&self.choice, written.get(follow.clone()), self.tokens.get(follow)) {
            (None, ..) => Hash::ZERO,
            (_, Some(written), Some(tokens)) if written == tokens => statement.next,
            (_, Some(written), _) => Hash::of_value(Domain::Session, &(b"written".to_vec(), written.to_vec())),
            _ => return self.claimed(),
        };
        result(gave, &next)
    }
}

/// What a stage's computation gave, in one hash.
fn result(gave: &Hash, next: &Hash) -> Hash {
    Hash::of_parts(Domain::Session, &[b"result", &gave.0, &next.0])
}

/// Whether a last stage answers for the tokens that follow a chunk: all were given, or it has chosen those that were not. `wrote` is the text's
/// length when it began.
pub(super) fn answers(chunk: usize, wrote: usize, sampling: &Sampling) -> bool {
    let (after, prompt) = (chunk * CHUNK + 1, sampling.prompt as usize);
    after >= wrote || after + CHUNK <= prompt || wrote <= prompt
}

/// What a text's chunks are, computed by somebody who trusts nobody.
pub struct Truth<'a> {
    /// The text.
    pub tokens: &'a [u32],
    /// How it was to go on.
    pub sampling: &'a Sampling,
    /// Tokens that the model gives at each position of the text but the last: those of the prompt, then what it writes.
    pub written: &'a [u32],
    /// For some layers, [`hashes`] of the rows that enter them, at all positions but the text's last one; for the number of all layers of those
    /// that leave the last.
    pub rows: &'a [(u32, Vec<Hash>)],
    /// Layers of the model.
    pub layers: u32,
}

/// The hashes of rows of so many numbers, for each chunk of them, the last of which may be shorter.
pub fn hashes(rows: &[f32], width: usize) -> Vec<Hash> {
    let mut last = Hash::ZERO;
    let link = |chunk: &[f32]| {
        last = rows_after(&last, chunk);
        last
    };
    rows.chunks(CHUNK * width.max(1)).map(link).collect()
}

impl Truth<'_> {
    /// The first that computed something else from what it should have got. What came to one that says it got something else is unknown
    /// here; the client does not take such a statement.
    pub fn liar<'s>(&self, statements: &'s [Signed]) -> Option<&'s Signed> {
        let mut all: Vec<&Signed> = statements.iter().collect();
        all.sort_by_key(|signed| (signed.statement.chunk, signed.statement.first));
        let last = self.tokens.len().saturating_sub(1);
        let text = all_chunks(&self.tokens[..last]);
        let before = |layer: u32| match layer {
            0 => Some(&text),
            _ => self.rows.iter().find(|(known, _)| *known == layer).map(|(_, hashes)| hashes),
        };
        all.into_iter().find(|signed| {
            let Statement { first, end, chunk, came, gave, .. } = signed.statement;
            let at = |layer| before(layer)?.get(chunk as usize).copied();
            let after = chunk as usize * CHUNK + 1;
            let end_of_chunk = (after + CHUNK - 1).min(last);
            // Whoever was told another text answers for none here; the client does not take such a statement either.
            let said = |text: &Hash, token: u32| signed.statement.next == next(self.sampling, text, token);
            let answers = text.get(chunk as usize).zip(self.tokens.get(end_of_chunk)).is_some_and(|(a, b)| said(a, *b));
            let follow = after..end_of_chunk + 1;
            let wrote = end != self.layers
                || !answers
                || self
                    .written
                    .get(follow.clone())
                    .is_none_or(|written| self.tokens.get(follow.clone()) == Some(written));
            at(first) == Some(came) && (at(end).is_some_and(|known| known != gave) || !wrote)
        })
    }
}

/// What a stage knows of its session's chunks: what came, what it gave out, and what the one before says.
#[derive(Clone, Default)]
pub(super) struct Book {
    /// Rows that came, of positions from `from` on; none at the first stage.
    came: Vec<f32>,
    from: usize,
    /// Of all whole chunks: the hashes of what came, and of the rows that were given out.
    chunks: Vec<(Hash, Hash)>,
    /// The same of the text's last chunk, if that is not whole. Nothing goes on from it.
    tail: Option<(Hash, Hash)>,
    /// What the one before has signed that it gave.
    before: Vec<Hash>,
    /// How many were signed in this epoch.
    signed: usize,
    /// The first that was computed in this epoch.
    fresh: usize,
    /// It was said in this epoch that what came is something else.
    differs: bool,
}

/// What came is not what the one before signs.
pub(super) enum Differs {
    /// It is the one before that sent something else.
    Before,
    /// It came in an earlier epoch or session, from whomever.
    Old,
}

impl Book {
    /// Takes in rows that were computed.
    pub fn take(&mut self, at: usize, rows: &[f32], width: usize) {
        self.came.truncate(at.saturating_sub(self.from) * width);
        self.came.extend_from_slice(rows);
    }

    /// Chunks that are whole by now.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// What came up to the last whole chunk, and what was given out.
    pub fn last(&self) -> (Hash, Hash) {
        self.chunks.last().copied().unwrap_or_default()
    }

    /// The chunk that is signed next.
    pub fn signed(&self) -> usize {
        self.signed
    }

    /// Closes the next chunk. `text` is what is known of it at the first stage, `gave` the rows that it gave out.
    pub fn close(&mut self, text: Option<Hash>, gave: &[f32], width: usize) {
        let start = self.chunks.len() * CHUNK;
        let chunk = self.hashes(text, gave, width);
        self.chunks.push(chunk);
        self.tail = None;
        // The last closed one stays: a new epoch takes back a position of it at most.
        let gone = start.saturating_sub(self.from).min(self.came.len() / width);
        self.came.drain(..gone * width);
        self.from += gone;
    }

    /// The text ends in the next chunk, after the rows `gave` of it.
    pub fn end(&mut self, text: Option<Hash>, gave: &[f32], width: usize) {
        if self.tail.is_none() {
            self.tail = Some(self.hashes(text, gave, width));
        }
    }

    /// What came, and what was given out, up to the end of the rows `gave` of the next chunk.
    fn hashes(&self, text: Option<Hash>, gave: &[f32], width: usize) -> (Hash, Hash) {
        let start = self.chunks.len() * CHUNK;
        let came = text.unwrap_or_else(|| {
            let at = (start - self.from.min(start)) * width;
            rows_after(&self.last().0, self.came.get(at..at + gave.len()).unwrap_or_default())
        });
        (came, rows_after(&self.last().1, gave))
    }

    /// The position not after `have` from which on all that came is known, or comes again.
    pub fn rewound(&self, have: usize) -> usize {
        if have < self.from { have / CHUNK * CHUNK } else { have }
    }

    /// Forgets positions from `at` on.
    pub fn rewind(&mut self, at: usize, width: usize) {
        self.chunks.truncate(at / CHUNK);
        self.tail = None;
        if at < self.from {
            self.came.clear();
            self.from = at;
        }
        self.came.truncate((at - self.from) * width);
        self.signed = self.signed.min(self.chunks.len());
    }

    /// A new epoch, from position `have` on: all is signed once more, for whoever is new.
    pub fn reset(&mut self, have: usize) {
        self.before.clear();
        self.tail = None;
        (self.signed, self.fresh, self.differs) = (0, have.div_ceil(CHUNK), false);
    }

    /// The one before has signed what it gave in a chunk; they come in order.
    pub fn hear(&mut self, chunk: usize, gave: Hash, room: usize) {
        if chunk == self.before.len() && chunk < room.div_ceil(CHUNK) {
            self.before.push(gave);
        }
    }

    /// The next chunk that may be signed: its number, what came and what it gave out; or none.
    pub fn next(&mut self, first: bool) -> Result<Option<(usize, Hash, Hash)>, Differs> {
        let chunk = self.signed;
        let known = if chunk == self.chunks.len() { self.tail } else { self.chunks.get(chunk).copied() };
        let Some((came, gave)) = known.filter(|_| !self.differs) else { return Ok(None) };
        match self.before.get(chunk) {
            None if !first => return Ok(None),
            Some(said) if !first && *said != came => {
                self.differs = true;
                return Err(if chunk < self.fresh { Differs::Old } else { Differs::Before });
            }
            _ => {}
        }
        self.signed += 1;
        Ok(Some((chunk, came, gave)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inference::chunks;

    fn sampling() -> Sampling {
        let biases = vec![Bias { token: 3, bias: -1.5 }];
        Sampling { limit: 200, temperature: 0.7, top_p: -0.0, seed: 9, biases, prompt: 10, ..Default::default() }
    }

    /// What a last stage of a whole model signs of a text's second chunk.
    fn charged(came: Hash, gave: Hash) -> Charge {
        let text: Vec<u32> = (0..=2 * CHUNK as u32).collect();
        let next = next(&sampling(), &chunks(&text)[1], 2 * CHUNK as u32);
        let statement = Statement {
            session: [1; 16],
            model: Hash([2; 32]),
            first: 2,
            end: 4,
            chunk: 1,
            came,
            gave,
            next,
            height: 5,
        };
        let signed = statement.sign(&Hash::ZERO, &Keypair::from_seed([1; 32]));
        Charge { signed, tokens: text, choice: Some(Choice::of(&sampling())) }
    }

    #[test]
    fn a_choice_in_whole_numbers_is_the_sampling_that_travels() {
        assert_eq!(Choice::of(&Choice::of(&sampling()).sampling()), Choice::of(&sampling()));
        assert_ne!(next(&Sampling { seed: 8, ..sampling() }, &Hash::ZERO, 2), next(&sampling(), &Hash::ZERO, 2));
    }

    #[test]
    fn a_choice_that_machines_could_make_differently_is_refused() {
        let with = |edit: fn(&mut Sampling)| {
            let mut sampling = sampling();
            edit(&mut sampling);
            Choice::of(&sampling).is_sane()
        };
        assert!(with(|_| ()) && with(|s| s.temperature = 0.0));
        let odd: [fn(&mut Sampling); 9] = [
            |s| s.temperature = 1e-9,
            |s| s.temperature = f64::NAN,
            |s| s.temperature = -1.0,
            |s| s.top_p = 1.5,
            |s| s.min_p = f64::NAN,
            |s| s.presence = f64::INFINITY,
            |s| s.frequency = f64::NEG_INFINITY,
            |s| s.biases[0].bias = 1e300,
            |s| s.prompt = 0,
        ];
        assert!(odd.iter().all(|edit| !with(*edit)));
    }

    #[test]
    fn a_judge_blames_a_stage_for_what_it_gave_and_chose_and_never_for_what_came() {
        let [came, gave, other] = [[3; 32], [4; 32], [5; 32]].map(Hash);
        let text: Vec<u32> = (0..=2 * CHUNK as u32).collect();
        let found = |charge: &Charge, came: Hash, gave: Hash, written: &[u32]| {
            charge.found(&[other, came], &[other, gave], written)
        };
        let honest = charged(came, gave);
        assert!(honest.is_sound());
        assert_eq!(found(&honest, came, gave, &text), honest.claimed());
        assert_ne!(found(&honest, came, other, &text), honest.claimed(), "other rows");
        assert_eq!(found(&honest, other, other, &text), honest.claimed(), "something else came to it");
        let mut written = text.clone();
        written[CHUNK + 5] += 1;
        assert_ne!(found(&honest, came, gave, &written), honest.claimed(), "the model writes another token");
        assert_eq!(found(&honest, came, gave, &text[..CHUNK]), honest.claimed(), "who can't tell blames nobody");
    }

    #[test]
    fn a_charge_of_less_than_a_chunk_is_about_just_that_text() {
        let text: Vec<u32> = (0..40).collect();
        let charge = |first: u32, positions: usize, wrote: bool| {
            let (session, model, gave) = ([1; 16], Hash([2; 32]), Hash([4; 32]));
            let came = all_chunks(&text[..positions])[positions / CHUNK];
            let next = if wrote { next(&sampling(), &came, text[positions]) } else { Hash::ZERO };
            let chunk = (positions / CHUNK) as u32;
            let statement = Statement { session, model, first, end: 4, chunk, came, gave, next, height: 5 };
            let signed = statement.sign(&Hash::ZERO, &Keypair::from_seed([1; 32]));
            Charge::new(&signed, &text[..=positions], &sampling())
        };
        for positions in [1, 20, 31, 33, 39] {
            for wrote in [false, true] {
                let charge = charge(0, positions, wrote).unwrap();
                assert_eq!((charge.positions(), charge.tokens.len()), (positions, positions + usize::from(wrote)));
                // One token more or less is another text.
                let fewer = Charge { tokens: charge.tokens[..charge.tokens.len() - 1].to_vec(), ..charge.clone() };
                let more = Charge { tokens: [&charge.tokens[..], &[9]].concat(), ..charge.clone() };
                assert!(charge.is_sound() && !fewer.is_sound() && !more.is_sound(), "{positions}, {wrote}");
                let (came, other) = (vec![charge.signed.statement.came; 2], vec![Hash([5; 32]); 2]);
                let right = vec![charge.signed.statement.gave; 2];
                assert_eq!(charge.found(&came, &right, &text), charge.claimed());
                assert_ne!(charge.found(&came, &other, &text), charge.claimed(), "other rows");
                let mut written = text.clone();
                written[positions] += 1;
                assert_eq!(charge.found(&came, &right, &written) == charge.claimed(), !wrote, "another token");
            }
        }
        // Behind the first layer a text of another length gives other rows than came, so nobody is blamed.
        let middle = charge(2, 20, false).unwrap();
        let fewer = Charge { tokens: text[..19].to_vec(), ..middle };
        let other = [Hash([5; 32])];
        assert!(fewer.is_sound());
        assert_eq!(fewer.found(&other, &other, &[]), fewer.claimed());
    }

    #[test]
    fn a_charge_with_another_text_or_choice_than_was_signed_is_none() {
        let text: Vec<u32> = (0..=2 * CHUNK as u32).collect();
        let honest = charged(Hash([3; 32]), Hash([4; 32]));
        let made = Charge::new(&honest.signed, &[&text[..], &[7; 50]].concat(), &sampling());
        assert_eq!(made.as_ref(), Some(&honest), "what is not needed is not shown");
        assert_eq!(Charge::new(&honest.signed, &text[1..], &sampling()), None, "too short");
        let before = [&[9], &text[1..]].concat();
        assert_eq!(Charge::new(&honest.signed, &before, &sampling()), None, "its tokens followed another beginning");
        let mut other = text.clone();
        other[2 * CHUNK] += 1;
        assert_eq!(Charge::new(&honest.signed, &other, &sampling()), None, "it did not sign these tokens");
        assert_eq!(Charge::new(&honest.signed, &text, &Sampling { seed: 1, ..sampling() }), None, "nor this choice");
        let mut huge = honest.signed.clone();
        huge.statement.chunk = u32::MAX;
        assert!(!Charge { signed: huge, ..honest.clone() }.is_sound());
        assert!(!Charge { choice: None, ..honest }.is_sound());
    }
}
