//! A second look at a text: the model reads it as a prompt, which is much faster than writing it, and whoever signed something else than
//! comes out is found.

use super::{hub::Hub, model::Model, worker::sampling_of};
use crate::machine;
use ailo_proto::Sampling as Wire;
use ailo_protocol::{
    Hash,
    inference::{
        CHUNK, all_chunks,
        proof::{self, Charge, Choice, Signed, Truth},
    },
    keys,
};
use ailo_training::{
    Result,
    engine::{Engine, Part, Shape},
    sample::sample,
};
use std::{
    ops::{Deref, Range},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Positions that are read at once.
const PIECE: usize = 128;
/// What a check holds of a text is such a part of the machine's memory at most.
const MEMORY_PART: u64 = 16;
/// A check waits for everything else.
const NICENESS: i32 = 15;

/// Reads a text again if the lot falls on it, others took part, and no other one is being read.
pub fn perhaps(hub: &Arc<Hub>, model: &Arc<Model>, tokens: &[u32], wire: &Wire, signed: Vec<Signed>) {
    let lot = Hash(keys::random_bytes()).stream().next_u64() as f64 / u64::MAX as f64;
    let others = signed.iter().any(|signed| signed.node != *hub.node());
    if !others || lot >= hub.checks || BUSY.swap(true, Ordering::Relaxed) {
        return;
    }
    let busy = Busy;
    let begins = beginning(&model.shape, machine::memory() / MEMORY_PART, tokens.len());
    if begins < tokens.len() {
        let all = tokens.len();
        tracing::info!(tokens = all, read = begins, "memory is too small to read a whole text again: its beginning is");
    }
    let (hub, model, tokens, wire) = (hub.clone(), model.clone(), tokens[..begins].to_vec(), wire.clone());
    drop(aside(move || {
        let _busy = busy;
        if let Some(charge) = again(&hub, &model, &tokens, &wire, &signed)
            && let Some(court) = &hub.court
        {
            court.keep(&charge);
        }
    }));
}

/// Tokens of a text of `all` that can be read in so many bytes: whole chunks, and the token after these.
fn beginning(shape: &Shape, bytes: u64, all: usize) -> usize {
    let position = size_of::<f32>() * shape.width + shape.cache_bytes();
    let most = usize::try_from(bytes).unwrap_or(usize::MAX) / position.max(1);
    if all <= most { all } else { most.saturating_sub(1) / CHUNK * CHUNK + 1 }
}

/// A text is being read again. It ends with the reading, however that ends.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Who set [`BUSY`].
struct Busy;

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Relaxed);
    }
}

/// Computes something on a thread of its own, when nothing else does. None if it came to no end.
pub fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl Future<Output = Option<T>> {
    let (done, result) = tokio::sync::oneshot::channel();
    let work = move || {
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS); // Costs responsiveness only.
        let _ = done.send(work()); // Nobody waits for it any more.
    };
    let started = std::thread::Builder::new().name("check".into()).spawn(work);
    async move {
        started.inspect_err(|e| tracing::warn!(error = %e, "no thread can be started: a text is not checked")).ok()?;
        result.await.ok()
    }
}

/// Reads a text again. A liar is left out from then on; what convicts it, unless the text is too
/// long to be shown.
pub fn again(hub: &Hub, model: &Model, tokens: &[u32], wire: &Wire, signed: &[Signed]) -> Option<Charge> {
    // A card makes it fast, and the processor has the last word: memory can fail.
    let first = liar(model, tokens, wire, signed);
    let sure = matches!(first, Ok(None)) || !model.wants_card();
    match if sure { first } else { liar(&Here(model), tokens, wire, signed) } {
        Ok(Some(signed)) => {
            let layers = signed.statement.first..signed.statement.end;
            tracing::warn!(node = %signed.node.short(), ?layers, "it signed what it did not compute: it is left out");
            hub.distrust(signed.node);
            Charge::new(&signed, tokens, wire)
        }
        Ok(None) => {
            tracing::debug!(tokens = tokens.len(), "a text was read again: nobody lied");
            None
        }
        Err(e) => {
            tracing::debug!(error = %e, "a text could not be read again");
            None
        }
    }
}

/// Where the layers of a model are taken from.
pub trait Layers {
    /// The model.
    fn shape(&self) -> &Shape;
    /// What has a layer, and where it is among those that this has.
    ///
    /// # Errors
    ///
    /// As [`Model::load`].
    fn layer(&self, layer: usize) -> Result<(Box<dyn Deref<Target = Engine> + '_>, Range<usize>)>;
}

/// All layers are there.
impl Layers for Engine {
    fn shape(&self) -> &Shape {
        Engine::shape(self)
    }

    fn layer(&self, layer: usize) -> Result<(Box<dyn Deref<Target = Engine> + '_>, Range<usize>)> {
        Ok((Box::new(self), layer..layer + 1))
    }
}

/// What a card serves, by it; else where the model lies, all of it; else one layer after another, so that a check takes little memory.
impl Layers for Model {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn layer(&self, layer: usize) -> Result<(Box<dyn Deref<Target = Engine> + '_>, Range<usize>)> {
        if let Some((engine, layer)) = self.on_its_card(layer) {
            return Ok((Box::new(engine), layer));
        }
        here(self, layer)
    }
}

fn here(model: &Model, layer: usize) -> Result<(Box<dyn Deref<Target = Engine> + '_>, Range<usize>)> {
    match model.whole() {
        Some(engine) => engine.layer(layer),
        None => Ok((Box::new(Box::new(model.load(layer..layer + 1, 1, &mut |_, _| ())?)), 0..1)),
    }
}

/// A model, computed by the processor alone.
pub struct Here<'m>(pub &'m Model);

impl Layers for Here<'_> {
    fn shape(&self) -> &Shape {
        &self.0.shape
    }

    fn layer(&self, layer: usize) -> Result<(Box<dyn Deref<Target = Engine> + '_>, Range<usize>)> {
        here(self.0, layer)
    }
}

/// What a model makes of a text.
struct Reading {
    /// For the layers asked for, hashes of the rows that enter them; for the number of all layers of those that leave the last.
    rows: Vec<(u32, Vec<Hash>)>,
    /// The prompt's tokens, and what the model gives at each later position of the text.
    written: Vec<u32>,
}

/// Reads the first `positions` of a text, of which `wire.prompt` tokens were given and the others written, or whole chunks of it up to what is
/// no token: all of it through one layer after another, so that its rows and the keys and values of one layer are held alone.
fn read(
    model: &impl Layers,
    (tokens, positions): (&[u32], usize),
    wire: &Wire,
    layers_asked: &[usize],
) -> Result<Reading> {
    let readable = tokens.iter().take_while(|token| (**token as usize) < model.shape().vocabulary).count();
    let tokens = &tokens[..readable];
    let positions = if positions <= readable { positions } else { readable / CHUNK * CHUNK };
    let (width, layers) = (model.shape().width, model.shape().layers);
    let (mut rows, mut known, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for layer in 0..layers {
        let (engine, part) = model.layer(layer)?;
        if layer == 0 {
            rows = engine.embed(&tokens[..positions], 0)?;
        }
        let mut cache = engine.cache_of(part, positions);
        for piece in rows.chunks_mut(PIECE * width) {
            let positions = piece.len() / width;
            let out = engine.forward(piece.to_vec(), &mut [Part { cache: &mut cache, positions }])?;
            piece.copy_from_slice(&out);
        }
        let end = layer + 1;
        if end == layers || layers_asked.contains(&end) {
            known.push((end as u32, proof::hashes(&rows, width)));
        }
        if end == layers {
            written = write(&engine, tokens, wire, &rows)?;
        }
    }
    Ok(Reading { rows: known, written })
}

/// The prompt, and the token that each later row gives; `engine` has the last layer.
fn write(engine: &Engine, tokens: &[u32], wire: &Wire, rows: &[f32]) -> Result<Vec<u32>> {
    let (shape, prompt) = (engine.shape(), wire.prompt as usize);
    // No position gives the first token.
    let (sampling, mut written) = (sampling_of(wire), tokens[..prompt.max(1).min(tokens.len())].to_vec());
    let from = written.len().saturating_sub(1);
    let last = rows.get(from * shape.width..).unwrap_or_default();
    for piece in last.chunks(PIECE * shape.width / 4) {
        for logits in engine.logits(piece)?.chunks_exact(shape.vocabulary) {
            let at = written.len();
            if at < tokens.len() {
                written.push(sample(logits, &sampling, &tokens[prompt.min(at)..at], at).token);
            }
        }
    }
    Ok(written)
}

/// The first statement that is wrong, of those about `tokens`, of which `wire.prompt` were given and the others written.
///
/// # Errors
///
/// As [`Engine::embed`] and [`Engine::logits`], if the model can't read the text, and as [`Model::load`].
pub fn liar(model: &impl Layers, tokens: &[u32], wire: &Wire, statements: &[Signed]) -> Result<Option<Signed>> {
    let of = |signed: &Signed| [signed.statement.first as usize, signed.statement.end as usize];
    let asked: Vec<usize> = statements.iter().flat_map(of).collect();
    // What comes after the last token nobody has computed.
    let Reading { rows, written } = read(model, (tokens, tokens.len().saturating_sub(1)), wire, &asked)?;
    let layers = model.shape().layers as u32;
    let truth = Truth { tokens, sampling: wire, written: &written, rows: &rows, layers };
    Ok(truth.liar(statements).cloned())
}

/// What a judge finds who reads a charge's text: see [`Charge::found`].
///
/// # Errors
///
/// As [`liar`].
pub fn judge(model: &impl Layers, charge: &Charge) -> Result<Hash> {
    let (tokens, statement) = (&charge.tokens, &charge.signed.statement);
    let (first, end) = (statement.first as usize, statement.end as usize);
    let given = || Wire { prompt: tokens.len() as u32, ..Wire::default() };
    let wire = charge.choice.as_ref().map_or_else(given, Choice::sampling);
    let positions = charge.positions();
    let Reading { rows, written } = read(model, (tokens, positions), &wire, &[first, end])?;
    let at = |layer: usize| match layer {
        0 => all_chunks(&tokens[..positions]),
        _ => rows.iter().find(|(known, _)| *known == layer as u32).map_or_else(Vec::new, |(_, hashes)| hashes.clone()),
    };
    Ok(charge.found(&at(first), &at(end), &written))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ailo_protocol::{Keypair, inference::proof::Statement};
    use ailo_training::{
        checkpoint::{Checkpoint, random},
        engine::Dtype,
    };
    use serde_json::json;

    const PROMPT: usize = 40;
    const LENGTH: usize = 70;

    /// What a stage does with rows that come from position `at` on.
    type Stage<'a> = Box<dyn FnMut(usize, Vec<f32>) -> Vec<f32> + 'a>;

    struct Models {
        keys: [Keypair; 2],
        bf16: Engine,
        int8: Engine,
        width: usize,
    }

    fn engine(folder: &std::path::Path, dtype: Dtype) -> Engine {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let weights = checkpoint.load(0..4, Some(dtype), &mut |_, _| ()).unwrap().weights;
        Engine::new(checkpoint.shape().clone(), weights, 1).unwrap()
    }

    fn folder() -> tempfile::TempDir {
        let config = json!({ "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
                             "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 262, "max_position_embeddings": 128,
                             "tie_word_embeddings": true, "rope_theta": 10000.0, "rms_norm_eps": 1e-6 });
        let folder = tempfile::tempdir().unwrap();
        random::write(folder.path(), &config, &random::tensors(&config), 1).unwrap();
        random::write_tokenizer(folder.path(), None).unwrap();
        folder
    }

    fn models() -> Models {
        let folder = folder();
        let [bf16, int8] = [Dtype::Bf16, Dtype::Int8].map(|dtype| engine(folder.path(), dtype));
        Models { keys: [Keypair::generate(), Keypair::generate()], bf16, int8, width: 32 }
    }

    impl Models {
        /// A stage that computes these layers with one of the models.
        fn stage<'a>(&'a self, engine: &'a Engine, layers: Range<usize>) -> Stage<'a> {
            let mut cache = engine.cache_of(layers, LENGTH);
            Box::new(move |_, rows| {
                let positions = rows.len() / self.width;
                engine.forward(rows, &mut [Part { cache: &mut cache, positions }]).unwrap()
            })
        }

        fn honest(&self) -> [Stage<'_>; 2] {
            [self.stage(&self.bf16, 0..2), self.stage(&self.bf16, 2..4)]
        }

        /// Two stages write a text and sign what came and what they gave; then somebody reads it again.
        fn found(
            &self,
            prompt: &[u32],
            mut stages: [Stage<'_>; 2],
            read: &dyn Fn(&[u32]) -> Vec<u32>,
        ) -> Option<usize> {
            let wire = Wire {
                limit: LENGTH as u32,
                temperature: 0.7,
                top_p: 1.0,
                prompt: PROMPT as u32,
                seed: 3,
                ..Wire::default()
            };
            let (mut tokens, mut at, mut passed) = (prompt.to_vec(), 0, [Vec::new(), Vec::new()]);
            while tokens.len() < LENGTH {
                let mut x = self.bf16.embed(&read(&tokens)[at..], at).unwrap();
                for (stage, passed) in stages.iter_mut().zip(&mut passed) {
                    x = stage(at, x);
                    passed.extend_from_slice(&x);
                }
                let logits = self.bf16.logits(&x[x.len() - self.width..]).unwrap();
                at = tokens.len();
                tokens.push(sample(&logits, &sampling_of(&wire), &tokens[PROMPT..], at).token);
            }
            let (mut signed, passed) = (Vec::new(), passed.map(|rows| proof::hashes(&rows, self.width)));
            let text = all_chunks(&tokens[..at]);
            for (chunk, (between, last)) in passed[0].iter().copied().zip(passed[1].iter().copied()).enumerate() {
                let end = ((chunk + 1) * CHUNK).min(at);
                let next = proof::next(&wire, &text[chunk], tokens[end]);
                for (key, (first, end), (came, gave, next)) in [
                    (&self.keys[0], (0, 2), (text[chunk], between, Hash::ZERO)),
                    (&self.keys[1], (2, 4), (between, last, next)),
                ] {
                    let (session, model, chunk) = ([1; 16], Hash::ZERO, chunk as u32);
                    let height = 7;
                    let statement = Statement { session, model, first, end, chunk, came, gave, next, height };
                    signed.push(statement.sign(&Hash::ZERO, key));
                }
            }
            let found = liar(&self.bf16, &tokens, &wire, &signed).unwrap();
            // Judges who see one statement and the text agree with who has all of them.
            for signed in &signed {
                let charge = Charge::new(signed, &tokens, &wire);
                let guilty = charge.is_some_and(|charge| judge(&self.bf16, &charge).unwrap() != charge.claimed());
                let first = found.as_ref().is_none_or(|found| signed.statement.chunk <= found.statement.chunk);
                assert!(
                    !guilty || found.as_ref().is_some_and(|found| found.node == signed.node),
                    "who is honest is convicted"
                );
                assert!(!first || guilty == (found.as_ref() == Some(signed)), "judge and client differ");
            }
            let found = found?;
            self.keys.iter().position(|key| *key.public() == found.node)
        }
    }

    #[test]
    fn a_model_that_does_not_lie_as_a_whole_is_read_layer_by_layer_with_the_same_outcome() {
        let folder = folder();
        let model = Model::open(folder.path(), Some(Dtype::Int8), None, &mut |_, _| ()).unwrap();
        assert!(model.whole().is_none());
        let whole = engine(folder.path(), Dtype::Int8);
        let tokens: Vec<u32> = (0..90).map(|i| i * 37 % 256).collect();
        let wire = Wire { limit: 100, temperature: 0.7, top_p: 1.0, prompt: 10, seed: 3, ..Wire::default() };
        let [ours, other] = [
            read(&whole, (&tokens, 89), &wire, &[1, 3]).unwrap(),
            read(&model, (&tokens, 89), &wire, &[1, 3]).unwrap(),
        ];
        assert_eq!((ours.rows[0].1.len(), ours.written.len()), (3, 90), "the last chunk is shorter");
        assert_eq!((ours.rows, ours.written), (other.rows, other.written));
    }

    #[test]
    fn a_lie_about_what_is_less_than_a_chunk_is_found() {
        let models = models();
        for length in [2, 20, CHUNK, CHUNK + 1, CHUNK + 2] {
            let tokens: Vec<u32> = (0..length as u32).collect();
            let wire = Wire { limit: length as u32, prompt: length as u32, ..Wire::default() };
            let (at, chunk) = (length - 1, (length - 2) / CHUNK);
            let rows = models.stage(&models.bf16, 0..2)(0, models.bf16.embed(&tokens[..at], 0).unwrap());
            let (session, model, next) = ([1; 16], Hash::ZERO, Hash::ZERO);
            let says = |gave: Hash| {
                let (came, chunk) = (all_chunks(&tokens[..at])[chunk], chunk as u32);
                let statement = Statement { session, model, first: 0, end: 2, chunk, came, gave, next, height: 7 };
                statement.sign(&Hash::ZERO, &models.keys[0])
            };
            let (right, wrong) = (says(proof::hashes(&rows, models.width)[chunk]), says(Hash([9; 32])));
            for (signed, lies) in [(right, false), (wrong, true)] {
                let found = liar(&models.bf16, &tokens, &wire, std::slice::from_ref(&signed)).unwrap();
                assert_eq!(found.is_some(), lies, "{length} tokens");
                let charge = Charge::new(&signed, &tokens, &wire).unwrap();
                assert_eq!((charge.is_sound(), charge.positions()), (true, at));
                assert_eq!(judge(&models.bf16, &charge).unwrap() != charge.claimed(), lies, "{length} tokens");
            }
        }
    }

    #[test]
    fn of_a_text_that_is_too_long_for_the_memory_the_beginning_is_read_and_who_lied_there_is_found() {
        let models = models();
        let shape = Engine::shape(&models.bf16);
        let position = (4 * shape.width + shape.cache_bytes()) as u64;
        let begins = |positions: usize, all| beginning(shape, positions as u64 * position, all);
        assert_eq!([LENGTH - 1, LENGTH, 2 * LENGTH].map(|fit| begins(fit, LENGTH)), [2 * CHUNK + 1, LENGTH, LENGTH]);
        assert_eq!([0, 1, CHUNK, CHUNK + 1].map(|fit| begins(fit, LENGTH)), [1, 1, 1, CHUNK + 1]);

        let tokens: Vec<u32> = (0..LENGTH as u32).collect();
        let wire = Wire { limit: LENGTH as u32, prompt: LENGTH as u32, ..Wire::default() };
        let signed = |chunk: usize| {
            let (session, model, came, next) = ([1; 16], Hash::ZERO, all_chunks(&tokens)[chunk], Hash::ZERO);
            let (gave, chunk) = (Hash([9; 32]), chunk as u32);
            let statement = Statement { session, model, first: 0, end: 2, chunk, came, gave, next, height: 7 };
            statement.sign(&Hash::ZERO, &models.keys[0])
        };
        let (early, late) = (signed(0), signed(1));
        let part = &tokens[..begins(CHUNK + 1, LENGTH)];
        let found = |signed: &[Signed]| liar(&models.bf16, part, &wire, signed).unwrap();
        assert_eq!(found(std::slice::from_ref(&late)), None);
        assert_eq!(found(&[late, early.clone()]), Some(early.clone()));
        assert!(Charge::new(&early, part, &wire).is_some());
    }

    #[test]
    fn what_was_signed_before_something_that_is_no_token_is_found_to_be_wrong() {
        let models = models();
        let mut tokens: Vec<u32> = (0..LENGTH as u32).collect();
        tokens[CHUNK + 2] = u32::MAX;
        let wire = Wire { limit: LENGTH as u32, prompt: PROMPT as u32, ..Wire::default() };
        let statement = Statement {
            session: [1; 16],
            model: Hash::ZERO,
            first: 0,
            end: 2,
            chunk: 0,
            came: all_chunks(&tokens)[0],
            gave: Hash([9; 32]),
            next: Hash::ZERO,
            height: 7,
        };
        let signed = statement.sign(&Hash::ZERO, &models.keys[0]);
        let found = liar(&models.bf16, &tokens, &wire, std::slice::from_ref(&signed)).unwrap();
        assert_eq!(found, Some(signed));
    }

    /// `AILO_TRIALS=1000` tries more.
    #[test]
    fn who_computes_less_or_something_else_is_found_each_time_and_nobody_else_ever() {
        let trials = std::env::var("AILO_TRIALS").ok().and_then(|trials| trials.parse().ok()).unwrap_or(60);
        let models = models();
        let same = |tokens: &[u32]| tokens.to_vec();
        let changed = |tokens: &[u32]| [vec![(tokens[0] + 1) % 256], tokens[1..].to_vec()].concat();
        let mut draws = Hash::ZERO.stream();
        for trial in 0..trials {
            let prompt: Vec<u32> = (0..PROMPT).map(|_| draws.below(256) as u32).collect();
            let other: Vec<u32> = (0..LENGTH).map(|_| draws.below(256) as u32).collect();
            assert_eq!(
                models.found(&prompt, models.honest(), &same),
                None,
                "trial {trial}: an honest stage is accused"
            );
            let liar = (trial % 2) as usize;
            let with = |lying: Stage<'_>| -> Option<usize> {
                let [first, second] = models.honest();
                models.found(&prompt, if liar == 0 { [lying, second] } else { [first, lying] }, &same)
            };
            let own = [0..2, 2..4][liar].clone();
            let wrong = [2..4, 0..2][liar].clone();
            // Another session's rows in place of this one's.
            let earlier = models.bf16.embed(&other, 0).unwrap();
            let mut honest = models.stage(&models.bf16, own.clone());
            let replayed = honest(0, earlier);
            let replay: Stage<'_> = Box::new(|at, rows| replayed[at * models.width..][..rows.len()].to_vec());
            let attacks = [
                ("int8 for bf16", with(models.stage(&models.int8, own.clone()))),
                ("a skipped layer", with(models.stage(&models.bf16, own.start..own.start + 1))),
                ("another shard", with(models.stage(&models.bf16, wrong))),
                ("replayed activations", with(replay)),
            ];
            for (attack, found) in attacks {
                assert_eq!(found, Some(liar), "trial {trial}: {attack}");
            }
            assert_eq!(models.found(&prompt, models.honest(), &changed), Some(0), "trial {trial}: a changed prompt");
        }
        println!("{trials} trials");
    }
}
