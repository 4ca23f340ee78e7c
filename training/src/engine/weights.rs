//! The weights of some layers by their places.

use super::{
    Shape, add,
    matrix::{Dtype, Matrix, floats},
    product::product,
    shape::{Activation, Norm},
};
use crate::{
    error::{Result, TrainingError},
    model::{Parameter, Part, Parts, layout},
};
use ailo_protocol::params::ModelConfig;
use bytes::Bytes;
use pulp::Arch;
use std::ops::Range;

/// A linear map whose results stand side by side where its parts are kept apart, as queries, keys and values may be.
pub struct Linear(pub Vec<(Matrix, Option<Vec<f32>>)>);

impl Linear {
    /// [T, width] to [T, outs].
    pub(super) fn apply(&self, arch: Arch, threads: usize, x: &[f32]) -> Vec<f32> {
        let part = |(matrix, bias): &(Matrix, Option<Vec<f32>>)| {
            let mut y = product(arch, threads, x, matrix);
            if let Some(bias) = bias {
                y.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
            }
            (y, matrix.outs())
        };
        if let [only] = self.0.as_slice() {
            return part(only).0;
        }
        let parts: Vec<(Vec<f32>, usize)> = self.0.iter().map(part).collect();
        let mut y = Vec::with_capacity(parts.iter().map(|(y, _)| y.len()).sum());
        for row in 0..parts.first().map_or(0, |(y, outs)| y.len() / outs) {
            parts.iter().for_each(|(part, outs)| y.extend_from_slice(&part[row * outs..][..*outs]));
        }
        y
    }

    fn check(&self, what: &str, outs: usize, width: usize) -> Result<()> {
        let fits = |(matrix, bias): &(Matrix, Option<Vec<f32>>)| {
            matrix.width() == width && bias.as_ref().is_none_or(|bias| bias.len() == matrix.outs())
        };
        let all = self.0.iter().map(|(matrix, _)| matrix.outs()).sum::<usize>();
        if all == outs && self.0.iter().all(fits) {
            return Ok(());
        }
        Err(TrainingError::Checkpoint(format!(
            "{what} is not the map of {width} to {outs} that the model's shape asks for"
        )))
    }
}

/// Weight and bias of a norm.
pub struct NormWeights {
    /// Factors.
    pub weight: Vec<f32>,
    /// What is added.
    pub bias: Option<Vec<f32>>,
}

impl NormWeights {
    fn check(&self, what: &str, kind: Norm, width: usize) -> Result<()> {
        let biased = self.bias.as_ref().map(Vec::len) == (kind == Norm::Layer).then_some(width);
        if self.weight.len() == width && biased {
            return Ok(());
        }
        Err(TrainingError::Checkpoint(format!(
            "{what} is not the norm of {width} numbers that the model's shape asks for"
        )))
    }
}

/// A decoder block.
pub struct Block {
    /// Before attention.
    pub norm1: NormWeights,
    /// Queries, keys and values.
    pub qkv: Linear,
    /// For the heads of queries and keys, where they have one.
    pub head_norms: Option<(NormWeights, NormWeights)>,
    /// After attention.
    pub out: Linear,
    /// Before the feed-forward part.
    pub norm2: NormWeights,
    /// Into it: what is activated, or gates and then what they gate.
    pub up: Linear,
    /// Out of it.
    pub down: Linear,
}

/// Some layers of a decoder, with what belongs to the first and the last one.
pub struct Weights {
    /// [V, C], before the first layer.
    pub embedding: Option<Matrix>,
    /// [context, C], before the first layer, where positions are learned.
    pub positions: Option<Matrix>,
    /// The layers.
    pub blocks: Vec<Block>,
    /// After the last layer.
    pub norm: Option<NormWeights>,
    /// [V, C] after the last layer; none there if it is the embedding, and that is here.
    pub head: Option<Matrix>,
}

impl Weights {
    /// Some layers of the network's own model, whose weights are in the order of [`layout`] and stay where they are.
    ///
    /// # Errors
    ///
    /// [`TrainingError::WeightCount`] if they are not as many as the model has, [`TrainingError::Checkpoint`] if it has no such layers.
    pub fn own(cfg: &ModelConfig, weights: impl AsRef<[f32]> + Send + 'static, span: Range<usize>) -> Result<Weights> {
        if span.is_empty() || span.end > cfg.layers as usize {
            let what = format!("{}..{} are no layers of a model of {}", span.start, span.end, cfg.layers);
            return Err(TrainingError::Checkpoint(what));
        }
        let layout = layout(cfg);
        let want = layout.iter().map(Parameter::len).sum();
        let got = weights.as_ref().len();
        if got != want {
            return Err(TrainingError::WeightCount { got, want });
        }
        let mut rest = floats(weights);
        let parameters = layout.iter().map(|parameter| rest.split_to(4 * parameter.len()));
        let parts = Parts::new(cfg, parameters);
        let (width, ffn) = (cfg.width as usize, cfg.ffn as usize);
        let numbers = |bytes: &Bytes| bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<f32>>();
        let matrix = |bytes: &Bytes, width| Matrix::lying(bytes.clone(), width);
        let linear =
            |part: &Part<Bytes>, width| Linear(vec![(matrix(&part.weight, width), part.bias.as_ref().map(numbers))]);
        let norm =
            |part: &Part<Bytes>| NormWeights { weight: numbers(&part.weight), bias: part.bias.as_ref().map(numbers) };
        let (first, last) = (span.start == 0, span.end == cfg.layers as usize);
        let blocks = parts.blocks[span].iter().map(|block| Block {
            norm1: norm(&block.norm1),
            qkv: linear(&block.qkv, width),
            head_norms: None,
            out: linear(&block.out, width),
            norm2: norm(&block.norm2),
            up: linear(&block.up, width),
            down: linear(&block.down, ffn),
        });
        Ok(Weights {
            blocks: blocks.collect(),
            embedding: first.then(|| matrix(&parts.embedding, width)),
            positions: parts.positions.as_ref().filter(|_| first).map(|positions| matrix(positions, width)),
            norm: last.then(|| norm(&parts.norm)),
            head: (last && !first).then(|| matrix(&parts.embedding, width)),
        })
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> u64 {
        let matrices = [&self.embedding, &self.positions, &self.head].into_iter().flatten().map(Matrix::size);
        let norm = |norm: &NormWeights| 4 * (norm.weight.len() + norm.bias.as_ref().map_or(0, Vec::len)) as u64;
        let linear = |linear: &Linear| {
            let one = |(matrix, bias): &(Matrix, Option<Vec<f32>>)| {
                matrix.size() + 4 * bias.as_ref().map_or(0, Vec::len) as u64
            };
            linear.0.iter().map(one).sum::<u64>()
        };
        let block = |block: &Block| {
            let heads = block.head_norms.as_ref().map_or(0, |(queries, keys)| norm(queries) + norm(keys));
            let linears = [&block.qkv, &block.out, &block.up, &block.down].into_iter().map(linear).sum::<u64>();
            linears + norm(&block.norm1) + norm(&block.norm2) + heads
        };
        matrices.sum::<u64>() + self.blocks.iter().map(block).sum::<u64>() + self.norm.as_ref().map_or(0, norm)
    }

    /// Keeps all matrices in `dtype`.
    pub fn convert(&mut self, dtype: Dtype) {
        let tables = [&mut self.embedding, &mut self.positions, &mut self.head].into_iter().flatten();
        let linears =
            self.blocks.iter_mut().flat_map(|block| [&mut block.qkv, &mut block.out, &mut block.up, &mut block.down]);
        for matrix in tables.chain(linears.flat_map(|linear| linear.0.iter_mut().map(|(matrix, _)| matrix))) {
            let empty = Matrix::of(Vec::new(), 1);
            *matrix = std::mem::replace(matrix, empty).to(dtype);
        }
    }

    /// The last linear map, if it is here.
    pub(super) fn head(&self) -> Option<&Matrix> {
        self.head.as_ref().or(self.embedding.as_ref())
    }

    pub(super) fn check(&self, shape: &Shape) -> Result<()> {
        let Shape { width, head_width, ffn, vocabulary, .. } = *shape;
        let table = |what: &str, matrix: &Option<Matrix>, outs| match matrix {
            Some(matrix) if matrix.outs() != outs || matrix.width() != width => {
                Err(TrainingError::Checkpoint(format!("{what} does not have {outs} rows of {width} numbers")))
            }
            _ => Ok(()),
        };
        table("the embedding", &self.embedding, vocabulary)?;
        table("the table of positions", &self.positions, shape.context)?;
        table("the last map", &self.head, vocabulary)?;
        let up = if shape.activation == Activation::SwiGlu { 2 * ffn } else { ffn };
        for (i, block) in self.blocks.iter().enumerate() {
            block.norm1.check(&format!("layer {i}'s first norm"), shape.norm, width)?;
            block.qkv.check(&format!("layer {i}'s attention"), shape.qkv(), width)?;
            block.out.check(&format!("layer {i}'s end of attention"), width, shape.heads * head_width)?;
            block.norm2.check(&format!("layer {i}'s second norm"), shape.norm, width)?;
            block.up.check(&format!("layer {i}'s way up"), up, width)?;
            block.down.check(&format!("layer {i}'s way down"), width, ffn)?;
            if block.head_norms.is_some() != shape.head_norms {
                return Err(TrainingError::Checkpoint(format!("layer {i} has norms of heads, or lacks them")));
            }
            if let Some((queries, keys)) = &block.head_norms {
                queries.check("a norm of queries", Norm::Rms, head_width)?;
                keys.check("a norm of keys", Norm::Rms, head_width)?;
            }
        }
        self.norm.as_ref().map_or(Ok(()), |norm| norm.check("the last norm", shape.norm, width))
    }
}
