//! Layers whose weights and caches are on a graphics card. [`Layers::forward`] is [`Engine::forward`](super::Engine::forward) there, with the same bits.

use super::{
    Cache, Part, Shape, Weights,
    matrix::{Dtype, Matrix},
    shape::{Activation, Norm},
    weights::{Block, Linear, NormWeights},
};
use crate::error::Result;
use ailo_gpu::{Floats, Gpu, Heads, Kind, SPAN, Scores, Table};
use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Layers of a decoder, with what belongs to the last one.
pub(super) struct Layers {
    gpu: Gpu,
    blocks: Vec<OnCard>,
    norm: Option<ailo_gpu::Norm>,
    head: Option<ailo_gpu::Matrix>,
    work: Mutex<Option<Work>>,
}

/// A decoder block.
struct OnCard {
    norm1: ailo_gpu::Norm,
    qkv: Vec<ailo_gpu::Matrix>,
    head_norms: Option<(ailo_gpu::Norm, ailo_gpu::Norm)>,
    out: Vec<ailo_gpu::Matrix>,
    norm2: ailo_gpu::Norm,
    up: Vec<ailo_gpu::Matrix>,
    down: Vec<ailo_gpu::Matrix>,
}

/// What is computed in; rows that a product reads are filled up with zeros, which nobody writes to.
struct Work {
    rows: usize,
    /// [rows, C].
    x: Floats,
    /// [rows, C].
    normed: Floats,
    /// [rows, (H + 2 K) D].
    qkv: Floats,
    /// [rows, D / 2] cosines and sines.
    turns: Floats,
    /// [rows, H D].
    attended: Floats,
    /// [rows, F], or [rows, 2 F] with a gate.
    up: Floats,
    /// [rows, F].
    inner: Floats,
    /// The widest of them in integers.
    integers: Floats,
    /// [rows, V], as far as there were any.
    logits: Option<Floats>,
    scores: Option<Scores>,
    /// Whose rows they are.
    table: Option<Floats>,
}

impl Layers {
    /// Copies weights to a card.
    pub fn new(gpu: &Gpu, weights: &Weights) -> Result<Layers> {
        let norm = |norm: &NormWeights| gpu.norm(&norm.weight, norm.bias.as_deref());
        let matrix = |matrix: &Matrix, bias: Option<&[f32]>| {
            let kind = match matrix.dtype() {
                Dtype::F32 => Kind::F32,
                Dtype::F16 => Kind::F16,
                Dtype::Bf16 => Kind::Bf16,
                Dtype::Int8 => Kind::Int8,
            };
            gpu.matrix(kind, (matrix.bytes(), matrix.width()), matrix.scales(), bias)
        };
        let linear = |linear: &Linear| {
            linear.0.iter().map(|(part, bias)| matrix(part, bias.as_deref())).collect::<ailo_gpu::Result<Vec<_>>>()
        };
        let block = |block: &Block| {
            let heads = block.head_norms.as_ref();
            Ok(OnCard {
                norm1: norm(&block.norm1)?,
                qkv: linear(&block.qkv)?,
                head_norms: heads.map(|(queries, keys)| Ok((norm(queries)?, norm(keys)?))).transpose()?,
                out: linear(&block.out)?,
                norm2: norm(&block.norm2)?,
                up: linear(&block.up)?,
                down: linear(&block.down)?,
            })
        };
        Ok(Layers {
            blocks: weights.blocks.iter().map(block).collect::<ailo_gpu::Result<_>>()?,
            norm: weights.norm.as_ref().map(norm).transpose()?,
            head: weights.head().filter(|_| weights.norm.is_some()).map(|head| matrix(head, None)).transpose()?,
            work: Mutex::default(),
            gpu: gpu.clone(),
        })
    }

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// As [`Engine::forward`](super::Engine::forward), which has checked what it is given: `turns` are those of all positions.
    pub fn forward(&self, shape: &Shape, x: &[f32], turns: &[(f32, f32)], parts: &mut [Part<'_>]) -> Result<Vec<f32>> {
        let Some((first, depth)) = parts.first().map(|part| (part.cache.first, part.cache.depth())) else {
            return Ok(Vec::new());
        };
        let (gpu, rows, epsilon) = (&self.gpu, x.len() / shape.width, shape.epsilon);
        if rows == 0 {
            return Ok(Vec::new());
        }
        let (layer_norm, gated) = (shape.norm == Norm::Layer, shape.activation == Activation::SwiGlu);
        let mut work = self.work(shape, rows)?;
        let Some(Work {
            x: stream,
            normed,
            qkv,
            turns: turned,
            attended,
            up,
            inner,
            integers,
            scores,
            table: room,
            ..
        }) = &mut *work
        else {
            return Err(ailo_gpu::GpuError::Memory.into());
        };
        stream.write(x)?;
        turned.write(&turns.iter().flat_map(|(cosine, sine)| [*cosine, *sine]).collect::<Vec<_>>())?;
        let turned = (!turns.is_empty()).then_some(&*turned);
        let mut table = table(gpu, shape, (depth, room), parts)?;
        for (layer, block) in self.blocks.iter().skip(first).take(depth).enumerate() {
            gpu.normalise((&block.norm1, layer_norm, epsilon), stream, normed, rows)?;
            linear(gpu, &block.qkv, (normed, integers), qkv, rows, false)?;
            let norms = block.head_norms.as_ref().map(|(queries, keys)| (queries, keys));
            gpu.heads(qkv, (norms, epsilon), turned, (&mut table, layer))?;
            gpu.attention(qkv, attended, (&table, layer), scores)?;
            linear(gpu, &block.out, (attended, integers), stream, rows, true)?;
            gpu.normalise((&block.norm2, layer_norm, epsilon), stream, normed, rows)?;
            linear(gpu, &block.up, (normed, integers), up, rows, false)?;
            gpu.activate(gated, up, inner, rows, shape.ffn)?;
            linear(gpu, &block.down, (inner, integers), stream, rows, true)?;
        }
        let x = stream.read(x.len())?;
        drop(table);
        parts.iter_mut().for_each(|part| part.cache.len += part.positions);
        Ok(x)
    }

    /// As [`Engine::logits`](super::Engine::logits), finite or not.
    pub fn logits(&self, shape: &Shape, x: &[f32]) -> Result<Vec<f32>> {
        let (Some(norm), Some(head)) = (&self.norm, &self.head) else { return Err(super::NO_HEAD) };
        let rows = x.len() / shape.width;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let mut work = self.work(shape, rows)?;
        let Some(Work { rows: room, x: stream, normed, integers, logits, .. }) = &mut *work else {
            return Err(ailo_gpu::GpuError::Memory.into());
        };
        if logits.as_ref().is_none_or(|logits| logits.len() < rows * head.outs()) {
            *logits = None; // Before there is more: both may not fit.
            *logits = Some(self.gpu.zeros(rows.next_power_of_two().min(*room) * head.outs())?);
        }
        let Some(logits) = logits else { return Err(ailo_gpu::GpuError::Memory.into()) };
        stream.write(x)?;
        self.gpu.normalise((norm, shape.norm == Norm::Layer, shape.epsilon), stream, normed, rows)?;
        let given = self.gpu.given(head.kind(), normed, (rows, head.width()), integers)?;
        self.gpu.product(head, given, (logits, head.outs(), 0), rows, false)?;
        Ok(logits.read(rows * head.outs())?)
    }

    /// Room for so many rows, whoever needs it first.
    fn work(&self, shape: &Shape, rows: usize) -> Result<MutexGuard<'_, Option<Work>>> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if work.as_ref().is_none_or(|work| work.rows < rows) {
            *work = None; // Before there is more: both may not fit.
            let rows = rows.next_power_of_two();
            let full = |width: usize| width.next_multiple_of(SPAN);
            let (width, heads, ffn) = (full(shape.width), full(shape.heads * shape.head_width), full(shape.ffn));
            let widest = width.max(heads).max(ffn);
            let room = |numbers: usize| self.gpu.zeros(rows * numbers);
            *work = Some(Work {
                rows,
                x: room(shape.width)?,
                normed: room(width)?,
                qkv: room(shape.qkv())?,
                turns: room(shape.head_width / 2 * 2)?,
                attended: room(heads)?,
                up: room(if shape.activation == Activation::SwiGlu { 2 * shape.ffn } else { shape.ffn })?,
                inner: room(ffn)?,
                integers: room(widest / SPAN * (SPAN / 2 + 1))?,
                logits: None,
                scores: None,
                table: None,
            });
        }
        Ok(work)
    }
}

/// A linear map, whose parts' results stand side by side.
fn linear(
    gpu: &Gpu,
    parts: &[ailo_gpu::Matrix],
    (x, integers): (&Floats, &mut Floats),
    y: &mut Floats,
    rows: usize,
    add: bool,
) -> ailo_gpu::Result<()> {
    let Some(first) = parts.first() else { return Ok(()) };
    let given = gpu.given(first.kind(), x, (rows, first.width()), integers)?;
    let stride = parts.iter().map(ailo_gpu::Matrix::outs).sum();
    let mut offset = 0;
    for part in parts {
        gpu.product(part, given, (y, stride, offset), rows, add)?;
        offset += part.outs();
    }
    Ok(())
}

fn table<'c>(
    gpu: &Gpu,
    shape: &Shape,
    (depth, room): (usize, &'c mut Option<Floats>),
    parts: &'c mut [Part<'_>],
) -> Result<Table<'c>> {
    let mut rows = Vec::with_capacity(parts.len());
    for part in parts {
        let (past, positions) = (part.cache.len, part.positions);
        rows.push((part.cache.on_card()?, past, positions));
    }
    Ok(gpu.table(heads(shape), depth, room, rows.into_iter())?)
}

fn heads(shape: &Shape) -> Heads {
    Heads { queries: shape.heads, kv: shape.kv_heads, width: shape.head_width }
}

/// Keys and values on a card.
pub(super) struct Seen {
    /// What the card said where it has none: what would be computed with them fails so.
    kept: ailo_gpu::Result<ailo_gpu::Seen>,
    layers: usize,
    position: usize,
}

impl Seen {
    pub fn new(gpu: &Gpu, shape: &Shape, layers: usize, room: usize) -> Seen {
        let kept = gpu.seen(layers, &heads(shape), room);
        Seen { kept, layers, position: layers * shape.cache_bytes() }
    }

    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Bytes of a position.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Its first `len` positions, with room for `room`.
    pub fn beginning(&self, len: usize, room: usize) -> Seen {
        let kept = self.kept.as_ref().map_err(Clone::clone).and_then(|kept| kept.beginning(len, room));
        Seen { kept, ..*self }
    }

    pub fn kept(&mut self) -> Result<&mut ailo_gpu::Seen> {
        Ok(self.kept.as_mut().map_err(|e| e.clone())?)
    }
}

/// Rows that [`same`] lets both compute, in the order in which a sequence has them: each kernel of products meets some.
const TRIED: [usize; 4] = [9, 1, 3, 6];
/// Rows of a sequence in one layer: each loop of attention turns several times.
const LONG: usize = 272;

/// Whether two engines of the same layers, the second of which may be on a card, compute the same bits.
pub(super) fn same(one: &super::Engine, other: &super::Engine) -> Result<bool> {
    if !same_in(one, other, 0..one.layers().min(1), &[LONG.min(one.shape().context)])? {
        return Ok(false);
    }
    same_in(one, other, 0..one.layers(), &TRIED)
}

/// The same in some layers, for so many rows at once.
fn same_in(one: &super::Engine, other: &super::Engine, layers: Range<usize>, tried: &[usize]) -> Result<bool> {
    let (width, room) = (one.shape().width, one.shape().context.min(tried.iter().sum()));
    let mut caches: [Cache; 2] = [one.cache_of(layers.clone(), room), other.cache_of(layers, room)];
    let mut row = 0;
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    for positions in tried.iter().copied().filter(|positions| *positions <= room) {
        if positions > room - caches[0].len() {
            caches.iter_mut().for_each(|cache| cache.truncate(0));
        }
        // Numbers as large as they are after some layers.
        let x: Vec<f32> = (0..positions * width).map(|i| ((row * 31 + i * 37) % 251) as f32 * 0.02 - 2.5).collect();
        row += positions;
        let [first, second] = &mut caches;
        let first = one.forward(x.clone(), &mut [Part { cache: first, positions }])?;
        let second = other.forward(x, &mut [Part { cache: second, positions }])?;
        if bits(&first) != bits(&second) {
            return Ok(false);
        }
        let last = &first[first.len() - width * positions.min(9)..];
        if let Ok(logits) = one.logits(last)
            && bits(&logits) != bits(&other.logits(last)?)
        {
            return Ok(false);
        }
    }
    Ok(true)
}
