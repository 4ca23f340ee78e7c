//! A second look at a text: the whole model reads it as a prompt, which is much faster than writing it, and whoever signed something else than
//! comes out is found.

use super::worker::sampling_of;
use ailo_proto::Sampling as Wire;
use ailo_protocol::inference::proof::{Signed, Truth};
use ailo_training::{
    Result,
    engine::{Engine, Part},
    sample::sample,
};

/// Positions that are read at once.
const PIECE: usize = 128;

/// The first statement that is wrong, of those about `tokens`, of which `wire.prompt` were given and the others written. `engine` has all layers.
///
/// # Errors
///
/// As [`Engine::embed`] and [`Engine::logits`], if the model can't read the text.
pub fn liar(engine: &Engine, tokens: &[u32], wire: &Wire, statements: &[Signed]) -> Result<Option<Signed>> {
    let (shape, prompt) = (engine.shape(), wire.prompt as usize);
    let (width, layers) = (shape.width, shape.layers);
    let mut ends: Vec<usize> = statements.iter().map(|signed| signed.statement.end as usize).collect();
    ends.push(layers);
    ends.retain(|end| *end <= layers);
    ends.sort_unstable();
    ends.dedup();
    let (mut rows, mut first, mut known) = (engine.embed(tokens, 0)?, 0, Vec::new());
    for end in ends {
        let mut cache = engine.cache_of(first..end, tokens.len());
        let mut out = Vec::with_capacity(rows.len());
        for piece in rows.chunks(PIECE * width) {
            out.extend(engine.forward(piece.to_vec(), &mut [Part { cache: &mut cache, positions: piece.len() / width }])?);
        }
        (rows, first) = (out, end);
        known.push((end as u32, rows.clone()));
    }
    let (sampling, mut written) = (sampling_of(wire), tokens[..prompt.min(tokens.len())].to_vec());
    let from = written.len().saturating_sub(1);
    let last = &rows[from.min(tokens.len()) * width..];
    for piece in last.chunks(PIECE * width / 4) {
        for logits in engine.logits(piece)?.chunks_exact(shape.vocabulary) {
            let at = written.len();
            if at < tokens.len() {
                written.push(sample(logits, &sampling, &tokens[prompt.min(at)..at], at).token);
            }
        }
    }
    let truth = Truth { tokens, sampling: wire, written: &written, rows: &known, width, layers: layers as u32 };
    Ok(truth.liar(statements).cloned())
}
