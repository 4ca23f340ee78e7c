//! What stages sign of what they computed, and who is found to have signed something else than the model gives.
//!
//! Of each [`CHUNK`] of positions that nothing takes back a stage signs two hashes: of what came, and of what it gave out. It signs once the one
//! before it has signed that it gave just that. So the first in the route's order whose `gave` is wrong is the one, and its own signature
//! convicts it; those behind it hold its word for what came. The engine's numbers are the same on every machine, so a plain hash will do, and a
//! text is checked as fast as it is read.

use super::{CHUNK, SessionId, chunks};
use crate::{
    Hash, Keypair, NodeId, Signature,
    canonical::{Decode, Encode},
    hash::Domain,
    keys::signing_bytes,
};
use ailo_proto::Sampling;

/// What a stage says of a chunk of a session's positions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
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
    /// After the last layer: hash of the tokens that follow, if it has chosen them itself. The client knows them, so they do not travel. Else
    /// zero.
    pub next: Hash,
}

/// A statement of a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
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

/// The hash of the tokens that follow a chunk's positions, and of how they were to be chosen.
pub fn next(sampling: &Sampling, next: &[u32]) -> Hash {
    let Sampling { limit, ends, temperature, top_k, top_p, min_p, seed, presence, frequency, biases, prompt, .. } =
        sampling;
    let biases: Vec<(u32, u64)> = biases.iter().map(|bias| (bias.token, (bias.bias + 0.0).to_bits())).collect();
    // A zero has one sign on the wire.
    let floats = [temperature, top_p, min_p, presence, frequency].map(|x| (x + 0.0).to_bits()).to_vec();
    let known = (*limit, ends.clone(), floats, *top_k, *seed, biases, (*prompt, next.to_vec()));
    Hash::of_parts(Domain::Session, &[b"next", &crate::canonical::encode(&known)])
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
    /// For some layers, [`hashes`] of the rows that enter them; for the number of all layers of those that leave the last.
    pub rows: &'a [(u32, Vec<Hash>)],
    /// Layers of the model.
    pub layers: u32,
}

/// The hashes of rows of so many numbers, for each whole chunk of them.
pub fn hashes(rows: &[f32], width: usize) -> Vec<Hash> {
    let mut last = Hash::ZERO;
    let link = |chunk: &[f32]| {
        last = rows_after(&last, chunk);
        last
    };
    rows.chunks_exact(CHUNK * width.max(1)).map(link).collect()
}

impl Truth<'_> {
    /// The first that computed something else from what it should have got. What came to one that says it got something else is unknown
    /// here; the client does not take such a statement.
    pub fn liar<'s>(&self, statements: &'s [Signed]) -> Option<&'s Signed> {
        let mut all: Vec<&Signed> = statements.iter().collect();
        all.sort_by_key(|signed| (signed.statement.chunk, signed.statement.first));
        let text = chunks(self.tokens);
        let before = |layer: u32| match layer {
            0 => Some(&text),
            _ => self.rows.iter().find(|(known, _)| *known == layer).map(|(_, hashes)| hashes),
        };
        all.into_iter().find(|signed| {
            let Statement { first, end, chunk, came, gave, .. } = signed.statement;
            let at = |layer| before(layer)?.get(chunk as usize).copied();
            let after = chunk as usize * CHUNK + 1;
            let written = self.written.get(after..after + CHUNK).map(|written| next(self.sampling, written));
            let said = signed.statement.next;
            let wrote = end != self.layers || said == Hash::ZERO || written.is_none_or(|written| written == said);
            at(first) == Some(came) && (at(end).is_some_and(|known| known != gave) || !wrote)
        })
    }
}

/// What a stage knows of its session's chunks: what came, what it gave out, and what the one before says.
#[derive(Default)]
pub(super) struct Book {
    /// Rows that came, of positions from `from` on; none at the first stage.
    came: Vec<f32>,
    from: usize,
    /// Of all whole chunks: the hashes of what came, and of the rows that were given out.
    chunks: Vec<(Hash, Hash)>,
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
        let came = text.unwrap_or_else(|| {
            let at = (start - self.from.min(start)) * width;
            rows_after(&self.last().0, self.came.get(at..at + CHUNK * width).unwrap_or_default())
        });
        self.chunks.push((came, rows_after(&self.last().1, gave)));
        // The last closed one stays: a new epoch takes back a position of it at most.
        let gone = start.saturating_sub(self.from).min(self.came.len() / width);
        self.came.drain(..gone * width);
        self.from += gone;
    }

    /// The position not after `have` from which on all that came is known, or comes again.
    pub fn rewound(&self, have: usize) -> usize {
        if have < self.from { have / CHUNK * CHUNK } else { have }
    }

    /// Forgets positions from `at` on.
    pub fn rewind(&mut self, at: usize, width: usize) {
        self.chunks.truncate(at / CHUNK);
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
        (self.signed, self.fresh, self.differs) = (0, have.div_ceil(CHUNK), false);
    }

    /// The one before has signed what it gave in a chunk; they come in order.
    pub fn hear(&mut self, chunk: usize, gave: Hash, room: usize) {
        if chunk == self.before.len() && chunk < room / CHUNK {
            self.before.push(gave);
        }
    }

    /// The next chunk that may be signed: its number, what came and what it gave out; or none.
    pub fn next(&mut self, first: bool) -> Result<Option<(usize, Hash, Hash)>, Differs> {
        let chunk = self.signed;
        let Some((came, gave)) = self.chunks.get(chunk).copied().filter(|_| !self.differs) else { return Ok(None) };
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
